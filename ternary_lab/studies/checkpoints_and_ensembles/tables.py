"""Tables on several checkpoints together, on single checkpoints, and on simpler models.

Several checkpoints, or the two pathways of one checkpoint, can work together in two ways:

    reading       Each member decodes an operation from posterior samples of its own codes, and the mean of the
                  probabilities decides each entry (`ensembles.mean`). More samples reduce the noise, whoever decodes
                  them. A fair comparison reads one member as often as all members together.
    generating    A draw takes one member at random, with given weights, and then a latent (`ensembles.mixture`).

A comparison with the best member needs a choice of this member. The choice reads the validation split only.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ternary_lab import space, splits
from ternary_lab.backend.console import bar
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.backend.random_streams import stream
from ternary_lab.errors import RunError
from ternary_lab.metrics import likelihood
from ternary_lab.metrics.decoding import entry_probabilities
from ternary_lab.metrics.information import Information, Sums, sums
from ternary_lab.metrics.sobol import sobol_normal
from ternary_lab.model import PATHWAYS, Pathway, TernaryVAE
from ternary_lab.runs.files import read_csv
from ternary_lab.runs.load import ANSWERS, PUBLISHED, RunRecord, RunSet
from ternary_lab.studies.checkpoints_and_ensembles import calibration, ensembles
from ternary_lab.studies.statistics import load_table

RECOMMENDED = (60, 70, 80, 100)
"""Epochs of the checkpoints that the training report advises to combine."""
IMPORTANCE_SAMPLES = 64
EQUAL, LEARNED = "equal weights", "learned weights"
"""Members of the tables: all checkpoints together, with equal weights and with learned weights."""
MODELS = {
    "v5_5_A": "v5.5, pathway A", "v5_5_B": "v5.5, pathway B", "beta_vae_A": "β-VAE, decoder A",
    "beta_vae_B": "β-VAE, decoder B", "categorical_vae": "categorical VAE", "random_map": "random map",
}


def best_member(samples: int = len(RECOMMENDED)) -> str:
    """Return the name of the member that is the best checkpoint alone, with as many samples as an ensemble has."""
    return f"best member, {samples} samples"


# Checkpoints together


@with_fixed_arithmetic
@torch.no_grad()
def readings(runs: RunSet, epochs: Sequence[int] = RECOMMENDED) -> pd.DataFrame:
    """Return how well checkpoints decode test operations from posterior samples, alone and together.

    There is a row per member, seed and pathway. With k checkpoints, the members are these:

        epoch 60, epoch 70, ...             one checkpoint, one sample
        epoch 60, 4 samples, ...            one checkpoint, k samples
        best member, 4 samples              the one of these checkpoints that decodes the most validation operations
                                            from k samples; the column `chosen` holds its epoch, and else nan
        equal weights                       all checkpoints, one sample each

    The column `noisy` is the percentage of operations that are decoded exactly. The column `variance` is the variance
    of the probabilities between independent readings: Σ_v Var p(v) over the three values of an entry, averaged over
    the entries of the test operations. It lies in [0, 1], and is estimated from two readings.
    """
    rows: list[dict[str, Any]] = []
    k = len(epochs)
    for seed, run in runs.items():
        split = splits.split(run.config.data)
        models = [run.model(epoch) for epoch in epochs]
        for p in PATHWAYS:
            named = {"seed": seed, "pathway": p}
            rows += [{"member": f"epoch {e}", **named, **_reading([m], p, split.test, seed, k, first=i)}
                     for i, (e, m) in enumerate(zip(epochs, models, strict=True))]
            often = [_reading([m] * k, p, split.test, seed, k) for m in models]
            rows += [{"member": f"epoch {e}, {k} samples", **named, **found}
                     for e, found in zip(epochs, often, strict=True)]
            best = max(range(k), key=[_validated(m, p, split.validation, seed, k) for m in models].__getitem__)
            rows.append({"member": best_member(k), **named, **often[best], "chosen": epochs[best]})
            rows.append({"member": EQUAL, **named, **_reading(models, p, split.test, seed, k)})
    return pd.DataFrame(rows)


@with_fixed_arithmetic
@torch.no_grad()
def generators(
    runs: RunSet, epochs: Sequence[int] = RECOMMENDED, latents: int = 65_536, *, progress: bool = False
) -> pd.DataFrame:
    """Measure checkpoints of each run as generators, alone and as a mixture of all of them.

    There is a row per member, seed and pathway. The columns are informative_coverage, effective_coverage (percent),
    output_entropy, decoder_noise, neg_iwae (nats, test split), `chosen` and the weights `w_60`, `w_70` and so on. With
    k checkpoints, the members are these:

        epoch 60, epoch 70, ...     one checkpoint; neg_iwae from 64 importance samples
        equal weights               the mixture of all, with equal weights; 64 importance samples from each
        learned weights             the mixture with the weights that minimise -IWAE on the validation split
        best member, 4 samples      the checkpoint with the smallest -IWAE on the validation split (its epoch is in
                                    `chosen`, else nan); neg_iwae from 64 k importance samples, as many as the mixtures
    """
    rows: list[dict[str, Any]] = []
    k = len(epochs)
    for seed, run in bar(runs.items(), desc="mixtures", unit="run", show=progress):
        split = splits.split(run.config.data)
        models = [run.model(epoch) for epoch in epochs]
        bounds = {part: torch.stack([_bounds(model, of, seed, part) for model in models])
                  for part, of in (("validation", split.validation), ("test", split.test))}
        for index, p in enumerate(PATHWAYS):
            summed = [_sums(model, p, latents, seed) for model in models]
            learned = ensembles.mixture_weights(bounds["validation"][:, index])
            alone = torch.eye(k, dtype=torch.float64)
            members = {f"epoch {e}": weights for e, weights in zip(epochs, alone, strict=True)}
            members |= {EQUAL: torch.full_like(learned, 1 / k), LEARNED: learned}
            named = {"seed": seed, "pathway": p}
            for name, weights in members.items():
                bound = (weights.log()[:, None] + bounds["test"][:, index]).logsumexp(0)
                rows.append({
                    "member": name, **named, **_generator(ensembles.mixture(summed, weights)),
                    "neg_iwae": -float(bound.mean()),
                    **{f"w_{e}": float(w) for e, w in zip(epochs, weights, strict=True)},
                })
            best = int(bounds["validation"][:, index].mean(1).argmax())
            again = [_bounds(models[best], split.test, seed, f"test {i}")[index] for i in range(1, k)]
            bound = torch.stack([bounds["test"][best, index], *again]).logsumexp(0) - math.log(k)
            rows.append({"member": best_member(k), **named, **_generator(ensembles.mixture([summed[best]])),
                         "neg_iwae": -float(bound.mean()), "chosen": epochs[best]})
    return pd.DataFrame(rows)


@with_fixed_arithmetic
@torch.no_grad()
def pathway_ensembles(run: RunRecord, epochs: Sequence[int]) -> pd.DataFrame:
    """Combine both pathways of a run, and return the percentage of test operations that each rule decodes exactly.

    The columns are epoch, seed, code (μ or sample), rule and exact. The rules are A, B, `A twice`, `B twice`, `better
    twice`, those of `ensembles.COMBINATIONS`, and `best of`. If the two pathways disagree on an entry, a vote chooses
    the value with the larger summed probability, as `mean` does. `A twice` and `B twice` decode one pathway from two
    samples of its code and use the mean probabilities, for a comparison with two pathways. `better twice` is the one of
    these two that decodes more validation operations. With `best of`, an operation is exact if either pathway decodes
    it exactly.
    """
    split = splits.split(run.config.data)
    x = space.operations(split.test)
    rows = []
    for epoch in epochs:
        model = run.model(epoch)
        better = max(PATHWAYS, key=lambda p: _validated(model, p, split.validation, run.seed, 2))
        for code in ("μ", "sample"):
            noise = None if code == "μ" else stream(run.seed, "sample", epoch, "pathways")
            p, again = (
                torch.stack([entry_probabilities(model, pathway, x, generator=noise) for pathway in PATHWAYS])
                for _ in range(2)
            )
            shares = ensembles.reconstruction(p, x)
            for i, pathway in enumerate(PATHWAYS):
                shares[pathway] = ensembles.reconstruction(p[i : i + 1], x)["mean"]
                shares[f"{pathway} twice"] = ensembles.reconstruction(torch.stack((p[i], again[i])), x)["mean"]
            shares["better twice"] = shares[f"{better} twice"]
            rules = ("A", "B", "A twice", "B twice", "better twice", *ensembles.COMBINATIONS, "best of")
            rows += [{"epoch": epoch, "seed": run.seed, "code": code, "rule": rule, "exact": shares[rule]}
                     for rule in rules]
    return pd.DataFrame(rows)


def ensemble_measures(runs: RunSet, epochs: Sequence[int] = RECOMMENDED, latents: int = 65_536) -> pd.DataFrame:
    """Return measures of checkpoints alone and together: a row per member and seed, means over both pathways.

    The columns are member, seed, informative_coverage, effective_coverage, neg_iwae, noisy, variance and the learned
    weights. Besides the members of `readings` and `generators`, there are two for the first and the last of the epochs:
    `epoch 60, both pathways` and `epoch 60, better pathway, 2 samples` (`pathway_ensembles`, rules `mean` and `better
    twice`).

    The measures come from the weights of the runs. The published runs lack some of these weights; for them, the
    measures come from the published table, which `tools/weight_measures.py` made from the same runs. Raises RunError if
    weights are missing and the table does not contain the measures.
    """
    lacking = [seed for seed, run in runs.items() if not set(epochs) <= set(run.epochs)]
    if not lacking:
        return measured_ensembles(runs, epochs, latents)
    path = PUBLISHED / ANSWERS
    table = read_csv(path) if path.is_file() else pd.DataFrame({"seed": []})
    published = all(run.path.is_relative_to(PUBLISHED) for run in runs.values())
    if not published or tuple(epochs) != RECOMMENDED or not set(runs) <= set(table["seed"]):
        raise RunError(f"seeds {lacking}: the weights of some of the epochs {list(epochs)} are missing: train again")
    table = table[table["seed"].isin(list(runs)) & ~table["measure"].str.startswith("path: ")]
    table[["member", "name"]] = table["measure"].str.rsplit(": ", n=1, expand=True)
    wide = table.pivot_table(index=["member", "seed"], columns="name", values="value").rename_axis(columns=None)
    return _in_order(wide.reset_index(), epochs)


@with_fixed_arithmetic
def measured_ensembles(
    runs: RunSet, epochs: Sequence[int] = RECOMMENDED, latents: int = 65_536, *, progress: bool = False
) -> pd.DataFrame:
    """Return the table of `ensemble_measures` from the weights of the runs. Raises RunError if weights are missing."""
    together = generators(runs, epochs, latents, progress=progress)
    columns = ["informative_coverage", "effective_coverage", "neg_iwae", *(f"w_{epoch}" for epoch in epochs)]
    parts = [
        table.groupby(["member", "seed"], sort=False)[names].mean()
        for table, names in ((together, columns), (readings(runs, epochs), ["noisy", "variance"]))
    ]
    table = parts[0].join(parts[1], how="outer", sort=False).reset_index()
    table.loc[table["member"] != LEARNED, [f"w_{epoch}" for epoch in epochs]] = math.nan
    pairs = pd.concat([pathway_ensembles(run, (epochs[0], epochs[-1])) for run in runs.values()])
    pairs = pairs[pairs["code"] == "sample"]
    words = {"mean": "both pathways", "better twice": "better pathway, 2 samples"}
    pairs = pairs[pairs["rule"].isin(list(words))]
    members = "epoch " + pairs["epoch"].astype(str) + ", " + pairs["rule"].map(words)
    added = pd.DataFrame({"member": members, "seed": pairs["seed"], "noisy": pairs["exact"]})
    return _in_order(pd.concat([table, added], ignore_index=True), epochs)


def _in_order(table: pd.DataFrame, epochs: Sequence[int]) -> pd.DataFrame:
    """Return the rows in the order of the members: single checkpoints first, then all together, then pathways."""
    k = len(epochs)
    names = [*(f"epoch {e}" for e in epochs), *(f"epoch {e}, {k} samples" for e in epochs)]
    places = {name: i for i, name in enumerate([*names, best_member(k), EQUAL, LEARNED])}
    place = table["member"].map(lambda name: places.get(name, len(places)))
    return table.assign(place=place).sort_values(["place", "member", "seed"], ignore_index=True).drop(columns="place")


@with_fixed_arithmetic
@torch.no_grad()
def generator_pairs(runs: RunSet, epoch: int, latents: int = 65_536) -> pd.DataFrame:
    """Measure each pathway as a generator, and a generator that uses A or B with equal chance.

    The columns are member (A, B, A or B), seed, informative_coverage, effective_coverage, output_entropy and
    decoder_noise.
    """
    rows = []
    for seed, run in runs.items():
        model = run.model(epoch)
        summed = {p: _sums(model, p, latents, seed) for p in PATHWAYS}
        for member, parts in (("A", ["A"]), ("B", ["B"]), ("A or B", ["A", "B"])):
            rows.append({"member": member, "seed": seed,
                         **_generator(ensembles.mixture([s for p, s in summed.items() if p in parts]))})
    return pd.DataFrame(rows)


# Single checkpoints


@with_fixed_arithmetic
@torch.no_grad()
def operation_bounds(run: RunRecord, epoch: int) -> pd.DataFrame:
    """Return -ELBO and -IWAE of each test operation, in nats, for each pathway.

    The columns are operation, pathway, zeros, neg_elbo and neg_iwae. `zeros` is the number of zeros in the truth table.
    """
    split, model = splits.split(run.config.data), run.model(epoch)
    x = space.operations(split.test).unsqueeze(0)
    noise = _importance_noise(model, len(split.test), run.seed, "operations")
    coded = likelihood.coding(model.core, x, noise)
    zeros = (x[0] == 0).sum(1)
    return pd.concat([
        pd.DataFrame({
            "operation": split.test, "pathway": p, "zeros": zeros,
            "neg_elbo": coded.neg_elbo[i, 0], "neg_iwae": coded.neg_iwae[i, 0],
        }) for i, p in enumerate(PATHWAYS)
    ], ignore_index=True)


@with_fixed_arithmetic
def reliabilities(runs: RunSet, epochs: Sequence[int]) -> pd.DataFrame:
    """Return the calibration of test entries that are decoded from posterior samples.

    The columns are epoch, seed, pathway, bin, confidence, accuracy and count.
    """
    rows = []
    for epoch in epochs:
        for seed, run in runs.items():
            model, x = run.model(epoch), space.operations(splits.split(run.config.data).test)
            for p in PATHWAYS:
                noise = stream(seed, "sample", epoch, f"reliability {p}")
                found = calibration.reliability(*calibration.entry_predictions(model, p, x, generator=noise))
                rows.append(pd.DataFrame({
                    "epoch": epoch, "seed": seed, "pathway": p, "bin": range(len(found.count)),
                    "confidence": found.confidence, "accuracy": found.accuracy, "count": found.count,
                }))
    return pd.concat(rows, ignore_index=True)


def load_alternatives(path: str | Path = "alternatives.csv") -> pd.DataFrame:
    """Load the published table of `alternatives.benchmark`, or the table in a file.

    Two columns are added: `title`, the model and its β in words, and `draws`, n₉₉ as a multiple of the draws that
    uniform noise needs. Raises RunError if there is no such table.
    """
    table = load_table(path, "alternatives", "alternatives")
    names = table["model"].map(lambda name: MODELS.get(name, name))
    table["title"] = names + table["beta"].map(lambda beta: "" if math.isnan(beta) else f", β = {beta:g}")
    table["draws"] = table["n99"] / table.loc[table["model"] == "uniform", "n99"].mean()
    return table


def _sums(model: TernaryVAE, pathway: Pathway, latents: int, seed: int) -> Sums:
    points = sobol_normal(model.latent_dim, latents, stream(seed, "latents").initial_seed(), model.device)
    return reduce(operator.add, (sums(model.core, pathway, z.unsqueeze(0)) for z in points))


def _generator(info: Information) -> dict[str, float]:
    names = ("informative_coverage", "effective_coverage", "output_entropy", "decoder_noise")
    return {name: float(getattr(info, name)) for name in names}


def _bounds(model: TernaryVAE, operations: Tensor, seed: int, part: str) -> Tensor:
    """Return lower bounds (2, n) of ln p(x) for operations that are given by index (n,)."""
    noise = _importance_noise(model, len(operations), seed, part)
    return likelihood.coding(model.core, space.operations(operations).unsqueeze(0), noise).log_likelihood_bound[:, 0]


def _importance_noise(model: TernaryVAE, operations: int, seed: int, part: str) -> Tensor:
    shape = (IMPORTANCE_SAMPLES, 2, 1, operations, model.latent_dim)
    return torch.empty(shape).normal_(generator=stream(seed, "evaluation", part=part)).to(model.device)


def _noisy(model: TernaryVAE, pathway: Pathway, operations: Tensor, seed: int, sample: int) -> Tensor:
    """Return the probabilities (n, 9, 3) of the entries of n operations, each decoded from one posterior sample."""
    noise = stream(seed, "sample", sample, f"ensemble {pathway}")
    return entry_probabilities(model, pathway, space.operations(operations), generator=noise)


def _reading(
    models: Sequence[TernaryVAE], pathway: Pathway, operations: Tensor, seed: int, shift: int, first: int = 0
) -> dict[str, float]:
    """Return `noisy` and `variance` of operations (n,) that some models decode together, from one sample each.

    The models use the samples number `first`, `first` + 1, ...; the second reading uses the samples `shift` later.
    """
    one, two = (
        torch.stack([_noisy(model, pathway, operations, seed, i) for i, model in enumerate(models, start)])
        for start in (first, first + shift)
    )
    spread = (one.mean(0) - two.mean(0)).square().sum(-1).mean() / 2
    return {
        "noisy": ensembles.reconstruction(one, space.operations(operations))["mean"], "variance": float(spread),
    }


def _validated(model: TernaryVAE, pathway: Pathway, operations: Tensor, seed: int, samples: int) -> float:
    """Return the percentage of validation operations (n,) that are decoded exactly from some posterior samples."""
    x = space.operations(operations)
    read = [
        entry_probabilities(model, pathway, x, generator=stream(seed, "sample", i, f"validation {pathway}"))
        for i in range(samples)
    ]
    return ensembles.reconstruction(torch.stack(read), x)["mean"]

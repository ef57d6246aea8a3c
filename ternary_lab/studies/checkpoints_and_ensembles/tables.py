"""Tables on the choice of a checkpoint and on ensembles of checkpoints.

A criterion chooses a checkpoint from the training and validation splits only (`history.best_epoch`). The chosen
checkpoint is judged on the test split or by measures of the generator. Every outcome is a mean over both pathways,
because one checkpoint is chosen for both.
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
from tqdm import tqdm

from ternary_lab import history, space, splits
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.backend.random_streams import stream
from ternary_lab.metrics import likelihood
from ternary_lab.metrics.decoding import entry_probabilities
from ternary_lab.metrics.information import Information, Sums, sums
from ternary_lab.metrics.quantities import QUANTITIES, label
from ternary_lab.metrics.sobol import sobol_normal
from ternary_lab.model import PATHWAYS, Pathway, TernaryVAE
from ternary_lab.runs.load import RunRecord, RunSet
from ternary_lab.studies.checkpoints_and_ensembles import calibration, ensembles
from ternary_lab.studies.statistics import load_table

RECOMMENDED = (60, 70, 80, 100)
"""Epochs of the checkpoints that the training report advises to combine."""
IMPORTANCE_SAMPLES = 64

OUTCOMES = {
    **{name: label(name) for name in (
        "coverage", "informative_coverage", "effective_coverage", "reconstruction_test",
    )},
    **{name: label(name, "test") for name in ("neg_elbo", "neg_iwae")},
}
"""Quantities by which a checkpoint is judged, with their labels."""
CRITERIA: dict[str, str] = {
    **{name: QUANTITIES[name].words for name in history.CRITERIA},
    "val_loss": "validation loss as scheduled", "reconstruction": "validation reconstruction",
}
"""Descriptions of the criteria of `history.best_epoch`, by name."""
MODELS = {
    "v5_5_A": "v5.5, pathway A", "v5_5_B": "v5.5, pathway B", "beta_vae_A": "β-VAE, decoder A",
    "beta_vae_B": "β-VAE, decoder B", "categorical_vae": "categorical VAE", "random_map": "random map",
}


def checkpoint_outcomes(runs: RunSet) -> pd.DataFrame:
    """Return a table with a row per run and epoch that has probes.

    The columns are those of the history and those of `OUTCOMES`. Raises RunError for a run without probes.
    """
    parts = []
    for run in runs.values():
        probes = run.probed()
        measured = pd.DataFrame({"epoch": probes["epoch"]})
        sources = {"reconstruction_test": ("own_test",), "neg_elbo": ("rate", "distortion"), "neg_iwae": ("iwae",)}
        for name, columns in sources.items():
            measured[name] = sum(probes[f"{column}_{p}"] for column in columns for p in PATHWAYS) / 2
        # The columns of -ELBO and reconstruction in the history are for the validation split and for each pathway.
        rows = run.history
        for name in ("coverage", "informative_coverage", "effective_coverage"):
            rows[name] = (rows[f"{name}_A"] + rows[f"{name}_B"]) / 2
        parts.append(rows.merge(measured, on="epoch"))
    return pd.concat(parts, ignore_index=True)


def chosen_epochs(outcomes: pd.DataFrame, last: int | None = None, fixed: Sequence[int] = ()) -> pd.DataFrame:
    """Return the outcomes of the epoch that each rule chooses, for each seed.

    The columns are rule, seed, epoch and those of `OUTCOMES`. The rules are the criteria, each epoch in `fixed`, and
    the last epoch. The rule of the fixed epoch 60 is called `epoch 60`. Only epochs up to `last` can be chosen.
    """
    rows = []
    for seed, run in outcomes.groupby("seed"):
        within = run if last is None else run[run["epoch"] <= last]
        at = within.set_index("epoch")
        epochs = {title: history.best_epoch(within, name) for name, title in CRITERIA.items()}  # type: ignore[arg-type]
        epochs |= {f"epoch {epoch}": epoch for epoch in fixed} | {"last epoch": int(within["epoch"].max())}
        for rule, epoch in epochs.items():
            rows.append({"rule": rule, "seed": seed, "epoch": epoch, **at.loc[epoch, list(OUTCOMES)].to_dict()})
    return pd.DataFrame(rows)


def regret(choices: pd.DataFrame, outcomes: pd.DataFrame, last: int | None = None) -> pd.DataFrame:
    """Return `choices` with each outcome replaced by its distance from the best value in the run.

    A distance of 0 is the best; a worse outcome has a positive distance. `choices` is a table of `chosen_epochs`, and
    `outcomes` a table of `checkpoint_outcomes`. The best value is taken over epochs up to `last`.
    """
    within = outcomes if last is None else outcomes[outcomes["epoch"] <= last]
    table = choices.copy()
    for outcome in OUTCOMES:
        smaller = QUANTITIES[outcome].better == "less"
        groups = within.groupby("seed")[outcome]
        gap = choices[outcome] - choices["seed"].map(groups.min() if smaller else groups.max())
        table[outcome] = gap if smaller else -gap
    return table


def chosen_by_length(outcomes: pd.DataFrame, ends: Sequence[int]) -> pd.DataFrame:
    """Return `chosen_epochs` for trainings that end after each epoch in `ends`.

    The column `end` holds the number of epochs of the training.
    """
    return pd.concat([chosen_epochs(outcomes, end).assign(end=end + 1) for end in ends], ignore_index=True)


# Checkpoints together


@with_fixed_arithmetic
@torch.no_grad()
def checkpoint_ensembles(
    runs: RunSet, epochs: Sequence[int] = RECOMMENDED, latents: int = 65_536, *, progress: bool = False
) -> pd.DataFrame:
    """Measure checkpoints of each run, both alone and as a mixture of all of them.

    The columns are member, seed, pathway, informative_coverage, effective_coverage, output_entropy, decoder_noise,
    neg_iwae, noisy and the weights `w_60`, `w_70` and so on. The member is one of these:

        epoch 60, epoch 70, ...  one checkpoint alone
        equal weights            the mixture of all checkpoints with equal weights
        learned weights          the mixture with the weights that minimise -IWAE on the validation split
        epoch 100, 4 samples     the last checkpoint alone, decoded from as many samples as there are checkpoints

    `noisy` is the percentage of test operations that are decoded exactly from one posterior sample. From μ almost all
    operations are decoded exactly. For both mixtures, `noisy` uses the unweighted mean of the members' probabilities,
    where each member decodes its own sample. An ensemble must therefore beat `epoch 100, 4 samples`.
    """
    rows: list[dict[str, Any]] = []
    for seed, run in tqdm(runs.items(), desc="ensembles", unit="run", disable=not progress):
        split = splits.split(run.config.data)
        models = [run.model(epoch) for epoch in epochs]
        bounds = {part: torch.stack([_bounds(model, of, seed, part) for model in models])
                  for part, of in (("validation", split.validation), ("test", split.test))}
        for index, p in enumerate(PATHWAYS):
            summed = [_sums(model, p, latents, seed) for model in models]
            noisy, again = (
                torch.stack([_noisy(model, p, split.test, seed, i) for i, model in enumerate(read)])
                for read in (models, [models[-1]] * len(models))
            )
            operations = space.operations(split.test)
            together, often = (ensembles.reconstruction(p, operations)["mean"] for p in (noisy, again))
            each = 100 * (noisy.argmax(-1) - 1 == operations).all(2).float().mean(1)
            learned = ensembles.mixture_weights(bounds["validation"][:, index])
            alone = torch.eye(len(epochs), dtype=torch.float64)
            members = {f"epoch {e}": weights for e, weights in zip(epochs, alone, strict=True)}
            members |= {"equal weights": torch.full_like(learned, 1 / len(epochs)), "learned weights": learned}
            for i, (name, weights) in enumerate(members.items()):
                bound = (weights.log()[:, None] + bounds["test"][:, index]).logsumexp(0)
                rows.append({
                    "member": name, "seed": seed, "pathway": p, **_generator(ensembles.mixture(summed, weights)),
                    "neg_iwae": -float(bound.mean()), "noisy": float(each[i]) if i < len(epochs) else together,
                    **{f"w_{e}": float(w) for e, w in zip(epochs, weights, strict=True)},
                })
            name = f"epoch {epochs[-1]}, {len(epochs)} samples"
            rows.append({"member": name, "seed": seed, "pathway": p, "noisy": often})
    return pd.DataFrame(rows)


@with_fixed_arithmetic
@torch.no_grad()
def pathway_ensembles(run: RunRecord, epochs: Sequence[int]) -> pd.DataFrame:
    """Combine both pathways of a run, and return the percentage of test operations that each rule decodes exactly.

    The columns are epoch, seed, code (μ or sample), rule and exact. The rules are A, B, `A twice`, `B twice`, those of
    `ensembles.COMBINATIONS`, and `best of`. If the two pathways disagree on an entry, a vote chooses the value with the
    larger summed probability, as `mean` does. `A twice` and `B twice` decode one pathway from two samples of its code
    and use the mean probabilities, for a comparison with two pathways. With `best of`, an operation is exact if either
    pathway decodes it exactly.
    """
    x = space.operations(splits.split(run.config.data).test)
    rows = []
    for epoch in epochs:
        model = run.model(epoch)
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
            rows += [{"epoch": epoch, "seed": run.seed, "code": code, "rule": rule, "exact": shares[rule]}
                     for rule in ("A", "B", "A twice", "B twice", *ensembles.COMBINATIONS, "best of")]
    return pd.DataFrame(rows)


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
    """Load the published table of `alternatives.benchmark`, or the table in a file, and add a column `title`.

    Raises RunError if there is no such table.
    """
    table = load_table(path, "alternatives", "alternatives")
    names = table["model"].map(lambda name: MODELS.get(name, name))
    table["title"] = names + table["beta"].map(lambda beta: "" if math.isnan(beta) else f", β = {beta:g}")
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

"""Tables on the choice of a checkpoint: epochs chosen by a criterion, their cost, and several checkpoints combined.

Criteria see the training and validation splits only (`history.best_epoch`). The chosen epochs are judged on the test
split, or on the generator as a whole. All outcomes are means of both pathways: a checkpoint is chosen for both.
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
from ternary_lab.backend.numerics import fenced
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
"""The checkpoints that the report advises to combine."""
IMPORTANCE_SAMPLES = 64

OUTCOMES = {
    **{name: label(name) for name in (
        "coverage", "informative_coverage", "effective_coverage", "reconstruction_test",
    )},
    **{name: label(name, "test") for name in ("neg_elbo", "neg_iwae")},
}
"""Quantities by which a checkpoint is judged."""
CRITERIA: dict[str, str] = {
    **{name: QUANTITIES[name].words for name in history.CRITERIA},
    "val_loss": "validation loss as scheduled", "reconstruction": "validation reconstruction",
}
"""Words for the criteria of `history.best_epoch`."""
MODELS = {
    "v5_5_A": "v5.5, pathway A", "v5_5_B": "v5.5, pathway B", "beta_vae_A": "β-VAE, decoder A",
    "beta_vae_B": "β-VAE, decoder B", "categorical_vae": "categorical VAE", "random_map": "random map",
}


def checkpoint_outcomes(runs: RunSet) -> pd.DataFrame:
    """A row per run and epoch with probes: the columns of the history, and those of `OUTCOMES`.

    Raises RunError for runs without probes.
    """
    parts = []
    for run in runs.values():
        probes = run.probed()
        measured = pd.DataFrame({"epoch": probes["epoch"]})
        sources = {"reconstruction_test": ("own_test",), "neg_elbo": ("rate", "distortion"), "neg_iwae": ("iwae",)}
        for name, columns in sources.items():
            measured[name] = sum(probes[f"{column}_{p}"] for column in columns for p in PATHWAYS) / 2
        # The history has its own -ELBO and reconstruction, of the validation split, for each pathway.
        rows = run.history
        for name in ("coverage", "informative_coverage", "effective_coverage"):
            rows[name] = (rows[f"{name}_A"] + rows[f"{name}_B"]) / 2
        parts.append(rows.merge(measured, on="epoch"))
    return pd.concat(parts, ignore_index=True)


def chosen_epochs(outcomes: pd.DataFrame, last: int | None = None, fixed: Sequence[int] = ()) -> pd.DataFrame:
    """rule, seed, epoch and the outcomes at that epoch, for each criterion, each fixed epoch and the last epoch.

    Only epochs up to `last` can be chosen. The rule of a fixed epoch is called `epoch 60`.
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
    """`chosen_epochs`, but each outcome is how much worse it is than at the run's best epoch for it: 0 is the best."""
    within = outcomes if last is None else outcomes[outcomes["epoch"] <= last]
    table = choices.copy()
    for outcome in OUTCOMES:
        smaller = QUANTITIES[outcome].better == "less"
        groups = within.groupby("seed")[outcome]
        gap = choices[outcome] - choices["seed"].map(groups.min() if smaller else groups.max())
        table[outcome] = gap if smaller else -gap
    return table


def chosen_by_length(outcomes: pd.DataFrame, ends: Sequence[int]) -> pd.DataFrame:
    """`chosen_epochs` of trainings that end after each of some epochs, with the number of epochs in a column `end`."""
    return pd.concat([chosen_epochs(outcomes, end).assign(end=end + 1) for end in ends], ignore_index=True)


# Checkpoints together


@fenced
@torch.no_grad()
def checkpoint_ensembles(
    runs: RunSet, epochs: Sequence[int] = RECOMMENDED, latents: int = 65_536, *, progress: bool = False
) -> pd.DataFrame:
    """Checkpoints of a run, each alone and all as a mixture: member, seed, pathway, coverages, -IWAE, reconstruction.

    `member` is `epoch 60` ..., `equal weights`, or `learned weights`, which minimise -IWAE on the validation split and
    stand in the columns `w_60` .... `noisy` is the percentage of test operations decoded exactly from one posterior
    sample; from μ almost all are. A mixture decodes the mean of its members' probabilities, each from its own sample.
    An ensemble must therefore beat `epoch 100, 4 samples`: the last checkpoint, decoded from as many samples.
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


@fenced
@torch.no_grad()
def pathway_ensembles(run: RunRecord, epochs: Sequence[int]) -> pd.DataFrame:
    """Both pathways of a run combined: epoch, seed, code (μ, sample), rule, exact: percent of test operations.

    Rules: A, B, those of `ensembles.COMBINATIONS`, and `best of`: exact if either pathway is. A vote between two that
    disagree is decided by the larger summed probability, as by `mean`. `A twice` and `B twice` decode one pathway from
    two samples of its code and take the mean, for a comparison with two pathways.
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


@fenced
@torch.no_grad()
def generator_pairs(runs: RunSet, epoch: int, latents: int = 65_536) -> pd.DataFrame:
    """member (A, B, A or B), seed, coverages: each pathway as a generator, and one that uses either by chance."""
    rows = []
    for seed, run in runs.items():
        model = run.model(epoch)
        summed = {p: _sums(model, p, latents, seed) for p in PATHWAYS}
        for member, parts in (("A", ["A"]), ("B", ["B"]), ("A or B", ["A", "B"])):
            rows.append({"member": member, "seed": seed,
                         **_generator(ensembles.mixture([s for p, s in summed.items() if p in parts]))})
    return pd.DataFrame(rows)


# Single checkpoints


@fenced
@torch.no_grad()
def operation_bounds(run: RunRecord, epoch: int) -> pd.DataFrame:
    """operation, pathway, zeros, neg_elbo, neg_iwae: zeros in the truth table, and nats, of each test operation."""
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


@fenced
def reliabilities(runs: RunSet, epochs: Sequence[int]) -> pd.DataFrame:
    """epoch, seed, pathway, bin, confidence, accuracy, count: test entries decoded from posterior samples."""
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
    """The published table of `alternatives.benchmark`, or the table in a file, with a column `title`.

    Raises RunError where there is none.
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
    """Lower bounds of ln p(x), (2, n), of operations by index (n,)."""
    noise = _importance_noise(model, len(operations), seed, part)
    return likelihood.coding(model.core, space.operations(operations).unsqueeze(0), noise).log_likelihood_bound[:, 0]


def _importance_noise(model: TernaryVAE, operations: int, seed: int, part: str) -> Tensor:
    shape = (IMPORTANCE_SAMPLES, 2, 1, operations, model.latent_dim)
    return torch.empty(shape).normal_(generator=stream(seed, "evaluation", part=part)).to(model.device)


def _noisy(model: TernaryVAE, pathway: Pathway, operations: Tensor, seed: int, sample: int) -> Tensor:
    """Probabilities (n, 9, 3) of entries, each operation decoded from one posterior sample."""
    noise = stream(seed, "sample", sample, f"ensemble {pathway}")
    return entry_probabilities(model, pathway, space.operations(operations), generator=noise)

"""Which checkpoint should anyone use: epochs chosen by a criterion, what that costs, and checkpoints used together.

Criteria see the training and validation splits only (`selection`); what they are judged by is measured on the test
split or on the generator as a whole. All outcomes are means of both pathways, so that one checkpoint is one choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from ternary_lab import history, space, splits
from ternary_lab.backend.numerics import fenced
from ternary_lab.backend.random_streams import stream
from ternary_lab.errors import RunError
from ternary_lab.metrics import likelihood
from ternary_lab.metrics.information import Information, Sums, sums
from ternary_lab.metrics.sobol import sobol_normal
from ternary_lab.model import PATHWAYS, Pathway, TernaryVAE
from ternary_lab.runs.load import RunRecord, RunSet, local_or_published
from ternary_lab.studies.checkpoints_and_ensembles import calibration, ensembles

RECOMMENDED = (60, 70, 80, 100)
"""The checkpoints that the report wants combined."""
IMPORTANCE_SAMPLES = 64

OUTCOMES = {
    "coverage": "sampled coverage, %",
    "informative_coverage": "informative coverage, %",
    "effective_coverage": "effective coverage, %",
    "test": "reconstruction, test, %",
    "neg_elbo": "-ELBO, test, nats",
    "neg_iwae": "-IWAE, test, nats",
}
"""What a checkpoint is judged by."""
SMALLER = ("neg_elbo", "neg_iwae")
"""Outcomes of which less is better."""
MODELS = {
    "v5_5_A": "v5.5, pathway A", "v5_5_B": "v5.5, pathway B", "beta_vae_A": "β-VAE, decoder A",
    "beta_vae_B": "β-VAE, decoder B", "categorical_vae": "categorical VAE", "random_map": "random map",
}
CRITERIA: dict[str, str] = {
    "val_loss": "validation loss as scheduled", "val_elbo": "validation ELBO", "coverage": "sampled coverage",
    "informative_coverage": "informative coverage", "reconstruction": "validation reconstruction",
}


def scored(runs: RunSet) -> pd.DataFrame:
    """A row per run and epoch whose weights were measured: the history's columns, and those of `OUTCOMES`.

    Raises RunError for runs without probes.
    """
    parts = []
    for run in runs.values():
        probes = run.probed()
        measured = pd.DataFrame({"epoch": probes["epoch"]})
        for name, columns in {"test": ("own_test",), "neg_elbo": ("rate", "distortion"), "neg_iwae": ("iwae",)}.items():
            measured[name] = sum(probes[f"{column}_{p}"] for column in columns for p in PATHWAYS) / 2
        # The history's own are of the validation split.
        history = run.history
        for name in ("coverage", "informative_coverage", "effective_coverage"):
            history[name] = (history[f"{name}_A"] + history[f"{name}_B"]) / 2
        parts.append(history.merge(measured, on="epoch"))
    return pd.concat(parts, ignore_index=True)


def chosen(scores: pd.DataFrame, last: int | None = None, fixed: Sequence[int] = ()) -> pd.DataFrame:
    """rule, seed, epoch and the outcomes there: of each criterion, of fixed epochs, and of the last epoch.

    Only epochs up to `last` can be chosen. Fixed epochs are rows `epoch 60`.
    """
    rows = []
    for seed, run in scores.groupby("seed"):
        within = run if last is None else run[run["epoch"] <= last]
        at = within.set_index("epoch")
        picks = {title: history.best_epoch(within, name) for name, title in CRITERIA.items()}  # type: ignore[arg-type]
        picks |= {f"epoch {epoch}": epoch for epoch in fixed} | {"last epoch": int(within["epoch"].max())}
        for rule, epoch in picks.items():
            rows.append({"rule": rule, "seed": seed, "epoch": epoch, **at.loc[epoch, list(OUTCOMES)].to_dict()})
    return pd.DataFrame(rows)


def regret(choices: pd.DataFrame, scores: pd.DataFrame, last: int | None = None) -> pd.DataFrame:
    """`chosen` with each outcome replaced by how far it falls short of the run's best epoch for it: 0 is the best."""
    within = scores if last is None else scores[scores["epoch"] <= last]
    table = choices.copy()
    for outcome in OUTCOMES:
        groups = within.groupby("seed")[outcome]
        best = groups.min() if outcome in SMALLER else groups.max()
        gap = choices[outcome] - choices["seed"].map(best)
        table[outcome] = gap if outcome in SMALLER else -gap
    return table


def stopping(scores: pd.DataFrame, ends: Sequence[int]) -> pd.DataFrame:
    """`chosen` under a training that ends at each of some epochs: columns end, then those of `chosen`."""
    return pd.concat([chosen(scores, end).assign(end=end + 1) for end in ends], ignore_index=True)


# Checkpoints together


@fenced
@torch.no_grad()
def checkpoint_ensembles(
    runs: RunSet, epochs: Sequence[int] = RECOMMENDED, latents: int = 65_536, *, progress: bool = False
) -> pd.DataFrame:
    """Checkpoints of a run alone and as a mixture: member, seed, pathway, coverages, bounds and reconstruction.

    `member` is `epoch 60` ..., `equal weights`, or `learned weights` (by the validation split's -IWAE; the weights are
    in the columns `w_60` ...). `noisy` is the percentage of test operations right from one posterior sample, a harder
    task than from μ, where nothing is left to gain: a member's, or that of all read out together by their mean. Of
    those each has a sample of its own, so that `epoch 100, 4 samples`, the last one alone read out as often, is what
    an ensemble must beat.
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
            together, often = (ensembles.reconstruction(read, operations)["mean"] for read in (noisy, again))
            each = 100 * (noisy.argmax(-1) - 1 == operations).all(2).float().mean(1)
            learned = ensembles.mixture_weights(bounds["validation"][:, index])
            members = {f"epoch {e}": _single(len(epochs), i) for i, e in enumerate(epochs)}
            members |= {"equal weights": torch.full_like(learned, 1 / len(epochs)), "learned weights": learned}
            for i, (name, weights) in enumerate(members.items()):
                bound = (weights.log()[:, None] + bounds["test"][:, index]).logsumexp(0)
                rows.append({
                    "member": name, "seed": seed, "pathway": p, **_generator(ensembles.mixture(summed, weights)),
                    "neg_iwae": -float(bound.mean()), "noisy": float(each[i]) if i < len(epochs) else together,
                    **{f"w_{e}": float(w) for e, w in zip(epochs, weights, strict=True)},
                })
            alone = f"epoch {epochs[-1]}, {len(epochs)} samples"
            rows.append({"member": alone, "seed": seed, "pathway": p, "noisy": often})
    return pd.DataFrame(rows)


@fenced
@torch.no_grad()
def pathway_ensembles(run: RunRecord, epochs: Sequence[int]) -> pd.DataFrame:
    """Both pathways of a run read out together: epoch, seed, code (μ, sample), rule, exact: percent of test operations.

    Rules: A, B, those of `ensembles.RULES` on the two, and best of (the oracle among the two, which cannot combine
    their entries). A vote of two that disagree falls to the larger summed probability, as `mean` does. `A twice` and
    `B twice` read one pathway out as often as both: two samples of its code, by their mean.
    """
    x = space.operations(splits.split(run.config.data).test)
    rows = []
    for epoch in epochs:
        model = run.model(epoch)
        for code in ("μ", "sample"):
            noise = None if code == "μ" else stream(run.seed, "sample", epoch, "pathways")
            p, again = (
                torch.stack([ensembles.entry_probabilities(model, way, x, generator=noise) for way in PATHWAYS])
                for _ in range(2)
            )
            shares = ensembles.reconstruction(p, x)
            for i, pathway in enumerate(PATHWAYS):
                shares[pathway] = ensembles.reconstruction(p[i : i + 1], x)["mean"]
                shares[f"{pathway} twice"] = ensembles.reconstruction(torch.stack((p[i], again[i])), x)["mean"]
            rows += [{"epoch": epoch, "seed": run.seed, "code": code, "rule": rule, "exact": shares[rule]}
                     for rule in ("A", "B", "A twice", "B twice", *ensembles.RULES, "best of")]
    return pd.DataFrame(rows)


@fenced
@torch.no_grad()
def generator_pairs(runs: RunSet, epoch: int, latents: int = 65_536) -> pd.DataFrame:
    """Both pathways as one generator that draws either: member (A, B, A or B), seed, coverages."""
    rows = []
    for seed, run in runs.items():
        model = run.model(epoch)
        summed = {p: _sums(model, p, latents, seed) for p in PATHWAYS}
        for member, parts in (("A", ["A"]), ("B", ["B"]), ("A or B", ["A", "B"])):
            rows.append({"member": member, "seed": seed,
                         **_generator(ensembles.mixture([s for p, s in summed.items() if p in parts]))})
    return pd.DataFrame(rows)


# What single checkpoints say of themselves


@fenced
@torch.no_grad()
def operation_bounds(run: RunRecord, epoch: int) -> pd.DataFrame:
    """operation, part of the split, pathway, zeros, neg_elbo, neg_iwae: nats, of every operation of the test split."""
    split, model = splits.split(run.config.data), run.model(epoch)
    x = space.operations(split.test).unsqueeze(0)
    noise = _importance_noise(model, len(split.test), run.seed, "operations")
    coded = likelihood.coding(model.core, x, noise)
    zeros = (x[0] == 0).sum(1)
    return pd.concat([
        pd.DataFrame({
            "operation": split.test, "pathway": p, "zeros": zeros,
            "neg_elbo": (coded.rate + coded.distortion)[i, 0], "neg_iwae": -coded.log_likelihood_bound[i, 0],
        }) for i, p in enumerate(PATHWAYS)
    ], ignore_index=True)


@fenced
def reliabilities(runs: RunSet, epochs: Sequence[int]) -> pd.DataFrame:
    """epoch, seed, pathway, bin, confidence, accuracy, count: entries of the test split, from posterior samples."""
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
    """The published table of `alternatives.benchmark`, or a file of one, with a column `title`.

    Raises RunError when there is none.
    """
    file = local_or_published(path)
    if not file.is_file():
        raise RunError(f"{path}: no table of alternatives: make one with `ternary-lab alternatives`")
    table = pd.read_csv(file)
    names = table["model"].map(lambda name: MODELS.get(name, name))
    table["title"] = names + table["beta"].map(lambda beta: "" if math.isnan(beta) else f", β = {beta:g}")
    return table


def _sums(model: TernaryVAE, pathway: Pathway, latents: int, seed: int) -> Sums:
    name = stream(seed, "latents").initial_seed()
    points = sobol_normal(model.latent_dim, latents, name, model.device)
    first, *others = (sums(model.core, pathway, z.unsqueeze(0)) for z in points)
    for other in others:
        first = first + other
    return first


def _generator(info: Information) -> dict[str, float]:
    return {
        "informative_coverage": float(info.informative_coverage), "effective_coverage": float(info.effective_coverage),
        "output_entropy": float(info.output_entropy), "decoder_noise": float(info.decoder_noise),
    }


def _single(members: int, index: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(index), members).double()


def _bounds(model: TernaryVAE, operations: Tensor, seed: int, part: str) -> Tensor:
    """ln p(x), bounded from below: (2, n) of operations by index (n,)."""
    x = space.operations(operations).unsqueeze(0)
    noise = _importance_noise(model, len(operations), seed, part)
    return likelihood.log_likelihood_bound(model.core, x, noise)[:, 0]


def _importance_noise(model: TernaryVAE, operations: int, seed: int, part: str) -> Tensor:
    shape = (IMPORTANCE_SAMPLES, 2, 1, operations, model.latent_dim)
    return torch.empty(shape).normal_(generator=stream(seed, "evaluation", part=part)).to(model.device)


def _noisy(model: TernaryVAE, pathway: Pathway, operations: Tensor, seed: int, epoch: int) -> Tensor:
    noise = stream(seed, "sample", epoch, f"ensemble {pathway}")
    return ensembles.entry_probabilities(model, pathway, space.operations(operations), generator=noise)

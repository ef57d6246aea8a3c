"""Does it generalise: tables over seeds, from published probes where there are some, else from weights.

Every table is tidy: a row per seed, pathway and whatever is varied; percentages 0-100, lengths in the latent space.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch
from torch import Tensor

from ternary_lab import space, splits
from ternary_lab.backend.numerics import fenced
from ternary_lab.backend.random_streams import stream
from ternary_lab.config import Config
from ternary_lab.errors import RunError
from ternary_lab.metrics import baselines, likelihood
from ternary_lab.model import PATHWAYS, Pathway, TernaryVAE
from ternary_lab.runs.load import RunRecord, RunSet, load_runs, local_or_published
from ternary_lab.studies.generalisation import arithmetic, neighbourhood, paths, robustness

GENERALISATION = "generalisation"
"""The folder of these runs, published or under `runs`."""
LAST = 70
"""The last epoch of the runs on part of the space, and where v5.5 itself is compared with them."""
STRUCTURES = {
    "without_orbit": "one orbit of Kleene's implication",
    "without_logic": "all that Kleene's connectives define",
    "without_pattern": "first row + + -",
}


def load_experiments(folder: str | Path = GENERALISATION) -> dict[str, RunSet]:
    """The runs on part of the space by name: the published, or those of a folder. Raises RunError if there is none."""
    path = local_or_published(folder)
    found = {child.name: load_runs(child) for child in sorted(path.glob("*")) if child.is_dir()}
    if not found:
        raise RunError(f"{folder}: holds no experiments: train those of configs/generalisation")
    return found


def parts(probes: pd.DataFrame) -> pd.DataFrame:
    """seed, epoch, pathway, part (train, validation, test), exact and entries: percent right from the own code."""
    rows = [
        pd.DataFrame({
            "seed": probes["seed"], "epoch": probes["epoch"], "pathway": p, "part": part,
            "exact": probes[f"own_{part}_{p}"], "entries": probes[f"entries_{part}_{p}"],
        })
        for p in PATHWAYS for part in ("train", "validation", "test")
    ]
    return pd.concat(rows, ignore_index=True)


def sizes(experiments: Mapping[str, RunSet], whole: RunSet, epoch: int = LAST) -> pd.DataFrame:
    """share (percent of the space trained on), operations, seed, pathway, train, test, entries, neg_elbo, neg_iwae.

    `whole` are the runs of v5.5 itself. All but `train` are of the test split, which is all that was not seen.
    """
    runs = [run for name, of in experiments.items() if name.startswith("train_") for run in of.values()]
    rows = []
    for run in (*runs, *whole.values()):
        data = run.config.data
        for p, at in _at(run, epoch):
            rows.append({
                "share": 100 * data.train_fraction, "operations": len(splits.split(data).train), "seed": run.seed,
                "pathway": p, "train": at[f"own_train_{p}"], "test": at[f"own_test_{p}"],
                "entries": at[f"entries_test_{p}"], "neg_elbo": at[f"rate_{p}"] + at[f"distortion_{p}"],
                "neg_iwae": at[f"iwae_{p}"],
            })
    return pd.DataFrame(rows).sort_values(["share", "seed", "pathway"], ignore_index=True)


def structures(experiments: Mapping[str, RunSet], epoch: int = LAST) -> pd.DataFrame:
    """structure, title, operations, epoch, seed, pathway, left_out and test: percent of each that a run gets right."""
    rows = []
    for name, title in STRUCTURES.items():
        for run in experiments.get(name, RunSet({})).values():
            count = len(splits.split(run.config.data).left_out)
            for p, at in _at(run, epoch):
                rows.append({
                    "structure": name, "title": title, "operations": count, "epoch": epoch, "seed": run.seed,
                    "pathway": p, "left_out": at[f"own_left_out_{p}"], "test": at[f"own_test_{p}"],
                    "entries_left_out": at[f"entries_left_out_{p}"], "entries_test": at[f"entries_test_{p}"],
                })
    return pd.DataFrame(rows)


@fenced
def mixing(run: RunRecord, epochs: Iterable[int], shares: Sequence[float]) -> pd.DataFrame:
    """epoch, rho, pathway, exact: percent of the test split, from 1-ρ of the own code and ρ of the other pathway's."""
    x = _test(run.config).unsqueeze(0)
    rows = []
    for epoch in epochs:
        core = run.model(epoch).core
        for rho in shares:
            found = likelihood.exact_reconstruction(core, x.to(core.device), rho)
            rows += [{"epoch": epoch, "rho": rho, "pathway": p, "exact": float(found[i, 0])}
                     for i, p in enumerate(PATHWAYS)]
    return pd.DataFrame(rows)


@fenced
def denoising(runs: RunSet, epoch: int, entries: Sequence[int] = (1, 2), operations: int = 200) -> pd.DataFrame:
    """how (flipped, erased), entries, seed, pathway, original, disturbed, other, best: percent; of test operations."""
    rows = []
    for seed, p, model, x in _models(runs, epoch):
        for how in get_args(robustness.Disturbance):
            for count in entries:
                found = robustness.denoising(model, p, x[:operations], count, how)
                best = robustness.best_denoising(count) if how == "flipped" else float("nan")
                rows.append({"how": how, "entries": count, "seed": seed, "pathway": p, **asdict(found), "best": best})
    return pd.DataFrame(rows)


@fenced
def tolerance(runs: RunSet, epochs: Iterable[int], radii: Sequence[float]) -> pd.DataFrame:
    """epoch, seed, pathway, radius, exact: test operations still right when their code is displaced by so much."""
    rows = []
    for epoch in epochs:
        for seed, p, model, x in _models(runs, epoch):
            shares = robustness.noise_tolerance(model, p, x, radii, _stream(seed, epoch, f"noise {p}"))
            rows += [{"epoch": epoch, "seed": seed, "pathway": p, "radius": r, "exact": share}
                     for r, share in zip(radii, shares, strict=True)]
    return pd.DataFrame(rows)


def half_radii(table: pd.DataFrame) -> pd.DataFrame:
    """epoch, seed, pathway, half: the displacement at which half of the operations of `tolerance` are lost."""
    rows = []
    for (epoch, seed, p), group in table.groupby(["epoch", "seed", "pathway"], sort=False):
        half = robustness.half_radius(group["radius"].tolist(), group["exact"].tolist())
        rows.append({"epoch": epoch, "seed": seed, "pathway": p, "half": half})
    return pd.DataFrame(rows)


@fenced
def interpolation(runs: RunSet, epoch: int, pairs: int = 300) -> pd.DataFrame:
    """model, way, seed, pathway, distance and the columns of `paths.PathQuality`: means over pairs of test operations,
    a row for each distance of the ends in entries. `model` is the run, or a network that has learnt nothing."""
    rows = []
    for name, seed, p, model, config in _with_untrained(runs, epoch):
        test = splits.split(config.data).test
        order = torch.randperm(len(test), generator=_stream(seed, epoch, "pairs"))
        ends = test[order[: 2 * pairs]].view(-1, 2)
        for way in paths.PATHS:
            found = pd.DataFrame({k: v.numpy() for k, v in vars(paths.path_quality(model, p, ends, way)).items()})
            means = found.groupby("distance").mean().assign(count=found["distance"].value_counts())
            rows.append(means.reset_index().assign(model=name, way=way, seed=seed, pathway=p))
    return pd.concat(rows, ignore_index=True)


@fenced
def latent_arithmetic(runs: RunSet, epoch: int, attempts: int = 4000, operations: int = 300) -> pd.DataFrame:
    """model, task (analogy, edit), seed, pathway and the shares of `arithmetic.Arithmetic`.

    Edit vectors are means over the training split and used on the test split.
    """
    rows = []
    for name, seed, p, model, config in _with_untrained(runs, epoch):
        split = splits.split(config.data)
        of = {"model": name, "seed": seed, "pathway": p}
        analogies = arithmetic.analogies(model, p, attempts, _stream(seed, epoch, "analogies"))
        rows.append({**of, "task": "analogy", **asdict(analogies)})
        vectors = arithmetic.edit_vectors(model, p, split.train)
        rows.append({**of, "task": "edit", **asdict(arithmetic.edits(model, p, split.test[:operations], vectors))})
    return pd.DataFrame(rows)


@fenced
def neighbourhoods(runs: RunSet, epoch: int, anchors: int = 200) -> pd.DataFrame:
    """model, seed, pathway, trustworthiness, continuity, shared: around so many test operations (`neighbourhood`)."""
    rows = []
    for name, seed, p, model, config in _with_untrained(runs, epoch):
        codes = model.encode(space.operations(), p).mean
        found = neighbourhood.preservation(codes, splits.split(config.data).test[:anchors])
        rows.append({"model": name, "seed": seed, "pathway": p, **asdict(found)})
    return pd.DataFrame(rows)


def _at(run: RunRecord, epoch: int) -> Iterator[tuple[Pathway, Mapping[str, Any]]]:
    """The probes of one epoch, for each pathway. Raises RunError where there are none."""
    table = run.probed()
    rows = table[table["epoch"] == epoch]
    if rows.empty:
        raise RunError(f"{run.path}: has no probes of epoch {epoch}: make them with `ternary-lab probe`")
    for p in PATHWAYS:
        yield p, {str(name): value for name, value in rows.iloc[0].items()}


def _models(runs: RunSet, epoch: int) -> Iterator[tuple[int, Pathway, TernaryVAE, Tensor]]:
    for seed, run in runs.items():
        model, x = run.model(epoch), _test(run.config)
        for p in PATHWAYS:
            yield seed, p, model, x


def _with_untrained(runs: RunSet, epoch: int) -> Iterator[tuple[str, int, Pathway, TernaryVAE, Config]]:
    for seed, run in runs.items():
        for name, model in ((f"epoch {epoch}", run.model(epoch)), ("untrained", baselines.untrained(seed))):
            for p in PATHWAYS:
                yield name, seed, p, model, run.config


def _test(config: Config) -> Tensor:
    return space.operations(splits.split(config.data).test)


def _stream(seed: int, epoch: int, part: str) -> torch.Generator:
    return stream(seed, "sample", epoch, part)

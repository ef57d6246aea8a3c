"""Tables on generalisation: unseen operations, trivial methods, displaced codes, paths, arithmetic, neighbourhoods.

Some tables read the probes of the runs; the other tables measure the weights in checkpoints. Each table has a row per
seed, pathway and value of the varied quantity. Percentages are 0-100. Lengths are distances in the latent space.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ternary_lab import space, splits
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.backend.random_streams import stream
from ternary_lab.config import Config
from ternary_lab.errors import RunError
from ternary_lab.metrics import baselines, likelihood
from ternary_lab.model import PATHWAYS, Pathway, TernaryVAE
from ternary_lab.runs.load import RunRecord, RunSet, load_runs, local_or_published
from ternary_lab.studies.generalisation import arithmetic, neighbourhood, paths, robustness, trivial
from ternary_lab.studies.probes import JUDGED
from ternary_lab.studies.statistics import interval

GENERALISATION = "generalisation"
"""Folder of the runs that are trained on a part of the space, either published or under `runs`."""
LAST = 70
"""Last epoch of the runs that are trained on a part of the space. v5.5 itself is compared with them at this epoch."""
PCA_9, PCA_8, NEAREST = "PCA, 9 components", "PCA, 8 components", "nearest seen operation"
"""Methods of `trivial_methods`."""
STRUCTURES = {
    "without_orbit": "one orbit of Kleene's implication",
    "without_logic": "all that Kleene's connectives define",
    "without_pattern": "first row + + -",
}


def load_experiments(folder: str | Path = GENERALISATION) -> dict[str, RunSet]:
    """Load the runs that are trained on a part of the space, by the name of the experiment.

    `folder` is a path, or the name of a published folder. Raises RunError if there are no such runs.
    """
    path = local_or_published(folder)
    found = {child.name: load_runs(child) for child in sorted(path.glob("[!.]*")) if child.is_dir()}
    if not found:
        raise RunError(f"{folder}: holds no experiments: train those of configs/generalisation")
    return found


def reconstruction_by_part(probes: pd.DataFrame) -> pd.DataFrame:
    """Return the percentages of operations that are right when decoded from their own codes.

    The columns are seed, epoch, pathway, part and exact. `part` is a part of the split: train, validation or test.
    """
    rows = [
        pd.DataFrame({
            "seed": probes["seed"], "epoch": probes["epoch"], "pathway": p, "part": part,
            "exact": probes[f"own_{part}_{p}"],
        })
        for p in PATHWAYS for part in ("train", "validation", "test")
    ]
    return pd.concat(rows, ignore_index=True)


def seen_and_unseen(runs: RunSet, probes: pd.DataFrame) -> pd.DataFrame:
    """Return the exact reconstruction of the parts of the split, with a row per seed, epoch and pathway.

    The columns are seed, epoch, pathway, train, validation, test and smaller: percentages of operations, and the number
    of operations in the test split, which is smaller than the training split.
    """
    table = reconstruction_by_part(probes)
    wide = table.pivot_table(index=["seed", "epoch", "pathway"], columns="part", values="exact").reset_index()
    sizes = {seed: len(splits.split(run.config.data).test) for seed, run in runs.items()}
    return wide.rename_axis(None, axis=1).assign(smaller=wide["seed"].map(sizes))


def share_differences(table: pd.DataFrame, first: str, second: str, by: Sequence[str]) -> pd.DataFrame:
    """Return the differences `first` - `second` of two percentages of operations, paired by seed, with a row per group.

    The columns are those of `by`, n, mean, low, high, comparisons and decided. All rows are one family, and their
    intervals are simultaneous. Each interval is Student's, widened on both sides by half an operation of the smaller
    part, whose number of operations is in the column `smaller` (a continuity correction, Yates 1934).

    The correction is necessary near 100 %. There the two parts have few wrong operations. A part of 1,969 operations
    then often has none, while a part of 15,746 has some, so that the differences of all seeds have the same sign.
    Student's interval alone excludes 0 in up to a third of such studies without an effect. The logit scale is worse:
    without any wrong operation, the logits of the two parts differ by ln 8.
    """
    groups = list(table.groupby(list(by), sort=False))
    rows = []
    for names, its in groups:
        found, half = interval(its[first] - its[second], comparisons=len(groups)), 50 / float(its["smaller"].min())
        widened = replace(found, low=found.low - half, high=found.high + half)
        rows.append({
            **dict(zip(by, names, strict=True)), **vars(widened), "comparisons": len(groups),
            "decided": widened.decided,
        })
    return pd.DataFrame(rows)


def training_sizes(experiments: Mapping[str, RunSet], whole: RunSet, epoch: int = LAST) -> pd.DataFrame:
    """Return a table that compares runs trained on different shares of the space.

    The columns are share, operations, seed, pathway, train, test, entries, neg_elbo and neg_iwae. `share` is the
    percentage of the space that is used for training, and `operations` the number of training operations. All measures
    except `train` are for the test split. `whole` contains the runs of v5.5 itself.
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


@with_fixed_arithmetic
def trivial_methods(experiments: Mapping[str, RunSet], whole: RunSet) -> pd.DataFrame:
    """Return the reconstruction of test operations by the methods of `trivial`, for each size of the training split.

    The columns are share, method, exact and entries, in percent. The splits are those of the runs of `training_sizes`.
    Of a large test split, the first `JUDGED` operations are used.
    """
    runs = [next(iter(of.values())) for name, of in experiments.items() if name.startswith("train_")]
    rows = []
    for run in (*runs, next(iter(whole.values()))):
        split = splits.split(run.config.data)
        train, test = space.operations(split.train), space.operations(split.test[:JUDGED])
        for method, found in (
            (PCA_9, trivial.by_components(train, test)), (PCA_8, trivial.by_components(train, test, space.ENTRIES - 1)),
            (NEAREST, trivial.nearest(train, test)),
        ):
            right = found == test
            rows.append({
                "share": 100 * run.config.data.train_fraction, "method": method,
                "exact": 100 * right.all(1).float().mean().item(), "entries": 100 * right.float().mean().item(),
            })
    return pd.DataFrame(rows).sort_values("share", kind="stable", ignore_index=True)


def left_out_structures(experiments: Mapping[str, RunSet], epoch: int = LAST) -> pd.DataFrame:
    """Return the reconstruction of structures that were left out of the training, and of the test split.

    The columns are structure, title, smaller, epoch, seed, pathway, left_out, test, entries_left_out and entries_test.
    `smaller` is the number of operations in the structure, which is smaller than the test split. `left_out` and `test`
    are percentages of operations that are decoded exactly; `entries_left_out` and `entries_test` are percentages of
    single entries.
    """
    rows = []
    for name, title in STRUCTURES.items():
        for run in experiments.get(name, RunSet({})).values():
            count = len(splits.split(run.config.data).left_out)
            for p, at in _at(run, epoch):
                rows.append({
                    "structure": name, "title": title, "smaller": count, "epoch": epoch, "seed": run.seed,
                    "pathway": p, "left_out": at[f"own_left_out_{p}"], "test": at[f"own_test_{p}"],
                    "entries_left_out": at[f"entries_left_out_{p}"], "entries_test": at[f"entries_test_{p}"],
                })
    return pd.DataFrame(rows)


@with_fixed_arithmetic
def injected_reconstruction(run: RunRecord, epochs: Iterable[int], shares: Sequence[float]) -> pd.DataFrame:
    """Return the reconstruction of test operations from codes in which the other pathway has a share ρ.

    The columns are epoch, rho, pathway and exact, the percentage of operations that are right. The code is (1 - ρ) μ of
    the own pathway + ρ μ of the other pathway. `shares` contains the values of ρ.
    """
    x = _test(run.config).unsqueeze(0)
    rows = []
    for epoch in epochs:
        core = run.model(epoch).core
        mu, _ = core.encode(x)
        for rho in shares:
            found = likelihood.percent_exact(likelihood.right_entries(core, mu, x, rho))
            rows += [{"epoch": epoch, "rho": rho, "pathway": p, "exact": float(found[i, 0])}
                     for i, p in enumerate(PATHWAYS)]
    return pd.DataFrame(rows)


@with_fixed_arithmetic
def denoising_shares(runs: RunSet, epoch: int, entries: Sequence[int] = (1, 2), operations: int = 200) -> pd.DataFrame:
    """Return the percentages of flipped tables that decode to the original, the flipped and other tables.

    The columns are entries, seed, pathway, original, flipped, other and best. The flipped tables are made from test
    operations. `best` is the limit of `original` for any method (`robustness.best_denoising`).
    """
    rows = []
    for seed, p, model, x in _models(runs, epoch):
        for count in entries:
            found, best = robustness.denoising(model, p, x[:operations], count), robustness.best_denoising(count)
            rows.append({"entries": count, "seed": seed, "pathway": p, **asdict(found), "best": best})
    return pd.DataFrame(rows)


@with_fixed_arithmetic
def displaced_reconstruction(runs: RunSet, epoch: int, radii: Sequence[float]) -> pd.DataFrame:
    """Return the reconstruction of test operations whose codes are displaced by each of the lengths `radii`.

    The columns are seed, pathway, radius and exact, the percentage of operations that are right.
    """
    rows = []
    for seed, p, model, x in _models(runs, epoch):
        shares = robustness.noise_tolerance(model, p, x, radii, _stream(seed, epoch, f"noise {p}"))
        rows += [{"seed": seed, "pathway": p, "radius": r, "exact": share}
                 for r, share in zip(radii, shares, strict=True)]
    return pd.DataFrame(rows)


def half_radii(table: pd.DataFrame) -> pd.DataFrame:
    """Return the displacement `half` at which half of the test operations are still right.

    The columns are seed, pathway and half. `table` comes from `displaced_reconstruction`.
    """
    rows = []
    for (seed, p), group in table.groupby(["seed", "pathway"], sort=False):
        half = robustness.half_radius(group["radius"].tolist(), group["exact"].tolist())
        rows.append({"seed": seed, "pathway": p, "half": half})
    return pd.DataFrame(rows)


@with_fixed_arithmetic
def path_qualities(runs: RunSet, epoch: int, pairs: int = 300) -> pd.DataFrame:
    """Return the quality of latent paths between pairs of test operations, averaged over pairs at the same distance.

    The columns are model, way, seed, pathway, count and the fields of `paths.PathQuality`. There is a row per model,
    way, seed, pathway and distance. The distance is the number of entries in which the ends of a path differ, and
    `count` is the number of pairs at this distance. `model` is the run at its epoch, or an untrained network.
    """
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


@with_fixed_arithmetic
def latent_arithmetic(runs: RunSet, epoch: int, attempts: int = 4000, operations: int = 300) -> pd.DataFrame:
    """Return the results of latent arithmetic with trained and with untrained networks.

    The columns are model, task (analogy, edit), seed, pathway and the fields of `arithmetic.Arithmetic`. Edit vectors
    are means over the training split and are applied to the test split.
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


@with_fixed_arithmetic
def neighbourhood_preservation(runs: RunSet, epoch: int, anchors: int = 200) -> pd.DataFrame:
    """Return how well trained and untrained networks preserve neighbourhoods around test operations.

    The columns are model, seed, pathway, trustworthiness, continuity and shared. The measures are those of
    `neighbourhood`.
    """
    rows = []
    for name, seed, p, model, config in _with_untrained(runs, epoch):
        codes = model.encode(space.operations(), p).mean
        found = neighbourhood.preservation(codes, splits.split(config.data).test[:anchors])
        rows.append({"model": name, "seed": seed, "pathway": p, **asdict(found)})
    return pd.DataFrame(rows)


def _at(run: RunRecord, epoch: int) -> Iterator[tuple[Pathway, Mapping[str, Any]]]:
    """Yield each pathway with the probes of one epoch. Raises RunError if there are no such probes."""
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

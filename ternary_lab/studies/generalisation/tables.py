"""Tables on generalisation: unseen operations, disturbed codes, paths, arithmetic and neighbourhoods.

Some tables read the probes of the runs; the other tables measure the weights in checkpoints. Each table has a row per
seed, pathway and value of the varied quantity. Percentages are 0-100. Lengths are distances in the latent space.
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
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.backend.random_streams import stream
from ternary_lab.config import Config
from ternary_lab.errors import RunError
from ternary_lab.metrics import baselines, likelihood
from ternary_lab.model import PATHWAYS, Pathway, TernaryVAE
from ternary_lab.runs.load import RunRecord, RunSet, load_runs, local_or_published
from ternary_lab.studies.generalisation import arithmetic, neighbourhood, paths, robustness

GENERALISATION = "generalisation"
"""Folder of the runs that are trained on a part of the space, either published or under `runs`."""
LAST = 70
"""Last epoch of the runs that are trained on a part of the space. v5.5 itself is compared with them at this epoch."""
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
    found = {child.name: load_runs(child) for child in sorted(path.glob("*")) if child.is_dir()}
    if not found:
        raise RunError(f"{folder}: holds no experiments: train those of configs/generalisation")
    return found


def reconstruction_by_part(probes: pd.DataFrame) -> pd.DataFrame:
    """Return the percentages of operations and of entries that are right when decoded from their own codes.

    The columns are seed, epoch, pathway, part, exact (operations) and entries. `part` is a part of the split: train,
    validation or test.
    """
    rows = [
        pd.DataFrame({
            "seed": probes["seed"], "epoch": probes["epoch"], "pathway": p, "part": part,
            "exact": probes[f"own_{part}_{p}"], "entries": probes[f"entries_{part}_{p}"],
        })
        for p in PATHWAYS for part in ("train", "validation", "test")
    ]
    return pd.concat(rows, ignore_index=True)


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


def left_out_structures(experiments: Mapping[str, RunSet], epoch: int = LAST) -> pd.DataFrame:
    """Return the reconstruction of structures that were left out of the training, and of the test split.

    The columns are structure, title, operations, epoch, seed, pathway, left_out, test, entries_left_out and
    entries_test. `operations` is the number of operations in the structure. `left_out` and `test` are percentages of
    operations that are decoded exactly; `entries_left_out` and `entries_test` are percentages of single entries.
    """
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
    """Return the percentages of disturbed tables that decode to the original, the disturbed and other tables.

    The columns are how (flipped, erased), entries, seed, pathway, original, disturbed, other and best. The disturbed
    tables are made from test operations. For flipped entries, `best` is the limit of `original` for any model
    (`robustness.best_denoising`). For erased entries, `best` is nan.
    """
    rows = []
    for seed, p, model, x in _models(runs, epoch):
        for how in get_args(robustness.Disturbance):
            for count in entries:
                found = robustness.denoising(model, p, x[:operations], count, how)
                best = robustness.best_denoising(count) if how == "flipped" else float("nan")
                rows.append({"how": how, "entries": count, "seed": seed, "pathway": p, **asdict(found), "best": best})
    return pd.DataFrame(rows)


@with_fixed_arithmetic
def displaced_reconstruction(runs: RunSet, epochs: Iterable[int], radii: Sequence[float]) -> pd.DataFrame:
    """Return the reconstruction of test operations whose codes are displaced by each of the lengths `radii`.

    The columns are epoch, seed, pathway, radius and exact, the percentage of operations that are right.
    """
    rows = []
    for epoch in epochs:
        for seed, p, model, x in _models(runs, epoch):
            shares = robustness.noise_tolerance(model, p, x, radii, _stream(seed, epoch, f"noise {p}"))
            rows += [{"epoch": epoch, "seed": seed, "pathway": p, "radius": r, "exact": share}
                     for r, share in zip(radii, shares, strict=True)]
    return pd.DataFrame(rows)


def half_radii(table: pd.DataFrame) -> pd.DataFrame:
    """Return the displacement `half` at which half of the test operations are still right.

    The columns are epoch, seed, pathway and half. `table` comes from `displaced_reconstruction`.
    """
    rows = []
    for (epoch, seed, p), group in table.groupby(["epoch", "seed", "pathway"], sort=False):
        half = robustness.half_radius(group["radius"].tolist(), group["exact"].tolist())
        rows.append({"epoch": epoch, "seed": seed, "pathway": p, "half": half})
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

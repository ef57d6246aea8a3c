"""Evidence on the claims: runs of several seeds, probes, counterfactuals and untrained networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path

import pandas as pd
import torch

from ternary_lab import space, splits
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.backend.random_streams import Streams
from ternary_lab.config import COUNTERFACTUALS, Config
from ternary_lab.config_files import shipped_counterfactuals
from ternary_lab.errors import RunError
from ternary_lab.metrics.coverage import drawn_operations
from ternary_lab.metrics.evaluate import SAMPLES
from ternary_lab.model import PATHWAYS, Architecture, DualVAE
from ternary_lab.runs.files import read_csv
from ternary_lab.runs.load import ANSWERS, CONFIG, FULL, PUBLISHED, RunRecord, load_runs
from ternary_lab.studies.probes import probe_run

UNTRAINED = 5
"""Number of untrained networks in the baseline."""


@dataclass(frozen=True)
class SeedEvidence:
    """The evidence of one seed."""

    seed: int
    config: Config
    history: pd.DataFrame
    """A row per epoch, with the epoch as index."""
    probes: pd.DataFrame
    """A row per epoch that has a checkpoint, with the epoch as index. The table is empty if there is no such epoch."""
    stopped: str
    controls: Mapping[str, SeedEvidence] = field(default_factory=dict)
    """Counterfactuals of the same seed by name, and the run over all planned epochs under the name `FULL`."""
    weight_measures: Mapping[str, float] = field(default_factory=dict)
    """Measures of several checkpoints together (`tools/weight_measures.py`), by name. Only published runs have them."""

    def at(self, column: str, epoch: int) -> float:
        """Return the value of a column at one epoch, from the history or the probes; nan if the value is missing."""
        table = self.history if column in self.history else self.probes
        return float(table[column].loc[epoch]) if column in table and epoch in table.index else math.nan

    def over(self, column: str, first: int, last: int) -> pd.Series[float]:
        """Return a column over the existing epochs from `first` to `last`."""
        table = self.history if column in self.history else self.probes
        return table.loc[first:last, column] if column in table else pd.Series(dtype=float)

    def mean(self, column: str, first: int, last: int) -> float:
        return float(self.over(column, first, last).mean())

    def both(self, column: str, epoch: int) -> float:
        """Return the mean of a quantity over both pathways at one epoch."""
        return (self.at(f"{column}_A", epoch) + self.at(f"{column}_B", epoch)) / 2

    @property
    def last(self) -> int:
        return int(self.history.index.max())

    @property
    def best(self) -> int:
        """Epoch with the lowest validation loss."""
        return _first(self.history["val_loss"], min)

    @property
    def peak(self) -> int:
        """Epoch, up to 103, with the highest sampled coverage averaged over both pathways."""
        return _first(self.history[["coverage_A", "coverage_B"]].mean(axis=1).loc[:103], max)

    def of_weights(self, measure: str) -> float:
        """Return one of `weight_measures`, or nan if this measure was not made."""
        return self.weight_measures.get(measure, math.nan)

    def change_after_119(self, name: str) -> float:
        """Return the change of a quantity from epoch 119 to the last epoch in the run over all planned epochs.

        The quantity is averaged over both pathways. The result is nan if there is no such run.
        """
        full = self.controls.get(FULL)
        return full.both(name, full.last) - full.both(name, 119) if full is not None else math.nan

    def against(self, control: str, measure: Callable[[SeedEvidence], float]) -> float:
        """Return a measure of this run minus the same measure of a counterfactual.

        The result is nan if the counterfactual was not trained with this seed.
        """
        return measure(self) - measure(self.controls[control]) if control in self.controls else math.nan


def _first(series: pd.Series[float], pick: Callable[..., float]) -> int:
    """Return the first epoch with the least or the greatest value of a series. `pick` is min or max."""
    values = series.tolist()
    return int(series.index.tolist()[values.index(pick(values))])


@dataclass(frozen=True)
class Evidence:
    """The evidence of at least two runs of one configuration."""

    runs: Sequence[SeedEvidence]

    @property
    def config(self) -> Config:
        return self.runs[0].config

    @cached_property
    def architecture(self) -> Architecture:
        return Architecture(self.config.model)

    @cached_property
    def split(self) -> space.Split:
        return splits.split(self.config.data)

    @cached_property
    def untrained_coverage(self) -> dict[str, list[float]]:
        """Sampled coverages of untrained networks, in percent, by pathway."""
        found: dict[str, list[float]] = {p: [] for p in PATHWAYS}
        for seed in range(UNTRAINED):
            model = DualVAE(self.architecture, self.architecture.initialise(seed))
            for p in PATHWAYS:
                streams = Streams([seed], "evaluation", 0, p, device=model.device)
                drawn = drawn_operations(model, p, SAMPLES, "categorical", streams)
                found[p].append(100 * drawn.float().mean().item())
        return found

    @cached_property
    def hash_minus_distinct(self) -> int:
        """Number of operations counted by hashes of tuples minus the number counted by index, for the same draws."""
        model = DualVAE(self.architecture, self.architecture.initialise(0))
        streams = Streams([0], "evaluation", 0, "hash", device=model.device)
        drawn = drawn_operations(model, "A", 20_000, "categorical", streams)[0]
        tables = space.operations(torch.nonzero(drawn).flatten())
        return len({hash(tuple(row)) for row in tables.int().tolist()}) - int(drawn.sum())


@with_fixed_arithmetic
def collect_evidence(sources: Sequence[str | Path], *, progress: bool = False) -> Evidence:
    """Collect the evidence of runs with at least two seeds in all.

    `sources` contains run directories, experiments, or names of published runs or experiments. The probes of a run are
    read if they exist, and computed if the run has checkpoints. Counterfactuals come from the folder
    `../counterfactuals` beside the runs or, for v5.5 itself, from the published ones. Raises RunError for no run, fewer
    than two runs, a repeated seed, or runs of different configurations.
    """
    records = [run for source in sources for run in load_runs(source).values()]
    seeds = [run.seed for run in records]
    if len(set(seeds)) < len(seeds):
        raise RunError(f"seed {max(seeds, key=seeds.count)} is given twice: the claims are judged over different seeds")
    if len(records) < 2:
        raise RunError(
            f"{records[0].path}: one run has no spread to judge claims by: give several seeds, "
            "for example the published v5_5"
        )
    for record in records[1:]:
        if record.config.model_dump(exclude={"name"}) != records[0].config.model_dump(exclude={"name"}):
            raise RunError(f"{record.path}: is of another configuration than {records[0].path}: judge them apart")
    return Evidence([_of_seed(record, progress) for record in records])


def _of_seed(record: RunRecord, progress: bool) -> SeedEvidence:
    controls: dict[str, SeedEvidence] = {}
    places = [*(f"{COUNTERFACTUALS}/{c.name}" for c in shipped_counterfactuals()), FULL]
    changes = {"training", "early_stopping", "checkpoints", "beta", "kl", "optimiser", "name"}
    for folder, place in product((record.path.parent.parent, PUBLISHED), places):
        path, name = folder / place / f"seed={record.seed}", place.rpartition("/")[2]
        if name in controls or not (path / CONFIG).is_file():
            continue
        control = RunRecord(path)
        same = control.config.model_dump(exclude=changes) == record.config.model_dump(exclude=changes)
        if same and control.stopped is not None:
            controls[name] = _without_probes(control)
    probes = record.probes
    if probes is None:
        probes = probe_run(record, progress=progress) if record.epochs else pd.DataFrame({"epoch": []})
    plain = _without_probes(record)
    found: dict[str, float] = {}
    if record.path.is_relative_to(PUBLISHED) and (PUBLISHED / ANSWERS).is_file():
        table = read_csv(PUBLISHED / ANSWERS)
        of_seed = table[table["seed"] == record.seed]
        found = dict(zip(of_seed["measure"], of_seed["value"], strict=True))
    return replace(plain, probes=probes.set_index("epoch"), controls=controls, weight_measures=found)


def _without_probes(record: RunRecord) -> SeedEvidence:
    history = record.history.set_index("epoch")
    return SeedEvidence(record.seed, record.config, history, pd.DataFrame(), record.stopped or "unfinished")

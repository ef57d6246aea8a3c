"""Evidence on the claims: runs of several seeds, probes, counterfactuals and untrained networks."""

from __future__ import annotations

import functools
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
from ternary_lab.metrics.baselines import untrained
from ternary_lab.metrics.coverage import drawn_operations
from ternary_lab.metrics.evaluate import SAMPLES
from ternary_lab.model import PATHWAYS, Architecture
from ternary_lab.runs.files import read_csv
from ternary_lab.runs.load import ANSWERS, CONFIG, FULL, PUBLISHED, RunRecord, load_runs
from ternary_lab.studies.probes import probe_run
from ternary_lab.studies.statistics import CYCLE

CHANGES = {"training", "early_stopping", "checkpoints", "beta", "kl", "optimiser", "rho", "name"}
"""Sections of the configuration in which a counterfactual may differ from the runs that it is compared with."""
COUNTED = ("coverage_", "unique_ops_")
"""Beginnings of the names of the history columns that count draws."""
V5_5, RECIPES, ALTERNATIVES = "v5_5", "recipes.csv", "alternatives.csv"
TABLE_COLUMNS = ("informative_coverage", "effective_coverage", "neg_elbo", "neg_iwae")
"""Columns of `RECIPES` and `ALTERNATIVES` that rules read."""


class MissingValueError(RuntimeError):
    """A rule reads a value that a run does not have. It is an error of the rule, which must declare what it needs."""


class NotMeasuredError(Exception):
    """A rule reads a quantity that a run does not measure, as its configuration says."""


@dataclass(frozen=True)
class SeedEvidence:
    """The evidence of one seed.

    A missing value is never skipped. Its reading raises NotMeasuredError if the run counts no coverage at every epoch,
    as its configuration says, and otherwise MissingValueError.
    """

    seed: int
    config: Config
    history: pd.DataFrame
    """A row per epoch, with the epoch as index."""
    probes: pd.DataFrame
    """A row per epoch that has a checkpoint, with the epoch as index. The table is empty if there is no such epoch."""
    stopped: str
    controls: Mapping[str, SeedEvidence] = field(default_factory=dict)
    """Counterfactuals of the same seed by name, and the run over all planned epochs under the name `FULL`."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """Measures of this seed in published tables, by name. Only published runs of v5.5 have them."""

    def at(self, column: str, epoch: int) -> float:
        """Return the value of a column at one epoch, from the history or the probes."""
        return float(self.over(column, epoch, epoch).iloc[0])

    def over(self, column: str, first: int, last: int) -> pd.Series[float]:
        """Return a column over the existing epochs from `first` to `last`, from the history or the probes."""
        table = self.history if column in self.history else self.probes
        values = table.loc[first:last, column] if column in table else pd.Series(dtype=float)
        if not len(values) or values.isna().any():
            if column.startswith(COUNTED) and self.config.evaluation.coverage_at != "every_epoch":
                raise NotMeasuredError("The runs given count no coverage at every epoch (evaluation.coverage_at).")
            where = f"epoch {first}" if first == last else f"epochs {first} to {last}"
            raise MissingValueError(f"the run of seed {self.seed} has no {column} in {where}")
        return values

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
        return _first(self.over("val_loss", 0, self.last), min)

    @property
    def peak(self) -> int:
        """Epoch, up to 103, with the highest sampled coverage averaged over both pathways."""
        return _first(self.over("coverage_A", 0, 103) + self.over("coverage_B", 0, 103), max)

    def cycle(self, column: str, last: int = 103) -> float:
        """Return the mean of a quantity over both pathways and over the cycle of τ_A that ends with epoch `last`."""
        return sum(self.mean(f"{column}_{p}", last - CYCLE + 1, last) for p in PATHWAYS) / len(PATHWAYS)

    def of_table(self, measure: str) -> float:
        """Return one of `measures`."""
        if measure not in self.measures:
            raise MissingValueError(f"the published tables have no {measure!r} of seed {self.seed}")
        return self.measures[measure]

    def control(self, name: str) -> SeedEvidence:
        """Return the counterfactual of this seed with the given name."""
        if name not in self.controls:
            raise MissingValueError(f"the run of seed {self.seed} has no counterfactual {name}")
        return self.controls[name]

    def change_after_119(self, name: str) -> float:
        """Return the change of a quantity from epoch 119 to the last epoch in the run over all planned epochs.

        The quantity is averaged over both pathways.
        """
        full = self.control(FULL)
        return full.both(name, full.last) - full.both(name, 119)

    def against(self, control: str, measure: Callable[[SeedEvidence], float]) -> float:
        """Return a measure of this run minus the same measure of a counterfactual."""
        return measure(self) - measure(self.control(control))


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
        """Sampled coverages of the runs' own networks before training, in percent, by pathway, in the order of runs.

        Each is one count of as many draws as in the report.
        """
        found: dict[str, list[float]] = {p: [] for p in PATHWAYS}
        for run in self.runs:
            model = untrained(run.seed, self.config.model).core
            for p in PATHWAYS:
                streams = Streams([run.seed], "evaluation", 0, p, device=model.device)
                drawn = drawn_operations(model, p, SAMPLES, "categorical", streams)
                found[p].append(100 * drawn.float().mean().item())
        return found

    @cached_property
    def hash_minus_distinct(self) -> int:
        """Number of operations counted by hashes of tuples minus the number counted by index, for the same draws."""
        model = untrained(0, self.config.model).core
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
    than two runs, a repeated seed, runs of different configurations, or a run that does not begin with epoch 0.
    """
    records = [run for source in sources for run in load_runs(source).values()]
    seeds = [run.seed for run in records]
    if len(set(seeds)) < len(seeds):
        raise RunError(f"seed {max(seeds, key=seeds.count)} is given twice: give each seed once")
    if len(records) < 2:
        raise RunError(
            f"{records[0].path}: one run has no spread to judge claims by: give several seeds, "
            "for example the published v5_5"
        )
    for record in records[1:]:
        if record.config.model_dump(exclude={"name"}) != records[0].config.model_dump(exclude={"name"}):
            raise RunError(f"{record.path}: is of another configuration than {records[0].path}: judge them apart")
    for record in records:
        first = int(record.history["epoch"].min())
        if first > 0:
            raise RunError(f"{record.path}: begins with epoch {first}: give runs from epoch 0 on, as in the claims")
    return Evidence([_of_seed(record, progress) for record in records])


def _of_seed(record: RunRecord, progress: bool) -> SeedEvidence:
    controls: dict[str, SeedEvidence] = {}
    places = [*(f"{COUNTERFACTUALS}/{c.name}" for c in shipped_counterfactuals()), FULL]
    for folder, place in product((record.path.parent.parent, PUBLISHED), places):
        path, name = folder / place / f"seed={record.seed}", place.rpartition("/")[2]
        if name in controls or not (path / CONFIG).is_file():
            continue
        control = RunRecord(path)
        same = control.config.model_dump(exclude=CHANGES) == record.config.model_dump(exclude=CHANGES)
        if same and control.stopped is not None:
            controls[name] = _without_probes(control)
    probes = record.probes
    if probes is None:
        probes = probe_run(record, progress=progress) if record.epochs else pd.DataFrame({"epoch": []})
    plain = _without_probes(record)
    measures = _table_measures().get(record.seed, {}) if record.path.parent == PUBLISHED / V5_5 else {}
    return replace(plain, probes=probes.set_index("epoch"), controls=controls, measures=measures)


@functools.cache
def _table_measures() -> dict[int, dict[str, float]]:
    """Return the measures in the published tables by seed and by name.

    The names are "<measure>" for answers.csv, "<recipe>: <column>_<pathway>" for recipes.csv (last epoch, most latents)
    and "<model> β=<beta>: <column>" for alternatives.csv.
    """
    found: dict[int, dict[str, float]] = {}
    answers, recipes, models = (read_csv(PUBLISHED / name) for name in (ANSWERS, RECIPES, ALTERNATIVES))
    for row in answers.to_dict("records"):
        found.setdefault(row["seed"], {})[row["measure"]] = row["value"]
    final = recipes[recipes["factor"].isna() | (recipes["factor"] == 1)].sort_values(["epoch", "latents"])
    for row in final.to_dict("records"):
        found.setdefault(row["seed"], {}).update(
            {f"{row['recipe']}: {column}_{row['pathway']}": row[column] for column in TABLE_COLUMNS}
        )
    for row in models[models["beta"].notna()].to_dict("records"):
        found.setdefault(row["seed"], {}).update(
            {f"{row['model']} β={row['beta']:g}: {column}": row[column] for column in TABLE_COLUMNS}
        )
    return found


def _without_probes(record: RunRecord) -> SeedEvidence:
    history = record.history.set_index("epoch")
    return SeedEvidence(record.seed, record.config, history, pd.DataFrame(), record.stopped or "unfinished")

"""Training of a sweep in cohorts on any engine, its progress, and its table of results.

    RUN_DIR/results.csv     a row per run: the keys of its point, seed, status, final metrics

The other files of the directory are described in `plan`.
"""

from __future__ import annotations

import csv
import io
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from ternary_lab.backend.numerics import fenced
from ternary_lab.errors import RunError
from ternary_lab.history import COLUMNS, OLD_NAMES, TIMING_COLUMNS
from ternary_lab.runs.checksums import check_csv
from ternary_lab.runs.directory import RunPlan
from ternary_lab.runs.files import write_atomically
from ternary_lab.runs.load import HISTORY, local_or_published, read_text
from ternary_lab.runs.locks import locked
from ternary_lab.runs.train import train_runs
from ternary_lab.sweeps import engines
from ternary_lab.sweeps.design import Sweep
from ternary_lab.sweeps.plan import Cohort, Plan, assign_cohorts, cell, directory

RESULTS = "results.csv"
PUBLISHED_SWEEP, TABLE = "warmup_rho_wide", "sweep.csv"
"""The sweep whose table is published, and that table's name."""
METRICS = tuple(name for name in COLUMNS if name not in ("run", "seed", "epoch", *TIMING_COLUMNS))
"""Columns of the history that the table has, with the values of a run's last epoch; times are not results."""
PATIENCE = 120.0
"""Seconds to wait for a run's directory: a file server may keep the lock of a dead process that long."""
EVERY = 30.0
"""Seconds between two lines about the progress of a sweep."""


@fenced
def run_sweep(
    sweep: Sweep,
    run_dir: str | Path | None = None,
    *,
    engine: str = "local",
    address: str | None = None,
    device: str = "auto",
    progress: bool = False,
) -> pd.DataFrame:
    """Train the unfinished runs of a sweep and return its table, which is also written to results.csv as it grows.

    Args:
        run_dir: default `runs/sweeps/<sweep.name>`. With Ray it must be on a file system that all nodes share.
        engine: local or ray, see `engines`.
        address: of the Ray cluster.
        device: auto, cpu or cuda.
        progress: lines, and on a terminal a bar, on stderr.

    A run that fails does not stop the others. The table gives the reason, and the next call tries again unless the run
    diverged. Raises ConfigError for a point that is not a configuration, RunError when another process trains this
    sweep, EngineError, DeviceError.
    """
    root = directory(sweep, run_dir)
    plan = Plan.read(sweep, root)
    if not plan.unassigned() and not plan.to_train():
        write_results(plan)
        return results(sweep, root)
    with engines.engine(engine, address, device) as workers, locked(root):
        plan = assign_cohorts(Plan.read(sweep, root), workers)
        files = plan.to_train()
        for file in files:
            if plan.cohorts[file].failure is not None:  # it is tried again
                Cohort(plan.cohorts[file].runs).write(file)
        plan = plan.now()
        lines = _Lines(plan, progress)
        lines.write(f"{len(files)} of {len(plan.cohorts)} cohorts to train on {workers.device}")
        write_results(plan)
        tasks = []
        for file in files:
            # Paths are absolute because a worker may have another working directory.
            runs = [
                RunPlan((root / run.name).absolute(), run.point.config, run.seed, label=run.name)
                for run in plan.members(file)
            ]
            tasks.append(partial(
                train_runs, runs, device=workers.device, progress=progress and engine == "local", lock_timeout=PATIENCE
            ))
        for index, failure in workers.run(tasks, lines.write_if_due):
            if failure is not None:  # written here and not by the task, because a worker may be killed
                Cohort(plan.cohorts[files[index]].runs, failure).write(files[index])
            plan = plan.now()
            write_results(plan)
            lines.write(str(progress_of(plan)))
        return results(sweep, root)


# Progress


@dataclass(frozen=True)
class Progress:
    """How far a sweep is; its fields are the JSON of `sweep --status --json`."""

    sweep: str
    run_dir: str
    points: int
    runs: int
    done: int
    running: int
    failed: int
    left: int
    epochs_done: int
    epochs: int
    """RunPlan epochs of all runs; runs that stop early need fewer."""
    seconds_left: float | None
    """None before the first epochs; 0 when nothing is left."""
    failures: Mapping[str, str]
    """Run -> reason."""

    def __str__(self) -> str:
        counts = f"{self.done} of {self.runs} runs done, {self.running} running, {self.failed} failed, {self.left} left"
        if self.seconds_left == 0:
            return counts
        return f"{counts}; " + ("time to go not known yet" if self.seconds_left is None else _span(self.seconds_left))


def status(sweep: Sweep, run_dir: str | Path | None = None) -> Progress:
    """The progress of a sweep, by its files: also while another process trains it. Raises as `Plan.read`."""
    return progress_of(Plan.read(sweep, directory(sweep, run_dir)))


def progress_of(plan: Plan) -> Progress:
    """Counts of runs and epochs, and the time to go.

    The time to go is the number of epochs left in all runs, times the seconds that an epoch of one run has taken (the
    wall time of a cohort divided by its runs), divided by the number of cohorts that train now, at least one.
    """
    runs = plan.runs
    counts = Counter(run.status for run in runs.values())
    total = {name: run.point.config.training.total_epochs for name, run in runs.items()}
    to_go = sum(total[name] - run.epochs for name, run in runs.items() if run.status in ("running", "left"))
    wall, trained, busy = 0.0, 0, 0
    for file in plan.cohorts:
        members = plan.members(file)
        wall += max((run.seconds for run in members), default=0.0)
        trained += sum(run.epochs for run in members)
        busy += any(run.status == "running" for run in members)
    seconds = 0.0 if not to_go else to_go * wall / trained / max(1, busy) if trained else None
    return Progress(
        plan.sweep.name, str(plan.root), len(runs) // len(plan.sweep.seeds), len(runs),
        counts["done"], counts["running"], counts["failed"], counts["left"],
        sum(run.epochs for run in runs.values()), sum(total.values()), seconds,
        {name: run.reason for name, run in runs.items() if run.status == "failed"},
    )


def _span(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"about {seconds / length:.0f} {unit} to go"
    return f"about {seconds:.0f} s to go"


class _Lines:
    """Lines about the progress of a sweep, on stderr."""

    def __init__(self, plan: Plan, show: bool) -> None:
        self.plan, self.show, self.last = plan, show, time.monotonic()

    def write(self, text: str) -> None:
        self.last = time.monotonic()
        if self.show:
            print(f"{self.plan.sweep.name}: {text}", file=sys.stderr, flush=True)

    def write_if_due(self) -> None:
        """Write the progress, if the last line is older than `EVERY` seconds."""
        if self.show and time.monotonic() - self.last > EVERY:
            self.write(str(progress_of(self.plan.now())))


# The table


def results(sweep: Sweep, run_dir: str | Path | None = None) -> pd.DataFrame:
    """The table as it is now, by the files of the runs; its columns are those of results.csv.

    These are point, seed, a column per key of the design, status, reason, epochs, and `METRICS` of the last epoch.
    Runs that are not done have metrics only if they failed after some epochs. Raises as `Plan.read`.
    """
    plan = Plan.read(sweep, directory(sweep, run_dir))
    return read_results(io.StringIO(_table(plan)))


def read_results(source: str | Path | io.StringIO) -> pd.DataFrame:
    """The table in a results.csv, every number exactly as it was written."""
    return pd.read_csv(source, keep_default_na=False, na_values=["", "nan"]).rename(columns=OLD_NAMES)


def load_results(path: str | Path = TABLE) -> pd.DataFrame:
    """The published table, or that of a file. Raises RunError when there is none."""
    file = local_or_published(path)
    if not file.is_file():
        raise RunError(f"{path}: no table of a sweep: make one with `ternary-lab sweep`")
    return read_results(file)


def write_results(plan: Plan) -> None:
    """Write results.csv, replacing it in one step. Raises RunError."""
    write_atomically(plan.root / RESULTS, _table(plan).encode())


def _table(plan: Plan) -> str:
    """The table as CSV. Metrics are copied from the histories as text, so that no digit changes."""
    keys = list(plan.sweep.design.keys)
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["point", "seed", *keys, "status", "reason", "epochs", *METRICS])
    for run in plan.runs.values():
        last: dict[str, str] = {}
        if run.status in ("done", "failed") and run.epochs:
            try:
                last = _last_row(plan.root / run.name / HISTORY)
            except RunError as error:
                run = replace(run, status="failed", reason=str(error))
        out.writerow([
            run.name.split("/")[0], run.seed, *(cell(run.point.values[key]) for key in keys),
            run.status, run.reason, run.epochs, *(last.get(name, "") for name in METRICS),
        ])
    return text.getvalue()


def _last_row(history: Path) -> dict[str, str]:
    """The last row of a run's history, by column. Raises RunError when it is damaged."""
    first, *_, last = read_text(history).splitlines(keepends=True)
    head, row = csv.reader(check_csv(first + last, history).splitlines())
    return {OLD_NAMES.get(name, name): value for name, value in zip(head, row, strict=True)}

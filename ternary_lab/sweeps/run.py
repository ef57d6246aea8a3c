"""Training of a sweep in cohorts on any engine, its progress, and its table of results.

    RUN_DIR/results.csv     a row per run: the keys of its point, seed, status, final metrics

The module `plan` describes the other files of the directory.
"""

from __future__ import annotations

import csv
import io
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from ternary_lab.arguments import read_path, require
from ternary_lab.backend.console import say, time_to_go
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.errors import RunError
from ternary_lab.history import COLUMNS, OLD_NAMES, TIMING_COLUMNS
from ternary_lab.runs.checksums import check_csv
from ternary_lab.runs.directory import RunPlan
from ternary_lab.runs.files import read_csv, write_atomically
from ternary_lab.runs.load import HISTORY, local_or_published, read_text
from ternary_lab.runs.locks import locked
from ternary_lab.runs.train import train_runs
from ternary_lab.sweeps import engines
from ternary_lab.sweeps.design import Sweep
from ternary_lab.sweeps.plan import Cohort, Plan, assign_cohorts, cell, directory

RESULTS = "results.csv"
PUBLISHED_SWEEP, TABLE = "warmup_rho_wide", "sweep.csv"
"""Names of the published sweep and of its table."""
METRICS = tuple(name for name in COLUMNS if name not in ("run", "seed", "epoch", *TIMING_COLUMNS))
"""Columns of the history that the table contains, with their values in a run's last epoch. Times are not results."""
PATIENCE = 120.0
"""Longest wait for a run's directory, in seconds. A file server may keep the lock of a dead process that long."""
EVERY = 30.0
"""Longest time in seconds between two lines about the progress of a sweep."""


@with_fixed_arithmetic
def run_sweep(
    sweep: Sweep,
    run_dir: str | Path | None = None,
    *,
    engine: str = "local",
    address: str | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> pd.DataFrame:
    """Train the unfinished runs of a sweep and return its table, which is also written to results.csv as it grows.

    Args:
        run_dir: directory of the sweep; by default `runs/sweeps/<sweep.name>`. With Ray, all nodes must share it.
        engine: local or ray, see `engines`.
        address: address of the Ray cluster.
        device: auto, cpu or cuda; the local engine also takes the number of a GPU, such as cuda:1.
        progress: whether to show lines, and on a terminal a bar, on stderr.

    A run that fails does not stop the other runs. The table gives the reason of the failure. The next call tries the
    run again, unless the run diverged.

    Raises ConfigError if a point is not a valid configuration, and RunError if another process trains this sweep. Also
    raises EngineError and DeviceError as `engines.engine` does.
    """
    require(sweep, Sweep, "sweep", "read a file with load_sweep")
    root = directory(sweep, run_dir)
    plan = Plan.read(sweep, root)
    if not plan.unassigned() and not plan.to_train():
        write_results(plan)
        return results(sweep, root)
    with engines.engine(engine, address, device) as workers, locked(root):
        plan = assign_cohorts(Plan.read(sweep, root), workers)
        files = plan.to_train()
        for file in files:
            if plan.cohorts[file].failure is not None:  # this cohort is tried again
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
            if failure is not None:  # the task does not write this, because a worker may be killed
                Cohort(plan.cohorts[files[index]].runs, failure).write(files[index])
            plan = plan.now()
            write_results(plan)
            lines.write(str(progress_of(plan)))
        return results(sweep, root)


# Progress


@dataclass(frozen=True)
class Progress:
    """Progress of a sweep. `sweep --status --json` prints the fields as JSON."""

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
    """Planned epochs of all runs. Runs that stop early need fewer epochs."""
    seconds_left: float | None
    """Estimated time to go, in seconds: None before the first epochs, 0 if no epoch is left."""
    failures: Mapping[str, str]
    """Reason of the failure, by the name of each failed run."""

    def __str__(self) -> str:
        counts = f"{self.done} of {self.runs} runs done, {self.running} running, {self.failed} failed, {self.left} left"
        if self.seconds_left == 0:
            return counts
        left = self.seconds_left
        return f"{counts}; " + ("time to go not known yet" if left is None else time_to_go(left))


def status(sweep: Sweep, run_dir: str | Path | None = None) -> Progress:
    """Return the progress of a sweep from its files, even while another process trains it.

    Raises as `Plan.read` does.
    """
    return progress_of(Plan.read(sweep, directory(sweep, run_dir)))


def progress_of(plan: Plan) -> Progress:
    """Count the runs and epochs of a plan, and estimate the time to go.

    The time to go is a · b / c. Here a is the number of epochs that are left in runs that are neither done nor failed.
    b is the mean time of an epoch of one run: the wall time of all cohorts, divided by the number of epochs of all
    their runs. c is the number of cohorts that train now, and at least 1.
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


class _Lines:
    """Printer of lines about the progress of a sweep, on stderr."""

    def __init__(self, plan: Plan, show: bool) -> None:
        self.plan, self.show, self.last = plan, show, time.monotonic()

    def write(self, text: str) -> None:
        self.last = time.monotonic()
        if self.show:
            say(f"{self.plan.sweep.name}: {text}")

    def write_if_due(self) -> None:
        """Write the progress if more than `EVERY` seconds have passed since the last line."""
        if self.show and time.monotonic() - self.last > EVERY:
            self.write(str(progress_of(self.plan.now())))


# The table


def results(sweep: Sweep, run_dir: str | Path | None = None) -> pd.DataFrame:
    """Return the present table of a sweep, computed from the files of its runs.

    The columns are those of results.csv: point, seed, a column per key of the design, status, reason, epochs, and
    `METRICS` of the last epoch. A run that is not done has metrics only if it failed after at least one epoch. Raises
    as `Plan.read` does.
    """
    plan = Plan.read(sweep, directory(sweep, run_dir))
    return read_results(io.StringIO(_table(plan)))


def read_results(source: str | Path | io.StringIO) -> pd.DataFrame:
    """Read the table in a results.csv. Every number is read exactly as it was written."""
    if not isinstance(source, io.StringIO):
        source = read_path(source)
    return read_csv(source, keep_default_na=False, na_values=["", "nan"]).rename(columns=OLD_NAMES)


def load_results(path: str | Path = TABLE) -> pd.DataFrame:
    """Load the table of results from the file `path`; by default, load the published table.

    Raises RunError if there is no such file.
    """
    file = local_or_published(path)
    if not file.is_file():
        raise RunError(f"{path}: no table of a sweep: make one with `ternary-lab sweep`")
    return read_results(file)


def write_results(plan: Plan) -> None:
    """Write results.csv, replacing the old file in one step. Raises RunError if the file cannot be written."""
    write_atomically(plan.root / RESULTS, _table(plan).encode())


def _table(plan: Plan) -> str:
    """Return the table as CSV text. Metrics are copied from the histories as text, so that no digit changes."""
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
    """Return the last row of a run's history, as text by column. Raises RunError if the row is damaged."""
    first, *_, last = read_text(history).splitlines(keepends=True)
    head, row = csv.reader(check_csv(first + last, history).splitlines())
    return {OLD_NAMES.get(name, name): value for name, value in zip(head, row, strict=True)}

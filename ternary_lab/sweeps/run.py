"""Many settings, many seeds, one table: a sweep trained in cohorts on any engine, from and into run directories.

    RUN_DIR/results.csv                       a row per run: its point's keys, seed, status, final metrics
    RUN_DIR/cohorts/0001.json                 which runs train side by side, and how that ended
    RUN_DIR/rho.isolated=0.1-0a1b2c3d4e/      a point: what it sets in words, and a digest of all its settings
        seed=42/                              a run directory (see `record`)

The files are all there is to know: a sweep that is started again, by whatever process and engine, finds what is done by
the digests and goes on with the rest. Who trains beside whom is settled once and kept, because it changes the
rounding: the same cohorts give the same table, bit for bit, wherever and however often interrupted they are trained.
Runs that are added later make cohorts of their own.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ternary_lab.backend.numerics import fenced
from ternary_lab.config import Config, flatten, is_structural
from ternary_lab.errors import RunError, TernaryLabError
from ternary_lab.history import COLUMNS, OLD_NAMES, TIMING_COLUMNS
from ternary_lab.runs.checksums import check_csv
from ternary_lab.runs.directory import RunPlan
from ternary_lab.runs.files import write_atomically
from ternary_lab.runs.load import CONFIG, HISTORY, RunRecord, local_or_published, read_text
from ternary_lab.runs.locks import is_locked, locked
from ternary_lab.runs.train import train_runs
from ternary_lab.sweeps import engines
from ternary_lab.sweeps.design import Point, Sweep, points
from ternary_lab.sweeps.engines import Engine
from ternary_lab.training.memory import free_bytes, run_bytes

Status = Literal["done", "running", "failed", "left"]

RESULTS, COHORTS = "results.csv", "cohorts"
LARGER, TABLE = "warmup_rho_wide", "sweep.csv"
"""The sweep whose table is published, and that table's name."""
METRICS = tuple(name for name in COLUMNS if name not in ("run", "seed", "epoch", *TIMING_COLUMNS))
"""Columns of the history that the table has, as they are in a run's last epoch; times are not results."""
DIGITS = 10
"""Hexadecimal digits of a point's digest: two of 10,000 points share one with a chance of 5e-5."""
PATIENCE = 120.0
"""Seconds to wait for a run's directory: so long a file server may keep the lock of a process that has died."""
EVERY = 30.0
"""Seconds between two lines on how far a sweep is."""
CPU_RUNS = 8
"""Runs side by side at most on a CPU: more of them take as long a run (benchmarks/cpu.json)."""


@dataclass(frozen=True)
class Run:
    """A run of a sweep, and its directory's name within the sweep's: POINT/seed=42."""

    name: str
    point: Point
    seed: int


@dataclass(frozen=True)
class Cohort:
    """Runs that train side by side, by name, and how it ended: what its file holds."""

    runs: tuple[str, ...]
    finished: bool = False
    failure: str | None = None
    """Why its last training broke off, if it did."""

    def write(self, path: Path) -> None:
        """Raises RunError."""
        write_atomically(path, json.dumps(vars(self), indent=1, ensure_ascii=False).encode())

    @staticmethod
    def read(path: Path) -> Cohort:
        """Raises RunError for a file that is damaged."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return Cohort(tuple(map(str, data["runs"])), bool(data["finished"]), data["failure"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path}: cannot be read: {error!r}: delete it, its runs then join new cohorts") from None


@dataclass(frozen=True)
class Plan:
    """A sweep and what its directory holds. Nothing is written by reading it."""

    sweep: Sweep
    root: Path
    runs: Mapping[str, Run]
    """By name, seed by seed: the first seed of every point comes first."""
    cohorts: Mapping[Path, Cohort]
    """By file; they may hold runs that the sweep no longer has."""

    @staticmethod
    def of(sweep: Sweep, root: Path) -> Plan:
        """Raises ConfigError for points that are none, RunError for a damaged file."""
        found = points(sweep)
        existing = {path.name.rpartition("-")[2]: path.name for path in root.glob(f"*-{'?' * DIGITS}")}
        folders = [existing.get(digest(point.config)) or _folder(point) for point in found]
        runs = (
            Run(f"{folder}/seed={seed}", point, seed)
            for seed in sweep.seeds for folder, point in zip(folders, found, strict=True)
        )
        files = sorted((root / COHORTS).glob("*.json"))
        return Plan(sweep, root, {run.name: run for run in runs}, {file: Cohort.read(file) for file in files})

    def now(self) -> Plan:
        """The same plan, with the cohorts' files as they are now."""
        return replace(self, cohorts={file: Cohort.read(file) for file in self.cohorts})

    def members(self, file: Path) -> list[Run]:
        """The runs of a cohort that the sweep has."""
        return [self.runs[name] for name in self.cohorts[file].runs if name in self.runs]

    def unassigned(self) -> list[Run]:
        """Runs that no cohort has yet."""
        taken = {name for cohort in self.cohorts.values() for name in cohort.runs}
        return [run for run in self.runs.values() if run.name not in taken]

    def to_train(self) -> list[Path]:
        """Files of the cohorts that have something left to do."""
        return [
            file for file, cohort in self.cohorts.items()
            if (members := self.members(file))
            and not (cohort.finished and all(_stopped(self.root / run.name) for run in members))
        ]


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
    """Train what is left of a sweep and return its table, which is also written to results.csv as it grows.

    Args:
        run_dir: default `runs/sweeps/<sweep.name>`. With Ray it must lie on a file system that all nodes share.
        engine: local or ray, see `engines`.
        address: of the Ray cluster.
        device: auto, cpu or cuda.
        progress: lines, and on a terminal a bar, on stderr.

    A run that fails does not end the others; the table says why, and the next call tries again what did not end by
    itself. Raises ConfigError for a point that is no configuration, RunError when another process sweeps here,
    EngineError, DeviceError.
    """
    root = directory(sweep, run_dir)
    plan = Plan.of(sweep, root)
    if not plan.unassigned() and not plan.to_train():
        write_results(plan)
        return results(sweep, root)
    with engines.engine(engine, address, device) as hands, locked(root):
        plan = assigned(Plan.of(sweep, root), hands)
        say = _Reporter(plan, progress)
        files = plan.to_train()
        say(f"{len(files)} of {len(plan.cohorts)} cohorts to train on {hands.device}")
        write_results(plan)
        tasks = []
        for file in files:
            runs = [RunPlan(_absolute(root / r.name), r.point.config, r.seed, label=r.name) for r in plan.members(file)]
            tasks.append(partial(train_cohort, _absolute(file), runs, hands.device, progress and engine == "local"))
        for index, failure in hands.run(tasks, say.now_and_then):
            if failure is not None:  # of which a worker that was killed has left no word
                replace(Cohort.read(files[index]), finished=False, failure=failure).write(files[index])
            plan = plan.now()
            write_results(plan)
            say(str(progress_of(plan)))
        return results(sweep, root)


@fenced
def train_cohort(file: Path, runs: Sequence[RunPlan], device: str, progress: bool = False) -> None:
    """Train the runs of a cohort to their end, from wherever they stand, and mark its file.

    Raises what training does, and RunError when another process still holds one of them after `PATIENCE` seconds.
    """
    cohort = replace(Cohort.read(file), finished=False, failure=None)
    cohort.write(file)
    train_runs(runs, device=device, progress=progress, lock_timeout=PATIENCE)
    replace(cohort, finished=True).write(file)


# Cohorts


def assigned(plan: Plan, hands: Engine) -> Plan:
    """The plan with every run in a cohort; files are written for new ones.

    Runs that differ in nothing structural (`config.STRUCTURAL`) share cohorts of about equal size: as many as it
    takes for every slot of the engine to have one, and more where memory, or the sweep's `cohort`, says so.
    """
    alike: dict[str, list[Run]] = {}
    for run in plan.unassigned():
        alike.setdefault(_structure(run.point.config), []).append(run)
    if not alike:
        return plan
    (plan.root / COHORTS).mkdir(parents=True, exist_ok=True)
    memory, slots = hands.call(free_bytes, hands.device), hands.slots
    number = max((int(file.stem) for file in plan.cohorts), default=0)
    cohorts = dict(plan.cohorts)
    for runs in alike.values():
        most = min(
            max(1, memory // run_bytes(runs[0].point.config, hands.device)),
            CPU_RUNS if hands.device == "cpu" else len(runs),
            plan.sweep.cohort or len(runs),
        )
        count = max(-(-len(runs) // most), min(slots, len(runs)))
        for i in range(count):
            number += 1
            file = plan.root / COHORTS / f"{number:04d}.json"
            part = runs[i * len(runs) // count : (i + 1) * len(runs) // count]
            cohorts[file] = Cohort(tuple(run.name for run in part))
            cohorts[file].write(file)
    return replace(plan, cohorts=cohorts)


def _structure(config: Config) -> str:
    """What runs of one cohort must share, as text."""
    return json.dumps({key: value for key, value in flatten(config.as_dict()).items() if is_structural(key)})


# Directories


def directory(sweep: Sweep, run_dir: str | Path | None = None) -> Path:
    """Where a sweep's files are."""
    return Path(run_dir) if run_dir is not None else Path("runs") / "sweeps" / sweep.name


def digest(config: Config) -> str:
    """A point's settings in `DIGITS` hexadecimal digits."""
    text = json.dumps(config.as_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _folder(point: Point) -> str:
    """The name of a new point's directory. It is found again by its digest, whatever the words."""
    words = ",".join(f"{key}={_cell(value)}" for key, value in point.values.items())
    return f"{re.sub(r'[^A-Za-z0-9=.,_+-]', '_', words)[:80]}-{digest(point.config)}"


def _absolute(path: Path) -> Path:
    """For a worker whose working directory is another."""
    return Path(os.path.abspath(path))


def _stopped(path: Path) -> str | None:
    """Why a run has ended; None while it has not, or is not there."""
    return RunRecord(path).stopped if (path / CONFIG).is_file() else None


# What is known of runs


@dataclass(frozen=True)
class State:
    """How far a run is."""

    status: Status
    reason: str
    """Why it ended, or why it did not."""
    epochs: int
    """Epochs in its history."""


def states(plan: Plan) -> Iterator[tuple[Run, State]]:
    """How far each run is, by its files."""
    failures = {
        name: cohort.failure for cohort in plan.cohorts.values() if cohort.failure is not None for name in cohort.runs
    }
    for run in plan.runs.values():
        yield run, _state(plan.root / run.name, failures.get(run.name))


def _state(path: Path, failure: str | None) -> State:
    history = path / HISTORY
    epochs = max(0, history.read_bytes().count(b"\n") - 1) if history.exists() else 0
    try:
        stopped = _stopped(path)
    except TernaryLabError as error:
        return State("failed", " ".join(str(error).split()), epochs)
    if stopped is not None:
        return State("failed" if stopped.startswith("diverged") else "done", stopped, epochs)
    if is_locked(path):
        return State("running", "", epochs)
    return State("left", "", epochs) if failure is None else State("failed", failure, epochs)


@dataclass(frozen=True)
class Progress:
    """How far a sweep is; what `sweep --status --json` prints."""

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
    """Planned in all; runs that stop early do with fewer."""
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
    """How far a sweep is, from its files alone: also while another process sweeps. Raises as `Plan.of`."""
    return progress_of(Plan.of(sweep, directory(sweep, run_dir)))


def progress_of(plan: Plan) -> Progress:
    """Counts of runs and epochs, and the time to go.

    That is the run-epochs left, times the seconds that one has taken so far (of a cohort, its wall time over its
    runs), over the cohorts that are training now, or one where none is.
    """
    found = {run.name: state for run, state in states(plan)}
    counts = Counter(state.status for state in found.values())
    total = {name: run.point.config.training.total_epochs for name, run in plan.runs.items()}
    to_go = sum(total[name] - s.epochs for name, s in found.items() if s.status in ("running", "left"))
    wall, trained, busy = 0.0, 0, 0
    for cohort in plan.cohorts.values():
        names = [name for name in cohort.runs if name in found]
        wall += max((_wall_seconds(plan.root / name) for name in names), default=0.0)
        trained += sum(found[name].epochs for name in names)
        busy += any(found[name].status == "running" for name in names)
    seconds = 0.0 if not to_go else to_go * wall / trained / max(1, busy) if trained else None
    return Progress(
        plan.sweep.name, str(plan.root), len(plan.runs) // len(plan.sweep.seeds), len(found),
        counts["done"], counts["running"], counts["failed"], counts["left"],
        sum(s.epochs for s in found.values()), sum(total.values()), seconds,
        {name: s.reason for name, s in found.items() if s.status == "failed"},
    )


def _wall_seconds(path: Path) -> float:
    try:
        return float(RunRecord(path).provenance.get("wall_seconds", 0.0))
    except TernaryLabError:  # not begun, or damaged, which the status says
        return 0.0


def _span(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"about {seconds / length:.0f} {unit} to go"
    return f"about {seconds:.0f} s to go"


class _Reporter:
    """Lines on how far a sweep is, on stderr."""

    def __init__(self, plan: Plan, show: bool) -> None:
        self.plan, self.show, self.last = plan, show, time.monotonic()

    def __call__(self, text: str) -> None:
        self.last = time.monotonic()
        if self.show:
            print(f"{self.plan.sweep.name}: {text}", file=sys.stderr, flush=True)

    def now_and_then(self) -> None:
        """A line, if the last is `EVERY` seconds old."""
        if self.show and time.monotonic() - self.last > EVERY:
            self(str(progress_of(self.plan.now())))


# The table


def results(sweep: Sweep, run_dir: str | Path | None = None) -> pd.DataFrame:
    """The table as it is now, from the files alone; its columns are those of results.csv.

    point, seed, a column per key of the design, status, reason, epochs, and `METRICS` of the last epoch of runs that
    are done or failed after some epochs. Raises as `Plan.of`.
    """
    plan = Plan.of(sweep, directory(sweep, run_dir))
    return read_results(io.StringIO(_table(plan)))


def read_results(source: str | Path | io.StringIO) -> pd.DataFrame:
    """A results.csv; numbers come back as they were."""
    return pd.read_csv(source, keep_default_na=False, na_values=["", "nan"]).rename(columns=OLD_NAMES)


def load_results(path: str | Path = TABLE) -> pd.DataFrame:
    """The published table, or a file of one. Raises RunError when there is none."""
    file = local_or_published(path)
    if not file.is_file():
        raise RunError(f"{path}: no table of a sweep: make one with `ternary-lab sweep`")
    return read_results(file)


def write_results(plan: Plan) -> None:
    """Write results.csv, replacing it in one step. Raises RunError."""
    write_atomically(plan.root / RESULTS, _table(plan).encode())


def _table(plan: Plan) -> str:
    """The table as CSV. Metrics are the very characters of the histories."""
    keys = list(plan.sweep.design.keys)
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["point", "seed", *keys, "status", "reason", "epochs", *METRICS])
    for run, state in states(plan):
        cells = [_cell(run.point.values[key]) for key in keys]
        last: dict[str, str] = {}
        if state.status in ("done", "failed") and state.epochs:
            try:
                last = _last_row(plan.root / run.name / HISTORY)
            except RunError as error:
                state = replace(state, status="failed", reason=str(error))
        out.writerow([
            run.name.split("/")[0], run.seed, *cells, state.status, state.reason, state.epochs,
            *(last.get(name, "") for name in METRICS),
        ])
    return text.getvalue()


def _last_row(history: Path) -> dict[str, str]:
    """The last row of a run's history. Raises RunError when it is damaged."""
    first, *_, last = read_text(history).splitlines(keepends=True)
    head, row = csv.reader(check_csv(first + last, history).splitlines())
    return {OLD_NAMES.get(name, name): cell for name, cell in zip(head, row, strict=True)}


def _cell(value: Any) -> str:
    """A value of a key as a cell."""
    if isinstance(value, float):
        return repr(value)
    return value if isinstance(value, str) else json.dumps(value)

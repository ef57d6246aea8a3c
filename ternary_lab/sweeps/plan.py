"""Plan of a sweep: its runs, the cohorts in which they train, and the progress of each run.

    RUN_DIR/cohorts/0001.json                 runs that train together, and the reason if their training failed
    RUN_DIR/rho.isolated=0.1-0a1b2c3d4e/      a point: its settings in words, and a digest of all its settings
        seed=42/                              a run directory (see `runs`)

The progress of a run is read from the files in its directory. Any process and engine can start a sweep again. The sweep
then finds its points by their digests, and trains the runs that have not ended.

The cohort of a run is chosen once and kept, because the cohort affects floating-point rounding. The same cohorts give
the same table, bit for bit, on any engine and after any interruption. Runs that are added later form new cohorts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ternary_lab.arguments import read_path
from ternary_lab.config import Config, flatten, is_structural
from ternary_lab.errors import RunError, TernaryLabError
from ternary_lab.runs.files import write_atomically
from ternary_lab.runs.load import CONFIG, HISTORY, RunRecord
from ternary_lab.runs.locks import is_locked
from ternary_lab.sweeps.design import Point, Sweep, points
from ternary_lab.sweeps.engines import Local, Ray
from ternary_lab.training.memory import free_bytes, run_bytes

COHORTS = "cohorts"
DIGITS = 10
"""Number of hexadecimal digits of a point's digest. Two of 10,000 points have equal digests with probability 5e-5."""
CPU_RUNS = 8
"""Largest number of runs that train together on a CPU. More runs do not save time per run (benchmarks/cpu.json)."""


@dataclass(frozen=True)
class Run:
    """A run of a sweep, and its progress."""

    name: str
    """POINT/seed=42: the directory of the run within the directory of the sweep."""
    point: Point
    seed: int
    status: Literal["done", "running", "failed", "left"] = "left"
    reason: str = ""
    """Reason why the run ended or failed."""
    epochs: int = 0
    """Number of epochs in the history of the run."""
    seconds: float = 0.0
    """Wall time of the training, in seconds."""


@dataclass(frozen=True)
class Cohort:
    """Content of a cohort's file: the names of runs that train together."""

    runs: tuple[str, ...]
    failure: str | None = None
    """Reason why the last attempt to train the cohort failed, or None."""

    def write(self, path: Path) -> None:
        """Write the cohort to a file. Raises RunError if the file cannot be written."""
        write_atomically(path, json.dumps(vars(self), indent=1, ensure_ascii=False).encode())

    @staticmethod
    def read(path: Path) -> Cohort:
        """Read a cohort from its file. Raises RunError if the file is damaged."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return Cohort(tuple(map(str, data["runs"])), data["failure"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = getattr(error, "strerror", None) or "it is damaged"
            raise RunError(f"{path}: cannot be read: {reason}: delete it, its runs then join new cohorts") from None


@dataclass(frozen=True)
class Plan:
    """A sweep and the state of its directory. Reading a plan writes no file."""

    sweep: Sweep
    root: Path
    runs: Mapping[str, Run]
    """Runs by name, in the order of the seeds. All points of the first seed come first."""
    cohorts: Mapping[Path, Cohort]
    """Cohorts by file. A cohort may contain runs that the sweep no longer has."""

    @staticmethod
    def read(sweep: Sweep, root: Path) -> Plan:
        """Read the plan of a sweep from its directory `root`.

        Raises ConfigError if a point is not a valid configuration, and RunError if a file is damaged.
        """
        found = points(sweep)
        existing = {path.name.rpartition("-")[2]: path.name for path in root.glob(f"*-{'?' * DIGITS}")}
        folders = [existing.get(digest(point.config)) or _folder(point) for point in found]
        runs = [
            Run(f"{folder}/seed={seed}", point, seed)
            for seed in sweep.seeds for folder, point in zip(folders, found, strict=True)
        ]
        return Plan(sweep, root, {run.name: run for run in runs}, {}).now()

    def now(self) -> Plan:
        """Return the same plan, with the present state of its cohorts and runs."""
        cohorts = {file: Cohort.read(file) for file in sorted((self.root / COHORTS).glob("[!.]*.json"))}
        failures = {name: cohort.failure for cohort in cohorts.values() if cohort.failure for name in cohort.runs}
        runs = {name: _with_state(run, self.root / name, failures.get(name)) for name, run in self.runs.items()}
        return replace(self, runs=runs, cohorts=cohorts)

    def members(self, file: Path) -> list[Run]:
        """Return the runs of a cohort, without runs that the sweep no longer has."""
        return [self.runs[name] for name in self.cohorts[file].runs if name in self.runs]

    def unassigned(self) -> list[Run]:
        """Return the runs that have no cohort."""
        taken = {name for cohort in self.cohorts.values() for name in cohort.runs}
        return [run for run in self.runs.values() if run.name not in taken]

    def to_train(self) -> list[Path]:
        """Return the files of the cohorts in which at least one run has not ended."""
        return [
            file for file in self.cohorts
            if any(_provenance(self.root / run.name).get("stopped") is None for run in self.members(file))
        ]


def assign_cohorts(plan: Plan, workers: Local | Ray) -> Plan:
    """Assign a cohort to every run, write the files of new cohorts, and return the new plan.

    Runs with the same structural settings (`config.STRUCTURAL`) are divided into cohorts of about equal size. There is
    at least one cohort for each slot of the engine, as far as there are runs. There are more cohorts if memory, the
    number of runs on a CPU or the sweep's `cohort` limits their size.
    """
    alike: dict[str, list[Run]] = {}
    for run in plan.unassigned():
        settings = flatten(run.point.config.as_dict())
        structure = json.dumps({key: value for key, value in settings.items() if is_structural(key)})
        alike.setdefault(structure, []).append(run)
    if not alike:
        return plan
    (plan.root / COHORTS).mkdir(parents=True, exist_ok=True)
    memory, slots = workers.call(free_bytes, workers.device), workers.slots
    number = max((int(file.stem) for file in plan.cohorts), default=0)
    cohorts = dict(plan.cohorts)
    for runs in alike.values():
        most = min(
            max(1, memory // run_bytes(runs[0].point.config, workers.device)),
            CPU_RUNS if workers.device == "cpu" else len(runs),
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


def directory(sweep: Sweep, run_dir: str | Path | None = None) -> Path:
    """Return the directory of a sweep's files; the default is `runs/sweeps/<sweep.name>`."""
    return read_path(run_dir) if run_dir is not None else Path("runs") / "sweeps" / sweep.name


def digest(config: Config) -> str:
    """Return the digest of a point's settings: `DIGITS` hexadecimal digits of a SHA-256 hash."""
    text = json.dumps(config.as_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def cell(value: Any) -> str:
    """Format the value of a setting as text, for a cell of the table or the name of a directory."""
    if isinstance(value, float):
        return repr(value)
    return value if isinstance(value, str) else json.dumps(value)


def _folder(point: Point) -> str:
    """Return the name of a new point's directory. `Plan.read` finds the directory again by the digest alone."""
    words = ",".join(f"{key}={cell(value)}" for key, value in point.values.items())
    return f"{re.sub(r'[^A-Za-z0-9=.,_+-]', '_', words)[:80]}-{digest(point.config)}"


def _with_state(run: Run, path: Path, failure: str | None) -> Run:
    """Return the run with the state that the files in its directory `path` show.

    `failure` is the reason why the run's cohort failed, or None.
    """
    history = path / HISTORY
    run = replace(run, epochs=max(0, history.read_bytes().count(b"\n") - 1) if history.exists() else 0)
    try:
        provenance = _provenance(path)
    except TernaryLabError as error:
        return replace(run, status="failed", reason=" ".join(str(error).split()))
    run = replace(run, seconds=float(provenance.get("wall_seconds", 0.0)))
    if (stopped := provenance.get("stopped")) is not None:
        return replace(run, status="failed" if stopped.startswith("diverged") else "done", reason=stopped)
    if is_locked(path):
        return replace(run, status="running")
    return replace(run, status="failed", reason=failure) if failure else run


def _provenance(path: Path) -> Mapping[str, Any]:
    """Return the provenance of a run, which is empty before the first start. Raises RunError if it is damaged."""
    return RunRecord(path).provenance if (path / CONFIG).is_file() else {}

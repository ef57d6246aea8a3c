"""Verification of runs: checksums of all files, and metrics that are computed again."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ternary_lab import space, splits
from ternary_lab.arguments import short_path
from ternary_lab.backend.devices import resolve_device
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.errors import DeviceError, TernaryLabError
from ternary_lab.metrics.per_epoch import Group, Measurement, Source
from ternary_lab.runs import checkpoint, load
from ternary_lab.runs.checksums import check_log
from ternary_lab.runs.load import RunRecord
from ternary_lab.runs.locks import LOCK, OWNER

TOLERANCE = 1e-3
"""Largest accepted difference |a - b| / max(1, |a|) between a metric a in the history and the metric b computed now.

The difference is 0 on a CPU of the same kind with the same package versions, for any number of threads. Other machines
round differently.
"""


@dataclass(frozen=True)
class Verification:
    """The result of verifying one run."""

    path: Path
    files: dict[str, str] = field(default_factory=dict)
    """Dictionary from the name of a file to its problem, which is "" for an intact file."""
    epoch: int | None = None
    """The epoch whose metrics were computed again, or None if no metrics were computed."""
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Dictionary from a column of the history to (the value in the history, the value computed now)."""
    unmeasured: str = "no weights to compute metrics from"
    """Reason why no metrics were computed. The reason is valid only if `metrics` is empty and all files are intact."""

    @property
    def differences(self) -> dict[str, float]:
        """Dictionary from a column to the difference of its two values, as defined at `TOLERANCE`."""
        return {name: abs(a - b) / max(1.0, abs(a)) for name, (a, b) in self.metrics.items()}

    @property
    def differing(self) -> list[str]:
        """Columns that differ by more than `TOLERANCE`, or whose new value is not a number."""
        return [name for name, difference in self.differences.items() if not difference <= TOLERANCE]

    @property
    def largest_difference(self) -> float:
        return max(self.differences.values(), default=0.0)

    @property
    def sound(self) -> bool:
        """Whether every file is intact and no metric differs by more than `TOLERANCE`."""
        return not any(self.files.values()) and not self.differing

    def describe(self) -> str:
        """Return the result in words: one line for the run, and one line for each problem."""
        problems = [problem for problem in self.files.values() if problem]
        first = f"{short_path(self.path)}: {len(self.files)} files, {'damaged' if problems else 'all intact'}"
        if self.metrics:
            first += (
                f"; {len(self.metrics)} metrics of epoch {self.epoch} computed again, largest difference "
                f"{self.largest_difference:.2g}"
            )
        elif not problems:
            first += f"; {self.unmeasured}"
        problems += [f"{name}: {self.metrics[name][0]!r} in the history, {self.metrics[name][1]!r} now"
                     for name in self.differing]
        return "\n  ".join([first, *problems])

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain data that can be written as JSON."""
        return {
            "run": short_path(self.path), "sound": self.sound, "files": self.files, "epoch": self.epoch,
            "metrics": {name: {"stored": a, "found": b} for name, (a, b) in self.metrics.items()},
            "largest_difference": self.largest_difference, "tolerance": TOLERANCE,
            "unmeasured": None if self.metrics else self.unmeasured,
        }


@with_fixed_arithmetic
def verify(run: RunRecord) -> Verification:
    """Check every file of a run. If all files are intact, compute the metrics of the newest weights again.

    Problems of files are part of the result and are not raised.
    """
    names = {path.relative_to(run.path).as_posix(): path for path in sorted(run.path.rglob("*")) if not path.is_dir()}
    files = {
        name: _problem(path) for name, path in names.items()
        if name not in (LOCK, OWNER) and not name.startswith("branches/")
    }
    if any(files.values()):
        return Verification(run.path, files)
    history = run.history.set_index("epoch")
    latest = [run.checkpoint().epoch] if (run.path / load.CHECKPOINTS / "latest.safetensors").exists() else []
    epoch = next((e for e in (*latest, *reversed(run.epochs)) if e in history.index), None)
    if epoch is None:
        return Verification(run.path, files)
    stored = history.loc[epoch].to_dict()
    try:
        computed = _metrics(run, epoch)
    except DeviceError as error:
        return Verification(run.path, files, unmeasured=str(error))
    # Training may have left out some metrics (`evaluation.coverage_at`). Such metrics cannot be compared.
    metrics = {n: (float(stored[n]), value) for n, value in computed.items() if not math.isnan(stored[n])}
    return Verification(run.path, files, epoch, metrics)


def _metrics(run: RunRecord, epoch: int) -> dict[str, float]:
    """Compute the metrics of an epoch from its weights and the random streams that training used.

    Returns a dictionary from a column of the history to its value. Raises DeviceError if the random streams are those
    of a GPU and this machine has no GPU.
    """
    config, trained = run.config, run.trained_on(epoch)
    on_cpu = config.runtime.streams == "cpu" or trained.device == "cpu"
    if not on_cpu and not torch.cuda.is_available():
        raise DeviceError(
            f"epoch {epoch} was measured on {trained} with its random streams, and no CUDA GPU is here: "
            "verify it where there is one"
        )
    device = resolve_device("cpu" if on_cpu else "cuda")
    validation = space.operations(splits.split(config.data).validation).to(device)
    group = Group(run.model(epoch).to(device).core, (run.seed,))
    metrics = Measurement(Source(config.evaluation, validation, device), [group], epoch, None).result().metrics
    return {name: float(value[0]) for name, value in metrics.items()}


def _problem(path: Path) -> str:
    """Return the problem of a run's file, or "" if the file is intact."""
    try:
        match path.name:
            case load.CONFIG:
                RunRecord(path.parent).config  # noqa: B018
            case load.PROVENANCE:
                RunRecord(path.parent).provenance  # noqa: B018
            case load.HISTORY | load.PACKED_HISTORY | load.PROBES:
                load.read_table(path)
            case load.LOG:
                check_log(load.read_text(path), path)
            case _ if path.suffix == ".safetensors":
                checkpoint.load(path)
            case _:
                return f"{path}: is none of the files of a run"
    except TernaryLabError as error:
        return str(error)
    return ""

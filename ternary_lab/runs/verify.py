"""Whether a run is what it says: every file's checksum, and its last epoch's metrics computed again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ternary_lab import space, splits
from ternary_lab.backend.devices import resolve_device
from ternary_lab.backend.numerics import fenced
from ternary_lab.errors import DeviceError, RunError, TernaryLabError
from ternary_lab.metrics.per_epoch import Group, Measurement, Source
from ternary_lab.runs import checkpoint, load
from ternary_lab.runs.checksums import check_events
from ternary_lab.runs.load import RunRecord
from ternary_lab.runs.locks import LOCK, OWNER

TOLERANCE = 1e-3
"""Largest relative difference of a metric computed again, with at least 1 as the unit. On a CPU of the kind that
trained the run, with the same versions and any number of threads, it is 0; others round differently."""
UNMEASURED = (LOCK, OWNER)
"""Files that say who trains a run and are not of it."""


@dataclass(frozen=True)
class Verification:
    """What was found of one run."""

    path: Path
    files: dict[str, str] = field(default_factory=dict)
    """File -> what is wrong with it; empty when nothing is."""
    epoch: int | None = None
    """The epoch whose metrics were computed again; None where no weights were kept."""
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Column of the history -> as it is there, as it was found now."""
    unmeasured: str = "no weights to compute metrics from"
    """Why there are no metrics, where there are none."""

    @property
    def differing(self) -> list[str]:
        """Columns whose values differ by more than `TOLERANCE`."""
        return [
            name for name, (stored, found) in self.metrics.items()
            if not abs(stored - found) <= TOLERANCE * max(1.0, abs(stored))
        ]

    @property
    def largest_difference(self) -> float:
        """Of all metrics, relative as `TOLERANCE` is."""
        return max((abs(a - b) / max(1.0, abs(a)) for a, b in self.metrics.values()), default=0.0)

    @property
    def sound(self) -> bool:
        return not any(self.files.values()) and not self.differing

    def describe(self) -> str:
        """In words, a line or more."""
        wrong = [problem for problem in self.files.values() if problem]
        lines = [f"{self.path}: {len(self.files)} files, {'each as it was written' if not wrong else 'damaged'}"]
        lines += [f"  {problem}" for problem in wrong]
        if self.metrics:
            lines[0] += (
                f"; {len(self.metrics)} metrics of epoch {self.epoch} computed again, largest difference "
                f"{self.largest_difference:.2g}"
            )
        elif not wrong:
            lines[0] += f"; {self.unmeasured}"
        lines += [
            f"  {name}: {self.metrics[name][0]!r} in the history, {self.metrics[name][1]!r} now"
            for name in self.differing
        ]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "run": str(self.path), "sound": self.sound, "files": self.files, "epoch": self.epoch,
            "metrics": {name: {"stored": a, "found": b} for name, (a, b) in self.metrics.items()},
            "largest_difference": self.largest_difference, "tolerance": TOLERANCE,
            "unmeasured": None if self.metrics else self.unmeasured,
        }


@fenced
def verify(run: RunRecord) -> Verification:
    """Check every file of a run, then measure its newest weights again. Damage is reported and not raised."""
    files = dict(_checked(run))
    found = Verification(run.path, files)
    if any(files.values()):
        return found
    history = run.history.set_index("epoch")
    epoch = next((e for e in (*_newest(run), *reversed(run.epochs)) if e in history.index), None)
    if epoch is None:
        return found
    row = history.loc[epoch].to_dict()
    try:
        again = measured(run, epoch)
    except DeviceError as error:
        return Verification(run.path, files, unmeasured=str(error))
    # What was not counted then (`evaluation.coverage_at`) cannot be compared.
    metrics = {n: (float(row[n]), value) for n, value in again.items() if not math.isnan(row[n])}
    return Verification(run.path, files, epoch, metrics)


def measured(run: RunRecord, epoch: int) -> dict[str, float]:
    """The metrics of a row of the history, from the weights of that epoch and the streams it was measured with.

    Raises DeviceError when that epoch drew its streams on a GPU and there is none here.
    """
    config, trained = run.config, run.trained_on(epoch)
    on_cpu = config.runtime.streams == "cpu" or trained.device == "cpu"
    if not on_cpu and not torch.cuda.is_available():
        raise DeviceError(
            f"epoch {epoch} was measured on {trained} with its random streams, and no CUDA GPU is here: "
            "verify it where there is one"
        )
    device = resolve_device("cpu" if on_cpu else "cuda")
    split = splits.split(config.data)
    model = run.model(epoch).to(device)
    source = Source(config.evaluation, space.operations(split.validation).to(device), device)
    values = Measurement(source, [Group(model.core, (run.seed,))], epoch, None).result().metrics
    return {name: float(value[0]) for name, value in values.items()}


def _newest(run: RunRecord) -> Iterator[int]:
    if (run.path / load.CHECKPOINTS / "latest.safetensors").exists():
        yield run.checkpoint().epoch


def _checked(run: RunRecord) -> Iterator[tuple[str, str]]:
    """Every file of the run by name, with what is wrong with it."""
    for path in sorted(run.path.rglob("*")):
        name = path.relative_to(run.path).as_posix()
        if path.is_dir() or name in UNMEASURED or name.startswith("branches/"):
            continue
        try:
            _check(path)
        except TernaryLabError as error:
            yield name, str(error)
        else:
            yield name, ""


def _check(path: Path) -> None:
    """Raises TernaryLabError for a file that is damaged, or is none of a run's."""
    if path.suffix == ".safetensors":
        checkpoint.load(path)
    elif path.name == load.CONFIG:
        RunRecord(path.parent).config  # noqa: B018
    elif path.name == load.PROVENANCE:
        RunRecord(path.parent).provenance  # noqa: B018
    elif path.name in (load.HISTORY, load.PACKED_HISTORY, load.PROBES):
        load.read_table(path)
    elif path.name == load.LOG:
        check_events(load.read_text(path), path)
    else:
        raise RunError(f"{path}: is none of the files of a run")

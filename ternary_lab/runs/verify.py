"""Verification of runs: checksums of all files, and metrics that are computed again.

    verify_all     finds every run in or below a folder, and verifies each of them
    verify         verifies one run: `_Files` reads every file, and `_metrics` measures the newest weights
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ternary_lab import space, splits
from ternary_lab.arguments import short_path
from ternary_lab.backend.devices import gpu_errors, resolve_device
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.config import Config, differences
from ternary_lab.errors import FEW, ConfigError, DeviceError, RunError, TernaryLabError
from ternary_lab.metrics.per_epoch import Group, Measurement, Source
from ternary_lab.runs import checkpoint, load
from ternary_lab.runs.checkpoint import Checkpoint
from ternary_lab.runs.checksums import REMEDY, check_log, has_checksum
from ternary_lab.runs.files import children, is_stray
from ternary_lab.runs.load import RunRecord, is_run
from ternary_lab.runs.locks import LOCK, OWNER, SOFT_LOCK

TOLERANCE = 1e-3
"""Largest accepted difference |a - b| / max(1, |a|) between a metric a in the history and the metric b computed now.

The difference is 0 on a CPU of the same kind with the same package versions, for any number of threads. Other machines
round differently.
"""
NO_WEIGHTS = "no weights to compute metrics from"
LEFT = "not checked: a system, an editor or a killed write left this in the folder"
CONVERTED = "line endings were converted: the content is as it was written"
NO_CHECKSUM = "without a checksum, as older versions wrote them: a changed number in them is not seen"
LATEST = f"{load.CHECKPOINTS}/latest.safetensors"
TEXTS = (".yaml", ".json", ".jsonl", ".csv")


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
    unmeasured: str = NO_WEIGHTS
    """Reason why no metrics were computed. The reason is valid only if `metrics` is empty and all files are intact."""
    notes: dict[str, str] = field(default_factory=dict)
    """Dictionary from the name of a file or folder to a remark, such as why it was not checked. It is no problem."""

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
        """Return the result in words: one line for the run, one for each problem, and one for each kind of remark."""
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
        remarks: dict[str, list[str]] = {}
        for name, remark in self.notes.items():
            remarks.setdefault(remark, []).append(name)
        notes = [
            f"{', '.join(names) if len(names) <= FEW else f'{len(names)} files, such as {names[0]}'}: {remark}"
            for remark, names in remarks.items()
        ]
        return "\n  ".join([first, *problems, *notes])

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain data that can be written as JSON."""
        return {
            "run": short_path(self.path), "sound": self.sound, "files": self.files, "epoch": self.epoch,
            "metrics": {name: {"stored": a, "found": b} for name, (a, b) in self.metrics.items()},
            "largest_difference": self.largest_difference, "tolerance": TOLERANCE,
            "unmeasured": None if self.metrics else self.unmeasured, "notes": self.notes,
        }


def verify_all(source: str | Path) -> Iterator[Verification]:
    """Verify every run in a folder and in the folders below it, also the runs that cannot be read.

    `source` is the folder, or the name of a published run or experiment. Links are followed. Raises RunError if there
    is no such folder, or no run in it.
    """
    seen: set[Path] = set()
    found: list[Path] = []

    def visit(folder: Path, in_run: bool = False) -> None:
        if (place := folder.resolve()) in seen:
            return
        seen.add(place)
        try:
            if is_run(folder):
                found.append(folder)
                in_run = True
            for child in children(folder):
                if os.path.isdir(child):
                    visit(child, in_run)
        except RunError:  # the folder cannot be read, which `verify` of it or of its run reports
            if not in_run:
                found.append(folder)

    visit(load.run_path(source))
    if not found:
        raise RunError(f"{source}: holds no run")
    yield from map(verify, found)


@with_fixed_arithmetic
def verify(run: RunRecord | Path) -> Verification:
    """Check every file of a run. If all files are intact, compute the metrics of the newest weights again.

    `run` is a run, or the folder of a run that may have lost files. Runs in folders of the run, such as its branches,
    are other runs and not checked. Problems of files are part of the result and are not raised.
    """
    read = _Files(run.path if isinstance(run, RunRecord) else run)
    found = Verification(read.path, read.files, notes=read.notes)
    if any(read.files.values()):
        return found
    if not read.knows_settings:
        return replace(found, unmeasured="no metrics were computed, because a setting is not known here")
    if read.history is None:
        return replace(found, unmeasured="no epoch has been finished yet")
    record, history = RunRecord(read.path), read.history.set_index("epoch")
    saved = [epoch for epoch in record.epochs if epoch in history.index]
    if read.latest is None and not saved:
        return found
    point = read.latest or record.checkpoint(saved[-1])
    stored = history.loc[point.epoch].to_dict()
    try:
        with gpu_errors():
            computed = _metrics(record, point)
    except DeviceError as error:
        return replace(found, unmeasured=str(error))
    # Training may have left out some metrics (`evaluation.coverage_at`). Such metrics cannot be compared.
    metrics = {n: (float(stored[n]), value) for n, value in computed.items() if not math.isnan(stored[n])}
    return replace(found, epoch=point.epoch, metrics=metrics)


def _metrics(run: RunRecord, point: Checkpoint) -> dict[str, float]:
    """Compute the metrics of a checkpoint from its weights and the random streams that training used.

    Returns a dictionary from a column of the history to its value. Raises DeviceError if the random streams are those
    of a GPU and this machine has no GPU.
    """
    config, epoch, trained = run.config, point.epoch, run.trained_on(point.epoch)
    on_cpu = config.runtime.streams == "cpu" or trained.device == "cpu"
    if not on_cpu and not torch.cuda.is_available():
        raise DeviceError(
            f"epoch {epoch} was measured on {trained} with its random streams, and no CUDA GPU is here: "
            "verify it where there is one"
        )
    device = resolve_device("cpu" if on_cpu else "cuda")
    validation = space.operations(splits.split(config.data).validation).to(device)
    group = Group(point.model().to(device).core, (run.seed,))
    metrics = Measurement(Source(config.evaluation, validation, device), [group], epoch, None).result().metrics
    return {name: float(value[0]) for name, value in metrics.items()}


class _Files:
    """The files of a run, with the problems of each file and the problems between files.

    The checkpoint `latest` is read before the history. So the history has the row of this checkpoint, even if a process
    trains the run meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, str] = {}
        """As in `Verification`."""
        self.notes: dict[str, str] = {}
        """As in `Verification`."""
        self.latest: Checkpoint | None = None
        self.history: pd.DataFrame | None = None
        """The history, or None if it is missing or damaged."""
        self.knows_settings = True
        """True if this process knows every setting in config.yaml."""
        self._origins: dict[str, tuple[int, int | None, Config]] = {}
        """Dictionary from the name of a checkpoint to its epoch, its seed and its configuration."""
        self._seen: set[Path] = set()
        self._read_folder(path)
        if "." not in self.files:
            for name in {load.CONFIG, load.PROVENANCE} - self.files.keys():
                self._read_file(path / name)  # to report that it is missing
            if not self.files[load.CONFIG] and self.knows_settings:
                self._compare(RunRecord(path))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def _read_folder(self, folder: Path) -> None:
        """Read the files in a folder and below it, without other runs.

        Links are followed, and a folder with two names is read once.
        """
        place = folder.resolve()
        if place in self._seen:
            return
        self._seen.add(place)
        try:
            if folder != self.path and is_run(folder):
                return
            inside = sorted(folder.iterdir())
        except OSError as error:
            self.files[self._name(folder)] = f"{folder}: cannot be read: {error.strerror}: make it readable"
            return
        except RunError as error:
            self.files[self._name(folder)] = str(error)
            return
        for path in inside:
            if is_stray(path):
                if path.name not in (LOCK, SOFT_LOCK, OWNER):
                    self.notes[self._name(path)] = LEFT
            elif os.path.isdir(path):
                self._read_folder(path)
            else:
                self._read_file(path)

    def _read_file(self, path: Path) -> None:
        name = self._name(path)
        self.files[name] = ""
        try:
            match path.name:
                case load.CONFIG:
                    load.read_config(path)
                case load.PROVENANCE:
                    load.read_provenance(path)
                case load.HISTORY | load.PACKED_HISTORY | load.PROBES:
                    load.read_table(path)
                case load.LOG:
                    check_log(load.read_text(path), path)
                case _ if path.suffix == ".safetensors":
                    point = checkpoint.load(path)
                    self._origins[name] = point.epoch, point.seed, point.config
                    if name == LATEST:
                        self.latest = point
                case _:
                    self.files[name] = f"{path}: is none of the files of a run: move it to another folder"
            if path.suffix in TEXTS and b"\r" in path.read_bytes():
                self.notes[name] = CONVERTED
            if not self.files[name] and not has_checksum(_text(path)):
                self.notes[name] = NO_CHECKSUM
        except TernaryLabError as error:
            if not isinstance(error.__cause__, ConfigError):
                self.files[name] = str(error)
                return
            # The checksum is right, but the file has a setting that a notebook or a newer version defines.
            self.notes[name] = str(error).removeprefix(f"{path}: ")
            self.knows_settings &= path.name != load.CONFIG

    def _compare(self, run: RunRecord) -> None:
        """Compare the checkpoints with the name of their file, the provenance, the configuration and the history."""
        try:
            seed = run.seed
        except RunError:
            seed = None
        for name, (epoch, its_seed, config) in self._origins.items():
            # A finished run may be given more epochs. Its earlier checkpoints then have the earlier number of epochs.
            others = {k: v for k, v in differences(config, run.config).items() if k != "training.total_epochs"}
            number = load.EPOCH.fullmatch(Path(name).name)
            if number and int(number.group(1)) != epoch:
                reason = f"is of epoch {epoch}, not of the epoch in its name"
            elif None not in (seed, its_seed) and its_seed != seed:
                reason = f"is of seed {its_seed}, and {load.PROVENANCE} of seed {seed}"
            elif others:
                key, (its, ours) = next(iter(others.items()))
                reason = f"is of another configuration: {key} is {its!r} there and {ours!r} in {load.CONFIG}"
            else:
                continue
            self.files[name] = f"{self.path / name}: {reason}: {REMEDY}"
        history = next((n for n in (load.HISTORY, load.PACKED_HISTORY) if n in self.files), load.HISTORY)
        try:
            self.history = run.history
        except RunError as error:
            if history in self.files or self._origins:
                self.files[history] = str(error)
            return
        if self.latest is not None and self.latest.epoch not in set(self.history["epoch"]):
            self.files[history] = (
                f"{self.path / history}: has no row of epoch {self.latest.epoch}, which the checkpoint latest is of: "
                f"{REMEDY}"
            )


def _text(path: Path) -> str:
    """Return the text of a file of a run, or the JSON header of a checkpoint."""
    if path.suffix != ".safetensors":
        return load.read_text(path)
    with path.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little")).decode()

"""A run's directory before training: checked, created, or emptied for a fresh start."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from ternary_lab import config
from ternary_lab.config import Config
from ternary_lab.errors import RunError
from ternary_lab.runs import load, provenance
from ternary_lab.runs.checksums import sealed_json, sealed_text
from ternary_lab.runs.files import write_atomically
from ternary_lab.runs.load import CHECKPOINTS, PROVENANCE, RunRecord
from ternary_lab.runs.locks import LOCK, OWNER
from ternary_lab.runs.provenance import Stretch
from ternary_lab.training.run_state import RunState


@dataclass(frozen=True)
class Planned:
    """A run to train: where it lives, what it is, and the state to start from (None: from its seed)."""

    path: Path
    config: Config
    seed: int
    start: RunState | None = None
    label: str = ""
    """What tells it from the others where their directories have the same name."""

    @property
    def name(self) -> str:
        return self.label or self.path.name


def check_directory(path: Path) -> None:
    """Whether a run may live there, before anything is written. Raises RunError."""
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: is a file: choose another --run-dir")
    ours = {CHECKPOINTS, PROVENANCE, LOCK, OWNER}
    if path.is_dir() and not (path / load.CONFIG).exists() and any(
        child.name not in ours and not child.name.endswith(".tmp") for child in path.iterdir()
    ):
        raise RunError(f"{path}: is not empty and not a run directory: choose another --run-dir")


def prepare_directory(run: Planned, fresh: bool, device: torch.device) -> None:
    """Make the run's directory, or check that the one there is of the same run."""
    path = run.path
    for folder in (path, path / CHECKPOINTS):
        for leftover in folder.glob(".*.tmp"):  # of a write that was killed
            leftover.unlink(missing_ok=True)
    if fresh and (path / load.CONFIG).exists():
        _empty(path)
    ours = (path / load.CONFIG).exists()
    if ours:
        theirs = RunRecord(path).config
        changed = config.differences(theirs, run.config)
        if changed:
            key, (old, new) = next(iter(changed.items()))
            raise RunError(
                f"{path}: belongs to another configuration ({key} is {old!r} there, {new!r} here): "
                "choose another --run-dir, or --fresh to delete it"
            )
    try:
        (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from None
    if not (path / PROVENANCE).exists():
        told = provenance.provenance(run.seed, Stretch.here(first_epoch_of(run), device))
        write_atomically(path / PROVENANCE, sealed_json(told))
    if not ours:
        # config.yaml comes last: it is what makes a directory a run's.
        write_atomically(path / load.CONFIG, sealed_text(run.config.as_yaml()).encode())
    if RunRecord(path).seed != run.seed:
        raise RunError(f"{path}: belongs to seed {RunRecord(path).seed}: choose another --run-dir")


def first_epoch_of(run: Planned) -> int:
    """The first epoch of a run's own: that after the branching point of a branch."""
    return run.start.next_epoch if run.start is not None else 0


def check_streams(run: RunRecord, epoch: int, config: Config, device: torch.device) -> None:
    """Raises RunError where what follows an epoch of a run would read other random numbers on this device."""
    before = run.trained_on(epoch)
    if config.runtime.streams == "device" and before.device != device.type:
        raise RunError(
            f"{run.path}: reads the random streams of {before}, where epoch {epoch} was trained, and cannot go on on "
            f"{Stretch.here(epoch, device)} (runtime.streams is device): use --device {before.device}, or begin a new "
            "run with --set runtime.streams=cpu, which goes on on any device"
        )


def _empty(path: Path) -> None:
    """Delete what a run's directory holds, config.yaml last: until then it is a run's, and --fresh can be repeated."""
    try:
        for child in sorted(path.iterdir(), key=lambda child: child.name == load.CONFIG):
            if child.name in (LOCK, OWNER):
                continue
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()
    except OSError as error:
        raise RunError(f"{path}: cannot be deleted: {error.strerror}: choose another --run-dir") from None


def unwritable(path: Path, error: OSError) -> RunError:
    return RunError(
        f"{path}: cannot be written: {error.strerror}: free space or choose another --run-dir; "
        "the last finished epoch is intact and the same command resumes"
    )

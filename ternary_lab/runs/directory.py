"""Run directories before training: checks, deletion of an earlier run, and creation of missing files."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from ternary_lab.config import Config
from ternary_lab.errors import RunError
from ternary_lab.runs.checksums import json_with_checksum, text_with_checksum
from ternary_lab.runs.files import write_atomically, write_errors
from ternary_lab.runs.load import CHECKPOINTS, CONFIG, PROVENANCE
from ternary_lab.runs.locks import LOCK, OWNER
from ternary_lab.runs.provenance import TrainedSpan, provenance
from ternary_lab.training.run_state import RunState


@dataclass(frozen=True)
class RunPlan:
    """Plan of a run to train: directory, configuration, seed and initial state."""

    path: Path
    config: Config
    seed: int
    start: RunState | None = None
    """State from which a branch starts; None for a run that starts from its seed."""
    label: str = ""
    """Name of the run; empty if the run has the name of its directory."""

    @property
    def name(self) -> str:
        return self.label or self.path.name

    @property
    def first_epoch(self) -> int:
        return self.start.next_epoch if self.start is not None else 0

    def checkpoint(self, name: str) -> Path:
        """Return the path of the checkpoint with a name such as "latest"."""
        return self.path / CHECKPOINTS / f"{name}.safetensors"

    def epoch_checkpoints(self) -> list[Path]:
        """Return the paths of the per-epoch checkpoints, sorted by epoch."""
        return sorted((self.path / CHECKPOINTS).glob("epoch_*.safetensors"))


def check_place(path: Path) -> None:
    """Check that a run can be stored at `path`.

    Raises RunError if `path` is a file, or a folder that holds something other than a run.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: is a file: choose another --run-dir")
    known = {CHECKPOINTS, PROVENANCE, LOCK, OWNER}
    if path.is_dir() and not (path / CONFIG).exists() and any(
        child.name not in known and not child.name.endswith(".tmp") for child in path.iterdir()
    ):
        raise RunError(f"{path}: is not empty and not a run directory: choose another --run-dir")


def empty(path: Path) -> None:
    """Delete the run in a directory. A directory without config.yaml is left as it is.

    config.yaml is deleted last, so that an interrupted deletion can be repeated. Raises RunError if a file cannot be
    deleted.
    """
    if not (path / CONFIG).exists():
        return
    try:
        for child in sorted(path.iterdir(), key=lambda child: child.name == CONFIG):
            if child.name in (LOCK, OWNER):
                continue
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()
    except OSError as error:
        raise RunError(f"{path}: cannot be deleted: {error.strerror}: choose another --run-dir") from None


def prepare(plan: RunPlan, device: torch.device, stopped: str | None) -> None:
    """Create the missing files of a run's directory. Delete the temporary files that a killed process has left.

    `stopped` is the reason why the run has ended, or None.
    """
    folder = plan.path / CHECKPOINTS
    with write_errors(plan.path):
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in (*plan.path.glob(".*.tmp"), *folder.glob(".*.tmp")):
            leftover.unlink(missing_ok=True)
    if not (plan.path / PROVENANCE).exists():
        content = provenance(plan.seed, TrainedSpan.here(plan.first_epoch, device)) | {"stopped": stopped}
        write_atomically(plan.path / PROVENANCE, json_with_checksum(content))
    if not (plan.path / CONFIG).exists():
        # config.yaml is written last, because a directory with this file counts as a run directory.
        write_atomically(plan.path / CONFIG, text_with_checksum(plan.config.as_yaml()).encode())

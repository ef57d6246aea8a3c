"""Run directories before training: checks, deletion of an earlier run, and creation of missing files."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ternary_lab.config import Config
from ternary_lab.errors import FEW, RunError
from ternary_lab.runs.checksums import json_with_checksum, log_line_with_checksum, text_with_checksum
from ternary_lab.runs.files import append, is_stray, reason_and_remedy, write_atomically, write_errors
from ternary_lab.runs.load import CHECKPOINTS, CONFIG, HISTORY, LOG, PACKED_HISTORY, PROBES, PROVENANCE
from ternary_lab.runs.provenance import TrainedSpan, provenance
from ternary_lab.training.run_state import RunState

LOGGER = logging.getLogger(__name__)
_FILES = (CONFIG, PROVENANCE, HISTORY, PACKED_HISTORY, PROBES, LOG)
_CHECKPOINT = re.compile(r"(latest|previous|best_\w+|epoch_\d+)\.safetensors")


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
        """The name in the files of the run. Line breaks and bytes that are not UTF-8 are replaced."""
        name = (self.label or self.path.name).encode(errors="backslashreplace").decode()
        return " ".join(name.splitlines())

    @property
    def first_epoch(self) -> int:
        return self.start.next_epoch if self.start is not None else 0

    def log(self, event: str, **values: Any) -> None:
        """Add an event with its values to the log of the run. Raises RunError."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, **values}
        append(self.path / LOG, log_line_with_checksum(line))

    def checkpoint(self, name: str) -> Path:
        """Return the path of the checkpoint with a name such as "latest"."""
        return self.path / CHECKPOINTS / f"{name}.safetensors"

    def checkpoints(self) -> list[Path]:
        """Return the paths of all checkpoints of the run, sorted by name, and `latest` last."""
        found = (path for path in _children(self.path / CHECKPOINTS) if _CHECKPOINT.fullmatch(path.name))
        return sorted(found, key=lambda path: (path.stem == "latest", path.name))

    def epoch_checkpoints(self) -> list[Path]:
        """Return the paths of the per-epoch checkpoints, sorted by epoch."""
        return sorted((self.path / CHECKPOINTS).glob("epoch_*.safetensors"))


def check_place(path: Path, fresh: bool = False) -> None:
    """Check that a run can be stored at `path`.

    Raises RunError if `path` is not a folder and cannot become one, or if it is a folder that holds something other
    than a run. With `fresh`, the folder may lack config.yaml, because its run is going to be deleted.
    """
    place = next((place for place in (path, *path.parents) if os.path.lexists(place)), path)
    if os.path.lexists(place) and not os.path.isdir(place):
        reason = f"is a link to {os.readlink(place)}, which is no folder" if place.is_symlink() else "is a file"
        raise RunError(f"{place}: {reason}: choose another --run-dir")
    if place != path or (path / CONFIG).exists():
        return
    try:
        names = [child.name for child in sorted(path.iterdir()) if not is_stray(child)]
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}: choose another --run-dir") from None
    begun = (*_FILES, CHECKPOINTS) if CHECKPOINTS in names else (PROVENANCE,)
    if foreign := [name for name in names if name not in begun]:
        raise RunError(f"{path}: is not empty and not a run directory ({_few(foreign)}): choose another --run-dir")
    if not fresh and (written := [name for name in names if name not in (PROVENANCE, CHECKPOINTS)]):
        raise RunError(
            f"{path}: has files of a run ({_few(written)}), but no {CONFIG}: restore {CONFIG} from a copy, or start "
            "again with --fresh"
        )


def empty(plan: RunPlan) -> None:
    """Delete the run in the directory of a plan. Other files stay, and a warning names them.

    config.yaml is replaced last, so that an interrupted deletion can be repeated. Hidden files such as .DS_Store stay
    without a warning. Raises RunError if a file cannot be deleted.
    """
    config, folder = plan.path / CONFIG, plan.path / CHECKPOINTS
    begun = config.exists()
    try:
        for file in (*plan.checkpoints(), *(plan.path / name for name in _FILES if name != CONFIG)):
            file.unlink(missing_ok=True)
        left = [child for child in (*_children(plan.path), *_children(folder)) if not is_stray(child)]
    except OSError as error:
        raise RunError(f"{plan.path}: cannot be deleted: {reason_and_remedy(error)}") from None
    if begun:
        write_config(plan)
    if foreign := sorted(child.relative_to(plan.path).as_posix() for child in left if child not in (config, folder)):
        LOGGER.warning("%s: the run was deleted; what is not a file of the run stays: %s", plan.path, _few(foreign))


def _children(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:FEW]) + ", …" * (len(names) > FEW)


def prepare(plan: RunPlan, device: torch.device, stopped: str | None) -> None:
    """Create the missing files of a run's directory. Delete the temporary files that a killed process has left.

    `stopped` is the reason why the run has ended, or None.
    """
    folder = plan.path / CHECKPOINTS
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in (*plan.path.glob(".*.tmp"), *folder.glob(".*.tmp")):
            leftover.unlink(missing_ok=True)
    with write_errors(plan.path / LOG):
        _mend_log(plan.path / LOG)
    if not (plan.path / PROVENANCE).exists():
        content = provenance(plan.seed, TrainedSpan.here(plan.first_epoch, device)) | {"stopped": stopped}
        write_atomically(plan.path / PROVENANCE, json_with_checksum(content))
    if not (plan.path / CONFIG).exists():
        # config.yaml is written last, because a directory with this file counts as a run directory.
        write_config(plan)


def _mend_log(path: Path) -> None:
    """Remove half a line at the end of a log, which a kill or a power cut has left. Add a newline that is missing."""
    text = path.read_bytes() if path.exists() else b""
    if last := text.rpartition(b"\n")[2]:
        try:
            json.loads(last)
            mended = text + b"\n"
        except ValueError:
            mended = text.removesuffix(last)
        write_atomically(path, mended)


def write_config(plan: RunPlan) -> None:
    """Write config.yaml of a run. Raises RunError."""
    write_atomically(plan.path / CONFIG, text_with_checksum(plan.config.as_yaml()).encode())

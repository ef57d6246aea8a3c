"""Resuming: the state from which a run goes on, chosen from the checkpoints that its directory holds.

An epoch is committed by its `latest.safetensors`, written last. Files of later epochs, left by a killed process, are
written again, so that a resumed run ends with the same bytes as an uninterrupted one. The checkpoint before it is kept
as `previous`: the runs of a cohort, killed between two of their writes, may stand one epoch apart and must go on
together.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ternary_lab.errors import CheckpointError, RunError
from ternary_lab.runs import checkpoint
from ternary_lab.runs.directory import Planned, unwritable
from ternary_lab.runs.files import write_atomically
from ternary_lab.runs.load import CHECKPOINTS, RunRecord
from ternary_lab.training.run_state import RunState

REPORT = logging.getLogger(__name__)


class SavedStates(dict[int, tuple[RunState, tuple[str, ...]]]):
    """Epoch that comes next -> the state to go on from, and the names of the runs it was reached with."""

    set_back = False
    """Whether newer ones were damaged."""

    ended = False
    """Whether the run has ended and kept only weights, as published ones do: there is nothing to go on with."""

    def add(self, path: Path) -> bool:
        """Take in a checkpoint, or name it when it is damaged; False for one of weights only."""
        try:
            point = checkpoint.load(path)
        except CheckpointError as error:
            REPORT.warning("%s; an earlier checkpoint is used", error)
            self.set_back = True
            return True
        if point.state is not None:
            self[point.epoch + 1] = (point.state, point.cohort)
        return point.state is not None


def saved_states(run: Planned, every: bool = False) -> SavedStates:
    """Where a run can go on: from its start, and from the checkpoints that its directory holds.

    Damaged ones are named in the log and left out; then, or if asked, all the run kept are looked at.
    """
    start = run.start if run.start is not None else RunState.initial(run.config, run.seed)
    saved = SavedStates({start.next_epoch: (start, ())})
    folder = run.path / CHECKPOINTS
    for path in (folder / f"{name}.safetensors" for name in ("previous", "latest")):
        if path.exists() and not saved.add(path):
            if RunRecord(run.path).stopped is None:
                raise RunError(f"{path}: holds weights only and cannot be continued: choose another --run-dir")
            saved.ended = True
    if every or saved.set_back:
        for path in sorted(folder.glob("epoch_*.safetensors")):
            saved.add(path)
    return saved


def newest_common_state(run: Planned, saved: dict[str, SavedStates]) -> tuple[RunState, tuple[str, ...]]:
    """A run's newest state, or an earlier one that its company has too.

    A kill may have kept one of them from reaching the newest, and a damaged file may have set one back.
    """
    mine = saved[run.name]
    newest = max(mine)
    _, company = mine[newest]
    others = [saved[name] for name in company if name in saved]
    step = min([newest, *(max(o) for o in others if max(o) == newest - 1 or (o.set_back and max(o) < newest))])
    if step not in mine:
        mine = saved[run.name] = saved_states(run, every=True)
    if step not in mine:
        raise RunError(f"{run.path}: its checkpoint of epoch {step - 1} is missing: start again with --fresh")
    return mine[step]


def set_back(run: Planned, next_epoch: int) -> None:
    """Make the checkpoint that a run goes on from its latest; damaged ones and those beyond it are dropped."""
    folder = run.path / CHECKPOINTS
    latest, previous = (folder / f"{name}.safetensors" for name in ("latest", "previous"))
    kept = folder / f"epoch_{next_epoch - 1:04d}.safetensors"
    try:
        if _epoch(latest) != next_epoch - 1:
            latest.unlink(missing_ok=True)
            if _epoch(previous) == next_epoch - 1:
                os.replace(previous, latest)
            elif _epoch(kept) == next_epoch - 1:
                link_again(kept, latest)
        before = _epoch(previous)
        if before is None or before >= next_epoch:
            previous.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(latest, error) from None


def _epoch(path: Path) -> int | None:
    """The epoch of a checkpoint; None for a missing or damaged one."""
    try:
        return checkpoint.load(path).epoch
    except CheckpointError:
        return None


def link_again(file: Path, name: Path) -> None:
    """Give a file a second name, replacing what had it; under its first it stays for others to read."""
    temporary = name.with_name(f".{name.name}.{os.getpid()}.tmp")
    try:
        try:
            os.link(file, temporary)
        except OSError:  # a file system without hard links
            write_atomically(name, file.read_bytes())
            return
        os.replace(temporary, name)
        temporary.unlink(missing_ok=True)  # replacing a name of the same file does nothing
    except OSError as error:
        raise unwritable(name, error) from None

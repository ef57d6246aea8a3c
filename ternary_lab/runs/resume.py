"""Resuming of runs: choice of the checkpoint from which each run continues.

An epoch is committed when its `latest.safetensors` has been written, after all other files of the epoch. A killed
process can leave files of a later epoch. The resumed run writes these files again. Apart from times, a resumed run
gives the same results as an uninterrupted run, byte for byte.

The checkpoint of the epoch before `latest` is kept as `previous`. A cohort is a group of runs that train side by side.
If a cohort is killed while it writes an epoch, some of its runs are one epoch behind the other runs. All runs of the
cohort then continue from the earlier epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ternary_lab.config import Config, differences
from ternary_lab.errors import CheckpointError, RunError
from ternary_lab.runs import checkpoint
from ternary_lab.runs.directory import RunPlan
from ternary_lab.runs.files import link, write_errors
from ternary_lab.runs.load import CONFIG, PROVENANCE, RunRecord
from ternary_lab.runs.provenance import TrainedSpan
from ternary_lab.training.run_state import RunState

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class StartingPoint:
    """The state from which a run continues."""

    plan: RunPlan
    state: RunState | None
    """None for a run that starts from its seed."""
    cohort: tuple[str, ...] = ()
    """Names of the runs that reached this state side by side.

    These runs continue side by side, because the number of runs side by side affects the rounding.
    """
    file: Path | None = None
    """Checkpoint file of the state; None for an initial state."""
    rewinds: bool = False
    """Whether the directory has damaged checkpoints, or checkpoints of later epochs."""

    @property
    def next_epoch(self) -> int:
        return 0 if self.state is None else self.state.next_epoch

    @property
    def ended(self) -> bool:
        return self.state is not None and self.state.stopped is not None

    @property
    def group(self) -> tuple[int, tuple[str, ...]]:
        """A value that is equal for runs that continue side by side."""
        return self.next_epoch, self.cohort


class _SavedStates:
    """States from which one run can continue: its initial state, and the states in its checkpoints."""

    def __init__(self, plan: RunPlan) -> None:
        self.plan = plan
        self.points = {plan.first_epoch: StartingPoint(plan, plan.start)}
        """The states, as a dictionary from next epoch to starting point."""
        self.damaged = False
        self.weights_only: Path | None = None

    @property
    def newest(self) -> int:
        return max(self.points)

    def read(self, files: Iterable[Path]) -> None:
        """Add the states in checkpoint files. Damaged files are logged and skipped."""
        for path in files:
            try:
                point = checkpoint.load(path)
            except CheckpointError as error:
                LOGGER.warning("%s; an earlier checkpoint is used", error)
                self.damaged = True
                continue
            if point.state is None:
                self.weights_only = path
            else:
                self.points[point.epoch + 1] = StartingPoint(self.plan, point.state, point.cohort, path)


def starting_points(plans: Sequence[RunPlan], device: torch.device) -> list[StartingPoint]:
    """Return the state from which each run continues. No file is written.

    A run that has ended and kept only weights is left out. Published runs are an example. Raises RunError for a
    directory of another run, for a missing checkpoint, for an unfinished run with weights only, and for a run that
    cannot continue on this device.
    """
    saved = {}
    for plan in plans:
        found = saved[plan.name] = _SavedStates(plan)
        found.read(path for name in ("previous", "latest") if (path := plan.checkpoint(name)).exists())
        if not (plan.path / CONFIG).exists():
            continue
        run = RunRecord(plan.path)
        for key, (old, new) in differences(run.config, plan.config).items():
            raise RunError(
                f"{plan.path}: belongs to another configuration ({key} is {old!r} there, {new!r} here): "
                "choose another --run-dir, or --fresh to delete it"
            )
        if (plan.path / PROVENANCE).exists() and run.seed != plan.seed:
            raise RunError(f"{plan.path}: belongs to seed {run.seed}: choose another --run-dir")
        if found.weights_only is not None:
            if run.stopped is None:
                path = found.weights_only
                raise RunError(f"{path}: holds weights only and cannot be continued: choose another --run-dir")
            del saved[plan.name]
    for found in saved.values():
        if found.damaged:
            found.read(found.plan.epoch_checkpoints())
    starts = [_common_point(found, saved) for found in saved.values()]
    for start in starts:
        if not start.ended and start.next_epoch > start.plan.first_epoch:
            check_streams(RunRecord(start.plan.path), start.next_epoch - 1, start.plan.config, device)
    return starts


def _common_point(found: _SavedStates, saved: Mapping[str, _SavedStates]) -> StartingPoint:
    """Return the newest state of a run, or an earlier state that all runs of its cohort have.

    After a kill, the other runs of the cohort may be one epoch behind. A run with damaged checkpoints may be further
    behind. Raises RunError if the run has no checkpoint of the common epoch.
    """
    cohort = [saved[name] for name in found.points[found.newest].cohort if name in saved]
    epoch = min([found.newest, *(
        other.newest for other in cohort
        if other.newest == found.newest - 1 or (other.damaged and other.newest < found.newest)
    )])
    if epoch not in found.points:
        found.read(found.plan.epoch_checkpoints())
    if epoch not in found.points:
        raise RunError(f"{found.plan.path}: its checkpoint of epoch {epoch - 1} is missing: start again with --fresh")
    return replace(found.points[epoch], rewinds=found.damaged or epoch < found.newest)


def check_streams(run: RunRecord, epoch: int, config: Config, device: torch.device) -> None:
    """Check that a run reads the same random numbers on `device` as on the device that trained `epoch`.

    Raises RunError if the random numbers would differ.
    """
    before = run.trained_on(epoch)
    if config.runtime.streams == "device" and before.device != device.type:
        raise RunError(
            f"{run.path}: uses the random streams of {before}, where epoch {epoch} was trained, and cannot continue on "
            f"{TrainedSpan.here(epoch, device)} (runtime.streams is device): use --device {before.device}, or begin a "
            "new run with --set runtime.streams=cpu, which continues on any device"
        )


def rewind(start: StartingPoint) -> None:
    """If `start.rewinds` is true, make the checkpoint of the starting point `latest`, and delete `previous`.

    If the starting point has no checkpoint, `latest` is deleted. Per-epoch checkpoints are kept. Raises RunError.
    """
    if not start.rewinds:
        return
    latest, previous = start.plan.checkpoint("latest"), start.plan.checkpoint("previous")
    if start.file is not None:
        link(start.file, latest)
    with write_errors(latest):
        previous.unlink(missing_ok=True)
        if start.file is None:
            latest.unlink(missing_ok=True)

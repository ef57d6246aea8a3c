"""Resuming of runs: choice of the checkpoint from which each run continues.

An epoch is committed when its `latest.safetensors` has been written, after all other files of the epoch. A killed
process can leave files of a later epoch. The resumed run writes these files again. Apart from times, a resumed run
gives the same results as an uninterrupted run, byte for byte. The same holds for a run that gets more epochs later,
because no schedule depends on `training.total_epochs`.

The checkpoint of the epoch before `latest` is kept as `previous`. A cohort is a group of runs that train side by side.
If a cohort is killed while it writes an epoch, some of its runs are one epoch behind the other runs. All runs of the
cohort then continue from the earlier epoch.

The files of a run must belong together. A checkpoint must have the seed and the settings of the run, and the best
epochs in it must be those of the history.
"""

from __future__ import annotations

import contextlib
import csv
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ternary_lab.config import Config, differences
from ternary_lab.errors import CheckpointError, RunError
from ternary_lab.history import COLUMNS, CRITERIA, FILE_COLUMNS, LATER
from ternary_lab.runs import checkpoint
from ternary_lab.runs.checkpoint import Checkpoint
from ternary_lab.runs.checksums import REMEDY, intact_csv
from ternary_lab.runs.directory import RunPlan, write_config
from ternary_lab.runs.files import link, unix_lines, write_errors
from ternary_lab.runs.load import CONFIG, HISTORY, PROVENANCE, RunRecord
from ternary_lab.runs.provenance import TrainedSpan
from ternary_lab.training.run_state import Best, RunState

LOGGER = logging.getLogger(__name__)
TOTAL = "training.total_epochs"
_NUMBERS = ("seed", "epoch", *CRITERIA)
"""Beginnings of the names of the columns that are held against a checkpoint."""


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
    extends: bool = False
    """True if the plan has more epochs than the configuration in the files of the run."""
    rows: tuple[str, ...] = ()
    """The rows of the history of all epochs before `next_epoch`, without checksums."""

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


@dataclass(frozen=True)
class _Row:
    """A row of the history: its text without the checksum, and the numbers that the criteria read."""

    text: str
    values: Mapping[str, float]


class _SavedStates:
    """States from which one run can continue: its initial state, and the states in its checkpoints."""

    def __init__(self, plan: RunPlan) -> None:
        self.plan = plan
        self.points = {plan.first_epoch: StartingPoint(plan, plan.start)}
        """The states, as a dictionary from next epoch to starting point."""
        self.rows = _intact_rows(plan)
        """The rows of the history, from the first epoch to the last epoch before a damaged or missing row."""
        self.damaged = self.extends = False
        self.weights_only: Path | None = None

    @property
    def newest(self) -> int:
        return max(self.points)

    def read(self, files: Iterable[Path]) -> None:
        """Add the states in checkpoint files. Damaged files are logged and skipped.

        Raises RunError for a checkpoint of another run.
        """
        for path in files:
            try:
                point = checkpoint.load(path)
            except CheckpointError as error:
                LOGGER.warning("%s; an earlier checkpoint is used", error)
                self.damaged = True
                continue
            _check_owner(path, point, self.plan)
            if point.config.training != self.plan.config.training:
                self.extends = True
                point = _with_more_epochs(point, self.plan.config)
            if point.state is None:
                self.weights_only = path
            else:
                self.points[point.epoch + 1] = StartingPoint(self.plan, point.state, point.cohort, path)

    def leave_out_epochs_without_rows(self) -> None:
        """Remove the states of epochs that the history lacks.

        Raises RunError if the history lacks the epochs of every checkpoint.
        """
        first, newest = self.plan.first_epoch, self.newest
        if newest <= first + len(self.rows):
            if newest == first and len(self.rows) > 1:  # A kill in the first epoch leaves at most one row.
                lost = f"{self.plan.path}: has a history of {len(self.rows)} epochs, but no checkpoint is left"
                LOGGER.warning("%s; training starts again from epoch %d", lost, first)
            return
        self.damaged = True
        self.read(self.plan.epoch_checkpoints())
        self.points = {epoch: point for epoch, point in self.points.items() if epoch <= first + len(self.rows)}
        history = f"{self.plan.path / HISTORY}: has intact rows of {len(self.rows)} of the {newest - first} epochs"
        if self.newest == first:
            if not self.rows and (self.plan.path / HISTORY).exists():
                _ = RunRecord(self.plan.path).history  # raises the error that names the damage of the first row
            raise RunError(
                f"{history}, and no earlier checkpoint is left: restore it from a copy, or start again with --fresh"
            )
        LOGGER.warning("%s; training continues from epoch %d", history, self.newest)


def _intact_rows(plan: RunPlan) -> list[_Row]:
    """Return the rows of a run's history up to the first damaged or missing row.

    The rows in a history of an older version also get the missing columns of `history.LATER`. Raises RunError if the
    file cannot be read.
    """
    path, rows = plan.path / HISTORY, list[_Row]()
    columns = (*COLUMNS, *plan.config.added_columns)
    try:
        text = unix_lines(path.read_bytes().decode("utf-8-sig", "replace")) if path.exists() else ""
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}: {REMEDY}") from None
    in_file, optional = (*FILE_COLUMNS, *plan.config.added_columns), () if plan.config.added_columns else LATER
    head, *lines = intact_csv(text, path, in_file, optional).splitlines() or [""]
    missing = "".join(f",{value}" for name, value in LATER.items() if name not in head.split(","))
    for line in lines:
        cells = dict(zip(columns, next(csv.reader([line + missing])), strict=False))
        try:
            values = {name: float(cells[name]) for name in columns if name.startswith(_NUMBERS)}
        except (KeyError, ValueError):  # only in a file of an older version, which has no checksums
            break
        if values["epoch"] != plan.first_epoch + len(rows):
            break
        rows.append(_Row(line + missing, values))
    return rows


def _check_owner(path: Path, point: Checkpoint, plan: RunPlan) -> None:
    """Raise RunError if a checkpoint in the directory of a run is not one of this run."""
    changed = differences(_with_more_epochs(point, plan.config).config, plan.config)
    of = [f"another configuration ({key} is {there!r} there, {here!r} here)" for key, (there, here) in changed.items()]
    if point.seed not in (None, plan.seed):
        of.insert(0, f"seed {point.seed}")
    if of:
        raise RunError(
            f"{path}: belongs to {of[0]}: restore this run's own file from a copy, or start again with --fresh"
        )


def _with_more_epochs(point: Checkpoint, config: Config) -> Checkpoint:
    """Return the checkpoint as if the run had been started with the number of epochs in `config`.

    A checkpoint with at least as many epochs is returned unchanged.
    """
    if point.config.training.total_epochs >= config.training.total_epochs:
        return point
    state = point.state
    if state is not None and (state.stopped or "").startswith("complete"):
        state = replace(state, stopped=None)
    return replace(point, config=point.config.model_copy(update={"training": config.training}), state=state)


def starting_points(plans: Sequence[RunPlan], device: torch.device) -> list[StartingPoint]:
    """Return the state from which each run continues. No file is written.

    A run that has ended and kept only weights is left out. Published runs are an example. Raises RunError for a
    directory of another run, for a missing checkpoint, for an unfinished run with weights only, and for a run that
    cannot continue on this device.
    """
    saved = {}
    for plan in plans:
        found = saved[plan.name] = _SavedStates(plan)
        run = RunRecord(plan.path) if (plan.path / CONFIG).exists() else None
        if run is not None:
            found.extends = _gets_more_epochs(plan, run.config, plan.first_epoch + len(found.rows))
        found.read(path for name in ("previous", "latest") if (path := plan.checkpoint(name)).exists())
        if run is None:
            continue
        if (plan.path / PROVENANCE).exists() and run.seed != plan.seed:
            raise RunError(f"{plan.path}: belongs to seed {run.seed}: choose another --run-dir")
        if found.weights_only is not None:
            if run.stopped is None or found.extends:
                path = found.weights_only
                raise RunError(f"{path}: holds weights only and cannot be continued: choose another --run-dir")
            del saved[plan.name]
    for found in saved.values():
        if found.damaged:
            found.read(found.plan.epoch_checkpoints())
        found.leave_out_epochs_without_rows()
    starts = [_common_point(found, saved) for found in saved.values()]
    for start in starts:
        if not start.ended and start.next_epoch > start.plan.first_epoch:
            check_streams(RunRecord(start.plan.path), start.next_epoch - 1, start.plan.config, device)
    return starts


def _gets_more_epochs(plan: RunPlan, there: Config, trained: int) -> bool:
    """Return whether a plan only gives more epochs to a run whose directory has the configuration `there`.

    `trained` is the number of epochs up to the last trained epoch. Raises RunError if the configurations differ in
    anything else.
    """
    changed = differences(there, plan.config)
    more = there.training.total_epochs < plan.config.training.total_epochs
    if more:
        del changed[TOTAL]
    if not changed:
        return more
    key, (old, new) = next(iter(changed.items()))
    values = _changed_schedules(there, plan.config, trained)
    because = f", which changes {', '.join(values)} of the epochs that are trained" if values else ""
    what = "cannot get more epochs" if more else "belongs to another configuration"
    raise RunError(
        f"{plan.path}: {what} ({key} is {old!r} there, {new!r} here{because}): "
        "choose another --run-dir, or --fresh to delete it"
    )


def _changed_schedules(a: Config, b: Config, epochs: int) -> list[str]:
    """Return the names of the scheduled values that differ between two configurations before epoch `epochs`."""

    def values(config: Config, e: int) -> dict[str, float]:
        names = ("β_A", "β_B", "τ_A", "τ_B", "ρ", "the learning rate", "λ₃")
        scheduled = (*config.betas(e), *config.temperatures(e), config.permeability(e, True), config.lr(e))
        return dict(zip(names, (*scheduled, config.lambda3(e)), strict=True))

    pairs = [(values(a, e), values(b, e)) for e in range(epochs)]
    return [name for name in (pairs[0][0] if pairs else ()) if any(x[name] != y[name] for x, y in pairs)]


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
    rows = found.rows[: epoch - found.plan.first_epoch]
    start = replace(
        found.points[epoch], rewinds=found.damaged or epoch < found.newest, extends=found.extends,
        rows=tuple(row.text for row in rows),
    )
    _check_history(start, [row.values for row in rows])
    return start


def _check_history(start: StartingPoint, rows: Sequence[Mapping[str, float]]) -> None:
    """Raise RunError if the rows before a checkpoint have another seed or other best epochs than the checkpoint."""
    plan, state = start.plan, start.state
    if state is None or start.file is None:
        return
    best, selected = (plan.start.best, plan.start.selected) if plan.start is not None else (Best(), Best())
    for row in rows:
        best = best.or_better(row, plan.config.early_stopping.metric)
        selected = selected.or_better(row, plan.config.criterion)
    if (best, selected) != (state.best, state.selected) or any(row["seed"] != plan.seed for row in rows):
        raise RunError(
            f"{plan.path / HISTORY}: is not the history of {start.file.name}: restore both files from one copy of the "
            "run, or start again with --fresh"
        )


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


def extend(start: StartingPoint) -> None:
    """If `start.extends` is true, write the number of epochs of the plan into all files of the run that have it.

    `latest` is written last. So a call that is killed is completed by the next start of the run. Damaged checkpoints
    are left as they are. Raises RunError if a file cannot be written.
    """
    if not start.extends:
        return
    plan = start.plan
    write_config(plan)
    for path in plan.checkpoints():
        with contextlib.suppress(CheckpointError):
            checkpoint.save(path, _with_more_epochs(checkpoint.load(path), plan.config))
    plan.log("extended", total_epochs=plan.config.training.total_epochs)


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

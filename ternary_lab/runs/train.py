"""Training into run directories: experiments over seeds, and branches and counterfactuals of runs.

A cohort is a group of runs that train side by side.

    run_experiment, branch, train_counterfactuals    make a `RunPlan` for each run
    train_runs     reads and checks all directories, prepares the directories, and trains each cohort
    _train_cohort  trains an epoch while the files of the previous epoch are written
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ternary_lab.arguments import named_values, read_path, read_seeds, require, whole_number
from ternary_lab.backend.devices import gpu_errors, resolve_device
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.config import Config
from ternary_lab.config_files import Counterfactual, from_dict, load_config
from ternary_lab.errors import ConfigError, RunError
from ternary_lab.runs import directory
from ternary_lab.runs.directory import RunPlan
from ternary_lab.runs.epoch_files import EpochWriter, RunFiles
from ternary_lab.runs.interrupt import interrupt_after_epoch
from ternary_lab.runs.load import RunRecord, RunSet
from ternary_lab.runs.locks import check_open_files, locked
from ternary_lab.runs.progress import progress_bar
from ternary_lab.runs.resume import StartingPoint, check_streams, extend, rewind, starting_points
from ternary_lab.training import memory
from ternary_lab.training.cohort import Cohort, check_cohort
from ternary_lab.training.run_state import Best

LOGGER = logging.getLogger(__name__)


@with_fixed_arithmetic
def run_experiment(
    config: Config,
    seeds: Iterable[int] = (42,),
    run_dir: str | Path | None = None,
    *,
    device: str | torch.device = "auto",
    progress: bool = False,
    fresh: bool = False,
    stop: Callable[[], bool] | None = None,
) -> RunSet:
    """Train one run per seed. The runs train side by side, and each run has its directory `run_dir/seed=…`.

    Unfinished runs continue. Finished runs are not repeated. If `training.total_epochs` is larger than before and all
    other settings are the same, finished runs continue, too. They end with the same results as runs that had this
    number of epochs from the start, byte for byte.

    Args:
        run_dir: directory of all runs; default `runs/<config.name>`.
        progress: show a bar on a terminal, or print a line every half minute in a log; show nothing in a notebook.
        fresh: delete the files of earlier runs of these seeds and start again. Other files, and branches of the runs,
            stay.
        stop: function that is called after every epoch, when the files of the epoch are written. If it returns True,
            training ends, and the same call of `run_experiment` continues later. Without `stop`, the next epoch is
            trained while the files are written.

    Raises RunError if a directory belongs to another configuration, holds something else, is in use by another process,
    or cannot be written. Raises RunError also if a run was trained on another kind of device and needs the random
    streams of that device (`runtime.streams`). Raises ConfigError for bad seeds, and for settings that the files of a
    run cannot hold, such as a subclass of `Config`. Raises DeviceError if the device is
    missing or fails.
    """
    require(config, Config, "config", "read a file with load_config")
    seeds = read_seeds(seeds)
    _check_storable(config)
    root = read_path(run_dir) if run_dir is not None else Path("runs") / config.name
    train_runs(
        [RunPlan(root / f"seed={seed}", config, seed) for seed in seeds],
        device=device, progress=progress, fresh=fresh, stop=stop,
    )
    return RunSet({seed: RunRecord(root / f"seed={seed}") for seed in seeds})


def _check_storable(config: Config) -> None:
    """Check that the files of a run can hold a configuration, so that the run can be resumed and verified.

    Raises ConfigError otherwise, for example for a subclass of `Config`: config.yaml would hold its settings, but not
    its code.
    """
    stored = from_dict(config.as_dict())
    if stored == config:
        return
    part = next((name for name, value in config if value != getattr(stored, name)), "")
    found = getattr(config, part) if part else config
    raise ConfigError(
        f"{part or 'configuration'}: config.yaml cannot hold the class {type(found).__name__}, so the run would resume "
        "with other values: write a schedule or a loss term with a mode of its own (see docs/how_to)"
    )


@with_fixed_arithmetic
def branch(
    run: RunRecord,
    epoch: int,
    overrides: Mapping[str, Any],
    *,
    run_dir: str | Path | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> RunRecord:
    """Continue a run from its full checkpoint of `epoch` under other settings, as a counterfactual.

    The branch reads the same random streams as the run, so only the settings cause a difference. The history of the
    branch starts at `epoch` + 1. The default directory is in the folder `branches` of the run's directory, and is named
    after the epoch and the settings.

    Raises RunError if there is no full checkpoint of that epoch, or if the run needs the random streams of another kind
    of device. Raises ConfigError for an invalid setting, and for a change of `data.*` or `model.*`.
    """
    require(run, RunRecord, "run", "read it with load_run")
    epoch = whole_number(epoch, "epoch", error=RunError)
    overrides = named_values(overrides, "overrides")
    label = ",".join(f"{key}={value}" for key, value in overrides.items()) or "unchanged"
    # Windows and its file servers refuse these characters in names.
    default = run.path / "branches" / re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", f"epoch={epoch},{label}")[:200]
    path = read_path(run_dir) if run_dir is not None else default
    train_runs([_branch_plan(run, epoch, overrides, path, device)], device=device, progress=progress)
    return RunRecord(path)


@with_fixed_arithmetic
def train_counterfactuals(
    runs: Sequence[RunRecord],
    counterfactuals: Sequence[Counterfactual],
    run_dir: str | Path,
    *,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> dict[str, RunSet]:
    """Train every counterfactual of every run. Return a dictionary from the name of a counterfactual to its runs.

    Runs that begin at the same epoch train side by side. The directory of a run is `run_dir/name/seed=…`, where `name`
    is the name of the counterfactual. Finished runs are not repeated. If a counterfactual has no epoch `after`,
    training starts again from the seed of the run, with the changed settings. Otherwise training continues from the
    state of the run after this epoch (see `branch`).

    Raises the errors of `branch`. Raises ConfigError if no counterfactual is given, if two runs have the same seed, or
    if two counterfactuals have the same name.
    """
    if not counterfactuals:
        raise ConfigError("counterfactuals: none given: give at least one file")
    for run in runs:
        require(run, RunRecord, "run", "read it with load_run")
    names = [c.name for c in counterfactuals]
    read_seeds(run.seed for run in runs)
    if len(set(names)) < len(names):
        raise ConfigError(f"counterfactuals: two have the name {max(names, key=names.count)}: rename one file")
    root, plans = read_path(run_dir), []
    for c in counterfactuals:
        for run in runs:
            label = f"{c.name}/seed={run.seed}"
            if c.after is None:
                plans.append(RunPlan(root / label, load_config(run.config.as_dict(), c.set), run.seed, label=label))
            else:
                plans.append(_branch_plan(run, c.after, c.set, root / label, device, label))
    check_cohort([plan.config for plan in plans])
    train_runs(plans, device=device, progress=progress)
    return {c.name: RunSet({run.seed: RunRecord(root / c.name / f"seed={run.seed}") for run in runs})
            for c in counterfactuals}


def _branch_plan(
    run: RunRecord, epoch: int, overrides: Mapping[str, Any], path: Path, device: str | torch.device, label: str = ""
) -> RunPlan:
    """Return the plan of a branch. Raises the errors of `branch`."""
    place = resolve_device(device)
    point = run.checkpoint(epoch)
    if point.state is None:
        raise RunError(f"{run.path}: the checkpoint of epoch {epoch} holds weights only: retrain the run to branch")
    changed = load_config(run.config.as_dict(), overrides)
    if changed.model != run.config.model or changed.data != run.config.data:
        raise ConfigError("a branch cannot change data.* or model.*: train a new run instead")
    if point.epoch + 1 >= changed.training.total_epochs:
        raise ConfigError(f"training.total_epochs: must exceed {point.epoch + 1} for a branch from epoch {point.epoch}")
    check_streams(run, point.epoch, changed, place)
    point.state.stopped = None
    # Values of two criteria cannot be compared, so the best epoch by the old criterion is forgotten.
    if changed.early_stopping.metric != run.config.early_stopping.metric:
        point.state.best = Best()
    if changed.criterion != run.config.criterion:
        point.state.selected = Best()
    return RunPlan(path, changed, run.seed, point.state, label)


@with_fixed_arithmetic
def train_runs(
    plans: Sequence[RunPlan],
    *,
    device: str | torch.device = "auto",
    progress: bool = False,
    fresh: bool = False,
    stop: Callable[[], bool] | None = None,
    lock_timeout: float = 0.0,
) -> None:
    """Train runs to their end. Each run continues from the state in its directory.

    Runs at the same epoch train side by side. Unless `fresh` is true, every directory is read and checked before any
    file of a run is written.

    Args:
        progress: as in `run_experiment`.
        fresh: as in `run_experiment`.
        stop: as in `run_experiment`.
        lock_timeout: seconds to wait for a directory that another process has locked.

    Raises ConfigError if runs of one cohort differ in a structural setting. Raises RunError and DeviceError as
    `run_experiment` does.
    """
    place = resolve_device(device)
    if len({plan.name for plan in plans}) < len(plans):
        raise RunError("two of the runs have the same name: give each a directory of its own")
    places: dict[str, Path] = {}
    for plan in plans:
        directory.check_place(plan.path, fresh)
        if (other := places.setdefault(os.path.realpath(plan.path), plan.path)) != plan.path:
            raise RunError(f"{plan.path}: is the same directory as {other}: give each run a directory of its own")
    check_open_files(len(plans))
    with ExitStack() as locks, interrupt_after_epoch() as check_interrupt, gpu_errors():
        for plan in sorted(plans, key=lambda plan: plan.path):
            locks.enter_context(locked(plan.path, lock_timeout))
        if fresh:
            for plan in plans:
                directory.empty(plan)
        starts = starting_points(plans, place)
        for start in starts:
            directory.prepare(start.plan, place, None if start.state is None else start.state.stopped)
            rewind(start)
            extend(start)
        unfinished = [start for start in starts if not start.ended]
        for group in sorted({start.group for start in unfinished}):
            cohort = [start for start in unfinished if start.group == group]
            if _train_cohort(cohort, place, progress, check_interrupt, stop):
                return


def _train_cohort(
    starts: Sequence[StartingPoint],
    device: torch.device,
    progress: bool,
    check_interrupt: Callable[[], None],
    stop: Callable[[], bool] | None,
) -> bool:
    """Train one cohort until all of its runs have ended, or until `stop` returns True.

    Returns whether `stop` has ended the training. Raises KeyboardInterrupt if `check_interrupt` does.
    """
    plans, next_epoch = [start.plan for start in starts], starts[0].next_epoch
    config, total = plans[0].config, max(plan.config.training.total_epochs for plan in plans)
    label = f"{config.name}, {len(plans)} run{'s' if len(plans) > 1 else ''}"
    room = partial(memory.room, config, len(plans), str(device))
    with (
        gpu_errors(room),
        progress_bar(label, next_epoch, total, progress) as show_epoch,
        EpochWriter(len(plans)) as writer,
    ):
        files = {start.plan.name: RunFiles(start, device) for start in starts}
        if changed := {file.changed_versions for file in files.values()} - {""}:
            LOGGER.warning("%s: resumed with %s: results may differ in the last digits", label, "; ".join(changed))
        states = [start.state for start in starts if start.state is not None]
        cohort = Cohort(
            [plan.config for plan in plans], [plan.seed for plan in plans], device, states or None, list(files)
        )
        began = time.perf_counter()
        for epoch in cohort.epochs():
            finished = epoch.finish()
            seconds, began = time.perf_counter() - began, time.perf_counter()
            writer.write([
                partial(files[row.run].commit, row, state, epoch.company, seconds) for row, state in finished
            ])
            show_epoch([row for row, _ in finished])  # at once, while the files of the epoch are still being written
            _end_diverged(cohort, files, writer)
            check_interrupt()
            if stop is not None:
                writer.wait()
                if stop():
                    return True
        _end_diverged(cohort, files, writer)
    return False


def _end_diverged(cohort: Cohort, files: dict[str, RunFiles], writer: EpochWriter) -> None:
    """Mark the runs that have diverged as ended. The finished epochs of these runs are kept."""
    for name, reason in cohort.diverged.items():
        if (run := files.pop(name, None)) is not None:
            writer.wait()
            run.end(reason)
            LOGGER.warning("%s: %s; its last good epoch is kept", run.plan.path, reason)

"""From a configuration to run directories: the only wiring of training and files.

An epoch is committed by its `latest.safetensors`, written last. Whatever a killed process left beyond
that point is written again, so a run started again with the same command ends bit-identical. The
checkpoint before it stays as `previous`, because the runs of a cohort, killed between two of their
writes, may stand one epoch apart and must go on together.

An epoch's files are written by threads while the next epoch is trained; no file of an epoch is begun before
every run has those of the epoch before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ternary_lab import config_files
from ternary_lab.backend.devices import gpu_errors, resolve_device
from ternary_lab.backend.numerics import fenced
from ternary_lab.config import Config
from ternary_lab.config_files import Counterfactual
from ternary_lab.errors import ConfigError, RunError
from ternary_lab.runs.directory import Planned, check_directory, check_streams, first_epoch_of, prepare_directory
from ternary_lab.runs.epoch_files import RunFiles, Writer
from ternary_lab.runs.load import RunRecord, RunSet
from ternary_lab.runs.locks import held
from ternary_lab.runs.progress import Interrupt, Progress
from ternary_lab.runs.resume import REPORT, newest_common_state, saved_states, set_back
from ternary_lab.training import memory
from ternary_lab.training.cohort import Cohort, check_cohort
from ternary_lab.training.run_state import Best, RunState
from ternary_lab.training.train import check_seeds


@fenced
def run_experiment(
    config: Config,
    seeds: Sequence[int] = (42,),
    run_dir: str | Path | None = None,
    *,
    device: str | torch.device = "auto",
    progress: bool = False,
    fresh: bool = False,
    stop: Callable[[], bool] | None = None,
) -> RunSet:
    """Train one run per seed side by side, each in its directory `run_dir/seed=…`, or go on where they stood.

    Args:
        run_dir: default `runs/<config.name>`.
        progress: show a progress bar (a line now and then where stderr is no terminal).
        fresh: start again; what these seeds' directories held is deleted.
        stop: asked after every epoch, once its files are written; True ends the call, and the same call goes on
            from there. Without it the next epoch is trained while they are written.

    Finished runs are not repeated. Raises RunError when a directory belongs to another configuration,
    holds something else, cannot be written, or was trained on another kind of device whose random streams it
    reads (`runtime.streams`); ConfigError for bad seeds; DeviceError.
    """
    check_seeds(seeds)
    root = Path(run_dir) if run_dir is not None else Path("runs") / config.name
    train_runs(
        [Planned(root / f"seed={seed}", config, seed) for seed in seeds],
        device=device, progress=progress, fresh=fresh, stop=stop,
    )
    return RunSet({seed: RunRecord(root / f"seed={seed}") for seed in seeds})


@fenced
def branch(
    run: RunRecord,
    epoch: int,
    overrides: Mapping[str, Any],
    *,
    run_dir: str | Path | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> RunRecord:
    """Continue a run from its full checkpoint of `epoch` under other settings: a counterfactual.

    The branch reads the same random streams as the run, so the settings are all that differs. Its
    history starts at `epoch` + 1. Default directory: `branches/` in the run's own, named after epoch and
    settings.

    Raises RunError when there is no full checkpoint of that epoch, or its streams are those of another kind of
    device; ConfigError for a bad setting or one that changes shapes.
    """
    planned = _branch(run, epoch, overrides, resolve_device(device))
    label = ",".join(f"{key}={value}" for key, value in overrides.items()) or "unchanged"
    default = run.path / "branches" / f"epoch={epoch},{label}".replace("/", "_")[:200]
    path = Path(run_dir) if run_dir is not None else default
    train_runs([replace(planned, path=path)], device=device, progress=progress)
    return RunRecord(path)


@fenced
def train_counterfactuals(
    runs: Sequence[RunRecord],
    counterfactuals: Sequence[Counterfactual],
    run_dir: str | Path,
    *,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> dict[str, RunSet]:
    """Train every counterfactual of every run, those that begin at the same epoch side by side.

    A run of counterfactual `name` lies in `run_dir/name/seed=…`; finished ones are not repeated. Those that
    begin at the start take the run's configuration and seed, the others its state too (see `branch`).

    Raises what `branch` raises, and ConfigError for two runs of one seed or counterfactuals of one name.
    """
    if not counterfactuals:
        raise ConfigError("counterfactuals: none given: give at least one file")
    names = [c.name for c in counterfactuals]
    check_seeds([run.seed for run in runs])
    if len(set(names)) < len(names):
        raise ConfigError(f"counterfactuals: two have the name {max(names, key=names.count)}: rename one file")
    root, planned = Path(run_dir), []
    for c in counterfactuals:
        for run in runs:
            if c.after is None:
                one = Planned(run.path, config_files.load_config(run.config.as_dict(), c.set), run.seed)
            else:
                one = _branch(run, c.after, c.set, resolve_device(device))
            folder = f"seed={run.seed}"
            planned.append(replace(one, path=root / c.name / folder, label=f"{c.name}/{folder}"))
    train_runs(planned, device=device, progress=progress)
    return {c.name: RunSet({run.seed: RunRecord(root / c.name / f"seed={run.seed}") for run in runs})
            for c in counterfactuals}


def _branch(run: RunRecord, epoch: int, overrides: Mapping[str, Any], device: torch.device) -> Planned:
    """The plan of a branch, without a place of its own yet. Raises as `branch` does."""
    point = run.checkpoint(epoch)
    if point.state is None:
        raise RunError(f"{run.path}: the checkpoint of epoch {epoch} holds weights only: retrain the run to branch")
    changed = config_files.load_config(run.config.as_dict(), overrides)
    if changed.model != run.config.model or changed.data != run.config.data:
        raise ConfigError("a branch cannot change data.* or model.*: train a new run instead")
    if point.epoch + 1 >= changed.training.total_epochs:
        raise ConfigError(f"training.total_epochs: must exceed {point.epoch + 1} for a branch from epoch {point.epoch}")
    check_streams(run, point.epoch, changed, device)
    point.state.stopped = None
    # The best by one criterion is nothing to hold another against.
    if changed.early_stopping.metric != run.config.early_stopping.metric:
        point.state.best = Best()
    if changed.criterion != run.config.criterion:
        point.state.selected = Best()
    return Planned(run.path, changed, run.seed, point.state)


@fenced
def train_runs(
    planned: Sequence[Planned],
    *,
    device: str | torch.device = "auto",
    progress: bool = False,
    fresh: bool = False,
    stop: Callable[[], bool] | None = None,
    patience: float = 0.0,
) -> None:
    """Train runs to their end side by side, resuming each from what it holds: a cohort for each epoch they stand at.

    Where another process holds one of their directories, it is given `patience` seconds to end. Raises ConfigError
    for runs that differ in something structural, RunError, DeviceError and DivergenceError.
    """
    place = resolve_device(device)
    check_cohort([run.config for run in planned])
    if len({run.name for run in planned}) < len(planned):
        raise RunError("two of the runs have the same name: give each a directory of its own")
    for run in planned:
        check_directory(run.path)
    with ExitStack() as locks, Interrupt() as interrupt:
        for run in sorted(planned, key=lambda run: run.path):
            locks.enter_context(held(run.path, patience))
        with gpu_errors():
            _train_held(planned, place, progress, fresh, interrupt, stop)


def _train_held(
    planned: Sequence[Planned],
    place: torch.device,
    progress: bool,
    fresh: bool,
    interrupt: Interrupt,
    stop: Callable[[], bool] | None,
) -> None:
    """`train_runs` once the directories are ours."""
    for run in planned:
        prepare_directory(run, fresh, place)
    saved = {run.name: found for run in planned if not (found := saved_states(run)).ended}
    # Runs go on in the company that they were in, so that a kill does not change it.
    groups: dict[tuple[int, tuple[str, ...]], list[tuple[Planned, RunState]]] = {}
    for run in (run for run in planned if run.name in saved):
        state, company = newest_common_state(run, saved)
        if state.stopped is None and state.next_epoch > first_epoch_of(run):
            check_streams(RunRecord(run.path), state.next_epoch - 1, run.config, place)
        if state.next_epoch < max(saved[run.name]) or saved[run.name].set_back:
            set_back(run, state.next_epoch)
        if state.stopped is None:
            groups.setdefault((state.next_epoch, company), []).append((run, state))
    for _, group in sorted(groups.items()):
        runs, states = zip(*group, strict=True)
        with gpu_errors(partial(memory.room, runs[0].config, len(runs), str(place))):
            if _train_cohort(runs, states, place, progress, interrupt, stop):
                return


def _train_cohort(
    planned: Sequence[Planned],
    states: Sequence[RunState],
    device: torch.device,
    progress: bool,
    interrupt: Interrupt,
    stop: Callable[[], bool] | None,
) -> bool:
    """Train one cohort to its end, or until `stop` says so: True then. Raises KeyboardInterrupt when asked for."""
    cohort = Cohort(
        [run.config for run in planned], [run.seed for run in planned], device, states, [run.name for run in planned]
    )
    files = {run.name: RunFiles(run, cohort.epoch, device) for run in planned}
    total = max(run.config.training.total_epochs for run in planned)
    with Progress(planned, cohort.epoch, total, progress) as bar, Writer(len(planned)) as writer:
        started = time.perf_counter()
        for epoch in cohort.epochs():
            finished = epoch.finish()
            seconds, started = time.perf_counter() - started, time.perf_counter()
            writer.write([
                partial(files[row.run].commit, row, state, epoch.company, seconds) for row, state in finished
            ])
            # Its files are a moment behind: shown when they are there, an epoch would be shown an epoch late.
            bar.update([row for row, _ in finished])
            _close_diverged(cohort, files, writer)
            interrupt.check()
            if stop is not None:
                writer.wait()
                if stop():
                    return True
        _close_diverged(cohort, files, writer)
    return False


def _close_diverged(cohort: Cohort, files: dict[str, RunFiles], writer: Writer) -> None:
    """End the runs that have left the cohort because they diverged; what they had before is kept."""
    for name, reason in cohort.diverged.items():
        if (run := files.pop(name, None)) is not None:
            writer.wait()
            run.end(reason)
            REPORT.warning("%s: %s; its last good epoch is kept", run.run.path, reason)

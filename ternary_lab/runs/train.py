"""From a configuration to run directories: the only wiring of training and files.

An epoch is committed by its `latest.safetensors`, written last. Whatever a killed process left beyond
that point is written again, so a run started again with the same command ends bit-identical. The
checkpoint before it stays as `previous`, because the runs of a cohort, killed between two of their
writes, may stand one epoch apart and must go on together.

An epoch's files are written by threads while the next epoch is trained; no file of an epoch is begun before
every run has those of the epoch before.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from ternary_lab.runs import checkpoint
from ternary_lab import config
from ternary_lab import memory
from ternary_lab.runs import load
from ternary_lab.runs.checkpoint import Checkpoint, sync_directory, write_atomically, written_beside
from ternary_lab.config import Config, Counterfactual
from ternary_lab.backend.devices import gpu_errors
from ternary_lab.errors import CheckpointError, ConfigError, RunError
from ternary_lab.runs.checksums import ROW, check_table, sealed_event, sealed_json, sealed_row, sealed_text
from ternary_lab.runs.locks import LOCK, OWNER, held
from ternary_lab.backend.numerics import fenced
from ternary_lab.runs.load import CHECKPOINTS, HISTORY, LOG, PROVENANCE, RunRecord, RunSet, Stretch, stretches
from ternary_lab.backend.threads import resolve_device
from ternary_lab.training import COLUMNS, LATER, Best, Cohort, EpochRecord, RunState, check_cohort, check_seeds

REPORT = logging.getLogger(__name__)
WRITERS = 8
"""Threads that write files, at most: while one waits for the disk, others encode, and one flush serves several."""


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
                one = Planned(run.path, config.load_config(run.config.as_dict(), c.set), run.seed)
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
    changed = config.load_config(run.config.as_dict(), overrides)
    if changed.model != run.config.model or changed.data != run.config.data:
        raise ConfigError("a branch cannot change data.* or model.*: train a new run instead")
    if point.epoch + 1 >= changed.training.total_epochs:
        raise ConfigError(f"training.total_epochs: must exceed {point.epoch + 1} for a branch from epoch {point.epoch}")
    _check_streams(run, point.epoch, changed, device)
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
        _check_place(run.path)
    with ExitStack() as locks, _Interrupt() as interrupt:
        for run in sorted(planned, key=lambda run: run.path):
            locks.enter_context(held(run.path, patience))
        with gpu_errors():
            _train_held(planned, place, progress, fresh, interrupt, stop)


def _train_held(
    planned: Sequence[Planned],
    place: torch.device,
    progress: bool,
    fresh: bool,
    interrupt: _Interrupt,
    stop: Callable[[], bool] | None,
) -> None:
    """`train_runs` once the directories are ours."""
    for run in planned:
        _prepare(run, fresh, place)
    saved = {run.name: found for run in planned if not (found := _saved(run)).ended}
    # Runs go on in the company that they were in, so that a kill does not change it.
    groups: dict[tuple[int, tuple[str, ...]], list[tuple[Planned, RunState]]] = {}
    for run in (run for run in planned if run.name in saved):
        state, company = _newest_in_step(run, saved)
        if state.stopped is None and state.next_epoch > _first_epoch(run):
            _check_streams(RunRecord(run.path), state.next_epoch - 1, run.config, place)
        if state.next_epoch < max(saved[run.name]) or saved[run.name].set_back:
            _set_back(run, state.next_epoch)
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
    interrupt: _Interrupt,
    stop: Callable[[], bool] | None,
) -> bool:
    """Train one cohort to its end, or until `stop` says so: True then. Raises KeyboardInterrupt when asked for."""
    cohort = Cohort(
        [run.config for run in planned], [run.seed for run in planned], device, states, [run.name for run in planned]
    )
    files = {run.name: _RunFiles(run, cohort.epoch, device) for run in planned}
    total = max(run.config.training.total_epochs for run in planned)
    with _Progress(planned, cohort.epoch, total, progress) as bar, _Writer(len(planned)) as writer:
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


def _close_diverged(cohort: Cohort, files: dict[str, _RunFiles], writer: _Writer) -> None:
    """End the runs that have left the cohort because they diverged; what they had before is kept."""
    for name, reason in cohort.diverged.items():
        if (run := files.pop(name, None)) is not None:
            writer.wait()
            run.end(reason)
            REPORT.warning("%s: %s; its last good epoch is kept", run.run.path, reason)


class _Writer:
    """Threads that write the files of an epoch while the next one is trained.

    Once a write has failed none is begun any more. At the end of the block, however it ends, what was given is
    written, or has failed, and the threads are gone.
    """

    def __init__(self, runs: int) -> None:
        self._threads = ThreadPoolExecutor(min(runs, WRITERS), "writer")
        self._epoch: list[Future[None]] = []
        self._failed = threading.Event()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            self._threads.shutdown(cancel_futures=True)

    def write(self, calls: Sequence[Callable[[], None]]) -> None:
        """Begin the calls, one a run, once those before them are done. Raises what one of those raised."""
        self.wait()
        self._epoch = [self._threads.submit(self._do, call) for call in calls]

    def wait(self) -> None:
        """Until everything is written. Raises what a call raised."""
        wait(self._epoch)
        epoch, self._epoch = self._epoch, []
        for call in epoch:
            call.result()

    def _do(self, call: Callable[[], None]) -> None:
        if self._failed.is_set():
            return
        try:
            call()
        except BaseException:
            self._failed.set()
            raise


class _RunFiles:
    """The files of one run while it is trained."""

    def __init__(self, run: Planned, next_epoch: int, device: torch.device) -> None:
        self.run = run
        self.checkpoints = run.path / CHECKPOINTS
        self._config = run.config.as_yaml()
        self._provenance = dict(RunRecord(run.path).provenance)
        self._trim_history(next_epoch)
        self._begin_stretch(next_epoch, device)
        fresh = next_epoch == _first_epoch(run)
        self.log("started" if fresh else "resumed", next_epoch=next_epoch, device=device.type)

    def commit(self, row: EpochRecord, state: RunState, company: tuple[str, ...], seconds: float) -> None:
        """Make an epoch permanent; `latest` is written last and is what counts."""
        config = self.run.config
        point = Checkpoint(config, self.run.seed, row.epoch, row.rho, state.blocks, state, company)
        latest = self.checkpoints / "latest.safetensors"
        names = [f"epoch_{row.epoch:04d}"] if config.checkpoints.keeps(row.epoch) else []
        for best, criterion in {(state.best, config.early_stopping.metric), (state.selected, config.criterion)}:
            if best.epoch == row.epoch:
                names.append(f"best_{criterion}")
        with written_beside(latest, checkpoint.encoded(point, self._config)) as file:
            for name in names:
                _name_again(file, self.checkpoints / f"{name}.safetensors")
            if names:
                self._sync(self.checkpoints)
            cells = [getattr(row, name) for name in COLUMNS]
            self._append(self.run.path / HISTORY, sealed_row(_csv_line(COLUMNS), _csv_line(cells)))
            self._spent(seconds, state.stopped)
            if latest.exists():
                _name_again(latest, self.checkpoints / "previous.safetensors")
        if state.stopped is not None:
            self.log("stopped", epoch=row.epoch, reason=state.stopped)

    def log(self, event: str, **values: Any) -> None:
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, **values}
        self._append(self.run.path / LOG, sealed_event(line))

    def end(self, reason: str) -> None:
        """Mark the run as ended after its last finished epoch."""
        latest = self.checkpoints / "latest.safetensors"
        if latest.exists():
            point = checkpoint.load(latest)
            if point.state is not None:
                checkpoint.save(latest, replace(point, state=replace(point.state, stopped=reason)))
        self._spent(0.0, reason)
        self.log("stopped", reason=reason)

    def _begin_stretch(self, next_epoch: int, device: torch.device) -> None:
        """Note in the provenance on which device the epochs from here on are trained."""
        found = stretches(self._provenance)
        kept = [stretch for stretch in found if stretch.first_epoch < next_epoch]
        here = Stretch.here(next_epoch, device)
        if not kept or replace(kept[-1], first_epoch=next_epoch) != here:
            kept.append(here)
        if kept != found:
            self._provenance.pop("device", None)
            self._provenance["devices"] = [asdict(stretch) for stretch in kept]
            write_atomically(self.run.path / PROVENANCE, sealed_json(self._provenance))

    def _sync(self, folder: Path) -> None:
        try:
            sync_directory(folder)
        except OSError as error:
            raise _unwritable(folder, error) from None

    def _append(self, path: Path, text: str) -> None:
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(path, error) from None

    def _trim_history(self, next_epoch: int) -> None:
        """Drop rows of epochs that were not committed, a torn last line among them."""
        path = self.run.path / HISTORY
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        head, *rows = check_table(text, path, COLUMNS, LATER).splitlines() if "\n" in text else [""]
        lacking = "".join(f",{value}" for name, value in LATER.items() if name not in head.split(","))
        epoch = COLUMNS.index("epoch")
        kept = [_csv_line([*COLUMNS, ROW]) + "\n"]
        for row in rows:
            if int(next(csv.reader([row]))[epoch]) < next_epoch:
                kept.append(sealed_row(_csv_line(COLUMNS), row + lacking))
        first = _first_epoch(self.run)
        if len(kept) - 1 != next_epoch - first:
            raise RunError(
                f"{path}: {len(kept) - 1} rows where the checkpoint has {next_epoch - first} epochs: "
                "restore the file or start again with --fresh"
            )
        if "".join(kept) != text:
            write_atomically(path, "".join(kept).encode())

    def _spent(self, seconds: float, stopped: str | None) -> None:
        told = self._provenance
        told["wall_seconds"] = round(float(told.get("wall_seconds", 0.0)) + seconds, 3)
        told["stopped"] = stopped
        # The time of an epoch more or less is not worth a wait for the disk; that the run has ended must be kept.
        write_atomically(self.run.path / PROVENANCE, sealed_json(told), lasting=stopped is not None)


class _Interrupt:
    """Ctrl-C, or the notebook's stop button, ends a training after the epoch under way; a second one at once.

    Nothing between two epochs can be gone on with, so what a step would save is less than it would cost.
    """

    def __init__(self) -> None:
        self._asked = False
        # Elsewhere than in the main thread, or where somebody else handles it, it is not ours to change.
        self._ours = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )

    def __enter__(self) -> _Interrupt:
        if self._ours:
            signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _ask(self, *_: object) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nthis epoch is finished and kept; once more to stop at once", file=sys.stderr, flush=True)

    def check(self) -> None:
        """Raises KeyboardInterrupt when it was asked for."""
        if self._asked:
            raise KeyboardInterrupt("stopped after an epoch: the same call goes on from there")


class _Progress:
    """A bar on a terminal; in a log a line at the start, one every half minute, one at the end."""

    def __init__(self, planned: Sequence[Planned], start: int, total: int, show: bool) -> None:
        terminal = sys.stderr.isatty()
        self.lines = show and not terminal and "ipykernel" not in sys.modules
        label = f"{planned[0].config.name}, {len(planned)} run{'s' if len(planned) > 1 else ''}"
        self.label = label
        self.bar: Any = tqdm(
            total=total, initial=start, desc=label, unit="epoch", disable=not (show and terminal), dynamic_ncols=True
        )
        self.last = self.began = time.monotonic()
        self._say(f"from epoch {start}")

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.bar.close()
        if error is None:
            self._say(f"done in {time.monotonic() - self.began:.0f} s")

    def update(self, records: Sequence[EpochRecord]) -> None:
        row = records[0]
        coverage = f"informative coverage {row.info_coverage_A:.2f}/{row.info_coverage_B:.2f} %"
        figures = f"loss {row.train_loss:.3f}, {coverage}"
        self.bar.update(1)
        self.bar.set_postfix_str(figures)
        if time.monotonic() - self.last > 30:
            self.last = time.monotonic()
            self._say(f"epoch {row.epoch}, {figures}")

    def _say(self, text: str) -> None:
        if self.lines:
            print(f"{self.label}: {text}", file=sys.stderr, flush=True)


def _check_place(path: Path) -> None:
    """Whether a run may live there, before anything is written. Raises RunError."""
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: is a file: choose another --run-dir")
    ours = {CHECKPOINTS, PROVENANCE, LOCK, OWNER}
    if path.is_dir() and not (path / load.CONFIG).exists() and any(
        child.name not in ours and not child.name.endswith(".tmp") for child in path.iterdir()
    ):
        raise RunError(f"{path}: is not empty and not a run directory: choose another --run-dir")


def _prepare(run: Planned, fresh: bool, device: torch.device) -> None:
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
        raise _unwritable(path, error) from None
    if not (path / PROVENANCE).exists():
        told = load.provenance(run.seed, Stretch.here(_first_epoch(run), device))
        write_atomically(path / PROVENANCE, sealed_json(told))
    if not ours:
        # config.yaml comes last: it is what makes a directory a run's.
        write_atomically(path / load.CONFIG, sealed_text(run.config.as_yaml()).encode())
    if RunRecord(path).seed != run.seed:
        raise RunError(f"{path}: belongs to seed {RunRecord(path).seed}: choose another --run-dir")


def _first_epoch(run: Planned) -> int:
    """The first epoch of a run's own: that after the branching point of a branch."""
    return run.start.next_epoch if run.start is not None else 0


def _check_streams(run: RunRecord, epoch: int, config: Config, device: torch.device) -> None:
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


class _Saved(dict[int, tuple[RunState, tuple[str, ...]]]):
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


def _saved(run: Planned, every: bool = False) -> _Saved:
    """Where a run can go on: from its start, and from the checkpoints that its directory holds.

    Damaged ones are named in the log and left out; then, or if asked, all the run kept are looked at.
    """
    start = run.start if run.start is not None else RunState.initial(run.config, run.seed)
    saved = _Saved({start.next_epoch: (start, ())})
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


def _newest_in_step(run: Planned, saved: dict[str, _Saved]) -> tuple[RunState, tuple[str, ...]]:
    """A run's newest state, or an earlier one that its company has too.

    A kill may have kept one of them from reaching the newest, and a damaged file may have set one back.
    """
    mine = saved[run.name]
    newest = max(mine)
    _, company = mine[newest]
    others = [saved[name] for name in company if name in saved]
    step = min([newest, *(max(o) for o in others if max(o) == newest - 1 or (o.set_back and max(o) < newest))])
    if step not in mine:
        mine = saved[run.name] = _saved(run, every=True)
    if step not in mine:
        raise RunError(f"{run.path}: its checkpoint of epoch {step - 1} is missing: start again with --fresh")
    return mine[step]


def _set_back(run: Planned, next_epoch: int) -> None:
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
                _name_again(kept, latest)
        before = _epoch(previous)
        if before is None or before >= next_epoch:
            previous.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(latest, error) from None


def _epoch(path: Path) -> int | None:
    """The epoch of a checkpoint; None for a missing or damaged one."""
    try:
        return checkpoint.load(path).epoch
    except CheckpointError:
        return None


def _name_again(file: Path, name: Path) -> None:
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
        raise _unwritable(name, error) from None


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(
        f"{path}: cannot be written: {error.strerror}: free space or choose another --run-dir; "
        "the last finished epoch is intact and the same command resumes"
    )


def _csv_line(cells: Sequence[object]) -> str:
    """One CSV row without its end; floats as their shortest exact form."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([repr(c) if isinstance(c, float) else c for c in cells])
    return text.getvalue()


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side."""

    settings: pd.DataFrame
    """Index: dotted key; columns a and b; the settings that differ."""
    final: pd.DataFrame
    """Index: column of the history; columns a and b; the last epoch."""
    histories: pd.DataFrame
    """Both histories, told apart by the column `which`."""


def compare(run_a: RunRecord, run_b: RunRecord) -> Comparison:
    """Differing settings, final metrics and the histories of two runs. Raises RunError for one without an epoch."""
    for run in (run_a, run_b):
        if run.history.empty:
            raise RunError(f"{run.path}: has no epoch yet: wait for its first, or train it on")
    changed = config.differences(run_a.config, run_b.config)
    settings = pd.DataFrame(
        {"a": [a for a, _ in changed.values()], "b": [b for _, b in changed.values()]},
        index=pd.Index(changed, name="key"),
    )
    last = {which: run.history.iloc[-1] for which, run in (("a", run_a), ("b", run_b))}
    final = pd.DataFrame(last).drop(index=["run"])
    histories = pd.concat([run.history.assign(which=which) for which, run in (("a", run_a), ("b", run_b))])
    return Comparison(settings, final, histories)

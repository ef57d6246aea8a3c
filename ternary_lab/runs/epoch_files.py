"""Files that a training writes after each epoch: history row, checkpoints, log and provenance.

Threads write an epoch's files while the next epoch is trained. No file of an epoch is begun before every run has those
of the epoch before.
"""

from __future__ import annotations

import csv
import io
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ternary_lab.errors import RunError
from ternary_lab.history import COLUMNS, FILE_COLUMNS, LATER, EpochRecord, name_in_files
from ternary_lab.runs import checkpoint
from ternary_lab.runs.checkpoint import Checkpoint
from ternary_lab.runs.checksums import ROW, check_table, sealed_event, sealed_json, sealed_row
from ternary_lab.runs.directory import Planned, first_epoch_of, unwritable
from ternary_lab.runs.files import sync_directory, write_atomically, written_beside
from ternary_lab.runs.load import CHECKPOINTS, HISTORY, LOG, PROVENANCE, RunRecord
from ternary_lab.runs.provenance import Stretch, stretches
from ternary_lab.runs.resume import link_again
from ternary_lab.training.run_state import RunState

WRITERS = 8
"""Threads that write files, at most: while one waits for the disk, others encode, and one flush serves several."""


class Writer:
    """Threads that write the files of an epoch while the next one is trained.

    Once a write has failed none is begun any more. At the end of the block, however it ends, what was given is
    written, or has failed, and the threads are gone.
    """

    def __init__(self, runs: int) -> None:
        self._threads = ThreadPoolExecutor(min(runs, WRITERS), "writer")
        self._epoch: list[Future[None]] = []
        self._failed = threading.Event()

    def __enter__(self) -> Writer:
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


class RunFiles:
    """The files of one run while it is trained."""

    def __init__(self, run: Planned, next_epoch: int, device: torch.device) -> None:
        self.run = run
        self.checkpoints = run.path / CHECKPOINTS
        self._config = run.config.as_yaml()
        self._provenance = dict(RunRecord(run.path).provenance)
        self._trim_history(next_epoch)
        self._begin_stretch(next_epoch, device)
        fresh = next_epoch == first_epoch_of(run)
        self.log("started" if fresh else "resumed", next_epoch=next_epoch, device=device.type)

    def commit(self, row: EpochRecord, state: RunState, company: tuple[str, ...], seconds: float) -> None:
        """Make an epoch permanent; `latest` is written last and is what counts."""
        config = self.run.config
        point = Checkpoint(config, self.run.seed, row.epoch, row.rho, state.blocks, state, company)
        latest = self.checkpoints / "latest.safetensors"
        names = [f"epoch_{row.epoch:04d}"] if config.checkpoints.keeps(row.epoch) else []
        for best, criterion in {(state.best, config.early_stopping.metric), (state.selected, config.criterion)}:
            if best.epoch == row.epoch:
                names.append(f"best_{name_in_files(criterion)}")
        with written_beside(latest, checkpoint.encoded(point, self._config)) as file:
            for name in names:
                link_again(file, self.checkpoints / f"{name}.safetensors")
            if names:
                self._sync(self.checkpoints)
            cells = [getattr(row, name) for name in COLUMNS]
            self._append(self.run.path / HISTORY, sealed_row(_csv_line(FILE_COLUMNS), _csv_line(cells)))
            self._spent(seconds, state.stopped)
            if latest.exists():
                link_again(latest, self.checkpoints / "previous.safetensors")
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
            raise unwritable(folder, error) from None

    def _append(self, path: Path, text: str) -> None:
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(path, error) from None

    def _trim_history(self, next_epoch: int) -> None:
        """Drop rows of epochs that were not committed, a torn last line among them."""
        path = self.run.path / HISTORY
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        head, *rows = check_table(text, path, FILE_COLUMNS, LATER).splitlines() if "\n" in text else [""]
        lacking = "".join(f",{value}" for name, value in LATER.items() if name not in head.split(","))
        epoch = COLUMNS.index("epoch")
        kept = [_csv_line([*FILE_COLUMNS, ROW]) + "\n"]
        for row in rows:
            if int(next(csv.reader([row]))[epoch]) < next_epoch:
                kept.append(sealed_row(_csv_line(FILE_COLUMNS), row + lacking))
        first = first_epoch_of(self.run)
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


def _csv_line(cells: Sequence[object]) -> str:
    """One CSV row without its end; floats as their shortest exact form."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([repr(c) if isinstance(c, float) else c for c in cells])
    return text.getvalue()

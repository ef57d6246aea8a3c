"""Files that training writes after each epoch: row of the history, checkpoints, log and provenance."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import torch

from ternary_lab.errors import RunError
from ternary_lab.history import COLUMNS, FILE_COLUMNS, LATER, EpochRecord, name_in_files
from ternary_lab.runs import checkpoint
from ternary_lab.runs.checkpoint import Checkpoint
from ternary_lab.runs.checksums import CRC32, check_csv, json_with_checksum, log_line_with_checksum, row_with_checksum
from ternary_lab.runs.files import append, link, staged_write, sync_directory, write_atomically
from ternary_lab.runs.load import HISTORY, LOG, PROVENANCE, RunRecord
from ternary_lab.runs.provenance import TrainedSpan, trained_spans
from ternary_lab.runs.resume import StartingPoint
from ternary_lab.training.run_state import RunState

WRITERS = 8
"""Largest number of threads that write files.

While one thread waits for the disk, other threads encode checkpoints. One flush of the disk can serve several threads.
"""


class EpochWriter:
    """Threads that write the files of an epoch while the next epoch is trained.

    The threads begin to write an epoch only after the files of the previous epoch are complete for every run. The
    `with` block waits for the threads before it ends.
    """

    def __init__(self, runs: int) -> None:
        self._threads = ThreadPoolExecutor(min(runs, WRITERS), "writer")
        self._results: Iterator[None] = iter(())

    def __enter__(self) -> EpochWriter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            self._threads.shutdown(cancel_futures=True)

    def write(self, calls: Sequence[Callable[[], None]]) -> None:
        """Wait until the previous calls are done, then begin the calls of an epoch, one per run.

        Raises the error of a previous call.
        """
        self.wait()
        self._results = self._threads.map(lambda call: call(), calls)

    def wait(self) -> None:
        """Wait until all calls are done.

        Raises the error of a call that failed. The calls that have not begun are then cancelled.
        """
        for _ in self._results:
            pass


class RunFiles:
    """Files of one run during training. Every method raises RunError if a file cannot be written."""

    def __init__(self, start: StartingPoint, device: torch.device) -> None:
        self.plan = start.plan
        self._config = self.plan.config.as_yaml()
        self._columns = (*FILE_COLUMNS, *self.plan.config.added_columns)
        self._provenance = dict(RunRecord(self.plan.path).provenance)
        self._drop_uncommitted_rows(start.next_epoch)
        self._record_device(start.next_epoch, device)
        fresh = start.next_epoch == self.plan.first_epoch
        self.log("started" if fresh else "resumed", next_epoch=start.next_epoch, device=device.type)

    def commit(self, row: EpochRecord, state: RunState, cohort: tuple[str, ...], seconds: float) -> None:
        """Write the checkpoints, the history row and the provenance of an epoch, and log the end of the run.

        The checkpoint `latest` is the last of these files. Once `latest` has been written, the epoch is permanent.
        `seconds` is the time that the epoch took.
        """
        config, latest = self.plan.config, self.plan.checkpoint("latest")
        point = Checkpoint(config, self.plan.seed, row.epoch, row.rho, state.blocks, state, cohort)
        names = [f"epoch_{row.epoch:04d}"] if config.checkpoints.keeps(row.epoch) else []
        for best, criterion in {(state.best, config.early_stopping.metric), (state.selected, config.criterion)}:
            if best.epoch == row.epoch:
                names.append(f"best_{name_in_files(criterion)}")
        with staged_write(latest, checkpoint.encoded(point, self._config)) as file:
            for name in names:
                link(file, self.plan.checkpoint(name))
            if names:
                sync_directory(latest.parent)
            cells = [getattr(row, name) for name in COLUMNS] + list(row.added.values())
            append(self.plan.path / HISTORY, row_with_checksum(_csv_line(self._columns), _csv_line(cells)))
            self._update_provenance(seconds, state.stopped)
            if latest.exists():
                link(latest, self.plan.checkpoint("previous"))
        if state.stopped is not None:
            self.log("stopped", epoch=row.epoch, reason=state.stopped)

    def end(self, reason: str) -> None:
        """Mark the run as ended after its last finished epoch, with the reason in words."""
        latest = self.plan.checkpoint("latest")
        if latest.exists():
            point = checkpoint.load(latest)
            if point.state is not None:
                checkpoint.save(latest, replace(point, state=replace(point.state, stopped=reason)))
        self._update_provenance(0.0, reason)
        self.log("stopped", reason=reason)

    def log(self, event: str, **values: Any) -> None:
        """Add an event with its values to the log of the run."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, **values}
        append(self.plan.path / LOG, log_line_with_checksum(line))

    def _drop_uncommitted_rows(self, next_epoch: int) -> None:
        """Remove the rows of the history from `next_epoch` on, and a row that was cut off by a kill.

        A history of an older version also gets the missing columns of `history.LATER`. Raises RunError if the remaining
        rows are not those of all finished epochs.
        """
        path = self.plan.path / HISTORY
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        optional = () if self.plan.config.added_columns else LATER
        head, *rows = check_csv(text, path, self._columns, optional).splitlines() if "\n" in text else [""]
        missing = "".join(f",{value}" for name, value in LATER.items() if name not in head.split(","))
        epoch = COLUMNS.index("epoch")
        kept = [
            row_with_checksum(_csv_line(self._columns), row + missing)
            for row in rows if int(next(csv.reader([row]))[epoch]) < next_epoch
        ]
        expected = next_epoch - self.plan.first_epoch
        if len(kept) != expected:
            raise RunError(
                f"{path}: {len(kept)} rows where the checkpoint has {expected} epochs: "
                "restore the file or start again with --fresh"
            )
        new = "".join([_csv_line([*self._columns, CRC32]) + "\n", *kept])
        if new != text:
            write_atomically(path, new.encode())

    def _record_device(self, next_epoch: int, device: torch.device) -> None:
        """Record in the provenance that `device` trains the epochs from `next_epoch` on."""
        recorded = trained_spans(self._provenance)
        spans = [span for span in recorded if span.first_epoch < next_epoch]
        here = TrainedSpan.here(next_epoch, device)
        if not spans or replace(spans[-1], first_epoch=next_epoch) != here:
            spans.append(here)
        if spans != recorded:
            self._provenance.pop("device", None)
            self._provenance["devices"] = [asdict(span) for span in spans]
            write_atomically(self.plan.path / PROVENANCE, json_with_checksum(self._provenance))

    def _update_provenance(self, seconds: float, stopped: str | None) -> None:
        """Add the seconds of an epoch to the provenance. Record why the run has ended, or None if the run continues."""
        before = float(self._provenance.get("wall_seconds", 0.0))
        self._provenance |= {"wall_seconds": round(before + seconds, 3), "stopped": stopped}
        # A power cut may lose the seconds of an epoch, but not the end of a run. So only the end waits for the disk.
        content = json_with_checksum(self._provenance)
        write_atomically(self.plan.path / PROVENANCE, content, durable=stopped is not None)


def _csv_line(cells: Sequence[object]) -> str:
    """Return one CSV row without a newline. Floats are written in the shortest form that is exact."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([repr(c) if isinstance(c, float) else c for c in cells])
    return text.getvalue()

"""Files that training writes after each epoch: row of the history, checkpoints, log and provenance."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import torch

from ternary_lab.history import COLUMNS, FILE_COLUMNS, EpochRecord, name_in_files
from ternary_lab.runs import checkpoint
from ternary_lab.runs.checkpoint import Checkpoint
from ternary_lab.runs.checksums import CRC32, json_with_checksum, row_with_checksum
from ternary_lab.runs.files import append, link, staged_write, sync_directory, write_atomically
from ternary_lab.runs.load import HISTORY, PROVENANCE, RunRecord
from ternary_lab.runs.provenance import TrainedSpan, source_hash, trained_spans, versions
from ternary_lab.runs.resume import StartingPoint
from ternary_lab.training.run_state import RunState

LATER_CODE = "resumed_with"
"""Member of provenance.json: a list with the first epoch, the source hash and the versions of each resumption.

A resumption with the same code as before is not in the list.
"""
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
        self._write_committed_rows(start.rows)
        begins = start.next_epoch == self.plan.first_epoch
        code = {} if begins else _code()
        self.changed_versions = self._record_start(start.next_epoch, device, code)
        """The packages whose versions have changed since the run was interrupted, in words; empty if there are none."""
        event = "started" if begins else "resumed"
        self.plan.log(event, next_epoch=start.next_epoch, device=device.type, **code)

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
            self.plan.log("stopped", epoch=row.epoch, reason=state.stopped)

    def end(self, reason: str) -> None:
        """Mark the run as ended after its last finished epoch, with the reason in words."""
        latest = self.plan.checkpoint("latest")
        if latest.exists():
            point = checkpoint.load(latest)
            if point.state is not None:
                checkpoint.save(latest, replace(point, state=replace(point.state, stopped=reason)))
        self._update_provenance(0.0, reason)
        self.plan.log("stopped", reason=reason)

    def _write_committed_rows(self, rows: Sequence[str]) -> None:
        """Write the history with these rows, if the file differs from that.

        So a row of an epoch that was not committed, a row that was cut off by a kill, and CRLF line endings disappear.
        """
        path, head = self.plan.path / HISTORY, _csv_line(self._columns)
        data = "".join([f"{head},{CRC32}\n", *(row_with_checksum(head, row) for row in rows)]).encode()
        if not path.exists() or path.read_bytes() != data:
            write_atomically(path, data)

    def _record_start(self, next_epoch: int, device: torch.device, code: Mapping[str, Any]) -> str:
        """Record in the provenance what trains the epochs from `next_epoch` on: `device` and, on resuming, `code`.

        Returns the changed versions of packages in words.
        """
        new = dict(self._provenance)
        recorded = trained_spans(new)
        spans = [span for span in recorded if span.first_epoch < next_epoch]
        here = TrainedSpan.here(next_epoch, device)
        if not spans or replace(spans[-1], first_epoch=next_epoch) != here:
            spans.append(here)
        if spans != recorded:
            new.pop("device", None)
            new["devices"] = [asdict(span) for span in spans]
        if "stopped" in new:  # The run gets more epochs, or a kill came between this file and the last checkpoint.
            new["stopped"] = None
        later = [span for span in new.get(LATER_CODE, ()) if span["first_epoch"] < next_epoch]
        before = later[-1] if later else new
        if any(before.get(key) != value for key, value in code.items()):
            later.append({"first_epoch": next_epoch, **code})
        if later or LATER_CODE in new:
            new[LATER_CODE] = later
        if new != self._provenance:
            self._provenance = new
            write_atomically(self.plan.path / PROVENANCE, json_with_checksum(new))
        old = before.get("versions", {})
        return ", ".join(
            f"{name} {version} (before: {old.get(name, 'unknown')})"
            for name, version in code.get("versions", {}).items() if version != old.get(name)
        )

    def _update_provenance(self, seconds: float, stopped: str | None) -> None:
        """Add the seconds of an epoch to the provenance. Record why the run has ended, or None if the run continues."""
        before = float(self._provenance.get("wall_seconds", 0.0))
        self._provenance |= {"wall_seconds": round(before + seconds, 3), "stopped": stopped}
        # A power cut may lose the seconds of an epoch, but not the end of a run. So only the end waits for the disk.
        content = json_with_checksum(self._provenance)
        write_atomically(self.plan.path / PROVENANCE, content, durable=stopped is not None)


@functools.cache
def _code() -> Mapping[str, Any]:
    """Return the hash of the library's source code, and the versions of packages, as provenance.json has them."""
    return {"source_sha256": source_hash(), "versions": versions()}


def _csv_line(cells: Sequence[object]) -> str:
    """Return one CSV row without a newline. Floats are written in the shortest form that is exact."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([repr(c) if isinstance(c, float) else c for c in cells])
    return text.getvalue()

"""A live view of a run directory while a process writes to it.

`watch(run_dir)` makes a `Dashboard`.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Mapping
from pathlib import Path

import ipywidgets as widgets
import pandas as pd

from ternary_lab.arguments import read_path
from ternary_lab.backend.console import time_to_go
from ternary_lab.errors import RunError, TernaryLabError
from ternary_lab.explorer.view import View
from ternary_lab.figures.live import draw_runs
from ternary_lab.figures.save import Drawing, image
from ternary_lab.page.events import events
from ternary_lab.runs.files import children
from ternary_lab.runs.load import HISTORY, PACKED_HISTORY, RunRecord, is_run, runs_in

SHORTEST = 0.25
"""Shortest allowed time between two updates, in seconds."""
RECENT = 10
"""Number of the last epochs whose mean time is shown as the time of an epoch."""


class Dashboard(View):
    """Curves, progress and last values of the runs in a directory.

    The dashboard draws the curves again whenever a run has a new epoch. Dotted lines mark the epochs at which a
    schedule changes. If the user closes the notebook, the view ends but the runs continue. If the directory or the
    first epoch of a run is missing, the dashboard says in grey that it waits. If a file of a run is missing or damaged,
    the page shows a message with the path, and the dashboard tries to read again at the next update. The other runs are
    shown.
    """

    title = "Dashboard"

    def __init__(self, run_dir: str | Path, *, seconds: float = 1.0) -> None:
        super().__init__()
        if not seconds >= SHORTEST:
            raise RunError(f"watch: seconds must be at least {SHORTEST}, got {seconds}")
        self.run_dir, self.seconds = read_path(run_dir).absolute(), seconds
        self.progress = widgets.IntProgress(description="epochs", layout=widgets.Layout(width="60%"))
        self.line, self.curves = widgets.HTML(), widgets.HTML()
        self.stop = self.button("stop watching", "end this view; the runs continue", self.end)
        self.fill(widgets.HBox([self.progress, self.stop]), self.line, self.curves)
        self._ended = threading.Event()
        self._drawn: object = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._follow, daemon=True, name=f"watch {self.run_dir}")
        self._thread.start()

    def end(self) -> None:
        """Stop reading the directory, and remove the button that does this."""
        self._ended.set()
        self.stop.layout.display = "none"
        self.set_status("")

    def _follow(self) -> None:
        while not self._ended.is_set():
            if self.update():
                self.end()
            self._ended.wait(self.seconds)

    def update(self) -> bool:
        """Read the directory once, draw the runs if they have changed, and return whether every run has stopped."""
        with self._lock:
            again = f"(read again every {self.seconds:g} s)"
            runs, waiting, problems = self._readable()
            stopped = self._show(runs)
            self.set_status(f"waiting for {', '.join(waiting)} … {again}" if waiting else "")
            # Perhaps a process is still writing a file.
            self.set_error(RunError(f"{'; '.join(problems)} {again}") if problems else None)
            return stopped and not waiting and not problems

    def _readable(self) -> tuple[dict[str, RunRecord], list[str], list[str]]:
        """Return the runs that can be read, by name, what is waited for, and the problems of the other runs."""
        runs, waiting, problems = {}, [], []
        try:
            found = runs_in(self.run_dir) if self._holds_a_run() else []
        except TernaryLabError as error:
            return {}, [], [str(error)]
        for run in found:
            try:
                run.config, run.provenance  # noqa: B018
                if not run.epochs and not any((run.path / name).exists() for name in (HISTORY, PACKED_HISTORY)):
                    waiting.append(f"the first epoch of {run.name}")
                    continue
                run.history  # noqa: B018
                runs[run.name] = run
            except TernaryLabError as error:
                problems.append(str(error))
        return runs, waiting if found else [str(self.run_dir)], problems

    def _holds_a_run(self) -> bool:
        """Return whether the path exists and is no folder without runs. Raises RunError if a folder cannot be read."""
        folder = self.run_dir
        return folder.exists() and (not folder.is_dir() or is_run(folder) or any(map(is_run, children(folder))))

    def _show(self, runs: Mapping[str, RunRecord]) -> bool:
        """Draw the runs if they have changed. Return whether every run has stopped."""
        # The end of a run is read before its history, because a history that is read first may lack the last epoch.
        stopped = {name: run.stopped for name, run in runs.items()}
        histories = {name: run.history for name, run in runs.items()}
        epochs = {name: len(history) for name, history in histories.items()}
        state = epochs, stopped
        if runs and state != self._drawn:
            changes = _changes(runs)
            drawing = draw_runs(runs, list(changes))
            self.curves.value = image(drawing.figure, drawing.alt, dpi=90)
            lines = [_line(run, histories[name], stopped[name]) for name, run in runs.items()]
            if changes:
                lines.append("Dotted lines: " + "; ".join(f"epoch {e}, {words}" for e, words in changes.items()))
            self.line.value = "<br>".join(map(html.escape, lines))
            done = all(stopped.values())
            self.progress.max = max(1, *(
                epochs[name] if done else run.config.training.total_epochs for name, run in runs.items()
            ))
            self.progress.value = max(epochs.values())
            self._drawn = state
        return bool(runs) and all(stopped.values())

    def picture(self) -> Drawing | None:
        runs = self._readable()[0]
        return draw_runs(runs, list(_changes(runs))) if runs else None


def _changes(runs: Mapping[str, RunRecord]) -> dict[int, str]:
    """Return the words on the schedules that change, by epoch, up to the last epoch of all runs."""
    found: dict[int, list[str]] = {}
    for run in runs.values():
        for epoch, words in events(run.config, len(run.history) - 1):
            if words not in found.setdefault(epoch, []):
                found[epoch].append(words)
    return {epoch: " or ".join(words) for epoch, words in sorted(found.items())}


def _line(run: RunRecord, history: pd.DataFrame, stopped: str | None) -> str:
    """Return a line with the last values of a run and the time that it still needs at most."""
    count = len(history)
    parts = [f"{run.name}: {count} epoch{'s' if count != 1 else ''}"]
    if count:
        last, seconds = history.iloc[-1], history[["seconds_train", "seconds_eval"]].tail(RECENT).sum(axis=1).mean()
        parts += [
            f"loss {last['train_loss']:.3f}", f"validation loss {last['val_loss']:.3f}",
            f"informative coverage {last['informative_coverage_A']:.2f} % (A)",
            f"{last['informative_coverage_B']:.2f} % (B)",
            f"{seconds:.2g} s an epoch",
        ]
        left = run.config.training.total_epochs - count
        parts.append(stopped or f"{time_to_go(left * seconds)} to epoch {left + count - 1} at most")
    return ", ".join(parts)


def watch(run_dir: str | Path, *, seconds: float = 1.0) -> Dashboard:
    """Return a widget that shows the runs of a directory while they train.

    Any process, notebook or machine may train the runs. The directory need not exist yet.

    Args:
        seconds: time between two updates, at least 0.25.

    Raises RunError if `seconds` is less than 0.25.
    """
    return Dashboard(run_dir, seconds=seconds)

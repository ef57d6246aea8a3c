"""A live view of a run directory while a process writes to it.

`watch(run_dir)` makes a `Dashboard`.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Mapping
from pathlib import Path

import ipywidgets as widgets

from ternary_lab.arguments import read_path
from ternary_lab.errors import RunError, TernaryLabError
from ternary_lab.explorer.view import View
from ternary_lab.figures.live import draw_runs
from ternary_lab.figures.save import Drawing, image
from ternary_lab.runs.load import RunRecord, runs_in

SHORTEST = 0.25
"""Shortest allowed time between two updates, in seconds."""


class Dashboard(View):
    """Curves, progress and state of the runs in a directory.

    The dashboard draws the curves again whenever a run has a new epoch. If the user closes the notebook, the view ends
    but the runs continue. If the directory is missing, or a file of a run is missing or damaged, the page shows a
    message with the path, and the dashboard tries to read again at the next update. The other runs are shown.
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
        """Stop reading the directory."""
        self._ended.set()

    def _follow(self) -> None:
        while not self._ended.is_set() and not self.update():
            self._ended.wait(self.seconds)

    def update(self) -> bool:
        """Read the directory once, draw the runs if they have changed, and return whether every run has stopped."""
        with self._lock:
            try:
                runs, problems = self._readable()
                stopped = self._show(runs)
            except TernaryLabError as error:
                stopped, problems = False, [str(error)]
            again = f"(read again every {self.seconds:g} s)"
            if not self.run_dir.exists():
                self.set_error(None)
                self.line.value = html.escape(f"{self.run_dir}: no run yet {again}")
                return False
            # Perhaps a process is still writing a file.
            self.set_error(RunError(f"{'; '.join(problems)} {again}") if problems else None)
            return stopped and not problems

    def _readable(self) -> tuple[dict[str, RunRecord], list[str]]:
        """Return the runs that can be read, by name, and the problems of the others. Raises RunError for no run."""
        runs, problems = {}, []
        for run in runs_in(self.run_dir):
            try:
                run.config, run.provenance, run.history  # noqa: B018
                runs[run.name] = run
            except TernaryLabError as error:
                problems.append(str(error))
        return runs, problems

    def _show(self, runs: Mapping[str, RunRecord]) -> bool:
        """Draw the runs if they have changed. Return whether every run has stopped."""
        # The end of a run is read before its history, because a history that is read first may lack the last epoch.
        stopped = {name: run.stopped for name, run in runs.items()}
        epochs = {name: len(run.history) for name, run in runs.items()}
        state = epochs, stopped
        if runs and state != self._drawn:
            drawing = draw_runs(runs)
            self.curves.value = image(drawing.figure, drawing.alt, dpi=90)
            self.line.value = "<br>".join(
                html.escape(f"{name}: {count} epochs" + (f", {stopped[name]}" if stopped[name] else ""))
                for name, count in epochs.items()
            )
            self.progress.max = max(run.config.training.total_epochs for run in runs.values())
            self.progress.value = max(epochs.values())
            self._drawn = state
        return all(stopped.values())

    def picture(self) -> Drawing | None:
        try:
            return draw_runs(self._readable()[0])
        except TernaryLabError:
            return None


def watch(run_dir: str | Path, *, seconds: float = 1.0) -> Dashboard:
    """Return a widget that shows the runs of a directory while they train.

    Any process, notebook or machine may train the runs. The directory need not exist yet.

    Args:
        seconds: time between two updates, at least 0.25.

    Raises RunError if `seconds` is less than 0.25.
    """
    return Dashboard(run_dir, seconds=seconds)

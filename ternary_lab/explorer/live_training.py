"""A live view of a run directory, whoever writes it: this notebook, another, the command line, another machine."""

from __future__ import annotations

import html
import threading
from pathlib import Path

import ipywidgets as widgets
from matplotlib.figure import Figure

from ternary_lab.errors import RunError, TernaryLabError
from ternary_lab.explorer.widget_base import Part, button
from ternary_lab.figures.save import image
from ternary_lab.figures.style import PATHWAY, figure_of, fixed, panels, style
from ternary_lab.runs.load import RunSet, load_runs

SHORTEST = 0.25
"""Seconds between two drawings, at least."""
LINE = {"A": "-", "B": "--"}
PANELS = (
    ("loss", {"train_loss": ("#222222", "-", "training"), "val_loss": ("#767676", "--", "validation")}),
    ("sampled coverage, %", {f"coverage_{p}": (PATHWAY[p], LINE[p], p) for p in "AB"}),
    ("informative coverage, %", {f"informative_coverage_{p}": (PATHWAY[p], LINE[p], p) for p in "AB"}),
    ("latent entropy H, nats", {f"H_{p}": (PATHWAY[p], LINE[p], p) for p in "AB"}),
)


class Dashboard(Part):
    """Curves, progress and state of the runs in a directory, drawn again when there is something new.

    Closing the notebook ends the view and not the runs; a new dashboard on the directory is where the old one was.
    A directory that is not there yet, or is being written, is named and looked at again.
    """

    title = "Live"

    def __init__(self, run_dir: str | Path, *, seconds: float = 1.0) -> None:
        super().__init__()
        if not seconds >= SHORTEST:
            raise RunError(f"watch: seconds must be at least {SHORTEST}, got {seconds}")
        self.run_dir, self.seconds = Path(run_dir), seconds
        self.progress = widgets.IntProgress(description="epochs", layout=widgets.Layout(width="60%"))
        self.line, self.curves = widgets.HTML(), widgets.HTML()
        self.stop = button("stop watching", "end this view; the runs go on")
        self.fill(widgets.HBox([self.progress, self.stop]), self.line, self.curves)
        self.stop.on_click(lambda _: self.end())
        self._ended = threading.Event()
        self._drawn: object = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.begin()

    def begin(self) -> None:
        """Follow the directory until its runs have stopped or `end` is called."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._ended.clear()
        self._thread = threading.Thread(target=self._follow, daemon=True, name=f"watch {self.run_dir}")
        self._thread.start()

    def end(self) -> None:
        """Follow no longer."""
        self._ended.set()

    def _follow(self) -> None:
        while not self._ended.is_set():
            if self.look():
                return
            self._ended.wait(self.seconds)

    def look(self) -> bool:
        """Look once. True when every run has stopped, and nothing more will come."""
        with self._lock:
            try:
                runs = load_runs(self.run_dir)
                stopped = self._show(runs)
            except TernaryLabError as error:
                # The writer may be between two files, or not have begun.
                self.fail(RunError(f"{error} (looked at again every {self.seconds:g} s)"))
                return False
            self.fail(None)
            return stopped

    def _show(self, runs: RunSet) -> bool:
        epochs = {run.name: len(run.history) for run in runs.values()}
        stopped = {run.name: run.stopped for run in runs.values()}
        state = epochs, stopped
        if state != self._drawn:
            self.curves.value = image(*draw_runs(runs), dpi=90)
            self.line.value = "<br>".join(
                html.escape(f"{name}: {count} epochs" + (f", {stopped[name]}" if stopped[name] else ""))
                for name, count in epochs.items()
            )
            self.progress.max = max(run.config.training.total_epochs for run in runs.values())
            self.progress.value = max(epochs.values())
            self._drawn = state
        return all(stopped.values())

    def picture(self) -> tuple[Figure, str] | None:
        try:
            return draw_runs(load_runs(self.run_dir))
        except TernaryLabError:
            return None


def watch(run_dir: str | Path, *, seconds: float = 1.0) -> Dashboard:
    """Follow a run directory that another process, notebook or machine writes: a widget that redraws itself.

    Args:
        seconds: time between two looks, at least 0.25.

    A directory without runs is named on the page and followed, so that it can be watched before it is written.
    Raises RunError for a shorter time.
    """
    return Dashboard(run_dir, seconds=seconds)


def draw_runs(runs: RunSet) -> tuple[Figure, str]:
    """Loss, coverages and latent entropy of runs through the epochs, with what they say in words."""
    with style():
        axes = panels(1, len(PANELS), 2.1)
        figure = figure_of(axes[0])
        figure.set_size_inches(11, 2.3)
        fixed(figure, left=0.035, right=0.995, top=0.88, bottom=0.2, wspace=0.2)
        # A history may have its head and no row yet.
        histories = [history for run in runs.values() if len(history := run.history)]
        for axis, (title, columns) in zip(axes, PANELS, strict=True):
            for column, (colour, line, label) in columns.items():
                for i, history in enumerate(histories):
                    axis.plot(
                        history["epoch"], history[column], color=colour, linestyle=line, alpha=0.85,
                        marker="." if len(history) < 3 else "", label=label if i == 0 else "_",
                    )
            axis.set(title=title, xlabel="epoch")
            if histories:
                axis.legend()
    last = [history.iloc[-1] for history in histories]
    said = "; ".join(
        f"seed {int(row['seed'])}, epoch {int(row['epoch'])}: loss {row['train_loss']:.3g}, informative coverage "
        f"{row['informative_coverage_A']:.2f} % (A) and {row['informative_coverage_B']:.2f} % (B)" for row in last
    )
    return figure, f"Loss, sampled and informative coverage and latent entropy by epoch. {said or 'No epoch yet'}."

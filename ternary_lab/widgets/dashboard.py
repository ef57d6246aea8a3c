"""A live view of a run directory, whoever writes it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from ternary_lab.errors import RunError, TernaryLabError
from ternary_lab.record import RunSet, load_runs

PANELS = (
    ("loss", ("train_loss", "val_loss"), "log"),
    ("sampled coverage, %", ("coverage_A", "coverage_B"), "linear"),
    ("informative coverage, %", ("info_coverage_A", "info_coverage_B"), "linear"),
)


def watch(run_dir: str | Path, *, seconds: float = 1.0) -> Any:
    """Follow a run directory that another process, notebook or machine writes: a widget that redraws itself.

    Args:
        seconds: time between two looks, at least 0.25.

    Closing the notebook ends the view, not the run. Raises RunError when there is no run to follow.
    """
    import ipywidgets as widgets

    if seconds < 0.25:
        raise RunError(f"watch: seconds must be at least 0.25, got {seconds}")
    runs = load_runs(run_dir)
    picture, line = widgets.Image(format="png"), widgets.Label()
    stop = widgets.Button(description="stop watching")
    box = widgets.VBox([line, picture, stop])
    ended = threading.Event()
    stop.on_click(lambda _: ended.set())

    def follow() -> None:
        drawn = -1
        while not ended.is_set():
            try:
                rows = len(runs.history)
                if rows != drawn:
                    picture.value, drawn = _picture(runs), rows
                line.value = _status(runs)
                if all(run.stopped for run in runs.values()):
                    break
            except TernaryLabError as error:
                # The writer may be between two files; what is wrong is shown and looked at again.
                line.value = str(error)
            ended.wait(seconds)

    threading.Thread(target=follow, daemon=True, name=f"watch {run_dir}").start()
    return box


def _status(runs: RunSet) -> str:
    parts = []
    for run in runs.values():
        last = int(run.history["epoch"].iloc[-1])
        parts.append(f"{run.name}: epoch {last}" + (f", {run.stopped}" if run.stopped else ""))
    return " · ".join(parts)


def _picture(runs: RunSet) -> bytes:
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3), layout="constrained")
    axes = figure.subplots(1, len(PANELS))
    for axis, (title, columns, scale) in zip(axes, PANELS, strict=True):
        for column, style in zip(columns, ("C0", "C1"), strict=True):
            for run in runs.values():
                history = run.history
                axis.plot(history["epoch"], history[column], style, alpha=0.8)
            axis.plot([], [], style, label=column)
        axis.set(title=title, xlabel="epoch", yscale=scale)
        axis.legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return buffer.getvalue()

"""Figures of runs: functions that draw them, one common style, and files that record their origin.

A figure function returns a `Drawing`: the figure, its alternative text and its data. `FIGURES` holds the figures of a
training history, `draw_all` saves them, and a `Gallery` shows and saves the figures of a notebook. `show_table` shows a
table. This package may import the core, `metrics` and `runs`.
"""

from __future__ import annotations

from ternary_lab.backend.console import bar
from ternary_lab.errors import need

need("matplotlib", "seaborn")

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.config import differences
from ternary_lab.errors import RunError
from ternary_lab.figures.history import FIGURES, disruption, epoch_entropy
from ternary_lab.figures.save import Animation, Drawing, Gallery, render, show
from ternary_lab.figures.space import truth_tables
from ternary_lab.figures.style import PATHWAY, style
from ternary_lab.figures.tables import show_table, table
from ternary_lab.runs.load import RunRecord, RunSet

__all__ = [
    "FIGURES", "PATHWAY", "Animation", "Drawing", "Gallery", "disruption", "draw_all", "draw_history", "epoch_entropy",
    "render", "show", "show_history", "show_table", "style", "table", "truth_tables",
]


@with_fixed_arithmetic
def draw_all(
    runs: RunRecord | RunSet,
    folder: str | Path,
    *,
    notebook: str = "ternary_lab.figures",
    parameters: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> list[Path]:
    """Save every figure of `FIGURES` for one run, or for several runs with one configuration, and return the files.

    Args:
        notebook: name of the notebook that the manifest records as the origin of the figures.
        parameters: parameters of this notebook, for the manifest; by default, the name of the configuration.

    Raises RunError if the runs have different configurations, or if the folder cannot be written.
    """
    config, *others = [run.config for run in _each(runs)]
    if any(differences(config, other) for other in others):
        raise RunError("runs of different configurations cannot be drawn as one: draw them apart")
    gallery = Gallery(folder, notebook, {"config": config.name} if parameters is None else parameters)
    files: list[Path] = []
    for name in bar(FIGURES, desc="figures", unit="figure", show=progress):
        files += gallery.save(name, draw_history(name, runs))
    return files


@with_fixed_arithmetic
def draw_history(name: str, runs: RunRecord | RunSet) -> Drawing:
    """Draw one figure of `FIGURES` for one run, or for several runs with one configuration."""
    return FIGURES[name](runs.history, _each(runs)[0].config)


def show_history(name: str, runs: RunRecord | RunSet) -> None:
    """Show one figure of `FIGURES` in a notebook."""
    draw_history(name, runs).show()


def _each(runs: RunRecord | RunSet) -> list[RunRecord]:
    return [runs] if isinstance(runs, RunRecord) else list(runs.values())

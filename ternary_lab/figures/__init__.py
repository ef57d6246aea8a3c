"""Figures: one function each, one style, files that say what made them.

`FIGURES` names those of a training history; `draw_all` writes them; `show` displays one in a notebook.
"""

from __future__ import annotations

from ternary_lab.errors import need

need("matplotlib", "seaborn")

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tqdm import tqdm

from ternary_lab.backend.numerics import fenced
from ternary_lab.config import differences
from ternary_lab.errors import RunError
from ternary_lab.figures.history import FIGURES, Recipe, disruption, epoch_entropy
from ternary_lab.figures.save import Drawing, render, save_figure, show
from ternary_lab.figures.space import truth_tables
from ternary_lab.figures.style import PATHWAY, style
from ternary_lab.runs.load import RunRecord, RunSet

__all__ = [
    "FIGURES", "PATHWAY", "Drawing", "Recipe", "disruption", "draw_all", "epoch_entropy",
    "render", "save_figure", "show", "show_history", "style", "truth_tables",
]


@fenced
def draw_all(
    runs: RunRecord | RunSet,
    folder: str | Path,
    *,
    notebook: str = "ternary_lab.figures",
    parameters: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> list[Path]:
    """Draw every figure of `FIGURES` from one run, or from several of one configuration, into a folder.

    Args:
        notebook: what the manifest names as the figures' origin.
        parameters: likewise; by default the configuration's name.

    Returns the files written. Raises RunError for runs of different configurations or a folder that cannot be written.
    """
    runs = RunSet({runs.seed: runs}) if isinstance(runs, RunRecord) else runs
    config, *others = [run.config for run in runs.values()]
    if any(differences(config, other) for other in others):
        raise RunError("runs of different configurations cannot be drawn as one: draw them apart")
    history = runs.history
    files: list[Path] = []
    for name, recipe in tqdm(FIGURES.items(), desc="figures", unit="figure", disable=not progress):
        files += save_figure(
            recipe.figure(history, config), folder, name, recipe.data(history, config), recipe.alt(history, config),
            notebook, {"config": config.name} if parameters is None else parameters, list(runs),
        )
    return files


@fenced
def show_history(name: str, runs: RunRecord | RunSet) -> None:
    """Show one figure of `FIGURES` in a notebook."""
    config = (runs if isinstance(runs, RunRecord) else next(iter(runs.values()))).config
    history = runs.history
    figure: Figure = FIGURES[name].figure(history, config)
    show(figure, FIGURES[name].alt(history, config))

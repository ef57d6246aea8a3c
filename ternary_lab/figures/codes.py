"""Maps of the latent codes of all operations, in the plane of two entries.

The steps of two entries of the table span the plane. `metrics.entry_effects` defines the step of an entry. An entry has
three values, so the plane shows nine groups of codes if both entries have an effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from torch import Tensor

from ternary_lab import space
from ternary_lab.figures.parts import dot_handles
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import ENTRY, GREY, INK, figure_of, panels, style
from ternary_lab.metrics.entry_effects import entry_effects

SIGN = {-1: "−", 0: "0", 1: "+"}
POINTS = ENTRY | {0: "#8A8A8A"}
"""Colours of the values of an entry. The 0 of a table would be too light for a point on white."""
ROW = 3.0
"""Height of a row of panels in inches."""


@dataclass(frozen=True)
class CodeMap:
    """A panel: the codes of all operations, in one pathway at one epoch."""

    title: str
    mu: Tensor
    """(N, L): the means of the codes, in the order of the operations' indices."""
    entries: tuple[int, int]
    """The entries, 0 to 8, whose steps give the horizontal and the vertical direction."""


def entry_name(entry: int) -> str:
    """Return the name of an entry of the table, for example "f(+,−)" for entry 6."""
    row, column = divmod(entry, space.VALUES)
    return f"f({SIGN[row - 1]},{SIGN[column - 1]})"


def draw_code_maps(maps: Sequence[CodeMap], columns: int, chosen: Sequence[int] = ()) -> Drawing:
    """Draw maps side by side, with `columns` maps in each row. The operations `chosen` have a ring in each map.

    The colour of a point shows the value of the entry in the vertical direction. All scales are those of latent space,
    and differ between the maps.
    """
    rows = -(-len(maps) // columns)
    tables = []
    with style():
        axes = panels(rows, columns, ROW * rows + 0.3)
        for axis, shown in zip(axes, maps, strict=False):
            points = _draw(axis, shown, chosen)
            table = pd.DataFrame({"operation": range(len(points)), "x": points[:, 0], "y": points[:, 1]})
            tables.append(table.assign(map=shown.title))
        across, up = (" or ".join(dict.fromkeys(entry_name(m.entries[i]) for m in maps)) for i in (0, 1))
        figure_of(axes[0]).legend(
            handles=dot_handles({SIGN[value]: colour for value, colour in POINTS.items()}), loc="outside lower center",
            title=f"labels: values of {across} and {up}; colours: value of {up}", ncols=len(POINTS),
        )
    said = ". ".join(
        f"{m.title.replace(chr(10), ', ')}: across {entry_name(m.entries[0])}, up {entry_name(m.entries[1])}"
        for m in maps
    )
    rings = f" Rings mark the operations {', '.join(map(str, chosen))}." if chosen else ""
    alt = (
        f"Points show the codes of all {space.SIZE:,} operations in the plane of the steps of two entries. {said}. "
        f"Labels give the values of these two entries in each group of points.{rings}"
    )
    return Drawing(figure_of(axes[0]), alt, pd.concat(tables))


def _draw(axis: Axes, shown: CodeMap, chosen: Sequence[int]) -> np.ndarray:
    """Draw one map, and return its points (N, 2)."""
    effects, entries = entry_effects(shown.mu), list(shown.entries)
    directions = effects.directions[entries].nan_to_num()  # a step of length 0 has no direction
    points = ((shown.mu - effects.centre) @ directions.T).cpu().numpy()
    values = space.operations()[:, entries].to(torch.int64).numpy()
    # In a fixed random order, no value hides the others.
    order = np.random.default_rng(0).permutation(len(points))
    colours = np.array([POINTS[value] for value in (-1, 0, 1)])[values[order, 1] + 1]
    axis.scatter(points[order, 0], points[order, 1], c=colours, s=1.5, linewidths=0, rasterized=True)
    for across in (-1, 0, 1):
        for up in (-1, 0, 1):
            x, y = points[(values == (across, up)).all(1)].mean(0)
            axis.text(x, y, f"{SIGN[across]} {SIGN[up]}", color=INK, ha="center", va="center", fontsize=8,
                      path_effects=[withStroke(linewidth=2.5, foreground="white")])
    if len(chosen):
        ringed = points[list(chosen)]
        axis.scatter(ringed[:, 0], ringed[:, 1], s=36, facecolors="none", edgecolors=INK, linewidths=1.2)
    axis.axhline(0, color=GREY, linewidth=0.4, zorder=0)
    axis.axvline(0, color=GREY, linewidth=0.4, zorder=0)
    axis.set(
        title=shown.title, xlabel=f"step of {entry_name(entries[0])}, − to +",
        ylabel=f"step of {entry_name(entries[1])}, − to +",
    )
    axis.set_aspect("equal", adjustable="datalim")
    return points

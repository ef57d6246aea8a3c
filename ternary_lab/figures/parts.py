"""Building blocks of figures: bands over runs, dots of seeds with intervals, heat maps, lines and legends.

seaborn draws on axes that the caller passes. No figure is registered with pyplot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from textwrap import fill
from typing import Any, Literal

import numpy as np
import pandas as pd
import seaborn
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ternary_lab.figures.style import GREY, INK, PATHWAY, figure_of, new_axes, plain, readable_on

RANGE = ("pi", 100)
"""seaborn's name for the interval from the lowest to the highest value."""


def band(
    axis: Axes, table: pd.DataFrame, x: str, y: str, *, color: str, label: str | None = None,
    errorbar: tuple[str, float] | None = RANGE, **look: Any,
) -> None:
    """Draw the median of y at each x as a line, and the range of y as a band.

    `errorbar` may name another of seaborn's intervals for the band. If `errorbar` is None, no band is drawn.
    """
    seaborn.lineplot(
        x=table[x].to_numpy(float), y=table[y].to_numpy(float), ax=axis, estimator="median", errorbar=errorbar,
        color=color, label=label, legend=False, err_kws={"alpha": 0.2, "linewidth": 0}, markeredgecolor=color, **look,
    )


def dots(
    axis: Axes, table: pd.DataFrame, value: str, by: str, *, hue: str | None = None,
    palette: Mapping[str, str] | None = None, interval: Callable[[Any], tuple[float, float]] | None = None,
    marker: str = "o", size: float = 3.5,
) -> None:
    """Draw a row for each group of `by` in the order of the table, with a dot for each run.

    Args:
        hue: column whose values are drawn side by side within a row, in the colours of `palette`.
        interval: function that returns the ends of an interval around the mean; if given, both are drawn as well.
    """
    shared: dict[str, Any] = {"x": value, "y": by, "order": list(dict.fromkeys(table[by])), "ax": axis, "legend": False}
    shared |= {"color": INK} if hue is None else {"hue": hue, "hue_order": list(palette or ()), "palette": palette}
    seaborn.stripplot(
        table, **shared, dodge=hue is not None, jitter=False, marker=marker, size=size, linewidth=0,
        alpha=0.65 if interval is None else 0.35, clip_on=False,
    )
    if interval is not None:
        seaborn.pointplot(
            table, **shared, dodge=0.4 if hue else False, estimator="mean", errorbar=interval, linestyle="none",
            marker="|", markersize=7, markeredgewidth=1.4, err_kws={"linewidth": 1.4},
        )
    axis.yaxis.grid(visible=True)
    axis.set(xlabel="", ylabel="")


@contextmanager
def dot_panels(
    table: pd.DataFrame, titles: Mapping[str, str], by: str, *, columns: int = 3, height: float | None = None,
    **options: Any,
) -> Iterator[list[Axes]]:
    """Yield the axes of a new figure with a panel of `dots` for each measure.

    `titles` maps the column of each measure to the title of its panel.
    """
    rows = -(-len(titles) // columns)
    height = height or 0.6 + rows * (0.6 + 0.19 * table[by].nunique())
    with new_axes(rows, columns, height, sharey=True) as axes:
        for axis, (measure, title) in zip(axes, titles.items(), strict=False):
            dots(axis, table, measure, by, **options)
            words, _, unit = title.rpartition(", ")
            axis.set_title(fill(f"{words},\N{NO-BREAK SPACE}{unit}" if words else unit, 18))
        for axis in axes[len(titles):]:
            axis.remove()
        yield axes[:len(titles)]


def heat_map(
    axis: Axes, table: pd.DataFrame, *, cmap: str | Colormap, norm: Normalize | None = None,
    text: np.ndarray | None = None, **options: Any,
) -> QuadMesh:
    """Draw a table as a heat map with the first row at the top, and return the mesh.

    `text` is written into the cells, in black or white.
    """
    seaborn.heatmap(table, ax=axis, cmap=cmap, norm=norm, annot=text, fmt="", cbar=False, rasterized=True, **options)
    mesh = axis.collections[-1]
    assert isinstance(mesh, QuadMesh)
    if text is not None:  # missing cells have no text
        colours = mesh.to_rgba(np.ma.array(mesh.get_array()).compressed())
        for words, colour in zip(axis.texts, colours, strict=True):
            words.set_color(readable_on(tuple(colour)))
    axis.grid(visible=False)
    axis.tick_params(length=0, rotation=0)
    axis.set(xlabel="", ylabel="")
    return mesh


def reference(axis: Axes, y: float, label: str | None = None, line: str = ":") -> None:
    """Draw a grey horizontal line at y, for comparison."""
    axis.axhline(y, color=GREY, linestyle=line, linewidth=0.9, label=label, zorder=1)


def mark(axis: Axes, x: float, line: str = ":") -> None:
    """Draw a grey vertical line at x."""
    axis.axvline(x, color=GREY, linestyle=line, linewidth=0.9, zorder=1)


def log_scale(axis: Axes, side: Literal["x", "y"] = "y") -> None:
    """Make an axis logarithmic, and label the axis with plain numbers."""
    axis.set(**{f"{side}scale": "log"})
    plain(axis, side)


def label_epochs(axes: Sequence[Axes], words: str = "epoch", most: int = 6) -> None:
    """Write `words` below the x axes, and use whole numbers as ticks, with at most `most` intervals."""
    for axis in axes:
        axis.set_xlabel(words)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=most, integer=True, steps=[1, 2, 5, 10]))


PATHWAYS_BY_COLOUR = {f"pathway {pathway}": colour for pathway, colour in PATHWAY.items()}


def dot_handles(colours: Mapping[str, str] = PATHWAYS_BY_COLOUR) -> list[Line2D]:
    """Return legend handles: a dot for each label, in the colour of the label. The default labels are the pathways."""
    return [Line2D([], [], color=colour, marker="o", linestyle="", label=name) for name, colour in colours.items()]


def legend_below(
    axes: Sequence[Axes], title: str | None = None, handles: Sequence[Artist] | None = None, **options: Any
) -> Any:
    """Add one legend below the figure, and return the legend.

    By default, the legend shows the labels of all axes, each label once. If `handles` are given, the legend shows the
    labels of these handles instead.
    """
    if handles is None:
        labelled = {
            label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
    else:
        labelled = {str(handle.get_label()): handle for handle in handles}
    return figure_of(axes[0]).legend(
        list(labelled.values()), list(labelled), title=title, loc="outside lower center", **options
    )

"""Style of all figures: print width, colours for colour-blind readers, and fonts that are part of matplotlib.

Figures are `matplotlib.figure.Figure` objects that are not registered with pyplot. They need no display. Settings of
matplotlib change only inside `style()`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import matplotlib
import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

WIDTH = 6.3
"""Width of a figure in inches. It equals the text width of an A4 page with margins of 25 mm."""
BLUE, VERMILION, SKY, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#56B4E9", "#E69F00", "#009E73", "#CC79A7"
"""Colours of Okabe and Ito (2008). All other colours are greys."""
INK, GREY = "#222222", "#767676"
PATHWAY = {"A": BLUE, "B": VERMILION}
"""Colours of the two pathways. These colours are the same in every figure."""
PATHWAY_TEXT = {"A": PATHWAY["A"], "B": "#BC5200"}
"""Colours of text about a pathway. The colour of lines of B is too light for text on white, so text on B is darker."""
ENTRY = {-1: SKY, 0: "#F2F2F2", 1: ORANGE}
"""Colours of the three values of an entry in a truth table."""

RC: dict[str, Any] = {
    **seaborn.axes_style("ticks"), **seaborn.plotting_context("paper", font_scale=0.83),
    "font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans",
    "axes.titlesize": 8.5, "axes.titlelocation": "left", "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "legend.title_fontsize": 7, "legend.frameon": False, "legend.handlelength": 1.6,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "axes.grid": True, "grid.color": "#E4E4E4", "grid.linewidth": 0.5,
    **{f"{side}tick.{kind}.width": 0.6 for side in "xy" for kind in ("major", "minor")},
    **{f"{side}tick.{kind}.size": size for side in "xy" for kind, size in (("major", 3), ("minor", 2))},
    "lines.markersize": 3.5, "patch.force_edgecolor": False,
    "figure.constrained_layout.h_pad": 0.05, "figure.constrained_layout.w_pad": 0.05,
    "savefig.dpi": 200, "pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "ternary-lab",
}
"""Settings of matplotlib: seaborn's style "ticks" at the scale "paper", with changes for figures of print width."""

_drawing = threading.RLock()


@contextmanager
def style() -> Iterator[None]:
    """Use the lab's settings inside the block, and restore the user's settings at the end.

    The settings are those of the whole process, and views draw in threads of their own. So another thread waits here.
    """
    with _drawing, matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(cast(Any, RC))
        yield


def panels(rows: int, columns: int, height: float, **options: Any) -> list[Axes]:
    """Create a figure of print width that is `height` inches high, and return its rows x columns axes, row by row."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return list(figure.subplots(rows, columns, squeeze=False, **options).flat)


@contextmanager
def new_axes(rows: int, columns: int, height: float, **options: Any) -> Iterator[list[Axes]]:
    """Yield the axes of `panels` while the lab's style is active."""
    with style():
        yield panels(rows, columns, height, **options)


def readable_on(colour: tuple[float, ...]) -> str:
    """Return black or white, whichever has the higher contrast with a colour (R, G, B, ...) whose channels are in 0..1.

    The contrast is defined by WCAG 2.2. The higher contrast is always at least 4.5.
    """
    c = np.array(colour[:3])
    luminance = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


def fixed(figure: Figure, **margins: float) -> None:
    """Give a figure fixed margins (`Figure.subplots_adjust`) instead of margins that fit the labels.

    Fitting the margins takes longer than drawing. Figures that follow a slider are drawn again at every move.
    """
    figure.set_layout_engine(None)
    figure.subplots_adjust(**margins)


def plain(axis: Axes, side: Literal["x", "y"] = "y") -> None:
    """Label a logarithmic axis with plain numbers, for example 100 instead of 10². Typesetting of exponents is slow."""
    scale = axis.xaxis if side == "x" else axis.yaxis
    scale.set_major_formatter("{x:g}")
    scale.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))


def figure_of(axis: Any) -> Figure:
    """Return the figure that contains an axis."""
    figure = axis.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure

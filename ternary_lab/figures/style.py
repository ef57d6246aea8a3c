"""One look for every figure: print width, colours that colour-blind readers tell apart, fonts of matplotlib's own.

Figures are `matplotlib.figure.Figure` objects and never pyplot's: nothing is global, leaks or needs a display.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, NullFormatter

from ternary_lab.errors import InputError

WIDTH = 6.3
"""Inches: the text of an A4 page with margins of 25 mm."""
BLUE, VERMILION, SKY, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#56B4E9", "#E69F00", "#009E73", "#CC79A7"
"""The colours of Okabe and Ito (2008); there are no others but greys."""
INK, GREY = "#222222", "#767676"
PATHWAY = {"A": BLUE, "B": VERMILION}
"""The two pathways, the same in every figure."""
PATHWAY_TEXT = {"A": PATHWAY["A"], "B": "#BC5200"}
"""Of words in a pathway's colour. B's is darker than its lines: these have too little contrast with white to read."""
ENTRY = {-1: SKY, 0: "#F2F2F2", 1: ORANGE}
"""The values of a truth table's entry."""

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans", "font.size": 8,
    "axes.titlesize": 8.5, "axes.titlelocation": "left", "axes.labelsize": 8,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7, "legend.title_fontsize": 7,
    "legend.frameon": False, "legend.handlelength": 1.6,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#E4E4E4", "grid.linewidth": 0.5,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.minor.width": 0.4, "ytick.minor.width": 0.4,
    "lines.linewidth": 1.2, "lines.markersize": 3.5,
    "figure.constrained_layout.h_pad": 0.05, "figure.constrained_layout.w_pad": 0.05,
    "savefig.dpi": 200, "pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "ternary-lab",
}


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's defaults with the lab's changes, whatever the user's own settings; they come back afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(cast(Any, RC))
        yield


def panels(
    rows: int, columns: int, height: float, ax: Axes | Sequence[Axes] | np.ndarray | None = None, **options: Any
) -> list[Axes]:
    """rows x columns axes, row by row: those given, or those of a new figure of print width, `height` inches high.

    Raises InputError when `ax` holds another number of axes.
    """
    if ax is None:
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        return list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    given: list[Axes] = [ax] if isinstance(ax, Axes) else list(np.asarray(ax, dtype=object).flat)
    if len(given) != rows * columns:
        raise InputError(f"ax: this figure needs {rows * columns} axes, got {len(given)}")
    return given


def readable_on(colour: tuple[float, ...]) -> str:
    """Black or white, whichever has more contrast (WCAG 2.2) with a colour (R, G, B, ...), each 0..1: at least 4.5."""
    c = np.array(colour[:3])
    luminance = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


def fixed(figure: Figure, **margins: float) -> None:
    """Margins (`Figure.subplots_adjust`) instead of a layout fitted to the labels, which takes longer than the drawing.

    For figures drawn again at every move of a slider.
    """
    figure.set_layout_engine(None)
    figure.subplots_adjust(**margins)


def plain(axis: Axes) -> None:
    """Label the powers of ten of a logarithmic y axis as numbers: typesetting exponents takes longer than drawing."""
    axis.yaxis.set_major_formatter(LogFormatter())
    axis.yaxis.set_minor_formatter(NullFormatter())


def figure_of(axis: Any) -> Figure:
    """The figure that an axis stands in."""
    figure = axis.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure

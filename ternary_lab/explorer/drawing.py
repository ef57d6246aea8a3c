"""Figures of a run: the map of all operations, and loss and coverage by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from ternary_lab import space
from ternary_lab.errors import InputError, nearest
from ternary_lab.explorer.codes_by_epoch import CodesByEpoch
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import GREEN, INK, ORANGE, PATHWAY, PURPLE, figure_of, fixed, panels, style
from ternary_lab.model import PATHWAYS, Pathway
from ternary_lab.space import ENTRIES

CATEGORIES = (ORANGE, PATHWAY["A"], GREEN, PURPLE)
"""Colours of up to four kinds of operations."""
YES_NO = ("#C8C8C8", PATHWAY["A"])
WRONG_RIGHT = (PATHWAY["B"], "#8FC1E3")
TITLE = 72
"""Largest number of characters in a line of the map's title."""
_LABELS = {
    "reconstruction A": "reconstructed by A", "reconstruction B": "reconstructed by B",
    "log p A": "ln p(x), decoder A", "log p B": "ln p(x), decoder B", "zeros": "number of zeros",
    "values": "different results", "depends_on": "depends on", "split": "split",
}

_ENTRIES = {f"entry {k}": f"f({k // 3 - 1:+d}, {k % 3 - 1:+d})".replace("+0", "0") for k in range(ENTRIES)}


@dataclass(frozen=True)
class Colouring:
    """Values of all operations, with the colours and words that show them.

    Either the values lie on a continuous scale, or they divide the operations into a few kinds.
    """

    label: str
    values: np.ndarray
    """(N,): the position 0..1 on the scale, or the index of the kind."""
    kinds: tuple[str, ...]
    """Names of the kinds. The tuple is empty for a scale."""
    colours: Sequence[str] | str
    """One colour for each kind, or the name of the colour map of the scale."""
    low: float = 0.0
    high: float = 1.0
    """Values at the lower and the upper end of the scale, in the units of the shown quantity."""


def colourings(atlas: CodesByEpoch) -> dict[str, str]:
    """Return a dictionary from the name of each possible colouring to its label."""
    facts = atlas.properties.select_dtypes(bool).columns
    return _LABELS | {name: name.replace("_", " ") for name in facts} | _ENTRIES


def needs_probability(name: str) -> Pathway | None:
    """Return the decoder whose probabilities a colouring needs, or None if it needs none.

    The computation of these probabilities takes a moment.
    """
    return {"log p A": PATHWAYS[0], "log p B": PATHWAYS[1]}.get(name)


def colouring(atlas: CodesByEpoch, epoch: int, name: str) -> Colouring:
    """Return the colouring `name` at an epoch. Raises InputError if `colourings` does not have the name."""
    known = colourings(atlas)
    if name not in known:
        near = nearest(name, known, "explorer.drawing.colourings(atlas)")
        raise InputError(f"operations cannot be coloured by {name!r}{near}")
    label = known[name]
    if name.startswith("reconstruction"):
        right = atlas[epoch].reconstructed[PATHWAYS.index("A" if name.endswith("A") else "B")]
        return Colouring(label, right.cpu().numpy().astype(float), ("no", "yes"), WRONG_RIGHT)
    if (pathway := needs_probability(name)) is not None:
        return _scale(label, atlas[epoch].log_probability(pathway).cpu().numpy())
    if name in _ENTRIES:
        values = space.operations()[:, int(name.removeprefix("entry "))] + 1
        return Colouring(label, values.numpy(), ("−", "0", "+"), (PATHWAY["A"], "#C8C8C8", PATHWAY["B"]))
    column = atlas.properties[name]
    if name == "zeros":
        return _scale(label, column.to_numpy(float), (0.0, float(ENTRIES)))
    if column.dtype == bool:
        return Colouring(label, column.to_numpy(float), ("no", "yes"), YES_NO)
    found = pd.Categorical(column)
    kinds = tuple(map(str, found.categories))
    return Colouring(label, found.codes.astype(float), kinds, CATEGORIES[:len(kinds)])


def _scale(label: str, values: np.ndarray, ends: tuple[float, float] | None = None) -> Colouring:
    """Return a scale with the given ends, or from the 1 % quantile to the 99 % quantile of the values.

    Between quantiles, a few extreme values do not compress all other values.
    """
    low, high = ends or (float(q) for q in np.quantile(values, (0.01, 0.99)))
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    return Colouring(label, ((values - low) / (high - low)).clip(0, 1), (), "viridis", low, high)


def draw_map(
    atlas: CodesByEpoch,
    epoch: int,
    pathway: Pathway = "B",
    kind: str = "pca",
    colour: str = "reconstruction B",
    selection: Sequence[int] = (),
) -> Drawing:
    """Draw one point for the code of each operation at an epoch. Selected operations have a ring."""
    with style():
        (axis,) = panels(1, 1, 4.6)
        return map_on(axis, atlas, epoch, pathway, kind, colour, selection)


def map_on(
    axis: Axes, atlas: CodesByEpoch, epoch: int, pathway: Pathway, kind: str, colour: str, selection: Sequence[int]
) -> Drawing:
    """Draw the map of `draw_map` on an axis. The caller must be inside `with style():`."""
    plane, paint = atlas.plane(epoch, pathway, kind), colouring(atlas, epoch, colour)
    points = plane.points.numpy() * plane.scale
    # Rare kinds are drawn last, so that no other points hide them.
    frequency = np.bincount(paint.values.astype(int))[paint.values.astype(int)] if paint.kinds else -paint.values
    order = np.argsort(-frequency, kind="stable")
    cmap = paint.colours if isinstance(paint.colours, str) else ListedColormap(list(paint.colours))
    top = len(paint.kinds) - 1 if paint.kinds else 1
    dots = axis.scatter(
        points[order, 0], points[order, 1], c=paint.values[order], cmap=cmap, vmin=0, vmax=top, s=3, linewidths=0,
        rasterized=True,
    )
    if len(selection):
        ringed = points[list(selection)]
        axis.scatter(ringed[:, 0], ringed[:, 1], s=36, facecolors="none", edgecolors=INK, linewidths=1)
    axis.set(xlabel=plane.axes[0], ylabel=plane.axes[1])
    axis.set_aspect("equal", adjustable="datalim")
    axis.set_title(f"pathway {pathway}, epoch {epoch}: {paint.label}\n{fill(plane.note, TITLE)}".strip())
    bar = figure_of(axis).colorbar(dots, ax=axis, shrink=0.6)
    if paint.kinds:
        step = top / len(paint.kinds)
        bar.set_ticks([step * (i + 0.5) for i in range(len(paint.kinds))], labels=list(paint.kinds))
        said = ", ".join(f"{100 * float(np.mean(paint.values == i)):.1f} % {k}" for i, k in enumerate(paint.kinds))
    else:
        bar.set_ticks([0, 1], labels=[f"{paint.low:.3g}", f"{paint.high:.3g}"])
        said = f"from {paint.low:.3g} to {paint.high:.3g}"
    alt = (
        f"Points show all operations by their codes in pathway {pathway} at epoch {epoch}. The colour shows: "
        f"{paint.label} ({said})."
    )
    data = pd.DataFrame({"operation": range(len(points)), "x": points[:, 0], "y": points[:, 1], "value": paint.values})
    return Drawing(figure_of(axis), alt, data)


@dataclass(frozen=True)
class Course(Drawing):
    """A figure of loss and informative coverage by epoch.

    `place` computes the horizontal position of an epoch in the picture.
    """

    left: float
    right: float
    """Positions of the left and right edges of the axes, as shares of the picture's width."""
    first: float
    last: float
    """Values on the epoch axis at the left and the right edge."""

    def place(self, epoch: float) -> float:
        """Return the horizontal position of an epoch, as a share of the picture's width."""
        share = (epoch - self.first) / (self.last - self.first) if self.last > self.first else 0.5
        return self.left + share * (self.right - self.left)


def draw_course(history: pd.DataFrame, width: float = 10.0, height: float = 1.9) -> Course:
    """Draw the training loss (above) and the informative coverage of both pathways (below) by epoch."""
    left, right = 0.07, 0.995
    with style():
        upper, lower = panels(2, 1, height, sharex=True)
        figure = figure_of(upper)
        figure.set_size_inches(width, height)
        fixed(figure, left=left, right=right, top=0.97, bottom=0.22, hspace=0.16)
        upper.plot(history["epoch"], history["train_loss"], color=INK)
        upper.set(ylabel="loss")
        for pathway, line in (("A", "-"), ("B", "--")):
            lower.plot(history["epoch"], history[f"informative_coverage_{pathway}"], color=PATHWAY[pathway],
                       label=pathway, linestyle=line)
        lower.set(ylabel="informative\ncoverage, %", xlabel="epoch")
        lower.legend(ncols=2, loc="upper left")
        first, last = float(history["epoch"].min()) - 0.5, float(history["epoch"].max()) + 0.5
        lower.set_xlim(first, last)
    end = history.iloc[-1]
    alt = (
        f"Line charts show the training loss and informative coverage by epoch. At epoch {int(end['epoch'])} the loss "
        f"is {end['train_loss']:.2f}, the informative coverage {end['informative_coverage_A']:.1f} % in pathway A and "
        f"{end['informative_coverage_B']:.1f} % in B."
    )
    data = history[["epoch", "train_loss", "informative_coverage_A", "informative_coverage_B"]]
    return Course(figure, alt, data, left, right, first, last)

"""Figures of an atlas: the map of all operations, and the run's course with the epoch marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from ternary_lab import space
from ternary_lab.errors import InputError, nearest
from ternary_lab.explorer.codes_by_epoch import CodesByEpoch
from ternary_lab.figures.style import GREEN, INK, ORANGE, PATHWAY, PURPLE, figure_of, panels, style
from ternary_lab.model import PATHWAYS, Pathway
from ternary_lab.space import ENTRIES

CATEGORIES = (ORANGE, PATHWAY["A"], GREEN, PURPLE)
"""For up to four kinds of operation."""
YES_NO = ("#C8C8C8", PATHWAY["A"])
WRONG_RIGHT = (PATHWAY["B"], "#8FC1E3")
_LABELS = {
    "reconstruction A": "A gives back its own code", "reconstruction B": "B gives back its own code",
    "log p A": "ln p(x), decoder A", "log p B": "ln p(x), decoder B", "zeros": "number of zeros",
    "values": "different results", "depends_on": "depends on", "split": "split",
}

_ENTRIES = {f"entry {k}": f"f({k // 3 - 1:+d}, {k % 3 - 1:+d})".replace("+0", "0") for k in range(ENTRIES)}


@dataclass(frozen=True)
class Colouring:
    """A value for every operation, with what it takes to draw and explain it."""

    label: str
    values: np.ndarray
    """(N,): 0..1 for a scale, else the number of the kind."""
    kinds: tuple[str, ...]
    """Names of the kinds; empty for a scale."""
    colours: Sequence[str] | str
    """One for each kind, or the name of a colour map."""
    low: float = 0.0
    high: float = 1.0
    """Values at both ends of a scale, in its own units."""


def colourings(atlas: CodesByEpoch) -> dict[str, str]:
    """Name -> label of everything that operations can be coloured by."""
    facts = atlas.properties.select_dtypes(bool).columns
    return _LABELS | {name: name.replace("_", " ") for name in facts} | _ENTRIES


def needs_probability(name: str) -> Pathway | None:
    """The decoder whose probabilities a colouring shows, which take a moment to compute."""
    return {"log p A": PATHWAYS[0], "log p B": PATHWAYS[1]}.get(name)


def colouring(atlas: CodesByEpoch, epoch: int, name: str) -> Colouring:
    """One of `colourings` at an epoch. Raises InputError for an unknown one."""
    known = colourings(atlas)
    if name not in known:
        near = nearest(name, known, "figures.atlas.colourings(atlas)")
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
        return _scale(label, column.to_numpy(float))
    if column.dtype == bool:
        return Colouring(label, column.to_numpy(float), ("no", "yes"), YES_NO)
    found = pd.Categorical(column)
    kinds = tuple(map(str, found.categories))
    return Colouring(label, found.codes.astype(float), kinds, CATEGORIES[:len(kinds)])


def _scale(label: str, values: np.ndarray) -> Colouring:
    """Between the quantiles that leave one operation in fifty outside: a few rare ones must not flatten the rest."""
    low, high = (float(q) for q in np.quantile(values, (0.01, 0.99)))
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
    ax: Axes | None = None,
) -> Axes:
    """All operations by their codes at an epoch, a point each; those selected are ringed."""
    plane, paint = atlas.plane(epoch, pathway, kind), colouring(atlas, epoch, colour)
    with style():
        (axis,) = panels(1, 1, 4.6, ax)
        points = plane.points.numpy() * plane.scale
        # What is rare is drawn last, so that it is not buried.
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
        axis.set(xlabel=plane.axes[0], ylabel=plane.axes[1], aspect="equal")
        axis.set_title(f"pathway {pathway}, epoch {epoch}: {paint.label}\n{plane.note}".strip())
        figure = figure_of(axis)
        bar = figure.colorbar(dots, ax=axis, shrink=0.6)
        if paint.kinds:
            step = top / len(paint.kinds)
            bar.set_ticks([step * (i + 0.5) for i in range(len(paint.kinds))], labels=list(paint.kinds))
        else:
            bar.set_ticks([0, 1], labels=[f"{paint.low:.3g}", f"{paint.high:.3g}"])
    return axis


def map_alt(atlas: CodesByEpoch, epoch: int, pathway: Pathway, colour: str) -> str:
    """What `draw_map` shows, in words."""
    paint = colouring(atlas, epoch, colour)
    shares = [f"{kind} {100 * float(np.mean(paint.values == i)):.1f} %" for i, kind in enumerate(paint.kinds)]
    said = ", ".join(shares) if shares else f"from {paint.low:.3g} to {paint.high:.3g}"
    return f"All operations by their codes in pathway {pathway} at epoch {epoch}, coloured by: {paint.label} ({said})."


@dataclass(frozen=True)
class Course:
    """Loss and informative coverage through the epochs, and where an epoch lies in the picture."""

    figure: Figure
    left: float
    right: float
    """Left and right edge of the axes, as shares of the picture's width."""
    first: float
    last: float
    """Epochs at those edges."""
    alt: str

    def place(self, epoch: float) -> float:
        """An epoch's share of the picture's width."""
        share = (epoch - self.first) / (self.last - self.first) if self.last > self.first else 0.5
        return self.left + share * (self.right - self.left)


def draw_course(history: pd.DataFrame, width: float = 10.0, height: float = 1.9) -> Course:
    """Training loss (log scale) and informative coverage of both pathways, side by side in height."""
    figure = Figure(figsize=(width, height))
    with style():
        upper, lower = figure.subplots(2, 1, sharex=True)
        upper.plot(history["epoch"], history["train_loss"], color=INK)
        upper.set(ylabel="loss")
        for pathway in PATHWAYS:
            lower.plot(
                history["epoch"], history[f"informative_coverage_{pathway}"], color=PATHWAY[pathway], label=pathway,
                linestyle="-" if pathway == "A" else "--",
            )
        lower.set(ylabel="informative\ncoverage, %", xlabel="epoch")
        lower.legend(ncols=2, loc="upper left")
        first, last = float(history["epoch"].min()), float(history["epoch"].max())
        lower.set_xlim(first - 0.5, last + 0.5)
        figure.subplots_adjust(left=0.07, right=0.995, top=0.97, bottom=0.22, hspace=0.16)
    end = history.iloc[-1]
    alt = (
        f"Training loss and informative coverage by epoch; at epoch {int(last)} the loss is {end['train_loss']:.2f}, "
        f"informative coverage {end['informative_coverage_A']:.1f} % (A) and {end['informative_coverage_B']:.1f} % (B)."
    )
    return Course(figure, 0.07, 0.995, first - 0.5, last + 0.5, alt)

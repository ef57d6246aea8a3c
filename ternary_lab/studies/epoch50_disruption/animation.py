"""Animation of the codes of all operations across the jump of β_B, as a GIF.

Each pathway has two panels. The map shows the codes in the plane of the steps of two entries, and the nine steps as
arrows. The two entries are those whose steps have the largest |cos| in the first epoch. Angles on the map are angles in
latent space. The matrix shows |cos| between the steps of each pair of entries.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ternary_lab import space
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.errors import RunError
from ternary_lab.figures.codes import POINTS, entry_name
from ternary_lab.figures.parts import mark
from ternary_lab.figures.save import Animation
from ternary_lab.figures.style import GREEN, GREY, INK, PATHWAY, style
from ternary_lab.metrics.entry_effects import EntryEffects, entry_effects
from ternary_lab.model import PATHWAYS, Pathway
from ternary_lab.runs.load import RunRecord
from ternary_lab.space import ENTRIES, SIZE
from ternary_lab.studies.epoch50_disruption.effects import AFTER, BEFORE

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SHOWN = 4000
"""Number of operations that are drawn. Each point makes the file larger."""
BETWEEN = 5
"""Number of frames from one epoch to the next."""
FRAME, STILL = 90, 1300
"""Display times in milliseconds.

`STILL` is for the first frame, the last frame, and the epochs before and after the jump. `FRAME` is for all others.
"""
SHADED = (*PATHWAY.values(), GREEN, POINTS[-1], POINTS[1])
SHADES = 16
"""Number of shades of each colour in the GIF."""
GREYS = 12
"""Number of grey levels of the matrix."""
REACH = 1.4
"""The map shows the coordinates from -`REACH` to `REACH`, in units of the mean length of the steps."""
INSIDE = 1.15
"""Largest coordinate of a label."""


@dataclass(frozen=True)
class Moment:
    """Codes and steps of one pathway at one epoch."""

    points: Tensor
    """(N, 2): the codes in the plane, in units of the mean length of the steps."""
    steps: Tensor
    """(9, 2): the steps in the plane, in the same units."""
    cosines: Tensor
    """(9, 9): |cos| between the steps of two entries."""
    effects: EntryEffects


def plane_of(first: Tensor, second: Tensor) -> Tensor:
    """Return two orthonormal vectors (2, L) that span the plane of two directions (L,), which are unit vectors.

    If the directions are orthogonal, the vectors are the directions. Otherwise each vector has the same angle to its
    direction (symmetric orthogonalisation, Löwdin 1950).
    """
    middle, across = (v / v.square().sum().sqrt() for v in (first + second, first - second))
    return torch.stack((middle + across, middle - across)) / 2**0.5


def moment(mu: Tensor, pair: tuple[int, int]) -> Moment:
    """Return the codes μ (N, L) and the steps in the plane of the steps of two entries."""
    found = entry_effects(mu)
    directions = found.directions
    basis = plane_of(directions[pair[0]], directions[pair[1]])
    unit = found.lengths.mean()
    points, steps = ((vectors @ basis.T / unit).cpu() for vectors in (mu - found.centre, found.steps))
    return Moment(points, steps, found.cosines.abs().cpu(), found)


def least_orthogonal(effects: EntryEffects) -> tuple[int, int]:
    """Return the two entries whose steps have the largest |cos|."""
    cosines = effects.cosines.abs().fill_diagonal_(0)
    first, second = divmod(int(cosines.argmax()), ENTRIES)
    return first, second


@with_fixed_arithmetic
def animate_steps(run: RunRecord, first: int = 46, last: int = 60) -> Animation:
    """Return an animation of the codes and steps of both pathways from epoch `first` to epoch `last`.

    The animation uses the epochs with saved weights. Between two epochs the points and the arrows move in straight
    lines. Raises RunError if fewer than two epochs in the range have saved weights.
    """
    epochs = [epoch for epoch in run.epochs if first <= epoch <= last]
    if len(epochs) < 2:
        raise RunError(
            f"{run.path}: keeps the weights of fewer than two epochs from {first} to {last}: choose a longer span"
        )
    moments: dict[Pathway, dict[int, Moment]] = {}
    pairs = {}
    for pathway in PATHWAYS:
        codes = {epoch: run.model(epoch).encode(space.operations(), pathway).mean for epoch in epochs}
        pairs[pathway] = least_orthogonal(entry_effects(codes[epochs[0]]))
        moments[pathway] = {epoch: moment(mu, pairs[pathway]) for epoch, mu in codes.items()}
    stills = {BETWEEN * i for i, epoch in enumerate(epochs) if epoch in (epochs[0], BEFORE, AFTER, epochs[-1])}
    gif = _gif(list(_frames(moments, pairs, epochs)), stills)
    return Animation(gif, _description(moments, epochs), [run.seed])


def _gif(frames: Sequence[Picture], stills: Collection[int]) -> bytes:
    from PIL import Image
    from PIL.Image import Dither

    palette = Image.new("P", (1, 1))
    palette.putpalette(_shades())
    pictures = [frame.quantize(palette=palette, dither=Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    durations = [STILL if i in stills else FRAME for i in range(len(pictures))]
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=True
    )
    return buffer.getvalue()


def _shades() -> list[int]:
    """Return the colours of the GIF, red, green and blue in turn: greys, and shades of other colours."""
    greys = np.linspace((0, 0, 0), (1, 1, 1), 2 * SHADES)
    colours = [np.linspace(to_rgb(colour), (0.9, 0.9, 0.9), SHADES) for colour in SHADED]
    return [int(level) for level in (255 * np.concatenate((greys, *colours))).round().flat]


def _description(moments: Mapping[Pathway, Mapping[int, Moment]], epochs: Sequence[int]) -> str:
    parts = [
        f"In {pathway}, the largest |cos| between the steps of two entries is "
        f"{float(its[epochs[0]].effects.largest_cosine):.2f} in the first epoch and "
        f"{float(its[epochs[-1]].effects.largest_cosine):.2f} in the last." for pathway, its in moments.items()
    ]
    return (
        f"Points show operations by their latent codes in pathways A and B, in the plane of the steps of two entries. "
        f"They move from epoch {epochs[0]} to {epochs[-1]}. Arrows show the nine steps, and a matrix shows |cos| of "
        f"each pair. {' '.join(parts)}"
    )


def _frames(
    moments: Mapping[Pathway, Mapping[int, Moment]], pairs: Mapping[Pathway, tuple[int, int]], epochs: Sequence[int]
) -> Iterator[Picture]:
    from PIL import Image

    with style():
        figure = Figure(figsize=(8.4, 4.2), dpi=100)
        canvas = FigureCanvasAgg(figure)
        grid = figure.add_gridspec(
            2, 4, height_ratios=(3.1, 1), width_ratios=(1.7, 1) * 2, left=0.065, right=0.985, top=0.94, bottom=0.11,
            hspace=0.22, wspace=0.24,
        )
        panels = [
            _Panels(figure.add_subplot(grid[0, 2 * i]), figure.add_subplot(grid[0, 2 * i + 1]), p, pairs[p], moments[p])
            for i, p in enumerate(PATHWAYS)
        ]
        cursor = _course(figure.add_subplot(grid[1, :]), moments, epochs).axvline(epochs[0], color=GREEN, linewidth=2)
        for before, after in zip(epochs, [*epochs[1:], epochs[-1]], strict=True):
            for step in range(BETWEEN if after != before else 1):
                share = step / BETWEEN
                for its in panels:
                    its.draw(before, after, share)
                cursor.set_xdata([before + share * (after - before)] * 2)
                canvas.draw()  # type: ignore[no-untyped-call]
                pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
                yield Image.fromarray(pixels).convert("RGB")


def _course(axis: Axes, moments: Mapping[Pathway, Mapping[int, Moment]], epochs: Sequence[int]) -> Axes:
    """Draw the largest |cos| of both pathways by epoch."""
    for (pathway, its), line in zip(moments.items(), ("-", "--"), strict=True):
        values = [float(its[epoch].effects.largest_cosine) for epoch in epochs]
        axis.plot(epochs, values, color=PATHWAY[pathway], linestyle=line, marker="o", label=f"pathway {pathway}")
    axis.set(xlabel="epoch", ylabel="largest |cos|", xlim=(epochs[0] - 0.5, epochs[-1] + 0.5))
    axis.set_ylim(0, 1.25 * axis.get_ylim()[1])
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if epochs[0] < AFTER <= epochs[-1]:
        mark(axis, AFTER)
        axis.annotate("β$_B$ leaves 0", (AFTER, 1), (4, -9), xycoords=("data", "axes fraction"),
                      textcoords="offset points", color=INK, fontsize=7)
    axis.legend(loc="upper center", ncols=2)
    return axis


class _Panels:
    """The map and the matrix of one pathway."""

    def __init__(
        self, plane: Axes, matrix: Axes, pathway: Pathway, pair: tuple[int, int], moments: Mapping[int, Moment]
    ) -> None:
        self.plane, self.matrix, self.pathway, self.pair, self.moments = plane, matrix, pathway, pair, moments
        self.chosen = torch.randperm(SIZE, generator=torch.Generator().manual_seed(0))[:SHOWN]
        values = space.operations(self.chosen)[:, pair[0]]
        plane.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), xticks=[], yticks=[], aspect="equal")
        plane.set_xlabel(f"colour: value of {entry_name(pair[0])}", labelpad=1)
        self.dots = plane.scatter(
            np.zeros(SHOWN), np.zeros(SHOWN), c=values, cmap=ListedColormap(list(POINTS.values())), s=1.6, linewidths=0
        )
        self.arrows = plane.quiver(
            np.zeros(ENTRIES), np.zeros(ENTRIES), np.zeros(ENTRIES), np.zeros(ENTRIES), angles="xy", scale_units="xy",
            scale=1, width=0.011, zorder=3, color=[INK if k in pair else GREY for k in range(ENTRIES)],
        )
        self.labels = [
            plane.text(0, 0, entry_name(k), color=INK, fontsize=7.5, ha="center", va="center", zorder=4,
                       bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8})
            for k in pair
        ]
        greys = colormaps["Greys"].resampled(GREYS)
        self.cells = matrix.imshow(np.zeros((ENTRIES, ENTRIES)), cmap=greys, vmin=0, vmax=0.6)
        names = [entry_name(k) for k in range(ENTRIES)]
        matrix.set_xticks([])
        matrix.set_yticks(range(ENTRIES), names, fontsize=5.5)
        for axis in (plane, matrix):
            axis.grid(visible=False)
            axis.spines[:].set_visible(False)
            axis.tick_params(length=0)

    def draw(self, before: int, after: int, share: float) -> None:
        """Show a moment between two epochs. The titles are those of the nearer epoch."""
        start, end = self.moments[before], self.moments[after]
        points, steps, cosines = (
            torch.lerp(a, b, share).numpy()
            for a, b in ((start.points, end.points), (start.steps, end.steps), (start.cosines, end.cosines))
        )
        self.dots.set_offsets(points[self.chosen])
        self.arrows.set_UVC(steps[:, 0], steps[:, 1])
        for label, k in zip(self.labels, self.pair, strict=True):
            label.set_position(tuple(np.clip(1.13 * steps[k], -INSIDE, INSIDE)))
        np.fill_diagonal(cosines, np.nan)
        self.cells.set_data(cosines)
        nearer = before if share < 0.5 else after
        lengths, cosine = self.moments[nearer].effects.lengths, self.moments[nearer].effects.largest_cosine
        self.plane.set_title(
            f"{self.pathway}, epoch {nearer}: steps {float(lengths.min()):.1f} to {float(lengths.max()):.1f} long"
        )
        self.matrix.set_title(f"|cos| up to {float(cosine):.2f}")

"""Animation of the codes of all operations across the jump of β_B, as a GIF."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ternary_lab.errors import RunError
from ternary_lab.explorer.codes_by_epoch import CodesByEpoch
from ternary_lab.explorer.drawing import WRONG_RIGHT
from ternary_lab.explorer.projection import Projection
from ternary_lab.figures.save import Animation
from ternary_lab.figures.style import GREEN, INK, PATHWAY, style
from ternary_lab.model import PATHWAYS

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SHOWN = 6000
"""Number of operations that are drawn. Each point makes the file larger."""
BETWEEN = 5
"""Number of frames from one epoch to the next."""
FRAME, STILL = 90, 1300
"""Display times in milliseconds. `STILL` is for the first and the last frame, `FRAME` for every other frame."""
COLOURS = 48


def animate_codes(atlas: CodesByEpoch, first: int = 46, last: int = 60) -> Animation:
    """Return an animation of the codes of both pathways from epoch `first` to epoch `last`.

    The animation uses the epochs with saved weights. Each epoch shows the plane of the two principal directions of its
    codes and has its own scale. Between two epochs the points move in straight lines. Raises RunError if fewer than two
    epochs in the range have saved weights.
    """
    epochs = [epoch for epoch in atlas.epochs if first <= epoch <= last]
    if len(epochs) < 2:
        raise RunError(
            f"{atlas.run.path}: keeps the weights of fewer than two epochs from {first} to {last}: choose a longer span"
        )
    from PIL import Image
    from PIL.Image import Dither, Quantize

    frames = list(_frames(atlas, epochs))
    # The first frame and the last frame together contain all colours.
    both = Image.fromarray(np.vstack([np.asarray(frame) for frame in (frames[0], frames[-1])]))
    palette = both.quantize(COLOURS, Quantize.MAXCOVERAGE)
    pictures = [frame.quantize(palette=palette, dither=Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    durations = [STILL, *[FRAME] * (len(pictures) - 2), STILL]
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=True
    )
    right = [100 * atlas[epoch].reconstructed.float().mean(1) for epoch in (epochs[0], epochs[-1])]
    alt = (
        f"Points show all operations by their latent codes in pathways A and B. They move from epoch {epochs[0]} to "
        f"{epochs[-1]}. A reconstructs {right[0][0]:.1f} % of the operations from its own code in the first epoch and "
        f"{right[1][0]:.1f} % in the last; B reconstructs {right[0][1]:.1f} % and {right[1][1]:.1f} %."
    )
    return Animation(buffer.getvalue(), alt, [atlas.run.seed])


def _frames(atlas: CodesByEpoch, epochs: list[int]) -> Iterator[Picture]:
    from PIL import Image

    chosen = torch.randperm(len(atlas[epochs[0]].mu[0]), generator=torch.Generator().manual_seed(0))[:SHOWN]
    planes = {(e, p): atlas.plane(e, p, "pca") for e in epochs for p in PATHWAYS}
    history = atlas.history
    with style():
        figure = Figure(figsize=(7.2, 4.4), dpi=100)
        canvas = FigureCanvasAgg(figure)
        grid = figure.add_gridspec(
            2, 2, height_ratios=(4, 1), left=0.075, right=0.99, top=0.93, bottom=0.105, hspace=0.16, wspace=0.06
        )
        dots = []
        for column, pathway in enumerate(PATHWAYS):
            axis = figure.add_subplot(grid[0, column])
            axis.set(xlim=(-1.6, 1.6), ylim=(-1.15, 1.15), xticks=[], yticks=[])
            axis.grid(visible=False)
            axis.spines[:].set_visible(False)
            marks = axis.scatter(
                np.zeros(SHOWN), np.zeros(SHOWN), c=np.zeros(SHOWN), cmap=ListedColormap(list(WRONG_RIGHT)),
                vmin=0, vmax=1, s=1.6, linewidths=0,
            )
            dots.append((axis, marks, pathway))
        course = figure.add_subplot(grid[1, :])
        for pathway, line in (("A", "-"), ("B", "--")):
            course.plot(
                history["epoch"], history[f"informative_coverage_{pathway}"], color=PATHWAY[pathway], linestyle=line,
                label=pathway,
            )
        course.set(xlabel="epoch", ylabel="informative\ncoverage, %", xlim=(epochs[0] - 6, epochs[-1] + 2))
        shown = history[history["epoch"] <= epochs[-1] + 2]
        course.set_ylim(0, 1.1 * shown[["informative_coverage_A", "informative_coverage_B"]].to_numpy().max())
        course.xaxis.set_major_locator(MaxNLocator(integer=True))
        course.legend(loc="upper left", ncols=2)
        cursor = course.axvline(epochs[0], color=GREEN, linewidth=2)
        for before, after in zip(epochs, [*epochs[1:], epochs[-1]], strict=True):
            for step in range(BETWEEN if after != before else 1):
                share = step / BETWEEN
                nearest = before if share < 0.5 else after
                for axis, marks, pathway in dots:
                    points = _between(planes[before, pathway], planes[after, pathway], share)[chosen]
                    right = atlas[nearest].reconstructed[PATHWAYS.index(pathway)]
                    marks.set_offsets(points.numpy())
                    marks.set_array(right[chosen].float().numpy())
                    scale = planes[nearest, pathway].scale
                    axis.set_title(
                        f"{pathway}, epoch {nearest}, ±{1.6 * scale:.3g} across: reconstructs "
                        f"{100 * float(right.float().mean()):.1f} %", color=INK, loc="center",
                    )
                cursor.set_xdata([before + share * (after - before)] * 2)
                canvas.draw()  # type: ignore[no-untyped-call]
                pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
                yield Image.fromarray(pixels).convert("RGB")


def _between(before: Projection, after: Projection, share: float) -> torch.Tensor:
    return torch.lerp(before.points, after.points, share)

"""Truth tables drawn 3x3: rows are a, columns b, both in the order -1, 0, +1."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib.artist import Artist
from matplotlib.colors import ListedColormap
from torch import Tensor

from ternary_lab import space
from ternary_lab.figures.style import ENTRY, INK, WIDTH, panels, style
from ternary_lab.figures.training import Panels

COLUMNS = 5
"""Tables in a row."""


def truth_tables(tables: Mapping[str, Tensor], ax: Panels = None) -> list[Artist]:
    """Operations (9,) by title, each on axes of its own; an entry shows its value, so that colour is not needed.

    Raises InputError for what is no truth table.
    """
    count = len(tables)
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    artists: list[Artist] = []
    with style():
        # Rows are filled up with empty axes when they are ours; given axes are one per table.
        size = (rows, columns) if ax is None else (1, count)
        axes = panels(*size, rows * (WIDTH / COLUMNS + 0.25), ax)
        for axis in axes[count:]:
            axis.set_axis_off()
        for axis, (title, table) in zip(axes, tables.items(), strict=False):
            grid = space.check_operations(table).reshape(3, 3)
            artists.append(axis.imshow(grid.numpy(), cmap=ListedColormap(list(ENTRY.values())), vmin=-1, vmax=1))
            for i in range(3):
                for j in range(3):
                    text = f"{int(grid[i, j]):+d}".replace("+0", "0")
                    artists.append(axis.text(j, i, text, ha="center", va="center", color=INK))
            axis.set_xticks(range(3), ["-1", "0", "+1"])
            axis.set_yticks(range(3), ["-1", "0", "+1"])
            axis.tick_params(length=0)
            axis.grid(visible=False)
            axis.spines[:].set_visible(False)
            axis.set_title(title, fontsize=7, loc="center")
    return artists

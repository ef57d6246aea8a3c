"""Truth tables drawn 3x3 (rows are a, columns b, both in the order -1, 0, +1), and the orbits of the space."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
import torch
from matplotlib.artist import Artist
from matplotlib.colors import ListedColormap
from matplotlib.ticker import LogFormatter
from torch import Tensor

from ternary_lab import space, symmetry
from ternary_lab.figures.history import Panels
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import ENTRY, INK, PATHWAY, WIDTH, figure_of, panels, style

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


def named_tables(operations: Mapping[str, int]) -> Drawing:
    """The truth tables of operations given by name and index."""
    tables = space.operations(torch.tensor(list(operations.values())))
    artists = truth_tables(dict(zip(operations, tables, strict=True)))
    figure = figure_of(artists[0])
    rows = [
        {"name": name, "operation": index, **{f"entry_{k}": int(v) for k, v in enumerate(table)}}
        for (name, index), table in zip(operations.items(), tables, strict=True)
    ]
    alt = f"Truth tables, 3 by 3, rows the first argument and columns the second, of {', '.join(operations)}."
    return Drawing(figure, alt, pd.DataFrame(rows))


def orbit_sizes() -> Drawing:
    """How many orbits of each size every group of symmetries makes: a panel per group."""
    data = pd.concat([
        pd.DataFrame({"group": name, "size": symmetry.orbit_sizes(group).tolist()})
        for name, group in symmetry.GROUPS.items()
    ]).value_counts(["group", "size"], sort=False).rename("orbits").reset_index()
    with style():
        axes = panels(2, 3, 4.0)
        for axis, name in zip(axes, symmetry.GROUPS, strict=True):
            rows = data[data["group"] == name].sort_values("size")
            axis.bar(range(len(rows)), rows["orbits"], color=PATHWAY["A"])
            axis.set_xticks(range(len(rows)), rows["size"].astype(str), rotation=90 if len(rows) > 6 else 0)
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(LogFormatter())
            axis.set_title(f"{name}\n{rows['orbits'].sum():,} orbits")
        for axis in axes[3:]:
            axis.set_xlabel("operations in the orbit")
        for axis in axes[::3]:
            axis.set_ylabel("orbits")
    said = ", ".join(f"{name} {len(symmetry.orbit_sizes(group)):,}" for name, group in symmetry.GROUPS.items())
    figure = figure_of(axes[0])
    return Drawing(figure, f"Number of orbits by size, on a log scale, a panel per group of symmetries: {said}.", data)

"""Figures of truth tables, and of the sizes of orbits.

A truth table is drawn as a grid of 3 x 3 cells. The rows are the values of the first argument a, the columns are the
values of the second argument b, and both have the order -1, 0, +1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from textwrap import fill

import pandas as pd
import torch
from matplotlib.colors import ListedColormap, Normalize
from torch import Tensor

from ternary_lab import space, symmetry
from ternary_lab.figures.parts import heat_map, log_scale
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import ENTRY, INK, WIDTH, new_axes

COLUMNS = 5
"""Largest number of truth tables in a row of the figure."""
TITLE = 16
"""Largest number of characters in a line of a title. Longer titles are broken, so that neighbours do not overlap."""
SIGNS = {-1: "-1", 0: "0", 1: "+1"}
"""Text of each value of an entry."""


def truth_tables(tables: Mapping[str, Tensor]) -> Drawing:
    """Draw operations (9,) as truth tables, with an axis for each title. Long titles are broken into lines.

    Each cell contains its value as text, so that the figure can be read without colour. Raises InputError if a tensor
    is not a truth table.
    """
    operations = {title: space.check_operations(table) for title, table in tables.items()}
    rows = math.ceil(len(tables) / COLUMNS)
    titles = {title: "\n".join(fill(line, TITLE) for line in title.split("\n")) for title in tables}
    lines = max((title.count("\n") + 1 for title in titles.values()), default=1)
    with new_axes(rows, min(len(tables), COLUMNS), rows * (WIDTH / COLUMNS + 0.25 + 0.13 * lines)) as axes:
        for axis in axes[len(tables):]:
            axis.set_axis_off()
        for axis, (title, table) in zip(axes, operations.items(), strict=False):
            grid = pd.DataFrame(table.reshape(3, 3).int().numpy())
            heat_map(
                axis, grid, cmap=ListedColormap(list(ENTRY.values())), norm=Normalize(-1, 1), square=True,
                text=grid.map(SIGNS.get).to_numpy(), xticklabels=list(SIGNS.values()), yticklabels=list(SIGNS.values()),
            )
            axis.spines[:].set_visible(False)
            axis.set_title(titles[title], fontsize=7, loc="center")
            axis.set_xlabel("b", fontsize=7, labelpad=1)
            axis.set_ylabel("a", fontsize=7, labelpad=1, rotation=0, va="center")
    data = pd.DataFrame([
        {"name": title, "operation": int(space.index_of(table.unsqueeze(0))[0]),
         **{f"entry_{k}": int(value) for k, value in enumerate(table)}} for title, table in operations.items()
    ])
    shown = "; ".join(title.replace("\n", ", ") for title in tables)
    alt = f"Truth tables, 3 by 3, with a row for each value of a and a column for each value of b, show: {shown}."
    return Drawing.of(axes, alt, data)


def named_tables(operations: Mapping[str, int]) -> Drawing:
    """Draw the truth tables of operations, which are given as a dictionary from name to index."""
    tables = space.operations(torch.tensor(list(operations.values())))
    return truth_tables(dict(zip(operations, tables, strict=True)))


def orbits_by_size() -> Drawing:
    """Plot the number of orbits against their size, with a panel for each group of symmetries.

    An orbit is a set of operations that the symmetries of a group turn into each other.
    """
    data = pd.concat([
        pd.DataFrame({"group": name, "size": symmetry.orbit_sizes(group).tolist()})
        for name, group in symmetry.GROUPS.items()
    ]).value_counts(["group", "size"], sort=False).rename("orbits").reset_index()
    with new_axes(2, 3, 4.0) as axes:
        for axis, name in zip(axes, symmetry.GROUPS, strict=True):
            rows = data[data["group"] == name].sort_values("size")
            axis.plot(range(len(rows)), rows["orbits"], "o", color=INK)
            axis.set_xlim(-0.5, len(rows) - 0.5)
            axis.set_xticks(range(len(rows)), rows["size"].astype(str), rotation=90 if len(rows) > 6 else 0)
            log_scale(axis)
            axis.set_ylim(rows["orbits"].min() / 2, rows["orbits"].max() * 2)
            axis.set_title(f"{name}\n{rows['orbits'].sum():,} orbits")
        for axis in axes[3:]:
            axis.set_xlabel("operations in the orbit")
        for axis in axes[::3]:
            axis.set_ylabel("orbits")
    said = ", ".join(f"{name} {len(symmetry.orbit_sizes(group)):,}" for name, group in symmetry.GROUPS.items())
    alt = f"Six dot charts with a log scale show the number of orbits by size under groups of symmetries: {said}."
    return Drawing.of(axes, alt, data)

"""Figures of generalisation: parts of the split, leak, training sizes, structures, noise, paths, neighbourhoods."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, ScalarFormatter

from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PATHWAY,
    PURPLE,
    SKY,
    VERMILION,
    figure_of,
    panels,
    style,
)
from ternary_lab.studies.statistics import interval

PARTS = {"train": (INK, "-"), "validation": (GREEN, "--"), "test": (VERMILION, ":")}
WAYS = {"straight": "-", "spherical": "--"}


def band(axis: Axes, table: pd.DataFrame, x: str, y: str, **look: Any) -> None:
    """Median over seeds as a line, their range as a band."""
    groups = table.groupby(x)[y]
    middle = groups.median()
    (line,) = axis.plot(middle.index, middle, **look)
    axis.fill_between(middle.index, groups.min(), groups.max(), color=line.get_color(), alpha=0.18, linewidth=0)


def parts(table: pd.DataFrame) -> Drawing:
    """Reconstruction of the three parts of the split through the epochs: `generalisation.parts`."""
    n = table["seed"].nunique()
    with style():
        axes = panels(2, 2, 4.2, sharex=True)
        for row, (measure, label) in enumerate((("exact", "whole operations, %"), ("entries", "single entries, %"))):
            for axis, p in zip(axes[2 * row : 2 * row + 2], PATHWAY, strict=True):
                for part, (colour, line) in PARTS.items():
                    rows = table[(table["pathway"] == p) & (table["part"] == part)]
                    band(axis, rows, "epoch", measure, color=colour, linestyle=line, label=part)
                axis.set_title(f"pathway {p}: {label}")
        axes[1].legend(title=f"own code; median and range, n = {n}", loc="lower right")
        for axis in axes[2:]:
            axis.set_xlabel("epoch")
    last = table[table["epoch"] == table["epoch"].max()]
    lows = {p: table[table["pathway"] == p].groupby("epoch")["exact"].median() for p in PATHWAY}
    said = "; ".join(f"{p} is lowest at epoch {low.idxmin()}, {low.min():.3g} %" for p, low in lows.items())
    alt = (
        f"Exact reconstruction of train, validation and test through the epochs, {n} runs. "
        f"Median of all three parts: {said}; at epoch {last['epoch'].iloc[0]} {last['exact'].median():.4g} %."
    )
    return Drawing(figure_of(axes[0]), alt, table)


def mixing(table: pd.DataFrame) -> Drawing:
    """Reconstruction by the share ρ of the other pathway's code: `generalisation.mixing`, a line per epoch."""
    epochs = sorted(table["epoch"].unique())
    shades = [SKY, BLUE, PURPLE, INK, GREEN, ORANGE, VERMILION]
    with style():
        axes = panels(1, 2, 2.8, sharey=True)
        for axis, p in zip(axes, PATHWAY, strict=True):
            for epoch, colour in zip(epochs, shades, strict=False):
                rows = table[(table["pathway"] == p) & (table["epoch"] == epoch)]
                axis.plot(rows["rho"], rows["exact"], color=colour, marker="o", label=f"epoch {epoch}")
            axis.set_title(f"decoder {p}: exact reconstruction, test, %")
            axis.set_xlabel("ρ: share of the other pathway's code")
        figure_of(axes[0]).legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(epochs))
    wide = table[table["pathway"] == "A"].pivot(index="epoch", columns="rho", values="exact")
    said = "; ".join(
        f"epoch {e}: {float(row.iloc[0]):.3g} % from its own code, {row.max():.3g} % at best, ρ = {row.idxmax()}"
        for e, row in wide.iterrows()
    )
    return Drawing(figure_of(axes[0]), f"Reconstruction by the share of the other pathway's code. A at {said}.", table)


def sizes(table: pd.DataFrame) -> Drawing:
    """What is seen of the unseen by the share of the space trained on: `generalisation.sizes`, a dot per seed."""
    n = table.groupby("share")["seed"].nunique().min()
    measures = {
        "test": "whole operations, test, %", "entries": "single entries, test, %", "neg_elbo": "-ELBO, test, nats",
    }
    with style():
        axes = panels(1, 3, 2.7)
        for axis, (measure, label) in zip(axes, measures.items(), strict=True):
            for p, colour in PATHWAY.items():
                rows = table[table["pathway"] == p]
                line = rows.groupby("share")[measure].median()
                axis.plot(line.index, line, color=colour, label=f"pathway {p}")
                axis.scatter(rows["share"], rows[measure], s=10, color=colour, alpha=0.6, linewidth=0)
            axis.set_xscale("log")
            axis.set_xticks(sorted(table["share"].unique()))
            axis.xaxis.set_major_formatter(ScalarFormatter())
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_title(label)
            axis.set_xlabel("trained on, % of the space")
        axes[2].legend(title=f"median; a dot\nper seed, n ≥ {n}", loc="upper right")
    middle = table.groupby(["share", "pathway"])["test"].median().unstack()
    said = "; ".join(f"{share:g} %: {row['A']:.3g} / {row['B']:.3g} %" for share, row in middle.iterrows())
    alt = f"Reconstruction of operations not trained on, A / B, by the share of the space that was. Median at {said}."
    return Drawing(figure_of(axes[0]), alt, table)


def structures(table: pd.DataFrame) -> Drawing:
    """What was left out as a whole beside the random test split of the same run: `generalisation.structures`."""
    titles = list(dict.fromkeys(table["title"]))
    n = table["seed"].nunique()
    with style():
        axes = panels(1, 2, 1.9, sharey=True)
        for axis, p in zip(axes, PATHWAY, strict=True):
            for place, title in enumerate(titles[::-1]):
                rows = table[(table["pathway"] == p) & (table["title"] == title)]
                for offset, part, colour, label in ((0.13, "test", GREY, "random test split"),
                                                    (-0.13, "left_out", PATHWAY[p], "left out as a whole")):
                    axis.scatter(rows[part], [place + offset] * len(rows), s=14, color=colour, alpha=0.7, linewidth=0,
                                 label=label if place == 0 else None)
            axis.set_title(f"pathway {p}: whole operations, %")
            axis.set_xlim(-4, 104)
            axis.set_ylim(-0.6, len(titles) - 0.4)
            axis.legend(loc="lower left", title=f"a dot per seed, n = {n}")
        axes[0].set_yticks(range(len(titles)), titles[::-1])
    said = "; ".join(
        f"{title}: {format(interval(rows['left_out']), '.4g')} %, beside {format(interval(rows['test']), '.4g')} %"
        for title, rows in table.groupby("title", sort=False)
    )
    alt = f"Structures left out of training, mean of both pathways and {n} seeds: {said}."
    return Drawing(figure_of(axes[0]), alt, table)


def tolerance(table: pd.DataFrame) -> Drawing:
    """Reconstruction by the displacement of the code: `generalisation.tolerance`, a line per epoch."""
    epochs = sorted(table["epoch"].unique())
    with style():
        axes = panels(1, 2, 2.6, sharey=True)
        for axis, (p, colour) in zip(axes, PATHWAY.items(), strict=True):
            for epoch, line in zip(epochs, ("--", "-", ":"), strict=False):
                rows = table[(table["pathway"] == p) & (table["epoch"] == epoch)]
                band(axis, rows, "radius", "exact", color=colour, linestyle=line, label=f"epoch {epoch}")
            axis.axhline(50, color=GREY, linestyle=":", linewidth=0.9)
            axis.set_title(f"pathway {p}: exact reconstruction, test, %")
            axis.set_xlabel("displacement of the code, random direction")
        axes[0].legend(title=f"median and range, n = {table['seed'].nunique()}")
    at = table[table["radius"] == 1.0].groupby(["epoch", "pathway"])["exact"].median().unstack()
    said = "; ".join(f"epoch {e}: {row['A']:.3g} / {row['B']:.3g} %" for e, row in at.iterrows())
    alt = f"Reconstruction from displaced codes. At a displacement of 1, A / B: {said}."
    return Drawing(figure_of(axes[0]), alt, table)


def interpolation(table: pd.DataFrame) -> Drawing:
    """Paths between operations by the distance of their ends: `generalisation.interpolation`, trained runs only."""
    rows = table[table["model"] != "untrained"]
    measures = {
        "detour": "entries changed per entry\nin which the ends differ", "between": "share of steps on a\nshortest way",
        "largest_jump": "most entries changed\nin one step",
    }
    with style():
        axes = panels(1, 3, 2.8)
        for axis, (measure, label) in zip(axes, measures.items(), strict=True):
            for p, colour in PATHWAY.items():
                for way, line in WAYS.items():
                    some = rows[(rows["pathway"] == p) & (rows["way"] == way)]
                    middle = some.groupby("distance")[measure].median()
                    axis.plot(middle.index, middle, color=colour, linestyle=line, label=f"{p}, {way}")
            axis.set_title(label)
            axis.set_xlabel("entries in which the ends differ")
            axis.axhline(1, color=GREY, linestyle=":", linewidth=0.9)
        axes[0].set_ylim(bottom=0)
        axes[1].set_ylim(0, 1.05)
        axes[2].set_ylim(bottom=0)
        n = rows["seed"].nunique()
        figure_of(axes[0]).legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, title=f"median of {n} seeds"
        )
    means = rows.groupby("way")[["detour", "between"]].mean()
    said = "; ".join(f"{way}: detour {r['detour']:.3g}, on a shortest way {100 * r['between']:.3g} % of the steps"
                     for way, r in means.iterrows())
    alt = f"Paths in the latent space between operations. Mean over distances, {said}."
    return Drawing(figure_of(axes[0]), alt, table)


def neighbourhoods(table: pd.DataFrame) -> Drawing:
    """How neighbourhoods are kept, beside an untrained encoder: `generalisation.neighbourhoods`, a dot per seed."""
    measures = ("trustworthiness", "continuity", "shared")
    names = list(dict.fromkeys(table["model"]))
    with style():
        axes = panels(1, 3, 1.8, sharey=True)
        for axis, measure in zip(axes, measures, strict=True):
            for place, name in enumerate(names[::-1]):
                for offset, (p, colour) in zip((0.12, -0.12), PATHWAY.items(), strict=True):
                    rows = table[(table["model"] == name) & (table["pathway"] == p)]
                    axis.scatter(rows[measure], [place + offset] * len(rows), s=14, color=colour, alpha=0.7,
                                 linewidth=0, label=f"pathway {p}" if place == 0 else None)
            axis.set_title(measure if measure != "shared" else "18 nearest in common")
            axis.set_ylim(-0.6, len(names) - 0.4)
        axes[0].set_yticks(range(len(names)), names[::-1])
        axes[2].legend(loc="lower right")
        axes[2].set_xlim(0, 1)
    means = table.groupby("model")[list(measures)].mean()
    said = "; ".join(f"{name}: {', '.join(f'{m} {row[m]:.3g}' for m in measures)}" for name, row in means.iterrows())
    return Drawing(figure_of(axes[0]), f"Neighbourhoods kept, mean of both pathways and all seeds. {said}.", table)

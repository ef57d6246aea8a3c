"""Figures of generalisation: splits, mixed codes, training sizes, displaced codes, paths and neighbourhoods.

The code of an operation is the mean μ of its posterior.
"""

from __future__ import annotations

import math

import pandas as pd

from ternary_lab import space
from ternary_lab.figures.parts import band, dot_handles, dots, label_epochs, legend_below, reference
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import GREEN, GREY, INK, PATHWAY, PURPLE, SKY, new_axes
from ternary_lab.metrics.quantities import label
from ternary_lab.studies.generalisation.tables import NEAREST, PCA_9

PARTS = {"train": (INK, "-"), "validation": (GREEN, "--"), "test": (PURPLE, ":")}
SHADES = (SKY, GREEN, PURPLE, GREY, INK)
"""Colours of up to five epochs."""


def reconstruction_of_splits(table: pd.DataFrame) -> Drawing:
    """Plot the reconstruction of the training, validation and test split against the epoch.

    `table` comes from `tables.reconstruction_by_part`.
    """
    n = table["seed"].nunique()
    with new_axes(1, 2, 2.6, sharey=True) as axes:
        for axis, p in zip(axes, PATHWAY, strict=True):
            for part, (colour, line) in PARTS.items():
                rows = table[(table["pathway"] == p) & (table["part"] == part)]
                band(axis, rows, "epoch", "exact", color=colour, linestyle=line, label=part)
            axis.set_title(f"pathway {p}: exact reconstruction, own code, %")
        axes[1].legend(title=f"median and range, n = {n}", loc="lower right")
        label_epochs(axes)
    last = table[table["epoch"] == table["epoch"].max()]
    lows = {p: table[table["pathway"] == p].groupby("epoch")["exact"].median() for p in PATHWAY}
    said = "; ".join(f"in {p} it is lowest at epoch {low.idxmin()}, {low.min():.3g} %" for p, low in lows.items())
    alt = (
        f"Line charts show how many operations of the training, validation and test split are reconstructed exactly "
        f"through the epochs of {n} runs. Median of all three: {said}; at epoch "
        f"{last['epoch'].iloc[0]} it is {last['exact'].median():.4g} % over both pathways."
    )
    return Drawing.of(axes, alt, table)


def mixing(table: pd.DataFrame) -> Drawing:
    """Plot the reconstruction from mixed codes against the share ρ of the other pathway's code.

    Each line is an epoch. `table` comes from `tables.injected_reconstruction`.
    """
    epochs = sorted(table["epoch"].unique())
    with new_axes(1, 2, 2.8, sharey=True) as axes:
        for axis, p in zip(axes, PATHWAY, strict=True):
            for epoch, colour in zip(epochs, SHADES, strict=False):
                rows = table[(table["pathway"] == p) & (table["epoch"] == epoch)]
                band(axis, rows, "rho", "exact", color=colour, marker="o", label=f"epoch {epoch}")
            axis.set_title(f"decoder {p}: exact reconstruction, test, %")
            axis.set_xlabel("ρ: share of the other pathway's code")
        legend_below(axes, ncols=len(epochs))
    wide = table[table["pathway"] == "A"].pivot(index="epoch", columns="rho", values="exact")
    said = "; ".join(
        f"at epoch {e} it is {float(row.iloc[0]):.3g} % from its own code and at best {row.max():.3g} %, with "
        f"ρ = {row.idxmax()}" for e, row in wide.iterrows()
    )
    alt = f"Line charts show the reconstruction by the share of the other pathway's code. For decoder A, {said}."
    return Drawing.of(axes, alt, table)


def sizes(table: pd.DataFrame, trivial: pd.DataFrame) -> Drawing:
    """Plot test reconstruction and -ELBO against the size of the training set, beside methods that need no training.

    `table` comes from `tables.training_sizes`, and `trivial` from `tables.trivial_methods`. In the panel of -ELBO, the
    dashed line is uniform noise.
    """
    n = table.groupby("share")["seed"].nunique().min()
    measures = {"test": "whole operations, test, %", "entries": "single entries, test, %",
                "neg_elbo": label("neg_elbo", "test")}
    shares = sorted(table["share"].unique())
    lines = {PCA_9: "--", NEAREST: ":"}
    with new_axes(1, 3, 3.2) as axes:
        for axis, (measure, words) in zip(axes, measures.items(), strict=True):
            for p, colour in PATHWAY.items():
                rows = table[table["pathway"] == p]
                band(axis, rows, "share", measure, color=colour, errorbar=None, label=f"v5.5, pathway {p}")
                axis.scatter(rows["share"], rows[measure], s=10, color=colour, alpha=0.6, linewidth=0)
            axis.set_xscale("log")
            axis.set_xticks(shares, [f"{share:g}" for share in shares])
            axis.minorticks_off()
            axis.set_title(words)
            axis.set_xlabel("trained on, % of the space")
        for axis, measure in zip(axes, ("exact", "entries"), strict=False):
            for method, line in lines.items():
                rows = trivial[trivial["method"] == method]
                axis.plot(rows["share"], rows[measure], color=GREY, linestyle=line, label=method)
            axis.set_ylim(-4, 104)
        reference(axes[2], math.log(space.SIZE), "uniform noise", "-.")
        legend_below(axes, f"median, and a dot per seed, n ≥ {n}", ncols=3)
    middle = table.groupby(["share", "pathway"])["test"].median().unstack()
    said = "; ".join(f"{row['A']:.3g} / {row['B']:.3g} % after {share:g} %" for share, row in middle.iterrows())
    best = trivial[trivial["method"] == PCA_9]["exact"].min()
    alt = (
        "Three charts show the reconstruction of test operations and -ELBO by the share of the space that was trained "
        f"on. Median of whole operations reconstructed, pathway A / B: {said}. {PCA_9} and rounding: {best:.3g} % or "
        "more."
    )
    return Drawing.of(axes, alt, table)


def tolerance(table: pd.DataFrame) -> Drawing:
    """Plot the reconstruction against the length of a random displacement of the code.

    `table` comes from `tables.displaced_reconstruction`.
    """
    with new_axes(1, 1, 2.4) as (axis,):
        for p, colour in PATHWAY.items():
            band(axis, table[table["pathway"] == p], "radius", "exact", color=colour, label=f"pathway {p}")
        reference(axis, 50)
        axis.set_title("exact reconstruction, test split, %")
        axis.set_xlabel("length of the displacement of the code, in a random direction")
        axis.legend(title=f"median and range, n = {table['seed'].nunique()}")
    at = table[table["radius"] == 1.0].groupby("pathway")["exact"].median()
    alt = (
        "Line charts show the exact reconstruction from codes that are displaced in a random direction. After a "
        f"displacement of 1 it is {at['A']:.3g} / {at['B']:.3g} % in pathway A / B."
    )
    return Drawing.of([axis], alt, table)


def interpolation(table: pd.DataFrame) -> Drawing:
    """Plot the quality of latent paths between two operations against the distance between the operations.

    The distance is the number of entries in which the operations differ. Only trained runs are shown. `table` comes
    from `tables.path_qualities`.
    """
    rows = table[table["model"] != "untrained"]
    measures = {
        "detour": "entries changed per entry\nin which the ends differ", "between": "share of steps on a\nshortest way",
        "largest_jump": "most entries changed\nin one of 64 steps",
    }
    with new_axes(1, 3, 2.8) as axes:
        for axis, (measure, words) in zip(axes, measures.items(), strict=True):
            for p, colour in PATHWAY.items():
                for way, line in (("straight", "-"), ("spherical", "--")):
                    some = rows[(rows["pathway"] == p) & (rows["way"] == way)]
                    band(axis, some, "distance", measure, color=colour, linestyle=line, errorbar=None,
                         label=f"{p}, {way}")
            axis.set_title(words)
            axis.set_xlabel("entries in which the ends differ")
            reference(axis, 1)
            if measure == "between":
                axis.set_ylim(0, 1.05)
        reference(axes[0], 4 / 3, line="--")
        words = f"median of {rows['seed'].nunique()} seeds; dotted: best possible; dashed grey: 4/3"
        legend_below(axes, words, ncols=4)
    means = rows.groupby("way")[["detour", "between"]].mean()
    said = "; ".join(
        f"{way} paths change {r['detour']:.3g} entries for each entry in which the ends differ, and "
        f"{100 * r['between']:.3g} % of their steps lie on a shortest way" for way, r in means.iterrows()
    )
    alt = f"Line charts show paths in the latent space between operations. Mean over distances: {said}."
    return Drawing.of(axes, alt, table)


def neighbourhoods(table: pd.DataFrame) -> Drawing:
    """Plot how well encoders preserve the neighbourhoods of operations, trained encoders beside an untrained encoder.

    `table` comes from `tables.neighbourhood_preservation`.
    """
    titles = {"trustworthiness": "trustworthiness", "continuity": "continuity", "shared": "18 nearest in common"}
    with new_axes(1, 3, 1.8, sharey=True) as axes:
        for axis, (measure, title) in zip(axes, titles.items(), strict=True):
            dots(axis, table, measure, "model", hue="pathway", palette=PATHWAY)
            axis.set_title(title)
        axes[2].legend(handles=dot_handles(), loc="lower right")
        axes[2].set_xlim(0, 1)
    means = table.groupby("model")[list(titles)].mean()
    said = ". ".join(
        f"{str(name).capitalize()}: {', '.join(f'{title} {row[m]:.3g}' for m, title in titles.items())}"
        for name, row in means.iterrows()
    )
    alt = (
        "Dots show how well codes preserve the neighbourhoods of operations, mean of both pathways and all seeds. "
        f"{said}."
    )
    return Drawing.of(axes, alt, table)

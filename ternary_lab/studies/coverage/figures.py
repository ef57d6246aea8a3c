"""Figures of coverage: training's effect on counts, curves over draws, ways of counting, and models to compare."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ternary_lab import space
from ternary_lab.figures.history import both_pathways, run_count, shared_epochs
from ternary_lab.figures.parts import band, dot_handles, dots, label_epochs, legend_below, log_scale, mark, reference
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import GREEN, GREY, INK, PATHWAY, PURPLE, SKY, new_axes, plain
from ternary_lab.metrics.coverage import expected_coverage, uniform_coverage
from ternary_lab.metrics.evaluate import SAMPLES
from ternary_lab.metrics.quantities import QUANTITIES, label
from ternary_lab.studies.coverage.tables import COUNTED, NO_PATHWAY, count_error

LINES = ("-", "--", ":", "-.")
LEARNT = ("coverage", "informative_coverage", "effective_coverage", "neg_elbo")
"""Quantities of a history that are drawn side by side."""


def before_and_after(before: pd.DataFrame, after: pd.DataFrame, epoch: int) -> Drawing:
    """Plot two counts of operations and informative coverage, before and after training, with a dot for each seed.

    `before` comes from `tables.initial_networks` and `after` from `tables.trained_runs` at the epoch. Dashed lines are
    uniform noise. Black bars show the median ± 2 `tables.count_error`: the sampling error of one count is not larger.
    """
    names = ["before training", f"v5.5, epoch {epoch}"]
    table = pd.concat([before.assign(state=names[0]), after.assign(state=names[1])], ignore_index=True)
    noise = {name: uniform_coverage(n) for name, n in COUNTED.items()} | {"informative_coverage": 100 / space.SIZE}
    titles = [f"operations found\nin {n:,} draws, %" for n in COUNTED.values()] + ["informative coverage,\n% (log)"]
    with new_axes(1, 3, 2.0, sharey=True) as axes:
        for axis, (metric, value), title in zip(axes, noise.items(), titles, strict=True):
            dots(axis, table, metric, "state", hue="pathway", palette=PATHWAY)
            axis.axvline(value, color=GREY, linestyle="--", linewidth=0.9, zorder=1)
            axis.set_title(title)
            for pathway, offset in zip(PATHWAY, (-0.35, 0.35), strict=True) if metric in COUNTED else ():
                middle = after.loc[after["pathway"] == pathway, metric].median()
                axis.errorbar(middle, 1 + offset, xerr=2 * count_error(middle), color=INK, linewidth=1, capsize=2)
        log_scale(axes[2], "x")
        axes[2].set_xlim(0.003, 100)
        handles = [
            *dot_handles(), Line2D([], [], color=GREY, linestyle="--", label="uniform noise"),
            Line2D([], [], color=INK, linewidth=1, label="upper limit of ± 2 standard deviations of one count"),
        ]
        legend_below(axes, f"a dot per seed, n = {table['seed'].nunique()}", handles, ncols=2)
    medians = table.groupby(["state", "pathway"], sort=False)[list(noise)].median().reset_index()
    said = "; ".join(
        f"{row['state']}, pathway {row['pathway']}: {row['coverage_50000']:.1f} % in 50,000 draws, "
        f"{row['coverage_195000']:.2f} % in {SAMPLES:,} draws, informative coverage {row['informative_coverage']:.3g} %"
        for _, row in medians.iterrows()
    )
    return Drawing.of(axes, f"Dots show coverage before and after training. Medians of the seeds: {said}.", table)


def coverage_curves(outputs: Mapping[str, Tensor], marks: Sequence[int] = (50_000, 195_000)) -> Drawing:
    """Plot the expected coverage C(n) against the number n of draws, from 10³ to 10⁷.

    `outputs` maps names to output distributions (N,) over the operations. The uniform sampler is drawn as well.
    Vertical lines with labels mark the numbers of draws in `marks`.
    """
    draws = np.unique(np.logspace(3, 7, 81).round().astype(int))
    data = {"draws": draws, "uniform": [uniform_coverage(int(n)) for n in draws]}
    data |= {name: [float(expected_coverage(p, int(n))) for n in draws] for name, p in outputs.items()}
    table = pd.DataFrame(data)
    with new_axes(1, 2, 2.8) as (covered, missing):
        for i, name in enumerate(["uniform", *outputs]):
            colour = GREY if name == "uniform" else PATHWAY["B"] if name.endswith("B") else PATHWAY["A"]
            line, width = ("-", 2.4) if name == "uniform" else (LINES[(i - 1) // 2 % len(LINES)], 1.2)
            covered.plot(table["draws"], table[name], line, color=colour, linewidth=width, label=name)
            missing.plot(table["draws"], 100 - table[name], line, color=colour, linewidth=width)
        for axis in (covered, missing):
            for n in marks:
                mark(axis, n)
                axis.annotate(
                    f"{n:,}", (n, 0.02), (-2, 0), axis.get_xaxis_transform(), "offset points", rotation=90, ha="right",
                    va="bottom", color=GREY, size="small",
                )
            axis.set(xscale="log", xlabel="draws n")
        covered.set_title("expected coverage C(n), %")
        covered.legend()
        missing.set(yscale="log", ylim=(1e-3, 110), title="not covered, 100 % − C(n), % (log)")
        plain(missing)
    at = marks[-1]
    said = "; ".join(f"{name} {float(expected_coverage(p, at)):.2f} %" for name, p in outputs.items())
    alt = (
        f"Line charts show the expected coverage over the number of draws. After {at:,} draws a uniform sampler has "
        f"covered {uniform_coverage(at):.3f} %. The others have covered: {said}."
    )
    return Drawing.of([covered], alt, table)


def coverage_counts(probes: pd.DataFrame) -> Drawing:
    """Plot the coverage of the same weights, counted in four ways, against the epoch.

    The ways differ in the number and kind of draws. Lines and bands are the median and the range over runs.
    """
    ways = {
        "coverage_10000": ("10,000 categorical", PURPLE, "-"), "coverage_50000": ("50,000 categorical", GREEN, "-"),
        "coverage_argmax": ("50,000 by argmax", SKY, "--"), "coverage_195000": ("195,000 categorical", INK, "-"),
    }
    with new_axes(1, 2, 2.8, sharey=True) as axes:
        for axis, pathway in zip(axes, PATHWAY, strict=True):
            for way, (words, colour, line) in ways.items():
                band(axis, probes, "epoch", f"{way}_{pathway}", color=colour, label=words, linestyle=line)
            axis.set_title(f"pathway {pathway}: coverage, %")
        label_epochs(axes)
        legend_below(axes, f"draws; median and range, n = {probes['seed'].nunique()}", ncols=4)
    last = probes[probes["epoch"] == probes["epoch"].max()]
    said = ", ".join(f"{last[f'{way}_B'].median():.1f} % ({words})" for way, (words, *_) in ways.items())
    alt = (
        "Line charts show the coverage by the same weights, counted in four ways by number and kind of draws. In "
        f"pathway B at epoch {probes['epoch'].max()} the counts are {said}."
    )
    columns = ["seed", "epoch", *(f"{way}_{pathway}" for way in ways for pathway in PATHWAY)]
    return Drawing.of(axes, alt, probes[columns])


def coverage_scale(axis: Axes) -> None:
    """Give the y axis a scale of coverages in percent that is logarithmic in the distance from 100 %."""
    rest = 100.01  # 100 % would have no finite place on a scale that ends at 100
    axis.set_yscale("function", functions=(
        lambda coverage: -np.log10(rest - np.minimum(coverage, 100)), lambda place: rest - 10.0 ** -place,
    ))
    axis.set_ylim(0, 99.98)
    axis.set_yticks((0, 50, 80, 90, 95, 98, 99, 99.5, 99.9), ("0", "50", "80", "90", "95", "98", "99", "99.5", "99.9"))


def measures_by_epoch(history: pd.DataFrame) -> Drawing:
    """Plot sampled, informative and effective coverage and -ELBO against the epoch, side by side.

    The scale of sampled coverage separates values near 100 %.
    """
    shared = shared_epochs(history)
    with new_axes(2, 2, 4.0, sharex=True) as axes:
        for axis, quantity in zip(axes, LEARNT, strict=True):
            both_pathways(axis, shared, quantity)
            axis.set_title(label(quantity))
        coverage_scale(axes[0])
        axes[0].set_title(f"{label('coverage')}\n(log scale of 100 % − coverage)")
        axes[1].legend(title=run_count(shared), loc="upper left")
        log_scale(axes[3])
        axes[3].set_title(f"{label('neg_elbo')} (log)")
        label_epochs(axes[2:])
    last = shared[shared["epoch"] == shared["epoch"].max()]
    said = "; ".join(
        f"{QUANTITIES[q].words} {last[f'{q}_A'].median():.4g} / {last[f'{q}_B'].median():.4g} {QUANTITIES[q].unit}"
        for q in LEARNT
    )
    alt = (
        f"Line charts show four measures of both pathways through the epochs. At epoch {last['epoch'].iloc[0]} the "
        f"medians of {len(last)} runs, pathway A / B, are: {said}."
    )
    columns = ["seed", "epoch", *(f"{quantity}_{p}" for quantity in LEARNT for p in PATHWAY)]
    return Drawing.of(axes, alt, history[columns])


def output_entropies(table: pd.DataFrame) -> Drawing:
    """Plot the output entropy H(X) and the decoder noise H(X|Z) of one run against the epoch.

    `table` has the columns epoch, pathway, output_entropy and decoder_noise. Both entropies are in nats.
    """
    with new_axes(1, 2, 2.6, sharey=True) as axes:
        for axis, (pathway, colour) in zip(axes, PATHWAY.items(), strict=True):
            rows = table[table["pathway"] == pathway]
            axis.plot(rows["epoch"], rows["output_entropy"], color=colour, marker="o")
            axis.plot(rows["epoch"], rows["decoder_noise"], color=colour, marker="o", linestyle="--")
            axis.fill_between(
                rows["epoch"], rows["decoder_noise"], rows["output_entropy"], color=colour, alpha=0.15, linewidth=0,
            )
            reference(axis, np.log(space.SIZE))
            axis.set_title(f"pathway {pathway}, nats")
            axis.set_ylim(0, 11.5)
        label_epochs(axes)
        handles = [
            Line2D([], [], color=INK, label="H(X)"),
            Line2D([], [], color=INK, linestyle="--", label="H(X|Z)"),
            Patch(color=INK, alpha=0.15, linewidth=0, label="I(X;Z)"),
            Line2D([], [], color=GREY, linestyle=":", label="ln N"),
        ]
        legend_below(axes, handles=handles, ncols=4)
    last = table[table["epoch"] == table["epoch"].max()].set_index("pathway")
    said = "; ".join(
        f"in pathway {p} H(X) is {last.at[p, 'output_entropy']:.3f} and H(X|Z) {last.at[p, 'decoder_noise']:.3f} nats"
        for p in PATHWAY
    )
    alt = (
        "Line charts show the entropy H(X) of the output and the decoder noise H(X|Z) through the epochs; the area "
        f"between them is the information I(X;Z). At epoch {table['epoch'].max()}, {said}."
    )
    return Drawing.of(axes, alt, table)


def rival_scores(table: pd.DataFrame, best: Mapping[str, float]) -> Drawing:
    """Plot the scores of models, with a panel for each metric and a dotted line at the best possible value.

    `table` comes from `tables.rivals`. `best` maps each metric to its best possible value. Models without pathways have
    black diamonds. An infinite score, which is an estimate that failed, has no dot but the words "not estimable".
    """
    finite = table.replace(math.inf, math.nan)
    names = list(dict.fromkeys(table["model"]))
    single = finite[finite["pathway"] == NO_PATHWAY]
    places = [names.index(name) for name in single["model"]]
    with new_axes(2, 3, 4.4, sharey=True) as axes:
        for axis, (metric, value) in zip(axes, best.items(), strict=True):
            dots(axis, finite, metric, "model", hue="pathway", palette=PATHWAY)
            axis.scatter(single[metric], places, color=INK, marker="D", s=9, linewidth=0, alpha=0.65, clip_on=False)
            axis.axvline(value, color=GREEN, linestyle=":", linewidth=1.2)
            for model in dict.fromkeys(table.loc[np.isinf(table[metric]), "model"]):
                across = axis.get_yaxis_transform()
                axis.text(
                    0.5, names.index(model), "not estimable", transform=across, ha="center", va="center", size="small",
                )
            if metric == "missing_mass":
                axis.set_xscale("symlog", linthresh=0.01)
                axis.set_xticks((0, 0.01, 0.1), ("0", "0.01", "0.1"))
            elif metric == "neg_elbo":
                log_scale(axis, "x")
            else:
                axis.set_xlim(-4, 104)
                axis.xaxis.set_major_locator(MaxNLocator(nbins=5))
            scale = {"missing_mass": "\n(linear to 0.01, then log)", "neg_elbo": "\n(log)"}.get(metric, "")
            axis.set_title(label(metric) + scale)
        handles = [
            *dot_handles(), Line2D([], [], color=INK, marker="D", markersize=3, linestyle="", label="no pathways"),
            Line2D([], [], color=GREEN, linestyle=":", label="best possible"),
        ]
        legend_below(axes, handles=handles, ncols=4)
    signs = {metric: -1 if QUANTITIES[metric].better == "less" else 1 for metric in best}
    medians = table.groupby("model", sort=False)[list(best)].median()
    said = "; ".join(f"{label(m)}: {(sign * medians[m]).idxmax()}" for m, sign in signs.items())
    alt = (
        f"Dots show {table['model'].nunique()} models by {len(best)} metrics, with the best possible value as a dotted "
        f"line. The best of these models by each metric are: {said}."
    )
    return Drawing.of(axes, alt, table)

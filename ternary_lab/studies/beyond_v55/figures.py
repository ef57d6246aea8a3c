"""Figures of recipes: differences with intervals, coverage against -ELBO, measures by epoch, outputs of StateNet.

A recipe is a shipped configuration (see `tables`). The front is the best compromise between coverage and -ELBO. The
colours of the pathways A and B are never those of recipes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ternary_lab.figures.parts import band, dot_handles, dot_panels, label_epochs, legend_below, mark
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import GREEN, GREY, INK, PATHWAY, PURPLE, SKY, new_axes, plain
from ternary_lab.metrics.quantities import QUANTITIES, label
from ternary_lab.studies.beyond_v55.comparisons import BY_HAND, FRONT_BY_HAND, UNDECIDED
from ternary_lab.studies.beyond_v55.tables import BEYOND, RECIPES, REPAIRED, SHARPENED, V5_5
from ternary_lab.studies.statistics import interval

FARTHEST = 25.0
"""Limit of the axis of -ELBO, in nats. A model with a higher -ELBO is drawn at the edge."""
OUTPUTS = {"delta_lr": "learning rate", "delta_lambda1": "λ₁", "delta_lambda2": "λ₂", "delta_lambda3": "λ₃"}
"""Outputs of StateNet in a history, and what they correct."""
OF_DEFECTS = ("informative_coverage", "effective_coverage", "neg_elbo", "reconstruction_test", "spike", "wobble")
"""Measures by which the report compares recipes."""
OF_FRONT = ("v5.5", "repaired", "beyond", "one rate", "front")
"""Groups of recipes in the figure of the front."""
WEIGHTS = (0.25, 0.5, 1, 2, 2.5, 3, 4, 6, 8, 12, 20, 40)
"""Weights of the information term for which the front of an ideal decoder is computed."""
COLOURS = {V5_5: SKY, REPAIRED: GREEN, BEYOND: PURPLE}
"""Colours of recipes. The variants of beyond have the colour of beyond and other markers."""
MARKS = "osD^v"
BY_EPOCH = {
    "informative_coverage": "", "effective_coverage": "", "neg_elbo": "validation", "reconstruction": "validation",
}
"""Quantities that are drawn against the epoch, with the split on which each quantity is measured."""


def changes(differences: pd.DataFrame) -> Drawing:
    """Draw differences with their intervals: a panel per metric, a row per title, and the pathways side by side.

    A full dot marks a difference whose interval excludes 0.

    Args:
        differences: a table of `comparisons.recipe_differences`.
    """
    metrics, titles = (list(dict.fromkeys(differences[column])) for column in ("metric", "title"))
    with new_axes(1, len(metrics), 1.0 + 0.28 * len(titles), sharey=True) as axes:
        for axis, metric in zip(axes, metrics, strict=True):
            mark(axis, 0)
            for shift, (p, colour) in zip((-0.17, 0.17), PATHWAY.items(), strict=True):
                rows = differences[(differences["metric"] == metric) & (differences["pathway"] == p)]
                y = [titles.index(title) + shift for title in rows["title"]]
                axis.hlines(y, rows["low"], rows["high"], color=colour, linewidth=1.3)
                faces = [colour if decided != UNDECIDED else "white" for decided in rows["decided"]]
                axis.scatter(rows["mean"], y, s=16, c=faces, edgecolors=colour, linewidths=1, zorder=3)
            quantity = QUANTITIES[metric]
            axis.set_title(quantity.words)
            axis.set_xlabel("points" if quantity.unit == "%" else quantity.unit)
            axis.set_yticks(range(len(titles)), titles)
            axis.set_ylim(len(titles) - 0.5, -0.5)
        families = " and ".join(f"{count}" for count in dict.fromkeys(differences["comparisons"]))
        words = f"simultaneous 95 % intervals over {families} comparisons, n = {differences['n'].min()} seeds"
        legend_below(axes, f"mean difference; {words}\nfull dot: the interval excludes 0", dot_handles(), ncols=2)
    first = differences[differences["metric"] == metrics[0]]
    said = "; ".join(f"{x.title} ({x.pathway}) {x.mean:+.2g}, {x.decided}" for x in first.itertuples())
    alt = f"Dots show differences with intervals for {len(metrics)} metrics. {QUANTITIES[metrics[0]].words}: {said}."
    return Drawing.of(axes, alt, differences)


def recipe_comparison(table: pd.DataFrame, names: Sequence[str], measures: Sequence[str]) -> Drawing:
    """Draw a row for each recipe, with a dot for each run, and the mean with its 95 % interval."""
    titles = {name: RECIPES[name].title for name in names}
    rows = table[table["recipe"].isin(names)].assign(title=lambda rows: rows["recipe"].map(titles))
    rows = rows.sort_values("recipe", key=lambda column: column.map(list(names).index), kind="stable")
    with dot_panels(
        rows, {name: label(name.removesuffix("_test")) for name in measures}, "title", hue="pathway",
        palette=PATHWAY, interval=_ends,
    ) as axes:
        for axis, measure in zip(axes, measures, strict=True):
            if measure in ("n99", "spike") or measure.startswith("neg_"):
                axis.set_xscale("log")
                low, high = axis.get_xlim()
                plain(axis, "x")
                axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)) if high > 10 * low else MaxNLocator(3))
                axis.xaxis.set_minor_formatter(NullFormatter())
        n = rows.groupby("recipe")["seed"].nunique()
        seeds = f"{n.min()} to {n.max()}" if n.min() < n.max() else f"{n.min()}"
        legend_below(
            axes, f"a dot per run, {seeds} seeds; line: 95 % interval of the mean", dot_handles(), ncols=2,
        )
    first = QUANTITIES[measures[0]]
    means = rows.groupby(["recipe", "pathway"])[measures[0]].mean()
    said = "; ".join(f"{title} {means[name, 'A']:.3g} / {means[name, 'B']:.3g}" for name, title in titles.items())
    alt = (
        f"Dots compare {len(names)} recipes by {len(measures)} measures. The mean {first.words} of pathway A / B, in "
        f"{first.unit}, is: {said}."
    )
    return Drawing.of(axes, alt, rows[["recipe", "seed", "pathway", *measures]])


def _ends(values: Sequence[float]) -> tuple[float, float]:
    found = interval(values)
    return found.low, found.high


def coverage_front(table: pd.DataFrame, ideal: pd.DataFrame, names: Sequence[str]) -> Drawing:
    """Plot two coverages (rows) of both pathways (columns) against -ELBO.

    Better models lie further up and further left. `ideal` is the front of an ideal decoder (`ideal_front`). A line
    joins the variants of beyond that have one learning rate and different weights. If the table has rows of `BY_HAND`,
    a star shows them, and a line joins the rows of `FRONT_BY_HAND`.
    """
    marked = {name: RECIPES[name].title for name in names}
    measures = ("informative_coverage", "effective_coverage")
    shown = table[table["recipe"].isin([*marked, SHARPENED, BY_HAND, FRONT_BY_HAND])]
    with new_axes(2, 2, 5.4, sharex=True, sharey="row") as axes:
        for row, measure in enumerate(measures):
            for axis, p in zip(axes[2 * row : 2 * row + 2], PATHWAY, strict=True):
                own = table[table["pathway"] == p]
                _sharpened(axis, own, measure)
                if measure == "informative_coverage":
                    _ideal(axis, ideal, "ideal decoder, one\ndimension per entry")
                _marked(axis, own, measure, marked)
                line = own[own["recipe"] == FRONT_BY_HAND].sort_values("neg_elbo")
                axis.plot(line["neg_elbo"], line[measure], color=INK, marker=".", markersize=3, linewidth=0.9,
                          label="front set by hand")
                hand = own[own["recipe"] == BY_HAND]
                axis.scatter(hand["neg_elbo"], hand[measure], s=45, color=INK, marker="*", linewidth=0,
                             label="weights set by hand", clip_on=False, zorder=4)
                axis.set_title(f"pathway {p}: {label(measure)}")
                axis.set_xlim(11, FARTHEST)
            axes[2 * row].set_ylim(10 * (shown[measure].min() // 10), 102)
        for axis in axes[2:]:
            axis.set_xlabel(f"{label('neg_elbo', 'test')} (beyond {FARTHEST:g}: at the edge)")
        legend_below(axes, ncols=4)
    said = "; ".join(
        f"{title} has {rows['informative_coverage'].mean():.3g} % at {rows['neg_elbo'].mean():.3g} nats"
        for name, title in {**marked, BY_HAND: "the model with weights set by hand"}.items()
        if len(rows := shown[shown["recipe"] == name])
    )
    alt = f"Points show coverage against -ELBO. Informative coverage, mean of both pathways: {said}."
    return Drawing.of(axes, alt, shown[["recipe", "factor", "seed", "pathway", *measures, "neg_elbo"]])


def _ideal(axis: Axes, ideal: pd.DataFrame, words: str) -> None:
    axis.plot(ideal["neg_elbo"], ideal["informative_coverage"], color=INK, linewidth=0.9, linestyle=":", label=words)


def _sharpened(axis: Axes, own: pd.DataFrame, measure: str) -> None:
    by_factor = own[own["recipe"] == SHARPENED].groupby("factor")[[measure, "neg_elbo"]].mean()
    at = by_factor["neg_elbo"].clip(upper=FARTHEST)
    axis.plot(at, by_factor[measure], color=GREY, marker="x", linewidth=0.9, clip_on=False,
              label="v5.5, logits multiplied")
    for factor, x, y in zip(by_factor.index, at, by_factor[measure], strict=True):
        if factor in (1, by_factor.index.max()):
            axis.annotate(f"× {factor:g}", (x, y), xytext=(-4, 3), textcoords="offset points", ha="right",
                          fontsize=6.5, color=GREY)


def _marked(axis: Axes, own: pd.DataFrame, measure: str, marked: Mapping[str, str]) -> None:
    line = []
    for i, (name, title) in enumerate(marked.items()):
        rows = own[own["recipe"] == name]
        on_line = RECIPES[name].group in ("front", "one rate")
        colour = PURPLE if on_line else COLOURS.get(name, GREEN)
        x = rows["neg_elbo"].clip(upper=FARTHEST)
        axis.scatter(x, rows[measure], s=14, color=colour, marker=MARKS[i % len(MARKS)], alpha=0.6, linewidth=0,
                     label=title, clip_on=False)
        if on_line and len(rows):
            line.append((rows["neg_elbo"].mean(), rows[measure].mean()))
    if line:
        axis.plot(*zip(*sorted(line), strict=True), color=PURPLE, linewidth=0.9, zorder=1)


def search_trials(tried: pd.DataFrame, ideal: pd.DataFrame) -> Drawing:
    """Plot informative coverage against -ELBO for the trials before a recipe was chosen, with a panel for each pathway.

    The colour shows the kind of penalty on certainty beyond the margin. The marker shows the number of epochs.
    """
    colours = {"none": GREY, "linear": GREEN, "squared": PURPLE}
    marks = dict(zip(sorted(tried["epochs"].unique()), "v^o", strict=False))
    with new_axes(1, 2, 3.2, sharey=True) as axes:
        for axis, p in zip(axes, PATHWAY, strict=True):
            _ideal(axis, ideal, "ideal decoder")
            for (cost, epochs), rows in tried[tried["pathway"] == p].groupby(["certainty_cost", "epochs"]):
                axis.scatter(rows["neg_elbo"], rows["informative_coverage"], s=18, color=colours[str(cost)],
                             marker=marks[epochs], linewidth=0, alpha=0.8, clip_on=False)
            axis.set_title(f"pathway {p}")
            axis.set_xlabel(label("neg_elbo", "test"))
            axis.set_xlim(11, 21)
            axis.set_ylim(0, 103)
        axes[0].set_ylabel(label("informative_coverage"))
        handles = [axes[0].lines[0], *dot_handles({f"penalty: {cost}": colour for cost, colour in colours.items()})]
        handles += [Line2D([], [], color=INK, marker=mark, linestyle="", label=f"{epochs} epochs")
                    for epochs, mark in marks.items()]
        legend_below(axes, None, handles, ncols=4)
    best = tried.groupby("certainty_cost")["informative_coverage"].max()
    said = "; ".join(f"{best[cost]:.3g} % ({cost})" for cost in colours if cost in best)
    alt = (
        f"Points show the informative coverage of {len(tried)} trials against -ELBO. The highest coverage by the cost "
        f"of certainty is {said}."
    )
    return Drawing.of(axes, alt, tried)


def second_search_trials(tried: pd.DataFrame, ideal: pd.DataFrame) -> Drawing:
    """Plot informative coverage against -ELBO for the trials of `tables.load_second_search`, with a panel per pathway.

    The colour shows the number of posterior samples of each operation. The marker shows the batch size.
    """
    colours = {1: GREY, 4: PURPLE, 8: GREEN}
    marks = dict(zip(sorted(tried["batch_size"].unique()), "os^", strict=True))
    with new_axes(1, 2, 3.4, sharey=True) as axes:
        for axis, p in zip(axes, PATHWAY, strict=True):
            _ideal(axis, ideal, "ideal decoder")
            own = tried[(tried["pathway"] == p) & (tried["neg_elbo"] < 16)]
            for samples, colour in colours.items():
                for batch, marker in marks.items():
                    rows = own[(own["posterior_samples"] == samples) & (own["batch_size"] == batch)]
                    axis.scatter(rows["neg_elbo"], rows["informative_coverage"], s=11, color=colour, marker=marker,
                                 linewidth=0, alpha=0.6)
            axis.set_title(f"pathway {p}")
            axis.set_xlabel(label("neg_elbo"))
            axis.set_xlim(11.8, 16)
            axis.set_ylim(60, 100)
        axes[0].set_ylabel(label("informative_coverage"))
        words = {f"{samples} posterior sample{'s' * (samples > 1)}": colour for samples, colour in colours.items()}
        handles = [axes[0].lines[0], *dot_handles(words)]
        handles += [Line2D([], [], color=INK, marker=mark, linestyle="", label=f"batch of {batch}")
                    for batch, mark in marks.items()]
        legend_below(axes, None, handles, ncols=3)
    good = tried[tried["neg_elbo"] <= 13.2]
    best = good.groupby(["pathway", "posterior_samples"])["informative_coverage"].max()
    said = "; ".join(
        f"{p}, {samples} sample{'s' * (samples > 1)}: {best[p, samples]:.3g} %"
        for p in PATHWAY for samples in colours if (p, samples) in best
    )
    alt = (
        f"Points show the informative coverage of {len(tried)} trials against -ELBO. The highest coverage at a -ELBO "
        f"of at most 13.2 nats is {said}."
    )
    return Drawing.of(axes, alt, tried)


def recipes_by_epoch(histories: Mapping[str, pd.DataFrame]) -> Drawing:
    """Plot two coverages, -ELBO and reconstruction against the epoch.

    `histories` maps the title of each recipe to its history.
    """
    kept, colours = [], {RECIPES[name].title: colour for name, colour in COLOURS.items()}
    with new_axes(2, 2, 4.6, sharex=True) as axes:
        for axis, (metric, split) in zip(axes, BY_EPOCH.items(), strict=True):
            for title, history in histories.items():
                rows = history.assign(value=(history[f"{metric}_A"] + history[f"{metric}_B"]) / 2)
                band(axis, rows, "epoch", "value", color=colours.get(title, INK), label=title)
                kept.append(rows[["seed", "epoch", "value"]].assign(recipe=title, metric=metric))
                if rows["value"].isna().all():
                    axis.text(0.98, 0.04, f"{title}: not known from so few latents", transform=axis.transAxes,
                              ha="right", fontsize=7)
            axis.set_title(label(metric, split))
        axes[2].set_yscale("log")
        axes[2].set_ylim(12, 100)
        axes[2].set_yticks([], minor=True)
        axes[2].set_yticks([12, 15, 20, 30, 50, 100], [f"{tick}" for tick in (12, 15, 20, 30, 50, 100)])
        label_epochs(axes[2:])
        n = min(history["seed"].nunique() for history in histories.values())
        legend_below(axes, f"mean of both pathways; median and range over n = {n} seeds", ncols=4)
    said = []
    for title, history in histories.items():
        last = history[history["epoch"] == history["epoch"].max()]
        mean = (last["informative_coverage_A"].median() + last["informative_coverage_B"].median()) / 2
        said.append(f"{title} has {mean:.3g} % at epoch {int(last['epoch'].iloc[0])}")
    alt = f"Line charts show four measures through the epochs. Median informative coverage: {'; '.join(said)}."
    return Drawing.of(axes, alt, pd.concat(kept, ignore_index=True))


def statenet_decisions(taught: pd.DataFrame, drawn: pd.DataFrame) -> Drawing:
    """Plot the four outputs of StateNet against the epoch. An output of ±1 is the largest possible correction.

    `taught` is a history of runs in which StateNet learns. `drawn` is a history of runs in which StateNet keeps its
    initial weights.
    """
    nets = {"initial weights": (drawn, GREY), "learning": (taught, GREEN)}
    with new_axes(1, 4, 2.3, sharey=True) as axes:
        for axis, (column, control) in zip(axes, OUTPUTS.items(), strict=True):
            for name, (net, colour) in nets.items():
                band(axis, net, "epoch", column, color=colour, label=name)
            axis.set_title(f"for the {control}" if column == "delta_lr" else f"for {control}")
            axis.set_ylim(-1.05, 1.05)
        axes[0].set_ylabel("output of StateNet")
        label_epochs(axes, most=3)
        legend_below(axes, f"median and range over n = {taught['seed'].nunique()} seeds", ncols=2)
    late = taught[taught["epoch"] > taught["epoch"].max() - 20]
    said = ", ".join(f"{late[column].mean():+.2f} for {name}" for column, name in OUTPUTS.items())
    alt = f"Line charts show the four outputs of StateNet. If it learns, their mean over the last 20 epochs is {said}."
    rows = [net[["seed", "epoch", *OUTPUTS]].assign(net=name) for name, (net, _) in nets.items()]
    return Drawing.of(axes, alt, pd.concat(rows))

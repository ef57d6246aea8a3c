"""Figures of recipes: single defects, coverage against -ELBO, measures by epoch, outputs of StateNet.

A recipe is a shipped configuration (see `tables`). The front is the best compromise between coverage and -ELBO.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ternary_lab.figures.parts import band, dot_handles, dot_panels, label_epochs, legend_below
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import GREEN, GREY, INK, ORANGE, PATHWAY, PURPLE, SKY, VERMILION, new_axes, plain
from ternary_lab.metrics.quantities import QUANTITIES, label
from ternary_lab.studies.beyond_v55.tables import BEYOND, DRAWN, OFF, RECIPES, SHARPENED, TAUGHT, V5_5
from ternary_lab.studies.statistics import interval

FARTHEST = 25.0
"""Limit of the axis of -ELBO, in nats. A model with a higher -ELBO is drawn at the edge."""
OUTPUTS, CONTROLS = ("delta_lr", "delta_lambda1", "delta_lambda2", "delta_lambda3"), ("lr", "λ₁", "λ₂", "λ₃")
INPUTS = {"H_A": "H_A, nats", "kl_A": "KL_A, nats", "kl_B": "KL_B, nats", "grad_ratio": "r = n_B / n_A"}
"""Labels of the inputs of StateNet against which its outputs are drawn."""
OF_DEFECTS = ("informative_coverage", "effective_coverage", "neg_elbo", "reconstruction_test", "spike", "wobble")
OF_WORTH = ("informative_coverage", "effective_coverage", "neg_elbo")
"""Measures by which recipes are compared: `OF_DEFECTS` for single defects, `OF_WORTH` for components of a recipe."""
OF_FRONT, OF_PARTS = ("v5.5", "repaired", "beyond", "front"), ("beyond", "part")
"""Groups of recipes that two figures show.

`OF_FRONT` holds the groups in the figure of the front. `OF_PARTS` holds the recipe beyond and its variants that couple
the pathways or have only one pathway.
"""
OF_STATENET = {V5_5: (V5_5, OFF, TAUGHT[0]), BEYOND: (BEYOND, DRAWN, TAUGHT[1])}
"""Variants of v5.5 and of the recipe beyond; the recipe itself comes first.

One variant has no StateNet, one has a StateNet that keeps its initial weights, and one has a StateNet that learns.
"""
WEIGHTS = (0.25, 0.5, 1, 2, 2.5, 3, 4, 6, 8, 12, 20, 40)
"""Weights of the information term for which the front of an ideal decoder is computed."""
SHADES = (SKY, ORANGE, GREEN, PURPLE)
MARKS = "osD^v"
OFF_LINE = (SKY, GREEN, PURPLE)
"""Colours of recipes that the line of the front does not join."""
BY_EPOCH = {
    "informative_coverage": "", "effective_coverage": "", "neg_elbo": "validation", "reconstruction": "validation",
}
"""Quantities that are drawn against the epoch, with the split on which each quantity is measured."""


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
            axes, f"a dot per run, {seeds} seeds; line: 95 % interval of the mean\n{_to_beat(table)}".strip(),
            dot_handles(), ncols=2,
        )
    first = QUANTITIES[measures[0]]
    means = rows.groupby(["recipe", "pathway"])[measures[0]].mean()
    said = "; ".join(f"{title} {means[name, 'A']:.3g} / {means[name, 'B']:.3g}" for name, title in titles.items())
    alt = (
        f"Dots compare {len(names)} recipes by {len(measures)} measures. The mean {first.words} of pathway A / B, in "
        f"{first.unit}, is: {said}. {_to_beat(table)}"
    ).strip()
    return Drawing.of(axes, alt, rows[["recipe", "seed", "pathway", *measures]])


def _ends(values: Sequence[float]) -> tuple[float, float]:
    found = interval(values)
    return found.low, found.high


def _to_beat(table: pd.DataFrame) -> str:
    """Return a sentence on v5.5 with sharpened logits, or an empty text if the table has no such rows.

    The logits are multiplied by the factor that gives the highest informative coverage.
    """
    rows = table[table["recipe"] == SHARPENED]
    if rows.empty:
        return ""
    factor, rows = _covering_most(rows)
    means = rows.groupby("pathway")[["informative_coverage", "neg_elbo"]].mean()
    coverage, bound = (" / ".join(f"{means[name][p]:.3g}" for p in PATHWAY) for name in means)
    return f"To beat is v5.5 with logits × {factor:g}: informative coverage {coverage} %, -ELBO {bound} nats."


def _covering_most(sharpened: pd.DataFrame) -> tuple[float, pd.DataFrame]:
    """Return the factor on the logits with the highest informative coverage, and the rows with this factor."""
    factor = float(sharpened.groupby("factor")["informative_coverage"].mean().idxmax())  # type: ignore[arg-type]
    return factor, sharpened[sharpened["factor"] == factor]


def coverage_front(table: pd.DataFrame, ideal: pd.DataFrame, names: Sequence[str]) -> Drawing:
    """Plot two coverages (rows) of both pathways (columns) against -ELBO.

    Better models lie further up and further left. `ideal` is the front of an ideal decoder (`ideal_front`). A line
    joins the recipes on the front.
    """
    marked = {name: RECIPES[name].title for name in names}
    measures = ("informative_coverage", "effective_coverage")
    shown = table[table["recipe"].isin([*marked, SHARPENED])]
    with new_axes(2, 2, 5.4, sharex=True, sharey="row") as axes:
        for row, measure in enumerate(measures):
            for axis, p in zip(axes[2 * row : 2 * row + 2], PATHWAY, strict=True):
                own = table[table["pathway"] == p]
                _sharpened(axis, own, measure)
                if measure == "informative_coverage":
                    _ideal(axis, ideal, "ideal decoder, one\ndimension per entry")
                _marked(axis, own, measure, marked)
                axis.set_title(f"pathway {p}: {label(measure)}")
                axis.set_xlim(11, FARTHEST)
            axes[2 * row].set_ylim(10 * (shown[measure].min() // 10), 102)
        for axis in axes[2:]:
            axis.set_xlabel(f"{label('neg_elbo', 'test')} (beyond {FARTHEST:g}: at the edge)")
        legend_below(axes, ncols=4)
    said = "; ".join(
        f"{title} has {rows['informative_coverage'].mean():.3g} % at {rows['neg_elbo'].mean():.3g} nats"
        for name, title in marked.items() if len(rows := shown[shown["recipe"] == name])
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
        on_line = RECIPES[name].group in ("front", "beyond")
        colour = VERMILION if RECIPES[name].group == "beyond" else ORANGE if on_line else OFF_LINE[i % len(OFF_LINE)]
        x = rows["neg_elbo"].clip(upper=FARTHEST)
        axis.scatter(x, rows[measure], s=14, color=colour, marker=MARKS[i % len(MARKS)], alpha=0.6, linewidth=0,
                     label=title, clip_on=False)
        if on_line and len(rows):
            line.append((rows["neg_elbo"].mean(), rows[measure].mean()))
    if line:
        axis.plot(*zip(*sorted(line), strict=True), color=ORANGE, linewidth=0.9, zorder=1)


def search_trials(tried: pd.DataFrame, ideal: pd.DataFrame, table: pd.DataFrame) -> Drawing:
    """Plot informative coverage against -ELBO for the trials before a recipe was chosen, with a panel for each pathway.

    The colour shows the kind of penalty on certainty beyond the margin. The marker shows the number of epochs.
    """
    colours = {"none": GREY, "linear": SKY, "squared": VERMILION}
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
        handles = [axes[0].lines[0], *dot_handles({f"certainty: {cost}": colour for cost, colour in colours.items()})]
        handles += [Line2D([], [], color=INK, marker=mark, linestyle="", label=f"{epochs} epochs")
                    for epochs, mark in marks.items()]
        legend_below(axes, _to_beat(table), handles, ncols=4)
    best = tried.groupby("certainty_cost")["informative_coverage"].max()
    said = "; ".join(f"{best[cost]:.3g} % ({cost})" for cost in colours if cost in best)
    alt = (
        f"Points show the informative coverage of {len(tried)} trials against -ELBO. The highest coverage by the cost "
        f"of certainty is {said}."
    )
    return Drawing.of(axes, alt, tried)


def recipes_by_epoch(histories: Mapping[str, pd.DataFrame], sharpened: pd.DataFrame) -> Drawing:
    """Plot two coverages, -ELBO and reconstruction against the epoch.

    `histories` maps the title of each recipe to its history. `sharpened` holds the rows of v5.5 with multiplied logits.
    A dotted line shows the coverage of v5.5 with the best factor on its logits.
    """
    factor, best = _covering_most(sharpened)
    at = best[[*OF_WORTH]].mean()
    kept = []
    with new_axes(2, 2, 4.6, sharex=True) as axes:
        for axis, (metric, split) in zip(axes, BY_EPOCH.items(), strict=True):
            for colour, (title, history) in zip((GREY, SKY, VERMILION, PURPLE), histories.items(), strict=False):
                rows = history.assign(value=(history[f"{metric}_A"] + history[f"{metric}_B"]) / 2)
                band(axis, rows, "epoch", "value", color=colour, label=title)
                kept.append(rows[["seed", "epoch", "value"]].assign(recipe=title, metric=metric))
                if rows["value"].isna().all():
                    axis.text(0.98, 0.04, f"{title}: not known from so few latents", transform=axis.transAxes,
                              ha="right", fontsize=7)
            if not split:
                bound = f"v5.5, logits × {factor:g} (-ELBO {at['neg_elbo']:.3g})"
                axis.axhline(float(at[metric]), color=INK, linestyle=":", linewidth=0.9, label=bound)
            axis.set_title(label(metric, split))
        axes[2].set_yscale("log")
        axes[2].set_ylim(10, 100)
        plain(axes[2])
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


def statenet_decisions(taught: pd.DataFrame, drawn: pd.DataFrame | None = None) -> Drawing:
    """Plot the four outputs of StateNet against the epoch, and the outputs of the taught StateNet against its inputs.

    `taught` is a history of runs in which StateNet learns. `drawn` is a history of runs in which StateNet keeps its
    initial weights.
    """
    nets = {"as drawn": (drawn, GREY), "taught": (taught, VERMILION)}
    known = {name: (net, colour) for name, (net, colour) in nets.items() if net is not None}
    with new_axes(2, 4, 4.2) as axes:
        for axis, column, control in zip(axes, OUTPUTS, CONTROLS, strict=False):
            for name, (net, colour) in known.items():
                band(axis, net, "epoch", column, color=colour, label=name)
            axis.set_title(f"Δ of {control}")
        label_epochs(axes[:4], most=3)
        for axis, (column, words) in zip(axes[4:], INPUTS.items(), strict=True):
            for shade, output in zip(SHADES, OUTPUTS, strict=True):
                axis.scatter(taught[column], taught[output], s=2, color=shade, alpha=0.4, linewidth=0)
            axis.set_xlabel(words)
            if column.startswith("kl"):
                axis.set_xscale("log")
        for i, axis in enumerate(axes):
            axis.set_ylim(-1.05, 1.05)
            axis.tick_params(labelleft=i % 4 == 0)
        axes[4].set_ylabel("Δ, taught")
        shades = dot_handles({f"Δ of {control}": shade for control, shade in zip(CONTROLS, SHADES, strict=True)})
        legend_below(
            axes, f"median and range, n = {taught['seed'].nunique()}; below: a dot per run and epoch",
            [*axes[0].get_legend_handles_labels()[0], *shades], ncols=6,
        )
    late = taught[taught["epoch"] > taught["epoch"].max() - 20]
    said = ", ".join(f"{late[column].mean():+.2f} for {name}" for column, name in zip(OUTPUTS, CONTROLS, strict=True))
    alt = f"Charts show the decisions by StateNet. When taught, their mean over the last 20 epochs is {said}."
    rows = [net[["seed", "epoch", *OUTPUTS, *INPUTS]].assign(net=name) for name, (net, _) in known.items()]
    return Drawing.of(axes, alt, pd.concat(rows))

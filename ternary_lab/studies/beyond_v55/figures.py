"""Figures of recipes: effects of single defects, the front, what happens through the epochs, StateNet's decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullFormatter

from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import (
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
    plain,
    style,
)
from ternary_lab.studies.beyond_v55.tables import BEYOND, DRAWN, MEASURES, OFF, RECIPES, SHARPENED, TAUGHT, V5_5
from ternary_lab.studies.generalisation.figures import band
from ternary_lab.studies.statistics import interval

FARTHEST = 25.0
"""Nats of -ELBO beyond which a model is drawn at the edge."""
OUTPUTS, CONTROLS = ("delta_lr", "delta_lambda1", "delta_lambda2", "delta_lambda3"), ("lr", "λ₁", "λ₂", "λ₃")
INPUTS = {"H_A": "H_A, nats", "kl_A": "KL_A, nats", "kl_B": "KL_B, nats", "grad_ratio": "r = n_B / n_A"}
"""Inputs of StateNet that its decisions are drawn against."""
OF_DEFECTS = ("informative_coverage", "effective_coverage", "neg_elbo", "reconstruction_test", "spike", "wobble")
OF_WORTH = ("informative_coverage", "effective_coverage", "neg_elbo")
"""Measures that defects, and parts of a recipe, are compared by."""
OF_FRONT, OF_PARTS = ("v5.5", "repaired", "beyond", "front"), ("beyond", "part")
"""Recipes on the front, and those that couple the pathways of beyond or make one of them, by group."""
OF_STATENET = {V5_5: (V5_5, OFF, TAUGHT[0]), BEYOND: (BEYOND, DRAWN, TAUGHT[1])}
"""Recipes without StateNet, with it as drawn and with one that learns, by what they vary."""
WEIGHTS = (0.25, 0.5, 1, 2, 2.5, 3, 4, 6, 8, 12, 20, 40)
"""Weights of the information that the ideal front is drawn at."""
SHADES = (SKY, ORANGE, GREEN, PURPLE)
MARKS = "osD^v"
OFF_LINE = (SKY, GREEN, PURPLE)
"""Of recipes that are not on the front."""
EPOCHS = {
    "informative_coverage": "informative coverage, %", "effective_coverage": "effective coverage, %",
    "neg_elbo": "-ELBO, validation, nats", "reconstruction": "reconstruction, validation, %",
}


def compared(table: pd.DataFrame, names: Sequence[str], measures: Sequence[str], height: float = 0) -> Drawing:
    """The recipes one below the other: every run as a dot, and the mean with its 95 % interval."""
    rows = table[table["recipe"].isin(names)]
    columns = 3
    count = -(-len(measures) // columns)
    with style():
        axes = panels(count, columns, height or 0.5 + count * (0.55 + 0.2 * len(names)), sharey=True)
        for axis, measure in zip(axes, measures, strict=False):
            for place, name in enumerate(names[::-1]):
                for offset, (p, colour) in zip((0.17, -0.17), PATHWAY.items(), strict=True):
                    values = rows.loc[(rows["recipe"] == name) & (rows["pathway"] == p), measure]
                    y = place + offset
                    axis.scatter(values, [y] * len(values), s=9, color=colour, alpha=0.35, linewidth=0)
                    found = interval(values)
                    axis.errorbar(found.mean, y, xerr=[[found.mean - found.low], [found.high - found.mean]],
                                  fmt="|", color=colour, markersize=7, elinewidth=1.4,
                                  label=f"pathway {p}" if place == 0 else None)
            axis.set_title(MEASURES[measure].replace(", test", "").replace(" coverage", ""))
            if measure in ("n99", "spike") or measure.startswith("neg_"):
                axis.set_xscale("log")
                low, high = axis.get_xlim()
                _plain_x(axis, LogLocator(subs=(1, 3)) if high > 10 * low else MaxNLocator(3))
        for axis in axes[len(measures):]:
            axis.remove()
        axes[0].set_yticks(range(len(names)), [RECIPES[name].title for name in names[::-1]])
        axes[0].set_ylim(-0.6, len(names) - 0.4)
        n = rows.groupby("recipe")["seed"].nunique()
        seeds = f"{n.min()} to {n.max()}" if n.min() < n.max() else f"{n.min()}"
        figure_of(axes[0]).legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2,
            title=f"a dot per run, {seeds} seeds; line: 95 % interval of the mean{_to_beat(table)}",
        )
    first = measures[0]
    means = {key: float(values.mean()) for key, values in rows.groupby(["recipe", "pathway"])[first]}
    said = "; ".join(f"{RECIPES[name].title} {means[name, 'A']:.3g} / {means[name, 'B']:.3g}" for name in names)
    alt = f"{len(names)} recipes by {len(measures)} measures. {MEASURES[first]}, mean, A / B: {said}.{_to_beat(table)}"
    return Drawing(figure_of(axes[0]), alt, rows[["recipe", "seed", "pathway", *measures]])


def _to_beat(table: pd.DataFrame) -> str:
    """A line on v5.5 with its logits multiplied so that most is covered, where it was measured: the baseline."""
    rows = table[table["recipe"] == SHARPENED]
    if rows.empty:
        return ""
    factor, rows = _covering_most(rows)
    means = rows.groupby("pathway")[["informative_coverage", "neg_elbo"]].mean()
    coverage, bound = (" / ".join(f"{means[name][p]:.3g}" for p in PATHWAY) for name in means)
    return f"\nto beat: v5.5, logits × {factor:g}, informative {coverage} % at a -ELBO of {bound} nats"


def _covering_most(sharpened: pd.DataFrame) -> tuple[float, pd.DataFrame]:
    """The factor on the logits by which most is covered, and its rows."""
    factor = float(sharpened.groupby("factor")["informative_coverage"].mean().idxmax())  # type: ignore[arg-type]
    return factor, sharpened[sharpened["factor"] == factor]


def front(table: pd.DataFrame, ideal: pd.DataFrame, names: Sequence[str]) -> Drawing:
    """Coverages against -ELBO, a panel per pathway: up and to the left is better.

    `ideal` is that of an ideal decoder (`metrics.per_entry`). Of the recipes named, those of the front are joined.
    """
    marked = {name: RECIPES[name].title for name in names}
    measures = ("informative_coverage", "effective_coverage")
    shown = table[table["recipe"].isin([*marked, SHARPENED])]
    with style():
        axes = panels(2, 2, 5.4, sharex=True, sharey="row")
        for row, measure in enumerate(measures):
            for axis, p in zip(axes[2 * row : 2 * row + 2], PATHWAY, strict=True):
                own = table[table["pathway"] == p]
                _sharpened(axis, own, measure)
                if measure == "informative_coverage":
                    axis.plot(ideal["neg_elbo"], ideal[measure], color=INK, linewidth=0.9, linestyle=":",
                              label="ideal decoder, one\ndimension per entry")
                _marked(axis, own, measure, marked)
                axis.set_title(f"pathway {p}: {measure.replace('_', ' ')}, %")
                axis.set_xlim(11, FARTHEST)
            axes[2 * row].set_ylim(10 * (shown[measure].min() // 10), 102)
        for axis in axes[2:]:
            axis.set_xlabel(f"-ELBO, test, nats (beyond {FARTHEST:g}: at the edge)")
        figure_of(axes[0]).legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    said = "; ".join(
        f"{label} {rows['informative_coverage'].mean():.3g} % at {rows['neg_elbo'].mean():.3g} nats"
        for name, label in marked.items() if len(rows := shown[shown["recipe"] == name])
    )
    alt = f"Coverage against -ELBO. Informative coverage, mean of both pathways: {said}."
    return Drawing(figure_of(axes[0]), alt, shown[["recipe", "factor", "seed", "pathway", *measures, "neg_elbo"]])


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
    for i, (name, label) in enumerate(marked.items()):
        rows = own[own["recipe"] == name]
        on_line = RECIPES[name].group in ("front", "beyond")
        colour = VERMILION if RECIPES[name].group == "beyond" else ORANGE if on_line else OFF_LINE[i % len(OFF_LINE)]
        x = rows["neg_elbo"].clip(upper=FARTHEST)
        axis.scatter(x, rows[measure], s=14, color=colour, marker=MARKS[i % len(MARKS)], alpha=0.6, linewidth=0,
                     label=label, clip_on=False)
        if on_line and len(rows):
            line.append((rows["neg_elbo"].mean(), rows[measure].mean()))
    if line:
        axis.plot(*zip(*sorted(line), strict=True), color=ORANGE, linewidth=0.9, zorder=1)


def searched(tried: pd.DataFrame, ideal: pd.DataFrame, table: pd.DataFrame) -> Drawing:
    """What was tried before a recipe was chosen: informative coverage against -ELBO, a panel per pathway.

    Colours tell how certainty beyond the margin is charged, marks how many epochs were trained.
    """
    colours = {"none": GREY, "linear": SKY, "squared": VERMILION}
    marks = dict(zip(sorted(tried["epochs"].unique()), "v^o", strict=False))
    with style():
        axes = panels(1, 2, 3.2, sharey=True)
        for axis, p in zip(axes, PATHWAY, strict=True):
            axis.plot(ideal["neg_elbo"], ideal["informative_coverage"], color=INK, linewidth=0.9, linestyle=":",
                      label="ideal decoder")
            for cost, colour in colours.items():
                for epochs, mark in marks.items():
                    rows = tried[(tried["pathway"] == p) & (tried["certainty_cost"] == cost)
                                 & (tried["epochs"] == epochs)]
                    axis.scatter(rows["neg_elbo"], rows["informative_coverage"], s=18, color=colour, marker=mark,
                                 linewidth=0, alpha=0.8, clip_on=False)
            axis.set_title(f"pathway {p}")
            axis.set_xlabel("-ELBO, test, nats")
            axis.set_xlim(11, 21)
            axis.set_ylim(0, 103)
        axes[0].set_ylabel("informative coverage, %")
        handles = [axes[0].lines[0]]
        handles += [Line2D([], [], color=colour, marker="o", linestyle="", label=f"certainty: {cost}")
                    for cost, colour in colours.items()]
        handles += [Line2D([], [], color=INK, marker=mark, linestyle="", label=f"{epochs} epochs")
                    for epochs, mark in marks.items()]
        figure_of(axes[0]).legend(handles=handles, loc="outside lower center", ncols=4, title=_to_beat(table).strip())
    best = tried.groupby("certainty_cost")["informative_coverage"].max()
    said = "; ".join(f"{cost} {best[cost]:.3g} %" for cost in colours if cost in best)
    alt = f"{len(tried)} trials: coverage against -ELBO. Highest informative coverage by cost of certainty: {said}."
    return Drawing(figure_of(axes[0]), alt, tried)


def epochs(histories: Mapping[str, pd.DataFrame], sharpened: pd.DataFrame) -> Drawing:
    """What is wanted, epoch by epoch: histories by title, and v5.5 sharpened (rows of the table) as a line."""
    factor, best = _covering_most(sharpened)
    at = best[["informative_coverage", "effective_coverage", "neg_elbo"]].mean()
    lines = {"informative_coverage": "informative_coverage", "effective_coverage": "effective_coverage"}
    colours = (GREY, SKY, VERMILION, PURPLE)
    kept = []
    with style():
        axes = panels(2, 2, 4.6, sharex=True)
        for axis, (metric, label) in zip(axes, EPOCHS.items(), strict=True):
            for colour, (title, history) in zip(colours, histories.items(), strict=False):
                rows = history.assign(value=(history[f"{metric}_A"] + history[f"{metric}_B"]) / 2)
                band(axis, rows, "epoch", "value", color=colour, label=title)
                kept.append(rows[["seed", "epoch", "value"]].assign(recipe=title, metric=metric))
                if rows["value"].isna().all():
                    axis.text(0.98, 0.04, f"{title}: not known from so few latents", transform=axis.transAxes,
                              ha="right", fontsize=7)
            if metric in lines:
                axis.axhline(float(at[lines[metric]]), color=INK, linestyle=":", linewidth=0.9,
                             label=f"v5.5, logits × {factor:g} (-ELBO {at['neg_elbo']:.3g})")
            axis.set_title(label)
        axes[2].set_yscale("log")
        axes[2].set_ylim(10, 100)
        plain(axes[2])
        for axis in axes[2:]:
            axis.set_xlabel("epoch")
        n = min(history["seed"].nunique() for history in histories.values())
        figure_of(axes[0]).legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4,
            title=f"mean of both pathways; median and range over n = {n} seeds",
        )
    said = []
    for title, history in histories.items():
        last = history[history["epoch"] == history["epoch"].max()]
        mean = (last["informative_coverage_A"].median() + last["informative_coverage_B"].median()) / 2
        said.append(f"{title} {mean:.3g} % at epoch {int(last['epoch'].iloc[0])}")
    alt = f"Four measures through the epochs. Informative coverage, median: {'; '.join(said)}."
    return Drawing(figure_of(axes[0]), alt, pd.concat(kept, ignore_index=True))


def decisions(taught: pd.DataFrame, drawn: pd.DataFrame | None = None) -> Drawing:
    """StateNet's four outputs through the epochs, taught and as drawn, and the taught ones against its inputs."""
    with style():
        axes = panels(2, 4, 4.2)
        for axis, column, name in zip(axes, OUTPUTS, CONTROLS, strict=False):
            if drawn is not None:
                band(axis, drawn, "epoch", column, color=GREY, label="as drawn")
            band(axis, taught, "epoch", column, color=VERMILION, label="taught")
            axis.set_title(f"Δ of {name}")
            axis.set_ylim(-1.05, 1.05)
            axis.set_xlabel("epoch")
        for axis, (column, label) in zip(axes[4:], INPUTS.items(), strict=True):
            for shade, output, name in zip(SHADES, OUTPUTS, CONTROLS, strict=True):
                axis.scatter(taught[column], taught[output], s=2, color=shade, alpha=0.4, linewidth=0, label=name)
            axis.set_xlabel(label)
            axis.set_ylim(-1.05, 1.05)
            if column.startswith("kl"):
                axis.set_xscale("log")
        axes[4].set_ylabel("Δ, taught")
        for axis in (*axes[1:4], *axes[5:]):
            axis.set_yticklabels([])
        handles, labels = axes[0].get_legend_handles_labels()
        more, names = axes[4].get_legend_handles_labels()
        legend = figure_of(axes[0]).legend(
            [*handles, *more], [*labels, *(f"Δ of {name}" for name in names)], loc="outside lower center", ncols=6,
            title=f"median and range, n = {taught['seed'].nunique()}; below: a dot per run and epoch",
        )
        for handle in legend.legend_handles[len(handles):]:
            if handle is not None:
                handle.set(alpha=1, sizes=[16])
    late = taught[taught["epoch"] > taught["epoch"].max() - 20]
    said = ", ".join(f"{name} {late[column].mean():+.2f}" for column, name in zip(OUTPUTS, CONTROLS, strict=True))
    alt = f"StateNet's decisions. Taught, mean of the last 20 epochs: {said}."
    nets = {"drawn": drawn, "taught": taught}
    rows = [net[["seed", "epoch", *OUTPUTS, *INPUTS]].assign(net=name) for name, net in nets.items() if net is not None]
    return Drawing(figure_of(axes[0]), alt, pd.concat(rows))


def _plain_x(axis: Axes, locator: Locator) -> None:
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())

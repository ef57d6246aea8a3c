"""Figures of the choice of a checkpoint, and of ensembles, likelihood, calibration and alternative models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from ternary_lab import history, space
from ternary_lab.config import Config
from ternary_lab.figures.history import both_pathways
from ternary_lab.figures.parts import (
    band,
    dot_handles,
    dot_panels,
    dots,
    label_epochs,
    legend_below,
    log_scale,
    mark,
    reference,
)
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import (
    GREEN,
    GREY,
    INK,
    PATHWAY,
    PURPLE,
    SKY,
    figure_of,
    new_axes,
    style,
)
from ternary_lab.metrics.quantities import QUANTITIES, label
from ternary_lab.studies.checkpoints_and_ensembles.choices import CRITERIA, OUTCOMES
from ternary_lab.studies.checkpoints_and_ensembles.tables import EQUAL, best_member

MARKS = {"val_loss": ("o", INK), "val_elbo": ("s", SKY), "coverage": ("^", PURPLE),
         "informative_coverage": ("D", GREEN), "reconstruction": ("v", INK)}
"""Marker and colour of each criterion."""
FEWEST = 50
"""Smallest number of predictions in a bin that is drawn."""
FARTHEST = 30.0
"""Limit of the axis of -ELBO, in nats. A model with a higher -ELBO is drawn at the edge, as an arrow."""
SHORT = {
    "validation loss as scheduled": "validation loss", "sampled coverage": "sampled cov.",
    "informative coverage": "informative cov.", "validation reconstruction": "reconstruction",
}
"""Short names of criteria, for a narrow panel."""
MEASURES = (
    "informative_coverage", "effective_coverage", "reconstruction_test", "neg_elbo", "neg_log_p", "missing_mass",
)
"""Columns by which alternative models are compared in a figure."""


def _title(measure: str) -> str:
    """Return the words and the unit of a column, with the split on which the column is measured."""
    if measure in ("test", "reconstruction_test"):
        return label("reconstruction", "test")
    return label(measure, "test" if measure in ("neg_elbo", "neg_iwae", "neg_log_p") else "")


def answer(choices: pd.DataFrame, measures: pd.DataFrame, rivals: pd.DataFrame) -> Drawing:
    """Plot the primary outcomes of three questions, with a dot for each seed.

    The panels show -ELBO at the epoch that each rule chooses, minus -ELBO at the epoch of the best validation ELBO; the
    exact reconstruction from posterior samples by checkpoints alone and together; and the informative coverage of
    β-VAEs minus that of v5.5's pathway with the same decoder. The arguments are tables of `choices.chosen_epochs`,
    `tables.ensemble_measures` and `tables.load_alternatives`.
    """
    base = choices[choices["rule"] == CRITERIA["val_elbo"]].set_index("seed")["neg_elbo"]
    costs = choices[choices["rule"] != CRITERIA["val_elbo"]]
    costs = pd.DataFrame({"panel": "epoch", "row": costs["rule"].replace(SHORT), "seed": costs["seed"],
                          "value": costs["neg_elbo"] - costs["seed"].map(base)})
    read = measures.dropna(subset="noisy")
    read = read[~read["member"].str.contains("pathway|best")]
    read = pd.DataFrame({"panel": "reading", "row": read["member"].str.replace(", ", " × ").str.replace(" samples", ""),
                         "seed": read["seed"], "value": read["noisy"]})
    read["row"] = read["row"].replace({EQUAL: "all four together"})
    parts = []
    for pathway in PATHWAY:
        ours = rivals[rivals["model"] == f"v5_5_{pathway}"].set_index("seed")["informative_coverage"]
        theirs = rivals[rivals["model"] == f"beta_vae_{pathway}"]
        rows = f"{pathway}, β = " + theirs["beta"].map("{:g}".format)
        parts.append(pd.DataFrame({"panel": "model", "row": rows, "seed": theirs["seed"],
                                   "value": theirs["informative_coverage"] - theirs["seed"].map(ours)}))
    table = pd.concat([costs, read, *parts], ignore_index=True)
    titles = {
        "epoch": ("choice of the epoch", "-ELBO, test, nats, above\nthat by validation ELBO"),
        "reading": ("reading together", "exact from posterior\nsamples, test, %"),
        "model": ("β-VAE minus v5.5", "informative coverage,\npoints"),
    }
    with new_axes(1, 3, 2.9) as axes:
        for axis, (panel, (title, words)) in zip(axes, titles.items(), strict=True):
            shown = table[table["panel"] == panel]
            dots(axis, shown, "value", "row")
            axis.set_title(title)
            axis.set_xlabel(f"{words}, n = {shown['seed'].nunique()}")
            if panel != "reading":
                axis.axvline(0, color=GREY, linestyle=":", linewidth=0.9, zorder=1)
        axes[0].set_xscale("symlog", linthresh=1)
        axes[0].xaxis.set_major_formatter("{x:g}")
        axes[0].set_xticks([0, 1, 30, 1000])
        axes[0].set_xlim(left=-0.3)
    middle = table.groupby(["panel", "row"], sort=False)["value"].median()
    said = [
        f"{words} {', '.join(f'{value:.3g} ({row})' for row, value in middle[panel].items())}"
        for panel, words in {
            "epoch": "-ELBO differs from that of the best validation ELBO, in nats, by",
            "reading": "The percentage of exact reconstructions is", "model": "Informative coverage differs by",
        }.items()
    ]
    return Drawing.of(axes, f"Dots show three comparisons, medians of the seeds. {'. '.join(said)}.", table)


def checkpoint_scores(scores: pd.DataFrame, last: int | None = None) -> Drawing:
    """Plot the outcomes against the epoch, with a mark at the epoch that each criterion chooses in each run.

    `last` is the last epoch that is shown and may be chosen; by default, the last epoch of the table.
    """
    rows = scores if last is None else scores[scores["epoch"] <= last]
    n = rows["seed"].nunique()
    chosen: pd.DataFrame = pd.concat([
        run[run["epoch"] == history.best_epoch(run, criterion)].assign(criterion=criterion)  # type: ignore[arg-type]
        for criterion in MARKS for _, run in rows.groupby("seed")
    ])
    with new_axes(2, 3, 4.4, sharex=True) as axes:
        for axis, outcome in zip(axes, OUTCOMES, strict=True):
            band(axis, rows, "epoch", outcome, color=GREY)
            for criterion, (marker, colour) in MARKS.items():
                some = chosen[chosen["criterion"] == criterion]
                axis.scatter(some["epoch"], some[outcome], s=16, marker=marker, color=colour, alpha=0.85, zorder=3,
                             label=CRITERIA[criterion])
            axis.set_title(_title(outcome))
            if outcome in ("neg_elbo", "neg_iwae"):
                log_scale(axis)
        label_epochs(axes[3:])
        legend_below(
            axes, f"the epoch that a criterion chooses; line and band: median and range, n = {n}", ncols=3
        )
    said = "; ".join(
        f"{', '.join(map(str, chosen.loc[chosen['criterion'] == criterion, 'epoch']))} by {CRITERIA[criterion]}"
        for criterion in MARKS
    )
    alt = f"Line charts show six outcomes through the epochs, with marks at the chosen epochs. These are {said}."
    return Drawing.of(axes, alt, rows[["seed", "epoch", *OUTCOMES, "val_loss", "val_elbo"]])


def checkpoint_regrets(table: pd.DataFrame) -> Drawing:
    """Plot how far each rule for choosing an epoch falls short of the run's best epoch, with a dot for each seed.

    `table` comes from `choices.regret`. Where a criterion and an outcome are the same measurement, there are no dots.
    """
    titles = {outcome: _title(outcome).replace(", %", ", points") for outcome in OUTCOMES}
    rules = list(dict.fromkeys(table["rule"]))
    with dot_panels(table, titles, "rule", height=4.6) as axes:
        for axis, outcome in zip(axes, OUTCOMES, strict=True):
            axis.set_xscale("symlog", linthresh=1)
            axis.set_xlim(left=-0.1)
            axis.xaxis.set_major_formatter("{x:g}")
            for rule in table.loc[table[outcome].isna(), "rule"].unique():
                axis.text(0.02, rules.index(rule), "same measurement", transform=axis.get_yaxis_transform(), fontsize=6,
                          color=GREY, va="center")
        figure_of(axes[0]).supxlabel(
            f"short of the run's best epoch by (a dot per seed, n = {table['seed'].nunique()}; 0 is best)", fontsize=8
        )
    middle = table.groupby("rule")["neg_elbo"].median().sort_values()
    said = ", ".join(f"{value:.3g} ({rule})" for rule, value in middle.items())
    alt = (
        "Dots show how much of six outcomes is lost by each rule of choosing an epoch. The median loss of -ELBO on the "
        f"test split, in nats, is {said}."
    )
    return Drawing.of(axes, alt, table)


def full_training(history: pd.DataFrame, probes: pd.DataFrame, config: Config) -> Drawing:
    """Plot coverage, reconstruction, -ELBO, ρ and τ over all planned epochs.

    Dashed lines show the reconstruction from injected codes, which `probes` contain for some epochs. Dotted lines mark
    the epochs at which phases can begin.
    """
    n, starts = history["seed"].nunique(), config.phases
    titles = {
        "coverage": label("coverage"), "informative_coverage": label("informative_coverage"),
        "reconstruction": "reconstruction, %; dashed: injected", "neg_elbo": label("neg_elbo", "validation"),
        "rho": "permeability ρ", "temperature": "temperature τ",
    }
    with new_axes(3, 2, 5.4, sharex=True) as axes:
        for axis, (metric, title) in zip(axes, titles.items(), strict=True):
            if metric == "rho":
                band(axis, history, "epoch", metric, color=INK)
            else:
                both_pathways(axis, history, metric)
            if metric == "reconstruction":
                for p, colour in PATHWAY.items():
                    band(axis, probes, "epoch", f"injected_{p}", color=colour, linestyle="--")
            axis.set_title(title)
            for epoch in (starts.consolidation, starts.convergence, starts.final):
                mark(axis, epoch)
        axes[0].set_ylim(60, 101)
        axes[0].legend(title=f"median and range, n = {n}", loc="lower right")
        log_scale(axes[3])
        label_epochs(axes[4:], "epoch; dotted: phases 2, 3 and 4 can begin")
    shown = [starts.convergence - 1, starts.final, int(history["epoch"].max())]
    at = history[history["epoch"].isin(shown)].groupby("epoch").median(numeric_only=True)
    said = "; ".join(
        f"at epoch {e} reconstruction is {r['reconstruction_A']:.3g} / {r['reconstruction_B']:.3g} % and "
        f"-ELBO {r['neg_elbo_A']:.3g} / {r['neg_elbo_B']:.3g} nats" for e, r in at.iterrows()
    )
    injected = probes[probes["epoch"] == probes["epoch"].max()][["injected_A", "injected_B"]].median()
    alt = (
        f"Line charts show all {int(history['epoch'].max()) + 1} planned epochs of {n} runs. Medians of pathway A / B: "
        f"{said}. From injected codes, reconstruction at epoch {probes['epoch'].max()} is {injected['injected_A']:.3g} "
        f"/ {injected['injected_B']:.3g} %."
    )
    names = [f"{metric}_{p}" for metric in titles if metric != "rho" for p in PATHWAY]
    return Drawing.of(axes, alt, history[["seed", "epoch", "phase", "rho", *names]])


def checkpoint_ensembles(measures: pd.DataFrame) -> Drawing:
    """Compare single checkpoints as generators with mixtures of these checkpoints, with a dot for each seed.

    `measures` comes from `tables.ensemble_measures`.
    """
    titles = {name: _title(name) for name in ("informative_coverage", "effective_coverage", "neg_iwae")}
    table = measures.dropna(subset=list(titles))
    return _compared(table.replace({"member": {best_member(): "best member"}}), "member", titles, "generators")


def pathway_ensembles(table: pd.DataFrame) -> Drawing:
    """Plot the reconstruction by both pathways together against the epoch, with a panel for each kind of code.

    The codes are posterior means and posterior samples. `table` comes from `tables.pathway_ensembles`.
    """
    looks = {"A": ("A alone", PATHWAY["A"], "-"), "B": ("B alone", PATHWAY["B"], "-"),
             "A twice": ("A twice", PATHWAY["A"], "--"), "B twice": ("B twice", PATHWAY["B"], "--"),
             "vote": ("vote", GREEN, "-"), "mean": ("mean", PURPLE, "-."), "confidence": ("confidence", INK, ":"),
             "best of": ("best of both (oracle)", GREY, "-")}
    with new_axes(1, 2, 2.8, sharey=True) as axes:
        for axis, (code, origin) in zip(axes, {"μ": "z = μ", "sample": "one posterior sample"}.items(), strict=True):
            for rule, (words, colour, line) in looks.items():
                rows = table[(table["code"] == code) & (table["rule"] == rule)]
                band(axis, rows, "epoch", "exact", color=colour, linestyle=line, label=words)
            axis.set_title(f"test exact, %, from {origin}")
        label_epochs(axes)
        seeds = table["seed"].unique()
        legend_below(axes, f"one run, seed {seeds[0]}" if len(seeds) == 1 else f"n = {len(seeds)}", ncols=4)
    last = table[(table["epoch"] == table["epoch"].max()) & (table["code"] == "sample")].groupby("rule")["exact"].mean()
    said = ", ".join(f"{value:.3g} % ({rule})" for rule, value in last.items())
    alt = (
        "Line charts show the exact reconstruction when both pathways decode together. At epoch "
        f"{table['epoch'].max()}, from one posterior sample, the rules reach {said}."
    )
    return Drawing.of(axes, alt, table)


def rate_and_distortion(probes: pd.DataFrame, first: int = 50, marks: Sequence[int] = (50, 60, 70, 80, 100)) -> Drawing:
    """Plot the distortion (cross-entropy CE) against the rate (KL) on the test split, with the bound CE ≥ ln N - KL.

    Each point is a checkpoint of a run from the epoch `first` on; the line joins the medians of the runs. N is the
    number of operations. `marks` are the epochs whose numbers are written beside the line.
    """
    shown = probes[probes["epoch"] >= first]
    with new_axes(1, 2, 3.0, sharex=True, sharey=True) as axes:
        for axis, (p, colour) in zip(axes, PATHWAY.items(), strict=True):
            names = [f"rate_{p}", f"distortion_{p}"]
            axis.scatter(shown[names[0]], shown[names[1]], s=7, color=colour, alpha=0.35, linewidth=0)
            middle = shown.groupby("epoch")[names].median()
            axis.plot(middle[names[0]], middle[names[1]], color=colour, linewidth=0.8)
            for epoch in marks:
                if epoch in middle.index:
                    axis.annotate(
                        str(epoch), tuple(middle.loc[epoch]), xytext=(7, 7), textcoords="offset points", fontsize=7,
                        arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2},
                    )
            rate = np.linspace(6, np.log(space.SIZE), 60)
            axis.plot(rate, np.log(space.SIZE) - rate, color=GREEN, linestyle="--", label="bound: ln N - KL")
            axis.set_ylim(bottom=-0.1)
            axis.set_title(f"pathway {p}: distortion (CE), nats")
            axis.set_xlabel("rate (KL), nats; numbers: epochs; line: median")
        axes[1].legend(loc="upper right")
    last = shown[shown["epoch"] == shown["epoch"].max()]
    said = "; ".join(
        f"in pathway {p} the rate is {last[f'rate_{p}'].median():.3g} and the distortion "
        f"{last[f'distortion_{p}'].median():.3g} nats" for p in PATHWAY
    )
    columns = ["seed", "epoch", *(f"{name}_{p}" for name in ("rate", "distortion") for p in PATHWAY)]
    alt = (
        f"Points show rate and distortion of the checkpoints from epoch {first} on, above a bound that no model can "
        f"cross. At epoch {shown['epoch'].max()}, median of the runs, {said}."
    )
    return Drawing.of(axes, alt, shown[columns])


def calibration(table: pd.DataFrame) -> Drawing:
    """Plot the accuracy of single entries against the confidence of the decoder, with a panel for each pathway.

    Lines and bands are the median and the range over the runs. A bin is drawn if each run has at least `FEWEST`
    predictions in it. `table` comes from `tables.reliabilities` and has two epochs.
    """
    epochs = sorted(table["epoch"].unique())
    filled = table.groupby(["epoch", "pathway", "bin"])["count"].transform("min") >= FEWEST
    shown = table[filled].assign(bin=table.groupby(["epoch", "pathway", "bin"])["confidence"].transform("median"))
    with new_axes(1, 2, 2.8, sharey=True) as axes:
        for axis, (p, colour) in zip(axes, PATHWAY.items(), strict=True):
            for epoch, line in zip(epochs, ("--", "-"), strict=True):
                rows = shown[(shown["pathway"] == p) & (shown["epoch"] == epoch)]
                band(axis, rows, "bin", "accuracy", color=colour, linestyle=line, marker="o")
            axis.plot([1 / 3, 1], [1 / 3, 1], color=GREY, linestyle=":", linewidth=0.9)
            axis.set_title(f"pathway {p}: accuracy of an entry")
            axis.set_xlabel("confidence of the decoder")
        note = f"test split, one posterior sample; median and range, n = {table['seed'].nunique()}"
        words = (*(f"epoch {epoch}" for epoch in epochs), "calibrated")
        lines: dict[str, Any] = dict(zip(words, ("--", "-", ":"), strict=True))
        handles = [Line2D([], [], color=GREY, linestyle=line, label=name) for name, line in lines.items()]
        legend_below(axes, note, handles, ncols=len(handles))
    gap = (table["confidence"] - table["accuracy"]) * table["count"]
    gaps = table.assign(gap=gap).groupby(["epoch", "pathway"])
    bias = 100 * (gaps["gap"].sum() / gaps["count"].sum()).unstack()
    said = "; ".join(f"{row['A']:.2g} / {row['B']:.2g} points at epoch {epoch}" for epoch, row in bias.iterrows())
    alt = (
        "Line charts show the accuracy of the decoders by their confidence. In pathway A / B the confidence exceeds "
        f"the accuracy by {said}."
    )
    return Drawing.of(axes, alt, table)


def operation_bounds(table: pd.DataFrame) -> Drawing:
    """Plot -ELBO and -IWAE of single operations against the number of zeros in the truth table.

    `table` comes from `tables.operation_bounds`.
    """
    with new_axes(1, 2, 2.7, sharey=True) as axes:
        for axis, (p, colour) in zip(axes, PATHWAY.items(), strict=True):
            rows = table[table["pathway"] == p]
            for measure, line, words in (("neg_elbo", "-", "-ELBO"), ("neg_iwae", "--", "-IWAE, 64 samples")):
                band(axis, rows, "zeros", measure, color=colour, linestyle=line, marker="o", label=words,
                     errorbar=("pi", 90))
            reference(axis, np.log(space.SIZE), "ln N")
            axis.set_title(f"pathway {p}: nats")
        label_epochs(axes, "zeros in the truth table", most=9)
        axes[0].set_ylim(bottom=8)
        legend_below(axes[:1], "median, 5 % and 95 % of operations, one run", ncols=3, handlelength=3)
    bounds = {p: table[table["pathway"] == p]["neg_iwae"] for p in PATHWAY}
    said = "; ".join(
        f"in pathway {p} the median is {bound.median():.3g} and 90 % lie between {bound.quantile(0.05):.3g} and "
        f"{bound.quantile(0.95):.3g}" for p, bound in bounds.items()
    )
    alt = (
        "Line charts show likelihood bounds of single operations of the test split by their number of zeros. For "
        f"-IWAE, in nats, {said}."
    )
    return Drawing.of(axes, alt, table)


def alternative_models(table: pd.DataFrame) -> Drawing:
    """Compare v5.5 with simpler models, with a dot for each seed.

    `table` comes from `alternatives.benchmark` and includes rows of v5.5. Models with a -ELBO above `FARTHEST` are
    drawn as arrows at the edge.
    """
    far = table["neg_elbo"] > FARTHEST
    titles = {measure: _title(measure) for measure in MEASURES}
    near = table.assign(neg_elbo=table["neg_elbo"].mask(far))
    drawing = _compared(near, "title", titles, "models of about equal size")
    with style():
        arrows = table.assign(neg_elbo=table["neg_elbo"].where(far).clip(upper=FARTHEST))
        axis = drawing.figure.axes[MEASURES.index("neg_elbo")]
        dots(axis, arrows, "neg_elbo", "title", marker=">", size=4)
    return Drawing(drawing.figure, drawing.alt, table)


def _compared(table: pd.DataFrame, by: str, titles: Mapping[str, str], words: str) -> Drawing:
    """Draw a panel for each measure, a row for each group of `by`, and a dot for each seed.

    If the table has a column `pathway`, the dots have the colours of the pathways.
    """
    colours: dict[str, Any] = {"hue": "pathway", "palette": PATHWAY} if "pathway" in table else {}
    note = f"a dot per seed, n = {table.groupby(by)['seed'].nunique().min()}"
    with dot_panels(table, titles, by, columns=3 if len(titles) > 4 else len(titles), **colours) as axes:
        if colours:
            legend_below(axes, note, dot_handles(), ncols=2)
        else:
            figure_of(axes[0]).supxlabel(note, fontsize=8)
    means = table.groupby(by, sort=False)[next(iter(titles))].mean().dropna()
    said = "; ".join(f"{value:.3g} ({name})" for name, value in means.items())
    first = QUANTITIES[next(iter(titles))]
    alt = f"Dots compare {words}. The mean {first.words} over seeds, in {first.unit}, is: {said}."
    return Drawing.of(axes, alt, table)

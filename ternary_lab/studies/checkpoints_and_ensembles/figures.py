"""Figures of the choice of a checkpoint: scores, regrets, ensembles, rate and distortion, calibration, alternatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.ticker import LogFormatter, MaxNLocator, NullFormatter

from ternary_lab import history, space
from ternary_lab.config import Config
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PATHWAY,
    PURPLE,
    VERMILION,
    figure_of,
    panels,
    style,
)
from ternary_lab.studies.checkpoints_and_ensembles.tables import CRITERIA, OUTCOMES
from ternary_lab.studies.generalisation.figures import band

MARKS = {"val_loss": ("o", VERMILION), "val_elbo": ("s", BLUE), "coverage": ("^", PURPLE),
         "informative_coverage": ("D", GREEN), "reconstruction": ("v", ORANGE)}
FEWEST = 50
"""Predictions below which a bin is not drawn."""
FARTHEST = 30.0
"""Nats above which a model is drawn at the edge, as an arrow."""
MEASURES = {
    "informative_coverage": "informative, %", "effective_coverage": "effective, %",
    "reconstruction_test": "test exact, %",
    "neg_elbo": "-ELBO, nats", "neg_log_p": "-ln p, test, nats", "missing_mass": "KL(U‖p), nats",
}


def scores(scores: pd.DataFrame, last: int | None = None) -> Drawing:
    """The outcomes through the epochs, and where each criterion would stop: a mark per run on the run's own line."""
    rows = scores if last is None else scores[scores["epoch"] <= last]
    n = rows["seed"].nunique()
    with style():
        axes = panels(2, 3, 4.4, sharex=True)
        for axis, (outcome, label) in zip(axes, OUTCOMES.items(), strict=True):
            band(axis, rows, "epoch", outcome, color=GREY)
            for criterion, (marker, colour) in MARKS.items():
                for i, (_, run) in enumerate(rows.groupby("seed")):
                    epoch = history.best_epoch(run, criterion)  # type: ignore[arg-type]
                    value = run.loc[run["epoch"] == epoch, outcome].iloc[0]
                    axis.plot(epoch, value, marker, color=colour, markersize=4, alpha=0.85, linestyle="none",
                              label=CRITERIA[criterion] if i == 0 else None)
            axis.set_title(label)
            if outcome in ("neg_elbo", "neg_iwae"):
                axis.set_yscale("log")
                axis.yaxis.set_major_formatter(LogFormatter())
                axis.yaxis.set_minor_formatter(NullFormatter())
        for axis in axes[3:]:
            axis.set_xlabel("epoch")
        figure_of(axes[0]).legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3,
            title=f"the epoch that a criterion chooses; line and band: median and range, n = {n}",
        )
    picks = {c: [history.best_epoch(run, c) for _, run in rows.groupby("seed")] for c in history.CRITERIA}
    said = "; ".join(f"{CRITERIA[c]}: {', '.join(map(str, epochs))}" for c, epochs in picks.items())
    columns = ["seed", "epoch", *OUTCOMES, "val_loss", "val_elbo"]
    return Drawing(figure_of(axes[0]), f"Six outcomes through the epochs; epochs chosen by {said}.", rows[columns])


def regrets(table: pd.DataFrame) -> Drawing:
    """How far each rule's epochs fall short of the best: `model_choice.regret`, a dot per seed."""
    rules = list(dict.fromkeys(table["rule"]))
    with style():
        axes = panels(2, 3, 4.6, sharey=True)
        for axis, (outcome, label) in zip(axes, OUTCOMES.items(), strict=True):
            places = table["rule"].map({rule: i for i, rule in enumerate(rules[::-1])})
            axis.scatter(table[outcome], places, s=12, color=INK, alpha=0.65, linewidth=0)
            short = label.replace(", %", ", points")
            axis.set_title(short.replace(" coverage", "\ncoverage").replace(", test", ",\ntest"))
            axis.set_xscale("symlog", linthresh=1)
            axis.set_xlim(left=-0.1)
            axis.set_yticks(range(len(rules)), rules[::-1])
            axis.xaxis.set_major_formatter(LogFormatter())
            axis.tick_params("x", rotation=0)
        figure_of(axes[0]).supxlabel(
            f"short of the run's best epoch by (a dot per seed, n = {table['seed'].nunique()}; 0 is best)", fontsize=8
        )
    means = table.groupby("rule")["informative_coverage"].mean().sort_values()
    said = ", ".join(f"{rule} {value:.3g}" for rule, value in means.items())
    alt = f"What each rule of choosing an epoch costs in six outcomes. Informative coverage lost, mean, points: {said}."
    return Drawing(figure_of(axes[0]), alt, table)


def full(history: pd.DataFrame, config: Config) -> Drawing:
    """All planned epochs: coverage, reconstruction and -ELBO, and the schedules that drive them; phases as lines."""
    n, starts = history["seed"].nunique(), config.phases
    marks = (starts.consolidation, starts.convergence, starts.final)
    with style():
        axes = panels(3, 2, 5.4, sharex=True)
        for axis, (metric, label) in zip(axes, (
            ("coverage", "sampled coverage, %"), ("informative_coverage", "informative coverage, %"),
            ("reconstruction", "reconstruction, validation, %"), ("neg_elbo", "-ELBO, validation, nats"),
        ), strict=False):
            for p, colour in PATHWAY.items():
                band(axis, history, "epoch", f"{metric}_{p}", color=colour, label=f"pathway {p}")
            axis.set_title(label)
        axes[3].set_yscale("log")
        axes[3].yaxis.set_major_formatter(LogFormatter())
        axes[3].yaxis.set_minor_formatter(NullFormatter())
        axes[0].set_ylim(60, 101)
        axes[0].legend(title=f"median and range, n = {n}", loc="lower right")
        band(axes[4], history, "epoch", "rho", color=INK, label="ρ")
        axes[4].set_title("permeability ρ")
        for p, colour in PATHWAY.items():
            band(axes[5], history, "epoch", f"temperature_{p}", color=colour, linewidth=0.9)
        axes[5].set_title("temperature τ")
        for axis in axes:
            for mark in marks:
                axis.axvline(mark, color=GREY, linestyle=":", linewidth=0.9)
        for axis in axes[4:]:
            axis.set_xlabel("epoch; dotted: phases 2, 3 and 4 can begin")
    shown = [starts.convergence - 1, starts.final, int(history["epoch"].max())]
    at = history[history["epoch"].isin(shown)].groupby("epoch").median(numeric_only=True)
    said = "; ".join(
        f"epoch {e}: reconstruction {r['reconstruction_A']:.3g} / {r['reconstruction_B']:.3g} %, "
        f"-ELBO {r['neg_elbo_A']:.3g} / {r['neg_elbo_B']:.3g} nats" for e, r in at.iterrows()
    )
    metrics = ("coverage", "informative_coverage", "reconstruction", "neg_elbo", "temperature")
    names = [f"{metric}_{p}" for metric in metrics for p in PATHWAY]
    alt = f"All {int(history['epoch'].max()) + 1} planned epochs of {n} runs, median, A / B. At {said}."
    return Drawing(figure_of(axes[0]), alt, history[["seed", "epoch", "phase", "rho", *names]])


def checkpoint_ensembles(table: pd.DataFrame) -> Drawing:
    """Checkpoints alone and as a mixture: `model_choice.checkpoint_ensembles`, a dot per seed."""
    measures = {
        "informative_coverage": "informative, %", "effective_coverage": "effective, %", "neg_iwae": "-IWAE, test, nats",
        "noisy": "test exact\nfrom samples, %",
    }
    return _dots(table, "member", measures, "checkpoints alone and together")


def pathway_ensembles(table: pd.DataFrame) -> Drawing:
    """Both pathways read out together: `model_choice.pathway_ensembles`, a panel per kind of code."""
    looks = {"A": (PATHWAY["A"], "-"), "B": (PATHWAY["B"], "-"), "A twice": (PATHWAY["A"], "--"),
             "B twice": (PATHWAY["B"], "--"), "vote": (GREEN, "-"), "mean": (PURPLE, "-."), "confidence": (INK, ":"),
             "best of": (GREY, "-")}
    with style():
        axes = panels(1, 2, 2.8, sharey=True)
        for axis, code in zip(axes, ("μ", "sample"), strict=True):
            for rule, (colour, line) in looks.items():
                rows = table[(table["code"] == code) & (table["rule"] == rule)]
                label = {"best of": "best of both (oracle)", "A": "A alone", "B": "B alone"}.get(rule, rule)
                band(axis, rows, "epoch", "exact", color=colour, linestyle=line, label=label)
            axis.set_title(f"test exact, %, from {'z = μ' if code == 'μ' else 'one posterior sample'}")
            axis.set_xlabel("epoch")
        n = table["seed"].nunique()
        figure_of(axes[0]).legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, title=f"n = {n}"
        )
    last = table[(table["epoch"] == table["epoch"].max()) & (table["code"] == "sample")].groupby("rule")["exact"].mean()
    said = ", ".join(f"{rule} {value:.3g} %" for rule, value in last.items())
    alt = f"Pathways read out together. At epoch {table['epoch'].max()} from one posterior sample: {said}."
    return Drawing(figure_of(axes[0]), alt, table)


def rate_distortion(probes: pd.DataFrame, marks: Sequence[int] = (0, 49, 50, 100)) -> Drawing:
    """KL against CE on the test split, a point per run and checkpoint, with the bound CE ≥ ln N - KL."""
    with style():
        axes = panels(1, 2, 3.0, sharey=True)
        for axis, (p, colour) in zip(axes, PATHWAY.items(), strict=True):
            axis.scatter(probes[f"rate_{p}"], probes[f"distortion_{p}"], s=7, color=colour, alpha=0.35, linewidth=0)
            middle = probes.groupby("epoch")[[f"rate_{p}", f"distortion_{p}"]].median()
            axis.plot(middle[f"rate_{p}"], middle[f"distortion_{p}"], color=colour, linewidth=0.8)
            for epoch in marks:
                if epoch in middle.index:
                    axis.annotate(
                        str(epoch), tuple(middle.loc[epoch]), xytext=(4, 3), textcoords="offset points", fontsize=7
                    )
            rate = np.linspace(4, np.log(space.SIZE), 60)
            axis.plot(rate, np.log(space.SIZE) - rate, color=GREEN, linestyle="--", label="bound: ln N - KL")
            axis.set_xscale("log")
            axis.set_yscale("symlog", linthresh=1)
            axis.set_ylim(bottom=-0.1)
            for side in (axis.xaxis, axis.yaxis):
                side.set_major_formatter(LogFormatter())
                side.set_minor_formatter(NullFormatter())
            axis.set_title(f"pathway {p}: distortion (CE), nats")
            axis.set_xlabel("rate (KL), nats; numbers are epochs")
        axes[0].legend(loc="upper right")
    last = probes[probes["epoch"] == probes["epoch"].max()]
    said = "; ".join(
        f"{p} {last[f'rate_{p}'].median():.3g} and {last[f'distortion_{p}'].median():.3g}" for p in PATHWAY
    )
    columns = ["seed", "epoch", *(f"{name}_{p}" for name in ("rate", "distortion") for p in PATHWAY)]
    alt = f"Rate and distortion of every checkpoint. At epoch {probes['epoch'].max()}, median, nats: {said}."
    return Drawing(figure_of(axes[0]), alt, probes[columns])


def calibration(table: pd.DataFrame) -> Drawing:
    """Confidence against accuracy of single entries: `model_choice.reliabilities`, a line per epoch."""
    epochs = sorted(table["epoch"].unique())
    with style():
        axes = panels(1, 2, 2.8, sharey=True)
        for axis, (p, colour) in zip(axes, PATHWAY.items(), strict=True):
            for epoch, line in zip(epochs, ("--", "-", ":"), strict=False):
                rows = table[(table["pathway"] == p) & (table["epoch"] == epoch) & (table["count"] > 0)]
                weights = rows.groupby("bin")["count"].sum()
                weights = weights[weights >= FEWEST]
                means = {
                    name: (rows.assign(w=rows[name] * rows["count"]).groupby("bin")["w"].sum() / weights).dropna()
                    for name in ("confidence", "accuracy")
                }
                axis.plot(means["confidence"], means["accuracy"], color=colour, linestyle=line, marker="o",
                          label=f"epoch {epoch}")
            axis.plot([1 / 3, 1], [1 / 3, 1], color=GREY, linestyle=":", linewidth=0.9, label="calibrated")
            axis.set_title(f"pathway {p}: accuracy of an entry")
            axis.set_xlabel("confidence of the decoder")
        axes[0].legend(title=f"test split, one posterior sample, n = {table['seed'].nunique()}", loc="upper left")
    gaps = table.assign(gap=(table["confidence"] - table["accuracy"]) * table["count"]).groupby(["epoch", "pathway"])
    bias = (gaps["gap"].sum() / gaps["count"].sum()).unstack()
    said = "; ".join(f"epoch {e}: {100 * r['A']:.2g} / {100 * r['B']:.2g} points" for e, r in bias.iterrows())
    return Drawing(figure_of(axes[0]), f"Calibration of the decoders. Confidence above accuracy, A / B, {said}.", table)


def operations(table: pd.DataFrame) -> Drawing:
    """-ELBO and -IWAE of single operations by their number of zeros: `model_choice.operation_bounds`."""
    with style():
        axes = panels(1, 2, 2.7, sharey=True)
        for axis, (p, colour) in zip(axes, PATHWAY.items(), strict=True):
            rows = table[table["pathway"] == p]
            for measure, line, label in (("neg_elbo", "-", "-ELBO"), ("neg_iwae", "--", "-IWAE, 64 samples")):
                groups = rows.groupby("zeros")[measure]
                axis.plot(groups.median().index, groups.median(), color=colour, linestyle=line, marker="o", label=label)
                axis.fill_between(groups.median().index, groups.quantile(0.05), groups.quantile(0.95), color=colour,
                                  alpha=0.15, linewidth=0)
            axis.axhline(np.log(space.SIZE), color=GREY, linestyle=":", linewidth=0.9, label="ln N")
            axis.set_title(f"pathway {p}: nats")
            axis.set_xlabel("zeros in the truth table")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0].set_ylim(bottom=6)
        axes[0].legend(title="median, 5 % and 95 % of operations", loc="lower left")
    bounds = {p: table[table["pathway"] == p]["neg_iwae"] for p in PATHWAY}
    said = "; ".join(
        f"{p}: 90 % lie in {bound.quantile(0.05):.3g} to {bound.quantile(0.95):.3g}, median {bound.median():.3g}"
        for p, bound in bounds.items()
    )
    alt = f"Likelihood bounds of single operations of the test split. -IWAE, nats, {said}."
    return Drawing(figure_of(axes[0]), alt, table)


def alternatives(table: pd.DataFrame) -> Drawing:
    """v5.5 beside simpler models: `alternatives.benchmark` with v5.5's rows, a dot per seed."""
    return _dots(table, "title", MEASURES, "models at about equal parameters", clipped=("neg_elbo",))


def _dots(
    table: pd.DataFrame, by: str, measures: Mapping[str, str], what: str, clipped: Sequence[str] = ()
) -> Drawing:
    """A panel per measure, a row per group, a dot per seed; coloured by pathway where there is one."""
    names = list(dict.fromkeys(table[by]))
    pathways = "pathway" in table
    places = table[by].map({name: i for i, name in enumerate(names[::-1])})
    columns = 3 if len(measures) > 4 else len(measures)
    rows = -(-len(measures) // columns)
    with style():
        axes = panels(rows, columns, rows * (0.7 + 0.16 * len(names)) + 0.4, sharey=True)
        for axis, (measure, label) in zip(axes, measures.items(), strict=True):
            groups = [(p, colour, table["pathway"] == p) for p, colour in PATHWAY.items()] if pathways else [
                ("", INK, table[by].notna())
            ]
            for p, colour, mask in groups:
                shift = {"A": 0.13, "B": -0.13, "": 0.0}[p]
                far = mask & (table[measure] > (FARTHEST if measure in clipped else np.inf))
                near = mask & ~far
                axis.scatter([FARTHEST] * int(far.sum()), places[far] + shift, s=16, marker=">", color=colour)
                axis.scatter(table[measure][near], places[near] + shift, s=11, color=colour, alpha=0.65, linewidth=0,
                             label=f"pathway {p}" if p else None)
            axis.set_title(label)
            axis.set_yticks(range(len(names)), names[::-1])
            axis.set_ylim(-0.6, len(names) - 0.4)
        n = table.groupby(by)["seed"].nunique().min()
        if pathways:
            figure_of(axes[0]).legend(
                *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2,
                title=f"a dot per seed, n = {n}",
            )
        else:
            figure_of(axes[0]).supxlabel(f"a dot per seed, n = {n}", fontsize=8)
    first = next(iter(measures))
    means = table.groupby(by, sort=False)[first].mean()
    said = ", ".join(f"{name} {value:.3g}" for name, value in means.items() if not np.isnan(value))
    return Drawing(figure_of(axes[0]), f"{what.capitalize()}: {measures[first]}, mean over seeds: {said}.", table)

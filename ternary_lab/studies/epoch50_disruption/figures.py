"""Figures of the epoch-50 disruption: the terms of the spike, codes and leak, and the counterfactuals."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.ticker import MaxNLocator

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
from ternary_lab.studies.epoch50_disruption.tables import (
    OUTCOMES,
    TERMS,
    Branch,
    final_outcomes,
    largest_rise,
    median_terms,
    outcomes,
)

COLOURS = (BLUE, VERMILION, SKY, ORANGE, GREEN, PURPLE, GREY)
"""One for each term; those of a pathway are alike."""


def terms(history: pd.DataFrame, first: int = 47, last: int = 54) -> Drawing:
    """The terms of the training loss as stacked bars (median over runs), and the gradient norms beside them."""
    data = median_terms(history, first, last)
    near = history[history["epoch"].between(first, last)]
    n = near["seed"].nunique()
    with style():
        bars, norms = panels(1, 2, 2.9, width_ratios=(3, 2))
        above, below = pd.Series(0.0, data.index), pd.Series(0.0, data.index)
        for (term, label), colour in zip(TERMS.items(), COLOURS, strict=True):
            values = data[term]
            base = above.where(values >= 0, below)
            bars.bar(data.index, values, bottom=base, color=colour, label=label, width=0.8)
            above, below = above + values.clip(lower=0), below + values.clip(upper=0)
        bars.axhline(0, color=INK, linewidth=0.6)
        bars.set_title(f"terms of the training loss, nats (median, n = {n})")
        bars.legend(loc="upper left")
        for pathway, colour in PATHWAY.items():
            groups = near.groupby("epoch")[f"grad_norm_{pathway}"]
            middle = groups.median()
            norms.plot(middle.index, middle, color=colour, marker="o", label=f"pathway {pathway}")
            norms.fill_between(middle.index, groups.min(), groups.max(), color=colour, alpha=0.22, linewidth=0)
        norms.set_yscale("log")
        norms.set_title(f"gradient norm before clipping (n = {n})")
        norms.legend()
        for axis in (bars, norms):
            axis.set_xlabel("epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    jump = 50 if {49, 50} <= set(data.index) else int(data.index[-1])
    rise = largest_rise(history, jump)
    alt = (
        f"Terms of the training loss from epoch {first} to {last}, median of {n} runs, as bars; gradient norms. "
        f"At epoch {jump} {TERMS[str(rise.index[0])]} rises most, by {rise.iloc[0]:.3g} nats, then "
        f"{TERMS[str(rise.index[1])]}, by {rise.iloc[1]:.3g}."
    )
    return Drawing(figure_of(bars), alt, data.reset_index())


def codes(probes: pd.DataFrame) -> Drawing:
    """A's own against its injected code, and the size of B's codes, through the epochs whose weights were kept."""
    n = probes["seed"].nunique()
    with style():
        leak, size = panels(1, 2, 2.6)
        for name, label, colour in (
            ("own_test_A", "A, own code (test)", PATHWAY["A"]),
            ("injected_A", "A, with ρ of B's code", GREEN),
            ("own_test_B", "B, own code (test)", PATHWAY["B"]),
        ):
            _band(leak, probes, name, label, colour)
        leak.set_title(f"exact reconstruction, % (median and range, n = {n})")
        leak.legend(loc="center right")
        for name, label, colour in (
            ("norm_B", "length of B's codes, root mean square of ‖μ‖", PATHWAY["B"]),
            ("sigma_B", "spread of B's codes, mean σ", PURPLE),
        ):
            _band(size, probes, name, label, colour)
        size.set_yscale("log")
        size.set_ylim(top=1e7)
        size.axhline(1, color=GREY, linestyle="--", linewidth=0.9, label="σ of the prior, 1")
        size.axhline(4, color=GREY, linestyle=":", linewidth=0.9, label="length of prior draws, √16")
        size.set_title("codes of B")
        size.legend(loc="upper right")
        for axis in (leak, size):
            axis.set_xlabel("epoch")
    columns = ["own_test_A", "injected_A", "own_test_B", "norm_B", "sigma_B"]
    middle = probes.groupby("epoch")[columns].median()
    own, length = middle["own_test_A"].tolist(), middle["norm_B"].tolist()
    alt = (
        "Reconstruction by A from its own code and with a share of B's, and the size of B's codes, "
        f"at {len(middle)} epochs of up to {n} runs. A's own goes from {own[0]:.3g} % over {min(own):.3g} % to "
        f"{own[-1]:.3g} %; the length of B's codes peaks at {max(length):.3g} and ends at {length[-1]:.3g}."
    )
    return Drawing(figure_of(leak), alt, probes[["seed", "epoch", *columns]])


def _band(axis: object, data: pd.DataFrame, name: str, label: str, colour: str) -> None:
    groups = data.groupby("epoch")[name]
    middle = groups.median()
    axis.plot(middle.index, middle, color=colour, label=label)  # type: ignore[attr-defined]
    axis.fill_between(  # type: ignore[attr-defined]
        middle.index, groups.min(), groups.max(), color=colour, alpha=0.2, linewidth=0
    )


def trajectories(branches: Mapping[str, Branch], first: int = 35) -> Drawing:
    """Informative coverage (mean of both pathways) of every counterfactual through the epochs: median and range."""
    names = list(branches)
    with style():
        axes = panels(3, 3, 5.2, sharex=True, sharey=True)
        control = outcomes(branches[names[0]].runs.history).groupby("epoch")["informative_coverage"].median()
        for axis, (name, branch) in zip(axes, branches.items(), strict=False):
            rows = outcomes(branch.runs.history)
            groups = rows[rows["epoch"] >= first].groupby("epoch")["informative_coverage"]
            if name != names[0]:
                axis.plot(control.index, control, color=GREY, linewidth=0.9, linestyle="--")
            axis.plot(groups.median().index, groups.median(), color=INK)
            axis.fill_between(groups.median().index, groups.min(), groups.max(), color=INK, alpha=0.2, linewidth=0)
            axis.set_title(_mathematical(branch.title))
        for axis in axes[len(branches):]:
            axis.set_axis_off()
        for axis in axes[6:]:
            axis.set_xlabel("epoch")
        figure = figure_of(axes[0])
        n = min(len(branch.runs) for branch in branches.values())
        figure.supylabel(f"informative coverage, % (median and range, n = {n}; dashed: as scheduled)", fontsize=8)
    rows = pd.concat([outcomes(b.runs.history).assign(name=n) for n, b in branches.items()], ignore_index=True)
    last = rows.groupby("name")["epoch"].transform("max")
    ended = rows[rows["epoch"] == last].groupby("name")["informative_coverage"].median()
    ends = ", ".join(f"{branch.title} {ended[name]:.3g} %" for name, branch in branches.items())
    alt = f"Informative coverage through the epochs, one panel for each counterfactual. At the end, median: {ends}."
    return Drawing(figure, alt, rows[["name", "seed", "epoch", "informative_coverage"]])


def final(branches: Mapping[str, Branch]) -> Drawing:
    """Every outcome at epoch 103: a dot per seed, a row per counterfactual, the median of the control as a line."""
    table = final_outcomes(branches)
    names = list(branches)[::-1]
    places = {name: place for place, name in enumerate(names)}
    with style():
        axes = panels(2, 4, 5.4, sharey=True)
        for axis, (metric, label) in zip(axes, OUTCOMES.items(), strict=False):
            control = table.loc[table["name"] == next(iter(branches)), metric].median()
            axis.axvline(control, color=GREY, linewidth=0.9, linestyle="--")
            axis.scatter(table[metric], table["name"].map(places), s=11, color=INK, alpha=0.7, linewidth=0)
            axis.set_title(label.replace(", ", ",\n").replace(" coverage", "\ncoverage").replace(",\n%", ", %"))
            axis.xaxis.set_major_locator(MaxNLocator(nbins=4))
            if metric in ("neg_elbo", "kl"):
                axis.set_xscale("log")
        axes[0].set_yticks(range(len(names)), [_mathematical(branches[name].title) for name in names])
        axes[7].set_axis_off()
    best = table.groupby("title")["informative_coverage"].median().sort_values()
    alt = (
        f"Seven outcomes at epoch 103 of {len(branches)} counterfactuals, a dot for each seed. Informative coverage is "
        f"lowest with {best.index[0]} ({best.iloc[0]:.3g} %) and highest with {best.index[-1]} ({best.iloc[-1]:.3g} %)."
    )
    return Drawing(figure_of(axes[0]), alt, table)


def _mathematical(title: str) -> str:
    """β_B with its index set as one."""
    return title.replace("β_B", "β$_B$").replace("1e-3", "0.001")

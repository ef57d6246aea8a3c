"""Figures of the epoch-50 disruption: the terms of the loss, the codes of both pathways, and counterfactual runs."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.ticker import MaxNLocator

from ternary_lab.figures.parts import band, dot_panels, label_epochs, log_scale, mark, reference
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
    new_axes,
)
from ternary_lab.metrics.quantities import label
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
"""Colours of the terms of the loss. Cross-entropy and KL of the same pathway have similar colours."""


def spike_terms(history: pd.DataFrame, first: int = 47, last: int = 54) -> Drawing:
    """Draw the terms of the training loss (median over runs) as stacked bars, and the gradient norms beside them."""
    data = median_terms(history, first, last)
    near = history[history["epoch"].between(first, last)]
    n = near["seed"].nunique()
    with new_axes(1, 2, 2.9, width_ratios=(3, 2)) as axes:
        bars, norms = axes
        above, below = pd.Series(0.0, data.index), pd.Series(0.0, data.index)
        for (term, words), colour in zip(TERMS.items(), COLOURS, strict=True):
            values = data[term]
            base = above.where(values >= 0, below)
            bars.bar(data.index, values, bottom=base, color=colour, label=words, width=0.8)
            above, below = above + values.clip(lower=0), below + values.clip(upper=0)
        bars.axhline(0, color=INK, linewidth=0.6)
        bars.set_title(f"terms of the training loss, nats (median, n = {n})")
        bars.legend(loc="upper left")
        for pathway, colour in PATHWAY.items():
            band(norms, near, "epoch", f"grad_norm_{pathway}", color=colour, marker="o", label=f"pathway {pathway}")
        norms.set_yscale("log")
        norms.set_title(f"gradient norm before clipping (n = {n})")
        norms.legend()
        label_epochs(axes, most=10)
    jump = 50 if {49, 50} <= set(data.index) else int(data.index[-1])
    rise = largest_rise(history, jump)
    alt = (
        f"Stacked bars show the terms of the training loss from epoch {first} to {last}, median of {n} runs; lines "
        f"show the gradient norms. At epoch {jump} the term {TERMS[str(rise.index[0])]} rises most, by "
        f"{rise.iloc[0]:.3g} nats. The next is {TERMS[str(rise.index[1])]}, which rises by {rise.iloc[1]:.3g} nats."
    )
    return Drawing.of([bars], alt, data.reset_index())


def codes_and_leak(probes: pd.DataFrame) -> Drawing:
    """Plot exact reconstruction from several codes, and the size of B's codes, against the epoch.

    Pathway A reconstructs operations from its own code, and from a mixture that contains a share ρ of B's code. Pathway
    B uses its own code. The epochs are those of the kept checkpoints.
    """
    n = probes["seed"].nunique()
    shares = {
        "own_test_A": ("A, own code (test)", PATHWAY["A"]), "injected_A": ("A, with ρ of B's code", GREEN),
        "own_test_B": ("B, own code (test)", PATHWAY["B"]),
    }
    lengths = {
        "norm_B": ("length of B's codes, root mean square of ‖μ‖", PATHWAY["B"]),
        "sigma_B": ("spread of B's codes, mean σ", PURPLE),
    }
    columns = [*shares, *lengths]
    with new_axes(1, 2, 2.6) as axes:
        leak, size = axes
        for axis, lines in ((leak, shares), (size, lengths)):
            for name, (words, colour) in lines.items():
                band(axis, probes, "epoch", name, label=words, color=colour)
        leak.set_title(f"exact reconstruction, % (median and range, n = {n})")
        leak.legend(loc="center right")
        size.set_yscale("log")
        size.set_ylim(top=1e7)
        reference(size, 1, "σ of the prior, 1", "--")
        reference(size, 4, "length of prior draws, √16")
        size.set_title("codes of B")
        size.legend(loc="upper right")
        label_epochs(axes)
    middle = probes.groupby("epoch")[columns].median()
    own, length = middle["own_test_A"].tolist(), middle["norm_B"].tolist()
    alt = (
        "Line charts show the reconstruction by pathway A from its own code and from a code with a share of B's, and "
        f"the size of B's codes, at {len(middle)} epochs of up to {n} runs. From its own code A reconstructs "
        f"{own[0]:.3g} % at first, {min(own):.3g} % at the lowest and {own[-1]:.3g} % at the end. The length of B's "
        f"codes is {max(length):.3g} at its peak and {length[-1]:.3g} at the end."
    )
    return Drawing.of([leak], alt, probes[["seed", "epoch", *columns]])


def outcome_trajectories(branches: Mapping[str, Branch], first: int = 35) -> Drawing:
    """Plot the informative coverage of each counterfactual against the epoch, with a panel for each counterfactual.

    The values are means of both pathways. Lines and bands are the median and the range over runs, from the epoch
    `first` on. A dashed line in each panel repeats the median of the first branch, which trains as scheduled.
    """
    metric, control = "informative_coverage", next(iter(branches))
    rows = pd.concat([outcomes(b.runs.history).assign(name=n) for n, b in branches.items()], ignore_index=True)
    with new_axes(3, 3, 5.2, sharex=True, sharey=True) as axes:
        for axis, (name, branch) in zip(axes, branches.items(), strict=False):
            if name != control:
                band(axis, rows[rows["name"] == control], "epoch", metric, color=GREY, errorbar=None, linewidth=0.9,
                     linestyle="--")
            band(axis, rows[(rows["name"] == name) & (rows["epoch"] >= first)], "epoch", metric, color=INK)
            axis.set_title(_mathematical(branch.title))
        for axis in axes[len(branches):]:
            axis.set_axis_off()
        label_epochs(axes[6:])
        figure = figure_of(axes[0])
        n = min(len(branch.runs) for branch in branches.values())
        figure.supylabel(f"{label(metric)} (median and range, n = {n}; dashed: as scheduled)", fontsize=8)
    last = rows[rows["epoch"] == rows.groupby("name")["epoch"].transform("max")]
    ended = last.groupby("name")[metric].median()
    ends = ", ".join(f"{ended[name]:.3g} % ({branch.title})" for name, branch in branches.items())
    alt = (
        f"Line charts, one for each counterfactual, show the informative coverage through the epochs. Its median at "
        f"the end is {ends}."
    )
    return Drawing(figure, alt, rows[["name", "seed", "epoch", metric]])


def outcomes_at_end(branches: Mapping[str, Branch]) -> Drawing:
    """Plot the outcomes at epoch 103, with a row for each counterfactual and a dot for each seed.

    Dashed lines mark the median of the first branch, which trains as scheduled.
    """
    table = final_outcomes(branches)
    control = table[table["name"] == next(iter(branches))]
    rows = table.assign(title=table["title"].map(_mathematical))
    with dot_panels(rows, {metric: label(metric) for metric in OUTCOMES}, "title", columns=4, height=5.4) as axes:
        for axis, metric in zip(axes, OUTCOMES, strict=True):
            mark(axis, control[metric].median(), "--")
            axis.xaxis.set_major_locator(MaxNLocator(nbins=4))
            if metric in ("neg_elbo", "kl"):
                log_scale(axis, "x")
    best = table.groupby("title")["informative_coverage"].median().sort_values()
    alt = (
        f"Dots, one for each seed, show seven outcomes at epoch 103 of {len(branches)} counterfactuals. Informative "
        f"coverage is lowest with {best.index[0]} ({best.iloc[0]:.3g} %) and highest with {best.index[-1]} "
        f"({best.iloc[-1]:.3g} %)."
    )
    return Drawing.of(axes, alt, table)


def _mathematical(title: str) -> str:
    """Return the title with β_B as a formula, and with 0.001 instead of 1e-3."""
    return title.replace("β_B", "β$_B$").replace("1e-3", "0.001")

"""Figures of the epoch-50 disruption: the terms of the loss, the codes of both pathways, and counterfactual runs."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ternary_lab.figures.parts import band, label_epochs, legend_below, log_scale, mark, reference
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
from ternary_lab.studies.epoch50_disruption.effects import AFTER, BEFORE, COSINE, UNTRAINED
from ternary_lab.studies.epoch50_disruption.tables import (
    CONTROL,
    GROUPS,
    LAST,
    PRIMARY,
    SAME_AGE,
    SAME_EPOCH,
    SAME_LEARNING,
    SECONDARY,
    TERMS,
    Branch,
    control_differences,
    final_outcomes,
    largest_rise,
    median_terms,
    outcomes,
)

LINES = (GREEN, PURPLE, INK)
"""Colours of the counterfactuals in a panel."""
MARKERS = {SAME_EPOCH: "o", SAME_AGE: "s", SAME_LEARNING: "D"}
"""Markers of the comparisons."""
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
        "own_test_A": ("A, own code", PATHWAY["A"]), "injected_A": ("A, with ρ z$_B$", GREEN),
        "own_test_B": ("B, own code", PATHWAY["B"]),
    }
    lengths = {
        "norm_B": ("length ‖μ‖", PATHWAY["B"]),
        "sigma_B": ("width σ", PURPLE),
    }
    columns = [*shares, *lengths]
    with new_axes(1, 2, 2.6) as axes:
        leak, size = axes
        for axis, lines in ((leak, shares), (size, lengths)):
            for name, (words, colour) in lines.items():
                band(axis, probes, "epoch", name, label=words, color=colour)
        leak.set_title("exact reconstruction, %")
        leak.legend(loc="center right")
        size.set_yscale("log")
        reference(size, 1, "prior: width 1", "--")
        reference(size, 4, "prior: length √16")
        size.set_title(f"codes of B (both: median and range, n = {n})")
        size.set_ylim(top=2e4)
        size.legend(loc="upper center", ncols=2)
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


def entry_steps(table: pd.DataFrame) -> Drawing:
    """Plot R² of the sum of main effects, and angles and lengths of the nine steps, against the epoch.

    `table` is that of `effects.load_effects`. Lines and bands are the median and the range over runs. Dotted lines
    show the median of the untrained networks.
    """
    trained, before = (table[(table["model"] == UNTRAINED) == is_untrained] for is_untrained in (False, True))
    n = trained["seed"].nunique()
    titles = {
        "explained": "R² of the sum of main effects", COSINE: "largest |cos| of two steps",
        "ratio": "longest step / shortest step",
    }
    with new_axes(1, len(titles), 2.4) as axes:
        for axis, (name, title) in zip(axes, titles.items(), strict=True):
            for pathway, line in (("A", "-"), ("B", "--")):
                colour = PATHWAY[pathway]
                its = trained[trained["pathway"] == pathway]
                band(axis, its, "epoch", name, color=colour, linestyle=line, label=f"pathway {pathway}")
                start = before.loc[before["pathway"] == pathway, name].median()
                axis.axhline(start, color=colour, linestyle=":", linewidth=0.9, label=f"{pathway} untrained")
            axis.set_title(title)
        axes[0].set_ylim(top=1.01)
        axes[1].set_ylim(bottom=0)
        log_scale(axes[2])
        label_epochs(axes)
        legend_below(axes, title=f"median and range, n = {n}", ncols=4)
    epochs = sorted(set(trained["epoch"]))
    shown = [epoch for epoch in epochs if epoch in (epochs[0], BEFORE, AFTER, epochs[-1])]

    def course(name: str) -> str:
        middle = {at: rows[name].median() for at, rows in trained.groupby(["epoch", "pathway"])}
        return "; ".join(f"{middle[epoch, 'A']:.2f} / {middle[epoch, 'B']:.2f} at epoch {epoch}" for epoch in shown)

    alt = (
        f"Line charts show, for {n} runs, how well the codes are sums of one vector for each entry, and the steps of "
        f"the entries. Medians in A / B: R² is {course('explained')}. The largest |cos| of two steps is "
        f"{course(COSINE)}. The longest step divided by the shortest is {course('ratio')}."
    )
    return Drawing.of(axes, alt, table)


def outcome_trajectories(branches: Mapping[str, Branch], first: int = 35) -> Drawing:
    """Plot the informative coverage of the counterfactuals against the epoch, with a panel for each group of `GROUPS`.

    The values are means of both pathways. Lines and bands are the median and the range over runs, from the epoch
    `first` on. A dashed line and a grey band in each panel show the control.
    """
    rows = pd.concat([outcomes(b.runs.history).assign(name=n) for n, b in branches.items()], ignore_index=True)
    rows = rows[rows["epoch"] >= first]
    groups = {words: [name for name in names if name in branches] for words, names in GROUPS.items()}
    groups = {words: names for words, names in groups.items() if names}
    with new_axes(-(-len(groups) // 2), 2, 1.0 + 1.8 * -(-len(groups) // 2), sharex=True, sharey=True) as axes:
        for axis, (words, names) in zip(axes, groups.items(), strict=False):
            for name, colour in zip(names, LINES, strict=False):
                its = rows[rows["name"] == name]
                band(axis, its, "epoch", PRIMARY, color=colour, label=_mathematical(branches[name].title))
            control = rows[rows["name"] == CONTROL]
            band(axis, control, "epoch", PRIMARY, color=GREY, linestyle="--", label="as scheduled")
            axis.set_title(_mathematical(words))
            low = rows[rows["name"].isin(names) & (rows["epoch"] == LAST)][PRIMARY].min()
            above = 0.09 if low < 0.1 * rows[PRIMARY].max() else -0.02  # above a line near 0
            axis.legend(loc="lower right", bbox_to_anchor=(1, above), labelspacing=0.2)
        axes[0].set_ylim(0, 1.03 * rows[PRIMARY].max())
        for axis in axes[len(groups):]:
            axis.set_axis_off()
        label_epochs(axes[-2:])
        n = min(len(branch.runs) for branch in branches.values())
        figure_of(axes[0]).supylabel(f"{label(PRIMARY)}, mean of A and B (median and range, n = {n})", fontsize=8)
    last = rows[rows["epoch"] == LAST].groupby("name")[PRIMARY].median()
    ends = ", ".join(f"{last[name]:.3g} % ({branch.title})" for name, branch in branches.items())
    alt = (
        f"Line charts, one for each kind of change, show the informative coverage through the epochs. Its median at "
        f"epoch {LAST} is {ends}."
    )
    return Drawing(figure_of(axes[0]), alt, rows[["name", "seed", "epoch", PRIMARY]])


def outcomes_at_end(branches: Mapping[str, Branch]) -> Drawing:
    """Plot the differences of the final outcomes from the control, with a band for each counterfactual.

    Marks are means of the differences within seeds, lines their simultaneous intervals. A band has a row for each
    comparison of `tables.compared_epochs`. Black intervals exclude 0. Counterfactuals in which β_B stays 0 are left
    out, because they are so far away that they would stretch the axes.
    """
    table = control_differences(final_outcomes(branches))
    keys = list(dict.fromkeys(zip(table["name"], table["comparison"], strict=True)))
    shown = list(dict.fromkeys(table["name"]))
    with new_axes(1, 3, 1.1 + 0.2 * len(keys), sharey=True) as axes:
        for axis, metric in zip(axes, (PRIMARY, *SECONDARY), strict=True):
            for name in shown[::2]:
                rows = [place for place, key in enumerate(keys) if key[0] == name]
                axis.axhspan(rows[0] - 0.5, rows[-1] + 0.5, color=GREY, alpha=0.13, linewidth=0, zorder=0)
            for row in table[table["metric"] == metric].to_dict("records"):
                comparison = row["comparison"]
                place = keys.index((row["name"], comparison))
                colour = GREY if row["decided"] == "not decided" else INK
                axis.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.1, zorder=2)
                axis.plot(row["mean"], place, MARKERS[comparison], color=colour, markersize=4, zorder=3,
                          markerfacecolor=colour if comparison == SAME_EPOCH else "white")
            mark(axis, 0, "-")
            axis.yaxis.grid(visible=False)
            axis.xaxis.set_major_locator(MaxNLocator(nbins=4))
            words, _, unit = label(metric).rpartition(", ")
            axis.set_title(f"{words},\n{'percentage points' if unit == '%' else unit}")
        axes[0].set_yticks(range(len(keys)), [
            _mathematical(branches[name].title) if comparison == SAME_EPOCH else comparison for name, comparison in keys
        ])
        for text, (_, comparison) in zip(axes[0].get_yticklabels(), keys, strict=True):
            if comparison != SAME_EPOCH:
                text.set_color(GREY)
        axes[0].set_ylim(len(keys) - 0.5, -0.5)
        handles = [
            Line2D([], [], color=INK, marker=shape, linestyle="", label=words,
                   markerfacecolor=INK if words == SAME_EPOCH else "white")
            for words, shape in MARKERS.items()
        ]
        legend_below(axes, handles=handles, ncols=3)
    decided = table[(table["metric"] == PRIMARY) & (table["decided"] != "not decided")]
    parts = [
        f"{row['title']} at the {row['comparison']}: {row['mean']:+.3g} points [{row['low']:+.3g}, {row['high']:+.3g}]"
        for row in decided.to_dict("records")
    ]
    alt = (
        f"Dots with intervals show three outcomes of {len(shown)} counterfactuals as differences from the runs as "
        f"scheduled. The intervals of informative coverage that exclude 0 are: {'; '.join(parts) or 'none'}."
    )
    return Drawing.of(axes, alt, table)


def _mathematical(title: str) -> str:
    """Return the title with β and an index as a formula."""
    return title.replace("β_B", "β$_B$").replace("β_A", "β$_A$")

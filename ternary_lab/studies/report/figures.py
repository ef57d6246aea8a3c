"""Figures of the report: verdicts on claims, error rates of the verdicts, and the original's runs over ours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ternary_lab.figures.history import epoch_panels, shared_epochs
from ternary_lab.figures.parts import band, legend_below, log_scale
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import GREEN, GREY, INK, ORANGE, PATHWAY, PURPLE, SKY, new_axes
from ternary_lab.studies.report import Judgement, Verdict, claims_table
from ternary_lab.studies.report.error_rates import GIVEN
from ternary_lab.studies.report.headline import CONFIGURATION

COLOURS = {
    Verdict.EXACT: "#8CCFBB", Verdict.REPRODUCED: GREEN, Verdict.TOO_WIDE: "#F0E442",
    Verdict.UNDECIDED: "#606060", Verdict.DIRECTION: SKY,
    Verdict.ARTEFACT: ORANGE, Verdict.CONTRADICTS: PURPLE, Verdict.NOT: INK, Verdict.UNTESTABLE: "#DCDCDC",
}
"""Colours of the verdicts. The verdicts that support a claim come first. Grey means that a claim cannot be tested."""
ROW = 0.155
"""Height of a section, in inches."""
LONGEST = 54
"""Largest number of characters of a section's title that are shown."""
COMPARED = {
    "train_loss": "training loss, nats", "coverage": "sampled coverage {p}, %", "kl": "KL {p}, nats",
    "H": "H {p}, nats",
}
"""Quantities that the original prints in every epoch, with their titles. Those with {p} have a value per pathway."""
UNIT_WORDS = {"deviations": "shift, standard deviations of the seeds", "percent": "shift, % of the figure"}
"""Labels of the shifts in a table of error rates."""


def counted(judgement: Judgement) -> bool:
    """Return whether the headline counts a claim: it is testable, and neither configuration nor a repetition."""
    return _distinct(judgement) and judgement.verdict is not Verdict.UNTESTABLE


def _distinct(judgement: Judgement) -> bool:
    """Return whether a claim is neither configuration nor a repetition."""
    return judgement.claim.kind not in CONFIGURATION and not judgement.same_as


def verdicts(judgements: Sequence[Judgement]) -> Drawing:
    """Draw a row of squares for each section of the report. Each square is a claim in the colour of its verdict.

    The squares of claims that the headline does not count are smaller.
    """
    sections: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        sections.setdefault(judgement.claim.section, []).append(judgement)
    order = list(COLOURS)
    counts = {verdict: [_distinct(j) for j in judgements if j.verdict is verdict] for verdict in order}
    titles = [name if len(name) <= LONGEST else f"{name[:LONGEST - 1].rstrip()}…" for name in sections]
    with new_axes(1, 1, ROW * len(sections) + 1.0) as (axis,):
        for row, found in enumerate(sections.values()):
            ranked = sorted(found, key=lambda j: (order.index(j.verdict), not counted(j)))
            for place, judgement in enumerate(ranked):
                _square(axis, place, row, 0.84 if counted(judgement) else 0.42, COLOURS[judgement.verdict])
            axis.text(len(found) + 0.4, row + 0.5, str(len(found)), va="center", fontsize=6.5, color=GREY)
        axis.set_xlim(0, max(map(len, sections.values())) + 2)
        axis.set_ylim(len(sections), 0)
        axis.set_yticks([row + 0.5 for row in range(len(sections))], titles, fontsize=6.5)
        axis.tick_params(length=0)
        axis.set_xticks([])
        axis.grid(visible=False)
        axis.spines[["left", "bottom"]].set_visible(False)
        squares = [
            Rectangle((0, 0), 1, 1, color=COLOURS[verdict], label=f"{verdict}: {_counts(found)}")
            for verdict, found in counts.items() if found
        ]
        words = "small squares: configuration and repetitions (numbers after +), and not testable"
        legend_below([axis], words, squares, ncols=3, handlelength=0.8, handleheight=0.8, labelcolor=INK)
    said = ", ".join(f"{len(found)} are judged '{verdict}'" for verdict, found in counts.items() if found)
    alt = f"Squares in the colour of the verdict show the {len(judgements)} claims of the report by section: {said}."
    return Drawing.of([axis], alt, claims_table(judgements))


def _square(axis: Axes, place: int, row: int, side: float, colour: str) -> None:
    corner = place + (1 - side) / 2, row + (1 - side) / 2
    axis.add_patch(Rectangle(corner, side, side, color=colour, linewidth=0))


def _counts(counted_ones: Sequence[bool]) -> str:
    """Return the number of counted claims and, after a plus sign, that of the others, for example "12 + 3"."""
    main, others = sum(counted_ones), len(counted_ones) - sum(counted_ones)
    return " + ".join(str(number) for number in (main, others) if number)


def original_over_ours(history: pd.DataFrame, original: pd.DataFrame) -> Drawing:
    """Draw the runs that the original printed over the median and the range of our runs.

    Args:
        history: rows of our runs, with the columns of a history.
        original: rows of the original's runs (`original_runs`), with the same names of columns.
    """
    ours = shared_epochs(history)
    theirs = original[original["epoch"] <= ours["epoch"].max()]
    panels = [
        (f"{name}_{p}" if "{p}" in title else name, title.format(p=p), PATHWAY[p] if "{p}" in title else GREEN)
        for p in PATHWAY for name, title in COMPARED.items() if p == "A" or "{p}" in title
    ]
    n = ours["seed"].nunique()
    with epoch_panels(ours, 2, 4, 3.4, [title for _, title, _ in panels] + [""]) as axes:
        for axis, (name, _, colour) in zip(axes, panels, strict=False):
            band(axis, ours, "epoch", name, color=colour)
            for _, run in theirs.groupby("seed"):
                axis.plot(run["epoch"], run[name], color=INK, linewidth=0.6)
            if name == "train_loss" or name.startswith("kl"):
                log_scale(axis)
        axes[-1].clear()
        axes[-1].set_axis_off()
        handles = [Line2D([], [], color=INK, linewidth=0.6, label=f"the original, {theirs['seed'].nunique()} runs")]
        handles += [
            Line2D([], [], color=colour, label=f"our {n} runs: {words}")
            for words, colour in (("loss", GREEN), *((f"pathway {p}", PATHWAY[p]) for p in PATHWAY))
        ]
        axes[-1].legend(handles=handles, title=f"bands: range of {n} seeds", loc="center")
    names = [name for name, _, _ in panels]
    inside = share_inside(ours, theirs, names)
    said = "; ".join(f"{title.rpartition(',')[0]} {100 * inside[name]:.0f} %" for name, title, _ in panels)
    alt = (
        f"Seven line charts show {theirs['seed'].nunique()} runs printed by the original over the median and the range "
        f"of {n} runs of this library. Share of the original's epochs inside our range: {said}."
    )
    data = pd.concat([frame[["seed", "epoch", *names]].assign(source=source)
                      for source, frame in (("ours", ours), ("original", theirs))])
    return Drawing.of(axes, alt, data)


def share_inside(ours: pd.DataFrame, theirs: pd.DataFrame, names: Sequence[str]) -> pd.Series[float]:
    """Return the share of their epochs at which a column lies within the range of our runs, for each column."""
    ends = ours.groupby("epoch")[list(names)]
    low, high = ends.min(), ends.max()
    rows = theirs.set_index("epoch")[list(names)]
    return ((rows >= low.loc[rows.index]) & (rows <= high.loc[rows.index])).mean()


def error_rates(rates: pd.DataFrame) -> Drawing:
    """Draw how often each verdict is given to planted claims, against the size of the planted error.

    Args:
        rates: the table of `error_rates.verdict_rates`.
    """
    units = list(dict.fromkeys(rates["unit"]))
    with new_axes(1, len(units), 2.8, sharey=True) as axes:
        for axis, unit in zip(axes, units, strict=True):
            its = 100 * rates[rates["unit"] == unit].pivot(index="shift", columns="verdict", values="share")
            places, bottom = np.arange(len(its)), np.zeros(len(its))
            for verdict in GIVEN:
                axis.bar(places, its[str(verdict)], 0.7, bottom, color=COLOURS[verdict], label=str(verdict))
                bottom += its[str(verdict)].to_numpy()
            ends = rates[(rates["unit"] == unit) & (rates["verdict"] == str(Verdict.REPRODUCED))]
            middle, low, high = (100 * ends[name].to_numpy() for name in ("share", "low", "high"))
            axis.errorbar(places, middle, (middle - low, high - middle), fmt="none", ecolor=INK, linewidth=1, capsize=2)
            axis.set_xticks(places, [f"{shift:g}" if shift else "0\n(true)" for shift in its.index])
            axis.set_xlabel(UNIT_WORDS[unit])
            axis.grid(visible=False, axis="x")
        axes[0].set_title("verdicts on planted claims, %")
        axes[0].set_ylim(0, 100)
        words = (
            f"refuted: {Verdict.DIRECTION} and {Verdict.NOT}; black lines: 95 % interval of the share reproduced, "
            f"{rates['seeds'].max()} left-out seeds"
        )
        legend_below([axes[0]], words, ncols=4, handlelength=0.8, handleheight=0.8)
    parts = rates[rates["verdict"] == str(Verdict.REPRODUCED)]
    said = "; ".join(
        f"{100 * share:.0f} % at {shift:g} {unit}"
        for share, shift, unit in zip(parts["share"], parts["shift"], parts["unit"], strict=True)
    )
    alt = f"Stacked bars show how often each verdict is given to planted claims. Judged reproduced are: {said}."
    return Drawing.of(axes, alt, rates)

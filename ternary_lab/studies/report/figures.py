"""Figures of the report: verdicts on claims, loss terms and codes at the disruption, counterfactual runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.patches import Rectangle

from ternary_lab.figures.parts import legend_below
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILION, new_axes
from ternary_lab.studies.epoch50_disruption import figures
from ternary_lab.studies.epoch50_disruption.tables import Branch
from ternary_lab.studies.report import Evidence, Judgement, Verdict, claims_table

COLOURS = {
    Verdict.EXACT: BLUE, Verdict.REPRODUCED: GREEN, Verdict.DIRECTION: SKY,
    Verdict.ARTEFACT: ORANGE, Verdict.CONTRADICTS: PURPLE, Verdict.NOT: VERMILION, Verdict.UNTESTABLE: "#CFCFCF",
}
"""Colours of the verdicts. The verdicts that support a claim come first. Grey means that a claim cannot be tested."""
REPORT = ("verdicts", "disruption_terms", "disruption_codes", "counterfactuals", "counterfactuals_final")
"""Names of the figures that `report_figures` returns."""
ROW = 0.155
"""Height of a section, in inches."""
LONGEST = 54
"""Largest number of characters of a section's title that are shown."""


def report_figures(
    evidence: Evidence, judgements: Sequence[Judgement], branches: Mapping[str, Branch]
) -> dict[str, Drawing]:
    """Return the figures of `REPORT` by name.

    The figure of the codes is left out if the probes of any run lack the size of the codes.
    """
    history = pd.concat([run.history.reset_index() for run in evidence.runs], ignore_index=True)
    drawings = {"verdicts": verdicts(judgements), "disruption_terms": figures.spike_terms(history)}
    if all("norm_B" in run.probes for run in evidence.runs):
        probes = pd.concat([run.probes.reset_index() for run in evidence.runs], ignore_index=True)
        drawings["disruption_codes"] = figures.codes_and_leak(probes)
    return drawings | {
        "counterfactuals": figures.outcome_trajectories(branches),
        "counterfactuals_final": figures.outcomes_at_end(branches),
    }


def verdicts(judgements: Sequence[Judgement]) -> Drawing:
    """Draw a row of squares for each section of the report. Each square is a claim in the colour of its verdict."""
    sections: dict[str, list[Verdict]] = {}
    for judgement in judgements:
        sections.setdefault(judgement.claim.section, []).append(judgement.verdict)
    order = list(COLOURS)
    counts = {verdict: sum(j.verdict is verdict for j in judgements) for verdict in order}
    titles = [name if len(name) <= LONGEST else f"{name[:LONGEST - 1].rstrip()}…" for name in sections]
    with new_axes(1, 1, ROW * len(sections) + 1.0) as (axis,):
        for row, found in enumerate(sections.values()):
            for place, verdict in enumerate(sorted(found, key=order.index)):
                axis.add_patch(Rectangle((place + 0.08, row + 0.1), 0.84, 0.8, color=COLOURS[verdict], linewidth=0))
            axis.text(len(found) + 0.4, row + 0.5, str(len(found)), va="center", fontsize=6.5, color=GREY)
        axis.set_xlim(0, max(map(len, sections.values())) + 2)
        axis.set_ylim(len(sections), 0)
        axis.set_yticks([row + 0.5 for row in range(len(sections))], titles, fontsize=6.5)
        axis.tick_params(length=0)
        axis.set_xticks([])
        axis.grid(visible=False)
        axis.spines[["left", "bottom"]].set_visible(False)
        squares = [Rectangle((0, 0), 1, 1, color=COLOURS[v], label=f"{v}: {counts[v]}") for v in order]
        legend_below([axis], handles=squares, ncols=4, handlelength=0.8, handleheight=0.8, labelcolor=INK)
    said = ", ".join(f"{count} are judged '{verdict}'" for verdict, count in counts.items())
    alt = f"Squares in the colour of the verdict show the {len(judgements)} claims of the report by section: {said}."
    return Drawing.of([axis], alt, claims_table(judgements))

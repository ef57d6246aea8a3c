"""The claims by verdict: a square for every claim, a row for every section of the report."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILION, WIDTH, style
from ternary_lab.studies.report import Judgement, Verdict, claims_table

COLOURS = {
    Verdict.EXACT: BLUE, Verdict.REPRODUCED: GREEN, Verdict.DIRECTION: SKY,
    Verdict.ARTEFACT: ORANGE, Verdict.CONTRADICTS: PURPLE, Verdict.NOT: VERMILION, Verdict.UNTESTABLE: "#CFCFCF",
}
"""From what holds to what does not; grey for what cannot be told."""
ROW = 0.155
"""Inches."""


def verdicts(judgements: Sequence[Judgement]) -> Drawing:
    """Claims x verdict: squares in the order of the verdicts, each section's count at its right."""
    sections: dict[str, list[Verdict]] = {}
    for judgement in judgements:
        sections.setdefault(judgement.claim.section, []).append(judgement.verdict)
    order = list(COLOURS)
    longest = max(map(len, sections.values()))
    with style():
        figure = Figure(figsize=(WIDTH, ROW * len(sections) + 1.0), layout="constrained")
        axis = figure.subplots()
        for row, found in enumerate(sections.values()):
            for place, verdict in enumerate(sorted(found, key=order.index)):
                axis.add_patch(Rectangle((place + 0.08, row + 0.1), 0.84, 0.8, color=COLOURS[verdict], linewidth=0))
            axis.text(len(found) + 0.4, row + 0.5, str(len(found)), va="center", fontsize=6.5, color=GREY)
        axis.set_xlim(0, longest + 2)
        axis.set_ylim(len(sections), 0)
        axis.set_yticks([row + 0.5 for row in range(len(sections))], [_short(name) for name in sections], fontsize=6.5)
        axis.tick_params(length=0)
        axis.set_xticks([])
        axis.grid(visible=False)
        for side in ("left", "bottom"):
            axis.spines[side].set_visible(False)
        counts = {verdict: sum(j.verdict is verdict for j in judgements) for verdict in order}
        figure.legend(
            handles=[Rectangle((0, 0), 1, 1, color=COLOURS[v], label=f"{v}: {counts[v]}") for v in order],
            loc="outside lower center", ncols=4, handlelength=0.8, handleheight=0.8, labelcolor=INK,
        )
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in order)
    alt = f"The {len(judgements)} claims of the report by section, a square for each, coloured by verdict: {said}."
    return Drawing(figure, alt, claims_table(judgements))


def _short(section: str, width: int = 54) -> str:
    return section if len(section) <= width else section[: width - 1].rstrip() + "…"

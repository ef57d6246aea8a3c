"""The ledger as one HTML table: every claim with its rule, its seeds and its verdict, to search and to filter.

The table works in a notebook, in an exported page and on the documentation site. A script in the page filters it by
section, verdict and words, and loads nothing. The script also makes the controls, so that a reader whose program blocks
scripts sees the whole table and no control that does nothing. Each claim has an address: `#claim-` and its id.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ternary_lab.arguments import read_path
from ternary_lab.runs.files import write_atomically
from ternary_lab.studies.report import Judgement, Verdict
from ternary_lab.studies.report.figures import COLOURS

WIDTH, MARGIN = 130.0, 5.0
"""Width of a strip of seeds and its margin at each side, in pixels."""
LOGARITHMIC = 30.0
"""Ratio of the greatest to the least positive value from which a strip has a logarithmic scale."""
HEAD = ("Claim", "Claimed", "Measured", "Seeds", "Verdict")
COLUMNS = (41, 14, 16, 13, 16)
"""Widths of the columns, in percent."""
UNITS = {
    "pct": " %", "pct_points": " points",
    **{unit: f" {unit}" for unit in ("nats", "bits", "bytes", "seconds", "epochs")},
}
"""Words for the units of claimed values. Other units are clear from the statement."""
_STYLE = """
.ledger{container-type:inline-size}
.ledger table{border-collapse:collapse;width:100%;min-width:640px;font-size:13px;line-height:1.35;table-layout:fixed}
.ledger td,.ledger th{text-align:left!important;vertical-align:top;padding:4px 6px}
.ledger td{white-space:normal;overflow-wrap:break-word;hyphens:auto}
.ledger .rows{max-height:85vh;overflow:auto scroll;border:1px solid rgba(128,128,128,.5)}
.ledger .rows::-webkit-scrollbar{width:12px;height:12px}
.ledger .rows::-webkit-scrollbar-thumb{background:#999;border-radius:6px}
.ledger thead th{position:sticky;top:0;z-index:1}
.ledger thead th{background:var(--jp-layout-color0,var(--md-default-bg-color,Canvas))!important}
@media print{.ledger .rows{max-height:none;overflow:visible}}
.ledger tr{border-bottom:1px solid rgba(128,128,128,.3)}
.ledger th{font-weight:bold}
.ledger .section th{font-size:14px;padding-top:14px}
.ledger small{display:block;opacity:.8;font-size:12px}
.ledger :target{background:rgba(240,228,66,.3)!important}
.ledger b i{display:inline-block;width:10px;height:10px;margin-right:4px}
.ledger svg{width:100%;height:16px}
.ledger path{fill:none;stroke:currentColor}
.ledger .p{stroke:#999;stroke-opacity:.45;stroke-width:10}
.ledger .d{stroke-opacity:.6;stroke-width:4.5;stroke-linecap:round}
.ledger .v{stroke:#C0392B;stroke-width:2}
.ledger .t{stroke:#C0392B;stroke-width:2;stroke-dasharray:3 2}
.ledger form{margin:8px 0;display:flex;flex-wrap:wrap;gap:8px;align-items:center}
.ledger [hidden]{display:none}
.ledger select,.ledger input,.ledger button{font:inherit;max-width:22em;padding:2px 6px;border:1px solid #888}
.ledger select,.ledger input,.ledger button{border-radius:3px;color:inherit;background:transparent}
.ledger option{color:#000;background:#fff}
@container (max-width:650px){
.ledger table{display:block;min-width:0}
.ledger thead{display:none}
.ledger tbody,.ledger .section th{display:block}
.ledger tr[id]:not([hidden]){display:grid;grid-template-columns:repeat(2,minmax(0,1fr))}
.ledger td:first-child{grid-column:1/3}
.ledger td{overflow-wrap:anywhere}
.ledger td::before{display:block;opacity:.8;font-size:12px}
""" + "".join(f'.ledger td:nth-child({i})::before{{content:"{name}"}}\n' for i, name in enumerate(HEAD[1:], 2)) + "}\n"
"""On a narrow screen, each claim is a block: the statement, and below it the other cells with their headings."""

_SCRIPT = """
for (const ledger of document.querySelectorAll('.ledger')) {
  if (ledger.querySelector('form')) continue;
  const form = document.createElement('form'), rows = [...ledger.querySelectorAll('tr[id]')];
  form.innerHTML = '<input type="search" placeholder="search" aria-label="search the claims">'
    + '<select aria-label="section"><option value="">every section</option></select>'
    + '<select aria-label="verdict"><option value="">every verdict</option></select>'
    + '<button type="reset">show all</button><output></output>';
  ledger.querySelector('.rows').before(form);
  const [words, section, verdict] = form.elements;
  for (const body of ledger.querySelectorAll('tbody'))
    section.add(new Option(body.querySelector('th').textContent, body.dataset.section));
  for (const one of new Set(rows.map((row) => row.dataset.verdict))) verdict.add(new Option(one));
  const show = () => {
    const sought = words.value.trim().toLowerCase().split(/\\s+/);
    let count = 0;
    for (const row of rows) {
      const text = (row.id + ' ' + row.textContent).toLowerCase();
      row.hidden = !(sought.every((word) => text.includes(word))
        && (!section.value || row.parentNode.dataset.section === section.value)
        && (!verdict.value || row.dataset.verdict === verdict.value));
      count += !row.hidden;
    }
    for (const body of ledger.querySelectorAll('tbody'))
      body.hidden = ![...body.querySelectorAll('tr[id]')].some((row) => !row.hidden);
    form.querySelector('output').value = count + ' of ' + rows.length + ' claims';
  };
  const seek = () => {
    const row = rows.find((one) => '#' + one.id === decodeURIComponent(location.hash));
    if (row && row.hidden) { form.reset(); show(); }
    if (row) row.scrollIntoView({block: 'center'});
  };
  form.onsubmit = () => false;
  form.oninput = show;
  form.onreset = () => setTimeout(show);
  show();
  seek();
  addEventListener('load', seek);
  addEventListener('hashchange', seek);
}
"""


@dataclass(frozen=True)
class LedgerPage:
    """The ledger as HTML. A notebook shows it as a table."""

    judgements: Sequence[Judgement]

    def _repr_html_(self) -> str:
        return fragment(self.judgements)

    def __repr__(self) -> str:
        return f"the ledger: {len(self.judgements)} claims"

    def write(self, path: str | Path, title: str = "The claims of the report and their tests") -> Path:
        """Write the ledger as a page of its own, and return the path. Raises RunError if it cannot be written."""
        page = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
            '<meta name="viewport" content="width=device-width">'
            "<style>body{font-family:sans-serif;max-width:1100px;margin:1em auto;padding:0 1em}</style>"
            f"<h1>{html.escape(title)}</h1>{fragment(self.judgements)}</html>\n"
        )
        written = read_path(path)
        write_atomically(written, page.encode())
        return written


def fragment(judgements: Sequence[Judgement]) -> str:
    """Return the table, its style and its script as HTML for the body of a page."""
    sections: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        sections.setdefault(judgement.claim.section, []).append(judgement)
    numbers = {section: str(number) for number, section in enumerate(sections, 1)}
    bodies = "".join(
        f'<tbody data-section="{numbers[section]}"><tr class="section"><th colspan="{len(HEAD)}">'
        f"{html.escape(section)}</th></tr>{''.join(map(_row, found))}</tbody>"
        for section, found in sections.items()
    )
    widths = "".join(f'<col style="width:{width}%">' for width in COLUMNS)
    head = "".join(f"<th>{name}</th>" for name in HEAD)
    return (
        f'<div class="ledger" lang="en"><style>{_STYLE}</style><div class="rows"><table class="claims">'
        f"<colgroup>{widths}</colgroup><thead><tr>{head}</tr></thead>{bodies}</table></div>"
        f"<script>{_SCRIPT}</script></div>"
    )


def _row(judgement: Judgement) -> str:
    claim, name = judgement.claim, f"claim-{judgement.claim.id}"
    lines = f"{'line' if len(judgement.lines) == 1 else 'lines'} {', '.join(map(str, judgement.lines))} of the report"
    testable = judgement.verdict is not Verdict.UNTESTABLE
    repeated = judgement.same_as and f"The same figure as <a href='#claim-{judgement.same_as}'>{judgement.same_as}</a>."
    smaller = [
        f"<a href='#{name}' title='link to this claim'>#</a> {claim.id}{f', {lines}' if judgement.lines else ''}",
        judgement.rule and testable and f"<em>Rule:</em> {html.escape(judgement.rule)}",
        judgement.evidence not in judgement.rule and f"<em>Evidence:</em> {html.escape(judgement.evidence)}",
        repeated, html.escape(judgement.note),
    ]
    statement = html.escape(claim.statement) + "".join(f"<small>{line}</small>" for line in smaller if line)
    measured = html.escape(measured_text(judgement)) + "".join(
        f"<small>{html.escape(line)}</small>" for line in decided_by(judgement)
    )
    mark = f"<b><i style='background:{COLOURS[judgement.verdict]}'></i>{judgement.verdict}</b>"
    cells = statement, html.escape(claimed(judgement)), measured, strip(judgement), mark
    return (
        f"<tr id='{name}' data-verdict='{judgement.verdict}'>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    )


def decided_by(judgement: Judgement) -> list[str]:
    """Return the interval that decides and the number of runs in which a statement is true, each as a text."""
    lines = []
    if judgement.interval is not None:
        low, high = judgement.interval
        lines.append(f"interval {shown(low, 3)} to {shown(high, 3)}")
    if judgement.holds is not None:
        k, n = judgement.holds
        lines.append(f"true in {k} of {n} runs")
    elif judgement.runs:
        lines.append(f"{judgement.runs} runs")
    return lines


def measured_text(judgement: Judgement) -> str:
    """Return the measured value with its unit and what it is: the median of the runs or the mean of a difference."""
    if judgement.condition is not None:
        unit = f" {judgement.condition.unit}" if judgement.condition.unit else ""
    else:
        unit = UNITS.get(judgement.claim.unit or "", "")
    number = isinstance(judgement.measured, int | float) and not isinstance(judgement.measured, bool)
    text = shown(judgement.measured, 4 if judgement.condition is None else 3) + unit * number
    if not judgement.runs:
        return text
    return f"mean difference {text}" if judgement.holds and judgement.interval else f"median {text}"


def claimed(judgement: Judgement) -> str:
    """Return the claimed value as the report prints it, with its unit, and with commas in large whole numbers."""
    claim = judgement.claim
    whole = claim.number is not None and claim.number.is_integer() and not claim.decimals
    return f"{shown(claim.number) if whole else claim.claimed}{UNITS.get(claim.unit or '', '')}"


def shown(value: Any, digits: int = 5) -> str:
    """Return a value as text: whole numbers with all their digits, other numbers with `digits` significant ones."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(shown(entry, digits) for entry in value)
    if not isinstance(value, int | float) or math.isinf(value):
        return str(value)
    if float(value).is_integer() or abs(value) >= 1e4:
        return f"{value:z,.0f}"
    return f"{value:z.{digits}g}"


def strip(judgement: Judgement) -> str:
    """Return the values of the seeds as a small drawing (SVG), or an empty text if there are none.

    Dots are the seeds, a grey bar is the interval that decides, and a red line is the claimed number. For a statement,
    broken red lines are its limits. An end of the interval that lies outside the drawing is not shown.
    """
    values = [value for value in judgement.values.values() if math.isfinite(value)]
    if not values:
        return ""
    number = judgement.claim.number if judgement.holds is None else None
    ends = [end for end in judgement.interval or () if math.isfinite(end)]
    limits = judgement.condition.limits if judgement.condition is not None else ()
    points = [*values, *ends, *limits, *([number] if number is not None else [])]
    place = _scale(points)
    dots = "".join(f"M{place(value):.0f} 8h0" for value in values)
    parts = [f"<path class='d' d='{dots}'/>"]
    said = [f"seeds from {shown(min(values))} to {shown(max(values))}"]
    if len(ends) == 2:
        parts.insert(0, f"<path class='p' d='M{place(ends[0]):.0f} 8H{place(ends[1]):.0f}'/>")
        said.append(f"interval from {shown(ends[0])} to {shown(ends[1])}")
    if number is not None:
        parts.append(f"<path class='v' d='M{place(number):.0f} 1v14'/>")
        said.append(f"claimed {shown(number)}")
    if limits:
        parts.append(f"<path class='t' d='{''.join(f'M{place(limit):.0f} 1v14' for limit in limits)}'/>")
        said.append(f"limit {' and '.join(map(shown, limits))}")
    return f"<svg viewBox='0 0 {WIDTH:.0f} 16' role='img' aria-label='{', '.join(said)}'>{''.join(parts)}</svg>"


def _scale(points: Sequence[float]) -> Callable[[float], float]:
    """Return a function from a value to its place in a strip, in pixels. The points fill the width."""
    low, high = min(points), max(points)
    logarithmic = low > 0 and high / low > LOGARITHMIC
    ends = [math.log(end) if logarithmic else end for end in (low, high)]
    span = ends[1] - ends[0]

    def place(value: float) -> float:
        offset = (math.log(value) if logarithmic else value) - ends[0]
        return MARGIN + offset / span * (WIDTH - 2 * MARGIN) if span > 0 else WIDTH / 2

    return place

"""The ledger as a page, and the figures of the report."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from chromium import REASON, SKIPPED, launched
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.patches import Rectangle

from ternary_lab.cli import main
from ternary_lab.figures import render
from ternary_lab.studies.report import Judgement, Verdict, claims_table, headline, judge_runs
from ternary_lab.studies.report.conditions import above
from ternary_lab.studies.report.error_rates import GIVEN, SHIFTS
from ternary_lab.studies.report.figures import (
    COLOURS,
    counted,
    error_rates,
    original_over_ours,
    share_inside,
    verdicts,
)
from ternary_lab.studies.report.ledger import Claim
from ternary_lab.studies.report.ledger_page import WIDTH, LedgerPage, claimed, fragment, measured_text, shown, strip
from ternary_lab.studies.report.original import original_runs

VOID = {"col", "input", "meta"}


@pytest.fixture(scope="module")
def judgements() -> list[Judgement]:
    return judge_runs(["v5_5"])


def _judgement(name: str = "x", **changes: Any) -> Judgement:
    claim = Claim(name, "part 1", "it is <b>", "metric", "q", "A", 50, 5.0, "pct", None, 2)
    plain: dict[str, Any] = {
        "claim": claim, "measured": 5.5, "low": 4.0, "high": 7.0, "runs": 2, "verdict": Verdict.NOT, "note": "",
    }
    return Judgement(**(plain | changes))


class _Elements(HTMLParser):
    """Start tags with their attributes. A tag that is not closed in order raises an AssertionError."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


# The page


def test_the_page_has_one_row_with_an_address_per_claim(judgements: list[Judgement]) -> None:
    elements = _Elements(fragment(judgements)).found
    rows = [a for tag, a in elements if tag == "tr" and "id" in a]
    sections = list(dict.fromkeys(j.claim.section for j in judgements))
    ordered = sorted(judgements, key=lambda j: sections.index(j.claim.section))
    assert [row["id"] for row in rows] == [f"claim-{j.claim.id}" for j in ordered]
    assert [row["data-verdict"] for row in rows] == [str(j.verdict) for j in ordered]
    assert sum(tag == "tbody" for tag, _ in elements) == len(sections)
    links = {str(a["href"]).removeprefix("#") for tag, a in elements if tag == "a"}
    assert links == {row["id"] for row in rows}
    assert all(a.get("aria-label") for tag, a in elements if tag == "svg")


def test_the_page_loads_nothing_and_escapes_what_it_shows(judgements: list[Judgement]) -> None:
    text = fragment([_judgement(note="a <script> & b", rule="x < 3")])
    assert "it is &lt;b&gt;" in text
    assert "a &lt;script&gt; &amp; b" in text
    assert "x &lt; 3" in text
    assert not re.search(r"(src|href)=['\"]?https?:|url\(|@import|\bsrc=|\bimport\(|fetch", fragment(judgements))


def test_a_row_shows_what_decides() -> None:
    text = fragment([
        _judgement(
            interval=(4.25, 7.5), values={42: 5.0, 43: 6.0}, lines=(13, 48), rule="in the interval", same_as="y",
            evidence="2 runs",
        ),
        _judgement("y", holds=(1, 2), lines=(7,)),
    ])
    for words in (
        "lines 13, 48 of the report", "line 7 of the report", "interval 4.25 to 7.5", "true in 1 of 2 runs",
        "in the interval", "2 runs", "href='#claim-y'", "5.00 %",
    ):
        assert words in text


def test_the_ledger_is_also_a_page_of_its_own(judgements: list[Judgement], tmp_path: Path) -> None:
    path = LedgerPage(judgements).write(tmp_path / "ledger.html")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert fragment(judgements) in text
    assert len(text) < 400_000


def test_the_command_writes_the_page(
    judgements: list[Judgement], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ternary_lab.studies.report.judge_runs", lambda sources, progress: judgements)
    result = CliRunner().invoke(main, ["claims", "v5_5", "--json", "--page", str(tmp_path / "claims.html")])
    assert result.exit_code == 0, result.output
    assert fragment(judgements) in (tmp_path / "claims.html").read_text(encoding="utf-8")
    assert len(json.loads(result.output)) == len(judgements)


@pytest.mark.skipif(SKIPPED, reason=REASON)
def test_the_page_filters_and_follows_addresses(judgements: list[Judgement], tmp_path: Path) -> None:
    file = LedgerPage(judgements).write(tmp_path / "ledger.html").as_uri()
    chosen = judgements[200]
    with launched() as browser:
        page = browser.new_page()
        page.goto(f"{file}#claim-{chosen.claim.id}")
        rows, count = page.locator(".ledger tr[id]:visible"), page.locator(".ledger output")
        assert count.inner_text() == f"{len(judgements)} of {len(judgements)} claims"
        assert page.locator(".ledger :is(input, select):not([aria-label])").count() == 0
        assert page.locator(f"#claim-{chosen.claim.id}").evaluate(
            "row => { const box = row.getBoundingClientRect(); return box.top >= 0 && box.bottom <= innerHeight }"
        )
        page.select_option("select[aria-label=verdict]", str(Verdict.NOT))
        wanted = [j for j in judgements if j.verdict is Verdict.NOT]
        assert rows.count() == len(wanted)
        section = wanted[0].claim.section
        page.select_option("select[aria-label=section]", label=section)
        wanted = [j for j in wanted if j.claim.section == section]
        assert [row.get_attribute("id") for row in rows.all()] == [f"claim-{j.claim.id}" for j in wanted]
        page.fill("input", "no such words")
        assert rows.count() == 0
        assert count.inner_text() == f"0 of {len(judgements)} claims"
        page.evaluate("name => { location.hash = name }", f"claim-{judgements[3].claim.id}")
        page.locator(f"#claim-{judgements[3].claim.id}").wait_for()
        page.wait_for_function("document.querySelectorAll('.ledger tr[id][hidden]').length === 0")


@pytest.mark.skipif(SKIPPED, reason=REASON)
def test_without_scripts_the_whole_table_is_shown(judgements: list[Judgement], tmp_path: Path) -> None:
    with launched() as browser:
        page = browser.new_context(java_script_enabled=False).new_page()
        page.goto(LedgerPage(judgements).write(tmp_path / "ledger.html").as_uri())
        assert page.locator(".ledger tr[id]:visible").count() == len(judgements)
        assert page.locator(".ledger form").count() == 0


# Numbers


@pytest.mark.parametrize(("value", "text"), [
    (168_770.0, "168,770"), (117499, "117,499"), (0.0, "0"), (-0.0, "0"), (-0.00001, "-1e-05"), (98.859999, "98.86"),
    (1368.4, "1368.4"), (12_345.67, "12,346"), (2_345_678.9, "2,345,679"), (math.nan, "–"), (None, "–"),
    (True, "yes"), ("cuda", "cuda"), ([60.0, 70.5], "60, 70.5"), (math.inf, "inf"),
])
def test_numbers_are_shown_with_their_digits(value: Any, text: str) -> None:
    assert shown(value) == text


def test_claimed_numbers_have_their_printed_digits() -> None:
    claim = _judgement().claim
    for value, decimals, unit, text in (
        (98.0, 2, "pct", "98.00 %"), (15746, 0, "count", "15,746"), (12.0975, 4, "nats", "12.0975 nats"),
        ([20, 30], 2, "pct_points", "20 to 30 points"), (2_000_000, None, "bytes", "2,000,000 bytes"),
    ):
        assert claimed(_judgement(claim=replace(claim, value=value, decimals=decimals, unit=unit))) == text


# The strips of seeds


def _places(svg: str) -> tuple[list[float], tuple[float, float] | None, float | None]:
    """Places of the dots, of the ends of the interval, and of the claimed number, in pixels."""
    dots = re.findall(r"M(-?\d+) 8h0", svg)
    bar, line = re.search(r"M(-?\d+) 8H(-?\d+)", svg), re.search(r"M(-?\d+) 1v14", svg)
    return [float(d) for d in dots], (float(bar[1]), float(bar[2])) if bar else None, float(line[1]) if line else None


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8), st.floats(-1e3, 1e3), st.floats(-1e3, 1e3),
    st.floats(0, 1e3),
)
@example([2e-311], 0.0, 0.0, 0.0)
def test_a_strip_keeps_the_order_of_what_it_shows(values: list[float], number: float, low: float, wide: float) -> None:
    claim = replace(_judgement().claim, value=number)
    judgement = _judgement(claim=claim, values=dict(enumerate(values)), interval=(low, low + wide))
    dots, bar, line = _places(strip(judgement))
    assert bar is not None
    assert line is not None
    real, drawn = [*values, low, low + wide, number], [*dots, *bar, line]
    assert all(0 <= place <= WIDTH for place in drawn)
    order = np.argsort(real, kind="stable")
    assert (np.diff(np.array(drawn)[order]) >= 0).all()


def test_a_strip_of_values_over_orders_of_magnitude_is_logarithmic() -> None:
    dots, _, _ = _places(strip(_judgement(values={1: 1.0, 2: 100.0, 3: 10_000.0}, holds=(1, 3))))
    assert dots[1] - dots[0] == pytest.approx(dots[2] - dots[1], abs=1)
    assert strip(_judgement()) == ""
    assert "NaN" not in strip(_judgement(values={1: 3.0, 2: 3.0}, claim=replace(_judgement().claim, value=3.0)))


def test_a_strip_of_a_statement_shows_its_limit_instead_of_a_claimed_number() -> None:
    dots, bar, limit = _places(strip(_judgement(values={1: 3.0, 2: 5.0}, holds=(1, 2), condition=above(4))))
    assert bar is None
    assert limit is not None
    assert dots[0] < limit < dots[1]
    assert "class='t'" in strip(_judgement(values={1: 3.0}, condition=above(4), holds=(0, 1)))
    assert _places(strip(_judgement(values={1: 3.0, 2: 4.0}, holds=(2, 2))))[1:] == (None, None)


def test_a_measured_value_has_its_unit_and_says_what_it_is() -> None:
    plain = _judgement()
    for judgement, text in (
        (plain, "median 5.5 %"), (_judgement(runs=0), "5.5 %"), (_judgement(measured="gradual", runs=0), "gradual"),
        (_judgement(condition=above(4, "nats"), holds=(2, 2)), "median 5.5 nats"),
        (_judgement(condition=above(4, "points"), holds=(2, 2), interval=(4.5, 6.5)), "mean difference 5.5 points"),
    ):
        assert measured_text(judgement) == text


# The figures


def test_the_figure_of_verdicts_shows_every_claim_and_what_the_headline_counts(judgements: list[Judgement]) -> None:
    drawing, counts = verdicts(judgements), headline(judgements)
    (axis,) = drawing.figure.axes
    widths = [patch.get_width() for patch in axis.patches if isinstance(patch, Rectangle)]
    assert len(widths) == counts.total
    assert sum(width > 0.5 for width in widths) == counts.tested == sum(map(counted, judgements))
    assert drawing.data.equals(claims_table(judgements))
    assert set(COLOURS) == set(Verdict)
    assert len(set(COLOURS.values())) == len(Verdict)
    render(drawing.figure, dpi=40)


def _history(values: list[float], seed: int) -> pd.DataFrame:
    columns = ["train_loss", *(f"{name}_{p}" for name in ("coverage", "kl", "H") for p in "AB"), "beta_B"]
    frame = pd.DataFrame(dict.fromkeys(columns, values)).assign(seed=seed, epoch=range(len(values)))
    return frame.assign(beta_B=[0.0] + [0.2] * (len(values) - 1))


def test_the_originals_runs_are_drawn_over_the_range_of_ours() -> None:
    ours = pd.concat([_history([1.0, 2.0, 3.0], 1), _history([2.0, 4.0, 5.0], 2)])
    theirs = pd.concat([_history([1.5, 3.0, 6.0, 9.0], 7), _history([0.5, 2.0, 5.0, 9.0], 8)])
    assert share_inside(ours, theirs[theirs["epoch"] < 3], ["kl_A"])["kl_A"] == pytest.approx(4 / 6)
    drawing = original_over_ours(ours, theirs)
    assert "2 runs printed by the original" in drawing.alt
    assert "KL B 67 %" in drawing.alt
    assert drawing.data.groupby("source")["epoch"].max().to_dict() == {"ours": 2, "original": 2}
    assert len(drawing.figure.axes) == 8
    render(drawing.figure, dpi=40)


def test_every_column_that_is_compared_is_printed_by_the_original() -> None:
    assert set(_history([1.0], 1).columns) <= set(original_runs().columns)


def test_the_figure_of_error_rates_stacks_to_100_percent() -> None:
    rows = [
        (unit, shift, str(verdict), 0.25, 0.1, 0.5, 80, 8)
        for unit, shifts in SHIFTS.items() for shift in shifts for verdict in GIVEN
    ]
    rates = pd.DataFrame(rows, columns=["unit", "shift", "verdict", "share", "low", "high", "n", "seeds"])
    drawing = error_rates(rates)
    for axis, shifts in zip(drawing.figure.axes, SHIFTS.values(), strict=True):
        heights = np.array([[bar.get_height() for bar in bars] for bars in axis.containers if hasattr(bars, "patches")
                            and len(bars.patches)])
        assert heights.shape == (len(GIVEN), len(shifts))
        assert heights.sum(axis=0).tolist() == pytest.approx([100.0] * len(shifts))
    assert "25 % at 4 deviations" in drawing.alt
    render(drawing.figure, dpi=40)

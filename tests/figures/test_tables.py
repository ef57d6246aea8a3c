"""Tables in a notebook: labels with units, escaped texts, and limits of width."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ternary_lab.figures.tables import MOST_COLUMNS, WIDEST, heading, table


class _Cells(HTMLParser):
    """The texts of the cells of a table, row by row."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        self.inside = tag in ("td", "th")
        if self.inside:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def test_headings_are_words_with_units() -> None:
    assert heading("informative_coverage_A") == "informative coverage A, %"
    assert heading("train_loss") == "training loss, nats"
    assert heading("active_units_B") == "active units B"
    assert heading("own heading") == "own heading"


@given(st.lists(st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=1), min_size=1))
def test_every_text_arrives_as_it_is(texts: list[str]) -> None:
    shown = table(pd.DataFrame({"a": texts}), "<caption>", index=False)
    assert _Cells(shown._repr_html_()).rows == [["a"], *([text] for text in texts)]


def test_numbers_have_their_form_and_missing_values_a_dash() -> None:
    frame = pd.DataFrame({"seed": [1, 2], "neg_elbo_A": [14.123456, float("nan")], "ends": [True, False]})
    shown = table(frame.set_index("seed"), form={"neg_elbo_A": ".2f"}, columns={"seed": "run"})
    assert _Cells(shown._repr_html_()).rows == [
        ["run", "-ELBO A, nats", "ends"], ["1", "14.12", "yes"], ["2", "–", "no"],
    ]


def test_a_table_of_too_many_columns_is_refused() -> None:
    frame = pd.DataFrame({f"c{i}": [0] for i in range(MOST_COLUMNS + 1)})
    with pytest.raises(ValueError, match=f"at most {MOST_COLUMNS}"):
        table(frame, index=False)
    with pytest.raises(ValueError, match=f"at most {MOST_COLUMNS}"):
        table(frame.drop(columns="c0"))


@given(st.lists(st.text(max_size=300), min_size=1, max_size=5))
def test_no_line_of_the_plain_text_is_longer_than_the_limit(texts: list[str]) -> None:
    texts = [re.sub(r"\s", " ", text) for text in texts]
    assert all(len(line) <= WIDEST for line in repr(table(pd.DataFrame({"a": texts}), "x" * 300)).split("\n"))

"""Tables in a notebook: HTML with labels and units, and plain text for readers without a browser."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd

from ternary_lab.metrics.quantities import QUANTITIES, label

MOST_COLUMNS = 7
"""Largest number of columns of a table, with the row labels. A page of the documentation has room for no more."""
WIDEST = 100
"""Largest number of characters in a line of the plain text."""


@dataclass(frozen=True)
class Table:
    """A table of texts with a caption. A notebook shows it as HTML."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    numeric: Sequence[bool]
    """True for each column of numbers. These columns are aligned to the right."""

    def _repr_html_(self) -> str:
        sides = ["right" if number else "left" for number in self.numeric]
        head = "".join(_cell("th", text, side) for text, side in zip(self.head, sides, strict=True))
        body = "".join(
            "<tr>" + "".join(_cell("td", text, side) for text, side in zip(row, sides, strict=True)) + "</tr>"
            for row in self.rows
        )
        caption = (
            f'<caption style="text-align: left; caption-side: top">{html.escape(self.caption)}</caption>'
            if self.caption else ""
        )
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def __repr__(self) -> str:
        widths = [max(len(row[i]) for row in (self.head, *self.rows)) for i in range(len(self.head))]
        lines = [
            "  ".join(
                text.rjust(width) if number else text.ljust(width)
                for text, width, number in zip(row, widths, self.numeric, strict=True)
            ).rstrip()
            for row in (self.head, *self.rows)
        ]
        lines = [*([self.caption] if self.caption else []), *lines]
        return "\n".join(line[:WIDEST] for line in lines)


def _cell(tag: str, text: str, side: str) -> str:
    return f'<{tag} style="text-align: {side}">{html.escape(text)}</{tag}>'


def table(
    frame: pd.DataFrame,
    caption: str = "",
    *,
    columns: Mapping[str, str] | None = None,
    form: str | Mapping[str, str] = ".4g",
    index: bool = True,
) -> Table:
    """Return a data frame as a table for a notebook.

    The names of quantities, such as `informative_coverage_A`, become words with a unit. A missing value is a dash.

    Args:
        caption: what the table shows, with the number of seeds and the meaning of the brackets.
        columns: headings that replace those of the frame, by column; the name of the index stands for its column.
        form: format of the numbers: one for all, or one for each column (by the name in the frame).
        index: whether the row labels are columns of the table.

    Raises ValueError if the table has more than `MOST_COLUMNS` columns.
    """
    shown = frame.reset_index() if index else frame
    if len(shown.columns) > MOST_COLUMNS:
        raise ValueError(f"a table of {len(shown.columns)} columns is too wide: show at most {MOST_COLUMNS}")
    given = columns or {}
    head = [given.get(str(name), heading(str(name))) for name in shown.columns]
    forms = [form if isinstance(form, str) else form.get(str(name), ".4g") for name in shown.columns]
    rows = [
        [_text(value, one) for value, one in zip(row, forms, strict=True)]
        for row in shown.itertuples(index=False, name=None)
    ]
    numeric = [all(_numeric(row[i]) for row in rows) for i in range(len(head))]
    return Table(head, rows, caption, numeric)


def show_table(frame: pd.DataFrame, caption: str = "", **options: Any) -> None:
    """Display a data frame as a table in a notebook; `options` are those of `table`."""
    from IPython.display import display

    display(table(frame, caption, **options))  # type: ignore[no-untyped-call]


def heading(name: str) -> str:
    """Return the heading of a column: words and unit of a quantity, with its pathway, or the name itself.

    For example, `neg_elbo_A` gives "-ELBO A, nats".
    """
    quantity, pathway = (name[:-2], name[-1]) if name[-2:] in ("_A", "_B") else (name, "")
    if quantity not in QUANTITIES:
        return name
    if not pathway:
        return label(quantity)
    found = QUANTITIES[quantity]
    return ", ".join(part for part in (f"{found.words} {pathway}", found.unit) if part)


def _text(value: Any, form: str) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return "–"
    if isinstance(value, Real):
        return format(value, form if not isinstance(value, Integral) or "," in form or form.endswith("d") else "d")
    return str(value)


def _numeric(text: str) -> bool:
    """Return whether a text is a number, a dash, or a number with others in brackets."""
    return re.fullmatch(r"[-+–−±\d.,eEinfa%× \[\]/]*", text) is not None

"""HTML of truth tables, lists and error bars for the views."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ternary_lab import space
from ternary_lab.explorer.operation_picker import operation_name
from ternary_lab.figures.style import BLUE, ENTRY, VERMILION

SIGN = {-1: "−", 0: "0", 1: "+"}


def truth_table(
    values: Sequence[int],
    *,
    label: str,
    strength: Sequence[float] = (),
    reference: int | None = None,
    small: bool = False,
) -> str:
    """Return the HTML of a truth table of 3 by 3 entries.

    The table has one row for each value of the first argument. Each entry also shows a sign, so that the table can be
    read without colours.

    Args:
        label: description for a screen reader.
        strength: one number in 0..1 for each entry. It sets the opacity of the entry's colour and is written below the
            entry, in percent.
        reference: index of an operation. Entries that differ from the entries of this operation have a frame.
    """
    cells = []
    expected = values if reference is None else entries(reference)
    for k, value in enumerate(values):
        colour, note = ENTRY[value], ""
        if strength:
            colour += f"{round(255 * min(max(strength[k], 0.0), 1.0)):02x}"
            note = f"<small>{100 * strength[k]:.0f} %</small>"
        frame = ' class="tl-wrong"' if value != expected[k] else ""
        cells.append(f'<td{frame} style="background:{colour}">{SIGN[value]}{note}</td>')
    rows = "".join(f"<tr>{''.join(cells[i:i + 3])}</tr>" for i in (0, 3, 6))
    kind = "tl-op tl-small" if small else "tl-op"
    return f'<table class="{kind}" aria-label="{html.escape(label)}">{rows}</table>'


def captioned(content: str, caption: str) -> str:
    """Return HTML that shows `content` with `caption` below it. Both arguments are HTML."""
    return f"<figure>{content}<figcaption>{caption}</figcaption></figure>"


def operation_table(index: int, caption: str = "", *, reference: int | None = None, small: bool = False) -> str:
    """Return the `truth_table` of an operation, with the operation's name and a caption below."""
    name = operation_name(index)
    table = truth_table(entries(index), label=f"operation {name}", reference=reference, small=small)
    return captioned(table, f"{name}<br>{caption}")


def decoded_table(q: Tensor, *, label: str, reference: int | None = None) -> str:
    """Return the `truth_table` with the most probable value of each entry, for probabilities q (9, 3).

    q[k, v] is the probability that entry k has the value v - 1.
    """
    highest, classes = q.max(-1)
    return truth_table((classes - 1).tolist(), label=label, strength=highest.tolist(), reference=reference)


def entries(index: int) -> list[int]:
    """Return the nine entries of an operation, each -1, 0 or 1."""
    values: list[int] = space.operations(torch.tensor(index)).int().tolist()
    return values


def probability(value: float) -> str:
    """Format a probability with few characters: 0.314, 2.1e-05, 0."""
    return f"{value:.3f}" if value >= 0.0995 else f"{value:.2g}"


def list_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table with a line of column headings and one line for each row."""
    top = "".join(f"<th>{head}</th>" for head in heads)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<figure><table class="tl-list"><tr>{top}</tr>{lines}</table></figure>'


def error_bars(mean: Sequence[float], spread: Sequence[float], label: str) -> str:
    """Return an SVG plot of mean ± spread for each item. The axis covers at least ±3."""
    width, height = 13 * len(mean) + 34, 84
    top = max(3.0, *(abs(m) + s for m, s in zip(mean, spread, strict=True)))

    def y(value: float) -> float:
        return height / 2 - value / top * (height / 2 - 6)

    marks = [f'<line x1="30" x2="{width}" y1="{y(0):.1f}" y2="{y(0):.1f}" stroke="#bbb"/>']
    marks += [
        f'<text x="26" y="{y(v) + 3:.1f}" font-size="9" text-anchor="end">{v:.3g}</text>' for v in (-top, 0, top)
    ]
    for x, m, s in zip(range(37, width, 13), mean, spread, strict=True):
        ends = f'x1="{x}" x2="{x}" y1="{y(m - s):.1f}" y2="{y(m + s):.1f}"'
        marks.append(f'<line {ends} stroke="{BLUE}" stroke-width="2"/>')
        marks.append(f'<circle cx="{x}" cy="{y(m):.1f}" r="2.6" fill="{VERMILION}"/>')
    return (
        f'<svg role="img" aria-label="{label}" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f"{''.join(marks)}</svg>"
    )

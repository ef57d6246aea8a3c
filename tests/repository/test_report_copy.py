"""The copy of the original's report in the documentation has the lines that the ledger of claims names."""

from __future__ import annotations

import re
from pathlib import Path

from ternary_lab.studies.report import ledger

PAGE = Path(__file__).parents[2] / "docs" / "report.md"
PRINTED = ("coverage_sampled_pct", "kl_nats", "train_loss", "val_loss")
"""Quantities whose values the report prints as the ledger does."""


def test_every_line_that_the_ledger_names_prints_the_number_of_its_claim() -> None:
    (text,) = re.findall(
        r'^````text linenums="1"\n(.*?)^````$', PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    lines, compared = text.splitlines(), 0
    for claim in ledger().claims.values():
        if claim.number and claim.quantity in PRINTED and "Approximate" not in (claim.note or ""):
            compared += 1
            assert all(claim.claimed in lines[place - 1] for place in ledger().lines[claim.id]), claim.id
    assert compared > 20
    assert len(lines) >= max(max(places) for places in ledger().lines.values())

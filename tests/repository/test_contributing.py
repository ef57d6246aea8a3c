"""CONTRIBUTING.md names files that exist, with their number of lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CHANGES = TEXT[TEXT.index("## Where a change goes"):TEXT.index("## Rules")]
READING = re.findall(r"^\| `([\w/]+)` \| ([\d,]+) \|", TEXT, re.MULTILINE)
CELLS = re.findall(r"^\| .* \| (.+) \|$", CHANGES, re.MULTILINE)
PLACES = [place for cell in CELLS for place in re.findall("`([^`]+)`", cell)]
ORDER = (
    "space", "model", "losses", "schedules", "controllers", "training/step", "training/cohort", "training/train",
    "metrics/coverage", "metrics/information",
)


def test_the_reading_order_and_its_line_counts() -> None:
    assert tuple(name for name, _ in READING) == ORDER
    for name, count in READING:
        lines = len((ROOT / "ternary_lab" / f"{name}.py").read_text(encoding="utf-8").splitlines())
        assert count == f"{10 * round(lines / 10):,}", f"CONTRIBUTING.md: {name} has {lines} lines, not {count}"


def test_the_check_reads_the_tables() -> None:
    assert len(PLACES) > 50


@pytest.mark.parametrize("place", sorted(set(PLACES) - {"figures.py"}))
def test_every_place_exists(place: str) -> None:
    inside = ROOT / "ternary_lab" / place
    assert inside.with_suffix(".py").is_file() or inside.is_dir() or (ROOT / place).exists()

"""Every number of a README finding is in the notebook that it links to, and every link leads to a file."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FINDINGS = re.findall(r"^\d\. (.+?)\[`\w+`\]\((notebooks/\w+\.ipynb)\)$", README, re.MULTILINE | re.DOTALL)
NAMES = r"v5\.5|at epoch 100|epoch 50\b|at 49\b|at 50\b"
"""Names that contain numbers."""


def _read(notebook: Path) -> str:
    """The text of a notebook, its answer, and the outputs that CI compares."""
    shown = []
    answering = False
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "markdown":
            answering |= cell.source.startswith("## Answer")
            shown.append(cell.source)
        elif not answering and not cell.source.startswith("# NBVAL_CHECK_OUTPUT"):
            continue
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            shown.append(output.get("text", "") + data.get("text/markdown", data.get("text/plain", "")))
    return "\n".join(shown)


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", text)


def test_there_are_five_findings() -> None:
    assert len(FINDINGS) == 5


@pytest.mark.parametrize(("finding", "notebook"), FINDINGS, ids=[Path(notebook).stem for _, notebook in FINDINGS])
def test_every_number_of_a_finding_is_in_its_notebook(finding: str, notebook: str) -> None:
    there = set(_numbers(_read(ROOT / notebook)))
    missing = [number for number in _numbers(re.sub(NAMES, "", finding)) if number not in there]
    assert not missing


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_every_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).exists()

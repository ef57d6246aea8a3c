"""Every number of a README finding is in an output that CI computes again, and every link leads to a file."""

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
CHECKED = "nbval-check-output"


def _read(notebook: Path) -> str:
    """Return the outputs of a notebook that CI computes again and compares."""
    shown = []
    for cell in nbformat.read(notebook, as_version=4).cells:
        if CHECKED in cell.metadata.get("tags", []):
            for output in cell.outputs:
                data = output.get("data", {})
                shown += [output.get("text", ""), *(data.get(f"text/{kind}", "") for kind in ("markdown", "plain"))]
                shown.append(re.sub(r"<[^>]*>", " ", data.get("text/html", "") if "<table" in str(data) else ""))
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

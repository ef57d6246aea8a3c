"""Every number of a README finding is in an output that CI computes again, and every link leads to a file."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import nbformat
import pytest

from ternary_lab import load_runs, space
from ternary_lab.cli.reproduce import ALL_SEEDS
from ternary_lab.config_files import shipped_counterfactuals
from ternary_lab.metrics.evaluate import SAMPLES
from ternary_lab.studies.report import ledger
from ternary_lab.studies.report.original import original_code
from ternary_lab.studies.statistics import LEVEL

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FINDINGS = re.findall(r"^\d\. (.+?)\[`\w+`\]\((notebooks/\w+\.ipynb)\)$", README, re.MULTILINE | re.DOTALL)
NAMES = r"v5\.5|at epoch 100|epoch 50\b|at 49\b|at 50\b"
"""Names that contain numbers."""
CHECKED = "nbval-check-output"
FLAGS = re.MULTILINE | re.DOTALL


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


def test_there_are_six_findings() -> None:
    assert len(FINDINGS) == 6


@pytest.mark.parametrize(("finding", "notebook"), FINDINGS, ids=[Path(notebook).stem for _, notebook in FINDINGS])
def test_every_number_of_a_finding_is_in_its_notebook(finding: str, notebook: str) -> None:
    there = set(_numbers(_read(ROOT / notebook)))
    missing = [number for number in _numbers(re.sub(NAMES, "", finding)) if number not in there]
    assert not missing


def _facts() -> set[str]:
    """Return the numbers of README outside the findings and the table of speed, each computed."""
    code, project = original_code(), tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    seconds = [f"{value:.1f}" for value in code.measured_here["seconds_per_epoch"]]
    speed = json.loads((ROOT / "benchmarks" / "cpu.json").read_text())
    needed = (project["requires-python"], *project["dependencies"])
    minimal = [_numbers(requirement) for requirement in needed]
    return {
        *_numbers(f"3^{space.ENTRIES} = {space.SIZE:,}"), *(number for found in minimal for number in found),
        str(len(shipped_counterfactuals()) * len(ALL_SEEDS)), str(len(ALL_SEEDS)), f"{100 * LEVEL:.0f}", *seconds,
        f"{code.measured_here['seconds_to_count_195000_draws']:.1f}", f"{SAMPLES:,}",
        str(len(code.without_effect)), str(code.setting_count), str(len(load_runs("v5_5")[42].epochs)),
        str(len(ledger().claims)), f"{ledger().v('coverage-b-epoch-69'):.2f}", f"{speed['original_work_seconds']:.2f}",
    }


def test_every_other_number_is_computed_here() -> None:
    """Numbers in commands, in names of files and in the table of speed, which `test_speed` compares, are left out."""
    text = re.sub(r"^## Speed.*?(?=^## )|^\d\. .+?\(notebooks/\w+\.ipynb\)$|^    [^\n]*$", "", README, flags=FLAGS)
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)|" + NAMES, "", text, flags=re.DOTALL)
    assert set(_numbers(text)) - _facts() == set()


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_every_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).exists()

"""Every number of a README finding is in an output that CI computes again."""

from __future__ import annotations

import json
import math
import re
import tomllib
from pathlib import Path

import nbformat
import pytest

from ternary_lab import load_runs, space
from ternary_lab.cli.reproduce import ALL_SEEDS
from ternary_lab.errors import EXTRAS
from ternary_lab.metrics.evaluate import SAMPLES
from ternary_lab.studies.epoch50_disruption.animation import SHOWN
from ternary_lab.studies.report import ledger
from ternary_lab.studies.report.original import original_code
from ternary_lab.studies.statistics import LEVEL

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FINDINGS = re.findall(r"^\d\. (.+?)\[`\w+`\]\((notebooks/\w+\.ipynb)\)$", README, re.MULTILINE | re.DOTALL)
NAMES = r"v5\.5|at epoch 100|epoch 50\b|at 49\b|at 50\b|finding \d"
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


def test_there_are_five_findings_and_few_words() -> None:
    assert len(FINDINGS) == 5
    assert len(README.split()) < 900


@pytest.mark.parametrize(("finding", "notebook"), FINDINGS, ids=[Path(notebook).stem for _, notebook in FINDINGS])
def test_every_number_of_a_finding_is_in_its_notebook(finding: str, notebook: str) -> None:
    there = set(_numbers(_read(ROOT / notebook)))
    missing = [number for number in _numbers(re.sub(NAMES, "", finding)) if number not in there]
    assert not missing


def _facts() -> set[str]:
    """Return the numbers of README outside the findings, each computed."""
    code, project = original_code(), tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    seconds = [f"{value:.1f}" for value in code.measured_here["seconds_per_epoch"]]
    cpu, gpu = (json.loads((ROOT / "benchmarks" / f"{name}.json").read_text()) for name in ("cpu", "cuda"))
    epochs = (cpu["cohorts"]["1"], gpu["cohorts"]["1"], gpu["cohorts"]["512"])
    history = load_runs("v5_5").history
    learnt = history[history["epoch"] == 100][["informative_coverage_A", "informative_coverage_B"]].median()
    noise = 1 / space.SIZE
    return {
        *_numbers(f"3^{space.ENTRIES} = {space.SIZE:,}"), *_numbers(project["requires-python"]),
        str(len(ALL_SEEDS)), f"{100 * LEVEL:.0f}", *seconds, str(ALL_SEEDS[0]), str(ALL_SEEDS[-1]),
        f"{100 * (1 - (1 - noise) ** SAMPLES):.3f}", f"{100 * noise:.3f}",
        *(f"{value:.1f}" for value in learnt), *(f"{row['epoch_seconds']:.2f}" for row in epochs), "512",
        f"{math.log(space.SIZE):.2f}", f"{SHOWN:,}",
        *(str(int(value)) for value in space.operations().unique() if value >= 0),
        *_numbers(gpu["device"]), str(len(code.without_effect)), str(code.setting_count),
        str(len(ledger().claims)), f"{ledger().v('coverage-b-epoch-69'):.2f}", f"{cpu['original_work_seconds']:.2f}",
    }


def test_every_other_number_is_computed_here() -> None:
    """Numbers in commands and in names of files are left out."""
    text = re.sub(r"^\d\. .+?\(notebooks/\w+\.ipynb\)$|^    [^\n]*$", "", README, flags=FLAGS)
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)|" + NAMES, "", text, flags=re.DOTALL)
    assert set(_numbers(text)) - _facts() == set()


def test_the_page_on_installation_names_requirements_and_extras() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = dict(requirement.split(">=") for requirement in project["dependencies"])
    assert f"You need Python {project['requires-python'].removeprefix('>=')} or newer;" in page
    assert f"the torch ({oldest['torch']} or newer) and the pandas ({oldest['pandas']} or" in page
    assert "ten run-time dependencies" in page
    assert len(oldest) == 10
    assert re.findall(r"^\| `pip install '\.\[(\w+)\]'` \|", page, re.MULTILINE) == list(EXTRAS)

"""The committed notebooks: well formed, and a single changed number in a checked output turns CI red."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest

from ternary_lab import notebooks

FOLDER = Path(__file__).parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
MARK = "# NBVAL_CHECK_OUTPUT"
STRICT = {"01_ternary_space"}
"""Notebooks of which every output is compared."""


def _checked_with_number(notebook: nbformat.NotebookNode, strict: bool) -> int:
    """Index of the first checked cell whose stored text holds a number."""
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and (strict or cell.source.startswith(MARK)):
            text = "".join(output.get("text", "") for output in cell.outputs)
            if re.search(r"\d", text):
                return index
    raise AssertionError("no checked cell with a number")


def _nbval(path: Path) -> subprocess.CompletedProcess[str]:
    mode = "--nbval" if path.stem in STRICT else "--nbval-lax"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", mode, "--nbval-current-env"]
    return subprocess.run([*command, path.name], cwd=path.parent, capture_output=True, text=True, timeout=600)


def test_there_are_notebooks() -> None:
    assert [path.stem for path in PATHS] == [
        "00_start_here", "01_ternary_space", "02_train", "03_latent_entropy", "04_epoch50_disruption", "05_coverage",
        "06_latent_explorer", "07_generalisation", "08_checkpoints_and_ensembles", "09_beyond_v55",
        "10_sweep", "11_report",
    ]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_committed_notebook_is_well_formed(path: Path) -> None:
    assert notebooks.check_notebook(path) == []
    assert _checked_with_number(nbformat.read(path, as_version=4), path.stem in STRICT) > 0


@pytest.mark.parametrize("path", [
    pytest.param(path, id=path.stem, marks=() if path.stem in STRICT else pytest.mark.slow) for path in PATHS
])
def test_one_changed_digit_turns_the_check_red(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    index = _checked_with_number(notebook, path.stem in STRICT)
    # What follows the checked cell takes minutes in some notebooks and decides nothing here.
    notebook.cells = notebook.cells[: index + 1]
    intact, changed = tmp_path / path.name, tmp_path / "changed" / path.name
    changed.parent.mkdir()
    nbformat.write(notebook, intact)
    output = next(o for o in notebook.cells[index].outputs if re.search(r"\d", o.get("text", "")))
    last = list(re.finditer(r"\d", output.text))[-1]
    digit = str((int(last.group()) + 1) % 10)
    output.text = output.text[: last.start()] + digit + output.text[last.end() :]
    nbformat.write(notebook, changed)
    with ThreadPoolExecutor(2) as both:
        green, red = both.map(_nbval, (intact, changed))
    assert green.returncode == 0, green.stdout
    assert red.returncode == 1, red.stdout
    assert "mismatch" in red.stdout

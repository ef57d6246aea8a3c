"""The committed notebooks are well formed, and a single changed digit in a checked output fails the check."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from small import SMALL

from ternary_lab import load_runs, notebooks
from ternary_lab.runs.load import PUBLISHED
from ternary_lab.runs.locks import LOCK

FOLDER = Path(__file__).parents[2] / "notebooks"
TRAINING = FOLDER / "02_train.ipynb"
PATHS = sorted(FOLDER.glob("*.ipynb"))
MARK = "nbval-check-output"
STRICT = {"01_ternary_space"}
"""Notebooks whose outputs are all compared."""
TEXTS = ("plain", "markdown", "html")
NEGATIVE_ZERO = re.compile(r"(?<![\w.+-])[-−]0(?:\.0*)?(?:[eE][+-]?\d+)?(?![\w+-]|\.?\d)")
"""A number by itself: neither in 0-119, which is a range, nor in -0+000-0+, which is an operation."""


def _checked_with_number(notebook: nbformat.NotebookNode, strict: bool) -> tuple[int, nbformat.NotebookNode, str]:
    """Return the first checked cell whose stored text has a number: its index, the output, and the key of the text."""
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and (strict or MARK in cell.metadata.get("tags", [])):
            for output in cell.outputs:
                texts = output if "text" in output else output.get("data", {})
                for key in ("text", "text/markdown", "text/plain"):
                    if re.search(r"\d", texts.get(key, "")) and "image" not in "".join(texts.get("text/html", "")):
                        return index, texts, key
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
    assert _checked_with_number(nbformat.read(path, as_version=4), path.stem in STRICT)[0] > 0


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_opens_with_its_question_and_answers_it_before_the_evidence(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert re.match(r"# [^\n]+\n\n\*\*[^*]+\?\*\*", cells[0].source)
    headings = re.findall(r"^## (.+)$", "\n".join(c.source for c in cells if c.cell_type == "markdown"), re.MULTILINE)
    assert headings[0] == "Answer"
    at = next(i for i, cell in enumerate(cells) if "## Answer" in cell.source)
    answer = next(cell for cell in cells[at:] if cell.cell_type == "code")
    assert "hide-input" in answer.metadata.tags
    assert any("text/markdown" in output.get("data", {}) for output in answer.outputs)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_folded_code_is_folded_everywhere(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        folded = "hide-input" in cell.metadata.get("tags", [])
        assert folded == cell.metadata.get("jupyter", {}).get("source_hidden", False), cell.source


@pytest.mark.parametrize(("text", "there"), [
    ("-0", True), ("-0.0", True), ("[-0.00, +0.05]", True), ("-0.00 %", True), ("−0", True), ("-0e+00", True),
    ("0", False), ("-0.5", False), ("-0.001", False), ("0-119", False), ("-0+000-0+", False), ("1e-0", False),
])
def test_a_negative_zero_is_recognised(text: str, there: bool) -> None:
    assert (NEGATIVE_ZERO.search(f"x {text} y") is not None) == there


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_no_output_has_a_negative_zero(path: Path) -> None:
    """The sign of a rounded zero depends on rounding errors. The format `z`, as in `+z.2f`, omits it."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    found = [
        text[max(match.start() - 40, 0) : match.end()]
        for cell in cells for output in cell.outputs
        for text in (output.get("text", ""), *(output.get("data", {}).get(f"text/{kind}", "") for kind in TEXTS))
        for match in NEGATIVE_ZERO.finditer(text)
    ]
    assert found == []


@pytest.mark.parametrize("path", [
    pytest.param(path, id=path.stem, marks=() if path.stem in STRICT else pytest.mark.slow) for path in PATHS
])
def test_one_changed_digit_turns_the_check_red(path: Path, tmp_path: Path) -> None:
    """The cells before the changed one pass."""
    notebook = nbformat.read(path, as_version=4)
    index, texts, key = _checked_with_number(notebook, path.stem in STRICT)
    # The cells after the checked one take minutes in some notebooks and are not needed here.
    notebook.cells = notebook.cells[: index + 1]
    last = list(re.finditer(r"\d", texts[key]))[-1]
    digit = str((int(last.group()) + 1) % 10)
    texts[key] = texts[key][: last.start()] + digit + texts[key][last.end() :]
    nbformat.write(notebook, tmp_path / path.name)
    checked = _nbval(tmp_path / path.name)
    before = sum(cell.cell_type == "code" for cell in notebook.cells[:index])
    assert checked.returncode == 1, checked.stdout
    assert re.search(rf"\b1 failed, {before} passed", checked.stdout), checked.stdout
    assert "mismatch" in checked.stdout


def test_the_training_notebook_shows_a_run_that_has_ended(tmp_path: Path) -> None:
    """With the published run in the place of its own, the notebook trains nothing and gives the stored outputs."""
    source, target = PUBLISHED / "v5_5" / "seed=42", tmp_path / "runs" / "v5_5" / "seed=42"
    shutil.copytree(source, target)
    (tmp_path / "notebooks").mkdir()
    shutil.copy(TRAINING, tmp_path / "notebooks")
    checked = _nbval(tmp_path / "notebooks" / TRAINING.name)
    assert checked.returncode == 0, checked.stdout
    assert {path.name for path in target.iterdir()} == {LOCK, *(path.name for path in source.iterdir())}


def test_the_training_notebook_trains(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL.as_yaml())
    values = {"config": str(tmp_path / "small.yaml"), "seeds": [1, 2], "run_dir": str(tmp_path / "runs")}
    notebooks.run_notebook(TRAINING, tmp_path / "out.ipynb", {**values, "device": "cpu"}, progress=False)
    assert [len(run.history) for run in load_runs(tmp_path / "runs").values()] == [3, 3]
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    said = [
        output.data["text/markdown"] for cell in executed.cells for output in cell.get("outputs", [])
        if "text/markdown" in output.get("data", {})
    ]
    assert [text.split("\n")[0] for text in said if text.startswith("Seed")] == [
        "Seed 1 ran for 3 epochs (complete: 3 epochs)."
    ]

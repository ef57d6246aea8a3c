"""JupyterLab opens for every user, the explorer starts no server, and no kernel is left."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from small import SMALL

from ternary_lab import run_experiment
from ternary_lab.notebooks.run import run_notebook

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def _command(target: str, folder: Path, user: int, *words: str) -> list[str]:
    """The words of the last command of a target, which is not executed, for a user with the number `user`."""
    (folder / "id").write_text(f"#!/bin/sh\necho {user}\n")
    (folder / "id").chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    call = ["make", "--no-print-directory", "--dry-run", target, *words]
    printed = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    return printed.replace("\\\n", " ").splitlines()[-1].split()


@pytest.mark.parametrize("user", [0, 1000])
def test_jupyter_gets_its_options_and_opens_as_root(tmp_path: Path, user: int) -> None:
    words = _command("lab", tmp_path, user, "ARGS=--no-browser --port 9999")
    assert words[-4:] == ["--no-browser", "--port", "9999", "notebooks/00_start_here.ipynb"]
    assert ("--allow-root" in words) == (user == 0)


def test_the_explorer_starts_no_server(tmp_path: Path) -> None:
    words = _command("explore", tmp_path, 1000, "ARGS=runs/mine --no-prior")
    assert Path(words[0]).name == "ternary-lab"
    assert words[1] == "explore"
    assert words[-2:] == ["runs/mine", "--no-prior"]


def test_a_notebook_with_widgets_leaves_no_kernel(tmp_path: Path) -> None:
    """Not even if a widget computes or waits in the background when the last cell ends."""
    run_experiment(SMALL, [1], tmp_path / "runs", device="cpu")
    cells = (
        "import os\nfrom ternary_lab.explorer import Explorer, watch\nprint(os.getpid())", "Explorer('runs/seed=1')",
        "watch('nowhere')",
    )
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, tmp_path / "book.ipynb")
    executed = nbformat.read(run_notebook(tmp_path / "book.ipynb", tmp_path / "out.ipynb"), as_version=4)
    kernel = int(executed.cells[0].outputs[0].text)
    with pytest.raises(ProcessLookupError):
        os.kill(kernel, 0)
    assert "widgets" not in executed.metadata
    assert (tmp_path / "out.ipynb").stat().st_size < 2**20

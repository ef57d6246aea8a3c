"""The servers of the Makefile: JupyterLab opens for every user, and no server keeps kernels that no page uses."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

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


def test_idle_kernels_of_the_explorer_end(tmp_path: Path) -> None:
    words = _command("explore", tmp_path, 1000, "ARGS=--port 9999")
    settings = dict(word.removeprefix("--").split("=") for word in words if "=" in word)
    assert 60 <= int(settings["MappingKernelManager.cull_idle_timeout"]) <= 3600
    assert int(settings["MappingKernelManager.cull_interval"]) <= 300
    assert "MappingKernelManager.cull_connected" not in settings  # an open page keeps its kernel
    assert words[-2:] == ["--port", "9999"]

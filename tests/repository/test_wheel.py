"""The wheel contains everything that the package needs, and it works in an empty environment."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from packaging.metadata import Metadata
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LARGEST = 45e6
"""Largest accepted size of a file in bytes."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _build(output: Path, *kinds: str) -> Path:
    """The wheel; without `kinds` it is built from a source distribution."""
    command = [sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", str(output), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = output.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(_build(tmp_path_factory.mktemp("dist"), "--wheel")) as archive:
        yield archive


def _content(folder: str, pattern: str, inside: str) -> dict[str, Path]:
    """Name in the wheel -> file in the repository."""
    files = (path for path in (ROOT / folder).rglob(pattern) if path.is_file() and "__pycache__" not in path.parts)
    return {f"{inside}/{path.relative_to(ROOT / folder).as_posix()}": path for path in files}


def test_the_wheel_holds_the_library_its_published_runs_configurations_and_notebooks(wheel: zipfile.ZipFile) -> None:
    expected = {
        **_content("ternary_lab", "*", "ternary_lab"),
        **_content("configs", "*.yaml", "ternary_lab/shipped/configs"),
        **_content("sweeps", "*.yaml", "ternary_lab/shipped/sweeps"),
        **_content("notebooks", "*.ipynb", "ternary_lab/shipped/notebooks"),
    }
    assert set(expected) == {name for name in wheel.namelist() if ".dist-info/" not in name}
    for name, path in expected.items():
        assert wheel.getinfo(name).file_size == path.stat().st_size, name


@pytest.mark.parametrize("name", [
    "runs/published/v5_5/seed=42/checkpoints/epoch_0050.safetensors", "runs/published/v5_5/seed=49/history.csv.xz",
    "runs/published/counterfactuals/lr_stays/seed=42/config.yaml", "runs/published/answers.csv",
    "studies/report/ledger.yaml", "page/explorer.js", "page/explorer.css", "page/template.html",
    "shipped/configs/quick.yaml", "shipped/configs/counterfactuals/lr_stays.yaml", "shipped/notebooks/11_report.ipynb",
])
def test_the_wheel_holds_files_that_reproducing_needs(wheel: zipfile.ZipFile, name: str) -> None:
    assert f"ternary_lab/{name}" in wheel.namelist()


def test_the_source_distribution_holds_the_files_of_the_wheel_and_few_others() -> None:
    included = {file.distribution_path for file in SdistBuilder(str(ROOT)).recurse_included_files()}
    needed = {
        **_content("ternary_lab", "*", "ternary_lab"), **_content("configs", "*.yaml", "configs"),
        **_content("sweeps", "*.yaml", "sweeps"), **_content("notebooks", "*.ipynb", "notebooks"),
    }
    always = {"pyproject.toml", "README.md", "LICENSE", ".gitignore"}  # hatchling adds these
    assert included - always == {*needed, "CHANGELOG.md", "CITATION.cff", "requirements.lock"}


def test_the_wheel_is_small_enough_to_publish(wheel: zipfile.ZipFile) -> None:
    assert Path(str(wheel.filename)).stat().st_size < LARGEST


def test_the_metadata_agrees_with_pyproject(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    Metadata.from_email(wheel.read(name), validate=True)
    metadata = message_from_bytes(wheel.read(name))
    assert (metadata["Name"], metadata["Version"]) == (PROJECT["name"], PROJECT["version"])
    named = {str(Requirement(line)) for line in metadata.get_all("Requires-Dist") or () if "extra ==" not in line}
    assert named == {str(Requirement(line)) for line in PROJECT["dependencies"]}
    assert set(metadata.get_all("Provides-Extra") or ()) == set(PROJECT["optional-dependencies"])
    assert wheel.read(name.replace("METADATA", "licenses/LICENSE")) == (ROOT / "LICENSE").read_bytes()


@pytest.mark.slow
def test_the_wheel_alone_reproduces_the_small_report(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    if index := environment.get("TORCH_INDEX"):
        environment["PIP_EXTRA_INDEX_URL"] = index
    folder = tmp_path / "elsewhere"
    folder.mkdir()

    def call(*command: str | Path) -> str:
        done = subprocess.run(
            list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    wheel, programs = _build(tmp_path / "dist"), tmp_path / "empty" / ("Scripts" if os.name == "nt" else "bin")
    assert max(path.stat().st_size for path in wheel.parent.iterdir()) < LARGEST
    call(sys.executable, "-m", "venv", tmp_path / "empty")
    lock = ROOT / "requirements.lock"
    call(programs / "python", "-m", "pip", "install", "--quiet", "--prefer-binary", "--constraint", lock,
         f"{wheel}[explorer]")
    where = call(programs / "python", "-c", "import ternary_lab; print(ternary_lab.__file__)")
    assert Path(where.strip()).is_relative_to(tmp_path / "empty")
    said = call(programs / "ternary-lab", "reproduce", "--quick", "--device", "cpu")
    assert "the claims, judged by the published runs, for any browser" in said
    for name in ("training", "report"):
        assert (folder / "reports" / "quick" / f"{name}.html").stat().st_size > 100_000
    assert (folder / "runs" / "quick" / "seed=42" / "history.csv").is_file()
    assert list((folder / "figures" / "quick").glob("*.pdf"))

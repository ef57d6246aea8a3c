"""The core, `metrics` and `runs` need the run-time dependencies of pyproject.toml and no other package."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

import ternary_lab
from ternary_lab import EngineError
from ternary_lab.cli import main
from ternary_lab.errors import EXTRAS, MissingPackageError, missing, need
from ternary_lab.sweeps import engines

ROOT = Path(__file__).parents[2]
PACKAGE = Path(ternary_lab.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OLDEST_PYTHON = (3, 11)
WITH_EXTRAS = ("cli", "explorer", "figures", "notebooks", "studies", "sweeps")
"""Packages of the library that may import packages of an extra."""
OPTIONAL = {"triton"}
"""Imported only on a GPU; torch for CUDA brings it."""
LOAD = "from ternary_lab import load_run; load_run('v5_5/seed=42').model(100)"
BLOCKED = "import sys; sys.modules.update(dict.fromkeys({names!r}))\n"
PACKAGES = sorted(package for packages in EXTRAS.values() for package in packages)


# Quick


def _core() -> Iterator[Path]:
    """The files of the core, `backend`, `metrics` and `runs`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] not in WITH_EXTRAS:
            yield path


def _imported(path: Path) -> set[str]:
    """Top-level names of the packages that a file imports, also inside its functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_the_core_imports_run_time_dependencies_alone() -> None:
    run_time = {Requirement(line).name for line in PROJECT["dependencies"]} - {"pyyaml"} | {"yaml", "pydantic_core"}
    for path in _core():
        others = _imported(path) - sys.stdlib_module_names - {"ternary_lab"} - run_time - OPTIONAL
        assert not others, path


def _python(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process that cannot import the packages of the extras."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.format(names=PACKAGES) + code], capture_output=True, text=True, check=False,
    )


def test_a_model_is_loaded_without_the_packages_of_the_extras() -> None:
    modules = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in _core()}
    modules -= {"ternary_lab.__main__", "ternary_lab.backend.triton_kernels"}
    done = _python(f"import {', '.join(sorted(modules)).replace('.__init__', '')}\n{LOAD}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("module", "extra"), [
    ("figures", "notebooks"), ("notebooks", "notebooks"), ("explorer", "explorer"),
])
def test_what_is_missing_says_which_extra_brings_it(module: str, extra: str) -> None:
    done = _python(f"""
from ternary_lab.errors import MissingPackageError
try: import ternary_lab.{module}
except MissingPackageError as error: print(error)
""")
    assert done.stdout.endswith(f" is missing: pip install 'ternary-lab[{extra}]'\n"), done.stderr


@pytest.mark.parametrize(("command", "package", "extra"), [
    (["run", "notebooks/02_train.ipynb"], "nbclient", "notebooks"), (["reproduce", "--quick"], "anywidget", "explorer"),
], ids=["run", "reproduce"])
def test_the_command_line_says_it_in_one_line(command: list[str], package: str, extra: str) -> None:
    """`reproduce` says it before it trains."""
    done = _python(f"from ternary_lab.cli import main; main({command})")
    assert done.returncode == 2
    assert done.stderr == f"error: {package} is missing: pip install 'ternary-lab[{extra}]'\n"


@pytest.mark.parametrize(("name", "expected"), [
    ("ternary-lab", f"ternary-lab, version {PROJECT['version']}\n"),
    ("another-name", "ternary-lab, not installed: imported from PYTHONPATH or from this folder\n"),
])
def test_the_version_needs_no_installation(name: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make gpu` imports the library from the checkout, without its metadata."""
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda asked: real(name if asked == "ternary-lab" else asked))
    result = CliRunner().invoke(main, ["--version"], prog_name="ternary-lab")
    assert (result.exit_code, result.output) == (0, expected)


def test_a_missing_engine_is_an_error_of_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    message = r"^ray is missing: pip install 'ternary-lab\[cluster\]'$"
    with pytest.raises(EngineError, match=message), engines.engine("ray"):
        pass


def test_only_the_first_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    need("matplotlib", "papermill")
    for name in ("papermill", "seaborn"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError) as caught:
        need("matplotlib", "papermill", "seaborn")
    assert str(caught.value) == missing("papermill")


# Slow: environments of their own


def _check(folder: Path, requirements: list[str]) -> None:
    """Install the checkout with these requirements into an empty environment; load a model and test the core there."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    if index := environment.get("TORCH_INDEX"):
        environment["PIP_EXTRA_INDEX_URL"] = index
    programs = folder / "environment" / ("Scripts" if os.name == "nt" else "bin")

    def call(*command: str | Path, cwd: Path = folder) -> str:
        done = subprocess.run(
            list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    call(sys.executable, "-m", "venv", folder / "environment")
    call(programs / "python", "-m", "pip", "install", "--quiet", "--no-compile", "--prefer-binary", *requirements, ROOT)
    call(programs / "python", "-c", LOAD)
    call(programs / "python", "-m", "pip", "install", "--quiet", "pytest", "hypothesis")
    where = call(programs / "python", "-c", "import ternary_lab; print(ternary_lab.__file__)")
    assert Path(where.strip()).is_relative_to(folder)
    print(call(programs / "pytest", "-q", "-p", "no:cacheprovider", "tests/core", "tests/metrics", cwd=ROOT))


@pytest.mark.slow
def test_the_core_works_with_run_time_dependencies_alone(tmp_path: Path) -> None:
    _check(tmp_path, ["--constraint", str(ROOT / "requirements.lock")])


@pytest.mark.slow
@pytest.mark.skipif(
    sys.version_info[:2] != OLDEST_PYTHON, reason="the oldest versions are installed on the oldest Python, 3.11, only",
)
def test_the_core_works_with_the_oldest_versions_that_pyproject_names(tmp_path: Path) -> None:
    assert PROJECT["requires-python"] == ">=" + ".".join(map(str, OLDEST_PYTHON))
    _check(tmp_path, [line.replace(">=", "==") for line in PROJECT["dependencies"]])

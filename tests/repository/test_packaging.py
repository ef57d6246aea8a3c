"""pyproject.toml, requirements.lock and environment.yml name the same things; the repository's own settings hold."""

from __future__ import annotations

import json
import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(line) for line in (*PROJECT["dependencies"], *chain.from_iterable(EXTRAS.values()))]


def _lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = (re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line) for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(pin.group(1)): pin.group(2) for pin in pins if pin}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda r: r.name)
def test_every_dependency_is_pinned_within_its_range(requirement: Requirement) -> None:
    pinned = _lock().get(canonicalize_name(requirement.name))
    assert pinned is not None, f"{requirement.name} is not in requirements.lock: see CONTRIBUTING.md"
    assert requirement.specifier.contains(pinned)


def test_every_line_of_the_lock_is_an_exact_pin() -> None:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"]
    assert len(_lock()) == len(lines)


def test_whoever_tests_has_what_the_cluster_needs() -> None:
    assert set(EXTRAS["cluster"]) <= set(EXTRAS["test"])


def test_conda_installs_the_same_thing() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    (pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert pip == ["--constraint requirements.lock", "--editable .[test]"]
    (python,) = [item for item in environment["dependencies"] if str(item).startswith("python")]
    assert python.startswith("python" + PROJECT["requires-python"])


def test_the_makefile_installs_the_same_thing() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "--constraint requirements.lock --editable '.[test]'" in makefile


def test_a_forks_own_ci_runs_the_same_script() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["test"]["steps"][-1] == {"run": "bash .ci/run"}
    assert (ROOT / ".ci" / "run").is_file()


def test_notebooks_are_compared_by_nbdime_without_what_each_execution_changes() -> None:
    assert (ROOT / ".gitattributes").read_text() == "*.ipynb diff=jupyternotebook merge=jupyternotebook\n"
    ignored = json.loads((ROOT / "nbdime_config.json").read_text())["Diff"]["Ignore"]
    notebook = json.loads((ROOT / "notebooks" / "01_ternary_space.ipynb").read_text())
    code = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    assert set(ignored["/metadata"]) <= notebook["metadata"].keys()
    assert set(ignored["/cells/*/metadata"]) <= code["metadata"].keys()


def test_torch_is_pinned_to_one_version() -> None:
    assert str(next(r for r in REQUIREMENTS if r.name == "torch")) == "torch==2.13.0"

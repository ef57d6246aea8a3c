"""pyproject.toml, requirements.lock, environment.yml, CITATION.cff and CHANGELOG.md agree; CI and nbdime are set."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.metadata import distributions, packages_distributions
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from ternary_lab import errors

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NAMED = [Requirement(line) for line in (*PROJECT["dependencies"], *chain.from_iterable(EXTRAS.values()))]
REQUIREMENTS = [requirement for requirement in NAMED if requirement.name != PROJECT["name"]]
RUN_TIME = {
    "click", "filelock", "numpy", "pandas", "pydantic", "pyyaml", "safetensors", "scipy", "torch", "tqdm",
}


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


def test_the_installed_packages_of_the_lock_run_on_the_oldest_python() -> None:
    """Debian 12 has Python 3.11.2, and a package that needs 3.11.5 cannot be installed there."""
    oldest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    needed = {canonicalize_name(one.name): one.metadata.get("Requires-Python") or "" for one in distributions()}
    checked = _lock().keys() & needed.keys()
    assert len(checked) > 100
    assert [name for name in checked if not SpecifierSet(needed[name]).contains(oldest)] == []


def _extra(name: str) -> set[str]:
    """Names of the packages that an extra installs, with those of the extras that it includes."""
    found: set[str] = set()
    for requirement in map(Requirement, EXTRAS[name]):
        if requirement.name == PROJECT["name"]:
            found = found.union(*map(_extra, requirement.extras))
        else:
            found.add(requirement.name)
    return found


def test_the_library_itself_needs_few_packages() -> None:
    assert {Requirement(line).name for line in PROJECT["dependencies"]} == RUN_TIME


def test_no_version_is_fixed_outside_the_lock() -> None:
    """So that an environment that has torch and pandas keeps the versions that it has."""
    operators = {part.operator for requirement in REQUIREMENTS for part in requirement.specifier}
    assert operators <= {">=", "<"}


def test_the_extra_test_includes_the_others() -> None:
    assert _extra("cluster") | _extra("explorer") <= _extra("test")
    assert _extra("notebooks") <= _extra("explorer")


@pytest.mark.parametrize("extra", errors.EXTRAS)
def test_the_extra_named_for_a_missing_package_installs_it(extra: str) -> None:
    of = packages_distributions()
    for package in errors.EXTRAS[extra]:
        distributions = {canonicalize_name(name) for name in of[package]}
        assert distributions & set(map(canonicalize_name, _extra(extra))), package


def test_the_changelog_and_the_citation_have_the_version_and_its_date() -> None:
    released = re.findall(r"^## (\d\S*) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert released[0] == (PROJECT["version"], str(cited["date-released"]))
    assert cited["version"] == PROJECT["version"]
    assert cited["license"] == PROJECT["license"]


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


def test_the_workflow_of_a_fork_runs_the_same_script() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["test"]["steps"][-1] == {"run": "bash .ci/run"}
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    named = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if name.startswith("Programming Language")]
    assert versions == named
    assert f"{versions[0]} to {versions[-1]} are tested" in (ROOT / "docs" / "install.md").read_text()
    assert (ROOT / ".ci" / "run").is_file()


@pytest.mark.parametrize("path", ["docker/cpu.Dockerfile", "docker/cuda.Dockerfile", "binder/postBuild"])
def test_an_image_installs_the_versions_of_the_lock(path: str) -> None:
    text = re.sub(r"\s*\\\n\s*", " ", (ROOT / path).read_text())
    assert text.count("pip install") == 1
    assert "--constraint requirements.lock --editable '.[explorer]'" in text
    assert ("whl/cpu" in text) == ("cuda" not in path)


def test_the_dev_container_installs_with_make() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert container["postCreateCommand"] == "make install"


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_a_workflow_runs_targets_and_files_that_exist(path: Path) -> None:
    """No workflow can run here. GitHub reads `on` as a text; YAML 1.1 reads it as true."""
    workflow = yaml.safe_load(path.read_text())
    assert workflow[True]
    assert workflow["permissions"] == {"contents": "read"}
    commands = "\n".join(step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"])
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = re.findall(r"\bmake ([a-z-]+)", commands)
    files = re.findall(r"(?:tests|\.ci)/[\w/.]+", commands)
    assert set(used) <= targets
    assert used or files
    assert all((ROOT / file).is_file() for file in files)
    needed = {name for job in workflow["jobs"].values() for name in [job.get("needs")] if name}
    assert needed <= set(workflow["jobs"])


def test_nbdime_ignores_what_every_execution_changes() -> None:
    assert "*.ipynb diff=jupyternotebook merge=jupyternotebook\n" in (ROOT / ".gitattributes").read_text()
    ignored = json.loads((ROOT / "nbdime_config.json").read_text())["Diff"]["Ignore"]
    notebook = json.loads((ROOT / "notebooks" / "01_ternary_space.ipynb").read_text())
    code = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    assert set(ignored["/metadata"]) <= notebook["metadata"].keys()
    assert set(ignored["/cells/*/metadata"]) <= code["metadata"].keys()

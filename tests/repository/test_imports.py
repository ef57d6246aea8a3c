"""Data goes one way: each module imports only modules above it, and asking for help imports no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import ternary_lab

ROOT = Path(ternary_lab.__file__).parent
# From the innermost to the outermost: modules of the core and, as one, each package.
ORDER = (
    "errors", "arguments", "backend", "space", "symmetry", "settings", "schedules", "history", "config", "config_files",
    "splits", "networks", "model", "controllers", "metrics", "losses", "training",
    "runs", "figures", "studies", "sweeps", "page", "explorer", "notebooks", "cli",
)
RANK = {name: rank for rank, name in enumerate(ORDER)}


def _imports(path: Path) -> Iterator[str]:
    """Modules of this package that a file imports, wherever in the file and for whatever use."""
    known = set(_modules())
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name.removeprefix("ternary_lab.") for name in names if name.removeprefix("ternary_lab.") in known)


def _modules() -> dict[str, Path]:
    """Dotted name -> file, without the package's own face and `python -m`."""
    files = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in ROOT.rglob("*.py")}
    return {name.removesuffix(".__init__"): file for name, file in files.items() if not name.startswith("__")}


def test_modules_and_packages_import_only_those_above_them() -> None:
    for name, file in _modules().items():
        for imported in _imports(file):
            of, to = name.split(".")[0], imported.split(".")[0]
            assert RANK[to] <= RANK[of], f"{name} imports {imported}, which is not above it"


def test_no_import_comes_back_to_its_module() -> None:
    modules = {name: file for name, file in _modules().items() if file.name != "__init__.py"}
    graph = {name: {other for other in _imports(file) if other in modules} - {name} for name, file in modules.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_every_module_and_package_has_its_place() -> None:
    assert {name.split(".")[0] for name in _modules()} == set(ORDER)
    assert len(RANK) == len(ORDER)


def test_the_check_sees_imports() -> None:
    assert {"config", "errors", "model", "training.run_state"} <= set(_imports(ROOT / "runs" / "checkpoint.py"))


def _loads_torch(code: str) -> bool:
    script = f"import sys\n{code}\nsys.exit(3 if 'torch' in sys.modules else 0)"
    status = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode
    assert status in (0, 3)
    return status == 3


def test_importing_the_package_imports_no_torch() -> None:
    assert not _loads_torch("import ternary_lab; dir(ternary_lab); ternary_lab.load_config('v5_5')")
    assert _loads_torch("import ternary_lab; ternary_lab.train")


def test_help_and_a_misspelt_setting_import_no_torch() -> None:
    run = "from ternary_lab.cli import main\ntry: main({})\nexcept SystemExit: pass"
    assert not _loads_torch(run.format(["--help"]))
    assert not _loads_torch(run.format(["train", "--help"]))
    assert not _loads_torch(run.format(["train", "quick", "--set", "nothing=3"]))
    assert not _loads_torch(run.format(["sweep", "nothing"]))


def test_every_public_name_is_there() -> None:
    for name in ternary_lab.__all__:
        assert getattr(ternary_lab, name) is not None
        assert name in dir(ternary_lab)

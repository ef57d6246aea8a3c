"""Data goes one way: each module imports only modules above it, and asking for help imports no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import ternary_lab

ROOT = Path(ternary_lab.__file__).parent
# From the innermost to the outermost; modules on one line do not know each other.
ORDER = [
    ["cpus", "errors", "numerics", "triton_kernels"],
    ["devices"],
    ["space", "kernels", "runtime", "schedules", "integrity", "locks", "selection", "intervals"],
    ["symmetry", "engines", "random_streams"],
    ["config"],
    ["controllers", "splits", "design", "metrics.entropy"],
    ["losses"],
    ["model"],
    ["hypergradient"],
    [
        "metrics.latents", "metrics.likelihood", "metrics.calibration", "metrics.robustness", "metrics.arithmetic",
        "metrics.neighbourhood", "metrics.codes", "metrics.per_entry",
    ],
    ["metrics.coverage", "metrics.games"],
    ["metrics.information", "metrics.paths"],
    ["metrics.confusion", "metrics.ensembles"],
    ["prior", "measurement", "memory"],
    ["step"],
    ["training"],
    ["checkpoint"],
    ["record"],
    ["experiment", "evaluation", "projection"],
    ["atlas", "alternatives", "sweep", "effects"],
    # What was asked of runs.
    ["bench", "disruption", "generalisation", "latent_entropy", "model_choice", "probes", "recipes", "verify"],
    ["answers"],
    ["claims.evidence", "claims.ledger"],
    ["claims.verdicts"],
    ["claims.rules"],
    # What is seen of it.
    ["figures.style"],
    ["figures.atlas", "figures.save", "figures.training"],
    [
        "figures.entropy", "figures.generalisation", "figures.jump", "figures.morph", "figures.scaling",
        "figures.space", "figures.sweeps", "figures.verdicts",
    ],
    ["figures.coverage", "figures.model_choice", "figures.recipes", "figures.report"],
    ["figures.studies"],
    ["widgets.pacer", "widgets.part", "widgets.view"],
    ["widgets.holes", "widgets.inspector", "widgets.live", "widgets.map", "widgets.path", "widgets.timeline"],
    ["widgets.designer", "widgets.desk", "widgets.pair"],
    ["widgets.explorer"],
    ["notebooks", "publish"],
    ["batch", "reproduce"],
    ["cli"],
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def _imports(path: Path) -> Iterator[str]:
    """Modules of this package that a file imports, wherever in the file and for whatever use."""
    known = {file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for file in ROOT.rglob("*.py")}
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name.removeprefix("ternary_lab.") for name in names if name.removeprefix("ternary_lab.") in known)


def test_each_module_imports_only_modules_above_it() -> None:
    for name, rank in RANK.items():
        for imported in _imports(ROOT / f"{name.replace('.', '/')}.py"):
            if imported.endswith("__init__"):
                continue  # a package's own face, which shows what is in it
            assert RANK[imported] < rank or imported == name, f"{name} imports {imported}, which is not above it"


def test_every_module_has_its_place() -> None:
    files = (path.relative_to(ROOT).with_suffix("") for path in ROOT.rglob("*.py"))
    assert {".".join(file.parts) for file in files if not file.name.startswith("__")} == set(RANK)


def test_the_check_sees_imports() -> None:
    assert {"config", "errors", "model", "training"} <= set(_imports(ROOT / "checkpoint.py"))


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

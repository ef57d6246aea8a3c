"""`make gpu`, tried on the CPU: it needs what it says and no more, writes what is drawn, and sees planted faults."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from scaling import load, scaling, scaling_data
from small import SMALL

from ternary_lab import RunError, load_config
from ternary_lab.history import EpochRecord
from ternary_lab.training.cohort import Cohort

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
NEEDED = {"torch", "numpy", "scipy", "pandas", "pydantic", "pyyaml", "safetensors"}
"""What a machine with a GPU must have."""
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")

HIDING = """
import runpy, sys
from importlib.machinery import PathFinder

class Hiding:
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {names!r} else PathFinder.find_spec(name, path, target)

sys.meta_path = [Hiding() if finder is PathFinder else finder for finder in sys.meta_path]
sys.argv = [{script!r}, *{arguments!r}]
runpy.run_path({script!r}, run_name="__main__")
"""
"""Runs a script as on a machine without some packages."""


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu"] = module
    spec.loader.exec_module(module)
    return module


def _normal(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def _with_dependencies(names: set[str]) -> set[str]:
    """Distributions, and those that they are installed with."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        if (name := waiting.pop()) in found:
            continue
        found.add(name)
        try:
            waiting += [_normal(text) for text in requires(name) or () if "extra ==" not in text]
        except PackageNotFoundError:  # for another system or Python
            continue
    return found


def _hidden() -> list[str]:
    """Modules of every package that is installed here and is not needed, or that the library itself names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {_normal(text) for text in project["dependencies"]}
    allowed = _with_dependencies(NEEDED) - (named - NEEDED)
    return [
        module for module, packages in packages_distributions().items()
        if module != "ternary_lab" and not {_normal(package) for package in packages} & allowed
    ]


def test_a_dry_run_needs_no_other_package_and_writes_what_is_drawn(tmp_path: Path) -> None:
    hidden = _hidden()
    assert {"click", "filelock", "matplotlib", "pytest"} <= set(hidden)
    arguments = ["--device", "cpu", "--small", "--output", str(tmp_path / "cpu.json")]
    script = HIDING.format(names=hidden, script=str(SCRIPT), arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(SCRIPT.parent)]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = load(tmp_path).values()
    assert len(found["checks"]) == 9
    assert all(check["passed"] for check in found["checks"].values())
    assert found["failures"] == {}
    assert list(scaling_data({"cpu": found})["runs"]) == [1, 2]
    assert all(0 < row["train_roofline"] < 1 for row in found["cohorts"].values())
    assert "| 1 run | 2 runs |" in done.stdout
    left, right = (axes.get_legend().get_texts() for axes in scaling({"cpu": found, "cuda": found}).figure.axes)
    assert [text.get_text() for text in left] == ["cpu", "cuda"]
    assert len(right) == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA GPU is present")
def test_without_a_gpu_one_line_says_so(gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--output", str(tmp_path / "cuda.json")]) == 2
    assert re.fullmatch("error: .*no CUDA GPU is visible.*\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_what_fails_hides_nothing(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(*_: object) -> Any:
        raise RuntimeError("CUDA error: the device is lost\nmore of it")

    for name in ("class_indices", "repeats", "parity", "full_precision", "peaks", "kernels"):
        monkeypatch.setattr(gpu, name, lost)
    for name in ("matrix_floor", "measuring_seconds", "evaluate_seconds", "cohort_times"):
        monkeypatch.setattr(gpu.bench, name, lost)
    path = tmp_path / "new" / "cuda.json"
    assert gpu.main(["--device", "cpu", "--small", "--output", str(path)]) == 1
    found = json.loads(path.read_text())
    assert len(found["checks"]) == 9
    assert {check["error"] for check in found["checks"].values()} == {"RuntimeError: CUDA error: the device is lost"}
    assert len(found["failures"]) == 8
    assert "0 checks passed, 9 failed" in capsys.readouterr().out
    with pytest.raises(RunError, match=r"cuda\.json: has no cohort"):
        load(path.parent)


def test_a_cohort_that_takes_too_long_is_left_out(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("class_indices", "repeats", "parity", "full_precision", "peaks", "kernels"):
        monkeypatch.setattr(gpu, name, lambda *_: (True, {}))
    for name in ("matrix_floor", "measuring_seconds", "evaluate_seconds"):
        monkeypatch.setattr(gpu.bench, name, lambda *_: 1.0)
    gpu.main(["--device", "cpu", "--small", "--minutes", "0", "--output", str(tmp_path / "cpu.json")])
    found = json.loads((tmp_path / "cpu.json").read_text())
    assert found["cohorts"] == {}
    assert set(found["failures"]) == {"cohort of 1", "cohort of 2"}


# What the checks would see. A device that computes otherwise is a cohort that does.


def _otherwise(monkeypatch: pytest.MonkeyPatch, gpu: ModuleType, change: Any) -> None:
    class Otherwise(Cohort):
        def advance(self) -> list[EpochRecord]:
            change(self)
            return super().advance()

    monkeypatch.setattr(gpu, "Cohort", Otherwise)


def test_wrong_indices_are_seen(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu.class_indices(CPU)[0]
    right = gpu.coverage.class_index

    def tf32(classes: torch.Tensor) -> torch.Tensor:
        """3^8 and 3^7 rounded to eleven bits."""
        if torch.get_float32_matmul_precision() == "highest":
            return right(classes)
        return right(classes) - classes[:, -1].long() + classes[:, -2].long()

    monkeypatch.setattr(gpu.coverage, "class_index", tf32)
    passed, details = gpu.class_indices(CPU)
    assert not passed
    assert details["wrong"]["highest"] == 0 < details["wrong"]["high"]
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(("change", "passes"), [(2.0**-23, True), (2.0**-8, False)])
def test_rounding_is_allowed_and_more_is_seen(
    change: float, passes: bool, gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nudge(cohort: Cohort) -> None:
        if cohort.runs == 1:
            cohort.blocks.encoders.mul_(1 + change)

    _otherwise(monkeypatch, gpu, nudge)
    config = load_config("v5_5", {**gpu.SMALL, "evaluation.coverage_samples": 20_000})
    passed, details = gpu.parity(config, CPU)
    assert passed == passes, details


@pytest.mark.parametrize(("when", "passes"), [("never", True), ("always", False), ("resumed", False)])
def test_a_last_digit_that_differs_is_seen(
    when: str, passes: bool, gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Iterator[int] = iter(range(100))

    def nudge(cohort: Cohort) -> None:
        # the sixth epoch is the one after the cut
        call = next(calls)
        units = {"never": 0, "always": call, "resumed": 8 * (call == 5)}[when]
        cohort.blocks.decoder_B.mul_(1 + units * 2.0**-23)

    _otherwise(monkeypatch, gpu, nudge)
    assert gpu.repeats(SMALL, CPU)[0] == passes


def test_numbers_that_hang_on_the_callers_precision_are_seen(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(SMALL.as_dict(), {"training.total_epochs": 1})
    assert gpu.full_precision(config, CPU)[0]
    train = gpu.train

    def loose(*args: Any, **kwargs: Any) -> Iterator[EpochRecord]:
        off = 1e-3 * (torch.get_float32_matmul_precision() == "high")
        for row in train(*args, **kwargs):
            yield dataclasses.replace(row, train_loss=row.train_loss + off)

    monkeypatch.setattr(gpu, "train", loose)
    assert not gpu.full_precision(config, CPU)[0]


def test_kinds_of_events_are_told_apart(gpu: ModuleType) -> None:
    counted = gpu.kinds_of([
        ("void cutlass::Kernel2<cutlass_80_simt_sgemm>", True), ("void at::native::elementwise_kernel", True),
        ("Memcpy HtoD (Pageable -> Device)", True), ("Memset (Device)", True), ("aten::bmm", True),
        ("aten::bmm", False), ("cudaLaunchKernel", False), ("cudaLaunchKernelExC", False), ("cudaGraphLaunch", False),
        ("cudaStreamSynchronize", False), ("cudaMemcpyAsync", False),
    ])
    assert counted == {"kernels": 2, "copies": 2, "launches": 2, "graph_launches": 1, "host_waits": 1}


def test_a_cohorts_time_is_foreseen_on_a_line(gpu: ModuleType) -> None:
    """On an H100 8 runs took 1.3 times as long as one, not 8 times; in proportion 128 would have been left out."""
    assert gpu.foreseen_seconds([], 1) == 0
    assert gpu.foreseen_seconds([(1, 2.0)], 8) == 16
    assert gpu.foreseen_seconds([(1, 2.0), (8, 2.7)], 128) == pytest.approx(14.7)
    assert gpu.foreseen_seconds([(1, 2.0), (8, 1.9)], 128) == pytest.approx(1.9)

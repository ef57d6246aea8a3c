"""Guards on speed as ratios within one run: absolute times say more about the machine than about the code."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ternary_lab import load_config, losses
from ternary_lab.bench import cohort_times, describe, machine, markdown, process_seconds
from ternary_lab.config import Config
from ternary_lab.controllers import Correction, plan_epoch
from ternary_lab.training import Cohort

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def _fastest(calls: dict[str, Callable[[], object]], rounds: int = 8, repeats: int = 20) -> dict[str, float]:
    """Seconds of one call, the fastest of several rounds that take turns: what disturbs one disturbs all."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            for _ in range(repeats):
                call()
            best[name] = min(best[name], (time.perf_counter() - started) / repeats)
    return best


@pytest.fixture(scope="module")
def steps() -> dict[str, Callable[[], object]]:
    """One step of v5.5's training on a batch of 64: the cohort's, and the plain one that autograd differentiates."""
    config = load_config("v5_5")
    cohort = Cohort([config], [0], CPU)
    plan = plan_epoch(config, 60, cohort.controllers[0])
    settings = cohort.step.settings([plan], [Correction.none(plan)])
    x = cohort.x_train[:64].unsqueeze(0)
    both, target, noise = x.repeat(2, 1, 1), losses.one_hot(x), torch.randn(2, 1, 64, 16)
    model = reference.ReferenceVAE()
    state = reference.State(model)

    @torch.no_grad()
    def ours() -> None:
        cohort.step.update(cohort.step.forward(both, target, noise, settings), settings)

    def plain() -> None:
        reference.train_step(model, state.optimiser, x[0], noise[0, 0], noise[1, 0], state.settings)

    return {"ours": ours, "plain": plain}


@pytest.mark.alone
def test_a_training_step_takes_half_the_time_of_the_plain_step(steps: dict[str, Callable[[], object]]) -> None:
    """Measured: a quarter, on an idle machine and on a busy one."""
    best = _fastest(steps)
    assert best["ours"] < 0.5 * best["plain"]


class _Operators(TorchDispatchMode):
    """Counts the operators that are called within, those of a backward pass among them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_a_training_step_calls_a_quarter_of_the_plain_steps_operators(steps: dict[str, Callable[[], object]]) -> None:
    """What a step takes beyond its products is mostly calls: their number says so on any machine, however busy."""
    calls = {}
    for name, step in steps.items():
        step()
        with _Operators() as operators:
            step()
        calls[name] = operators.calls
    assert 0 < 4 * calls["ours"] <= calls["plain"]


@pytest.mark.alone
def test_help_does_not_wait_for_torch() -> None:
    assert process_seconds(["-m", "ternary_lab", "--help"]) < 0.5 * process_seconds(["-c", "import torch"], repeats=2)


def _small() -> Config:
    return load_config("v5_5", {
        "data.batch_size": 2048, "evaluation.coverage_samples": 500, "evaluation.latents": 128,
    })


def test_bench_measures_what_it_names() -> None:
    row = cohort_times(_small(), 2, CPU, 2)
    assert set(row) == {
        "train_seconds", "eval_seconds", "epoch_seconds", "run_epochs_per_second", "peak_bytes",
    }
    assert all(value > 0 for value in row.values())
    assert row["run_epochs_per_second"] == pytest.approx(2 / row["epoch_seconds"])
    result = {
        "device": "cpu", "threads": 2, "matrix_floor_seconds": 0.5, "matrix_floor_one_thread_seconds": 1.0,
        "cohorts": {"1": row, "2": row}, "evaluate_seconds": 1.0, "import_seconds": 0.1, "machine": machine(),
        "date": "2026-01-01", "original_work_seconds": 0.4, "help_seconds": 0.2,
    }
    assert len(describe(result).splitlines()) == 4
    assert f"| {row['epoch_seconds']:.2f} | {row['epoch_seconds']:.2f} |" in markdown(result)


def test_the_readme_shows_what_was_measured() -> None:
    root = Path(__file__).parent.parent
    assert markdown(json.loads((root / "benchmarks/cpu.json").read_text())) in (root / "README.md").read_text()

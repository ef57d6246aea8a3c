"""Guards on speed as ratios within one run: absolute times say more about the machine than about the code."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import reference
import torch

from ternary_lab import load_config, losses
from ternary_lab.bench import cohort_times, describe, machine, markdown, matrix_floor, process_seconds
from ternary_lab.config import Config
from ternary_lab.controllers import Correction, plan_epoch
from ternary_lab.training import Cohort

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def _fastest(calls: dict[str, Callable[[], object]], rounds: int = 15, repeats: int = 20) -> dict[str, float]:
    """Seconds of one call, the fastest of several rounds that take turns: what disturbs one disturbs all."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            for _ in range(repeats):
                call()
            best[name] = min(best[name], (time.perf_counter() - started) / repeats)
    return best


@pytest.mark.alone
def test_a_training_step_stays_near_its_products_and_far_from_the_plain_step() -> None:
    """Measured: 1.5 to 1.7 times the products, half the time of the plain step."""
    config = load_config("v5_5")
    cohort = Cohort([config], [0], CPU)
    plan = plan_epoch(config, 60, cohort.controllers[0])
    settings = cohort.settings([plan], [Correction.none(plan)])
    x = cohort.x_train[:64].unsqueeze(0)
    both, target, noise = x.repeat(2, 1, 1), losses.one_hot(x), torch.randn(2, 1, 64, 16)
    model = reference.ReferenceVAE()
    state = reference.State(model)

    @torch.no_grad()
    def ours() -> None:
        cohort.update(cohort.forward(both, target, noise, settings), settings)

    def plain() -> None:
        reference.train_step(model, state.optimiser, x[0], noise[0, 0], noise[1, 0], state.settings)

    best = _fastest({"ours": ours, "plain": plain})
    steps = -(-len(cohort.x_train) // config.data.batch_size)
    floor = min(matrix_floor(config, CPU, 5), matrix_floor(config, CPU, 5)) / steps
    assert best["ours"] < 2.5 * floor
    assert best["ours"] < 0.75 * best["plain"]


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

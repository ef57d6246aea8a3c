"""Limits on speed. They are ratios within one run, because absolute times depend on the machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from bench import (
    cohort_times,
    describe,
    evaluation_flop,
    fastest,
    machine,
    markdown,
    measuring_seconds,
    process_seconds,
    products,
    training_flop,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ternary_lab import load_config, space
from ternary_lab.config import Config
from ternary_lab.controllers import Correction, plan_epoch
from ternary_lab.model import Architecture
from ternary_lab.studies.report.original import original_code
from ternary_lab.training.cohort import Cohort

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def steps() -> dict[str, Callable[[], object]]:
    """One training step of v5.5 on a batch of 64: of the library, and of the reference with autograd."""
    config = load_config("v5_5")
    cohort = Cohort([config], [0], CPU)
    plan = plan_epoch(config, 60, cohort.controllers[0])
    settings = cohort.step.settings([plan], [Correction.none(plan)])
    x = cohort.x_train[:64].unsqueeze(0)
    both, target, noise = x.repeat(2, 1, 1), space.one_hot(x), torch.randn(2, 1, 64, 16)
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
    """It takes a quarter of the time, on an idle and on a busy machine."""
    best = fastest(steps)
    assert best["ours"] < 0.5 * best["plain"]


@pytest.mark.alone
def test_a_sharp_model_is_measured_as_fast_as_an_untrained_one() -> None:
    """With numbers below 1e-38 in the products, an Intel processor takes over ten times as long."""
    config = load_config("v5_5", {"evaluation.coverage_samples": 1000, "evaluation.latents": 2**14})
    untrained, *sharp = measuring_seconds(config, CPU, rounds=6).values()
    assert len(sharp) == 2
    assert all(seconds < 1.3 * untrained for seconds in sharp)


class _Operators(TorchDispatchMode):
    """Counts the operators called inside it, also those of a backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_a_training_step_calls_a_quarter_of_the_plain_steps_operators(steps: dict[str, Callable[[], object]]) -> None:
    """Apart from its products, a step mostly costs calls. Their number is the same on any machine, however busy."""
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


def test_bench_measures_and_prints_its_quantities() -> None:
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
        "measuring_seconds": {"untrained": 2.0, "beyond": 2.5},
    }
    assert len(describe(result).splitlines()) == 4
    gpu = {"device": "A GPU", "threads": 2, "matrix_floor_seconds": 0.5, "cohorts": {"1": row}, "date": "2026-01-01"}
    text = markdown([result, gpu])
    assert f"| {row['epoch_seconds']:.2f} | {row['epoch_seconds']:.2f} |" in text
    assert f"| {row['epoch_seconds']:.2f} |\n" in text[text.index("| A GPU, 2 threads"):]
    assert "| measuring beyond / measuring an untrained model | 1.25 | - |" in text


def test_operations_are_counted_like_the_products() -> None:
    config = _small()
    batch = config.data.batch_size
    step = FlopCounterMode(display=False)
    with step:
        for a, b in products(Architecture(config.model), batch, CPU):
            torch.bmm(a, b)
    assert training_flop(config) == step.get_total_flops() / batch * 15746
    model = Cohort([config], [0], CPU).model
    whole = FlopCounterMode(display=False)
    with whole, torch.no_grad():
        model.decode(torch.zeros(2, 1, 100, 16))
    assert evaluation_flop(config, 100, 0) == whole.get_total_flops()
    # per latent: two sums over operations in each of two pathways, each with a product and an addition
    assert evaluation_flop(config, 0, 100) == whole.get_total_flops() + 100 * 2 * 2 * 2 * 19683


def test_the_page_on_speed_shows_the_measured_times() -> None:
    root = Path(__file__).parents[2]
    files = sorted(file for file in (root / "benchmarks").glob("*.json") if file.name != "manifest.json")
    page = (root / "docs" / "speed.md").read_text(encoding="utf-8")
    assert markdown(json.loads(file.read_text()) for file in files) in page
    low, high = original_code().measured_here["seconds_per_epoch"]
    assert f" {low} to {high} s an epoch" in page

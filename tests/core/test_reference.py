"""Tests of the slow reference against the original, and of the library against the slow reference."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import arithmetic
import pytest
import reference
import torch

from ternary_lab import controllers, load_config
from ternary_lab.studies.report.original import RUNS
from ternary_lab.training.cohort import Cohort
from ternary_lab.training.run_state import RunState

DATA = Path(__file__).parents[1] / "data"
GOLDEN = json.loads((DATA / "golden.json").read_text())

FIRST_STEPS = 40
FIRST_MEANS = {
    43: {"loss": 13.863909, "ce_A": 9.8551701, "ce_B": 9.6309186, "kl_A": 8.2959003, "kl_B": 9.4622297},
    44: {"loss": 13.544077, "ce_A": 9.7645368, "ce_B": 9.5956148, "kl_A": 9.7239971, "kl_B": 9.6297638},
}
"""For each seed, the means over the first `FIRST_STEPS` steps.

They were computed on a machine on which all digits of the epoch equal the original's. A difference in the last bit
needs about 50 steps to become visible. With kernels that round differently, these means change by at most 3e-8
(relative), but a loss at the end changes by up to 4e-2 (relative).
"""
CHAOS = {
    "train_loss": 6e-3, "val_loss": 2.5e-2, "ce_A": 5e-4, "ce_B": 4e-3, "kl_A": 1.6e-2, "kl_B": 1.6e-2,
    "H_A": 5e-3, "H_B": 5e-3, "unique_ops_A": 2e-4, "coverage_A": 2e-4, "unique_ops_B": 3e-3, "coverage_B": 3e-3,
}
"""Largest relative difference from the printed first epoch on machines that round products differently.

Each bound is about three times the largest difference that was measured with both seeds. Some measurements used other
kernels of torch and of MKL. Six used initial weights that were changed by half of the last bit. The largest measured
differences are 2e-3 for the loss, 8e-3 for the validation loss and 5e-3 for a KL. They are 1 operation for A and 19
operations for B.
"""

# The original computed with one thread, and the number of threads changes the last bits.
pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class FirstEpoch:
    """The first epoch of one seed.

    It has the values that the original printed, the values of the reference, and the values of every batch.
    """

    seed: int
    printed: dict[str, str]
    measured: dict[str, float]
    records: list[dict[str, float]]

    def prints(self, name: str) -> bool:
        """Return whether the value `name` equals the original's value to the last printed digit."""
        decimals = len(self.printed[name].partition(".")[2])
        return f"{self.measured[name]:.{decimals}f}" == self.printed[name].removeprefix("+")


@pytest.fixture(scope="module", params=[43, 44])
def first_epoch(request: pytest.FixtureRequest, one_thread: None) -> FirstEpoch:
    seed = request.param
    rows = csv.DictReader(RUNS.read_text().splitlines())
    printed = next(row for row in rows if int(row.pop("seed")) == seed and row["epoch"] == "0")
    return FirstEpoch(seed, printed, *next(reference.original_epochs(seed)))


def test_the_reference_has_the_originals_first_epoch_whatever_rounds(first_epoch: FirstEpoch) -> None:
    """The reference agrees with the original within the bounds that rounding needs.

    The means of the first steps agree to 1e-6. The columns in `CHAOS` agree within the bounds of `CHAOS`. All other
    columns depend only on the schedules and on the first step. They agree to the last printed digit.
    """
    expected = FIRST_MEANS[first_epoch.seed]
    means = {name: sum(r[name] for r in first_epoch.records[:FIRST_STEPS]) / FIRST_STEPS for name in expected}
    assert means == pytest.approx(expected, rel=1e-6)
    assert set(first_epoch.measured) == set(first_epoch.printed)
    for name, value in first_epoch.measured.items():
        if name in CHAOS:
            assert value == pytest.approx(float(first_epoch.printed[name]), rel=CHAOS[name]), name
        else:
            assert first_epoch.prints(name), name


def test_the_reference_prints_the_originals_first_epoch(first_epoch: FirstEpoch) -> None:
    if arithmetic.fingerprint() != arithmetic.RECORDED:
        pytest.skip("products round otherwise here than where the digits were printed: compared nearly, above")
    assert [name for name in first_epoch.measured if not first_epoch.prints(name)] == []


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"shift={case['shift']}")
def test_the_reference_takes_the_golden_step(case: dict[str, Any]) -> None:
    s = case["settings"]
    model = reference.ReferenceVAE()
    model.load_state_dict(torch.load(DATA / case["checkpoint"], weights_only=True)["model"])
    model.grad_norm_A_ema, model.grad_norm_B_ema = (torch.tensor(s[f"grad_norm_ema_{p}"]) for p in "AB")
    settings = reference.Settings(**{name: s[name] for name in vars(reference.Settings()) if name in s})
    optimiser = torch.optim.AdamW(model.parameters(), lr=s["lr"], weight_decay=s["weight_decay"])
    x = reference.OPERATIONS[(307 * torch.arange(64) + case["shift"]) % reference.SIZE]
    n = torch.arange(1024, dtype=torch.float64).view(64, 16) + 1 + case["shift"]
    eps = (2**0.5 * torch.sin(n)).float(), (2**0.5 * torch.cos(0.7 * n)).float()
    terms = reference.train_step(model, optimiser, x, *eps, settings)
    assert {name: terms[name].item() for name in case["losses"]} == pytest.approx(case["losses"], rel=1e-5, abs=1e-6)
    averages = {"A": model.grad_norm_A_ema.item(), "B": model.grad_norm_B_ema.item()}
    assert averages == pytest.approx(case["grad_norm_ema_after"], rel=1e-5, abs=1e-6)
    assert all(p.grad is None for p in model.state_net.parameters()) == case["statenet_gradients_all_none"]
    sums = {name: p.double().sum().item() for name, p in model.named_parameters()}
    assert sums == pytest.approx(case["parameter_sums_after_step"], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("epoch", [1, 50, 130])
def test_the_fast_path_follows_the_reference_step_by_step(epoch: int) -> None:
    """The library and the reference use the same weights, order of operations, noise and settings.

    First, each step of the library starts from the state of the reference, because training amplifies rounding. Then
    the means and corrections of a whole epoch are compared.
    """
    config = load_config("v5_5")
    batches, noise = _streams(steps=40)
    slow = _reference(7, epoch)
    for i, (batch, eps) in enumerate(zip(batches[:-1], noise[:-1], strict=True)):
        fast = Cohort([config], [7], torch.device("cpu"), [_as_state(slow, i)])
        (plan,) = (controllers.plan_epoch(config, epoch, fast.controllers[0]),)
        figures, _ = fast.train_epoch(
            [plan], reference.OPERATIONS[batch].unsqueeze(0), torch.stack(eps).unsqueeze(1)
        )
        reference.begin_epoch(slow)
        record = reference.train_epoch(slow, [batch], [eps]).records[0]
        names = ("ce_A", "ce_B", "kl_A", "kl_B", "H_A", "H_B", "lambda1", "lambda2", "lambda3")
        measured = {name: figures[name][0] for name in names} | {"loss": figures["train_loss"][0]}
        assert measured == pytest.approx({name: record[name] for name in measured}, rel=3e-5, abs=3e-6)
        weights = fast.architecture.named(fast.blocks)
        for name, parameter in slow.model.named_parameters():
            torch.testing.assert_close(weights[name], parameter.detach(), rtol=1e-4, atol=2e-5, msg=name)
        averages = [slow.model.grad_norm_A_ema.item(), slow.model.grad_norm_B_ema.item()]
        assert fast.step.norms[:, 0].tolist() == pytest.approx(averages, rel=1e-4)

    slow = _reference(7, epoch)
    fast = Cohort([config], [7], torch.device("cpu"), [_as_state(slow, 0)])
    plan = controllers.plan_epoch(config, epoch, fast.controllers[0])
    x = reference.OPERATIONS[torch.cat(batches)].unsqueeze(0)
    eps_A, eps_B = (torch.cat(parts) for parts in zip(*noise, strict=True))
    figures, (correction,) = fast.train_epoch([plan], x, torch.stack((eps_A, eps_B)).unsqueeze(1))
    reference.begin_epoch(slow)
    trained = reference.train_epoch(slow, batches, noise)
    for name in ("ce_A", "kl_A", "kl_B", "H_A", "H_B", "lambda1", "lambda2", "lambda3"):
        assert figures[name][0] == pytest.approx(trained.means[name], rel=1e-2), name
    deltas = [correction.delta_lr, correction.delta_lambda1, correction.delta_lambda2, correction.delta_lambda3]
    assert deltas == pytest.approx(trained.corrections, abs=1e-5)
    assert correction.lr == pytest.approx(slow.settings.lr, rel=1e-6)


def _streams(steps: int) -> tuple[list[torch.Tensor], list[tuple[torch.Tensor, torch.Tensor]]]:
    """Return batches of 64 operations, a last batch of 2 operations, and the noise of each batch."""
    generator = torch.Generator().manual_seed(1)
    sizes = [64] * steps + [2]
    batches = [torch.randint(0, reference.SIZE, (size,), generator=generator) for size in sizes]
    noise = [tuple(torch.randn(2, size, 16, generator=generator)) for size in sizes]
    return batches, noise  # type: ignore[return-value]


def _reference(seed: int, epoch: int) -> reference.State:
    torch.manual_seed(seed)
    state = reference.State(reference.ReferenceVAE())
    state.epoch = epoch
    return state


def _as_state(slow: reference.State, steps: int) -> RunState:
    """Return a state of the library with the weights, moments and controllers of the reference."""
    state = RunState.initial(load_config("v5_5"), 7)
    cohort = Cohort([load_config("v5_5")], [7], torch.device("cpu"), [state])
    named = [cohort.architecture.named(b) for b in (state.blocks, state.first_moments, state.second_moments)]
    for name, parameter in slow.model.named_parameters():
        moments = slow.optimiser.state.get(parameter, {})
        named[0][name].copy_(parameter.detach())
        if moments:
            named[1][name].copy_(moments["exp_avg"])
            named[2][name].copy_(moments["exp_avg_sq"])
    averages = slow.model.grad_norm_A_ema.item(), slow.model.grad_norm_B_ema.item()
    controlled = controllers.Controllers(slow.settings.lambda1, slow.settings.lambda2, *averages, slow.phase)
    return RunState(
        slow.epoch, steps, state.blocks, state.first_moments, state.second_moments, controlled, state.best
    )

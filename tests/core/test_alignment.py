"""Tests of the entropy alignment with a gradient, and of pathways that do not influence each other."""

from __future__ import annotations

import pytest
import torch
from small import SMALL

from ternary_lab.config import Config
from ternary_lab.config_files import load_config
from ternary_lab.training.cohort import Cohort
from ternary_lab.training.train import train

ALIGNED = load_config(SMALL.as_dict(), {"entropy_alignment.gradient": "differentiable"})
APART = {
    "gradient_balance.enabled": False, "rho.isolated": 0.0, "rho.consolidated": 0.0, "rho.coupled": 0.0,
    "kl.free_bits": 0.0, "model.use_statenet": False, "loss_weights.low": 0.7, "loss_weights.high": 0.7,
}


def gap(config: Config, lambda3: float) -> float:
    """Train and return |H_A - H_B| of the last epoch, as a mean over seeds."""
    config = load_config(config.as_dict(), {
        "loss_weights.lambda3_base": lambda3, "loss_weights.lambda3_amplitude": 0.0, "loss_weights.lambda3_low": 0.0,
        "loss_weights.lambda3_high": 1e3, "model.use_statenet": False, "training.total_epochs": 12,
        "beta.A": {"mode": "constant", "value": 5.0}, "beta.B": {"mode": "off"}, "optimiser.lr_steps": {0: 0.01},
        # With a third of the noise, H_A is 0.6 nats lower until it is aligned. Rounding changes H_A by a tenth of this.
        "temperature.A.start": 0.3, "temperature.A.end": 0.3,
    })
    last = [r for r in train(config, [1, 2, 3, 4], device="cpu") if r.epoch == config.training.total_epochs - 1]
    return sum(abs(r.H_A - r.H_B) for r in last) / len(last)


def test_with_a_gradient_it_aligns_and_without_it_does_not() -> None:
    assert gap(SMALL, 100.0) == pytest.approx(gap(SMALL, 0.0), rel=1e-6)
    assert gap(ALIGNED, 100.0) < 0.25 * gap(ALIGNED, 0.0)


def test_its_gradient_enters_whole_whatever_scales_the_pathways_losses() -> None:
    """The gradient of λ₃ |H_A - H_B| does not depend on λ₁ and λ₂.

    If λ₃ is huge and λ₁ and λ₂ are tiny, the norm of the whole gradient does not depend on λ₁ and λ₂ either.
    """
    found = []
    for weight in (1e-6, 1e-5):
        config = load_config(ALIGNED.as_dict(), {
            "loss_weights.initial": weight, "loss_weights.low": weight, "loss_weights.high": weight,
            "loss_weights.lambda3_base": 1e3, "loss_weights.lambda3_high": 1e4, "optimiser.grad_clip": 1e6,
            "model.use_statenet": False, "training.total_epochs": 1,
        })
        cohort = Cohort([config], [1], torch.device("cpu"))
        [record] = cohort.advance()
        found.append(record.grad_norm_A)
    assert found[0] == pytest.approx(found[1], rel=0.02)


@pytest.mark.parametrize("per", ["pathway", "model"])
def test_uncoupled_pathways_clipped_apart_know_nothing_of_each_other(per: str) -> None:
    base = load_config(SMALL.as_dict(), {**APART, "optimiser.clip_per": per, "optimiser.grad_clip": 0.1})
    other = load_config(base.as_dict(), {"beta.B": {"mode": "constant", "value": 3.0}})
    ends = []
    for config in (base, other):
        cohort = Cohort([config], [1], torch.device("cpu"))
        for _ in range(2):
            cohort.advance()
        ends.append(cohort.blocks)
    assert not ends[0].decoder_B.equal(ends[1].decoder_B)
    assert ends[0].decoder_A.equal(ends[1].decoder_A) == (per == "pathway")
    assert ends[0].encoders[0].equal(ends[1].encoders[0]) == (per == "pathway")

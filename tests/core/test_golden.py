"""Tests that one training step gives the numbers of the original, to 1e-5 relative or 1e-6 absolute."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ternary_lab import losses
from ternary_lab.config import Config
from ternary_lab.config_files import load_config
from ternary_lab.controllers import Controllers, Correction, Plan
from ternary_lab.metrics.latent_entropy import batch_entropy
from ternary_lab.model import statenet
from ternary_lab.runs.checkpoint import import_original
from ternary_lab.space import SIZE, one_hot, operations
from ternary_lab.training.cohort import Cohort
from ternary_lab.training.run_state import Best, RunState

FILES = [
    Path(__file__).parents[1] / "data" / "golden.json",
    *(Path(name) for name in os.environ.get("TERNARY_LAB_GOLDEN", "").split(os.pathsep) if name),
]
CASES = [
    pytest.param(file, case, id=f"{file.name}-{i}")
    for file in FILES
    for i, case in enumerate(json.loads(file.read_text()))
]


def _configuration(s: dict[str, Any]) -> Config:
    return load_config("v5_5", {
        "kl.free_bits": float(s["free_bits"]),
        "loss.entropy_weight": float(s["entropy_weight"]),
        "loss.repulsion_weight": float(s["repulsion_weight"]),
        "optimiser.grad_clip": float(s["grad_clip"]),
        "optimiser.weight_decay": float(s["weight_decay"]),
    })


def _plan(s: dict[str, Any]) -> Plan:
    return Plan(
        epoch=60, phase=2, beta_A=s["beta_A"], beta_B=s["beta_B"], temperature_A=s["temperature_A"],
        temperature_B=s["temperature_B"], rho=s["rho"], lambda1=s["lambda1"], lambda2=s["lambda2"],
        lambda3=s["lambda3"], lr=s["lr"], grad_ratio=1.0, grad_momentum=s["grad_ema_momentum"],
    )


def _noise(shift: int) -> torch.Tensor:
    n = torch.arange(64 * 16, dtype=torch.float64).view(64, 16) + 1 + shift
    eps = torch.stack((2**0.5 * torch.sin(n), 2**0.5 * torch.cos(0.7 * n)))
    return eps.float().unsqueeze(1)


@pytest.mark.parametrize(("file", "case"), CASES)
def test_one_step_has_the_originals_numbers(file: Path, case: dict[str, Any]) -> None:
    s = case["settings"]
    point = import_original(file.parent / case["checkpoint"])
    config, plan = _configuration(s), _plan(s)
    controllers = Controllers(s["lambda1"], s["lambda2"], s["grad_norm_ema_A"], s["grad_norm_ema_B"])
    empty = RunState.initial(config, 0)
    state = RunState(0, 0, point.blocks, empty.first_moments, empty.second_moments, controllers, Best())
    cohort = Cohort([config], [0], torch.device("cpu"), [state])
    corrections = statenet(cohort.blocks, torch.tensor([case["statenet_input"]]))[0].tolist()
    assert corrections == pytest.approx(case["statenet_corrections"], rel=1e-5, abs=1e-6)

    indices = (307 * torch.arange(64) + case["shift"]) % SIZE
    settings = cohort.step.settings([plan], [Correction.none(plan)])
    x = operations(indices).unsqueeze(0)
    forward = cohort.step.forward(x.repeat(2, 1, 1), one_hot(x), _noise(case["shift"]), settings)
    step = cohort.step.update(forward, settings)
    values = losses.by_column(cohort.step.terms, forward.values)
    terms = {column: value.item() for column, value in values.items()}
    shares = losses.weighted(cohort.step.terms, values, settings.terms)
    pathway = [sum(value.item() for column, value in shares.items() if column[-1] == p) for p in "AB"]
    h = batch_entropy(forward.z)[:, 0].tolist()
    lambdas = settings.lambdas[:, 0].tolist()
    align = abs(h[0] - h[1])
    weighted = [lambdas[i] * step.scale[i, 0].item() * pathway[i] for i in (0, 1)]
    measured = {
        "loss": sum(weighted) + lambdas[2] * align,
        **{name: terms[name] for name in ("ce_A", "ce_B", "kl_A", "kl_B", "entropy_B", "repulsion_B")},
        "loss_A": pathway[0], "loss_B": pathway[1],
        "entropy_align": align, "H_A": h[0], "H_B": h[1],
        "grad_scale_A": step.scale[0, 0].item(), "grad_scale_B": step.scale[1, 0].item(),
    }
    assert measured == pytest.approx(case["losses"], rel=1e-5, abs=1e-6)

    norms = step.norm[:, 0].tolist()
    total = (norms[0] ** 2 + norms[1] ** 2) ** 0.5
    expected = case["grad_norm_before_clip"]
    assert [*norms, total] == pytest.approx([expected["A"], expected["B"], expected["total"]], rel=1e-5, abs=1e-6)
    averages = case["grad_norm_ema_after"]
    assert cohort.step.norms[:, 0].tolist() == pytest.approx([averages["A"], averages["B"]], rel=1e-5, abs=1e-6)

    named = cohort.architecture.named(cohort.blocks)
    sums = {name: named[name].double().sum().item() for name in case["parameter_sums_after_step"]}
    assert sums == pytest.approx(case["parameter_sums_after_step"], rel=1e-4, abs=1e-4)

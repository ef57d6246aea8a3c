"""Tests of steps at fixed addresses and of the functions that CUDA runs as kernels.

A CUDA graph replays steps at fixed addresses. Such steps give the same bits as plain steps.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from ternary_lab import load_config, space
from ternary_lab.backend import kernels
from ternary_lab.backend.random_streams import Streams
from ternary_lab.config import Config
from ternary_lab.controllers import Correction, plan_epoch
from ternary_lab.history import TIMING_COLUMNS
from ternary_lab.training import cohort as cohort_module
from ternary_lab.training.cohort import Cohort
from ternary_lab.training.epoch_steps import PlainSteps, ReplayedSteps, Steps
from ternary_lab.training.step import Figures, Stepper

CPU = torch.device("cpu")
SMALL = {
    "data.batch_size": 64, "data.train_fraction": 0.02, "training.total_epochs": 3, "evaluation.coverage_samples": 500,
    "evaluation.latents": 512,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "v5_5": ("v5_5", {}),
    "alignment with a gradient": ("repaired", {}),
    "information": ("beyond", {"information.start_epoch": 1, "information.latents": 32}),
    "learning StateNet": ("v5_5", {"statenet.training": "hypergradient", "statenet.lessons": 2}),
    "clipping by pathway": ("v5_5", {"optimiser.clip_per": "pathway", "gradient_balance.norm": "raw"}),
    "free bits of means": ("v5_5", {"kl.free_bits_per": "dimension_mean"}),
    "one full batch": ("v5_5", {"data.epoch_operations": 64}),
    "several posterior samples": (
        "repaired", {"training.posterior_samples": 3, "statenet.training": "hypergradient", "statenet.lessons": 2},
    ),
    "several passes": ("v5_5", {"data.epoch_operations": 700}),
}


def _config(name: str) -> Config:
    base, changes = VARIANTS[name]
    return load_config(base, SMALL | changes)


def _trained(config: Config) -> tuple[list[dict[str, Any]], list[torch.Tensor]]:
    cohort = Cohort([config] * 2, [1, 2], CPU)
    records = [record for _ in range(3) for record in cohort.advance()]
    rows = [{k: v for k, v in asdict(record).items() if k not in TIMING_COLUMNS} for record in records]
    return rows, [*cohort.step.moving(), cohort.blocks.statenet]


@pytest.mark.parametrize("name", VARIANTS)
def test_steps_at_fixed_addresses_train_to_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(name)
    rows, weights = _trained(config)

    def replayed(
        stepper: Stepper, x: torch.Tensor, noise: torch.Tensor, draws: Streams, before: Steps | None
    ) -> ReplayedSteps:
        steps = before if isinstance(before, ReplayedSteps) else ReplayedSteps(stepper, x.shape[1])
        steps.begin(x, noise, draws)
        return steps

    monkeypatch.setattr(cohort_module, "begin_epoch", replayed)
    found, at_fixed_addresses = _trained(config)
    assert repr(found) == repr(rows)
    assert all(torch.equal(a, b) for a, b in zip(at_fixed_addresses, weights, strict=True))


def test_figures_are_of_every_step_and_leave_out_what_no_batch_held() -> None:
    config = _config("v5_5")
    cohort = Cohort([config], [1], CPU)
    operations = cohort.config.data.epoch_operations or len(cohort.x_train)
    x = cohort.x_train[:operations].unsqueeze(0)
    noise = torch.randn(2, 1, x.shape[1], config.model.latent_dim)
    found: list[Figures] = []
    for kind in (PlainSteps, ReplayedSteps):
        stepper = Cohort([config], [1], CPU).step
        plan = plan_epoch(config, 0, cohort.controllers[0])
        draws = Streams([1], "prior", device=CPU)
        steps: PlainSteps | ReplayedSteps
        if kind is PlainSteps:
            steps = PlainSteps(stepper, x, noise, draws)
        else:
            steps = ReplayedSteps(stepper, x.shape[1])
            steps.begin(x, noise, draws)
        steps.use(stepper.settings([plan], [Correction.none(plan)]))
        with torch.no_grad():
            for _ in range(len(steps)):
                steps.forward()
                steps.update()
        found.append(steps.figures())
    plain, replayed = found
    assert list(plain.log) == list(replayed.log)
    for name, a in {**plain.log, "z": plain.z}.items():
        b = {**replayed.log, "z": replayed.z}[name]
        assert torch.allclose(a, b, rtol=0, atol=0, equal_nan=True), name
    rest = x.shape[1] % 64
    assert plain.z[-1, :, :, rest:].isnan().all()
    assert plain.z[:-1].isfinite().all()


def test_the_gradient_of_several_samples_is_the_mean_of_their_gradients() -> None:
    samples, operations = 3, 20
    additive = SMALL | {"loss.repulsion_weight": 0.0, "loss.entropy_weight": 0.0}
    one, several = (load_config("v5_5", additive | {"training.posterior_samples": k}) for k in (1, samples))
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(2, 2, operations, samples, one.model.latent_dim, generator=generator)

    def gradients(config: Config, eps: torch.Tensor) -> list[torch.Tensor]:
        cohort = Cohort([config] * 2, [1, 2], CPU)
        x = cohort.x_train[:operations].expand(2, operations, 9)
        plans = [plan_epoch(config, 30, state) for state in cohort.controllers]
        settings = cohort.step.settings(plans, [Correction.none(plan) for plan in plans])
        with torch.no_grad():
            forward = cohort.step.forward(x.repeat(2, 1, 1), space.one_hot(x), eps, settings)
            cohort.step.differentiate(forward, settings, torch.ones(2, 2))
        assert forward.first_samples.shape == (2, 2, operations, config.model.latent_dim)
        return [g.double() for g in cohort.step.gradients.trained()]

    each = [gradients(one, noise[:, :, :, k]) for k in range(samples)]
    together = gradients(several, noise.flatten(3))
    for i, found in enumerate(together):
        mean = torch.stack([g[i] for g in each]).mean(0)
        assert (found - mean).abs().max() < 1e-5 * mean.abs().max()
        assert (found - each[0][i]).abs().max() > 1e-2 * mean.abs().max()


def test_each_network_has_its_own_learning_rate() -> None:
    scales = {"encoder_A": 2.0, "encoder_B": 1.0, "decoder_A": 4.0, "decoder_B": 0.5}
    still = SMALL | {"model.use_statenet": False, "data.epoch_operations": 64}

    def after(changes: dict[str, Any]) -> dict[str, torch.Tensor]:
        cohort = Cohort([load_config("v5_5", still | changes)] * 2, [1, 2], CPU)
        cohort.advance()
        blocks = cohort.step.blocks
        encoders = {f"encoder_{p}": block for p, block in zip("AB", blocks.encoders, strict=True)}
        return {**encoders, "decoder_A": blocks.decoder_A, "decoder_B": blocks.decoder_B}

    together = after({f"optimiser.lr_scale.{name}": scale for name, scale in scales.items()})
    for name, scale in scales.items():
        alone = after({"optimiser.lr_steps": {0: 1e-3 * scale}})
        assert torch.equal(together[name], alone[name]), name
        assert scale == 1 or not torch.equal(together[name], after({})[name])


def test_one_adamw_for_all_rows_is_torchs_for_each() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, size, steps = 3, 501, 6

    def some() -> torch.Tensor:
        return torch.randn(rows, size, generator=generator)

    weights, first, second = some(), torch.zeros(rows, size), torch.zeros(rows, size)
    rates = torch.tensor([[1e-3, 5e-4, 2e-3], [0.9, 0.8, 0.9], [0.999, 0.99, 0.999], [1e-8] * 3, [1e-4, 0.0, 0.1]])
    plain = [torch.nn.Parameter(weights[i].double()) for i in range(rows)]
    optimisers = [
        torch.optim.AdamW([p], lr=lr, betas=(b1, b2), eps=eps, weight_decay=decay)
        for p, (lr, b1, b2, eps, decay) in zip(plain, rates.double().t().tolist(), strict=True)
    ]
    for step in range(1, steps + 1):
        gradients, divisor = some(), torch.rand(rows, generator=generator) + 0.5
        for i in range(rows):
            plain[i].grad = (gradients[i] / divisor[i]).double()
            optimisers[i].step()
        kernels.adamw(weights, gradients, first, second, divisor, rates, torch.tensor(float(step)))
    # The comparison is between float32 and float64. Each of the six steps is at most lr and rounds twice.
    torch.testing.assert_close(weights.double(), torch.stack([p.detach() for p in plain]), rtol=0, atol=2e-6)


def test_philox_has_its_published_numbers() -> None:
    """The numbers for counter 0 and key 0 are from the known-answer tests of Random123 (Salmon et al. 2011)."""
    assert kernels.philox_bits(torch.tensor([0]), 0, 4).tolist() == [
        [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ]


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1), first=st.integers(0, 2**20), count=st.integers(1, 99), begin=st.integers(0, 8)
)
def test_a_draw_depends_on_its_place_alone(seed: int, first: int, count: int, begin: int) -> None:
    keys = torch.tensor([seed, seed + 1])
    whole = kernels.philox_bits(keys, first, 4 * begin + count)
    assert torch.equal(kernels.philox_bits(keys, first + begin, count), whole[:, 4 * begin :])
    assert torch.equal(kernels.philox_bits(keys[1:], first, count), whole[1:, :count])
    normal = kernels.philox_normal(keys, first, 4 * begin + count)
    assert torch.equal(kernels.philox_normal(keys, first + begin, count), normal[:, 4 * begin :])


def test_philoxs_normal_numbers_are_normal() -> None:
    drawn = kernels.philox_normal(torch.tensor([3, 5]), 0, 20_000)
    for row in drawn:
        assert kstest(row.numpy(), norm.cdf).pvalue > 1e-3
    assert abs(float(torch.corrcoef(drawn)[0, 1])) < 0.03
    uniform = kernels.philox_uniform(torch.tensor([3]), 0, 20_000)[0]
    assert kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    assert 0 <= float(uniform.min()) <= float(uniform.max()) < 1


class _Counted(Streams):
    """Streams that draw with Philox, as streams on CUDA do."""

    def __init__(self, seeds: list[int]) -> None:
        super().__init__(seeds, "order", device=CPU)
        self._generators, self._keys = [], torch.tensor(seeds)


def test_permutations_hold_every_number_once_and_differ() -> None:
    streams = _Counted([1, 2])
    one, other = streams.permutations(1000), streams.permutations(1000)
    for rows in (one, other):
        assert torch.equal(rows.sort(1).values, torch.arange(1000).expand(2, -1))
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one[0], other[0])


def test_a_run_draws_the_same_in_any_company() -> None:
    together, alone = _Counted([7, 8]), _Counted([8])
    for _ in range(2):
        assert torch.equal(together.normal(3, 5)[1], alone.normal(3, 5)[0])
        assert torch.equal(together.uniform(7)[1], alone.uniform(7)[0])
        assert torch.equal(together.permutations(9)[1], alone.permutations(9)[0])

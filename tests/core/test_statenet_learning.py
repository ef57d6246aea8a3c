"""Tests of the learning of StateNet.

Hypergradients are compared with finite differences of AdamW. Runs show their effect.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import SMALL
from torch import Tensor

from ternary_lab.config import Config
from ternary_lab.config_files import load_config
from ternary_lab.controllers import correct, correction_slopes, plan_epoch
from ternary_lab.errors import ConfigError
from ternary_lab.metrics import latent_entropy
from ternary_lab.metrics.latent_entropy import batch_entropy
from ternary_lab.model import Architecture
from ternary_lab.networks import Blocks
from ternary_lab.runs import checkpoint
from ternary_lab.runs.train import run_experiment
from ternary_lab.training import statenet_learning
from ternary_lab.training.cohort import Cohort
from ternary_lab.training.run_state import RunState
from ternary_lab.training.train import train

BATCHES = {"encoders": (2, 1, 7), "decoder_A": (1, 5), "decoder_B": (1, 4), "statenet": (1, 3)}
"""Shapes of small blocks of weights, for one run."""
SCALES = (1.0, 4.0), (0.5, 2.0)
"""Factors of the learning rate of encoder A and decoder A, and of encoder B and decoder B."""


def learning(config: Config = SMALL, **changes: object) -> Config:
    settings = {"training": "hypergradient", **changes}
    return load_config(config.as_dict(), {f"statenet.{key}": value for key, value in settings.items()})


def drawn(generator: torch.Generator, positive: bool = False) -> Blocks:
    blocks = {
        name: torch.randn(shape, dtype=torch.float64, generator=generator) for name, shape in BATCHES.items()
    }
    return Blocks(**{name: block.square() if positive else block for name, block in blocks.items()})


def pathway(blocks: Blocks, p: int) -> Tensor:
    return torch.cat((blocks.encoders[p, 0], (blocks.decoder_A, blocks.decoder_B)[p][0]))


def stepped(
    controls: Tensor, raw: list[Tensor], slope: list[Tensor], start: dict[str, list[Tensor]], apart: bool, bound: float
) -> tuple[list[Tensor], dict[str, list[Tensor]], Tensor]:
    """Take a step of torch's AdamW and return the new weights, its state with the gradients, and clipping factors.

    The gradient of pathway p is λ_p raw_p + λ₃ slope_p. It is clipped to the norm `bound`, for each pathway alone if
    `apart` is true.
    """
    lr, *lambdas, alignment = controls.tolist()
    gradients = [w * g + alignment * a for w, g, a in zip(lambdas, raw, slope, strict=True)]
    norms = torch.stack([g.norm() for g in gradients])
    whole = norms if apart else norms.norm().expand(2)
    clip = (bound / whole).clamp(max=1)
    gradients = [g * c for g, c in zip(gradients, clip, strict=True)]
    after: dict[str, list[Tensor]] = {"weights": [], "first": [], "second": [], "gradients": gradients}
    for *whole_rows, scales in zip(start["weights"], gradients, start["first"], start["second"], SCALES, strict=True):
        parts = []
        cut = BATCHES["encoders"][2]
        for network, scale in zip((slice(None, cut), slice(cut, None)), scales, strict=True):
            w, g, m, v = (row[network].clone() for row in whole_rows)
            w.requires_grad_().grad = g
            optimiser = torch.optim.AdamW([w], lr=lr * scale, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.05)
            optimiser.state[w] = {"step": torch.tensor(4.0), "exp_avg": m, "exp_avg_sq": v}
            optimiser.step()
            parts.append((w.detach(), optimiser.state[w]["exp_avg"], optimiser.state[w]["exp_avg_sq"]))
        for name, of_networks in zip(("weights", "first", "second"), zip(*parts, strict=True), strict=True):
            after[name].append(torch.cat(of_networks))
    return after["weights"], after, clip


def blocks_of(rows: list[Tensor]) -> Blocks:
    cut = BATCHES["encoders"][2]
    return Blocks(
        torch.stack([row[:cut] for row in rows])[:, None], rows[0][None, cut:], rows[1][None, cut:],
        torch.zeros(1, 3, dtype=torch.float64),
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.booleans(), st.sampled_from([0.5, 3.0, 1e6]), st.booleans())
def test_the_hypergradient_is_the_difference_that_the_controls_make(
    seed: int, apart: bool, bound: float, aligned: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    raw, objective, alignment = (drawn(generator) for _ in range(3))
    cut = BATCHES["encoders"][2]
    slopes = [aligned * pathway(alignment, p) for p in range(2)]
    for slope in slopes:
        slope[cut:] = 0  # the alignment has a gradient in the encoders only
    start = {
        "weights": [pathway(b, p) for b in [drawn(generator)] for p in range(2)],
        "first": [pathway(b, p) for b in [drawn(generator)] for p in range(2)],
        "second": [pathway(b, p) for b in [drawn(generator, positive=True)] for p in range(2)],
    }
    controls = torch.tensor([0.03, 0.7, 0.9, 0.4], dtype=torch.float64)

    def value(at: Tensor) -> float:
        after, _, _ = stepped(at, [pathway(raw, p) for p in range(2)], slopes, start, apart, bound)
        return float(sum((w * pathway(objective, p)).sum() for p, w in enumerate(after)))

    after, state, clip = stepped(controls, [pathway(raw, p) for p in range(2)], slopes, start, apart, bound)
    step = statenet_learning.TakenStep(
        blocks_of(after), blocks_of(state["gradients"]), blocks_of(state["first"]), blocks_of(state["second"]),
        controls[1:, None], clip[:, None], apart,
        torch.stack([slope[:cut] for slope in slopes])[:, None] if aligned else None,
    )
    one = torch.ones(1, 1, dtype=torch.float64)
    optimisers = [
        [
            statenet_learning.AdamW(5, *(x * one for x in (scale, 0.03 * scale, 0.9, 0.99, 1e-6, 0.05)))
            for scale in scales
        ]
        for scales in SCALES
    ]
    found = statenet_learning.control_gradients(step, objective, optimisers)[0]
    for i in range(4):
        h = torch.zeros(4, dtype=torch.float64)
        h[i] = 1e-6
        difference = (value(controls + h) - value(controls - h)) / 2e-6
        assert float(found[i]) == pytest.approx(difference, rel=1e-4, abs=1e-6), i


def test_where_a_bound_holds_a_control_it_does_not_move() -> None:
    config = learning()
    plan = replace(plan_epoch(config, 0, RunState.initial(config, 1).controllers), lambda1=0.95, lambda2=0.7)
    at = (0.3, 0.5, -0.2, 0.1)
    correction = correct(config, plan, at)
    slopes = correction_slopes(config, plan, correction)
    names = ("lr", "lambda1", "lambda2", "lambda3")
    for i, (name, slope) in enumerate(zip(names, slopes, strict=True)):
        moved = correct(config, plan, tuple(d + 1e-6 * (i == j) for j, d in enumerate(at)))  # type: ignore[arg-type]
        assert slope == pytest.approx((getattr(moved, name) - getattr(correction, name)) / 1e-6, rel=1e-3), name
    assert slopes[1] == 0


def test_statenet_learns_and_only_where_it_is_asked_to() -> None:
    frozen, taught = (Cohort([config], [3], torch.device("cpu")) for config in (SMALL, learning()))
    drawn_weights = Architecture(SMALL.model).initialise(3).statenet
    for cohort in (frozen, taught):
        cohort.advance()
    assert frozen.blocks.statenet.equal(drawn_weights)
    assert not taught.blocks.statenet.equal(drawn_weights)
    # The weights that StateNet learns in the first epoch take effect in the second epoch.
    assert taught.blocks.decoder_B.equal(frozen.blocks.decoder_B)


@pytest.mark.parametrize(("start", "sign"), [(1e-5, 1), (0.3, -1)])
def test_it_learns_to_raise_a_learning_rate_that_is_too_low_and_to_lower_one_that_is_too_high(
    start: float, sign: int
) -> None:
    config = load_config(learning(learning_rate=0.03, lr_scale=0.3, lr_high=1.0).as_dict(), {
        "optimiser.lr_steps": {0: start}, "optimiser.grad_clip": 100.0, "training.total_epochs": 12,
        "data.batch_size": 32,
    })
    records = [r for r in train(config, [1, 2, 3], device="cpu") if r.epoch == 11]
    assert all(sign * r.delta_lr > 0.5 for r in records), [r.delta_lr for r in records]


@pytest.mark.parametrize(("lessons", "taken"), [(4, [1, 3, 6, 8]), (1000, list(range(1, 11))), (1, [1])])
def test_lessons_lie_evenly_in_the_epoch(lessons: int, taken: list[int]) -> None:
    settings = {"statenet.training": "hypergradient", "statenet.lessons": lessons}
    assert statenet_learning.lesson_steps(load_config(SMALL.as_dict(), settings), 11) == taken


def test_lessons_change_neither_the_moving_average_nor_what_the_epoch_draws() -> None:
    informed = load_config(SMALL.as_dict(), {
        "information.noise_weight": 1.0, "information.entropy_weight": 1.0, "information.start_epoch": 0,
        "information.ramp_epochs": 0, "information.latents": 16,
    })
    one, other = (
        Cohort([config], [1], torch.device("cpu")) for config in (informed, learning(informed, information_weight=1.0))
    )
    for cohort in (one, other):
        cohort.advance()
    assert one.step.outputs.equal(other.step.outputs)
    assert one.blocks.encoders.equal(other.blocks.encoders)


def test_a_run_that_learns_goes_on_from_its_checkpoint_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    config = learning()
    whole, begun = (Cohort([config], [1], torch.device("cpu")) for _ in range(2))
    for _ in range(3):
        whole.advance()
    for _ in range(2):
        begun.advance()
    state = begun.state(0)
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, checkpoint.Checkpoint(config, 1, 1, 0.1, state.blocks, state))
    loaded = checkpoint.load(path).state
    assert loaded is not None
    gone_on = Cohort([config], [1], torch.device("cpu"), [loaded])
    gone_on.advance()
    assert gone_on.blocks.statenet.equal(whole.blocks.statenet)
    assert gone_on.blocks.decoder_B.equal(whole.blocks.decoder_B)


def test_moments_are_kept_of_a_statenet_that_learns_alone(tmp_path: Path) -> None:
    [run] = run_experiment(SMALL, [1], tmp_path, device="cpu").values()
    state = run.checkpoint().state
    assert state is not None
    assert not state.second_moments.statenet.any()
    path = tmp_path / "other.safetensors"
    checkpoint.save(path, run.checkpoint())
    assert b"first.state_net" not in path.read_bytes()


def test_without_a_statenet_there_is_none_to_train() -> None:
    with pytest.raises(ConfigError, match="use_statenet"):
        learning(load_config(SMALL.as_dict(), {"model.use_statenet": False}))






@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.floats(0.05, 4), st.integers(0, 2**31))
def test_the_soft_entropy_is_that_of_weighted_bins_and_has_their_gradient(batch: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = scale * torch.randn(2, batch, 3, dtype=torch.float64, generator=generator)
    value, gradient = latent_entropy.soft_entropy(z)
    centres = -3 + 0.12 * (torch.arange(50, dtype=torch.float64) + 0.5)
    x = z.clone().requires_grad_()
    held = x.clamp(float(centres[0]), float(centres[-1]))
    share = (1 - (held[..., None] - centres).abs() / 0.12).clamp(min=0) * (x.abs() <= 3)[..., None]
    p = share.sum(1) / share.sum((1, 3))[..., None].clamp(min=1)
    expected = -torch.xlogy(p, p.clamp(min=1e-300)).sum(-1).mean(-1)
    expected.sum().backward()
    assert value.allclose(expected, atol=1e-9)
    assert x.grad is not None
    assert gradient.allclose(x.grad, atol=1e-7)


def test_the_soft_entropy_is_near_the_histograms() -> None:
    z = torch.randn(2, 4096, 16, generator=torch.Generator().manual_seed(1))
    assert latent_entropy.soft_entropy(z)[0].allclose(batch_entropy(z), atol=0.02)

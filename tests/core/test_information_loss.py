"""Tests of the information in the output of a decoder: values, gradients and terms of the loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import SMALL
from torch import Tensor

from ternary_lab import losses, space
from ternary_lab.config import Config
from ternary_lab.errors import CheckpointError
from ternary_lab.history import LATER, TIMING_COLUMNS, EpochRecord
from ternary_lab.metrics.information import decoder_sums, information_terms
from ternary_lab.runs import checkpoint
from ternary_lab.runs.checksums import CRC32
from ternary_lab.runs.files import read_csv
from ternary_lab.runs.load import load_run
from ternary_lab.runs.train import run_experiment
from ternary_lab.training.cohort import Cohort
from ternary_lab.training.train import train

INFORMED = Config.model_validate(SMALL.model_dump() | {
    "information": {
        "noise_weight": 1.0, "entropy_weight": 1.0, "start_epoch": 0, "ramp_epochs": 1, "latents": 32, "decay": 0.9
    }
})


def slow_terms(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return H(X) and H(X|Z) from the full table p(x|z), for the logits (..., M, 9, 3) of M latents."""
    classes = (space.operations() + 1).long()
    log_q = torch.log_softmax(logits, -1)
    log_p = torch.stack([log_q[..., k, :][..., classes[:, k]] for k in range(9)]).sum(0)
    p, mean = log_p.exp(), log_p.exp().mean(-2)
    return -torch.xlogy(mean, mean).sum(-1), -(p * log_p).sum(-1).mean(-1)


def weights(
    noise: list[float], entropy: list[float], certainty: list[float] | None = None
) -> losses.InformationWeights:
    """Return the weights, with one value per run in each list. The default weight of the certainty is 0."""
    values = (noise, entropy, certainty or [0.0] * len(noise))
    return losses.InformationWeights(*(torch.tensor(value, dtype=torch.float64) for value in values))


MARGIN = 2.5


def slow_certainty(logits: Tensor) -> Tensor:
    """Return the certainty term for the logits (..., M, 9, 3) of M latents.

    It is the mean over latents of Σ excess² / (2 `MARGIN`), where the sum runs over the entries and their values. The
    excess of a value is the amount by which the log-odds of the most probable value against it exceed `MARGIN`.
    """
    log_p = torch.log_softmax(logits, -1)
    excess = (log_p.amax(-1, keepdim=True) - log_p - MARGIN).clamp(min=0)
    return (excess.square() / (2 * MARGIN)).sum((-1, -2)).mean(-1)


@pytest.fixture
def _in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    members = losses._members
    monkeypatch.setattr(losses, "_members", lambda *args: members(*args).double())


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.floats(0, 30), st.integers(0, 2**31))
def test_information_terms_are_those_of_the_full_table(latents: int, scale: float, seed: int) -> None:
    logits = scale * torch.randn(2, 9, 3, latents, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    terms = information_terms(lambda z: z, logits)
    output, noise = slow_terms(logits.permute(0, 3, 1, 2))
    assert terms.output_entropy.allclose(output, atol=1e-10)
    assert terms.decoder_noise.allclose(noise, atol=1e-10)
    assert bool((terms.information >= -1e-10).all())
    assert bool((terms.information <= math.log(latents) + 1e-10).all())  # the output cannot tell more than the latent


def test_information_terms_have_the_gradient_of_their_differences() -> None:
    logits = torch.randn(1, 9, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        terms = information_terms(lambda z: z, x)
        return terms.output_entropy, terms.decoder_noise

    assert torch.autograd.gradcheck(both, (logits.requires_grad_(),))


def test_information_terms_and_the_evaluations_sums_agree() -> None:
    logits = 3 * torch.randn(2, 9, 3, 500, generator=torch.Generator().manual_seed(2))
    terms, found = information_terms(lambda z: z, logits), decoder_sums(lambda z: z, logits).information(exact=True)
    assert terms.output_entropy.double().allclose(found.output_entropy, atol=1e-4)
    assert terms.decoder_noise.double().allclose(found.decoder_noise, atol=1e-4)


@pytest.mark.usefixtures("_in_double")
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_loss_has_the_gradient_of_the_full_table(decay: float) -> None:
    """In the first step, the moving average is the output distribution of this step, for every decay."""
    generator = torch.Generator().manual_seed(3)
    logits = (3 * torch.randn(2, 3, 7, 27, dtype=torch.float64, generator=generator)).requires_grad_()
    w = weights([0.3, 1.0, 0.0], [1.0, 0.0, 0.7], [0.0, 0.2, 0.5])
    average = torch.zeros(2, 3, space.SIZE, dtype=torch.float64)
    terms, gradient = losses.information_loss(logits.detach(), average, decay, MARGIN, w)
    output, noise = slow_terms(logits.view(2, 3, 7, 9, 3))
    certainty = slow_certainty(logits.view(2, 3, 7, 9, 3))
    assert bool((certainty > 0.1).all())
    expected = w.noise * noise - w.output_entropy * output + w.certainty * certainty
    assert terms.output_entropy.allclose(output, atol=1e-12)
    assert terms.noise.allclose(noise, atol=1e-12)
    assert terms.certainty.allclose(certainty, atol=1e-12)
    assert terms.weighted(w).allclose(expected, atol=1e-12)
    expected.sum().backward()
    assert logits.grad is not None
    assert gradient.allclose(logits.grad, atol=1e-13)
    assert average.sum(-1).allclose(torch.ones(2, 3, dtype=torch.float64))


@pytest.mark.usefixtures("_in_double")
def test_the_average_decays_and_the_gradient_asks_it_how_rare_an_operation_is() -> None:
    generator = torch.Generator().manual_seed(4)
    first, second = torch.randn(2, 2, 1, 6, 27, dtype=torch.float64, generator=generator)
    average, w = torch.zeros(2, 1, space.SIZE, dtype=torch.float64), weights([0.0], [1.0])
    losses.information_loss(first, average, 0.75, MARGIN, w)
    one = average.clone()
    alone = torch.zeros_like(average)
    losses.information_loss(second, alone, 0.75, MARGIN, w)
    logits = second.clone().requires_grad_()
    terms, gradient = losses.information_loss(second, average, 0.75, MARGIN, w)
    expected = 0.75 * one + 0.25 * alone
    assert average.allclose(expected, atol=1e-15)
    assert terms.output_entropy.allclose(-torch.xlogy(expected, expected).sum(-1))
    classes = (space.operations() + 1).long()
    log_q = torch.log_softmax(logits.view(2, 1, 6, 9, 3), -1)
    p = torch.stack([log_q[..., k, :][..., classes[:, k]] for k in range(9)]).sum(0).exp()
    (p * expected.log().unsqueeze(2)).sum(-1).mean(-1).sum().backward()
    assert logits.grad is not None
    assert gradient.allclose(logits.grad, atol=1e-13)


def test_what_no_latent_reaches_leaves_the_gradient_finite() -> None:
    logits = 200 * torch.randn(2, 1, 3, 27, generator=torch.Generator().manual_seed(5))
    w = losses.InformationWeights(*torch.ones(3, 1))
    terms, gradient = losses.information_loss(logits, torch.zeros(2, 1, space.SIZE), 0.9, MARGIN, w)
    assert bool(gradient.isfinite().all())
    assert bool(terms.weighted(w).isfinite().all())


def test_the_weights_rise_from_the_first_epoch_named() -> None:
    changed = {"noise_weight": 2.0, "entropy_weight": 1.0, "certainty_weight": 4.0}
    settings = Config().information.model_copy(update=changed)
    assert [settings.weights(e) for e in (0, 19, 20, 30, 40, 99)] == [
        (0, 0, 0), (0, 0, 0), (0, 0, 0), (1.0, 0.5, 2.0), (2.0, 1.0, 4.0), (2.0, 1.0, 4.0)
    ]
    assert settings.model_copy(update={"ramp_epochs": 0}).weights(20) == (2.0, 1.0, 4.0)


def test_a_trained_decoder_is_less_noisy_for_the_term_and_the_rows_terms_still_add_up() -> None:
    records = list(train(INFORMED, [1], device="cpu"))
    plain = list(train(SMALL, [1], device="cpu"))
    for record in records:
        terms = [value for name, value in vars(record).items() if name.startswith("loss_")]
        assert record.train_loss == pytest.approx(sum(terms), rel=1e-5)
    assert records[0].loss_information_A == 0  # the weight is still 0 in the first epoch of the ramp
    assert records[-1].loss_information_A != 0
    assert [r.loss_information_B for r in plain] == [0] * len(plain)
    assert records[0].ce_A == plain[0].ce_A
    assert records[-1].informative_coverage_B > plain[-1].informative_coverage_B


def test_a_term_of_weight_0_changes_nothing_but_rounding() -> None:
    without = reweighted(noise_weight=0.0, entropy_weight=0.0)
    rows = [
        [r for r in records if r.seed == 2]
        for records in (train(without, [2], device="cpu"), mixed([INFORMED, without], [1, 2]))
    ]
    for alone, beside in zip(*rows, strict=True):
        assert alone.ce_B == pytest.approx(beside.ce_B, rel=1e-3)


def reweighted(**changes: float) -> Config:
    return INFORMED.model_copy(update={"information": INFORMED.information.model_copy(update=changes)})


def mixed(configs: list[Config], seeds: list[int]) -> Iterator[EpochRecord]:
    for epoch in Cohort(configs, seeds, torch.device("cpu")).epochs():
        yield from (record for record, _ in epoch.finish())


def test_a_run_that_goes_on_has_the_same_average() -> None:
    whole, begun = (Cohort([INFORMED], [1], torch.device("cpu")) for _ in range(2))
    for _ in range(3):
        whole.advance()
    begun.advance()
    gone_on = Cohort([INFORMED], [1], torch.device("cpu"), [begun.state(0)])
    for _ in range(2):
        gone_on.advance()
    one, other = whole.state(0), gone_on.state(0)
    assert one.output is not None
    assert other.output is not None
    assert one.output.sum(-1).allclose(torch.ones(2, 1))
    assert one.output.equal(other.output)
    assert one.blocks.decoder_B.equal(other.blocks.decoder_B)


def test_a_checkpoint_without_the_average_is_refused(tmp_path: Path) -> None:
    [run] = run_experiment(INFORMED, [1], tmp_path, device="cpu").values()
    point = run.checkpoint()
    assert point.state is not None
    assert point.state.output is not None
    for output in (None, torch.ones(2, 1, 5), -point.state.output):
        path = tmp_path / "other.safetensors"
        checkpoint.save(path, replace(point, state=replace(point.state, output=output)))
        with pytest.raises(CheckpointError, match="output"):
            checkpoint.load(path)


def test_a_history_from_before_these_terms_is_read_and_gone_on_with(tmp_path: Path) -> None:
    [run] = run_experiment(SMALL, [1], tmp_path / "runs", device="cpu").values()
    whole = run.history.drop(columns=list(TIMING_COLUMNS))
    old = read_csv(run.path / "history.csv").drop(columns=[*LATER, CRC32])
    old.iloc[:-1].to_csv(run.path / "history.csv", index=False)
    assert (load_run(run.path).history[list(LATER)] == 0).all(axis=None)
    (run.path / "checkpoints" / "previous.safetensors").replace(run.path / "checkpoints" / "latest.safetensors")
    [again] = run_experiment(SMALL, [1], tmp_path / "runs", device="cpu").values()
    pd.testing.assert_frame_equal(again.history.drop(columns=list(TIMING_COLUMNS)), whole)

"""Tests of each loss term: its value against a simple formula, its gradient against autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ternary_lab import losses, model, space
from ternary_lab.losses import TermNumbers

R, B, L = 3, 7, 5


def _logits(scale: float = 2.0) -> Tensor:
    return (torch.randn(2, R, B, 9, 3, generator=torch.Generator().manual_seed(1)) * scale).double().requires_grad_()


def _latents(seed: int) -> Tensor:
    return torch.randn(2, R, B, L, generator=torch.Generator().manual_seed(seed)).double().requires_grad_()


def _target() -> Tensor:
    x = torch.randint(-1, 2, (R, B, 9), generator=torch.Generator().manual_seed(2))
    return space.one_hot(x).double()


def _close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_cross_entropy() -> None:
    logits, target = _logits(), _target()
    with torch.no_grad():
        value, p, gradient = losses.cross_entropy(target, logits)
    _close(p, torch.softmax(logits, -1))
    expected = torch.stack([
        torch.stack([
            torch.nn.functional.cross_entropy(
                logits[pathway, run].reshape(-1, 3), target[run].argmax(-1).flatten(), reduction="sum"
            ) / B
            for run in range(R)
        ])
        for pathway in range(2)
    ])
    _close(value, expected)
    _close(gradient, torch.autograd.grad(expected.sum(), logits)[0])


def test_cross_entropy_takes_logits_of_any_size() -> None:
    logits = torch.tensor([1e4, 0.0, -1e4]).expand(2, 1, 1, 9, 3)
    for chosen, nats in ((0, 0.0), (1, 9e4), (2, 18e4)):
        target = torch.nn.functional.one_hot(torch.tensor(chosen), 3).float().expand(1, 1, 9, 3)
        value, p, gradient = losses.cross_entropy(target, logits)
        assert value.flatten().tolist() == pytest.approx([nats] * 2)
        assert torch.isfinite(p).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("per", ["sample", "dimension_mean"])
def test_free_bits_kl(per: losses.FreeBits) -> None:
    mu, s = _latents(3), _latents(4)
    free_bits, weight = torch.tensor([0.0, 0.5, 0.9]).double(), torch.rand(2, R).double()
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(mu, (0.5 * s).exp()), normal(0, 1))
    if per == "sample":
        expected = torch.maximum(kl, free_bits[:, None, None]).sum((2, 3)) / B
    else:
        expected = torch.maximum(kl.mean(2), free_bits[:, None]).sum(-1)
    with torch.no_grad():
        value, d_mu, d_s = losses.free_bits_kl(mu, s, free_bits, per, weight)
    _close(value, expected)
    expected_mu, expected_s = torch.autograd.grad((weight * expected).sum(), (mu, s))
    _close(d_mu, expected_mu)
    _close(d_s, expected_s)


def test_free_bits_bound_the_kl_from_below_and_stop_its_gradient() -> None:
    nothing = torch.zeros(2, 1, B, L)
    value, d_mu, d_s = losses.free_bits_kl(nothing, nothing, torch.tensor([0.5]), "sample", torch.ones(2, 1))
    assert value.flatten().tolist() == pytest.approx([0.5 * L] * 2)
    assert not d_mu.any()
    assert not d_s.any()


def test_mean_output_entropy() -> None:
    logits = _logits()[1].detach().requires_grad_()
    p = torch.softmax(logits, -1)
    value, gradient = losses.mean_output_entropy(p)
    mean = p.mean(1)
    _close(value, -(mean * (mean + 1e-10).log()).sum((1, 2)))
    _close(gradient, torch.autograd.grad(value.sum(), logits)[0])
    uniform, _ = losses.mean_output_entropy(torch.full((1, B, 9, 3), 1 / 3, dtype=torch.float64))
    assert uniform.item() == pytest.approx(9 * math.log(3), abs=1e-8)


def test_repulsion() -> None:
    z = (_latents(5)[1].detach() * 0.3).requires_grad_()
    sigma = torch.tensor([0.5, 0.7, 1.0]).double()
    weight = torch.tensor([0.1, 1.0, 2.0]).double()
    value, gradient = losses.repulsion(z, sigma, weight)
    for run in range(R):
        pairs = [
            torch.exp(-(z[run, i] - z[run, j]).square().sum() / sigma[run] ** 2)
            for i in range(B) for j in range(B) if i != j
        ]
        _close(value[run], torch.stack(pairs).mean())
    expected = torch.stack([
        torch.exp(-(z[:, i] - z[:, j]).square().sum(-1) / sigma**2) for i in range(B) for j in range(B) if i != j
    ]).mean(0)
    _close(gradient, torch.autograd.grad((weight * expected).sum(), z)[0])


def test_a_batch_of_one_does_not_repel() -> None:
    value, gradient = losses.repulsion(torch.randn(R, 1, L), torch.full((R,), 0.5), torch.ones(R))
    assert not value.any()
    assert not gradient.any()


def test_the_gradients_are_those_of_the_pathway_losses() -> None:
    mu, s, z, logits, target = _latents(6), _latents(7), _latents(8), _logits(), _target()
    beta, free_bits = torch.rand(2, R).double(), torch.full((R,), 0.3).double()
    weight_entropy, weight_repulsion = torch.rand(2, 1, R).double()
    numbers = {
        "ce": TermNumbers(torch.ones(2, R).double(), []), "kl": TermNumbers(beta, [free_bits]),
        "entropy": TermNumbers(weight_entropy, []),
        "repulsion": TermNumbers(weight_repulsion, [torch.full((R,), 1.5).double()]),
    }
    # Autograd differentiates the definitions, because the terms of the library change tensors in place.
    p = torch.softmax(logits, -1)
    ce = -(torch.log_softmax(logits, -1) * target).sum((2, 3, 4)) / B
    kl = torch.maximum(model.gaussian_kl(mu, s), free_bits[:, None, None]).sum((2, 3)) / B
    mean = p[1].mean(1)
    entropy = -(mean * (mean + 1e-10).log()).sum((1, 2))
    apart = (z[1].unsqueeze(1) - z[1].unsqueeze(2)).square().sum(-1)
    kernel = (-apart / 1.5**2).exp() * (1 - torch.eye(B))
    repulsion = kernel.sum((1, 2)) / (B * (B - 1))
    loss = ce + beta * kl
    loss = loss + torch.stack((torch.zeros(R), weight_repulsion[0] * repulsion - weight_entropy[0] * entropy))
    expected = torch.autograd.grad(loss.sum(), (mu, s, z, logits))

    with torch.no_grad():
        gradients = losses.Gradients()
        batch = losses.Batch(mu, s, z, target=target, logits=logits)
        found = losses.compute_terms(losses.TERMS, batch, numbers, gradients)
        values = losses.weighted(losses.TERMS, losses.by_column(losses.TERMS, found), numbers)
    assert list(values) == ["ce_A", "kl_A", "ce_B", "kl_B", "entropy_B", "repulsion_B"]
    _close(torch.stack((values["ce_A"] + values["kl_A"], sum(values[c] for c in values if c[-1] == "B"))), loss)
    assert list(gradients.z) == [1]
    assert not expected[2][0].any()
    for part, right in zip(
        (gradients.mu, gradients.log_variance, gradients.z[1], gradients.logits),
        (expected[0], expected[1], expected[2][1], expected[3]), strict=True,
    ):
        assert part is not None
        _close(part, right)

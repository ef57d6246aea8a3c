"""The loss of v5.5, each term a function. R runs at once; all figures in nats.

    CE    Σ_k -ln p(x_k|z̃), mean over the batch
    KL    Σ_d max(-½(1 + s - μ² - e^s), free bits), mean over the batch
    S     -Σ p̄ ln p̄ over B's 27 batch-mean softmax outputs
    rep   mean over ordered pairs i ≠ j of exp(-‖z_i - z_j‖²/σ²) on z_B

    L_A = CE_A + β_A KL_A
    L_B = CE_B + β_B KL_B - w_S S + w_rep rep
    L   = λ₁ g_A L_A + λ₂ g_B L_B + λ₃ |H_A - H_B|

H is a histogram under no gradient: the last term moves the reported loss and no parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

FreeBits = Literal["sample", "dimension_mean"]


@dataclass(frozen=True)
class Weights:
    """What the loss of one epoch reads besides the data. Tensors over runs, so that each run has its own."""

    beta: Tensor
    """(2, R): weight of each pathway's KL."""
    lambdas: Tensor
    """(3, R): λ₁, λ₂, λ₃."""
    free_bits: Tensor
    """(R,), nats."""
    entropy: Tensor
    """(R,): weight of S."""
    repulsion: Tensor
    """(R,): weight of rep."""
    repulsion_sigma: Tensor
    """(R,): width of rep's kernel."""
    free_bits_per: FreeBits = "sample"


@dataclass(frozen=True)
class LossTerms:
    """The terms of one batch, before the weights λ and the entropy alignment."""

    ce: Tensor
    """(2, R)"""
    kl: Tensor
    """(2, R)"""
    entropy_B: Tensor
    """(R,): S."""
    repulsion_B: Tensor
    """(R,): rep."""
    pathway: Tensor
    """(2, R): L_A and L_B."""


def loss_terms(x: Tensor, mu: Tensor, log_variance: Tensor, z: Tensor, logits: Tensor, w: Weights) -> LossTerms:
    """All terms for x (R, B, 9), μ, s, z (2, R, B, L) and logits (2, R, B, 9, 3)."""
    log_p = torch.log_softmax(logits, -1)
    ce = cross_entropy(x, log_p)
    kl = free_bits_kl(mu, log_variance, w.free_bits, w.free_bits_per)
    entropy_b = mean_output_entropy(log_p[1])
    repulsion_b = repulsion(z[1], w.repulsion_sigma)
    loss_a = ce[0] + w.beta[0] * kl[0]
    loss_b = ce[1] + w.beta[1] * kl[1] - w.entropy * entropy_b + w.repulsion * repulsion_b
    return LossTerms(ce, kl, entropy_b, repulsion_b, torch.stack((loss_a, loss_b)))


def cross_entropy(x: Tensor, log_p: Tensor) -> Tensor:
    """CE (2, R) of operations x (R, B, 9) under log-probabilities (2, R, B, 9, 3)."""
    classes = (x + 1).long().expand(log_p.shape[:-1]).unsqueeze(-1)
    return -log_p.gather(-1, classes).sum((2, 3, 4)) / x.shape[1]


def gaussian_kl(mu: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, e^s) ‖ N(0, 1)) of every sample and dimension (Kingma & Welling 2014)."""
    return -0.5 * (1 + log_variance - mu.square() - log_variance.exp())


def free_bits_kl(mu: Tensor, log_variance: Tensor, free_bits: Tensor, per: FreeBits) -> Tensor:
    """KL (2, R) with a floor of `free_bits` (R,) nats (Kingma et al. 2016).

    `sample` (v5.5) bounds every sample and dimension; `dimension_mean` the batch mean of each
    dimension, as the paper does.
    """
    kl = gaussian_kl(mu, log_variance)
    if per == "dimension_mean":
        return torch.maximum(kl.mean(2), free_bits[:, None]).sum(-1)
    return torch.maximum(kl, free_bits[:, None, None]).sum((2, 3)) / mu.shape[2]


def mean_output_entropy(log_p: Tensor) -> Tensor:
    """S (R,) of log-probabilities (R, B, 9, 3): entropy of the batch-mean outputs, at most 9 ln 3 = 9.8875."""
    mean = log_p.exp().mean(1)
    return -(mean * (mean + 1e-10).log()).sum((1, 2))


def repulsion(z: Tensor, sigma: Tensor) -> Tensor:
    """rep (R,) of latents z (R, B, L); 0 for a batch of one.

    The diagonal is masked: added and subtracted again, it would cancel the tiny rest in float32.
    """
    batch = z.shape[1]
    if batch < 2:
        return torch.zeros_like(sigma)
    norms = z.square().sum(-1)
    squared = torch.baddbmm(norms.unsqueeze(1), z, z.transpose(1, 2), alpha=-2) + norms.unsqueeze(2)
    kernel = (-squared.clamp(min=0) / sigma.square()[:, None, None]).exp()
    off_diagonal = 1 - torch.eye(batch, device=z.device)
    return (kernel * off_diagonal).sum((1, 2)) / (batch * (batch - 1))

"""The loss of v5.5, each term a function that returns its value and its gradient. In nats.

    CE    Σ_k -ln p(x_k|z̃), mean over the batch
    KL    Σ_d max(-½(1 + s - μ² - e^s), free bits), mean over the batch
    S     -Σ p̄ ln p̄ over B's 27 batch-mean softmax outputs
    rep   mean over ordered pairs i ≠ j of exp(-‖z_i - z_j‖²/σ²) on z_B

    L_A = CE_A + β_A KL_A
    L_B = CE_B + β_B KL_B - w_S S + w_rep rep
    L   = λ₁ g_A L_A + λ₂ g_B L_B + λ₃ |H_A - H_B|

H is a histogram under no gradient: the last term moves the reported loss and no parameter. Because
cross-injection stops the gradient, L_A moves pathway A alone and L_B pathway B alone; the factors
λ g are applied to a pathway's whole gradient at the end. Shapes are those of `model`.

The gradients are written beside their terms, not left to autograd, whose bookkeeping costs several
times the arithmetic at this size; the tests differentiate every value and compare.
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


@dataclass(frozen=True)
class LossGradients:
    """Gradients of L_A and L_B, each with respect to its own pathway's tensors."""

    logits: Tensor
    """(2, R, B, 9, 3)"""
    mu: Tensor
    """(2, R, B, L): through the KL alone; a latent's gradient reaches μ and s through z."""
    log_variance: Tensor
    """(2, R, B, L): likewise."""
    z_B: Tensor
    """(R, B, L): through the repulsion alone."""


def one_hot(x: Tensor) -> Tensor:
    """Operations x (..., 9) as float one-hot classes (..., 9, 3)."""
    return torch.nn.functional.one_hot((x + 1).long(), 3).float()


def loss_terms(
    target: Tensor, mu: Tensor, log_variance: Tensor, z: Tensor, logits: Tensor, w: Weights
) -> tuple[LossTerms, LossGradients]:
    """All terms and gradients for one-hot targets (R, B, 9, 3), μ, s, z (2, R, B, L), logits (2, R, B, 9, 3)."""
    log_p = torch.log_softmax(logits, -1)
    p = log_p.exp()
    ce, d_logits = cross_entropy(target, log_p, p)
    kl, d_mu, d_log_variance = free_bits_kl(mu, log_variance, w.free_bits, w.free_bits_per)
    entropy_b, d_entropy = mean_output_entropy(p[1])
    repulsion_b, d_z = repulsion(z[1], w.repulsion_sigma)

    pathway = ce + w.beta * kl
    pathway[1] += w.repulsion * repulsion_b - w.entropy * entropy_b
    d_logits[1].addcmul_(d_entropy, w.entropy[:, None, None, None], value=-1)
    beta = w.beta[:, :, None, None]
    gradients = LossGradients(d_logits, d_mu * beta, d_log_variance * beta, d_z * w.repulsion[:, None, None])
    return LossTerms(ce, kl, entropy_b, repulsion_b, pathway), gradients


def cross_entropy(target: Tensor, log_p: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """CE (2, R) of one-hot targets (R, B, 9, 3) and its gradient in the logits (2, R, B, 9, 3)."""
    batch = target.shape[1]
    return (log_p * target).sum((2, 3, 4)).div_(-batch), (p - target).div_(batch)


def gaussian_kl(mu: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, e^s) ‖ N(0, 1)) of every sample and dimension (Kingma & Welling 2014)."""
    return -0.5 * (1 + log_variance - mu.square() - log_variance.exp())


def free_bits_kl(
    mu: Tensor, log_variance: Tensor, free_bits: Tensor, per: FreeBits
) -> tuple[Tensor, Tensor, Tensor]:
    """KL (2, R) with a floor of `free_bits` (R,) nats and its gradients in μ and s (Kingma et al. 2016).

    `sample` (v5.5) bounds every sample and dimension; `dimension_mean` the batch mean of each
    dimension, as the paper does. Below the floor there is no gradient.
    """
    batch = mu.shape[2]
    variance = log_variance.exp()
    kl = (mu.square() + variance - log_variance).sub_(1).mul_(0.5)
    floor = free_bits[:, None, None]
    if per == "dimension_mean":
        kl = kl.mean(2, keepdim=True)
        value = torch.maximum(kl, floor).sum((2, 3))
    else:
        value = torch.maximum(kl, floor).sum((2, 3)).div_(batch)
    above = (kl > floor).to(mu.dtype).div_(batch)
    return value, above * mu, variance.sub_(1).mul_(0.5).mul_(above)


def mean_output_entropy(p: Tensor) -> tuple[Tensor, Tensor]:
    """S (R,) of probabilities (R, B, 9, 3), at most 9 ln 3 = 9.8875, and its gradient in the logits."""
    tiny = 1e-10
    mean = p.mean(1, keepdim=True)
    log_mean = (mean + tiny).log()
    value = (mean * log_mean).sum((1, 2, 3)).neg_()
    d_p = (log_mean + mean / (mean + tiny)).div_(-p.shape[1])
    weighted = p * d_p
    return value, weighted - p * weighted.sum(-1, keepdim=True)


def repulsion(z: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """rep (R,) of latents z (R, B, L) and its gradient in z; 0 for a batch of one.

    The diagonal is masked: added and subtracted again, it would cancel the tiny rest in float32.
    """
    batch = z.shape[1]
    if batch < 2:
        return torch.zeros_like(sigma), torch.zeros_like(z)
    precision = sigma.square().reciprocal()[:, None, None]
    norms = z.square().sum(-1, keepdim=True)
    squared = torch.baddbmm(norms.transpose(1, 2), z, z.transpose(1, 2), alpha=-2).add_(norms).clamp_(min=0)
    # exp(-80) is 1e-35: what is below makes no difference, and denormal numbers cost 50 times as much.
    kernel = squared.mul_(precision).clamp_(max=80).neg_().exp_()
    kernel.diagonal(dim1=1, dim2=2).zero_()
    pairs = batch * (batch - 1)
    towards = kernel.sum(-1, keepdim=True) * z - torch.bmm(kernel, z)
    return kernel.sum((1, 2)).div_(pairs), towards.mul_(precision).mul_(-4 / pairs)

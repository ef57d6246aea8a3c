"""The loss of v5.5, each term a function that returns its value and its gradient. In nats.

    CE    Σ_k -ln p(x_k|z̃), mean over the batch
    KL    Σ_d max(-½(1 + s - μ² - e^s), free bits), mean over the batch
    S     -Σ p̄ ln p̄ over B's 27 batch-mean softmax outputs
    rep   mean over ordered pairs i ≠ j of exp(-‖z_i - z_j‖²/σ²) on z_B

    L_A = CE_A + β_A KL_A
    L_B = CE_B + β_B KL_B - w_S S + w_rep rep
    L   = λ₁ g_A L_A + λ₂ g_B L_B + λ₃ |H_A - H_B|

H is a histogram under no gradient: the last term moves the reported loss and no parameter, unless H is
that of `soft_entropy`. Because cross-injection stops the gradient, L_A moves pathway A alone and L_B
pathway B alone; the factors λ g are applied to a pathway's whole gradient at the end. Shapes are those
of `model`; `prior` has terms that v5.5 lacks.

The gradients are written beside their terms, not left to autograd, whose bookkeeping costs several
times the arithmetic at this size; the tests differentiate every value and compare.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ternary_lab.backend import kernels

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

    def repeated(self, times: int) -> Weights:
        """For `times` batches of each run, one after the other."""
        each = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "free_bits_per"}
        return replace(self, **{name: value.repeat_interleave(times, -1) for name, value in each.items()})


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

    def pathway(self, w: Weights) -> Tensor:
        """(2, R): L_A and L_B. All terms may have more dimensions in front."""
        of_b = w.repulsion * self.repulsion_B - w.entropy * self.entropy_B
        return self.ce + w.beta * self.kl + torch.stack((torch.zeros_like(of_b), of_b), -2)


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


def loss_terms(
    target: Tensor, mu: Tensor, log_variance: Tensor, z: Tensor, logits: Tensor, w: Weights
) -> tuple[LossTerms, LossGradients]:
    """All terms and gradients for one-hot targets (R, B, 9, 3), μ, s, z (2, R, B, L), logits (2, R, B, 9, 3)."""
    return joined(code_terms(mu, log_variance, z, w), output_terms(target, logits, w))


class CodeTerms(NamedTuple):
    """The terms of the latents, which need no decoder; see `LossTerms` and `LossGradients`."""

    kl: Tensor
    mu: Tensor
    log_variance: Tensor
    repulsion_B: Tensor
    z_B: Tensor


class OutputTerms(NamedTuple):
    """The terms of the decoders' output; see `LossTerms` and `LossGradients`."""

    ce: Tensor
    entropy_B: Tensor
    logits: Tensor


def code_terms(mu: Tensor, log_variance: Tensor, z: Tensor, w: Weights) -> CodeTerms:
    """KL and rep of μ, s, z (2, R, B, L), with their gradients."""
    kl, d_mu, d_log_variance = free_bits_kl(mu, log_variance, w.free_bits, w.free_bits_per, w.beta)
    return CodeTerms(kl, d_mu, d_log_variance, *repulsion(z[1], w.repulsion_sigma, w.repulsion))


def output_terms(target: Tensor, logits: Tensor, w: Weights) -> OutputTerms:
    """CE and S of one-hot targets (R, B, 9, 3) and logits (2, R, B, 9, 3), with their gradient."""
    if kernels.usable(logits):
        return OutputTerms(*kernels.output_terms(target, logits, w.entropy))
    ce, p, d_logits = cross_entropy(target, logits)
    entropy_b, d_entropy = mean_output_entropy(p[1])
    d_logits[1].addcmul_(d_entropy, w.entropy[:, None, None, None], value=-1)
    return OutputTerms(ce, entropy_b, d_logits)


def joined(code: CodeTerms, output: OutputTerms) -> tuple[LossTerms, LossGradients]:
    """All terms and all gradients."""
    return (
        LossTerms(output.ce, code.kl, output.entropy_B, code.repulsion_B),
        LossGradients(output.logits, code.mu, code.log_variance, code.z_B),
    )


def cross_entropy(target: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """CE (2, R) of one-hot targets (R, B, 9, 3), the softmax p (2, R, B, 9, 3), and CE's gradient in the logits.

    Written out, because torch's softmax is slow over a dimension of three.
    """
    batch = target.shape[1]
    shifted = logits - logits.amax(-1, keepdim=True)
    weights = shifted.exp()
    first, second, third = weights.unbind(-1)
    total = (first + second).add_(third)
    p = weights.div_(total.unsqueeze(-1))
    value = total.log_().sum((2, 3)).sub_(shifted.mul_(target).sum((2, 3, 4))).div_(batch)
    return value, p, (p - target).div_(batch)


def free_bits_kl(
    mu: Tensor, log_variance: Tensor, free_bits: Tensor, per: FreeBits, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """KL (2, R) with a floor of `free_bits` (R,) nats, and its gradients in μ and s times `weight` (2, R).

    `sample` (v5.5) bounds every sample and dimension; `dimension_mean` the batch mean of each
    dimension, as the paper does. Below the floor there is no gradient (Kingma et al. 2016).
    """
    batch = mu.shape[2]
    variance = log_variance.exp()
    double = torch.addcmul(variance, mu, mu).sub_(log_variance).sub_(1)
    floor = 2 * free_bits[:, None, None]
    scale = 0.5 / batch
    if per == "dimension_mean":
        double = double.mean(2, keepdim=True)
        scale = 0.5
    value = torch.maximum(double, floor).sum((2, 3)).mul_(scale)
    above = (double > floor) * weight[:, :, None, None].div(batch)
    return value, above * mu, variance.sub_(1).mul_(above).mul_(0.5)


def mean_output_entropy(p: Tensor) -> tuple[Tensor, Tensor]:
    """S (R,) of probabilities (R, B, 9, 3), at most 9 ln 3 = 9.8875, and its gradient in the logits."""
    mean = p.mean(1, keepdim=True)
    positive = mean + 1e-10
    log_mean = positive.log()
    value = (mean * log_mean).sum((1, 2, 3)).neg_()
    weighted = p * log_mean.addcdiv(mean, positive)
    return value, torch.addcmul(weighted, p, weighted.sum(-1, keepdim=True), value=-1).div_(-p.shape[1])


def repulsion(z: Tensor, sigma: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """rep (R,) of latents z (R, B, L), and its gradient in z times `weight` (R,); 0 for a batch of one.

    The diagonal is masked: added and subtracted again, it would cancel the tiny rest in float32.
    """
    batch = z.shape[1]
    if batch < 2:
        return torch.zeros_like(sigma), torch.zeros_like(z)
    scaled = z / sigma[:, None, None]
    norms = scaled.square().sum(-1, keepdim=True)
    exponent = torch.baddbmm(norms.transpose(1, 2), scaled, scaled.transpose(1, 2), beta=-1, alpha=2).sub_(norms)
    # exp(-80) is 1e-35: what is below makes no difference, and denormal numbers cost 50 times as much.
    kernel = exponent.clamp_(-80, 0).exp_()
    kernel.diagonal(dim1=1, dim2=2).zero_()
    pairs = batch * (batch - 1)
    row = kernel.sum(-1, keepdim=True)
    towards = torch.baddbmm(row * scaled, kernel, scaled, alpha=-1)
    return row.sum((1, 2)).div_(pairs), towards.mul_((weight / sigma).mul_(-4 / pairs)[:, None, None])

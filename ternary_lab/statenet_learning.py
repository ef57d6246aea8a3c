"""What one optimiser step would have owed to other settings: hypergradients of lr, λ₁, λ₂ and λ₃.

θ' = θ - lr (m̂/(√v̂ + ε) + w θ) is the step that AdamW has just taken, g its gradient: scaled by λ g and
clipped. For an objective V of the weights after the step (Bengio 2000; Baydin et al. 2018)

    dV/dlr = ∇V(θ') · ∂θ'/∂lr             dV/dλ = ∇V(θ') · ∂θ'/∂g · ∂g/∂λ

AdamW works entry by entry, so ∂θ'/∂g is a vector; m and v before the step count as given. One step is
all that is looked at: what pays later only is not seen (the short-horizon bias of Wu et al. 2018).

R runs; a pathway's weights are its encoder's row and its decoder's, each (R, ·).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ternary_lab.networks import Blocks


@dataclass(frozen=True)
class AdamW:
    """The number of the last step, from 1, and the optimiser's settings of each run: (R, 1)."""

    step: int
    lr: Tensor
    beta1: Tensor
    beta2: Tensor
    eps: Tensor
    weight_decay: Tensor

    def sensitivity(self, weights: Tensor, first: Tensor, second: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """∂θ'/∂lr and ∂θ'/∂g, entry by entry, from θ', m and v after the step and its gradient."""
        unbiased = 1 - self.beta1**self.step, 1 - self.beta2**self.step
        mean, root = first / unbiased[0], (second / unbiased[1]).sqrt_()
        below = root + self.eps
        direction = mean / below
        before = (weights + self.lr * direction) / (1 - self.lr * self.weight_decay)
        of_mean = (1 - self.beta1) / unbiased[0] / below
        # An entry that has never had a gradient has root 0 and stays where it is.
        of_root = (1 - self.beta2) / unbiased[1] * gradient / root.clamp_min(torch.finfo(root.dtype).tiny)
        return -(direction + self.weight_decay * before), -self.lr * (of_mean - direction / below * of_root)


@dataclass(frozen=True)
class Step:
    """A step just taken. Gradients are as AdamW had them: scaled by λ g, and clipped."""

    weights: Blocks
    gradients: Blocks
    first_moments: Blocks
    second_moments: Blocks
    lambdas: Tensor
    """(3, R)"""
    clip: Tensor
    """(2, R): factor of the clipping; 1 where nothing was clipped."""
    apart: bool
    """Whether each pathway was clipped by its own norm."""
    alignment: Tensor | None
    """(2, R, ·): gradient of |H_A - H_B| in the encoders, or None where it has none."""


def control_gradients(step: Step, objective: Blocks, optimiser: AdamW) -> Tensor:
    """dV/d(lr, λ₁, λ₂, λ₃), (R, 4), for the gradient of V in the weights after the step."""
    runs = step.clip.shape[1]
    of_lr = step.clip.new_zeros(runs)
    # Over each pathway: of e = ∇V ∂θ'/∂g with g and with the alignment's gradient a, and of g with g and with a.
    e_g, e_a, g_g, g_a = step.clip.new_zeros(4, 2, runs)
    for p in range(2):
        parts = zip(*(_parts(b, p) for b in (
            step.weights, step.first_moments, step.second_moments, step.gradients, objective
        )), strict=True)
        for i, (weights, first, second, gradient, slope) in enumerate(parts):
            by_lr, by_gradient = optimiser.sensitivity(weights, first, second, gradient)
            of_lr += (slope * by_lr).sum(-1)
            e = by_gradient.mul_(slope)
            e_g[p] += (e * gradient).sum(-1)
            g_g[p] += gradient.square().sum(-1)
            if i == 0 and step.alignment is not None:
                e_a[p] += (e * step.alignment[p]).sum(-1)
                g_a[p] += (gradient * step.alignment[p]).sum(-1)
    # Clipping takes away what lies along g: c (dg - g (g·dg)/‖g‖²) remains of a change dg.
    clipped_by = [e_g, g_g] if step.apart else [x.sum(0, keepdim=True).expand_as(x) for x in (e_g, g_g)]
    # What of g is due to λ_A L_A and λ_B L_B; the rest is the alignment's.
    due = step.clip * step.lambdas[2]
    e_p, g_p = e_g - due * e_a, g_g - due * g_a
    along = torch.where(step.clip < 1, clipped_by[0] / clipped_by[1].clamp_min(torch.finfo(g_g.dtype).tiny), 0)
    of_lambdas = (e_p - along * g_p) / step.lambdas[:2].clamp_min(torch.finfo(g_g.dtype).tiny)
    of_alignment = (step.clip * (e_a - along * g_a)).sum(0)
    return torch.stack((of_lr, *of_lambdas, of_alignment), 1)


def _parts(blocks: Blocks, pathway: int) -> Sequence[Tensor]:
    return blocks.encoders[pathway], (blocks.decoder_B if pathway else blocks.decoder_A)

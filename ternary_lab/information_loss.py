"""The information in a decoder's output, as terms of the loss. In nats; v5.5 has none of them.

    N = H(X|Z)    mean entropy of the output of a latent drawn from the prior: decoder noise, to be small
    E = H(X)      entropy of the output distribution's moving average over steps: to be large
    C             Σ e²/2m over values and entries, e what the log-odds against the likeliest value exceed a margin m
                  by: certainty that tells nobody anything more, to be small

    L_A and L_B each gain + w_N N - w_E E + w_C C of their own decoder

With equal weights w_N and w_E that is -w I(X;Z): of what the decoder puts out, the part that the latent decides. N is
made small most easily by large logits everywhere, and a posterior sample that falls on the wrong side of a threshold
then costs hundreds of nats; C leaves steep thresholds and takes away the height. It is squared because a weight alone
cannot do that: a penalty linear in e only makes a decoder that is linear in z less steep, one that grows with e makes
it bend. Only the decoders are moved. Shapes are those of `model`; the gradients are written out as in `losses`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from ternary_lab import space
from ternary_lab.metrics.information import LOW, outer_probabilities
from ternary_lab.space import ENTRIES, VALUES, one_hot

FLOOR = 1e-12
"""Smallest average probability whose logarithm is taken: a perfect generator has 5e-5."""


@dataclass(frozen=True)
class PriorWeights:
    """Weights of the terms, one value per run: (R,)."""

    noise: Tensor
    output_entropy: Tensor
    certainty: Tensor


@dataclass(frozen=True)
class PriorTerms:
    """The terms of the latents of one step that were drawn from the prior. All (2, R)."""

    noise: Tensor
    output_entropy: Tensor
    certainty: Tensor

    def pathway(self, w: PriorWeights) -> Tensor:
        """(2, R): their part of L_A and L_B. All may have more dimensions in front."""
        return w.noise * self.noise - w.output_entropy * self.output_entropy + w.certainty * self.certainty


def prior_terms(
    logits: Tensor, average: Tensor, decay: float, margin: float, w: PriorWeights
) -> tuple[PriorTerms, Tensor]:
    """Decoder noise and output entropy from logits (2, R, M, 27) of M prior latents, and their gradient.

    `average` (2, R, N) is the moving average of the output distribution over steps and is brought up to date
    in place; all zeros, it has seen nothing yet and takes this step's.

    The gradient in the logits is that of w_N H(X|Z) - w_E H(X) + w_C C for the output distribution of these M
    latents, but with the moving average p̂ for the logarithm's argument: ∂H(X)/∂p = -(ln p + 1) asks how rare
    an operation is, which M latents alone cannot tell. With z given, and E the mean over x ~ p(x|z),

        ∂/∂ℓ_kc E[ln p̂(X)] = p_kc (E[ln p̂(X) | X_k = c] - E[ln p̂(X)])

    and p(x|z) = u v splits into five entries and four (`metrics.information`): no sum over all N operations
    for each latent, but two products with the table ln p̂ (81, 243).
    """
    groups, latents = logits.shape[:2].numel(), logits.shape[2]
    entries = logits.view(groups, latents, ENTRIES, VALUES).permute(0, 2, 3, 1)
    shifted = entries - entries.amax(2, keepdim=True)
    certainty, d_certainty = _certainty(shifted, margin)
    log_total = shifted.exp().sum(2, keepdim=True).log_()
    log_p = shifted.sub_(log_total)
    p = log_p.exp()
    entropy = (p * log_p).sum(2, keepdim=True).neg_()

    u, v = outer_probabilities(p[:, :LOW].unbind(1)), outer_probabilities(p[:, LOW:].unbind(1))
    now = torch.bmm(v, u.transpose(1, 2)).div_(latents)
    table = average.view(groups, *now.shape[1:])
    seen = (table.sum((1, 2), keepdim=True) > 0).to(table).mul_(decay)
    table.lerp_(now, 1 - seen)
    log_table = table.clamp_min(FLOOR).log_()
    value = (table * log_table).sum((1, 2)).neg_()

    of_u = torch.matmul(_members(LOW, p.device), u * torch.bmm(log_table.transpose(1, 2), v))
    of_v = torch.matmul(_members(ENTRIES - LOW, p.device), v * torch.bmm(log_table, u))
    joint = torch.cat((of_u, of_v), 1).view_as(p)  # p_kc E[ln p̂(X) | X_k = c]
    weight_n, weight_e, weight_c = (
        x.repeat(2)[:, None, None, None].div(latents) for x in (w.noise, w.output_entropy, w.certainty)
    )
    gradient = (joint - p * joint.sum(2, keepdim=True)).mul_(weight_e)
    gradient.sub_((log_p + entropy).mul_(p).mul_(weight_n))
    gradient.addcmul_(d_certainty, weight_c)
    shape = logits.shape[:2]
    terms = PriorTerms(entropy.sum((1, 2)).mean(1).view(shape), value.view(shape), certainty.view(shape))
    return terms, gradient.permute(0, 3, 1, 2).reshape(logits.shape)


def _certainty(shifted: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """C (G,) of logits less the largest of their entry (G, 9, 3, M); the gradient (G, 9, 3, M) of its sum over latents.
    """
    beyond = (shifted + margin).clamp_(max=0)
    value = beyond.square().sum((1, 2)).mean(1).div_(2 * margin)
    slope = beyond.div_(margin)
    # One of the largest is lowered for all that lie too far below it.
    slope.scatter_(2, shifted.argmax(2, keepdim=True), -slope.sum(2, keepdim=True))
    return value, slope


@functools.cache
def _members(entries: int, device: torch.device) -> Tensor:
    """(3 entries, 3^entries): 1 where the joint value of the entries (the first lowest) has class c at entry k."""
    values = space.operations(torch.arange(VALUES**entries))[:, :entries]
    return one_hot(values).flatten(1).t().contiguous().to(device)

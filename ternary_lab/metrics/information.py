"""The exact output distribution, and what the decoder's output says about its latent.

Given z the nine entries are independent, so p(x|z) is a product. With u(z) the outer product of the
first five entries' probabilities (243) and v(z) of the last four (81), over M latents

    p̂(x) = (1/M) Σ_z v(z) u(z)ᵀ          operation index = 243 v + u

is one matrix product. No sampling of operations is left, only of latents.

    H(X)      entropy of p̂, at most ln N = 9.8875
    H(X|Z)    mean over z of the entries' summed entropies
    I(X;Z)    H(X) - H(X|Z)
    informative coverage             exp(I)/N
    effective coverage (argmax)      exp(entropy of the argmax operation)/N

p̂ from M latents makes H(X) too small, to first order by (1/2M)(Σ_x E[p(x|z)²]/p(x) - 1) (the
correction of Miller 1955 for a mixture); for argmax decoding the sum is the number of operations seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ternary_lab.metrics.coverage import best_classes, class_index
from ternary_lab.model import DualVAE, Pathway
from ternary_lab.space import ENTRIES, SIZE, VALUES

LOW = 5
"""Entries in the first factor u; the other four make v."""


@dataclass(frozen=True)
class Information:
    """Entropies (R,) in nats and coverages (R,) in percent; bias-corrected unless named raw."""

    latents: int
    p: Tensor
    """(R, N) float64: output distribution."""
    output_entropy_raw: Tensor
    output_entropy: Tensor
    decoder_noise: Tensor
    argmax_entropy: Tensor

    @property
    def information(self) -> Tensor:
        return self.output_entropy - self.decoder_noise

    @property
    def informative_coverage(self) -> Tensor:
        return _share(self.information)

    @property
    def informative_coverage_raw(self) -> Tensor:
        return _share(self.output_entropy_raw - self.decoder_noise)

    @property
    def effective_coverage(self) -> Tensor:
        return _share(self.argmax_entropy)

    @property
    def missing_mass(self) -> Tensor:
        """KL(uniform ‖ p) in nats: 0 for a uniform generator, infinite when an operation has no mass."""
        kl: Tensor = -self.p.log().mean(1) - math.log(SIZE)
        return kl

    @property
    def rarest(self) -> Tensor:
        """N · min p(x)."""
        return self.p.amin(1).mul(SIZE)


@torch.no_grad()
def information(model: DualVAE, pathway: Pathway, latents: Iterable[Tensor]) -> Information:
    """Output distribution and information of R runs, from latents in chunks (R or 1, L, M)."""
    runs, device = model.runs, model.device
    p = torch.zeros(runs, SIZE, dtype=torch.float64, device=device)
    p_squared, counts = torch.zeros_like(p), torch.zeros_like(p)
    noise = torch.zeros(runs, dtype=torch.float64, device=device)
    total = 0
    for z in latents:
        size = z.shape[-1]
        total += size
        logits = model.decode_features(z.expand(runs, -1, -1), pathway)
        log_q = torch.log_softmax(logits, 2)
        q = log_q.exp()
        noise -= (q * log_q).sum((1, 2, 3))
        u, v = outer_probabilities(q[:, :LOW]), outer_probabilities(q[:, LOW:])
        p += torch.bmm(v, u.transpose(1, 2)).view(runs, SIZE)
        p_squared += torch.bmm(v.square_(), u.square_().transpose(1, 2)).view(runs, SIZE)
        best = class_index(best_classes(logits))
        counts.scatter_add_(1, best, torch.ones(1, 1, dtype=counts.dtype, device=device).expand_as(best))
    p /= total
    p_squared /= total
    raw = -torch.xlogy(p, p).sum(1)
    correction = (torch.where(p > 0, p_squared / p, 0).sum(1) - 1) / (2 * total)
    frequency = counts / total
    argmax = -torch.xlogy(frequency, frequency).sum(1) + ((counts > 0).sum(1) - 1) / (2 * total)
    return Information(total, p, raw, raw + correction, noise / total, argmax)


def outer_probabilities(q: Tensor) -> Tensor:
    """Products of entry probabilities q (R, n, 3, M) over all 3^n joint values: (R, 3^n, M), entry 0 lowest."""
    product = q[:, 0]
    for k in range(1, q.shape[1]):
        product = (q[:, k].unsqueeze(2) * product.unsqueeze(1)).flatten(1, 2)
    return product


def _share(entropy: Tensor) -> Tensor:
    return torch.mul(entropy.exp(), 100 / SIZE)


assert VALUES**LOW * VALUES ** (ENTRIES - LOW) == SIZE

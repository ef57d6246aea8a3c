"""Latent entropy: the report's batch histogram H, in nats.

H of a batch: per latent dimension a histogram of 50 equal bins over [-3, 3], values outside dropped,
normalised by what is inside, -Σ p ln p; then the mean over dimensions. It is a plug-in estimate from
as many values as the batch has, and so biased low: N(0, 1) gives 3.523 with endless data, 3.165 from 64.
"""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 50
LIMIT = 3.0


def batch_entropy(z: Tensor) -> Tensor:
    """H (...) of latents z (..., B, L): mean over L of the histogram entropy over B. NaN values are dropped."""
    lead, (batch, latent) = z.shape[:-2], z.shape[-2:]
    values = z.detach().reshape(-1, batch, latent)
    inside = (values >= -LIMIT) & (values <= LIMIT)
    bins = ((values + LIMIT) * (BINS / (2 * LIMIT))).nan_to_num(0.0).clamp(0, BINS - 1).long()
    cells = torch.arange(len(values) * latent, device=z.device).view(-1, 1, latent) * BINS
    counts = torch.zeros(len(values) * latent * BINS, device=z.device)
    counts.index_add_(0, (cells + bins).flatten(), inside.float().flatten())
    return histogram_entropy(counts.view(*lead, latent, BINS)).mean(-1)


def histogram_entropy(counts: Tensor) -> Tensor:
    """Plug-in entropy (...) in nats of histograms (..., bins); 0 for an empty one."""
    p = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    return -torch.xlogy(p, p).sum(-1)


def expected_entropy(samples: int, *, repeats: int = 4000, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation of one dimension's H over batches of N(0, 1) draws.

    This is the value that a perfectly prior-like code shows at this sample size.
    """
    generator = torch.Generator().manual_seed(seed)
    h = batch_entropy(torch.randn(repeats, samples, 1, generator=generator))
    return h.mean().item(), h.std().item()

"""Which operations a decoder gives instead: exact over all N outputs, for one latent or a cloud of them."""

from __future__ import annotations

import torch
from torch import Tensor

from ternary_lab import space
from ternary_lab.backend.random_streams import stream
from ternary_lab.metrics.information import LOW, outer_probabilities
from ternary_lab.model import Pathway, TernaryVAE


def decoded(model: TernaryVAE, pathway: Pathway, z: Tensor) -> Tensor:
    """p(x) of every operation, float64 (N,), mean over the latents z (M, L)."""
    entries = torch.softmax(model.decode(z, pathway).double(), -1).permute(1, 2, 0).unsqueeze(1).unbind(0)
    low, high = outer_probabilities(entries[:LOW]), outer_probabilities(entries[LOW:])
    return (high[0] @ low[0].T).flatten() / len(z)


def confused_with(
    model: TernaryVAE, pathway: Pathway, operation: int, count: int = 3, samples: int = 64
) -> list[tuple[int, float]]:
    """The other operations most often decoded from an operation's own code, each with its probability.

    Mean over `samples` posterior samples, the same ones each time; sampled decoding.
    """
    posterior = model.encode(space.operations(torch.tensor([operation])), pathway)
    noise = torch.randn(samples, model.latent_dim, generator=stream(operation, "sample", part="confusion"))
    p = decoded(model, pathway, posterior.mean + posterior.std * noise.to(model.device))
    p[operation] = -1
    found = p.topk(count)
    return [(int(i), float(value)) for i, value in zip(found.indices, found.values, strict=True)]

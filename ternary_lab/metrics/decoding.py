"""Decoding with one pathway of a model."""

from __future__ import annotations

import torch
from torch import Tensor

from ternary_lab.model import Pathway, TernaryVAE


def decoded_tables(model: TernaryVAE, pathway: Pathway, z: Tensor) -> Tensor:
    """Return the most probable truth table (..., 9), with values -1, 0 and 1, of each latent z (..., L)."""
    return model.decode(z, pathway).argmax(-1).float() - 1


@torch.no_grad()
def entry_probabilities(
    model: TernaryVAE, pathway: Pathway, operations: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """Return the probabilities (n, 9, 3) of the entries that are decoded from the codes of operations (n, 9).

    The code of an operation is the posterior mean μ, or one posterior sample if a generator is given.
    """
    posterior = model.encode(operations, pathway)
    z = posterior.mean if generator is None else posterior.sample(generator=generator)
    return torch.softmax(model.decode(z, pathway), -1)

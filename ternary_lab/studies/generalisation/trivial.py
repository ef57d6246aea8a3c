"""Trivial methods that reconstruct operations: baselines for a trained model.

    PCA          project an operation on the leading principal components of the training operations (Pearson 1901), go
                 back, and round each entry to -1, 0 or +1. With all nine components this is the identity
    nearest      return the training operation at the smallest Hamming distance. It is never right for another operation
"""

from __future__ import annotations

import torch
from torch import Tensor

from ternary_lab import space
from ternary_lab.errors import InputError

PIECE = 1024


def by_components(train: Tensor, operations: Tensor, components: int = space.ENTRIES) -> Tensor:
    """Return operations (n, 9) as `components` principal components of the operations `train` (m, 9) give them back.

    Each entry of the result is -1, 0 or +1. Raises InputError if the training operations have fewer components.
    """
    mean = train.double().mean(0)
    _, values, axes = torch.linalg.svd(train.double() - mean, full_matrices=False)
    found = int((values > 1e-9 * values[0]).sum()) if len(values) else 0
    if not 1 <= components <= found:
        raise InputError(f"components must be a number in 1..{found}, got {components!r}")
    kept = axes[:components]
    restored: Tensor = mean + (operations.double() - mean) @ kept.T @ kept
    return restored.round().clamp(-1, 1).float() + 0.0


def nearest(train: Tensor, operations: Tensor) -> Tensor:
    """Return for each of the operations (n, 9) the nearest operation in `train` (m, 9), by Hamming distance.

    Of operations at equal distances, the first in `train` is returned.
    """
    seen = _one_hot(train)
    # An integer key makes the first of equal distances the smallest.
    order = torch.arange(len(train))
    found = [
        ((space.ENTRIES - _one_hot(piece) @ seen.T).long() * len(train) + order).argmin(1)
        for piece in torch.split(operations, PIECE)
    ]
    return train[torch.cat(found)]


def _one_hot(operations: Tensor) -> Tensor:
    return space.one_hot(operations).flatten(1).float()

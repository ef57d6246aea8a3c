"""Coverage: how much of the space is drawn, and what uniform noise would draw.

Every coverage carries its number of draws n, its decoding rule and the uniform baseline at that n.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ternary_lab.metrics.latents import chunk_size
from ternary_lab.model import DualVAE, Pathway
from ternary_lab.space import ENTRIES, SIZE, VALUES

Decoding = Literal["categorical", "argmax"]


def uniform_coverage(n: int) -> float:
    """Percent of the N operations expected among n uniform draws: 100 (1 - (1 - 1/N)^n)."""
    return -100 * math.expm1(n * math.log1p(-1 / SIZE))


def expected_coverage(p: Tensor, n: float) -> Tensor:
    """C(n), percent, of output distributions p (..., N): 100 mean_x 1 - (1 - p(x))^n. n need not be whole."""
    return -100 * torch.expm1(n * torch.log1p(-p.double())).mean(-1)


def draws_needed(p: Tensor, share: float = 0.99) -> float:
    """Draws after which the expected coverage of p (N,) is `share`; n₉₉ at 0.99 (uniform: 90,641). inf if never."""
    if float((p > 0).double().mean()) < share:
        return math.inf
    low, high = 0.0, float(SIZE)
    while float(expected_coverage(p, high)) < 100 * share:
        low, high = high, 2 * high
    while high - low > 0.5:
        middle = (low + high) / 2
        low, high = (low, middle) if float(expected_coverage(p, middle)) >= 100 * share else (middle, high)
    return float(round(high))


def entry_classes(logits: Tensor, uniform: Tensor) -> Tensor:
    """One categorical draw per entry: classes 0..2 (R, 9, M) from logits (R, 9, 3, M) and uniforms (R, 9, M).

    Inverts the cumulative distribution without normalising it: class 1 or more where u Σ exceeds e^ℓ₀,
    class 2 where it exceeds e^ℓ₀ + e^ℓ₁.
    """
    weights = (logits - logits.amax(2, keepdim=True)).exp_()
    first = weights[:, :, 0]
    second = first + weights[:, :, 1]
    target = uniform * (second + weights[:, :, 2])
    return (target > first).to(torch.uint8) + (target > second).to(torch.uint8)


def best_classes(logits: Tensor) -> Tensor:
    """Most probable class of every entry, (R, 9, M), of logits (R, 9, 3, M); the lowest of equals.

    Two comparisons: argmax over a dimension of three is some twenty times slower on a CPU.
    """
    first, second, third = logits.unbind(2)
    one = second > first
    two = third > torch.maximum(first, second)
    return (one & ~two).to(torch.uint8) + two.to(torch.uint8).mul_(2)


def class_index(classes: Tensor) -> Tensor:
    """Operation indices (..., M), int64, of classes (..., 9, M)."""
    index = classes[..., ENTRIES - 1, :].long()
    for k in reversed(range(ENTRIES - 1)):
        index = index.mul_(VALUES).add_(classes[..., k, :])
    return index


@torch.no_grad()
def unique_operations(
    model: DualVAE, pathway: Pathway, n: int, decoding: Decoding, generators: list[torch.Generator]
) -> Tensor:
    """Number of distinct operations (R,), int64, among n draws z ~ N(0, I) of each run, decoded.

    `generators` holds one stream per run; latents and entries are drawn from it in turn, chunk by chunk.
    """
    runs, latent, device = model.runs, model.architecture.settings.latent_dim, model.device
    seen = torch.zeros(runs, SIZE, dtype=torch.bool, device=device)
    step = chunk_size(device)
    for start in range(0, n, step):
        size = min(step, n - start)
        z = torch.stack([_drawn(g, device, latent, size, normal=True) for g in generators])
        logits = model.decode_features(z, pathway)
        if decoding == "argmax":
            classes = best_classes(logits)
        else:
            u = torch.stack([_drawn(g, device, ENTRIES, size, normal=False) for g in generators])
            classes = entry_classes(logits, u)
        seen.scatter_(1, class_index(classes), True)
    return seen.sum(1)


def _drawn(generator: torch.Generator, device: torch.device, rows: int, columns: int, *, normal: bool) -> Tensor:
    values = torch.empty(rows, columns, device=generator.device)
    values = values.normal_(generator=generator) if normal else values.uniform_(generator=generator)
    return values.to(device)

"""Coverage: how much of the space is drawn, and what uniform noise would draw.

Every coverage carries its number of draws n, its decoding rule and the uniform baseline at that n.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ternary_lab.backend.random_streams import Streams
from ternary_lab.metrics.sobol import Decoder, chunk_size
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
    # Beyond 2^53 whole numbers lie further apart than 1: until none is left between.
    while high - low > 0.5 and low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if float(expected_coverage(p, middle)) >= 100 * share else (middle, high)
    return float(round(high)) if math.isfinite(high) else high


def entry_classes(logits: Tensor, uniform: Tensor) -> Tensor:
    """One categorical draw per entry: classes 0..2 (R, 9, M), float, from logits (R, 9, 3, M) and uniforms (R, 9, M).

    Inverts the cumulative distribution: class 1 or more where u > p₀, class 2 where u > p₀ + p₁.
    """
    first, second, _ = torch.softmax(logits, 2).unbind(2)
    return (uniform > first).float().add_(uniform > first + second)


def best_classes(logits: Tensor) -> Tensor:
    """Most probable class of every entry, (R, 9, M), float, of logits (R, 9, 3, M); the lowest of equals.

    Two comparisons: argmax over a dimension of three is some twenty times slower on a CPU.
    """
    first, second, third = logits.unbind(2)
    return torch.where(third > torch.maximum(first, second), 2.0, (second > first).float())


def class_index(classes: Tensor) -> Tensor:
    """Operation indices (R, M), int64, of classes (R, 9, M), float.

    Exact on every device: the powers are of integers, and what is multiplied and added entry by entry stays below 2^24.
    A matrix product would be a little faster on a CPU, but a GPU may round its factors (TF32 keeps 11 bits).
    """
    powers = VALUES ** torch.arange(ENTRIES, device=classes.device).unsqueeze(1)
    return (classes * powers).sum(1).long()


@torch.no_grad()
def drawn_operations(model: DualVAE, pathway: Pathway, n: int, decoding: Decoding, streams: Streams) -> Tensor:
    """Which operations (R, N), bool, are among n draws z ~ N(0, I) of each run, decoded.

    From each run's stream come all latents, then all entries.
    """
    z = streams.normal(model.architecture.settings.latent_dim, n).to(model.device)
    u = streams.uniform(ENTRIES, n).to(model.device) if decoding == "categorical" else z[:, :0]
    return decoded_operations(partial(model.decode_features, pathway=pathway), z, u, decoding)


@torch.no_grad()
def decoded_operations(decode: Decoder, z: Tensor, u: Tensor, decoding: Decoding) -> Tensor:
    """Which operations (R, N), bool, latents z (R, L, M) are decoded to, by uniforms u (R, 9, M) if categorical."""
    seen = torch.zeros(len(z), SIZE, dtype=torch.bool, device=z.device)
    step = chunk_size(z.device)
    for start in range(0, z.shape[2], step):
        part = slice(start, start + step)
        logits = decode(z[:, :, part])
        classes = best_classes(logits) if decoding == "argmax" else entry_classes(logits, u[:, :, part])
        seen.scatter_(1, class_index(classes), True)
    return seen

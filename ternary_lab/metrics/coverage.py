"""Coverage: the share of all operations that occur among the draws of a generator.

The uniform baseline is the expected coverage of uniform draws. Every coverage is reported together with the
number of draws n, the way of decoding, and the uniform baseline at n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ternary_lab.backend.random_streams import Streams
from ternary_lab.metrics.sobol import Decoder, chunk_size, part_groups, part_sizes
from ternary_lab.model import DualVAE, Pathway
from ternary_lab.space import ENTRIES, SIZE, VALUES

Decoding = Literal["categorical", "argmax"]


def uniform_coverage(n: int) -> float:
    """Return the expected percentage of the N operations that occur in n uniform draws: 100 (1 - (1 - 1/N)^n)."""
    return -100 * math.expm1(n * math.log1p(-1 / SIZE))


def expected_coverage(p: Tensor, n: float) -> Tensor:
    """Return the expected coverage C(n) (...), percent, of n draws from output distributions p (..., N).

    C(n) is 100 times the mean over x of 1 - (1 - p(x))^n. n may be fractional.
    """
    return -100 * torch.expm1(n * torch.log1p(-p.double())).mean(-1)


def draws_needed(p: Tensor, share: float = 0.99) -> float:
    """Return the number of draws from p (N,) at which the expected coverage reaches `share`, or inf if there is none.

    For a share of 0.99 this number is n₉₉. The uniform distribution has n₉₉ = 90,641.
    """
    if float((p > 0).double().mean()) < share:
        return math.inf
    low, high = 0.0, float(SIZE)
    while float(expected_coverage(p, high)) < 100 * share:
        low, high = high, 2 * high
    # Above 2^53, neighbouring floats differ by more than 1. So stop when no float lies between low and high.
    while high - low > 0.5 and low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if float(expected_coverage(p, middle)) >= 100 * share else (middle, high)
    return float(round(high)) if math.isfinite(high) else high


def rare_figures(p: Tensor) -> dict[str, float]:
    """Return a dictionary of three measures of an output distribution p (N,) that depend on its rarest operations.

    `missing_mass` is KL(uniform ‖ p) in nats. `n99` is the number of draws at which the expected coverage reaches 99 %.
    `rarest` is N times the smallest probability.
    """
    return {
        "missing_mass": float(-p.log().mean()) - math.log(SIZE), "n99": draws_needed(p),
        "rarest": float(p.min()) * SIZE,
    }


def entry_classes(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw the class 0..2 of each entry, float (R, 9, M), from logits (R, 9, 3, M) and uniform numbers u (R, 9, M).

    The draw inverts the cumulative distribution. The class is at least 1 if u > p₀, and 2 if u > p₀ + p₁.
    """
    first, second, _ = torch.softmax(logits, 2).unbind(2)
    return (uniform > first).float().add_(uniform > first + second)


def best_classes(logits: Tensor) -> Tensor:
    """Return the most probable class of each entry, float (R, 9, M), from logits (R, 9, 3, M).

    If classes are equally probable, the result is the lowest of these classes. On a CPU, two comparisons are about
    twenty times as fast as argmax over a dimension of size three.
    """
    first, second, third = logits.unbind(2)
    return torch.where(third > torch.maximum(first, second), 2.0, (second > first).float())


def class_index(classes: Tensor) -> Tensor:
    """Return the operation indices, int64 (R, M), of classes, float (R, 9, M).

    The result is exact on every device, because all products and sums are whole numbers below 2^24. A matrix product
    would be a little faster on a CPU. But a GPU may round the factors of a matrix product (TF32 keeps 11 bits).
    """
    powers = VALUES ** torch.arange(ENTRIES, device=classes.device).unsqueeze(1)
    return (classes * powers).sum(1).long()


@torch.no_grad()
def drawn_operations(model: DualVAE, pathway: Pathway, n: int, decoding: Decoding, streams: Streams) -> Tensor:
    """For each run, draw n latents z ~ N(0, I), decode them, and return which operations occur: bool (R, N).

    Each run's stream gives first all latents and then the uniform numbers of all entries.
    """
    z = streams.normal(model.architecture.settings.latent_dim, n).to(model.device)
    u = streams.uniform(ENTRIES, n).to(model.device) if decoding == "categorical" else z[:, :0]
    return decoded_operations(partial(model.decode_features, pathway=pathway), z, u, decoding)


def drawing_calls(
    model: DualVAE, pathway: Pathway, n: int, decoding: Decoding, streams: Callable[[Sequence[str]], Streams]
) -> Mapping[int, Callable[[], Tensor]]:
    """Return calls that together draw n operations of each run.

    The draws are divided into parts. One call draws one part, or several parts at once. Each call returns which
    operations occur, bool (R, N). The key of a call is the number of its first part. `streams` takes a list of names of
    parts and returns their random streams. Each part has its own stream.
    """
    sizes = part_sizes(n)

    def draw(some: range) -> Tensor:
        named = streams([f"{pathway}{part}" for part in some])
        drawn = drawn_operations(model.repeated(len(some)), pathway, sizes[some[0]], decoding, named)
        return drawn.view(len(some), model.runs, -1).any(0)

    return {some[0]: partial(draw, some) for some in part_groups(sizes, model.runs, model.device)}


@torch.no_grad()
def decoded_operations(decode: Decoder, z: Tensor, u: Tensor, decoding: Decoding) -> Tensor:
    """Decode latents z (R, L, M) and return which operations occur: bool (R, N).

    u (R, 9, M) contains uniform numbers for categorical decoding. Argmax decoding does not use u.
    """
    seen = torch.zeros(len(z), SIZE, dtype=torch.bool, device=z.device)
    step = chunk_size(z.device)
    for start in range(0, z.shape[2], step):
        part = slice(start, start + step)
        logits = decode(z[:, :, part])
        classes = best_classes(logits) if decoding == "argmax" else entry_classes(logits, u[:, :, part])
        seen.scatter_(1, class_index(classes), True)
    return seen

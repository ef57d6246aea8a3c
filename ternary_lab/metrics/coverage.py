"""Coverage: the share of the space that a generator draws, and the share that uniform noise would draw.

A coverage is reported with its number of draws n, its decoding rule and the uniform baseline at that n.
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
    """Expected percent of the N operations among n uniform draws: 100 (1 - (1 - 1/N)^n)."""
    return -100 * math.expm1(n * math.log1p(-1 / SIZE))


def expected_coverage(p: Tensor, n: float) -> Tensor:
    """C(n) (...), percent, of output distributions p (..., N): 100 mean_x 1 - (1 - p(x))^n. n may be fractional."""
    return -100 * torch.expm1(n * torch.log1p(-p.double())).mean(-1)


def draws_needed(p: Tensor, share: float = 0.99) -> float:
    """Number of draws at which the expected coverage of p (N,) reaches `share`; inf where it never does.

    With a share of 0.99 it is n₉₉: 90,641 for the uniform distribution.
    """
    if float((p > 0).double().mean()) < share:
        return math.inf
    low, high = 0.0, float(SIZE)
    while float(expected_coverage(p, high)) < 100 * share:
        low, high = high, 2 * high
    # Beyond 2^53 neighbouring floats are more than 1 apart: stop when no float lies between low and high.
    while high - low > 0.5 and low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if float(expected_coverage(p, middle)) >= 100 * share else (middle, high)
    return float(round(high)) if math.isfinite(high) else high


def rare_figures(p: Tensor) -> dict[str, float]:
    """Measures of an output distribution p (N,) that depend on its rarest operations.

    `missing_mass` is KL(uniform ‖ p) in nats, `n99` the draws to an expected coverage of 99 %, `rarest` N min p.
    """
    return {
        "missing_mass": float(-p.log().mean()) - math.log(SIZE), "n99": draws_needed(p),
        "rarest": float(p.min()) * SIZE,
    }


def entry_classes(logits: Tensor, uniform: Tensor) -> Tensor:
    """One categorical draw per entry: classes 0..2 (R, 9, M), float, from logits (R, 9, 3, M) and uniforms (R, 9, M).

    Inverts the cumulative distribution: class 1 or more where u > p₀, class 2 where u > p₀ + p₁.
    """
    first, second, _ = torch.softmax(logits, 2).unbind(2)
    return (uniform > first).float().add_(uniform > first + second)


def best_classes(logits: Tensor) -> Tensor:
    """Most probable class (R, 9, M), float, of every entry, from logits (R, 9, 3, M); the lowest of equal ones.

    Two comparisons are about twenty times as fast on a CPU as argmax over a dimension of three.
    """
    first, second, third = logits.unbind(2)
    return torch.where(third > torch.maximum(first, second), 2.0, (second > first).float())


def class_index(classes: Tensor) -> Tensor:
    """Operation indices (R, M), int64, of classes (R, 9, M), float.

    The result is exact on every device, because all products and sums are whole numbers below 2^24. A matrix product
    would be a little faster on a CPU, but a GPU may round its factors (TF32 keeps 11 bits).
    """
    powers = VALUES ** torch.arange(ENTRIES, device=classes.device).unsqueeze(1)
    return (classes * powers).sum(1).long()


@torch.no_grad()
def drawn_operations(model: DualVAE, pathway: Pathway, n: int, decoding: Decoding, streams: Streams) -> Tensor:
    """Whether each operation is among n decoded draws z ~ N(0, I) of each run: bool (R, N).

    Each run's stream gives all latents first, then the uniform numbers of all entries.
    """
    z = streams.normal(model.architecture.settings.latent_dim, n).to(model.device)
    u = streams.uniform(ENTRIES, n).to(model.device) if decoding == "categorical" else z[:, :0]
    return decoded_operations(partial(model.decode_features, pathway=pathway), z, u, decoding)


def drawing_calls(
    model: DualVAE, pathway: Pathway, n: int, decoding: Decoding, streams: Callable[[Sequence[str]], Streams]
) -> Mapping[int, Callable[[], Tensor]]:
    """Calls that draw n operations of each run part by part: number of the first part -> a call with result (R, N).

    `streams` gives the random streams of the parts that are named; each part has its own.
    """
    sizes = part_sizes(n)

    def draw(some: range) -> Tensor:
        named = streams([f"{pathway}{part}" for part in some])
        drawn = drawn_operations(model.repeated(len(some)), pathway, sizes[some[0]], decoding, named)
        return drawn.view(len(some), model.runs, -1).any(0)

    return {some[0]: partial(draw, some) for some in part_groups(sizes, model.runs, model.device)}


@torch.no_grad()
def decoded_operations(decode: Decoder, z: Tensor, u: Tensor, decoding: Decoding) -> Tensor:
    """Whether each operation (R, N), bool, is decoded from latents z (R, L, M); u (R, 9, M) are uniform numbers.

    Argmax decoding does not read u.
    """
    seen = torch.zeros(len(z), SIZE, dtype=torch.bool, device=z.device)
    step = chunk_size(z.device)
    for start in range(0, z.shape[2], step):
        part = slice(start, start + step)
        logits = decode(z[:, :, part])
        classes = best_classes(logits) if decoding == "argmax" else entry_classes(logits, u[:, :, part])
        seen.scatter_(1, class_index(classes), True)
    return seen

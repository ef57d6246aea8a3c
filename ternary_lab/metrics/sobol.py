"""Scrambled Sobol points as latents of the prior N(0, I), and the parts in which latents are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Decoder: TypeAlias = Callable[[Tensor], Tensor]
"""Logits (R, 9, 3, M) of features-first latents (R, L, M)."""

PART = 16_384
"""Number of latents in one part of a measurement. Any number of parts can be measured at once."""


def chunk_size(device: torch.device) -> int:
    """Number of latents to decode at once: as many as fit a core's own cache, or enough to keep a GPU busy."""
    return 2048 if device.type == "cpu" else 65_536


def part_sizes(n: int) -> list[int]:
    """Sizes of the parts in which n draws or latents are measured: PART each, and the rest in the last one."""
    return [min(PART, n - start) for start in range(0, n, PART)]


def part_groups(sizes: Sequence[int], runs: int, device: torch.device) -> list[range]:
    """Groups of the parts that are measured at once, as if they were further runs: up to 16 on a GPU, else one."""
    most = 1 if device.type == "cpu" else max(1, 16 // runs)
    full = sum(size == sizes[0] for size in sizes)
    groups = [range(start, min(start + most, full)) for start in range(0, full, most)]
    return groups + [range(i, i + 1) for i in range(full, len(sizes))]


def sobol_normal(dimension: int, m: int, seed: int, device: torch.device) -> Iterator[Tensor]:
    """m scrambled Sobol points (Owen 1998) as N(0, I) latents, in parts (dimension, at most PART).

    With a power of two as m the points are balanced.
    """
    engine = torch.quasirandom.SobolEngine(dimension, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    points = None if device.type == "cpu" else sobol_points(engine, m, device)
    for start in range(0, m, PART):
        part = engine.draw(min(PART, m - start)) if points is None else points[start : start + PART].clone()
        # float32 points reach 0 and 1, whose quantiles are infinite; 1e-7 lies 5.2 standard deviations out.
        yield torch.special.ndtri(part.clamp_(1e-7, 1 - 1e-7)).t().contiguous()


def sobol_points(engine: Any, m: int, device: torch.device) -> Tensor:
    """The first m points (m, dimension) of a new `SobolEngine`, computed on a device; the engine uses the CPU only.

    Point i is the exclusive or of the direction numbers whose bits are set in the Gray code of i (Antonov & Saleev
    1979). Gray codes are reflected: the second half of 2^k codes is the first half backwards, with one more bit set.
    """
    directions: Tensor = engine.sobolstate.int().to(device)
    points: Tensor = engine.shift.int().to(device).unsqueeze(0)
    for bit in range((m - 1).bit_length()):
        points = torch.cat((points, points.flip(0) ^ directions[:, bit]))
    return points[:m].float() * 2.0 ** -int(engine.MAXBIT)

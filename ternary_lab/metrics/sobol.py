"""Scrambled Sobol points as latents of the prior N(0, I).

Latents are measured in parts of fixed size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Decoder: TypeAlias = Callable[[Tensor], Tensor]
"""A function that returns the logits (R, 9, 3, M) of latents (R, L, M), features first."""

PART = 16_384
"""Number of latents in one part of a measurement. Several parts can be measured at once."""


def chunk_size(device: torch.device) -> int:
    """Return the number of latents to decode at once.

    On a CPU, this number of latents fits in the cache of one core. On a GPU, it is large enough to keep the GPU busy.
    """
    return 2048 if device.type == "cpu" else 65_536


def part_sizes(n: int) -> list[int]:
    """Return the sizes of the parts of n draws or latents. Each part has size PART; the last part may be smaller."""
    return [min(PART, n - start) for start in range(0, n, PART)]


def part_groups(sizes: Sequence[int], runs: int, device: torch.device) -> list[range]:
    """Return groups of part numbers. The parts of one group are measured at once, as if they were further runs.

    On a CPU each group is a single part. On a GPU a group has several parts of equal size: at most 16 // `runs` parts,
    and at least one.
    """
    most = 1 if device.type == "cpu" else max(1, 16 // runs)
    full = sum(size == sizes[0] for size in sizes)
    groups = [range(start, min(start + most, full)) for start in range(0, full, most)]
    return groups + [range(i, i + 1) for i in range(full, len(sizes))]


def sobol_normal(dimension: int, m: int, seed: int, device: torch.device) -> Iterator[Tensor]:
    """Yield m scrambled Sobol points (Owen 1998) as N(0, I) latents, in parts of shape (dimension, at most PART).

    The points are balanced if m is a power of two.
    """
    engine = torch.quasirandom.SobolEngine(dimension, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    points = None if device.type == "cpu" else sobol_points(engine, m, device)
    for start in range(0, m, PART):
        part = engine.draw(min(PART, m - start)) if points is None else points[start : start + PART].clone()
        # float32 points can be 0 or 1, whose quantiles are infinite. The quantile of 1e-7 is -5.2 standard deviations.
        yield torch.special.ndtri(part.clamp_(1e-7, 1 - 1e-7)).t().contiguous()


def sobol_points(engine: Any, m: int, device: torch.device) -> Tensor:
    """Compute the first m points (m, dimension) of a new `SobolEngine` on a device, since the engine uses the CPU only.

    Point i is the exclusive or of the direction numbers whose bits are set in the Gray code of i (Antonov & Saleev
    1979), and of the engine's random shift. Gray codes are reflected. The second half of 2^k codes is the first half in
    reverse order, with one more bit set.
    """
    directions: Tensor = engine.sobolstate.int().to(device)
    points: Tensor = engine.shift.int().to(device).unsqueeze(0)
    for bit in range((m - 1).bit_length()):
        points = torch.cat((points, points.flip(0) ^ directions[:, bit]))
    return points[:m].float() * 2.0 ** -int(engine.MAXBIT)

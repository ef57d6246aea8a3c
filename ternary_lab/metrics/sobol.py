"""Latents to integrate over: scrambled Sobol points, mapped to the prior N(0, I)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Decoder: TypeAlias = Callable[[Tensor], Tensor]
"""Logits (R, 9, 3, M) of features-first latents (R, L, M)."""

PART = 16_384
"""Latents in one part of a measurement: parts are taken apart and put together again in any company."""


def chunk_size(device: torch.device) -> int:
    """Latents decoded at once: what a core's own cache holds, or what keeps a GPU busy."""
    return 2048 if device.type == "cpu" else 65_536


def parts(n: int) -> list[int]:
    """Sizes of the parts that n draws or latents are measured in: PART each, the last what is left."""
    return [min(PART, n - start) for start in range(0, n, PART)]


def side_by_side(sizes: Sequence[int], runs: int, device: torch.device) -> list[range]:
    """Which of the parts are measured at once, as if they were so many more runs: on a GPU up to 16, elsewhere one."""
    most = 1 if device.type == "cpu" else max(1, 16 // runs)
    full = sum(size == sizes[0] for size in sizes)
    groups = [range(start, min(start + most, full)) for start in range(0, full, most)]
    return groups + [range(i, i + 1) for i in range(full, len(sizes))]


def sobol_normal(dimension: int, m: int, seed: int, device: torch.device) -> Iterator[Tensor]:
    """m scrambled Sobol points as N(0, I) latents, in parts (dimension, at most PART).

    (Owen 1998; a power of two m keeps the net balanced.)
    """
    engine = torch.quasirandom.SobolEngine(dimension, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    points = None if device.type == "cpu" else sobol_points(engine, m, device)
    for start in range(0, m, PART):
        part = engine.draw(min(PART, m - start)) if points is None else points[start : start + PART].clone()
        # float32 points reach 0 and 1, whose quantiles are infinite; 1e-7 is 5.2 standard deviations.
        yield torch.special.ndtri(part.clamp_(1e-7, 1 - 1e-7)).t().contiguous()


def sobol_points(engine: Any, m: int, device: torch.device) -> Tensor:
    """The first m points (m, dimension) of a new `SobolEngine`, computed on a device: the engine draws on the CPU.

    Point i is the exclusive or of the direction numbers whose bits are set in the Gray code of i (Antonov & Saleev
    1979). Gray codes are reflected: the second half of a power of two is the first backwards with one bit more.
    """
    directions: Tensor = engine.sobolstate.int().to(device)
    points: Tensor = engine.shift.int().to(device).unsqueeze(0)
    for bit in range((m - 1).bit_length()):
        points = torch.cat((points, points.flip(0) ^ directions[:, bit]))
    return points[:m].float() * 2.0 ** -int(engine.MAXBIT)

"""Latents to integrate over: scrambled Sobol points, mapped to the prior N(0, I)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

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


def sobol_normal(dimension: int, m: int, seed: int, device: torch.device) -> Iterator[Tensor]:
    """m scrambled Sobol points as N(0, I) latents, in parts (dimension, at most PART).

    (Owen 1998; a power of two m keeps the net balanced.)
    """
    engine = torch.quasirandom.SobolEngine(dimension, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    for size in parts(m):
        points = engine.draw(size).to(device)
        # float32 points reach 0 and 1, whose quantiles are infinite; 1e-7 is 5.2 standard deviations.
        yield torch.special.ndtri(points.clamp_(1e-7, 1 - 1e-7)).t().contiguous()

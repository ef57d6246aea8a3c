"""Latents to integrate over: scrambled Sobol points, mapped to the prior N(0, I)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def chunk_size(device: torch.device) -> int:
    """Latents decoded at once: what a CPU's cache holds, or what keeps a GPU busy."""
    return 4096 if device.type == "cpu" else 65_536


def sobol_normal(dimension: int, m: int, seed: int, device: torch.device) -> Iterator[Tensor]:
    """m scrambled Sobol points as N(0, I) latents, in chunks (dimension, at most chunk_size).

    (Owen 1998; a power of two m keeps the net balanced.)
    """
    engine = torch.quasirandom.SobolEngine(dimension, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    step = chunk_size(device)
    for start in range(0, m, step):
        points = engine.draw(min(step, m - start)).to(device)
        # float32 points reach 0 and 1, whose quantiles are infinite; 1e-7 is 5.2 standard deviations.
        yield torch.special.ndtri(points.clamp_(1e-7, 1 - 1e-7)).t().contiguous()

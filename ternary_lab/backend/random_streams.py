"""Random streams: reproducible random numbers for each run, purpose and epoch.

A stream is computed from its name (seed, purpose, epoch) alone. So the random numbers of a run do not depend on other
runs, other purposes or earlier epochs. A resumed or branched run draws the same numbers as an uninterrupted run, and no
generator state is stored.

On a CPU a stream is a `torch.Generator`. On CUDA a `torch.Generator` has two disadvantages: the order of large draws
depends on the number of multiprocessors, and each run needs a separate draw. So on CUDA a stream is Philox4x32-10
(Salmon et al. 2011). The name of the stream is the key, and the counter is the position of the numbers in the stream.
One kernel draws the numbers of all runs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from ternary_lab.backend import kernels
from ternary_lab.backend.devices import on_device

Purpose = Literal["order", "noise", "coverage", "latents", "evaluation", "sample", "prior", "lesson"]


def stream(
    seed: int, purpose: Purpose, epoch: int = 0, part: str = "", *, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a generator at the beginning of a run's stream for one purpose, or for a part of it, in one epoch."""
    return torch.Generator(device=device).manual_seed(_name(seed, purpose, epoch, part))


class Streams:
    """The random streams of several runs for one purpose in one epoch.

    Args:
        seeds: the seeds of the runs.
        purpose: what the random numbers are for.
        epoch: number of the epoch.
        parts: parts of the purpose; each part has its own stream. Rows are ordered by part, then by seed. The number of
            rows is R = parts · seeds.
        device: the device on which the numbers are drawn.
    """

    def __init__(
        self, seeds: Sequence[int], purpose: Purpose, epoch: int = 0, parts: str | Sequence[str] = "", *,
        device: torch.device,
    ) -> None:
        self.device = device
        parts = [parts] if isinstance(parts, str) else parts
        names = [_name(seed, purpose, epoch, part) for part in parts for seed in seeds]
        self._generators: list[torch.Generator] = []
        self._drawn = 0
        if device.type == "cuda":
            self._keys = on_device(names, torch.int64, device)
        else:
            self._generators = [torch.Generator(device=device).manual_seed(name) for name in names]

    def normal(self, *shape: int) -> Tensor:
        """Return random numbers from N(0, 1), float32 (R, *shape)."""
        if self._generators:
            return self._filled(shape, torch.Tensor.normal_)
        return kernels.philox_normal(self._keys, *self._next(shape)).view(-1, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """Return uniform random numbers in [0, 1), float32 (R, *shape)."""
        if self._generators:
            return self._filled(shape, torch.Tensor.uniform_)
        return kernels.philox_uniform(self._keys, *self._next(shape)).view(-1, *shape)

    def permutations(self, n: int) -> Tensor:
        """Return the numbers 0 to n - 1 in a random order for each row, int64 (R, n)."""
        if self._generators:
            return torch.stack([torch.randperm(n, generator=g, device=self.device) for g in self._generators])
        high, low = kernels.philox_bits(self._keys, *self._next((2 * n,))).view(-1, 2, n).unbind(1)
        return (high << 31 | low >> 1).argsort(dim=-1, stable=True)

    def _filled(self, shape: tuple[int, ...], fill: Callable[..., Tensor]) -> Tensor:
        drawn = [
            fill(torch.empty(shape, dtype=torch.float32, device=self.device), generator=g) for g in self._generators
        ]
        return torch.stack(drawn) if len(drawn) > 1 else drawn[0].unsqueeze(0)

    def _next(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the first Philox counter of the next draw, and the number of values that each stream draws."""
        first, count = self._drawn, math.prod(shape)
        self._drawn += -(-count // kernels.PHILOX_WORDS)
        return first, count


def _name(seed: int, purpose: Purpose, epoch: int, part: str) -> int:
    """Return the name of a stream as a number below 2^56."""
    name = "/".join((str(seed), purpose, str(epoch), *([part] if part else [])))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "little")

"""Random numbers by name: the same for a run in any company, and on a GPU the same on every card.

Randomness is stateless: a stream is named by (seed, purpose, epoch) and made afresh from that name. So a run's numbers
depend on nothing that other runs, other purposes or earlier epochs drew, a resumed or branched run reads what an
undisturbed one reads, and no generator state has to be stored.

On a CPU a stream is a `torch.Generator`. torch's generator on CUDA gives large draws an order that depends on the
card's number of multiprocessors, and draws for one run at a time. There a stream is Philox4x32-10 (Salmon et al.
2011), whose key is the stream's name and whose counter the element's place: all runs draw in one launch.
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
    """The random stream of one run for one purpose (or a part of it) in one epoch, at its beginning, on `device`."""
    return torch.Generator(device=device).manual_seed(_name(seed, purpose, epoch, part))


class Streams:
    """The streams of R runs for one purpose in one epoch, which draw side by side.

    Args:
        seeds: of the runs.
        parts: of the purpose; with several, R is their number times that of the seeds, part by part.
        device: where numbers are drawn.
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
        """(R, *shape) float32 from N(0, 1)."""
        if self._generators:
            return self._of_each(shape, torch.Tensor.normal_)
        return kernels.philox_normal(self._keys, *self._next(shape)).view(-1, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """(R, *shape) float32, uniform in [0, 1)."""
        if self._generators:
            return self._of_each(shape, torch.Tensor.uniform_)
        return kernels.philox_uniform(self._keys, *self._next(shape)).view(-1, *shape)

    def permutations(self, n: int) -> Tensor:
        """(R, n) int64: the numbers 0 to n - 1 in random order."""
        if self._generators:
            return torch.stack([torch.randperm(n, generator=g, device=self.device) for g in self._generators])
        high, low = kernels.philox_bits(self._keys, *self._next((2 * n,))).view(-1, 2, n).unbind(1)
        return (high << 31 | low >> 1).argsort(dim=-1, stable=True)

    def _of_each(self, shape: tuple[int, ...], fill: Callable[..., Tensor]) -> Tensor:
        drawn = [
            fill(torch.empty(shape, dtype=torch.float32, device=self.device), generator=g) for g in self._generators
        ]
        return torch.stack(drawn) if len(drawn) > 1 else drawn[0].unsqueeze(0)

    def _next(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Counter of the first number of a draw, and how many numbers each run draws."""
        first, count = self._drawn, math.prod(shape)
        self._drawn += -(-count // kernels.PHILOX_WORDS)
        return first, count


def _name(seed: int, purpose: Purpose, epoch: int, part: str) -> int:
    """A stream's name as a number below 2^56."""
    name = "/".join((str(seed), purpose, str(epoch), *([part] if part else [])))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "little")

"""Paths between two latents, and what a decoder makes of them.

    straight     z(t) = (1 - t) a + t b
    spherical    slerp of the directions, the length going from ‖a‖ to ‖b‖ linearly (Shoemake 1985; White 2016)

With t from 0 to 1 in even steps. A straight path passes nearer the origin than samples of N(0, I) do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ternary_lab import space
from ternary_lab.errors import InputError
from ternary_lab.model import Pathway, TernaryVAE

PARALLEL = 1e-6
"""Sine of an angle below which two directions have no plane of their own."""


def straight(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """The straight path (steps, L) from a (L,) to b (L,), both included. Raises InputError for fewer than 2 steps."""
    return torch.lerp(a, b, _times(a, b, steps))


def spherical(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """The spherical path (steps, L) from a (L,) to b (L,), both included.

    Where the directions coincide, are opposite or one latent is 0, there is no one great circle: the path is straight.
    Raises InputError for fewer than 2 steps.
    """
    t = _times(a, b, steps)
    lengths = a.norm(), b.norm()
    if min(lengths) == 0:
        return torch.lerp(a, b, t)
    u, v = a / lengths[0], b / lengths[1]
    # From the chord: accurate for small angles, where the arc cosine of u·v is not.
    angle = 2 * torch.atan2((u - v).norm(), (u + v).norm())
    if torch.sin(angle) < PARALLEL:
        return torch.lerp(a, b, t)
    direction = (torch.sin((1 - t) * angle) * u + torch.sin(t * angle) * v) / torch.sin(angle)
    lerped: Tensor = torch.lerp(lengths[0], lengths[1], t) * direction
    return lerped


PATHS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {"straight": straight, "spherical": spherical}


@dataclass(frozen=True)
class Walk:
    """What a decoder says along a path of latents, step by step."""

    operations: Tensor
    """(steps,) int64: the most probable operation."""
    log_probability: Tensor
    """(steps,): its ln p(x|z)."""
    target_log_probability: Tensor
    """(2, steps): ln p(x|z) of the two operations that the path leads from and to."""

    @property
    def changes(self) -> list[int]:
        """Steps at which the most probable operation is another than a step before."""
        return [int(i) + 1 for i in torch.nonzero(self.operations.diff()).flatten()]

    @property
    def entries_changed(self) -> int:
        """Entries that change along the way, counted each time: the path's length in Hamming distance."""
        tables = space.operations(self.operations)
        return int((tables[1:] != tables[:-1]).sum())


def walk(model: TernaryVAE, pathway: Pathway, z: Tensor, ends: tuple[int, int]) -> Walk:
    """Decode the latents z (steps, L) of a path between two operations, given by index."""
    log_q = torch.log_softmax(model.decode(z, pathway), -1)
    best, classes = log_q.max(-1)
    targets = (space.operations(torch.tensor(ends)) + 1).long().to(z.device)
    at_targets = torch.stack([
        log_q.gather(-1, target.expand(len(z), -1).unsqueeze(-1)).sum((1, 2)) for target in targets
    ])
    return Walk(space.index_of(classes.float() - 1), best.sum(-1), at_targets)


def _times(a: Tensor, b: Tensor, steps: int) -> Tensor:
    if a.shape != b.shape or a.ndim != 1:
        raise InputError(f"a path leads between two latents (L,), got {tuple(a.shape)} and {tuple(b.shape)}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
        raise InputError(f"steps must be a number, at least 2, got {steps!r}")
    return torch.linspace(0, 1, steps, device=a.device, dtype=a.dtype).unsqueeze(1)

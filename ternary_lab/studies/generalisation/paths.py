"""Paths between two latents a and b, and the operations that are decoded along a path.

    straight     z(t) = (1 - t) a + t b
    spherical    spherical interpolation (slerp) of the directions; the length changes linearly from ‖a‖ to ‖b‖
                 (Shoemake 1985; White 2016)

The parameter t goes from 0 to 1 in equal steps. A straight path passes nearer to the origin than samples of
N(0, I) lie.
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
"""Smallest sine of the angle between two directions that still define a plane."""


def straight(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Return the straight path (steps, L) from a (L,) to b (L,), which includes both ends.

    Raises InputError for fewer than 2 steps.
    """
    return torch.lerp(a, b, _times(a, b, steps))


def spherical(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Return the spherical path (steps, L) from a (L,) to b (L,), which includes both ends.

    The path is straight if the directions are equal or opposite, or if a latent is 0, because no great circle is unique
    then. Raises InputError for fewer than 2 steps.
    """
    t = _times(a, b, steps)
    lengths = a.norm(), b.norm()
    if min(lengths) == 0:
        return torch.lerp(a, b, t)
    u, v = a / lengths[0], b / lengths[1]
    # The angle is computed from the chord, which is accurate for small angles. The arc cosine of u·v is not.
    angle = 2 * torch.atan2((u - v).norm(), (u + v).norm())
    if torch.sin(angle) < PARALLEL:
        return torch.lerp(a, b, t)
    direction = (torch.sin((1 - t) * angle) * u + torch.sin(t * angle) * v) / torch.sin(angle)
    lerped: Tensor = torch.lerp(lengths[0], lengths[1], t) * direction
    return lerped


PATHS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {"straight": straight, "spherical": spherical}


@dataclass(frozen=True)
class Walk:
    """The decoder's output at each step of a path of latents."""

    operations: Tensor
    """(steps,) int64: index of the most probable operation."""
    log_probability: Tensor
    """(steps,): ln p(x|z) of the most probable operation."""
    target_log_probability: Tensor
    """(2, steps): ln p(x|z) of the path's first and last operation."""

    @property
    def changes(self) -> list[int]:
        """Steps at which the most probable operation differs from that of the step before."""
        return [int(i) + 1 for i in torch.nonzero(self.operations.diff()).flatten()]

    @property
    def entries_changed(self) -> int:
        """Number of changes of an entry along the path, which is the path's length in Hamming distance."""
        tables = space.operations(self.operations)
        return int((tables[1:] != tables[:-1]).sum())


def walk(model: TernaryVAE, pathway: Pathway, z: Tensor, ends: tuple[int, int]) -> Walk:
    """Decode the latents z (steps, L) of a path between two operations, which `ends` gives by index."""
    log_q = torch.log_softmax(model.decode(z, pathway), -1)
    best, classes = log_q.max(-1)
    targets = (space.operations(torch.tensor(ends)) + 1).long().to(z.device)
    at_targets = torch.stack([
        log_q.gather(-1, target.expand(len(z), -1).unsqueeze(-1)).sum((1, 2)) for target in targets
    ])
    return Walk(space.index_of(classes.float() - 1), best.sum(-1), at_targets)


@dataclass(frozen=True)
class PathQuality:
    """Quality of P paths between operations; every tensor has shape (P,).

    The most probable operation is decoded at each step. Every step decodes to a valid operation by construction, so
    validity is not measured.
    """

    distance: Tensor
    """Number of entries in which the two ends differ."""
    arrives: Tensor
    """bool: true if both ends decode to their operations."""
    between: Tensor
    """Share of the steps at which each entry has its value at one of the ends. Such a step lies on a shortest path."""
    detour: Tensor
    """Number of changes of an entry along the path, divided by `distance`. The best value is 1."""
    largest_jump: Tensor
    """Largest number of entries that change in one step. The smoothest paths have the value 1."""
    per_length: Tensor
    """Number of changes of an entry per unit of length in the latent space."""
    confidence: Tensor
    """Mean over steps of the probability p(x|z) of the decoded operation."""


@torch.no_grad()
def path_quality(
    model: TernaryVAE, pathway: Pathway, pairs: Tensor, way: str = "straight", steps: int = 65
) -> PathQuality:
    """Return the quality of paths between the codes of pairs of operations, which are given by index (P, 2).

    `way` is a key of `PATHS`. Raises InputError if the ends of a path are equal, or if `way` is not such a key.
    """
    if way not in PATHS:
        raise InputError(f"way must be one of {', '.join(PATHS)}, got {way!r}")
    ends = space.operations(pairs)
    distance = (ends[:, 0] != ends[:, 1]).sum(1)
    if bool((distance == 0).any()):
        raise InputError("the two ends of a path must be different operations")
    mu = model.encode(ends, pathway).mean
    z = torch.stack([PATHS[way](a, b, steps) for a, b in mu])
    confidence, classes = torch.softmax(model.decode(z, pathway), -1).max(-1)
    tables = classes.cpu() - 1
    one, other = ends[:, None, 0], ends[:, None, 1]
    changes = (tables[:, 1:] != tables[:, :-1]).sum(2)
    total = changes.sum(1)
    return PathQuality(
        distance=distance,
        arrives=(tables[:, 0] == ends[:, 0]).all(1) & (tables[:, -1] == ends[:, 1]).all(1),
        between=((tables == one) | (tables == other)).all(2).float().mean(1),
        detour=total / distance,
        largest_jump=changes.amax(1),
        per_length=total / (z[:, 1:] - z[:, :-1]).norm(dim=2).sum(1).cpu(),
        confidence=confidence.prod(2).mean(1).cpu(),
    )


def _times(a: Tensor, b: Tensor, steps: int) -> Tensor:
    if a.shape != b.shape or a.ndim != 1:
        raise InputError(f"the ends of a path must be two latents (L,), got {tuple(a.shape)} and {tuple(b.shape)}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
        raise InputError(f"steps must be a whole number of at least 2, got {steps!r}")
    return torch.linspace(0, 1, steps, device=a.device, dtype=a.dtype).unsqueeze(1)

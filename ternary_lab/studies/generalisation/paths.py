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


@dataclass(frozen=True)
class PathQuality:
    """How a decoder's argmax goes from one operation to another, for P paths; every tensor (P,).

    Each step decodes to nine values and so to an operation: validity is 1 by construction, and not among these.
    """

    distance: Tensor
    """Entries in which the two ends differ."""
    arrives: Tensor
    """Whether both ends decode to their operations, bool."""
    between: Tensor
    """Share of the steps whose every entry has the value of one of the ends: on a shortest way in Hamming distance."""
    detour: Tensor
    """Entries changed along the way, each time counted, per entry in which the ends differ; 1 at best."""
    largest_jump: Tensor
    """Most entries that change from one step to the next; 1 is the smoothest."""
    per_length: Tensor
    """Entries changed per unit of length in the latent space."""
    confidence: Tensor
    """Mean probability p(x|z) of the operation decoded."""


@torch.no_grad()
def path_quality(
    model: TernaryVAE, pathway: Pathway, pairs: Tensor, way: str = "straight", steps: int = 65
) -> PathQuality:
    """Walks between the codes of pairs of operations, by index (P, 2), as in `PATHS`. Raises InputError for equal ends
    and for another way."""
    if way not in PATHS:
        raise InputError(f"a way is one of {', '.join(PATHS)}, got {way!r}")
    ends = space.operations(pairs)
    distance = (ends[:, 0] != ends[:, 1]).sum(1)
    if bool((distance == 0).any()):
        raise InputError("a path leads from one operation to another: two ends are the same")
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
        raise InputError(f"a path leads between two latents (L,), got {tuple(a.shape)} and {tuple(b.shape)}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
        raise InputError(f"steps must be a number, at least 2, got {steps!r}")
    return torch.linspace(0, 1, steps, device=a.device, dtype=a.dtype).unsqueeze(1)

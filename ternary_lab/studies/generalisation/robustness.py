"""What becomes of an operation when its entries, or its code, are disturbed. Shares are in percent.

A truth table with a flipped entry is another truth table, and all are equally likely: whoever sees it can know no more
than that the original is one of the 2^e C(9, e) tables at that distance. `best_denoising` is therefore the best that
any model can do, and a model that reconstructs everything gives the disturbed table back.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ternary_lab import space
from ternary_lab.errors import InputError
from ternary_lab.model import Pathway, TernaryVAE
from ternary_lab.space import ENTRIES, VALUES

Disturbance = Literal["flipped", "erased"]


@dataclass(frozen=True)
class Denoising:
    """What the decoder gives for a disturbed operation, by argmax from z = μ; percent of all disturbances."""

    original: float
    disturbed: float
    """The disturbed table itself, not noticed."""
    other: float


def best_denoising(entries: int) -> float:
    """Percent of flipped tables that any model can set right: 100 / (2^e C(9, e)). Raises InputError for a wrong e."""
    _check_entries(entries)
    return 100 / (math.comb(ENTRIES, entries) * float(VALUES - 1) ** entries)


def flipped(operations: Tensor, entries: int = 1) -> Tensor:
    """Every table that differs from operations (n, 9) in exactly so many entries: (n, 2^e C(9, e), 9)."""
    _check_entries(entries)
    steps = torch.zeros(0, ENTRIES)
    for places in itertools.combinations(range(ENTRIES), entries):
        by = torch.tensor(list(itertools.product(range(1, VALUES), repeat=entries)), dtype=torch.float32)
        step = torch.zeros(len(by), ENTRIES)
        step[:, places] = by
        steps = torch.cat((steps, step))
    return (space.check_operations(operations)[:, None] + 1 + steps.to(operations.device)) % VALUES - 1


def erased(operations: Tensor, entries: int = 1) -> tuple[Tensor, Tensor]:
    """Operations (n, 9) with so many of their entries that are not 0 set to 0, "unknown" in Kleene's logic.

    Returns the tables (m, 9) and the row of `operations` (m,) that each is of.
    """
    _check_entries(entries)
    tables, rows = [], []
    known = space.check_operations(operations) != 0
    for places in itertools.combinations(range(ENTRIES), entries):
        fits = known[:, places].all(1).nonzero().flatten()
        table = operations[fits].clone()
        table[:, places] = 0
        tables.append(table)
        rows.append(fits)
    return torch.cat(tables), torch.cat(rows)


@torch.no_grad()
def denoising(
    model: TernaryVAE, pathway: Pathway, operations: Tensor, entries: int = 1, how: Disturbance = "flipped"
) -> Denoising:
    """What becomes of operations (n, 9) with every choice of so many entries flipped or erased.

    Raises InputError for entries outside 1..9 and where nothing can be erased.
    """
    if how == "flipped":
        seen = flipped(operations, entries)
        rows = torch.arange(len(operations)).repeat_interleave(seen.shape[1])
        seen = seen.flatten(0, 1)
    else:
        seen, rows = erased(operations, entries)
    if len(seen) == 0:
        raise InputError(f"no operation has {entries} entries to disturb")
    given = space.index_of(_decoded(model, pathway, model.encode(seen, pathway).mean))
    original = given == space.index_of(operations.to(given.device))[rows]
    unnoticed = given == space.index_of(seen.to(given.device))
    shares = [100 * v.float().mean().item() for v in (original, unnoticed, ~original & ~unnoticed)]
    return Denoising(*shares)


@torch.no_grad()
def noise_tolerance(
    model: TernaryVAE, pathway: Pathway, operations: Tensor, radii: Sequence[float], generator: torch.Generator
) -> list[float]:
    """Percent of operations (n, 9) still decoded, by argmax, from μ displaced by each length in a random direction.

    The direction of an operation is the same at every radius, uniform on the sphere.
    """
    mu = model.encode(operations, pathway).mean
    direction = torch.empty(mu.shape, device=generator.device).normal_(generator=generator).to(mu.device)
    direction /= direction.norm(dim=1, keepdim=True)
    return [_right(model, pathway, mu + radius * direction, operations) for radius in radii]


def half_radius(radii: Sequence[float], shares: Sequence[float]) -> float:
    """Where a falling curve of percentages crosses 50, linearly between its points; nan if it does not."""
    for (r0, s0), (r1, s1) in itertools.pairwise(zip(radii, shares, strict=True)):
        if s0 >= 50 > s1:
            return r0 + (r1 - r0) * (s0 - 50) / (s0 - s1)
    return math.nan


def _right(model: TernaryVAE, pathway: Pathway, z: Tensor, operations: Tensor) -> float:
    return 100 * (_decoded(model, pathway, z) == operations.to(z.device)).all(1).float().mean().item()


def _decoded(model: TernaryVAE, pathway: Pathway, z: Tensor) -> Tensor:
    return model.decode(z, pathway).argmax(-1).float() - 1


def _check_entries(entries: int) -> None:
    if isinstance(entries, bool) or not isinstance(entries, int) or not 1 <= entries <= ENTRIES:
        raise InputError(f"entries must be a number in 1..{ENTRIES}, got {entries!r}")

"""Robustness: decoding of operations whose entries or codes are disturbed. Shares are in percent.

A truth table with flipped entries is itself a truth table, and all tables are equally likely. The original can be any
of the 2^e C(9, e) tables at distance e, so no model can do better than `best_denoising`. A model that reconstructs
every operation returns the disturbed table.
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
from ternary_lab.metrics.decoding import decoded_tables
from ternary_lab.model import Pathway, TernaryVAE
from ternary_lab.space import ENTRIES, VALUES

Disturbance = Literal["flipped", "erased"]


@dataclass(frozen=True)
class Denoising:
    """Decoded tables of disturbed operations by kind, by argmax from z = μ; percent of all disturbances."""

    original: float
    disturbed: float
    """The disturbed table itself."""
    other: float


def best_denoising(entries: int) -> float:
    """Largest percent of flipped tables that a model can restore, 100 / (2^e C(9, e)). Raises InputError for bad e."""
    _check_entries(entries)
    return 100 / (math.comb(ENTRIES, entries) * float(VALUES - 1) ** entries)


def flipped(operations: Tensor, entries: int = 1) -> Tensor:
    """All tables (n, 2^e C(9, e), 9) that differ from operations (n, 9) in exactly e `entries`."""
    _check_entries(entries)
    steps = torch.zeros(0, ENTRIES)
    for places in itertools.combinations(range(ENTRIES), entries):
        by = torch.tensor(list(itertools.product(range(1, VALUES), repeat=entries)), dtype=torch.float32)
        step = torch.zeros(len(by), ENTRIES)
        step[:, places] = by
        steps = torch.cat((steps, step))
    return (space.check_operations(operations)[:, None] + 1 + steps.to(operations.device)) % VALUES - 1


def erased(operations: Tensor, entries: int = 1) -> tuple[Tensor, Tensor]:
    """Operations (n, 9) with some of their entries that are not 0 set to 0, "unknown" in Kleene's logic.

    Returns the tables (m, 9), one for every choice of `entries` entries, and for each its row in `operations` (m,).
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
    """Decoding of operations (n, 9) with every choice of `entries` entries flipped or erased.

    Raises InputError for entries outside 1..9, or if nothing can be erased.
    """
    if how == "flipped":
        seen = flipped(operations, entries)
        rows = torch.arange(len(operations)).repeat_interleave(seen.shape[1])
        seen = seen.flatten(0, 1)
    else:
        seen, rows = erased(operations, entries)
    if len(seen) == 0:
        raise InputError(f"no operation has {entries} entries to disturb")
    given = space.index_of(decoded_tables(model, pathway, model.encode(seen, pathway).mean))
    original = given == space.index_of(operations.to(given.device))[rows]
    unnoticed = given == space.index_of(seen.to(given.device))
    shares = [100 * v.float().mean().item() for v in (original, unnoticed, ~original & ~unnoticed)]
    return Denoising(*shares)


@torch.no_grad()
def noise_tolerance(
    model: TernaryVAE, pathway: Pathway, operations: Tensor, radii: Sequence[float], generator: torch.Generator
) -> list[float]:
    """Percent of operations (n, 9) decoded exactly by argmax after μ is displaced by each radius in a random direction.

    Directions are uniform on the sphere; an operation has the same direction at every radius.
    """
    mu = model.encode(operations, pathway).mean
    direction = torch.empty(mu.shape, device=generator.device).normal_(generator=generator).to(mu.device)
    direction /= direction.norm(dim=1, keepdim=True)
    found = (decoded_tables(model, pathway, mu + radius * direction) for radius in radii)
    return [100 * (tables == operations.to(mu.device)).all(1).float().mean().item() for tables in found]


def half_radius(radii: Sequence[float], shares: Sequence[float]) -> float:
    """Radius where a falling curve of percentages crosses 50, by linear interpolation; nan if it does not."""
    for (r0, s0), (r1, s1) in itertools.pairwise(zip(radii, shares, strict=True)):
        if s0 >= 50 > s1:
            return r0 + (r1 - r0) * (s0 - 50) / (s0 - s1)
    return math.nan


def _check_entries(entries: int) -> None:
    if isinstance(entries, bool) or not isinstance(entries, int) or not 1 <= entries <= ENTRIES:
        raise InputError(f"entries must be a number in 1..{ENTRIES}, got {entries!r}")

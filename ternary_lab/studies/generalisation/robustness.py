"""Decoding of operations whose entries are flipped or whose codes are displaced. Shares are in percent.

A truth table with flipped entries is itself a truth table, and all tables are equally likely. If e entries are flipped,
the original table can be any of the 2^e C(9, e) tables that differ from the flipped table in e entries. No model can
therefore do better than `best_denoising`. A model that reconstructs every operation returns the flipped table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ternary_lab import space
from ternary_lab.errors import InputError
from ternary_lab.metrics.decoding import decoded_tables
from ternary_lab.model import Pathway, TernaryVAE
from ternary_lab.space import ENTRIES, VALUES


@dataclass(frozen=True)
class Denoising:
    """Shares of the tables that are decoded from flipped operations, in percent of all flips.

    A flipped operation is decoded by argmax from z = μ. The result is the original table, the flipped table or another
    table.
    """

    original: float
    flipped: float
    """The decoded table is the flipped table itself."""
    other: float


def best_denoising(entries: int) -> float:
    """Return the largest percentage of flipped tables that a model can restore, 100 / (2^e C(9, e)).

    Here e = `entries` is the number of flipped entries. Raises InputError unless e is a number in 1..9.
    """
    _check_entries(entries)
    return 100 / (math.comb(ENTRIES, entries) * float(VALUES - 1) ** entries)


def flipped(operations: Tensor, entries: int = 1) -> Tensor:
    """Return all tables that differ from each operation (n, 9) in exactly e = `entries` entries.

    The shape is (n, 2^e C(9, e), 9). Raises InputError unless e is a number in 1..9.
    """
    _check_entries(entries)
    steps = torch.zeros(0, ENTRIES)
    for places in itertools.combinations(range(ENTRIES), entries):
        by = torch.tensor(list(itertools.product(range(1, VALUES), repeat=entries)), dtype=torch.float32)
        step = torch.zeros(len(by), ENTRIES)
        step[:, places] = by
        steps = torch.cat((steps, step))
    return (space.check_operations(operations)[:, None] + 1 + steps.to(operations.device)) % VALUES - 1


@torch.no_grad()
def denoising(model: TernaryVAE, pathway: Pathway, operations: Tensor, entries: int = 1) -> Denoising:
    """Return the decoding results of operations (n, 9) after every choice of `entries` entries is flipped.

    Raises InputError for entries outside 1..9.
    """
    seen = flipped(operations, entries)
    rows = torch.arange(len(operations)).repeat_interleave(seen.shape[1])
    seen = seen.flatten(0, 1)
    given = space.index_of(decoded_tables(model, pathway, model.encode(seen, pathway).mean))
    original = given == space.index_of(operations.to(given.device))[rows]
    unnoticed = given == space.index_of(seen.to(given.device))
    shares = [100 * v.float().mean().item() for v in (original, unnoticed, ~original & ~unnoticed)]
    return Denoising(*shares)


@torch.no_grad()
def noise_tolerance(
    model: TernaryVAE, pathway: Pathway, operations: Tensor, radii: Sequence[float], generator: torch.Generator
) -> list[float]:
    """Return the percentage of operations (n, 9) that are decoded exactly after a displacement of μ by each radius.

    Operations are decoded by argmax. The direction of the displacement is random and uniform on the sphere. An
    operation has the same direction at every radius.
    """
    mu = model.encode(operations, pathway).mean
    direction = torch.empty(mu.shape, device=generator.device).normal_(generator=generator).to(mu.device)
    direction /= direction.norm(dim=1, keepdim=True)
    found = (decoded_tables(model, pathway, mu + radius * direction) for radius in radii)
    return [100 * (tables == operations.to(mu.device)).all(1).float().mean().item() for tables in found]


def half_radius(radii: Sequence[float], shares: Sequence[float]) -> float:
    """Return the radius at which a falling curve of percentages crosses 50, by linear interpolation.

    The result is nan if the curve does not cross 50.
    """
    for (r0, s0), (r1, s1) in itertools.pairwise(zip(radii, shares, strict=True)):
        if s0 >= 50 > s1:
            return r0 + (r1 - r0) * (s0 - 50) / (s0 - s1)
    return math.nan


def _check_entries(entries: int) -> None:
    if isinstance(entries, bool) or not isinstance(entries, int) or not 1 <= entries <= ENTRIES:
        raise InputError(f"entries must be a number in 1..{ENTRIES}, got {entries!r}")

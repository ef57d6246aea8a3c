"""The split that a configuration asks for, and structures that can be left out of training as a whole.

    STRUCTURE            | what is left out
    orbit:2019           | every operation that relabelling a, b and the result, or swapping a and b, makes of this one
    logic:kleene         | every operation that the logic's connectives define (`config.CONNECTIVES`)
    pattern:++-******    | every operation with these entries, in the order of `space`; * is any

A random test split asks whether operations between seen ones are coded; a structure, whether a region is.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ternary_lab import config, space, symmetry
from ternary_lab.backend.numerics import fenced
from ternary_lab.errors import ConfigError, InputError


@fenced
def split(data: config.Data) -> space.Split:
    """The split of a configuration: `space.split`, and the left-out structure as a part of its own.

    Raises ConfigError when the structure takes all that another part had.
    """
    left_out = members(data.left_out) if data.left_out else None
    found = space.split(data.split_seed, data.train_fraction, data.validation_fraction, left_out)
    for name in ("train", "validation", "test"):
        if data.left_out and len(getattr(found, name)) == 0:
            raise ConfigError(f"data.left_out: {data.left_out} leaves no operation in the {name} split: leave out less")
    return found


@fenced
def per_epoch(data: config.Data) -> int:
    """Operations of an epoch of training."""
    return data.epoch_operations or len(split(data).train)


@fenced
def members(structure: str) -> Tensor:
    """Indices (int64, ascending) of the operations of a structure. Raises InputError for another name."""
    try:
        kind, name = config.parse_structure(structure)
    except ValueError as error:
        raise InputError(f"a structure {error}") from None
    if kind == "orbit":
        group = symmetry.GROUPS["isotopy and swap"]
        images = torch.stack([space.index_of(g(space.operations(torch.tensor(int(name))))) for g in group])
        return images.unique(sorted=True)  # type: ignore[no-any-return,no-untyped-call]
    if kind == "logic":
        return _definable(name)
    tables = space.operations()
    fits = torch.ones(space.SIZE, dtype=torch.bool)
    for k, entry in enumerate(name):
        if entry != "*":
            fits &= tables[:, k] == "-0+".index(entry) - 1
    return torch.nonzero(fits).flatten()


@lru_cache
def _definable(logic: str) -> Tensor:
    """The binary operations in the clone of a logic's connectives: the projections, closed under them."""
    new = torch.tensor(sorted(space.named()[f"projection {name}"] for name in "ab"))
    known = torch.zeros(space.SIZE, dtype=torch.bool)
    while len(new):
        known[new] = True
        found = torch.nonzero(known).flatten()
        made = torch.zeros_like(known)
        for connective in config.CONNECTIVES[logic]:
            made[_applied(connective, _classes(new), _classes(found))] = True
        new = torch.nonzero(made & ~known).flatten()
    return torch.nonzero(known).flatten()


def _applied(connective: str, new: Tensor, found: Tensor) -> Tensor:
    """Indices of what a connective makes of operations (n, 9): new ones with all that are found, each way round."""
    if connective == "not":
        return space.index_of(1 - new)
    if connective == "false":
        return torch.zeros(1, dtype=torch.int64)
    lookup = _classes(torch.tensor(space.named()[connective])).reshape(space.VALUES, space.VALUES)
    pairs = torch.zeros(2, len(new), len(found), dtype=torch.int64)
    for k in range(space.ENTRIES):
        one, other = new[:, k, None], found[None, :, k]
        pairs += torch.stack((lookup[one, other], lookup[other, one])) * space.VALUES**k
    return pairs.flatten()


def _classes(operations: Tensor) -> Tensor:
    return space.operations(operations).long() + 1

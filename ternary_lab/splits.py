"""The split of a configuration, and the structures that can be left out of training.

A structure is a named set of operations:

    structure            | operations
    orbit:2019           | the orbit of operation 2019 under isotopy and swap (see `symmetry`)
    logic:kleene         | all operations that the connectives of the logic define (`config.CONNECTIVES`)
    pattern:++-******    | all operations with these entries, in the order of `space`; * stands for any value

A random test split tests whether a model interpolates between training operations. A left-out structure tests whether a
model generalises to a whole region of the space.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ternary_lab import config, space, symmetry
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.errors import ConfigError, InputError


@with_fixed_arithmetic
def split(data: config.Data) -> space.Split:
    """Return the split of a configuration. The left-out structure is the fourth part.

    `space.split` computes the split. Raises ConfigError if the left-out structure leaves another part empty.
    """
    left_out = members(data.left_out) if data.left_out else None
    found = space.split(data.split_seed, data.train_fraction, data.validation_fraction, left_out)
    for name in ("train", "validation", "test"):
        if data.left_out and len(getattr(found, name)) == 0:
            raise ConfigError(f"data.left_out: {data.left_out} leaves no operation in the {name} split: leave out less")
    return found


@with_fixed_arithmetic
def per_epoch(data: config.Data) -> int:
    """Return the number of operations in an epoch of training."""
    return data.epoch_operations or len(split(data).train)


@with_fixed_arithmetic
def members(structure: str) -> Tensor:
    """Return the indices of the operations of a structure, as int64 in ascending order.

    Raises InputError if `structure` is not the name of a structure.
    """
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
    """Return the indices of the operations that the connectives of a logic define.

    These operations are the binary part of the clone of the connectives. The function starts with the two projections
    and applies the connectives until no new operation appears.
    """
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


def _applied(connective: str, new: Tensor, known: Tensor) -> Tensor:
    """Return the indices of the operations that a connective makes from pairs of operations.

    A pair consists of one of n new and one of m known operations, in both orders. `new` (n, 9) and `known` (m, 9) hold
    the classes 0, 1, 2 of the entries.
    """
    if connective == "not":
        return space.index_of(1 - new)
    if connective == "false":
        return torch.zeros(1, dtype=torch.int64)
    lookup = _classes(torch.tensor(space.named()[connective])).reshape(space.VALUES, space.VALUES)
    pairs = torch.zeros(2, len(new), len(known), dtype=torch.int64)
    for k in range(space.ENTRIES):
        one, other = new[:, k, None], known[None, :, k]
        pairs += torch.stack((lookup[one, other], lookup[other, one])) * space.VALUES**k
    return pairs.flatten()


def _classes(operations: Tensor) -> Tensor:
    """Return the classes 0, 1, 2 of the entries of operations, as int64 (n, 9). `operations` holds indices (n,)."""
    return space.operations(operations).long() + 1

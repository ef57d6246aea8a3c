"""Symmetries, orbits and algebraic properties of the operations.

Notation: f(a, b) is the entry of a truth table in row a and column b (see `space`); α, β, γ are permutations
of {-1, 0, +1}. A symmetry g maps f to

    g f (a, b) = γ( f( α⁻¹ a, β⁻¹ b ) )            or, with a swap,  γ( f( β⁻¹ b, α⁻¹ a ) )

    isomorphism   α = β = γ                         Harrison 1966, https://doi.org/10.1090/S0002-9939-1966-0200219-9
    isotopy       α, β, γ independent               Albert 1943, https://doi.org/10.2307/1990259

An orbit holds the operations that a group maps to each other; N = Σ orbit sizes. Paratopy also exchanges a or b with
the result. That is defined for Latin squares only, so it is not a symmetry of the space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import TypeAlias

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ternary_lab import space
from ternary_lab.errors import InputError
from ternary_lab.space import ENTRIES, SIZE, VALUES

Permutation: TypeAlias = tuple[int, int, int]
"""Images of -1, 0 and +1."""
IDENTITY: Permutation = (-1, 0, 1)
NEGATION: Permutation = (1, 0, -1)
PERMUTATIONS: tuple[Permutation, ...] = tuple((p[0], p[1], p[2]) for p in permutations(IDENTITY))


def _after(second: Permutation, first: Permutation) -> Permutation:
    x, y, z = (second[value + 1] for value in first)
    return x, y, z


def _inverse(permutation: Permutation) -> Permutation:
    x, y, z = (permutation.index(value) - 1 for value in IDENTITY)
    return x, y, z


# Symmetries


@dataclass(frozen=True)
class Symmetry:
    """A relabelling of a by `left` (α), of b by `right` (β) and of the result by `output` (γ).

    With `swap`, a and b are exchanged first. Raises InputError for anything but permutations of -1, 0, +1.
    """

    left: Permutation = IDENTITY
    right: Permutation = IDENTITY
    output: Permutation = IDENTITY
    swap: bool = False

    def __post_init__(self) -> None:
        for permutation in (self.left, self.right, self.output):
            if permutation not in PERMUTATIONS:
                raise InputError(f"a symmetry relabels by permutations of -1, 0, +1, got {permutation}")

    @property
    def source(self) -> list[int]:
        """For each of the nine entries of g f, the entry of f that it copies before the result is relabelled."""
        pairs = product(_inverse(self.left), _inverse(self.right))
        return [3 * (y + 1) + x + 1 if self.swap else 3 * (x + 1) + y + 1 for x, y in pairs]

    def __call__(self, tables: Tensor) -> Tensor:
        """The images, float32 (..., 9), of truth tables (..., 9). Raises InputError for other values."""
        classes = space.check_operations(tables)[..., self.source].long() + 1
        return torch.tensor(self.output, dtype=torch.float32, device=classes.device)[classes]

    def __matmul__(self, first: Symmetry) -> Symmetry:
        """This symmetry after `first`: (h @ g) f = h (g f)."""
        # Moving a swap past a relabelling exchanges the relabellings of a and b.
        left, right = (first.right, first.left) if self.swap else (first.left, first.right)
        return Symmetry(
            _after(self.left, left), _after(self.right, right), _after(self.output, first.output),
            self.swap != first.swap,
        )

    @property
    def inverse(self) -> Symmetry:
        left, right, output = (_inverse(p) for p in (self.left, self.right, self.output))
        return Symmetry(right, left, output, True) if self.swap else Symmetry(left, right, output)

    def fixed(self) -> int:
        """Number of operations with g f = f, computed without listing them.

        One value determines the entries of such a table along a cycle of l entries, and γ^l must leave it unchanged
        (de Bruijn 1959, https://doi.org/10.1016/S1385-7258(59)50008-0).
        """
        count, remaining, source = 1, set(range(ENTRIES)), self.source
        while remaining:
            start = entry = min(remaining)
            power = IDENTITY
            while entry in remaining:
                remaining.remove(entry)
                entry, power = source[entry], _after(self.output, power)
            assert entry == start  # `source` is a permutation
            count *= sum(value == image for value, image in zip(IDENTITY, power, strict=True))
        return count


Group: TypeAlias = Sequence[Symmetry]
"""All elements of a group."""


def _with_swap(group: Group) -> Group:
    return [Symmetry(g.left, g.right, g.output, swap) for swap in (False, True) for g in group]


_ISOMORPHISMS: Group = [Symmetry(p, p, p) for p in PERMUTATIONS]
_ISOTOPIES: Group = [Symmetry(a, b, c) for a, b, c in product(PERMUTATIONS, repeat=3)]

GROUPS: dict[str, Group] = {
    "swap": _with_swap([Symmetry()]),
    "negation": [Symmetry(a, b, c) for a, b, c in product((IDENTITY, NEGATION), repeat=3)],
    "isomorphism": _ISOMORPHISMS,
    "isomorphism and swap": _with_swap(_ISOMORPHISMS),
    "isotopy": _ISOTOPIES,
    "isotopy and swap": _with_swap(_ISOTOPIES),
}
"""Groups that act on the space, by name.

`swap` exchanges a and b. `negation` negates a, b and the result independently. Known numbers of orbits:
isomorphism 3,330 (https://oeis.org/A001329), with swap 1,734 (anti-isomorphism, https://oeis.org/A001424),
isotopy 139 (matrices up to permutations of rows, columns and symbols, https://oeis.org/A091060).
"""


def images(group: Group) -> Tensor:
    """Operation index of g f, for every g of the group and every f: int64 (|G|, N)."""
    # The index of an image is linear in the one-hot entries of f: one matrix product, exact in float64.
    entries = one_hot(space.operations().long() + 1, VALUES).reshape(SIZE, -1).double()
    weights = torch.zeros(len(group), ENTRIES, VALUES, dtype=torch.float64)
    powers = (VALUES ** torch.arange(ENTRIES)).double()
    for row, g in zip(weights, group, strict=True):
        row[g.source] = powers[:, None] * (torch.tensor(g.output) + 1)
    return (weights.flatten(1) @ entries.T).long()


def orbits(group: Group) -> Tensor:
    """Smallest index in the orbit of each operation: int64 (N,)."""
    return images(group).amin(0)


def orbit_sizes(group: Group) -> Tensor:
    """Size of each orbit, int64 (orbits,), in the order of their smallest indices; each size divides |G|."""
    sizes: Tensor = torch.unique(orbits(group), return_counts=True)[1]
    return sizes


def orbit_count(group: Group) -> int:
    """Number of orbits: the mean number of operations that a symmetry fixes. It lists no operations.

    Burnside's lemma (Burnside 1897, Theory of Groups of Finite Order; Frobenius 1887).
    """
    return sum(g.fixed() for g in group) // len(group)


# Properties. Each function maps truth tables (..., 9) to bool (...) and raises InputError for other values. Its
# docstring states the property and how many operations have it.


def _grid(tables: Tensor) -> Tensor:
    """Classes 0, 1, 2 of the entries: int64 (M, 3, 3), rows a, columns b."""
    return (space.check_operations(tables).long() + 1).reshape(-1, VALUES, VALUES)


def _like(tables: Tensor, values: Tensor) -> Tensor:
    """Values (M,) in the shape (...) of the tables (..., 9)."""
    return values.reshape(tables.shape[:-1])


def _classes(tables: Tensor) -> Tensor:
    return torch.arange(VALUES, device=tables.device)


def commutative(tables: Tensor) -> Tensor:
    """f(a, b) = f(b, a). 3^6 (https://oeis.org/A023813)."""
    f = _grid(tables)
    return _like(tables, (f == f.mT).all((1, 2)))


def associative(tables: Tensor) -> Tensor:
    """f(f(a, b), c) = f(a, f(b, c)): a semigroup (https://oeis.org/A023814)."""
    f = _grid(tables)
    pairs = f.flatten(1)  # f(a, b), or f(b, c)
    first = f.gather(1, pairs[:, :, None].expand(-1, -1, VALUES))  # (M, ab, c)
    second = f.gather(2, pairs[:, None, :].expand(-1, VALUES, -1))  # (M, a, bc)
    return _like(tables, (first.flatten(1) == second.flatten(1)).all(1))


def idempotent(tables: Tensor) -> Tensor:
    """f(a, a) = a. 3^6 (https://oeis.org/A090588)."""
    diagonal = _grid(tables).diagonal(dim1=1, dim2=2)
    return _like(tables, (diagonal == _classes(tables)).all(1))


def has_identity(tables: Tensor) -> Tensor:
    """An e with f(e, a) = f(a, e) = a for every a: a unital groupoid. 3 · 3^4, because there is at most one e."""
    f, a = _grid(tables), _classes(tables)
    return _like(tables, ((f == a).all(2) & (f.mT == a).all(2)).any(1))


def has_absorbing(tables: Tensor) -> Tensor:
    """An e with f(e, a) = f(a, e) = e for every a: a zero element. 3 · 3^4."""
    f, e = _grid(tables), _classes(tables)[:, None]
    return _like(tables, ((f == e).all(2) & (f.mT == e).all(2)).any(1))


def quasigroup(tables: Tensor) -> Tensor:
    """Each value once in every row and column: a Latin square. 12 (https://oeis.org/A002860)."""
    f, values = _grid(tables), _classes(tables)
    rows, columns = f.sort(2).values, f.mT.sort(2).values
    return _like(tables, ((rows == values) & (columns == values)).all((1, 2)))


def conservative(tables: Tensor) -> Tensor:
    """f(a, b) is a or b (quasitrivial). 2^6."""
    f, values = _grid(tables), _classes(tables)
    return _like(tables, ((f == values) | (f == values[:, None])).all((1, 2)))


def monotone(tables: Tensor) -> Tensor:
    """Increasing in a and in b, with -1 < 0 < +1. 175 (MacMahon 1916: plane partitions in a box 3 x 3 x 2)."""
    f = _grid(tables)
    return _like(tables, (f.diff(dim=1) >= 0).all((1, 2)) & (f.diff(dim=2) >= 0).all((1, 2)))


def regular(tables: Tensor) -> Tensor:
    """If 0 is read as unknown, a known result stays the same when an unknown argument becomes known.

    f is monotone in the order 0 < -1, 0 < +1 (Kleene 1952, Introduction to Metamathematics, section 64).
    """
    f = _grid(tables)
    kept = [(g[:, 1:2] == 1) | (g == g[:, 1:2]) for g in (f, f.mT)]
    return _like(tables, (kept[0] & kept[1].mT).all((1, 2)))


def preserves_classical(tables: Tensor) -> Tensor:
    """Arguments -1 and +1 give -1 or +1, as in all extensions of two-valued logic. 2^4 · 3^5."""
    return _like(tables, (_grid(tables)[:, ::2, ::2] != 1).all((1, 2)))


def self_dual(tables: Tensor) -> Tensor:
    """f(-a, -b) = -f(a, b). 3^4."""
    f = _grid(tables)
    return _like(tables, (f.flip(1, 2) == 2 - f).all((1, 2)))


PREDICATES: dict[str, Callable[[Tensor], Tensor]] = {
    predicate.__name__: predicate
    for predicate in (
        commutative, associative, idempotent, has_identity, has_absorbing, quasigroup, conservative, monotone, regular,
        preserves_classical, self_dual,
    )
}
"""The properties by name."""

DEPENDENCE = ("constant", "a", "b", "both")


def dependence(tables: Tensor) -> Tensor:
    """The arguments that f depends on, as a position in `DEPENDENCE`: int64 (...). 3, 24, 24 and 19,632 operations."""
    f = _grid(tables)
    on_a, on_b = (f != f[:, :1]).any(2).any(1), (f != f[:, :, :1]).any(2).any(1)
    return _like(tables, on_a + 2 * on_b.long())


def properties() -> pd.DataFrame:
    """A table of all operations and their properties: N rows, the row number is the operation index.

    | column | type | meaning |
    |---|---|---|
    | those of `PREDICATES` | bool | the function of that name |
    | depends_on | category | constant, a, b, both: the arguments that the result depends on |
    | zeros | int | number of entries that are 0, 0..9 |
    | values | int | number of different results, 1..3 |
    | automorphisms | int | number of relabellings α = β = γ that do not change the operation: 1, 2, 3 or 6 |
    | isomorphism_class, isotopy_class | int | smallest index in the orbit |
    """
    tables = space.operations()
    classes = {name: orbits(GROUPS[name]) for name in ("isomorphism", "isotopy")}
    present = one_hot(tables.long() + 1, VALUES).any(1)
    fixed = images(GROUPS["isomorphism"]) == torch.arange(SIZE)
    columns = {
        **{name: predicate(tables).numpy() for name, predicate in PREDICATES.items()},
        "depends_on": pd.Categorical.from_codes(dependence(tables).tolist(), categories=pd.Index(DEPENDENCE)),
        "zeros": (tables == 0).sum(1).numpy(),
        "values": present.sum(1).numpy(),
        "automorphisms": fixed.sum(0).numpy(),
        **{f"{name}_class": orbit.numpy() for name, orbit in classes.items()},
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(SIZE, name="operation"))

"""Symmetries, orbits and algebraic properties of the operations.

f(a, b) is the entry of a truth table in row a and column b (`space` defines the order). α, β and γ are permutations of
{-1, 0, +1}, and N is the number of operations. A symmetry g maps f to

    g f (a, b) = γ( f( α⁻¹ a, β⁻¹ b ) )            or, with a swap,  γ( f( β⁻¹ b, α⁻¹ a ) )

    isomorphism   α = β = γ                         Harrison 1966, https://doi.org/10.1090/S0002-9939-1966-0200219-9
    isotopy       α, β, γ independent               Albert 1943, https://doi.org/10.2307/1990259

An orbit is a set of operations that the symmetries of a group map to each other. The sizes of all orbits add up to N.
Paratopy also exchanges a or b with the result. Such an exchange is defined for Latin squares only, so paratopy is not a
symmetry of the space.
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
"""The images of -1, 0 and +1."""
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
    """A symmetry of the space of operations.

    It relabels a by `left` (α), b by `right` (β) and the result by `output` (γ). If `swap` is true, a and b are
    exchanged first. Raises InputError if `left`, `right` or `output` is not a permutation of -1, 0, +1.
    """

    left: Permutation = IDENTITY
    right: Permutation = IDENTITY
    output: Permutation = IDENTITY
    swap: bool = False

    def __post_init__(self) -> None:
        for permutation in (self.left, self.right, self.output):
            if permutation not in PERMUTATIONS:
                raise InputError(f"left, right and output must be permutations of -1, 0 and +1, got {permutation}")

    @property
    def source(self) -> list[int]:
        """For each of the nine entries of g f, return the index of the entry of f whose value γ relabels."""
        pairs = product(_inverse(self.left), _inverse(self.right))
        return [3 * (y + 1) + x + 1 if self.swap else 3 * (x + 1) + y + 1 for x, y in pairs]

    def __call__(self, tables: Tensor) -> Tensor:
        """Return the images, float32 (..., 9), of truth tables (..., 9). Raises InputError for invalid tables."""
        classes = space.check_operations(tables)[..., self.source].long() + 1
        return torch.tensor(self.output, dtype=torch.float32, device=classes.device)[classes]

    def __matmul__(self, first: Symmetry) -> Symmetry:
        """Return the symmetry that applies `first` and then this symmetry: (h @ g) f = h (g f)."""
        # If a relabelling and a swap change their order, the relabellings of a and b are exchanged.
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
        """Return the number of operations with g f = f, without listing these operations.

        g moves the entries of a table in cycles. If g f = f, the value of one entry determines the values of all
        entries in its cycle. In a cycle of l entries, γ^l must leave this value unchanged
        (de Bruijn 1959, https://doi.org/10.1016/S1385-7258(59)50008-0).
        """
        count, remaining, source = 1, set(range(ENTRIES)), self.source
        while remaining:
            start = entry = min(remaining)
            power = IDENTITY
            while entry in remaining:
                remaining.remove(entry)
                entry, power = source[entry], _after(self.output, power)
            assert entry == start  # This holds because `source` is a permutation.
            count *= sum(value == image for value, image in zip(IDENTITY, power, strict=True))
        return count


Group: TypeAlias = Sequence[Symmetry]
"""A group, given by the sequence of all its elements."""


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

`swap` exchanges a and b. `negation` negates a, b and the result independently. The literature gives these numbers of
orbits: isomorphism 3,330 (https://oeis.org/A001329), isomorphism and swap 1,734 (anti-isomorphism,
https://oeis.org/A001424), isotopy 139 (matrices up to permutations of rows, columns and symbols,
https://oeis.org/A091060).
"""


def images(group: Group) -> Tensor:
    """Return the operation index of g f for every g of the group G and every f, as int64 (|G|, N)."""
    # The index of an image is linear in the one-hot entries of f. So one matrix product suffices; float64 is exact.
    entries = one_hot(space.operations().long() + 1, VALUES).reshape(SIZE, -1).double()
    weights = torch.zeros(len(group), ENTRIES, VALUES, dtype=torch.float64)
    powers = (VALUES ** torch.arange(ENTRIES)).double()
    for row, g in zip(weights, group, strict=True):
        row[g.source] = powers[:, None] * (torch.tensor(g.output) + 1)
    return (weights.flatten(1) @ entries.T).long()


def orbits(group: Group) -> Tensor:
    """Return the smallest index in the orbit of each operation, as int64 (N,)."""
    return images(group).amin(0)


def orbit_sizes(group: Group) -> Tensor:
    """Return the size of each orbit as int64 (orbits,).

    The orbits have the order of their smallest indices. Each size divides the number of symmetries in the group.
    """
    sizes: Tensor = torch.unique(orbits(group), return_counts=True)[1]
    return sizes


def orbit_count(group: Group) -> int:
    """Return the number of orbits, without listing operations.

    By Burnside's lemma, the number of orbits is the mean number of operations that a symmetry of the group fixes
    (Burnside 1897, Theory of Groups of Finite Order; Frobenius 1887).
    """
    return sum(g.fixed() for g in group) // len(group)


# Properties. Each function maps truth tables (..., 9) to bool (...) and raises InputError for invalid tables. Its
# docstring states the property and the number of operations that have the property.


def _grid(tables: Tensor) -> Tensor:
    """Return the classes 0, 1, 2 of the entries of M tables, as int64 (M, 3, 3) with a row per a and a column per b."""
    return (space.check_operations(tables).long() + 1).reshape(-1, VALUES, VALUES)


def _like(tables: Tensor, values: Tensor) -> Tensor:
    """Reshape values (M,) to the shape (...) of the tables (..., 9)."""
    return values.reshape(tables.shape[:-1])


def _classes(tables: Tensor) -> Tensor:
    return torch.arange(VALUES, device=tables.device)


def commutative(tables: Tensor) -> Tensor:
    """Return whether f(a, b) = f(b, a). There are 3^6 such operations (https://oeis.org/A023813)."""
    f = _grid(tables)
    return _like(tables, (f == f.mT).all((1, 2)))


def associative(tables: Tensor) -> Tensor:
    """Return whether f(f(a, b), c) = f(a, f(b, c)).

    There are 113 such operations (https://oeis.org/A023814). They are semigroups.
    """
    f = _grid(tables)
    pairs = f.flatten(1)  # f(a, b), or f(b, c)
    first = f.gather(1, pairs[:, :, None].expand(-1, -1, VALUES))  # (M, ab, c)
    second = f.gather(2, pairs[:, None, :].expand(-1, VALUES, -1))  # (M, a, bc)
    return _like(tables, (first.flatten(1) == second.flatten(1)).all(1))


def idempotent(tables: Tensor) -> Tensor:
    """Return whether f(a, a) = a. There are 3^6 such operations (https://oeis.org/A090588)."""
    diagonal = _grid(tables).diagonal(dim1=1, dim2=2)
    return _like(tables, (diagonal == _classes(tables)).all(1))


def has_identity(tables: Tensor) -> Tensor:
    """Return whether there is an identity element e, with f(e, a) = f(a, e) = a for every a.

    There are 3 · 3^4 such operations, because an operation has at most one identity element. They are unital groupoids.
    """
    f, a = _grid(tables), _classes(tables)
    return _like(tables, ((f == a).all(2) & (f.mT == a).all(2)).any(1))


def has_absorbing(tables: Tensor) -> Tensor:
    """Return whether there is an absorbing element e, with f(e, a) = f(a, e) = e for every a.

    There are 3 · 3^4 = 243 such operations. An absorbing element is also called a zero element.
    """
    f, e = _grid(tables), _classes(tables)[:, None]
    return _like(tables, ((f == e).all(2) & (f.mT == e).all(2)).any(1))


def quasigroup(tables: Tensor) -> Tensor:
    """Return whether each value occurs once in every row and every column, as in a Latin square.

    There are 12 such operations (https://oeis.org/A002860).
    """
    f, values = _grid(tables), _classes(tables)
    rows, columns = f.sort(2).values, f.mT.sort(2).values
    return _like(tables, ((rows == values) & (columns == values)).all((1, 2)))


def conservative(tables: Tensor) -> Tensor:
    """Return whether f(a, b) is always a or b (also called quasitrivial). There are 2^6 such operations."""
    f, values = _grid(tables), _classes(tables)
    return _like(tables, ((f == values) | (f == values[:, None])).all((1, 2)))


def monotone(tables: Tensor) -> Tensor:
    """Return whether f never decreases when a or b increases, with -1 < 0 < +1.

    There are 175 such operations (MacMahon 1916: plane partitions in a box 3 x 3 x 2).
    """
    f = _grid(tables)
    return _like(tables, (f.diff(dim=1) >= 0).all((1, 2)) & (f.diff(dim=2) >= 0).all((1, 2)))


def regular(tables: Tensor) -> Tensor:
    """Return whether f is monotone in the order 0 < -1, 0 < +1.

    Let 0 mean unknown. Then a known result stays the same when an unknown argument becomes known (Kleene 1952,
    Introduction to Metamathematics, section 64). There are 197 such operations.
    """
    f = _grid(tables)
    kept = [(g[:, 1:2] == 1) | (g == g[:, 1:2]) for g in (f, f.mT)]
    return _like(tables, (kept[0] & kept[1].mT).all((1, 2)))


def preserves_classical(tables: Tensor) -> Tensor:
    """Return whether f(a, b) is -1 or +1 for all arguments a and b in {-1, +1}.

    All extensions of two-valued logic have this property. There are 2^4 · 3^5 such operations.
    """
    return _like(tables, (_grid(tables)[:, ::2, ::2] != 1).all((1, 2)))


def self_dual(tables: Tensor) -> Tensor:
    """Return whether f(-a, -b) = -f(a, b). There are 3^4 such operations."""
    f = _grid(tables)
    return _like(tables, (f.flip(1, 2) == 2 - f).all((1, 2)))


PREDICATES: dict[str, Callable[[Tensor], Tensor]] = {
    predicate.__name__: predicate
    for predicate in (
        commutative, associative, idempotent, has_identity, has_absorbing, quasigroup, conservative, monotone, regular,
        preserves_classical, self_dual,
    )
}
"""The functions of the properties by name."""


def meaning(name: str) -> str:
    """Return the definition of a property in `PREDICATES` as words: the first sentence of its function's docstring."""
    first = (PREDICATES[name].__doc__ or "").splitlines()[0].split(". ")[0]
    return first.removeprefix("Return whether ").rstrip(".")


DEPENDENCE = ("constant", "a", "b", "both")


def dependence(tables: Tensor) -> Tensor:
    """Return the arguments on which f depends, as an index int64 (...) into `DEPENDENCE`.

    The four values hold for 3, 24, 24 and 19,632 operations.
    """
    f = _grid(tables)
    on_a, on_b = (f != f[:, :1]).any(2).any(1), (f != f[:, :, :1]).any(2).any(1)
    return _like(tables, on_a + 2 * on_b.long())


def properties() -> pd.DataFrame:
    """Return a table of the properties of all operations. It has N rows, and the row number is the operation index.

    | column | type | meaning |
    |---|---|---|
    | the names in `PREDICATES` | bool | the function of that name |
    | depends_on | category | constant, a, b, both: the arguments on which the result depends |
    | zeros | int | number of entries that are 0; 0..9 |
    | values | int | number of different results; 1..3 |
    | automorphisms | int | number of relabellings α = β = γ that do not change the operation: 1, 2, 3 or 6 |
    | isomorphism_class, isotopy_class | int | smallest operation index in the orbit under this group |
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

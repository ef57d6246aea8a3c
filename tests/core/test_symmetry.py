"""Tests of symmetries, orbits and properties of operations against loops over all arguments."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ternary_lab import InputError, space, symmetry
from ternary_lab.symmetry import GROUPS, PERMUTATIONS, Symmetry

VALUES = (-1, 0, 1)
SYMMETRIES = st.builds(
    Symmetry, st.sampled_from(PERMUTATIONS), st.sampled_from(PERMUTATIONS), st.sampled_from(PERMUTATIONS), st.booleans()
)
OPERATIONS = st.integers(0, space.SIZE - 1)
Op = dict[tuple[int, int], int]


def _op(index: int) -> Op:
    table = space.operations(torch.tensor([index]))[0].int().tolist()
    return {(a, b): table[3 * i + j] for i, a in enumerate(VALUES) for j, b in enumerate(VALUES)}


def _index(op: Op) -> int:
    return int(space.index_of(torch.tensor([float(op[pair]) for pair in product(VALUES, VALUES)])))


def _image(g: Symmetry, op: Op) -> Op:
    """Return the image g f of an operation f by the definition g f(α a, β b) = γ f(a, b).

    If g has a swap, the definition is g f(α b, β a) = γ f(a, b). α, β and γ are g.left, g.right and g.output.
    """
    left, right, output = (dict(zip(VALUES, p, strict=True)) for p in (g.left, g.right, g.output))
    image: Op = {}
    for (a, b), value in op.items():
        place = (left[b], right[a]) if g.swap else (left[a], right[b])
        image[place] = output[value]
    return image


@given(SYMMETRIES, OPERATIONS)
def test_a_symmetry_follows_its_definition(g: Symmetry, index: int) -> None:
    assert _index(_image(g, _op(index))) == int(space.index_of(g(space.operations(torch.tensor([index]))))[0])


@given(SYMMETRIES, SYMMETRIES, OPERATIONS)
def test_products_act_one_after_the_other(h: Symmetry, g: Symmetry, index: int) -> None:
    table = space.operations(torch.tensor([index]))
    assert torch.equal((h @ g)(table), h(g(table)))


@given(SYMMETRIES, OPERATIONS)
def test_the_inverse_undoes(g: Symmetry, index: int) -> None:
    table = space.operations(torch.tensor([index]))
    assert torch.equal(g.inverse(g(table)), table)
    assert g.inverse @ g == Symmetry() == g @ g.inverse


@given(SYMMETRIES)
def test_the_number_of_fixed_operations_equals_a_listing(g: Symmetry) -> None:
    listed = symmetry.images([g])[0] == torch.arange(space.SIZE)
    assert g.fixed() == int(listed.sum())


@pytest.mark.parametrize("name", GROUPS)
def test_the_groups_are_groups(name: str) -> None:
    elements = set(GROUPS[name])
    assert len(elements) == len(GROUPS[name])
    assert Symmetry() in elements
    some = list(elements)[:: max(1, len(elements) // 20)]
    assert all(h @ g in elements for h in some for g in some)
    assert all(g.inverse in elements for g in elements)


@pytest.mark.parametrize(("name", "count"), [
    ("isomorphism", 3330), ("isomorphism and swap", 1734), ("isotopy", 139),  # OEIS A001329, A001424, A091060
    ("swap", (3**9 + 3**6) // 2), ("negation", 2690), ("isotopy and swap", 84),
])
def test_orbits_counted_and_listed(name: str, count: int) -> None:
    sizes = symmetry.orbit_sizes(GROUPS[name])
    assert symmetry.orbit_count(GROUPS[name]) == len(sizes) == count
    assert int(sizes.sum()) == space.SIZE
    assert all(len(GROUPS[name]) % int(size) == 0 for size in sizes)


@pytest.mark.parametrize("name", ["swap", "isomorphism", "isotopy"])
def test_an_orbit_is_closed_and_named_by_its_smallest(name: str) -> None:
    names, images = symmetry.orbits(GROUPS[name]), symmetry.images(GROUPS[name])
    assert (names[images] == names).all()
    assert (names[names] == names).all()
    assert (names <= torch.arange(space.SIZE)).all()


@pytest.mark.parametrize("wrong", [(0, 0, 1), (1, 2, 3), (-1, 0), (-1, 0, 1, 1)])
def test_other_values_than_permutations_are_refused(wrong: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="permutations"):
        Symmetry(left=wrong)  # type: ignore[arg-type]


def test_other_values_than_truth_tables_are_refused() -> None:
    for wrong in (torch.full((9,), 2.0), torch.zeros(8)):
        for call in (Symmetry(), symmetry.commutative, symmetry.dependence):
            with pytest.raises(InputError):
                call(wrong)


ORACLES: dict[str, Callable[[Op], bool]] = {
    "commutative": lambda f: all(f[a, b] == f[b, a] for a, b in f),
    "associative": lambda f: all(f[f[a, b], c] == f[a, f[b, c]] for a, b, c in product(VALUES, repeat=3)),
    "idempotent": lambda f: all(f[a, a] == a for a in VALUES),
    "has_identity": lambda f: any(all(f[e, a] == a == f[a, e] for a in VALUES) for e in VALUES),
    "has_absorbing": lambda f: any(all(f[e, a] == e == f[a, e] for a in VALUES) for e in VALUES),
    "quasigroup": lambda f: all(len({f[a, b] for b in VALUES}) == 3 == len({f[b, a] for b in VALUES}) for a in VALUES),
    "conservative": lambda f: all(f[a, b] in (a, b) for a, b in f),
    "monotone": lambda f: all(f[a, b] <= f[c, d] for a, b in f for c, d in f if a <= c and b <= d),
    "regular": lambda f: all(
        f[a, b] in (0, f[c, d]) for a, b in f for c, d in f if a in (0, c) and b in (0, d)
    ),
    "preserves_classical": lambda f: all(f[a, b] != 0 for a, b in f if a != 0 != b),
    "self_dual": lambda f: all(f[-a, -b] == -f[a, b] for a, b in f),
}


def test_every_property_has_an_oracle() -> None:
    assert set(ORACLES) == set(symmetry.PREDICATES)


@pytest.mark.parametrize("name", ORACLES)
def test_a_property_equals_its_oracle(name: str) -> None:
    tables = space.operations()
    found = symmetry.PREDICATES[name](tables)
    # These are operations with the property (at most 1,500), and a sample of all operations.
    chosen = {*torch.nonzero(found).flatten().tolist()[:1500], *range(0, space.SIZE, 13)}
    for index in chosen:
        assert bool(found[index]) == ORACLES[name](_op(index)), index


@pytest.mark.parametrize(("name", "count"), [
    ("commutative", 3**6), ("associative", 113), ("idempotent", 3**6), ("has_identity", 3**5), ("quasigroup", 12),
    ("conservative", 2**6), ("monotone", 175), ("preserves_classical", 2**4 * 3**5), ("self_dual", 3**4),
])
def test_the_numbers_known_from_counting(name: str, count: int) -> None:
    assert int(symmetry.PREDICATES[name](space.operations()).sum()) == count


def test_results_have_the_shape_of_the_tables() -> None:
    tables = space.operations()[:24].reshape(2, 3, 4, 9)
    assert symmetry.commutative(tables).shape == (2, 3, 4)
    assert symmetry.dependence(tables[0, 0, 0]).shape == ()


def test_the_table_of_properties() -> None:
    table = symmetry.properties()
    assert len(table) == space.SIZE
    assert table["depends_on"].value_counts().to_dict() == {"both": 19632, "a": 24, "b": 24, "constant": 3}
    assert table["values"].value_counts().to_dict() == {3: 18150, 2: 1530, 1: 3}
    assert table["isomorphism_class"].nunique() == 3330
    assert table["isotopy_class"].nunique() == 139
    # By the orbit-stabiliser theorem, size of the orbit times number of automorphisms is the order of the group.
    size = table.groupby("isomorphism_class")["zeros"].transform("size")
    assert (size * table["automorphisms"] == 6).all()


def test_each_property_has_a_definition_of_one_line() -> None:
    found = {name: symmetry.meaning(name) for name in symmetry.PREDICATES}
    assert found["commutative"] == "f(a, b) = f(b, a)"
    assert found["self_dual"] == "f(-a, -b) = -f(a, b)"
    assert len(set(found.values())) == len(found)
    assert all(0 < len(words) <= 100 and "There are" not in words for words in found.values())

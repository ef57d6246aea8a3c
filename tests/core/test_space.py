"""Tests of the space of operations.

Indices and truth tables are inverse to each other, a split is a partition, and named operations have the right tables.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ternary_lab import InputError, space
from ternary_lab.space import ENTRIES, SIZE


def test_index_and_operation_are_inverse_over_the_whole_space() -> None:
    tables = space.operations()
    assert tables.shape == (19_683, 9)
    assert tables.dtype == torch.float32
    assert torch.equal(space.index_of(tables), torch.arange(SIZE))
    assert len({tuple(row) for row in tables.tolist()}) == SIZE


def test_operations_follow_the_formula() -> None:
    tables = space.operations().tolist()
    assert all(tables[i] == [i // 3**k % 3 - 1 for k in range(ENTRIES)] for i in range(SIZE))


@given(st.lists(st.integers(0, SIZE - 1), max_size=20), st.sampled_from([torch.int16, torch.int32, torch.int64]))
def test_any_shape_and_integer_type_of_indices(indices: list[int], dtype: torch.dtype) -> None:
    grid = torch.tensor([indices, indices], dtype=dtype)
    tables = space.operations(grid)
    assert tables.shape == (2, len(indices), 9)
    assert torch.equal(space.index_of(tables), grid.long())


@pytest.mark.parametrize("seed", [42, 0, 7])
def test_the_split_is_the_stated_permutation_cut_in_three(seed: int) -> None:
    split = space.split(seed)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [15_746, 1_968, 1_969]
    order = torch.cat([split.train, split.validation, split.test])
    assert torch.equal(order, torch.randperm(SIZE, generator=torch.Generator().manual_seed(seed)))
    assert torch.equal(order.sort().values, torch.arange(SIZE))


@given(st.floats(0.001, 0.9), st.floats(0.001, 0.099))
def test_every_split_is_a_partition(train: float, validation: float) -> None:
    split = space.split(1, train, validation)
    assert (len(split.train), len(split.validation)) == (int(SIZE * train), int(SIZE * validation))
    assert torch.equal(torch.cat([split.train, split.validation, split.test]).sort().values, torch.arange(SIZE))


# The rows are a = -1, 0, +1 and the columns are b = -1, 0, +1. The truth values F, U, T are written -, 0, +.
TABLES = {
    "min (Kleene and)": "--- -00 -0+",
    "max (Kleene or)": "-0+ 00+ +++",
    "Kleene implication": "+++ 00+ -0+",
    "Łukasiewicz implication": "+++ 0++ -0+",
    "Gödel implication": "+++ -++ -0+",
    "sum mod 3": "+-0 -0+ 0+-",
    "product": "+0- 000 -0+",
    "consensus": "-00 000 00+",
    "projection a": "--- 000 +++",
    "projection b": "-0+ -0+ -0+",
}


def test_named_logics_have_their_truth_tables() -> None:
    value = {"-": -1.0, "0": 0.0, "+": 1.0}
    named = space.named()
    assert named.keys() == TABLES.keys()
    for name, text in TABLES.items():
        expected = [value[letter] for letter in text.replace(" ", "")]
        assert space.operations(torch.tensor(named[name])).tolist() == expected, name


BAD_TABLES = {
    "other value": torch.full((2, 9), 2.0),
    "between": torch.full((9,), 0.5),
    "nan": torch.full((9,), float("nan")),
    "inf": torch.full((9,), float("inf")),
    "bool": torch.ones(9, dtype=torch.bool),
    "complex": torch.ones(9, dtype=torch.complex64),
    "eight entries": torch.zeros(3, 8),
    "transposed": torch.zeros(9, 3),
    "scalar": torch.tensor(0.0),
    "list": [0] * 9,
    "none": None,
}


@pytest.mark.parametrize("tables", BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_other_values_than_truth_tables_are_refused(tables: torch.Tensor) -> None:
    with pytest.raises(InputError, match="operation"):
        space.index_of(tables)


@given(arrays.arrays(np.float32, 9, elements=st.floats(-2, 2, width=32) | st.sampled_from([-1.0, 0.0, 1.0])))
def test_a_table_has_an_index_exactly_when_its_entries_are_ternary(values: np.ndarray) -> None:
    table = torch.from_numpy(values)
    if set(values.tolist()) <= {-1.0, 0.0, 1.0}:
        assert torch.equal(space.operations(space.index_of(table)), table)
    else:
        with pytest.raises(InputError, match="must be -1, 0 or"):
            space.index_of(table)


@pytest.mark.parametrize(
    "indices",
    [torch.tensor([SIZE]), torch.tensor([-1]), torch.tensor([1.0]), torch.tensor([True]), torch.tensor(1j), [1]],
    ids=["too large", "negative", "float", "bool", "complex", "list"],
)
def test_other_values_than_indices_are_refused(indices: torch.Tensor) -> None:
    with pytest.raises(InputError, match="indices"):
        space.operations(indices)


def test_a_function_that_leaves_the_space_is_refused() -> None:
    with pytest.raises(InputError, match="got -2"):
        space.from_function(lambda a, b: a + b)

"""Tests of paths between codes against slow, simple references."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ternary_lab import load_run, space
from ternary_lab.errors import InputError
from ternary_lab.studies.generalisation import paths

VECTOR = st.lists(st.floats(-8, 8, width=32), min_size=4, max_size=4).map(torch.tensor)


@given(VECTOR, VECTOR, st.integers(2, 30))
def test_every_path_leads_from_one_end_to_the_other(a: torch.Tensor, b: torch.Tensor, steps: int) -> None:
    for path in paths.PATHS.values():
        z = path(a, b, steps)
        assert z.shape == (steps, 4)
        torch.testing.assert_close(z[0], a, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(z[-1], b, atol=1e-4, rtol=1e-4)


@given(VECTOR, VECTOR)
def test_a_spherical_path_turns_evenly_and_changes_its_length_evenly(a: torch.Tensor, b: torch.Tensor) -> None:
    a, b = a.double(), b.double()
    if min(a.norm(), b.norm()) < 1e-2:
        return
    cosine = float(torch.dot(a, b) / a.norm() / b.norm())
    if abs(cosine) > 0.999:
        return
    z = paths.spherical(a, b, 9)
    torch.testing.assert_close(z.norm(dim=1), torch.linspace(float(a.norm()), float(b.norm()), 9).double())
    unit = z / z.norm(dim=1, keepdim=True)
    even = torch.full((8,), math.cos(math.acos(cosine) / 8), dtype=torch.float64)
    torch.testing.assert_close((unit[1:] * unit[:-1]).sum(1), even)


def test_where_there_is_no_great_circle_the_spherical_path_is_straight() -> None:
    a = torch.tensor([1.0, 2.0])
    for b in (3 * a, -a, torch.zeros(2)):
        torch.testing.assert_close(paths.spherical(a, b, 5), paths.straight(a, b, 5))


@pytest.mark.parametrize(("a", "b", "steps"), [
    (torch.zeros(2), torch.zeros(3), 5), (torch.zeros(2, 2), torch.zeros(2, 2), 5), (torch.ones(2), torch.ones(2), 1),
    (torch.ones(2), torch.ones(2), True),
])
def test_invalid_paths_are_refused(a: torch.Tensor, b: torch.Tensor, steps: int) -> None:
    for path in paths.PATHS.values():
        with pytest.raises(InputError):
            path(a, b, steps)


def test_a_walk_equals_decoding_each_step() -> None:
    model = load_run("v5_5/seed=42").model(100)
    ends = (15633, 19569)
    z = paths.straight(*model.encode(space.operations(torch.tensor(ends)), "B").mean, 21)
    found = paths.walk(model, "B", z, ends)
    changed = 0
    for step in range(21):
        q = torch.softmax(model.decode(z[step], "B"), -1)
        table = q.argmax(-1) - 1
        assert int(space.index_of(table.float())) == int(found.operations[step])
        assert math.isclose(float(q.max(-1).values.prod().log()), float(found.log_probability[step]), abs_tol=1e-4)
        for which, end in enumerate(ends):
            classes = (space.operations(torch.tensor(end)) + 1).long()
            p = float(torch.stack([q[k, c] for k, c in enumerate(classes)]).log().sum())
            assert math.isclose(p, float(found.target_log_probability[which, step]), abs_tol=1e-3)
        if step and int(found.operations[step]) != int(found.operations[step - 1]):
            changed += 1
            assert step in found.changes
    assert len(found.changes) == changed > 0
    assert found.operations[0] == ends[0]
    assert found.operations[-1] == ends[1]
    assert found.entries_changed >= int((space.operations(torch.tensor(ends)).diff(dim=0) != 0).sum())

"""Tests of codes, probabilities, projections and paths against slow, simple references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ternary_lab import load_run, space
from ternary_lab.errors import InputError, RunError
from ternary_lab.explorer import drawing
from ternary_lab.explorer.codes_by_epoch import CodesByEpoch
from ternary_lab.explorer.projection import Projection, dimensions, pca, principal_directions
from ternary_lab.model import PATHWAYS, Pathway
from ternary_lab.studies.generalisation import paths

VECTOR = st.lists(st.floats(-8, 8, width=32), min_size=4, max_size=4).map(torch.tensor)


@pytest.fixture(scope="module")
def codes() -> CodesByEpoch:
    return CodesByEpoch(load_run("v5_5/seed=42"))


# Paths


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


def test_a_walk_equals_decoding_each_step(codes: CodesByEpoch) -> None:
    snapshot = codes[100]
    ends = (15633, 19569)
    z = paths.straight(*(snapshot.mu[1, i] for i in ends), 21)
    found = paths.walk(snapshot.model, "B", z, ends)
    changed = 0
    for step in range(21):
        q = torch.softmax(snapshot.model.decode(z[step], "B"), -1)
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


# Confusion


def test_the_decoded_distribution_is_the_mean_of_products(codes: CodesByEpoch) -> None:
    model = codes[50].model
    z = torch.randn(5, model.latent_dim, generator=torch.Generator().manual_seed(1))
    p = codes[50].output_distribution(z, "A")
    assert math.isclose(float(p.sum()), 1, abs_tol=1e-9)
    q = torch.softmax(model.decode(z, "A").double(), -1)
    for index in (0, 1, 242, 243, 9841, 19682):
        classes = (space.operations(torch.tensor(index)) + 1).long()
        slow = np.mean([math.prod(float(q[m, k, classes[k]]) for k in range(9)) for m in range(5)])
        assert math.isclose(float(p[index]), slow, rel_tol=1e-9)


@pytest.mark.parametrize("pathway", PATHWAYS)
def test_an_operation_is_not_confused_with_itself(codes: CodesByEpoch, pathway: Pathway) -> None:
    found = codes[49].confused_with(pathway, 15633, 5)
    assert 15633 not in dict(found)
    chances = [p for _, p in found]
    assert chances == sorted(chances, reverse=True)
    assert found == codes[49].confused_with(pathway, 15633, 5)


# Planes


def test_principal_directions_are_those_of_the_singular_value_decomposition() -> None:
    spread = torch.diag(torch.tensor([5.0, 3, 2, 1, 0.5, 0.1]))
    mu = torch.randn(300, 6, generator=torch.Generator().manual_seed(0)) @ spread
    directions, deviations = principal_directions(mu, 4)
    _, s, vh = np.linalg.svd((mu - mu.mean(0)).numpy(), full_matrices=False)
    np.testing.assert_allclose(deviations.numpy(), s[:4] / math.sqrt(300), rtol=1e-5)
    np.testing.assert_allclose(np.abs((directions.numpy() * vh[:4]).sum(1)), 1, rtol=1e-5)


def test_a_rotated_plane_can_be_rotated_back() -> None:
    plane = pca(torch.randn(500, 5, generator=torch.Generator().manual_seed(2)))
    angle = torch.tensor(0.7)
    turn = torch.tensor([[torch.cos(angle), -torch.sin(angle)], [torch.sin(angle), torch.cos(angle)]])
    for change in (turn, turn @ torch.diag(torch.tensor([1.0, -1.0]))):
        moved = Projection(plane.points @ change, plane.scale, plane.axes)
        back = moved.rotated_to(plane)
        torch.testing.assert_close(back.points, plane.points, atol=1e-5, rtol=1e-5)
        assert back.axes != plane.axes  # the axes are named as rotated
    assert plane.rotated_to(plane).axes == plane.axes


def test_a_plane_covers_nearly_all_points_in_its_own_units() -> None:
    mu = 40 * torch.randn(2000, 5, generator=torch.Generator().manual_seed(3))
    for plane in (pca(mu), dimensions(mu, 1, 4)):
        assert 0.985 < float((plane.points.abs() <= 1).all(1).float().mean()) < 1
    one = dimensions(mu, 1, 4)
    torch.testing.assert_close(one.points * one.scale, mu[:, [1, 4]] - mu[:, [1, 4]].mean(0))


def test_codes_that_are_all_the_same_have_a_plane() -> None:
    plane = pca(torch.ones(10, 3))
    assert plane.scale == 0
    assert bool((plane.points == 0).all())


def test_invalid_planes_are_refused(codes: CodesByEpoch) -> None:
    with pytest.raises(InputError, match="dimension"):
        dimensions(torch.ones(4, 3), 0, 3)
    with pytest.raises(InputError, match="at least 2"):
        pca(torch.ones(4, 1))
    with pytest.raises(InputError, match="tsne"):
        codes[50].plane("A", "tsne")


# Codes by epoch


def test_a_snapshot_agrees_with_the_model(codes: CodesByEpoch) -> None:
    snapshot = codes[49]
    some = torch.arange(0, space.SIZE, 97)
    x = space.operations(some)
    for i, pathway in enumerate(PATHWAYS):
        code = snapshot.model.encode(x, pathway)
        torch.testing.assert_close(snapshot.mu[i, some], code.mean, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(snapshot.sigma[i, some], code.std, atol=1e-5, rtol=1e-4)
        exact = (snapshot.model.reconstruct(x, 0.0, pathway) == x).all(1)
        assert bool((snapshot.reconstructed[i, some] == exact).all())
        log_q = torch.log_softmax(snapshot.model.decode(code.mean, pathway), -1)
        slow = log_q.gather(-1, (x + 1).long().unsqueeze(-1)).sum((1, 2))
        torch.testing.assert_close(snapshot.own_log_probability[i, some], slow, atol=1e-2, rtol=1e-4)


def test_probabilities_under_the_prior_sum_to_one(codes: CodesByEpoch) -> None:
    assert not codes[60].has_log_probability("A")
    assert math.isclose(float(codes[60].log_probability("A").double().exp().sum()), 1, abs_tol=1e-4)
    assert codes[60].has_log_probability("A")


def test_neighbours_are_the_nearest(codes: CodesByEpoch) -> None:
    mu = codes[100].mu[1]
    found = codes[100].neighbours("B", 77, 5)
    slow = sorted((float((mu[i] - mu[77]).norm()), i) for i in range(space.SIZE) if i != 77)[:5]
    assert [i for i, _ in found] == [i for _, i in slow]


def test_rotation_brings_the_planes_of_two_epochs_nearer(codes: CodesByEpoch) -> None:
    """After the rotation, the points are at least as near to the points of the last epoch as before."""
    last = codes.plane(100, "B", "pca").points
    for epoch in (49, 50, 90):
        raw, turned = codes[epoch].plane("B", "pca").points, codes.plane(epoch, "B", "pca").points
        assert float((turned - last).norm()) <= float((raw - last).norm()) + 1e-3
        torch.testing.assert_close(turned.norm(dim=1), raw.norm(dim=1), atol=1e-4, rtol=1e-4)


def test_an_epoch_without_weights_is_named(codes: CodesByEpoch) -> None:
    with pytest.raises(RunError, match="epoch 41"):
        codes[41]


def test_the_split_is_that_of_the_run(codes: CodesByEpoch) -> None:
    split = space.split(42)
    for name, part in (("train", split.train), ("validation", split.validation), ("test", split.test)):
        assert set(codes.properties.index[codes.properties["split"] == name]) == set(part.tolist())


def test_every_colouring_gives_each_operation_a_colour(codes: CodesByEpoch) -> None:
    for name, label in drawing.colourings(codes).items():
        paint = drawing.colouring(codes, 50, name)
        assert paint.label == label
        assert paint.values.shape == (space.SIZE,)
        top = len(paint.kinds) - 1 if paint.kinds else 1
        assert paint.values.min() >= 0
        assert paint.values.max() <= top
        if paint.kinds:
            assert len(paint.colours) == len(paint.kinds)
    with pytest.raises(InputError, match="cannot be coloured by 'nothing'"):
        drawing.colouring(codes, 50, "nothing")


def test_the_cursor_of_the_course_lies_at_its_epoch(codes: CodesByEpoch) -> None:
    course = drawing.draw_course(codes.history)
    course.figure.draw_without_rendering()
    axis = course.figure.axes[1]
    for epoch in (0, 49, 103):
        x = axis.transData.transform((epoch, 0))[0] / course.figure.bbox.width
        assert math.isclose(x, course.place(epoch), abs_tol=1e-3)

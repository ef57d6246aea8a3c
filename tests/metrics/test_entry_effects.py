"""Main effects of the entries on codes, against least squares and against codes whose effects are known."""

from __future__ import annotations

import pytest
import torch

from ternary_lab import space
from ternary_lab.errors import InputError
from ternary_lab.metrics.entry_effects import EntryEffects, entry_effects
from ternary_lab.space import ENTRIES, SIZE, VALUES


def some_codes(*shape: int, seed: int = 0) -> torch.Tensor:
    """Codes (*shape, N, 4) that depend on single entries, on pairs of entries, and on chance."""
    draw = torch.Generator().manual_seed(seed)
    x = space.one_hot(space.operations()).flatten(-2).double()
    alone = torch.randn(*shape, x.shape[1], 4, generator=draw, dtype=torch.float64)
    pairs = (x[:, :3, None] * x[:, None, 3:6]).flatten(-2)
    together = torch.randn(*shape, pairs.shape[1], 4, generator=draw, dtype=torch.float64)
    chance = torch.randn(*shape, SIZE, 4, generator=draw, dtype=torch.float64)
    return 3 + x @ alone + pairs @ together + 0.3 * chance


def test_the_effects_are_those_of_least_squares() -> None:
    mu = some_codes(2)
    found = entry_effects(mu)
    design = torch.cat([torch.ones(SIZE, 1), space.one_hot(space.operations()).flatten(-2)], 1).double()
    for i in range(2):
        # The design has 28 columns and rank 19. The effects of an entry are unique up to their sum, which is 0 here.
        solution = torch.linalg.lstsq(design, mu[i], driver="gelsd").solution
        torch.testing.assert_close(found.fitted()[i], design @ solution)
        coefficients = solution[1:].view(ENTRIES, VALUES, -1)
        torch.testing.assert_close(found.effects[i], coefficients - coefficients.mean(1, keepdim=True))
        residual = (mu[i] - design @ solution).square().sum()
        total = (mu[i] - mu[i].mean(0)).square().sum()
        torch.testing.assert_close(found.explained[i], 1 - residual / total)
        assert 0.3 < float(found.explained[i]) < 0.99


def test_each_effect_is_a_difference_of_means() -> None:
    mu = some_codes()
    found, x = entry_effects(mu), space.operations()
    torch.testing.assert_close(found.centre, mu.mean(0))
    for k in range(ENTRIES):
        for v in range(VALUES):
            torch.testing.assert_close(found.effects[k, v], mu[x[:, k] == v - 1].mean(0) - mu.mean(0))


def test_a_sum_of_one_vector_for_each_entry_is_explained_completely() -> None:
    draw = torch.Generator().manual_seed(1)
    effects = torch.randn(3, ENTRIES, VALUES, 16, generator=draw, dtype=torch.float64)
    effects -= effects.mean(2, keepdim=True)
    given = EntryEffects(torch.randn(3, 16, generator=draw, dtype=torch.float64), effects, torch.ones(3).double())
    found = entry_effects(given.fitted())
    torch.testing.assert_close(found.centre, given.centre)
    torch.testing.assert_close(found.effects, given.effects)
    torch.testing.assert_close(found.explained, given.explained)


def test_the_fitted_code_of_an_operation_is_the_sum_of_the_effects_of_its_values() -> None:
    found = entry_effects(some_codes(2, seed=2))
    fitted = found.fitted()
    for index in (0, 1, 3, 8019, 15665, SIZE - 1):
        values = (space.operations(torch.tensor(index)) + 1).long().tolist()
        total = found.centre + sum(found.effects[:, k, v] for k, v in enumerate(values))
        torch.testing.assert_close(fitted[:, index], total)


def test_steps_cosines_and_lengths_of_known_codes() -> None:
    # Entry k moves the code along axis k by its value times k + 1. Entry 1 also moves the code back along axis 0.
    moves = torch.diag(torch.arange(1.0, 10))
    moves[1, 0] = -1.5
    found = entry_effects(space.operations() @ moves)
    torch.testing.assert_close(found.steps, 2 * moves, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.lengths, 2 * torch.tensor([1, 2.5, 3, 4, 5, 6, 7, 8, 9]))
    torch.testing.assert_close(found.directions.norm(dim=-1), torch.ones(9))
    cosines = torch.eye(9)
    cosines[0, 1] = cosines[1, 0] = -1.5 / 2.5
    torch.testing.assert_close(found.cosines, cosines)
    torch.testing.assert_close(found.largest_cosine, torch.tensor(1.5 / 2.5))
    assert found.steps.dtype == torch.float32


def test_the_step_ignores_the_curvature_and_the_effects_keep_it() -> None:
    axis = torch.eye(3)[:1]
    found = entry_effects((space.operations()[:, 4:5] == 0).double() @ axis.double())
    torch.testing.assert_close(found.effects[4, :, 0], torch.tensor([-1, 2, -1]).double() / 3)
    torch.testing.assert_close(found.explained, torch.tensor(1.0).double())
    assert float(found.lengths[4]) == pytest.approx(0, abs=1e-12)


def test_equal_codes_have_no_share() -> None:
    assert entry_effects(torch.ones(SIZE, 2)).explained.isnan()


@pytest.mark.parametrize("wrong", [torch.zeros(9, 16), torch.zeros(SIZE), torch.zeros(SIZE, 2).long(), [1.0]])
def test_other_things_than_the_codes_of_all_operations_are_refused(wrong: object) -> None:
    with pytest.raises(InputError, match="codes must be"):
        entry_effects(wrong)  # type: ignore[arg-type]

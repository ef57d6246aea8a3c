"""Intervals within bounds, families of comparisons, means over a cycle, and shares."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ternary_lab.studies.statistics import (
    PERCENT,
    POSITIVE,
    cycle_means,
    interval,
    median_and_range,
    paired_differences,
    prediction_interval,
    share_interval,
)

SEEDS = 8


@given(st.lists(st.floats(0, 100), min_size=2, max_size=20))
def test_an_interval_of_percentages_stays_within_0_and_100(values: list[float]) -> None:
    found, next_one = interval(values, bounds=PERCENT), prediction_interval(values, bounds=PERCENT)
    assert 0 <= found.low <= found.mean <= found.high <= 100
    assert 0 <= next_one[0] <= found.low
    assert found.high <= next_one[1] <= 100


@given(st.lists(st.floats(0.01, 1e4), min_size=2, max_size=20))
def test_an_interval_of_positive_values_is_that_of_their_logarithms(values: list[float]) -> None:
    found, logs = interval(values, bounds=POSITIVE), interval(np.log(values))
    for name in ("mean", "low", "high"):
        assert getattr(found, name) == pytest.approx(math.exp(getattr(logs, name)), rel=1e-9)


def test_values_outside_their_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="not within 0 and 100"):
        interval([50.0, 101.0], bounds=PERCENT)
    with pytest.raises(ValueError, match="logarithm is infinite"):
        interval([0.0, 1.0], bounds=POSITIVE)


def test_percentages_far_from_the_bounds_have_the_plain_interval_nearly() -> None:
    values = [49.9, 50.0, 50.1, 50.2]
    plain, bounded = interval(values), interval(values, bounds=PERCENT)
    assert (bounded.low, bounded.high) == (pytest.approx(plain.low, abs=1e-3), pytest.approx(plain.high, abs=1e-3))


def test_one_more_percentage_lies_in_its_prediction_interval_in_19_of_20_cases() -> None:
    rng = np.random.default_rng(0)
    draws = 100 / (1 + np.exp(-rng.normal(3.0, 1.0, (4000, SEEDS + 1))))
    ends = [prediction_interval(row[:-1], bounds=PERCENT) for row in draws]
    inside = np.mean([low <= row[-1] <= high for (low, high), row in zip(ends, draws, strict=True)])
    assert inside == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


@given(st.integers(0, 30), st.integers(1, 30))
def test_the_interval_of_a_share_is_that_of_the_binomial_test(hits: int, n: int) -> None:
    hits = min(hits, n)
    expected = stats.binomtest(hits, n).proportion_ci(method="exact")
    assert share_interval(hits, n) == (pytest.approx(expected.low, abs=1e-9), pytest.approx(expected.high, abs=1e-9))


def test_a_median_is_shown_with_the_range() -> None:
    assert median_and_range([3.0, 1.0, math.nan, 2.0], ".1f") == "2.0 [1.0, 3.0]"
    assert median_and_range([2.0, 2.0]) == "2"
    assert median_and_range([]) == "–"


def test_means_over_a_cycle_are_those_of_its_thirty_epochs() -> None:
    history = pd.DataFrame({"seed": 1, "epoch": range(104), "x": [float(e) for e in range(104)]})
    found = cycle_means(history, ["x"])
    assert found.to_dict("records") == [{"seed": 1, "x": np.mean(np.arange(74, 104))}]
    with pytest.raises(ValueError, match=r"seed 1 has only 29 of the epochs 74 to 103"):
        cycle_means(history[history["epoch"] != 80], ["x"])


def _experiment(rng: np.random.Generator, groups: int, metrics: int, effect: float = 0.0) -> pd.DataFrame:
    """Return outcomes of a control and `groups` other groups, whose metrics correlate within seeds."""
    rows = []
    for seed in range(SEEDS):
        start = rng.normal(size=metrics)
        for name in ("control", *(f"group {i}" for i in range(groups))):
            values = start + rng.normal(size=metrics) + rng.normal() + (effect if name != "control" else 0)
            rows.append({"name": name, "seed": seed, **{f"m{i}": value for i, value in enumerate(values)}})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("primary", ["", "m0"])
def test_without_an_effect_a_family_decides_something_in_at_most_one_of_20_experiments(primary: str) -> None:
    rng, metrics, trials = np.random.default_rng(1), ["m0", "m1", "m2"], 400
    wrong = 0
    for _ in range(trials):
        found = paired_differences(_experiment(rng, 3, 3), "name", "control", metrics, primary=primary)
        family = found[found["metric"] == primary] if primary else found
        wrong += (family["decided"] != "not decided").any()
    assert wrong / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


def test_a_large_effect_is_decided_by_the_shown_interval() -> None:
    table = _experiment(np.random.default_rng(2), 2, 2, effect=20.0)
    found = paired_differences(table, "name", "control", ["m0", "m1"])
    assert set(found["decided"]) == {"higher"}
    assert set(found["comparisons"]) == {4}
    assert (found["low"] > 0).all()


def test_the_primary_metric_and_the_others_are_two_families() -> None:
    table = _experiment(np.random.default_rng(3), 3, 3)
    found = paired_differences(table, "name", "control", ["m0", "m1", "m2"], primary="m0").set_index("metric")
    assert set(found.loc["m0", "comparisons"]) == {3}
    assert set(found.loc[["m1", "m2"], "comparisons"]) == {6}
    group, control = (table[table["name"] == name].set_index("seed")["m0"] for name in ("group 0", "control"))
    one = interval(group - control, comparisons=3)
    assert found.loc["m0"].iloc[0]["low"] == pytest.approx(one.low)


def test_more_comparisons_make_wider_intervals() -> None:
    widths = [interval([1.0, 2.0, 4.0], comparisons=m).high for m in (1, 2, 10)]
    assert widths == sorted(set(widths))
    low, high = stats.t.interval(1 - 0.05 / 10, 2, np.mean([1, 2, 4]), stats.sem([1, 2, 4]))
    assert widths[-1] == pytest.approx(high)
    assert interval([1.0, 2.0, 4.0], comparisons=10).low == pytest.approx(low)

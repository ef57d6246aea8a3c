"""The original: facts about its code, and the comparison of its printed runs with the library's."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind

from ternary_lab.studies.report import ledger, original_agreement, original_tests
from ternary_lab.studies.report.evidence import Evidence, collect_evidence
from ternary_lab.studies.report.original import COMPARED, EPOCHS, original_code, original_runs, permutation_test


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return collect_evidence(["v5_5"])


def test_every_setting_of_the_original_is_in_one_group() -> None:
    code = original_code()
    names = [name for group in code.settings.values() for name in group]
    assert len(names) == len(set(names)) == code.setting_count
    assert set(code.without_effect) == set(names) - set(code.settings["read"])


def test_the_ledger_repeats_the_measured_times_of_the_original() -> None:
    low, high = original_code().measured_here["seconds_per_epoch"]
    assert f" {low:.0f} to {high:.0f} seconds per epoch" in ledger().claims["seconds-per-epoch"].untestable


def test_the_raw_outputs_of_statenet_with_seed_42_are_the_printed_shifts(evidence: Evidence) -> None:
    """The lab's and the original's raw outputs of the report's seed agree with the report to its last digit."""
    runs = original_runs()
    theirs = runs[(runs["seed"] == 42) & (runs["epoch"] <= 103)]
    ours = next(run for run in evidence.runs if run.seed == 42).history.loc[:103]
    for i in (1, 2, 3):
        low, high = ledger().ends(f"delta-lambda{i}-range")
        for values in (theirs[f"delta_lambda{i}"], ours[f"delta_lambda{i}"]):
            assert values.min() == pytest.approx(low, abs=0.0035)
            assert values.max() == pytest.approx(high, abs=0.0015)


def test_an_equal_system_lies_inside_its_own_intervals(evidence: Evidence) -> None:
    table = original_agreement(evidence)
    assert len(table) == len(COMPARED) * len(EPOCHS)
    seeds = original_runs()["seed"].unique()
    values = table[[f"seed_{seed}" for seed in seeds]]
    assert table["inside"].between(0, len(seeds)).all()
    assert (table["low"] <= table["median"]).all()
    assert (table["median"] <= table["high"]).all()
    # The table is the one from the histories: a slow second way for one row.
    row = table.set_index(["quantity", "epoch"]).loc[("coverage_B", 60)]
    assert row["median"] == np.median([run.history.loc[60, "coverage_B"] for run in evidence.runs])
    printed = original_runs().query("epoch == 60")["coverage_B"]
    assert row["inside"] == sum(row["low"] - 0.005 <= value <= row["high"] + 0.005 for value in printed)
    assert values.notna().all(axis=None)


def test_a_shifted_system_lies_outside(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    shifted = original_runs().assign(coverage_A=lambda t: t["coverage_A"] / 2)
    monkeypatch.setattr("ternary_lab.studies.report.original.original_runs", lambda: shifted)
    agreement = original_agreement(evidence, ["coverage_A", "H_A"], [60, 100]).set_index(["quantity", "epoch"])
    assert agreement.loc["coverage_A", "inside"].sum() == 0
    tests = original_tests(evidence, ["coverage_A", "H_A"], [60, 100]).set_index("quantity")
    assert tests.loc["coverage_A", "p"] == tests["adjusted"].min() == pytest.approx(1 / 165)
    assert tests["statistic"].idxmax() == "coverage_A"
    assert tests.loc["H_A", "p"] > 0.05


def test_the_smallest_adjusted_p_is_that_of_the_largest_statistic(evidence: Evidence) -> None:
    tests = original_tests(evidence)
    assert tests["quantity"].tolist() == list(COMPARED)
    assert tests["adjusted"].idxmin() == tests["statistic"].idxmax()
    assert (tests["adjusted"] >= tests["p"]).all()
    for column, row in tests.set_index("quantity").iterrows():
        printed = original_runs().query("epoch == @row.epoch")[column]
        ours = [run.at(column, row["epoch"]) for run in evidence.runs]
        assert row["statistic"] == pytest.approx(abs(ttest_ind(printed, ours).statistic), rel=0.02)  # rounded here


def test_the_permutation_test_agrees_with_a_slow_one() -> None:
    generator = np.random.default_rng(3)
    first, second = generator.normal(size=(3, 2, 4)), generator.normal(size=(5, 2, 4)) + 0.7
    both = np.concatenate([first, second])

    def each(rows: tuple[int, ...]) -> np.ndarray:
        rest = [i for i in range(8) if i not in rows]
        return np.abs(ttest_ind(both[list(rows)], both[rest]).statistic)

    found = permutation_test(first, second)
    actual = each((0, 1, 2))
    largest = actual.max(1)
    assert found.statistic == pytest.approx(largest)
    assert found.place.tolist() == actual.argmax(1).tolist()
    choices = np.array([each(rows).max(1) for rows in itertools.combinations(range(8), 3)])
    assert found.p == pytest.approx((choices >= largest - 1e-9).mean(0))
    assert found.adjusted == pytest.approx((choices.max(1, keepdims=True) >= largest - 1e-9).mean(0))


def test_an_outcome_that_is_equal_in_all_runs_decides_nothing() -> None:
    found = permutation_test(np.ones((3, 2, 2)), np.ones((8, 2, 2)))
    assert found.statistic.tolist() == [0.0, 0.0]
    assert found.adjusted.tolist() == [1.0, 1.0]
    apart = permutation_test(np.zeros((3, 1, 1)), np.ones((8, 1, 1)))
    assert apart.statistic[0] > 1e6
    assert apart.adjusted == pytest.approx([1 / 165])


@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_equal_systems_differ_in_at_most_one_of_20_experiments(shared: float) -> None:
    """All quantities of one experiment together, with outcomes that depend on each other as epochs of a run do.

    `shared` is the size of a common part of the runs of the same seed in both systems.
    """
    generator = np.random.default_rng(5)
    experiments, false = 600, 0
    for _ in range(experiments):
        runs = generator.standard_t(4, (11, 6, 1)) + generator.normal(size=(11, 6, 9))
        common = shared * generator.normal(size=(3, 6, 1))
        runs[:3] += common
        runs[3:] += np.concatenate([common, shared * generator.normal(size=(5, 6, 1))])
        false += permutation_test(runs[:3], runs[3:]).adjusted.min() <= 0.05
    assert false / experiments <= 0.05 + 3 * (0.05 * 0.95 / experiments) ** 0.5


def test_a_difference_of_one_quantity_is_found_among_many() -> None:
    generator = np.random.default_rng(6)
    found = 0
    for _ in range(100):
        runs = generator.standard_t(4, (11, 6, 1)) + generator.normal(size=(11, 6, 9))
        runs[:3, 2] += 12
        test = permutation_test(runs[:3], runs[3:])
        found += test.adjusted.argmin() == 2 and test.adjusted[2] <= 0.05
    assert found >= 90


def test_the_printed_runs_have_the_columns_that_are_compared() -> None:
    runs = original_runs()
    assert set(COMPARED) <= set(runs.columns)
    assert isinstance(runs, pd.DataFrame)
    assert all((runs["epoch"] == epoch).sum() == runs["seed"].nunique() for epoch in EPOCHS)

"""The original: facts about its code, and the comparison of its printed runs with the library's."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from ternary_lab.studies.report import ledger, original_agreement, original_tests
from ternary_lab.studies.report.evidence import Evidence, collect_evidence
from ternary_lab.studies.report.original import COMPARED, EPOCHS, holm, original_code, original_runs, permutation_test


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
    assert tests.loc["coverage_A", "p"] == pytest.approx(1 / 165)
    assert tests.loc["H_A", "p"] > 0.05


def test_the_permutation_test_agrees_with_a_slow_one() -> None:
    generator = np.random.default_rng(3)
    first, second = generator.normal(size=(3, 4)), generator.normal(size=(5, 4)) + 0.7
    both = np.concatenate([first, second])

    def largest(rows: tuple[int, ...]) -> float:
        rest = [i for i in range(8) if i not in rows]
        return max(abs(both[list(rows), k].mean() - both[rest, k].mean()) / both[:, k].std() for k in range(4))

    statistic, place, p = permutation_test(first, second)
    assert statistic == pytest.approx(largest((0, 1, 2)))
    assert abs(first[:, place].mean() - second[:, place].mean()) / both[:, place].std() == pytest.approx(statistic)
    choices = list(itertools.combinations(range(8), 3))
    assert p == pytest.approx(np.mean([largest(rows) >= statistic - 1e-9 for rows in choices]))


def test_an_outcome_that_is_equal_in_all_runs_decides_nothing() -> None:
    values = np.ones((3, 2)), np.ones((8, 2))
    assert permutation_test(*values) == (0.0, 0, 1.0)


def test_holm_is_the_step_down_procedure() -> None:
    """Rejecting the adjusted values at any level is the same as stepping down through the ordered values."""
    generator = np.random.default_rng(4)
    for _ in range(200):
        p = generator.uniform(size=6) ** 3
        adjusted = holm(p.tolist())
        for level in (0.01, 0.05, 0.2):
            rejected = set()
            for step, index in enumerate(np.argsort(p)):
                if p[index] > level / (6 - step):
                    break
                rejected.add(int(index))
            assert rejected == {i for i, value in enumerate(adjusted) if value <= level}


def test_equal_systems_differ_in_at_most_one_of_20_experiments() -> None:
    """All quantities of one experiment together, with outcomes that depend on each other as epochs of a run do."""
    generator = np.random.default_rng(5)
    experiments, false = 300, 0
    for _ in range(experiments):
        runs = generator.standard_t(4, (11, 6, 1)) + generator.normal(size=(11, 6, 9))
        p = [permutation_test(runs[:3, k], runs[3:, k])[2] for k in range(6)]
        false += min(holm(p)) <= 0.05
    assert false / experiments <= 0.05 + 3 * (0.05 * 0.95 / experiments) ** 0.5


def test_the_printed_runs_have_the_columns_that_are_compared() -> None:
    runs = original_runs()
    assert set(COMPARED) <= set(runs.columns)
    assert isinstance(runs, pd.DataFrame)
    assert all((runs["epoch"] == epoch).sum() == runs["seed"].nunique() for epoch in EPOCHS)

"""Planted claims and the verdicts that the judge gives them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from ternary_lab import load_config
from ternary_lab.studies.report import Verdict, collect_evidence
from ternary_lab.studies.report.error_rates import (
    GIVEN,
    Figure,
    clustered_interval,
    figures,
    judge_others,
    judge_planted,
    statement_rate,
    verdict_rates,
)
from ternary_lab.studies.report.evidence import Evidence, SeedEvidence
from ternary_lab.studies.report.ledger import Claim, ledger
from ternary_lab.studies.report.rule_builders import column
from ternary_lab.studies.report.verdicts import Rule, judge
from ternary_lab.studies.statistics import share_interval

CONFIG = load_config("v5_5")
RULE = Rule(measure=lambda run: run.at("x0", 50))
SHIFTED = (0.0, 2.0, 4.0)
REPRODUCED, TOO_WIDE, NOT = Verdict.REPRODUCED, Verdict.TOO_WIDE, Verdict.NOT


def _planted(values: np.ndarray, decimals: int = 6) -> tuple[Evidence, list[Figure]]:
    """Runs and figures whose values at epoch 50 are a table with a row per seed and a column per figure."""
    columns = [f"x{i}" for i in range(values.shape[1])]
    evidence = Evidence([
        SeedEvidence(seed, CONFIG, pd.DataFrame([row], [50], columns), pd.DataFrame(), "early stop")
        for seed, row in enumerate(values.tolist())
    ])
    return evidence, [
        Figure(
            Claim(name, "s", "t", "metric", name, "A", 50, 0.0, None, None, decimals),
            dict(enumerate(values[:, i].tolist())), lambda claim: RULE,
        )
        for i, name in enumerate(columns)
    ]


def _share(rates: pd.DataFrame, unit: str, shift: float, verdicts: Sequence[Verdict]) -> float:
    rows = rates[(rates["unit"] == unit) & (rates["shift"] == shift) & rates["verdict"].isin(list(map(str, verdicts)))]
    return float(rows["share"].sum())


@pytest.fixture(scope="module")
def normal() -> pd.DataFrame:
    """Rates for 150 independent normal figures of 8 seeds, far from 0, so that no interval is too wide."""
    shifts = {"deviations": SHIFTED, "percent": (50.0,)}
    return verdict_rates(judge_planted(*_planted(np.random.default_rng(3).normal(100, 1, (8, 150))), shifts))


def test_a_true_figure_is_called_false_in_one_of_20_cases(normal: pd.DataFrame) -> None:
    held = _share(normal, "deviations", 0, [REPRODUCED, TOO_WIDE])
    error = math.sqrt(0.05 * 0.95 / 150)  # as if only the figures were independent, not the eight left-out seeds
    assert abs(held - 0.95) < 3 * error


@pytest.mark.parametrize("shift", SHIFTED[1:])
def test_a_shifted_figure_is_reproduced_as_often_as_chance_puts_it_into_the_interval(
    normal: pd.DataFrame, shift: float
) -> None:
    """The reference draws 8 values, shifts the last one, and compares it with the interval of the other 7."""
    draws = np.random.default_rng(4).normal(0, 1, (40_000, 8))
    seven, last = draws[:, :7], draws[:, 7] + shift * draws.std(axis=1, ddof=1)
    half = 2.4469119 * seven.std(axis=1, ddof=1) * math.sqrt(1 + 1 / 7)  # t(0.975, 6), from a table
    expected = float((abs(last - seven.mean(axis=1)) < half).mean())
    assert _share(normal, "deviations", shift, [REPRODUCED, TOO_WIDE]) == pytest.approx(expected, abs=0.06)


def test_the_share_reproduced_falls_with_the_error(normal: pd.DataFrame) -> None:
    shares = [_share(normal, "deviations", shift, [REPRODUCED]) for shift in SHIFTED]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.9
    assert shares[-1] < 0.2
    assert _share(normal, "percent", 50, [NOT]) == 1


def test_each_verdict_is_the_one_of_the_judge() -> None:
    """One row is judged again by hand: the judge sees the other seeds only, and the shifted printed number."""
    evidence, found = _planted(np.random.default_rng(5).normal(10, 1, (5, 3)), decimals=2)
    its = Rule(measure=lambda run: run.at("x1", 50))
    table = judge_planted(evidence, found)
    row = table[(table["seed"] == 2) & (table["id"] == "x1") & (table["unit"] == "percent") & (table["shift"] == 20)]
    values = {seed: run.at("x1", 50) for seed, run in enumerate(evidence.runs)}
    for sign, verdict in zip(row["sign"], row["verdict"], strict=True):
        claim = dataclasses.replace(found[1].claim, value=round(round(values[2], 2) * (1 + sign * 0.2), 2))
        others = Evidence([run for run in evidence.runs if run.seed != 2])
        empty = dataclasses.replace(ledger(), contradictions={})
        assert verdict == str(judge(claim, its, others, empty, []).verdict)
    assert sorted(row["sign"]) == [-1, 1]


def test_impossible_and_unchanged_claims_are_not_planted() -> None:
    evidence, found = _planted(np.array([[99.0, 0.5], [98.0, 0.6], [97.0, 0.4]]), decimals=1)
    for i, quantity in enumerate(("coverage_sampled_pct", "kl_nats")):
        found[i] = dataclasses.replace(found[i], claim=dataclasses.replace(found[i].claim, quantity=quantity))
    table = judge_planted(evidence, found)
    above = table[(table["id"] == "x0") & (table["sign"] == 1) & (table["unit"] == "percent")]
    assert above.empty  # 97 % and 5 % of it are more than 100 %
    below = table[(table["id"] == "x1") & (table["sign"] == -1) & (table["unit"] == "deviations")]
    assert below["shift"].max() == 4  # 0.5 - 4 * 0.1 is possible
    assert len(below[below["seed"] == 2]) == 4  # so is 0.4 - 4 * 0.1 = 0
    small = table[(table["id"] == "x1") & (table["unit"] == "percent") & (table["shift"] == 5)]
    assert small.empty  # 5 % of 0.5 rounds away


def test_figures_that_cannot_differ_are_not_planted() -> None:
    evidence = collect_evidence(["v5_5"])
    found = figures(evidence)
    names = {figure.claim.id for figure in found}
    assert {"coverage-a-epoch-49", "train-loss-epoch-50", "loss-spike-pct"} <= names
    assert not {"lr-epoch-50", "phase-marker-epoch-40", "ternary-space-size"} & names
    assert len({tuple(figure.values.values()) for figure in found}) == len(found)
    assert all(figure.deviation >= 2 * figure.claim.half_digit for figure in found)
    judging = [figure.judging(figure.claim) for figure in found]
    assert all(its.baseline is None and its.true is None for its in judging)
    assert all(figure.planted(figure.claim.number or 0).claimed == figure.claim.claimed for figure in found)


def test_every_planted_claim_gets_one_of_the_four_verdicts() -> None:
    planted = judge_planted(collect_evidence(["v5_5"]))
    assert set(planted["verdict"]) <= set(map(str, GIVEN))
    rates = verdict_rates(planted)
    total = rates.groupby(["unit", "shift"])["share"].sum()
    assert total.tolist() == pytest.approx([1.0] * len(total))
    assert ((rates["low"] <= rates["share"]) & (rates["share"] <= rates["high"])).all()
    held = _share(rates, "deviations", 0, [REPRODUCED, TOO_WIDE])
    assert held > 0.85
    assert held - _share(rates, "deviations", 4, [REPRODUCED]) > 0.5


def test_figures_of_another_system_are_judged_by_the_other_seeds() -> None:
    """An equal system is mostly reproduced, a distant one never, and only figures that it has are judged."""
    evidence, found = _planted(np.random.default_rng(8).normal(100, 1, (6, 20)))

    def read(claim: Claim) -> Rule:
        measure = column(claim.id, 50)
        return Rule(measure=measure, epochs=lambda epoch: measure)  # the neighbouring epochs are the same

    found = [dataclasses.replace(figure, rule_of=read) for figure in found]
    plain = list(evidence.runs)
    shares = {}
    for name, shift in (("equal", 0.0), ("distant", 50.0)):
        runs = [
            dataclasses.replace(run, controls={name: dataclasses.replace(
                other, history=other.history.drop(columns="x19") + shift)})
            for run, other in pairwise(plain)
        ]
        table = judge_others(Evidence([*runs, plain[-1]]), name, found)
        assert len(table) == 5 * 19
        shares[name] = (table["verdict"] == str(REPRODUCED)).mean()
    assert shares["equal"] > 0.85
    assert shares["distant"] == 0


# The interval


def test_equal_clusters_of_independent_claims_have_the_interval_of_clopper_and_pearson_or_a_wider_one() -> None:
    share, low, high = clustered_interval([0.5, 0.5, 0.5, 0.5], 40)
    assert (share, low, high) == (0.5, *share_interval(20, 40))
    share, low, high = clustered_interval([0.25, 0.75, 0.5, 0.5], 40)
    assert low < share_interval(20, 40)[0] < share_interval(20, 40)[1] < high


def test_clusters_that_agree_count_as_one_claim_each() -> None:
    assert clustered_interval([1.0] * 8, 600) == (1.0, *share_interval(8, 8))
    assert clustered_interval([0.0] * 8, 600) == (0.0, *share_interval(0, 8))


def test_the_interval_holds_the_share_of_clustered_claims() -> None:
    """Every cluster has a share of its own, from a beta distribution of mean 0.8."""
    random, hits, repeats = np.random.default_rng(6), 0, 400
    for _ in range(repeats):
        shares = random.binomial(80, random.beta(8, 2, 8)) / 80
        _, low, high = clustered_interval(shares.tolist(), 640)
        hits += low <= 0.8 <= high
    assert hits / repeats > 0.95 - 3 * math.sqrt(0.05 * 0.95 / repeats)


def test_a_statement_must_be_true_in_every_seed() -> None:
    draws = np.random.default_rng(7).random((20_000, 8)) < 0.95
    assert statement_rate(0.95, 8) == pytest.approx(draws.all(axis=1).mean(), abs=0.01)

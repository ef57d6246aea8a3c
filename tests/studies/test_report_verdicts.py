"""Laws of the judge: the order of the verdicts, missing values, bounds, contradictions and conditions."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ternary_lab import load_config
from ternary_lab.studies.report import Verdict
from ternary_lab.studies.report.conditions import (
    BOUNDS,
    Condition,
    above,
    at_least,
    at_most,
    below,
    between,
    control,
    equal_to,
    reaches,
    statenet,
    table,
    weights,
)
from ternary_lab.studies.report.evidence import Evidence, MissingValueError, SeedEvidence
from ternary_lab.studies.report.ledger import Claim, Contradiction, Ledger, ledger
from ternary_lab.studies.report.rule_builders import difference, extreme, reading, statement
from ternary_lab.studies.report.verdicts import Judgement, Rule, judge, predicts, too_wide
from ternary_lab.studies.statistics import PERCENT, interval, prediction_interval

CONFIG = load_config("v5_5")


def _claim(value: object, **changes: object) -> Claim:
    plain: dict[str, object] = {
        "id": "x", "section": "s", "statement": "t", "kind": "metric", "quantity": "q", "pathway": "A", "epoch": 50,
        "unit": None, "note": None, "decimals": 2,
    }
    return Claim(**(plain | {"value": value} | changes))  # type: ignore[arg-type]


def _evidence(**columns: list[list[float]]) -> Evidence:
    """Runs whose histories have the given columns from epoch 48 on, with a list per run."""
    runs = []
    for i in range(len(next(iter(columns.values())))):
        data = {name: values[i] for name, values in columns.items()}
        length = len(next(iter(data.values())))
        history = pd.DataFrame(data, index=pd.RangeIndex(48, 48 + length, name="epoch"))
        runs.append(SeedEvidence(i, CONFIG, history, pd.DataFrame(), "early stop"))
    return Evidence(runs)


def _ledger(claims: list[Claim], hard: tuple[str, ...] = ()) -> Ledger:
    """A ledger in which the `hard` claims contradict each other; arithmetic confirms the contradiction."""
    contradiction = Contradiction("spike-percentage", "scope", "hard", hard, "", "2 ≠ 1")
    known = {name: ledger().claims[name] for name in ("loss-spike-pct", "train-loss-epoch-49", "train-loss-epoch-50")}
    return Ledger({**known, **{c.id: c for c in claims}}, {contradiction.id: contradiction}, {})


def _judged(
    claim: Claim, its: Rule, evidence: Evidence, hard: tuple[str, ...] = (),
    siblings: list[tuple[Claim, Rule]] | None = None,
) -> Judgement:
    others = siblings or []
    return judge(claim, its, evidence, _ledger([claim, *(c for c, _ in others)], hard), others)


READING = reading("H_A", 50)
EVIDENCE = _evidence(H_A=[[1.0, 5.0, 9.0], [1.2, 5.2, 9.2], [0.8, 4.8, 8.8]])


# Numbers


@pytest.mark.parametrize(("value", "verdict"), [(9.1, Verdict.REPRODUCED), (20.0, Verdict.NOT)])
def test_a_value_inside_the_interval_is_reproduced(value: float, verdict: Verdict) -> None:
    judgement = _judged(_claim(value), READING, EVIDENCE)
    assert (judgement.verdict, judgement.measured, judgement.runs) == (verdict, 9.0, 3)
    assert (judgement.low, judgement.high) == (8.8, 9.2)
    assert judgement.values == {0: 9.0, 1: 9.2, 2: 8.8}
    assert judgement.interval == prediction_interval([9.0, 9.2, 8.8])
    assert judgement.evidence == "3 runs of v5_5"


def test_the_prediction_interval_holds_one_more_seed_in_19_of_20_cases() -> None:
    draws = np.random.default_rng(1).normal(3, 2, (4000, 9))
    share = np.mean([predicts(row[:8].tolist(), row[8]) for row in draws])
    assert 0.935 < share < 0.965


def test_a_claim_must_agree_with_equal_runs_at_the_printed_digit() -> None:
    assert predicts([0.2575] * 3, 0.26, 0.005)
    assert not predicts([0.2575] * 3, 0.26, 0.0005)


@given(st.lists(st.floats(0.5, 99.5), min_size=3, max_size=9, unique=True))
def test_the_deciding_interval_of_a_bounded_quantity_stays_inside_its_bounds(values: list[float]) -> None:
    evidence = _evidence(coverage_A=[[0.0, 0.0, value] for value in values])
    claim = _claim(50.0, quantity="coverage_sampled_pct")
    interval = _judged(claim, reading("coverage_A", 50), evidence).interval
    assert interval is not None
    assert 0 < interval[0] <= interval[1] < 100
    assert interval == prediction_interval(values, bounds=PERCENT)


def test_every_bounded_quantity_exists_and_every_printed_number_is_within_the_bounds() -> None:
    claims = ledger().claims.values()
    assert set(BOUNDS) <= {claim.quantity for claim in claims}
    for claim in claims:
        if claim.quantity in BOUNDS and claim.number is not None:
            assert BOUNDS[claim.quantity][0] <= claim.number <= BOUNDS[claim.quantity][1], claim.id


@given(st.floats(-1e3, 1e3), st.floats(0, 1e3), st.floats(0.1, 10))
def test_whether_an_interval_is_too_wide_depends_on_its_width_relative_to_the_number(
    value: float, half: float, scale: float
) -> None:
    if half != abs(value) / 2:
        found = too_wide((value - half, value + half), value)
        assert found == (half > abs(value) / 2)
        assert found == too_wide((scale * (value - half), scale * (value + half)), scale * value) \
            or half == pytest.approx(abs(value) / 2)


@pytest.mark.parametrize(("interval", "wide"), [((45.0, 95.1), True), ((45.0, 94.9), False), ((80.0, 99.0), False)])
def test_a_percentage_is_too_wide_to_tell_over_50_points(interval: tuple[float, float], wide: bool) -> None:
    assert too_wide(interval, 90.0, bounds=PERCENT) is wide
    assert not too_wide(interval, 90.0)


def test_only_a_claim_inside_its_interval_is_too_wide_to_tell() -> None:
    wide = _evidence(H_A=[[0, 0, 1.0], [0, 0, 5.0], [0, 0, 9.0]])
    assert _judged(_claim(5.0), READING, wide).verdict is Verdict.TOO_WIDE
    assert _judged(_claim(500.0), READING, wide).verdict is Verdict.NOT
    assert _judged(_claim([5.0, 5.0]), Rule(of="ends", ends=(lambda run: 5.0, lambda run: run.at("H_A", 50))),
                   wide).verdict is Verdict.TOO_WIDE


def test_a_neighbouring_epoch_is_named_unless_it_admits_almost_any_percentage() -> None:
    judgement = _judged(_claim(5.1), READING, EVIDENCE)
    assert judgement.verdict is Verdict.NOT
    assert "epoch 49" in judgement.note
    claim = _claim(60.0, quantity="coverage_sampled_pct")
    for before, named in (([59.0, 60.0, 61.0], True), ([20.0, 60.0, 95.0], False)):
        runs = _evidence(coverage_A=[[0.0, value, last] for value, last in zip(before, (9.0, 9.2, 8.8), strict=True)])
        assert predicts(before, 60.0, bounds=PERCENT)
        assert ("epoch 49" in _judged(claim, reading("coverage_A", 50), runs).note) is named


def test_the_order_between_two_printed_epochs_is_a_direction() -> None:
    earlier = (_claim(1.0, id="y", epoch=48), READING)
    assert _judged(_claim(20.0), READING, EVIDENCE, siblings=[earlier]).verdict is Verdict.DIRECTION
    later = (_claim(40.0, id="y", epoch=48), READING)
    assert _judged(_claim(20.0), READING, EVIDENCE, siblings=[later]).verdict is Verdict.NOT
    other = (_claim(1.0, id="y", epoch=48, pathway="B"), READING)
    assert _judged(_claim(20.0), READING, EVIDENCE, siblings=[other]).verdict is Verdict.NOT


def test_one_seed_against_the_order_is_enough() -> None:
    evidence = _evidence(H_A=[[1.0, 0, 9.0], [1.2, 0, 9.2], [9.5, 0, 8.8]])
    earlier = (_claim(1.0, id="y", epoch=48), READING)
    assert _judged(_claim(20.0), READING, evidence, siblings=[earlier]).verdict is Verdict.NOT


def test_facts_are_compared_at_the_printed_digit() -> None:
    for value, fact, verdict in (
        (29.75, 29.7464, Verdict.EXACT), (29.75, 29.756, Verdict.NOT), ("AdamW", "AdamW", Verdict.EXACT),
    ):
        judgement = _judged(_claim(value), Rule(of="it", fact=lambda evidence, fact=fact: fact, source="it"), EVIDENCE)
        assert judgement.verdict is verdict
        assert (judgement.evidence, judgement.runs, judgement.interval) == ("it", 0, None)


def test_a_range_is_reproduced_when_both_ends_are() -> None:
    ends = Rule(of="ends", ends=(lambda run: run.at("H_A", 48), lambda run: run.at("H_A", 50)))
    narrow = _evidence(H_A=[[1.0, 0, 9.0], [1.02, 0, 9.2], [0.98, 0, 8.8]])
    judgement = _judged(_claim([1.01, 9.1]), ends, narrow)
    assert judgement.verdict is Verdict.REPRODUCED
    assert "intervals of the two ends" in judgement.note
    assert _judged(_claim([1.01, 12.0]), ends, narrow).verdict is Verdict.NOT


# Statements


@given(st.lists(st.booleans(), min_size=2, max_size=9))
def test_a_statement_is_reproduced_if_it_is_true_in_every_run(truths: list[bool]) -> None:
    rule = statement("It", lambda run: run.at("H_A", 50), above(0))
    judgement = _judged(_claim("high"), rule, _evidence(H_A=[[0, 0, 1.0 if true else -1.0] for true in truths]))
    assert judgement.holds == (sum(truths), len(truths))
    assert (judgement.verdict is Verdict.REPRODUCED) == all(truths)
    assert judgement.interval is None


@pytest.mark.parametrize("condition", [
    above(1.5), at_least(95, "%"), below(-0.25, "nats"), at_most(0, "points"), equal_to(1), between(20, 30, "points"),
], ids=lambda c: c.words)
def test_the_words_of_a_condition_contain_the_threshold_at_which_it_changes(condition: Condition) -> None:
    for text in re.findall(r"-?\d+\.?\d*", condition.words):
        limit = float(text)
        truths = {condition(value) for value in (limit - 1e-9, limit, limit + 1e-9)}
        assert truths == {True, False}
    assert re.search(r"\d", condition.words)


def test_without_an_effect_a_statement_is_reproduced_in_at_most_one_of_20_cases() -> None:
    """Paired differences of eight seeds that are 0 on average, with the heavy tails of a few seeds."""
    generator = np.random.default_rng(6)
    rule = statement("The difference", lambda run: run.at("H_A", 50), above(0))
    cases, found = 400, 0
    for differences in generator.standard_t(3, (cases, 8)):
        judgement = _judged(_claim("better"), rule, _evidence(H_A=[[0, 0, value] for value in differences]))
        found += judgement.verdict is Verdict.REPRODUCED
    assert found / cases <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / cases)


# Differences


def _difference(comparisons: int = 1) -> Rule:
    rule = difference("The difference", lambda run: run.at("H_A", 50), above(0, "points"))
    return dataclasses.replace(rule, comparisons=comparisons)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=9, unique=True), st.integers(1, 20))
def test_the_interval_of_a_difference_decides_and_is_shown(values: list[float], comparisons: int) -> None:
    judgement = _judged(_claim("better"), _difference(comparisons), _evidence(H_A=[[0, 0, v] for v in values]))
    mean = interval(values, comparisons=comparisons)
    assert judgement.interval == (mean.low, mean.high)
    assert judgement.measured == mean.mean
    assert judgement.holds == (sum(v > 0 for v in values), len(values))
    expected = Verdict.REPRODUCED if mean.low > 0 else Verdict.UNDECIDED if mean.high > 0 else Verdict.NOT
    assert judgement.verdict is expected
    assert ("is excluded" in judgement.note) == (expected is Verdict.UNDECIDED)


def test_all_runs_with_the_claimed_sign_are_not_enough_for_a_difference() -> None:
    evidence = _evidence(H_A=[[0, 0, v] for v in (0.1, 0.2, 3.0, 0.1)])
    judgement = _judged(_claim("better"), _difference(), evidence)
    assert (judgement.holds, judgement.verdict) == ((4, 4), Verdict.UNDECIDED)


def test_without_an_effect_a_difference_is_reproduced_in_at_most_one_of_20_cases() -> None:
    """Paired differences of four or eight seeds that are 0 on average; a whole family of 5 counts once."""
    generator = np.random.default_rng(8)
    cases = 300
    for seeds in (4, 8):
        found = 0
        for family in generator.normal(0, 1, (cases, 5, seeds)):
            judged = [_judged(_claim("better"), _difference(5), _evidence(H_A=[[0, 0, v] for v in values]))
                      for values in family]
            found += any(j.verdict is Verdict.REPRODUCED for j in judged)
        assert found / cases <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / cases)


# Order of the verdicts


@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=6)))
def test_the_first_verdict_that_applies_is_given(flags: tuple[bool, ...]) -> None:
    untestable, hard, wide, holds, artefact, order = flags
    spread = 5.0 if wide else 0.1
    evidence = _evidence(H_A=[[0, 0, 9.0 - spread], [0, 0, 9.0], [0, 0, 9.0 + spread]])
    rule = Rule(
        of="H", measure=lambda run: run.at("H_A", 50), why="No file." if untestable else "",
        baseline=lambda evidence: artefact, beats="so", order=lambda run: order,
    )
    claim = _claim(9.0 if holds else 900.0, kind="event")
    other = (_claim(9.0, id="y"), Rule(of="H", measure=lambda run: run.at("H_A", 50)))
    judgement = _judged(claim, rule, evidence, ("x", "y") if hard else (), [other])
    if untestable:
        expected = Verdict.UNTESTABLE
    elif holds and wide:
        expected = Verdict.TOO_WIDE
    elif hard:  # The runs support the other claim of the contradiction in any case.
        expected = Verdict.CONTRADICTS
    elif holds:
        expected = Verdict.ARTEFACT if artefact else Verdict.REPRODUCED
    else:
        expected = Verdict.DIRECTION if order else Verdict.NOT
    assert judgement.verdict is expected


def test_a_fact_that_is_equal_is_exact_even_if_the_report_contradicts_it() -> None:
    for value, verdict in ((3.0, Verdict.EXACT), (4.0, Verdict.CONTRADICTS)):
        rule = Rule(of="it", fact=lambda evidence: 3.0)
        assert _judged(_claim(value), rule, EVIDENCE, hard=("x",)).verdict is verdict


def test_a_supported_claim_contradicts_itself_only_if_all_others_of_the_contradiction_are_supported() -> None:
    mean = Rule(of="H", measure=lambda run: run.at("H_A", 50))
    good, bad = (_claim(9.0, id="y"), mean), (_claim(700.0, id="z"), mean)
    event = _claim(9.1, kind="event")
    assert _judged(event, mean, EVIDENCE, ("x", "y"), [good]).verdict is Verdict.CONTRADICTS
    assert _judged(event, mean, EVIDENCE, ("x", "y", "z"), [good, bad]).verdict is Verdict.REPRODUCED
    assert _judged(event, mean, EVIDENCE, ("x", "y", "unknown"), [good]).verdict is Verdict.REPRODUCED
    untestable = (good[0], Rule(why="No file."))
    assert _judged(event, mean, EVIDENCE, ("x", "y"), [untestable]).verdict is Verdict.REPRODUCED
    wide = (_claim(5.0, id="y"), Rule(of="H", measure=lambda run: 9.0 * run.seed))
    assert _judged(event, mean, EVIDENCE, ("x", "y"), [wide]).verdict is Verdict.REPRODUCED


def test_a_measured_figure_that_the_runs_support_is_not_contradicted_by_a_conclusion() -> None:
    mean = Rule(of="H", measure=lambda run: run.at("H_A", 50))
    good = (_claim(9.0, id="y"), mean)
    assert _judged(_claim(9.1), mean, EVIDENCE, ("x", "y"), [good]).verdict is Verdict.REPRODUCED
    assert _judged(_claim(20.0), mean, EVIDENCE, ("x", "y"), [good]).verdict is Verdict.CONTRADICTS


def test_a_printed_value_of_one_epoch_is_not_contradicted_by_what_the_report_concludes_from_it() -> None:
    derived = (_claim(9.0, id="y"), Rule(of="H", measure=lambda run: run.at("H_A", 50)))
    assert _judged(_claim(9.1), READING, EVIDENCE, ("x", "y"), [derived]).verdict is Verdict.REPRODUCED
    assert _judged(_claim(20.0), READING, EVIDENCE, ("x", "y"), [derived]).verdict is Verdict.NOT


# Missing evidence


@pytest.mark.parametrize("measure", [
    lambda run: run.at("H_A", 50), lambda run: run.mean("H_A", 48, 50), lambda run: run.both("H", 50),
    extreme("H", 48, 50, min), lambda run: run.at("H_A", 47), lambda run: run.at("cka", 50), lambda run: math.nan,
    lambda run: run.against("nothing_at_50", lambda r: r.at("H_A", 50)), lambda run: run.of_table("path: detour"),
])
def test_a_missing_value_of_any_run_raises_and_names_the_claim_and_the_seed(measure: object) -> None:
    evidence = _evidence(H_A=[[1, 1, 1.0], [1, 1, 1.0], [1, 1, math.nan]], H_B=[[1, 1, 2.0]] * 3)
    rule = Rule(of="it", measure=measure, true=above(0))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"claim x: .*seed \d"):
        _judged(_claim("high"), rule, evidence)


def test_a_missing_value_in_the_order_or_in_the_note_raises_too() -> None:
    plain = Rule(of="it", measure=lambda run: run.at("H_A", 50))
    for rule in (dataclasses.replace(plain, order=lambda run: run.at("kl_A", 50) > 0),
                 dataclasses.replace(plain, also={"kl": lambda run: run.at("kl_A", 50)})):
        with pytest.raises(RuntimeError, match=r"claim x: .*seed 0 has no kl_A"):
            _judged(_claim(700.0), rule, EVIDENCE)


def test_a_missing_value_is_never_skipped() -> None:
    run = _evidence(H_A=[[1.0, math.nan, 3.0]]).runs[0]
    for read in (lambda: run.at("H_A", 49), lambda: run.mean("H_A", 48, 50), lambda: run.over("H_A", 60, 70)):
        with pytest.raises(MissingValueError, match="seed 0 has no H_A"):
            read()
    assert run.at("H_A", 50) == 3.0


@pytest.mark.parametrize(("need", "words"), [
    (control("jump_at_40"), "published counterfactual “the jump at 40”"), (weights(50), "saved weights of epoch 50"),
    (table("path: detour", source="answers.csv"), "published table of answers"), (reaches(51), "epoch 51"),
])
def test_only_a_declared_need_makes_a_claim_untestable_for_want_of_runs(need: object, words: str) -> None:
    rule = Rule(of="it", measure=lambda run: 1.0, true=above(0), needs=(need,))  # type: ignore[arg-type]
    judgement = _judged(_claim("high"), rule, EVIDENCE)
    assert judgement.verdict is Verdict.UNTESTABLE
    assert judgement.note == f"The runs given have no {words}."
    assert judgement.evidence == ""


def test_a_run_without_statenet_says_nothing_about_it() -> None:
    off = load_config("v5_5", {"model.use_statenet": False})
    runs = [dataclasses.replace(run, config=off) for run in EVIDENCE.runs]
    rule = Rule(of="it", measure=lambda run: 1.0, true=above(0), needs=(statenet(),))
    assert _judged(_claim("adapts"), rule, EVIDENCE).verdict is Verdict.REPRODUCED
    assert _judged(_claim("adapts"), rule, Evidence(runs)).note == "The runs given have no StateNet."


def test_a_quantity_that_the_configuration_does_not_measure_is_not_a_missing_value() -> None:
    evidence = _evidence(coverage_A=[[math.nan] * 3] * 3, H_A=[[math.nan] * 3] * 3)
    rarely = load_config("v5_5", {"evaluation.coverage_at": "when_read"})
    runs = Evidence([dataclasses.replace(run, config=rarely) for run in evidence.runs])
    judgement = _judged(_claim(90.0), reading("coverage_A", 50), runs)
    assert judgement.verdict is Verdict.UNTESTABLE
    assert "evaluation.coverage_at" in judgement.note
    assert judgement.rule.startswith("Sampled coverage of A")
    for bad, column in ((evidence, "coverage_A"), (runs, "H_A")):
        with pytest.raises(RuntimeError, match="claim x"):
            _judged(_claim(90.0), reading(column, 50), bad)


def test_runs_without_the_needed_evidence_do_not_take_part() -> None:
    runs = list(EVIDENCE.runs)
    runs[:2] = [dataclasses.replace(run, controls={"jump_at_40": run}) for run in runs[:2]]
    rule = statement("It", lambda run: run.against("jump_at_40", lambda r: r.at("H_A", 50)), at_least(0),
                     needs=(control("jump_at_40"),))
    judgement = _judged(_claim("high"), rule, Evidence(runs))
    assert judgement.holds == (2, 2)
    assert judgement.evidence == "2 runs of v5_5 with the counterfactual “the jump at 40”"


def test_runs_that_end_before_the_epoch_of_the_claim_are_not_enough() -> None:
    judgement = _judged(_claim(3.0, epoch=60), reading("H_A", 60), EVIDENCE)
    assert judgement.verdict is Verdict.UNTESTABLE
    assert "epoch 60" in judgement.note

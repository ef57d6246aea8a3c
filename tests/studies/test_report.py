"""The claims of the report: the ledger, rules and verdicts, and the judgement by the published runs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ternary_lab import RunError, load_config
from ternary_lab.cli import main
from ternary_lab.studies.report import Verdict, claims_table, judge_all, judge_runs
from ternary_lab.studies.report.evidence import Evidence, SeedEvidence, collect_evidence
from ternary_lab.studies.report.ledger import CHECKS, Claim, Contradiction, Ledger, ledger
from ternary_lab.studies.report.rules import BY_QUANTITY, RULES, rule
from ternary_lab.studies.report.verdicts import Judgement, Rule, judge, predicts
from ternary_lab.studies.statistics import prediction_interval

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


def _verdict(
    claim: Claim, its: Rule, evidence: Evidence, hard: tuple[str, ...] = (), siblings: object = ()
) -> Judgement:
    return judge(claim, its, evidence, _ledger([claim], hard), siblings)  # type: ignore[arg-type]


# The ledger


def test_the_ledger_is_complete() -> None:
    whole = ledger()
    assert (len(whole.claims), len(whole.contradictions), len(whole.recommendations)) == (295, 44, 24)
    assert set(CHECKS) == set(whole.contradictions)
    assert all(claim in whole.claims for c in whole.contradictions.values() for claim in c.ids)
    assert set(RULES) <= set(whole.claims)


@pytest.mark.parametrize("contradiction", ledger().contradictions)
def test_every_contradiction_holds_by_arithmetic(contradiction: str) -> None:
    assert ledger().holds(contradiction)


@pytest.mark.parametrize(("contradiction", "claim", "value"), [
    ("spike-percentage", "loss-spike-pct", 800), ("recovery-percentage", "loss-recovery-pct", -48),
    ("surge-not-both", "coverage-jump-b-epoch-50", 25.0), ("over-98-from-60", "coverage-b-epoch-60", 98.5),
    ("compute-saving", "rec-future-saving-67", 70), ("beta-a-zero", "beta-a-start", 0.0),
    ("latest-checkpoint-val-loss", "checkpoint-latest-val-loss", 4.9), ("epoch-count", "epochs-completed", 104),
    ("entropy-100-equals-103", "entropy-a-epoch-103", 2.99), ("combined-is-mean", "coverage-combined-epoch-0", 99.95),
    ("denser-monitoring-advice", "monitoring-interval-v5-5", 5), ("free-bits-floor", "best-val-loss", 3.0),
])
def test_changed_values_do_not_contradict_each_other(contradiction: str, claim: str, value: float) -> None:
    changed = dataclasses.replace(ledger().claims[claim], value=value)
    assert not dataclasses.replace(ledger(), claims={**ledger().claims, claim: changed}).holds(contradiction)


def test_every_claim_has_a_rule() -> None:
    for claim in ledger().claims.values():
        its = rule(claim)
        assert (its.why != "") + (its.fact is not None) + (its.ends is not None) + (its.measure is not None) >= 1
        assert its.why or its.true is not None or its.fact is not None or its.ends is not None \
            or claim.number is not None, claim.id
        assert claim.id in RULES or claim.untestable or claim.quantity in BY_QUANTITY


@pytest.mark.parametrize(("value", "decimals", "note", "half"), [
    (12.7, 1, None, 0.05), (0.001, 5, None, 0.000005), (0.26, 3, "Approximate in the report.", 0.005),
    (89, 2, "Approximate.", 0.5), (2000000, None, None, 0.5),
])
def test_half_of_the_last_printed_digit(value: float, decimals: int | None, note: str | None, half: float) -> None:
    assert _claim(value, decimals=decimals, note=note).half_digit == pytest.approx(half)


# Intervals


def test_the_prediction_interval_is_that_of_one_more_seed() -> None:
    low, high = prediction_interval([1.0, 2.0, 3.0, 4.0])
    # t(0.975, 3) = 3.1824463, s = √(5/3): from a table.
    half = 3.1824463 * math.sqrt(5 / 3) * math.sqrt(1.25)
    assert (low, high) == pytest.approx((2.5 - half, 2.5 + half))


def test_the_prediction_interval_holds_one_more_seed_in_19_of_20_cases() -> None:
    draws = np.random.default_rng(1).normal(3, 2, (4000, 9))
    share = np.mean([predicts(row[:8].tolist(), row[8]) for row in draws])
    assert 0.935 < share < 0.965


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=10), st.floats(-10, 10), st.floats(0.1, 10))
def test_the_prediction_interval_moves_with_the_values(values: list[float], shift: float, scale: float) -> None:
    low, high = prediction_interval(values)
    moved = prediction_interval([scale * v + shift for v in values])
    assert moved == pytest.approx((scale * low + shift, scale * high + shift), rel=1e-6, abs=1e-3)


def test_a_claim_must_agree_with_equal_runs_at_the_printed_digit() -> None:
    assert predicts([0.2575] * 3, 0.26, 0.005)
    assert not predicts([0.2575] * 3, 0.26, 0.0005)


# Verdicts


READING = Rule(measure=lambda run: run.at("x", 50), epochs=lambda e: lambda run: run.at("x", e))
EVIDENCE = _evidence(x=[[1.0, 5.0, 9.0], [1.2, 5.2, 9.2], [0.8, 4.8, 8.8]])


@pytest.mark.parametrize(("value", "verdict"), [(9.1, Verdict.REPRODUCED), (20.0, Verdict.NOT)])
def test_a_value_inside_the_interval_is_reproduced(value: float, verdict: Verdict) -> None:
    judgement = _verdict(_claim(value), READING, EVIDENCE)
    assert (judgement.verdict, judgement.measured, judgement.runs) == (verdict, 9.0, 3)
    assert (judgement.low, judgement.high) == (8.8, 9.2)


def test_a_neighbouring_epoch_is_named() -> None:
    judgement = _verdict(_claim(5.1), READING, EVIDENCE)
    assert judgement.verdict is Verdict.NOT
    assert "epoch 49" in judgement.note


def test_the_order_between_two_printed_epochs_is_a_direction() -> None:
    earlier = (_claim(1.0, id="y", epoch=48), READING)
    assert _verdict(_claim(20.0), READING, EVIDENCE, siblings=[earlier]).verdict is Verdict.DIRECTION
    later = (_claim(40.0, id="y", epoch=48), READING)
    assert _verdict(_claim(20.0), READING, EVIDENCE, siblings=[later]).verdict is Verdict.NOT


def test_one_seed_against_the_order_is_enough() -> None:
    evidence = _evidence(x=[[1.0, 0, 9.0], [1.2, 0, 9.2], [9.5, 0, 8.8]])
    earlier = (_claim(1.0, id="y", epoch=48), READING)
    assert _verdict(_claim(20.0), READING, evidence, siblings=[earlier]).verdict is Verdict.NOT


def test_the_first_verdict_that_applies_is_given() -> None:
    statement = Rule(measure=lambda run: run.at("x", 50), true=lambda v: v > 10, order=lambda run: True)
    assert _verdict(_claim("rises"), statement, EVIDENCE).verdict is Verdict.DIRECTION
    assert _verdict(_claim("rises"), statement, EVIDENCE, hard=("x",)).verdict is Verdict.CONTRADICTS
    true = dataclasses.replace(statement, true=lambda v: v > 5)
    assert _verdict(_claim("rises"), true, EVIDENCE, hard=("x",)).verdict is Verdict.REPRODUCED
    for_nothing = dataclasses.replace(true, baseline=lambda evidence: True)
    assert _verdict(_claim("rises"), for_nothing, EVIDENCE, hard=("x",)).verdict is Verdict.ARTEFACT
    assert _verdict(_claim("rises"), Rule(why="No file."), EVIDENCE, hard=("x",)).verdict is Verdict.UNTESTABLE


def test_a_reading_is_not_contradicted_by_the_statement_that_it_refutes() -> None:
    assert _verdict(_claim(20.0), READING, EVIDENCE, hard=("x",)).verdict is Verdict.NOT


def test_a_statement_must_hold_in_every_run() -> None:
    statement = Rule(measure=lambda run: run.at("x", 50), true=lambda v: v > 8.9)
    assert _verdict(_claim("high"), statement, EVIDENCE).verdict is Verdict.NOT


def test_facts_are_compared_at_the_printed_digit() -> None:
    assert _verdict(_claim(29.75), Rule(fact=lambda evidence: 29.7464), EVIDENCE).verdict is Verdict.EXACT
    assert _verdict(_claim(29.75), Rule(fact=lambda evidence: 29.756), EVIDENCE).verdict is Verdict.NOT
    assert _verdict(_claim("AdamW"), Rule(fact=lambda evidence: "AdamW"), EVIDENCE).verdict is Verdict.EXACT


def test_a_range_is_reproduced_when_both_ends_are() -> None:
    ends = Rule(ends=(lambda run: run.at("x", 48), lambda run: run.at("x", 50)))
    assert _verdict(_claim([1.1, 9.1]), ends, EVIDENCE).verdict is Verdict.REPRODUCED
    assert _verdict(_claim([1.1, 12.0]), ends, EVIDENCE).verdict is Verdict.NOT


def test_a_claim_without_evidence_is_untestable_and_the_note_names_the_epoch() -> None:
    judgement = _verdict(_claim(3.0), Rule(measure=lambda run: run.at("cka", 40)), EVIDENCE)
    assert judgement.verdict is Verdict.UNTESTABLE
    assert "epoch 50" in judgement.note


# The published runs


@pytest.fixture(scope="module")
def published() -> Mapping[str, Judgement]:
    return {j.claim.id: j for j in judge_all(collect_evidence(["v5_5"]))}


def test_every_claim_has_a_verdict_and_a_value_or_a_note(published: Mapping[str, Judgement]) -> None:
    assert set(published) == set(ledger().claims)
    assert {j.verdict for j in published.values()} == set(Verdict)
    for j in published.values():
        assert j.note or j.verdict is not Verdict.UNTESTABLE, j.claim.id
        assert j.measured is not None or j.verdict is Verdict.UNTESTABLE, j.claim.id
        assert "{" not in j.note
        assert "nan" not in j.note.split(), j.claim.id


@pytest.mark.parametrize(("claim", "verdict"), [
    ("param-count-total", Verdict.EXACT), ("split-size-train", Verdict.EXACT), ("rho-epoch-103", Verdict.EXACT),
    ("beta-a-start", Verdict.CONTRADICTS), ("beta-a-zero-at-epoch-0", Verdict.EXACT),
    ("coverage-over-98-from-60", Verdict.CONTRADICTS), ("coverage-a-epoch-0", Verdict.ARTEFACT),
    ("train-loss-epoch-50", Verdict.REPRODUCED), ("mechanism-kl-enforcement", Verdict.REPRODUCED),
    ("beta-b-end", Verdict.DIRECTION), ("entropy-max-log2-16", Verdict.NOT), ("v5-4-peak", Verdict.UNTESTABLE),
])
def test_some_verdicts_that_must_not_change(published: Mapping[str, Judgement], claim: str, verdict: Verdict) -> None:
    assert published[claim].verdict is verdict, published[claim]


@pytest.mark.parametrize("claim", ["kl-b-epoch-50", "kl-a-epoch-50", "entropy-b-epoch-50", "entropy-a-epoch-50"])
def test_values_that_belong_to_epoch_49_have_a_note(published: Mapping[str, Judgement], claim: str) -> None:
    assert "epoch 49" in published[claim].note


def test_the_table_has_a_row_per_claim(published: Mapping[str, Judgement]) -> None:
    rows = claims_table(list(published.values()))
    assert len(rows) == len(published)
    assert list(rows.columns) == [
        "id", "section", "kind", "pathway", "epoch", "statement", "claimed", "measured", "low", "high", "runs",
        "verdict", "note",
    ]


def test_the_command_prints_every_claim_as_json() -> None:
    result = CliRunner().invoke(main, ["claims", "v5_5", "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert len(rows) == 295
    assert set(rows[0]) == {"id", "claimed", "measured", "low", "high", "runs", "verdict", "note"}


def test_one_run_is_not_enough() -> None:
    with pytest.raises(RunError, match="no spread"):
        judge_runs(["v5_5/seed=42"])
    with pytest.raises(RunError, match="seed 42 is given twice"):
        judge_runs(["v5_5", "v5_5/seed=42"])

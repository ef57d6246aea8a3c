"""The claims of the report: the ledger, the rule of each claim, and the judgement by the published runs."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from ternary_lab import RunError, load_config
from ternary_lab.cli import main
from ternary_lab.config_files import shipped_counterfactuals
from ternary_lab.runs.files import read_csv
from ternary_lab.runs.load import PUBLISHED
from ternary_lab.studies.coverage.tables import initial_networks
from ternary_lab.studies.epoch50_disruption.tables import final_outcomes, load_branches
from ternary_lab.studies.report import Verdict, claims_table, headline, judge_all, judge_runs
from ternary_lab.studies.report.advice_rules import FAIR
from ternary_lab.studies.report.evidence import CHANGES, Evidence, SeedEvidence, collect_evidence
from ternary_lab.studies.report.headline import CONFIGURATION
from ternary_lab.studies.report.ledger import CHECKS, Claim, ledger
from ternary_lab.studies.report.rules import BY_QUANTITY, DIFFERENCES, RULES, rule
from ternary_lab.studies.report.verdicts import Judgement, judge

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


@pytest.mark.parametrize(("value", "decimals", "note", "half"), [
    (12.7, 1, None, 0.05), (0.001, 5, None, 0.000005), (0.26, 3, "Approximate in the report.", 0.005),
    (89, 2, "Approximate.", 0.5), (2000000, None, None, 0.5),
])
def test_half_of_the_last_printed_digit(value: float, decimals: int | None, note: str | None, half: float) -> None:
    plain = ledger().claims["train-loss-epoch-0"]
    claim = dataclasses.replace(plain, value=value, decimals=decimals, note=note)
    assert claim.half_digit == pytest.approx(half)


def test_claims_of_the_same_quantity_epoch_and_value_are_one_figure() -> None:
    """Claims that are judged by a number and agree in all these are one figure, with the same first claim."""
    firsts: dict[tuple[str, ...], str] = {}
    for claim in ledger().claims.values():
        its = rule(claim)
        if its.why or its.true is not None or claim.number is None or claim.quantity == "split_share_pct":
            continue
        key = (claim.quantity, claim.pathway, str(claim.epoch), str(claim.value))
        first = ledger().repeats.get(claim.id, claim.id)
        assert firsts.setdefault(key, first) == first, claim.id


def test_a_repeated_figure_has_the_rule_of_the_first_claim_that_states_it() -> None:
    order = list(ledger().claims)
    for again, first in ledger().repeats.items():
        assert order.index(first) < order.index(again)
        assert first not in ledger().repeats
        assert ledger().claims[first].value == ledger().claims[again].value
        assert rule(ledger().claims[again]).words == rule(ledger().claims[first]).words
        assert again not in RULES


def test_every_line_of_the_report_with_a_claim_is_indexed() -> None:
    assert set(ledger().lines) == set(ledger().claims)
    assert all(lines and list(lines) == sorted(set(lines)) and lines[0] >= 1 and lines[-1] <= 540
               for lines in ledger().lines.values())


# Rules


@pytest.mark.parametrize("claim", ledger().claims.values(), ids=lambda c: c.id)
def test_every_claim_has_a_rule_in_words(claim: Claim) -> None:
    its = rule(claim)
    first = ledger().claims[ledger().repeats.get(claim.id, claim.id)]
    assert first.id in RULES or first.untestable or first.quantity in BY_QUANTITY
    if its.why:
        return
    assert (its.fact is not None) + (its.ends is not None) + (its.measure is not None) == 1
    assert its.of[0].isupper() or its.of[0] in "βρλτ-", its.of
    assert "{" not in its.words
    assert its.words.endswith(".")
    assert ".." not in its.words
    if its.true is not None:
        family = rf" \({DIFFERENCES} comparisons\)" if its.comparisons else " in every run"
        assert re.search(rf"{re.escape(its.true.words)}{family}", its.words)
        assert re.search(r"\d", its.true.words)
    elif its.fact is None:
        assert "95 %" in its.words
        assert isinstance(claim.value, list) if its.ends is not None else claim.number is not None
    assert (its.baseline is None) == (its.beats == "")
    assert (its.order is None) == (its.way == "")
    if its.baseline is not None:
        assert its.beats in its.words


def test_every_rule_belongs_to_a_claim() -> None:
    assert set(RULES) <= set(ledger().claims)


def test_every_comparison_with_a_counterfactual_has_an_interval_of_one_family() -> None:
    """A statement that reads a counterfactual is judged by an interval, not by counting runs."""
    for name, its in RULES.items():
        if its.true is not None and any("counterfactual" in need.words for need in its.needs):
            assert its.comparisons == DIFFERENCES, name
    assert sum(its.comparisons > 0 for its in RULES.values()) == DIFFERENCES


# Evidence


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return collect_evidence(["v5_5"])


def test_every_shipped_counterfactual_can_be_a_control_of_v5_5() -> None:
    plain = load_config("v5_5").model_dump(exclude=CHANGES)
    for counterfactual in shipped_counterfactuals():
        assert load_config("v5_5", counterfactual.set).model_dump(exclude=CHANGES) == plain, counterfactual.name


def test_measures_of_a_recipe_are_those_of_its_last_epoch(evidence: Evidence) -> None:
    table = read_csv(PUBLISHED / "recipes.csv")
    for run in evidence.runs:
        rows = table[(table["recipe"] == "ablations/statenet_off") & (table["seed"] == run.seed)]
        for p in ("A", "B"):
            row = rows[(rows["pathway"] == p) & (rows["epoch"] == 103)]
            assert row["neg_elbo"].tolist() == [run.of_table(f"ablations/statenet_off: neg_elbo_{p}")]


def test_the_untrained_networks_are_those_from_which_the_runs_start(evidence: Evidence) -> None:
    """Their counts agree with the expected counts of the same networks, up to the chance of one count."""
    expected = initial_networks([run.seed for run in evidence.runs[:2]])
    for p in ("A", "B"):
        rows = expected[expected["pathway"] == p]["coverage_195000"].tolist()
        assert evidence.untrained_coverage[p][:2] == pytest.approx(rows, abs=0.1)
        assert len(evidence.untrained_coverage[p]) == len(evidence.runs)


@pytest.mark.parametrize("epoch", [0, 10, 50, 60, 69, 70, 100])
def test_every_reading_of_sampled_coverage_has_the_same_baseline(evidence: Evidence, epoch: int) -> None:
    for claim in ledger().claims.values():
        if claim.epoch == epoch and claim.quantity in ("coverage_sampled_pct", "coverage_peak_pct"):
            its = rule(claim)
            pathway = claim.pathway if claim.pathway in ("A", "B") else "A"
            if its.epochs is not None:
                assert its.baseline is not None, claim.id
                least = min(evidence.untrained_coverage[pathway])
                assert its.baseline(evidence) == (least >= (claim.number or 0)), claim.id


def test_moving_the_jump_is_judged_as_in_the_study_of_the_disruption(evidence: Evidence) -> None:
    """The fair comparisons are those of notebook 04, so the claim is not reproduced where that decides nothing."""
    final = final_outcomes(load_branches())
    rows = final.set_index(["name", "comparison", "seed"])["informative_coverage"]
    for comparison in FAIR:
        for run in evidence.runs:
            if "jump_at_40" in run.controls:
                name = f"same {comparison}"
                expected = rows["jump_at_40", name, run.seed] - run.cycle("informative_coverage")
                found = RULES["rec-shift-beta-b-warmup"].also[comparison](run)
                assert found == pytest.approx(expected, abs=1e-9)


# The published runs


@pytest.fixture(scope="module")
def published(evidence: Evidence) -> Mapping[str, Judgement]:
    return {j.claim.id: j for j in judge_all(evidence)}


def test_every_claim_has_a_verdict_and_a_value_or_a_note(published: Mapping[str, Judgement]) -> None:
    assert set(published) == set(ledger().claims)
    assert {j.verdict for j in published.values()} == set(Verdict)
    for j in published.values():
        assert j.note or j.verdict is not Verdict.UNTESTABLE, j.claim.id
        assert j.measured is not None or j.verdict is Verdict.UNTESTABLE, j.claim.id
        assert "{" not in j.note
        assert "nan" not in j.note.split(), j.claim.id
        assert j.lines == ledger().lines[j.claim.id]
        assert j.evidence or j.verdict is Verdict.UNTESTABLE, j.claim.id
        assert j.rule.startswith(rule(j.claim).words)
        assert ("Direction: " in j.rule) or j.verdict is not Verdict.DIRECTION, j.claim.id


MISSING = [
    c.name for c in shipped_counterfactuals() if not (PUBLISHED / "counterfactuals" / c.name).is_dir()
]


@pytest.mark.skipif(bool(MISSING), reason=f"these counterfactuals are not published yet: {', '.join(MISSING)}")
def test_no_claim_is_untestable_for_want_of_a_published_run(published: Mapping[str, Judgement]) -> None:
    for j in published.values():
        first = ledger().claims[j.same_as or j.claim.id]
        assert (j.verdict is Verdict.UNTESTABLE) == bool(first.untestable), (j.claim.id, j.note)


def test_the_shown_interval_and_the_shown_count_decide(published: Mapping[str, Judgement]) -> None:
    supports = {Verdict.REPRODUCED, Verdict.ARTEFACT, Verdict.TOO_WIDE}
    for j in published.values():
        if j.holds is not None:
            assert j.holds[1] == len(j.values) == j.runs
        if j.holds is not None and j.interval is not None:
            true = rule(j.claim).true
            assert true is not None
            met = [true(end) for end in j.interval]
            assert (j.verdict is Verdict.REPRODUCED) == all(met), j.claim.id
            assert (j.verdict is Verdict.UNDECIDED) == (any(met) and not all(met)), j.claim.id
        elif j.holds is not None:
            assert (j.verdict in supports) == (j.holds[0] == j.holds[1]) or j.verdict is Verdict.CONTRADICTS, j.claim.id
        elif j.interval is not None:
            number, half = j.claim.number, j.claim.half_digit * (1 + 1e-6)
            assert number is not None
            inside = j.interval[0] - half <= number <= j.interval[1] + half
            assert (j.verdict in supports) == inside or j.verdict is Verdict.CONTRADICTS, j.claim.id
            assert j.interval[0] <= j.interval[1]
            assert j.verdict is not Verdict.UNTESTABLE


def test_one_figure_has_one_verdict(published: Mapping[str, Judgement]) -> None:
    for again, first in ledger().repeats.items():
        one, other = published[first], published[again]
        assert other.same_as == first
        assert dataclasses.replace(one, claim=other.claim, lines=other.lines, same_as=first) == other
    assert {j.claim.id for j in published.values() if j.same_as} == set(ledger().repeats)


def test_a_missing_value_of_one_run_is_never_taken_for_missing_evidence(evidence: Evidence) -> None:
    """Judge every claim by runs of which one has only nan: it must raise, or not read that run's numbers at all."""
    def without(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(**dict.fromkeys(table.columns, np.nan))

    def emptied(run: SeedEvidence) -> SeedEvidence:
        return dataclasses.replace(
            run, history=without(run.history), probes=without(run.probes),
            measures=dict.fromkeys(run.measures, np.nan),
            controls={name: emptied(control) for name, control in run.controls.items()},
        )
    broken = Evidence([emptied(evidence.runs[0]), *evidence.runs[1:]])
    messages: dict[str, str] = {}
    for claim in ledger().claims.values():
        its = rule(claim)
        if its.why or its.fact is not None:
            continue
        try:
            judgement = judge(claim, its, broken, ledger(), [])
        except RuntimeError as error:
            messages[claim.id] = str(error)
        else:
            untouched = judge(claim, its, evidence, ledger(), [])
            assert judgement.values == untouched.values, claim.id
            assert judgement.values or judgement.verdict is Verdict.UNTESTABLE
    assert len(messages) > 100
    assert all(f"claim {name}: " in message and f"seed {evidence.runs[0].seed}" in message
               for name, message in messages.items())


@pytest.mark.parametrize(("claim", "verdict"), [
    ("param-count-total", Verdict.EXACT), ("split-size-train", Verdict.EXACT), ("rho-epoch-103", Verdict.EXACT),
    ("beta-a-start", Verdict.CONTRADICTS), ("beta-a-zero-at-epoch-0", Verdict.EXACT),
    ("coverage-over-98-from-60", Verdict.CONTRADICTS), ("coverage-b-epoch-60", Verdict.ARTEFACT),
    ("train-loss-epoch-51", Verdict.REPRODUCED), ("mechanism-kl-enforcement", Verdict.REPRODUCED),
    ("beta-b-end", Verdict.DIRECTION), ("entropy-max-log2-16", Verdict.NOT), ("v5-4-peak", Verdict.UNTESTABLE),
    ("coverage-headline", Verdict.ARTEFACT), ("coverage-a-epoch-49", Verdict.TOO_WIDE),
    ("loss-spike-pct", Verdict.TOO_WIDE), ("val-loss-late-range", Verdict.REPRODUCED),
    ("phase-1-independent-aim", Verdict.NOT), ("no-posterior-collapse", Verdict.DIRECTION),
    ("conclusion-gpu-efficient", Verdict.UNTESTABLE),
    ("config-all-validated", Verdict.NOT), ("v5-5-uses-hash", Verdict.EXACT), ("path-report", Verdict.EXACT),
    ("temperature-b-end", Verdict.DIRECTION), ("seed-reproducible", Verdict.NOT),
])
def test_some_verdicts_that_must_not_change(published: Mapping[str, Judgement], claim: str, verdict: Verdict) -> None:
    assert published[claim].verdict is verdict, published[claim]


@pytest.mark.parametrize("claim", ["kl-b-epoch-50", "kl-a-epoch-50", "entropy-b-epoch-50", "entropy-a-epoch-50"])
def test_values_that_belong_to_epoch_49_have_a_note(published: Mapping[str, Judgement], claim: str) -> None:
    assert "epoch 49" in published[claim].note


def test_every_claim_is_in_one_group_of_the_headline(published: Mapping[str, Judgement]) -> None:
    found = headline(list(published.values()))
    assert found.total == 295 == found.configuration + found.repeated + found.untestable + found.tested
    assert set(found.verdicts) == set(Verdict) - {Verdict.UNTESTABLE}
    distinct = [j for j in published.values() if j.claim.kind not in CONFIGURATION and not j.same_as]
    for verdict, count in found.verdicts.items():
        assert count == sum(j.verdict is verdict for j in distinct)


def test_the_table_has_a_row_per_claim(published: Mapping[str, Judgement]) -> None:
    rows = claims_table(list(published.values()))
    assert rows["id"].tolist() == list(published)
    assert list(rows.columns) == [
        "id", "lines", "section", "kind", "pathway", "epoch", "statement", "claimed", "measured", "low", "high", "runs",
        "interval_low", "interval_high", "holds", "verdict", "rule", "evidence", "same_as", "note",
    ]
    row = rows.set_index("id").loc["transition-smooth"]
    assert row["holds"] == "7 of 8"
    assert pd.isna(row["interval_low"])


def test_the_command_prints_every_claim_as_json() -> None:
    result = CliRunner().invoke(main, ["claims", "v5_5", "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert len(rows) == 295
    assert set(rows[0]) == {
        "id", "claimed", "measured", "low", "high", "runs", "verdict", "note", "rule", "interval", "values", "holds",
        "evidence", "lines", "same_as",
    }


def test_the_command_prints_the_rule_and_what_decides(
    published: Mapping[str, Judgement], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ternary_lab.studies.report.judge_runs", lambda *_, **__: list(published.values()))
    result = CliRunner().invoke(main, ["claims", "v5_5"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    for j in published.values():
        place = next(i for i, line in enumerate(lines) if line.startswith(f"{j.claim.id}: "))
        assert lines[place].endswith(f"; {j.verdict}")
        assert ("one more seed" in lines[place]) == (j.interval is not None and j.holds is None)
        assert ("mean difference" in lines[place]) == (j.interval is not None and j.holds is not None)
        assert lines[place + 1].strip() == (f"The same figure as {j.same_as}." if j.same_as else j.rule)
    assert lines[-1].startswith("295 claims: ")


@pytest.mark.parametrize("source", ["ablations/all_repaired", "generalisation/train_1"])
def test_runs_that_measure_less_are_judged_by_what_they_measure(source: str) -> None:
    """Runs without coverage at every epoch, without checkpoints or without counterfactuals raise nothing."""
    found = judge_runs([source])
    less = {j.note for j in found if j.verdict is Verdict.UNTESTABLE and not rule(j.claim).why}
    assert less
    assert all(note.startswith("The runs given ") for note in less)
    assert any(j.verdict in (Verdict.REPRODUCED, Verdict.NOT) and j.values for j in found)


def test_runs_must_begin_with_epoch_0() -> None:
    with pytest.raises(RunError, match="begins with epoch 50"):
        judge_runs(["counterfactuals/nothing_at_50"])


def test_one_run_is_not_enough() -> None:
    with pytest.raises(RunError, match="no spread"):
        judge_runs(["v5_5/seed=42"])
    with pytest.raises(RunError, match="seed 42 is given twice"):
        judge_runs(["v5_5", "v5_5/seed=42"])

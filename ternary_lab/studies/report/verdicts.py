"""Rules that test claims, and the verdicts that follow from them.

A claim gets the first verdict that applies: not testable here; exact; contradicts itself; artefact of the metric;
reproduced; direction only; not reproduced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import median
from typing import Any

from ternary_lab.studies.report.evidence import Evidence, SeedEvidence
from ternary_lab.studies.report.ledger import Claim, Contradiction, Ledger, Value
from ternary_lab.studies.statistics import prediction_interval

Measure = Callable[[SeedEvidence], float]
ROUNDING = 1e-12
"""Tolerance of comparisons at a printed digit, for float rounding."""


class Verdict(StrEnum):
    UNTESTABLE = "not testable here"
    EXACT = "exact"
    CONTRADICTS = "contradicts itself"
    ARTEFACT = "artefact of the metric"
    REPRODUCED = "reproduced"
    DIRECTION = "direction only"
    NOT = "not reproduced"


@dataclass(frozen=True)
class Rule:
    """The test of a claim. `note` is a sentence in which {median}, {low}, {high}, {n} and {also} are filled in."""

    note: str = ""
    why: str = ""
    """Reason why the claim cannot be tested here; then only `note`, `measure` and `also` are used."""
    fact: Callable[[Evidence], Any] | None = None
    """A value of the lab's configuration, data or architecture: exact if it equals the claimed value."""
    measure: Measure | None = None
    """A number per run, which is compared with the claimed number or judged by `true`."""
    ends: tuple[Measure, Measure] | None = None
    """Two numbers per run, which are compared with the ends of the claimed range."""
    true: Callable[[float], bool] | None = None
    """The condition of a statement, which the number of every run must meet."""
    order: Callable[[SeedEvidence], bool] | None = None
    """The sign, order or inequality that the claim implies."""
    baseline: Callable[[Evidence], bool] | None = None
    """Whether an untrained network gives the claimed value too."""
    epochs: Callable[[int], Measure] | None = None
    """`measure` at any epoch, to test neighbouring epochs."""
    also: Callable[[SeedEvidence], float] | None = None
    """A second number per run; its median is {also} in the note."""


@dataclass(frozen=True)
class Judgement:
    """A claim, the measured value and the verdict. Low and high are the least and greatest values of the runs."""

    claim: Claim
    measured: Value
    low: float | None
    high: float | None
    runs: int
    verdict: Verdict
    note: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.claim.id, "claimed": self.claim.value if self.claim.number is not None else self.claim.claimed,
            "measured": self.measured, "low": self.low, "high": self.high, "runs": self.runs,
            "verdict": str(self.verdict), "note": self.note,
        }


def predicts(values: Sequence[float], value: float, half_digit: float = 0.0) -> bool:
    """Whether a printed value, plus or minus half of its last digit, lies in the prediction interval of the values."""
    low, high = prediction_interval(values)
    slack = half_digit * (1 + 1e-9) + ROUNDING
    return low - slack <= value <= high + slack


def judge(
    claim: Claim, rule: Rule, evidence: Evidence, ledger: Ledger, siblings: Sequence[tuple[Claim, Rule]]
) -> Judgement:
    """The verdict on one claim. `siblings` are the claims of the same quantity and pathway, with their rules."""
    if rule.why:
        return _judgement(claim, rule, evidence, ledger, Verdict.UNTESTABLE, None, rule.why)
    if rule.fact is not None:
        return _of_fact(claim, rule, evidence, ledger)
    if rule.ends is not None:
        return _of_range(claim, rule, evidence, ledger)
    assert rule.measure is not None
    values = _values(rule.measure, evidence)
    if len(values) < 2:
        return _judgement(claim, rule, evidence, ledger, Verdict.UNTESTABLE, None, _missing(claim))
    if rule.true is not None:
        holds = all(map(rule.true, values))
    else:
        assert claim.number is not None, f"{claim.id} needs a rule of its own"
        holds = predicts(values, claim.number, claim.half_digit)
    verdict = _verdict(claim, rule, evidence, ledger, holds, _order(claim, rule, siblings))
    return _judgement(claim, rule, evidence, ledger, verdict, values, _neighbour(claim, rule, evidence, holds))


def _of_fact(claim: Claim, rule: Rule, evidence: Evidence, ledger: Ledger) -> Judgement:
    assert rule.fact is not None
    value = rule.fact(evidence)
    if isinstance(value, int | float) and not isinstance(value, bool) and claim.number is not None:
        equal = abs(value - claim.number) <= claim.half_digit * (1 + 1e-9) + ROUNDING
    else:
        equal = value == claim.value
    verdict = Verdict.EXACT if equal else _verdict(claim, rule, evidence, ledger, False, rule.order)
    return _judgement(claim, rule, evidence, ledger, verdict, None, "", measured=value)


def _of_range(claim: Claim, rule: Rule, evidence: Evidence, ledger: Ledger) -> Judgement:
    assert rule.ends is not None
    lows, highs = (_values(end, evidence) for end in rule.ends)
    if len(lows) < 2:
        return _judgement(claim, rule, evidence, ledger, Verdict.UNTESTABLE, None, _missing(claim))
    assert isinstance(claim.value, list)
    half = 0.5 * math.pow(10, -(claim.decimals or 0))
    holds = predicts(lows, float(claim.value[0]), half) and predicts(highs, float(claim.value[1]), half)
    verdict = _verdict(claim, rule, evidence, ledger, holds, rule.order)
    found = f"{median(lows):.4g} to {median(highs):.4g}"
    judgement = _judgement(claim, rule, evidence, ledger, verdict, None, "", measured=found, runs=len(lows))
    return replace(judgement, low=min(lows), high=max(highs))


def _verdict(
    claim: Claim, rule: Rule, evidence: Evidence, ledger: Ledger, holds: bool,
    order: Callable[[SeedEvidence], bool] | None,
) -> Verdict:
    if not holds and _against(claim, rule, ledger):
        return Verdict.CONTRADICTS
    if holds:
        return Verdict.ARTEFACT if rule.baseline is not None and rule.baseline(evidence) else Verdict.REPRODUCED
    return Verdict.DIRECTION if order is not None and all(map(order, evidence.runs)) else Verdict.NOT


def _against(claim: Claim, rule: Rule, ledger: Ledger) -> list[Contradiction]:
    """The hard contradictions that speak against a claim which the runs do not support.

    A number at one epoch may refute a general statement without being wrong itself: only other numbers contradict it.
    """
    hard = ledger.hard(claim.id)
    return [c for c in hard if c.kind == "arithmetic"] if rule.epochs is not None else hard


def _order(claim: Claim, rule: Rule, siblings: Sequence[tuple[Claim, Rule]]) -> Callable[[SeedEvidence], bool] | None:
    """The rule's own order; else the printed order between this epoch and the nearest earlier one (or any nearest)."""
    if rule.order is not None or rule.true is not None or rule.epochs is None or claim.number is None:
        return rule.order
    others = [
        other for other, its in siblings
        if its.epochs is not None and other.number is not None and other.number != claim.number
        and isinstance(other.epoch, int) and other.epoch != claim.epoch
    ]
    if not others or not isinstance(claim.epoch, int):
        return None
    here = claim.epoch
    earlier = [c for c in others if isinstance(c.epoch, int) and c.epoch < here]
    near = min(earlier or others, key=lambda c: abs(c.span[0] - here))
    assert near.number is not None
    at, sign = rule.epochs, math.copysign(1, claim.number - near.number)
    return lambda run: (at(here)(run) - at(near.span[0])(run)) * sign > 0


def _neighbour(claim: Claim, rule: Rule, evidence: Evidence, holds: bool) -> str:
    if holds or rule.epochs is None or claim.number is None or not isinstance(claim.epoch, int):
        return ""
    for epoch in (claim.epoch - 1, claim.epoch + 1):
        values = _values(rule.epochs(epoch), evidence)
        if len(values) >= 2 and predicts(values, claim.number, claim.half_digit):
            return (
                f"The runs show this figure at epoch {epoch} (median {median(values):.4g}), not at {claim.epoch}: "
                "the cell is probably labelled one epoch off."
            )
    return ""


def _values(measure: Measure, evidence: Evidence) -> list[float]:
    """The measure of every run that has it."""
    return [value for value in map(measure, evidence.runs) if not math.isnan(value)]


def _missing(claim: Claim) -> str:
    first, last = claim.span
    where = f"epoch {first}" if first == last else f"epochs {first} to {last}"
    return f"The runs given have no weights, rows or counterfactuals that would show it ({where})."


def _judgement(
    claim: Claim, rule: Rule, evidence: Evidence, ledger: Ledger, verdict: Verdict, values: Sequence[float] | None,
    note: str, *, measured: Value = None, runs: int = 0,
) -> Judgement:
    if values is None and rule.measure is not None:
        values = _values(rule.measure, evidence)
    figures: dict[str, Any] = {}
    if values:
        measured, runs = median(values), len(values)
        figures = {"median": measured, "low": min(values), "high": max(values), "n": runs}
    also = _values(rule.also, evidence) if rule.also is not None else []
    text = rule.note
    if ("{also" in text and not also) or (rule.measure is not None and not values):
        text = ""
    figures["also"] = median(also) if also else math.nan
    sentences = [sentence for sentence in (note, text.format(**figures)) if sentence]
    if verdict is Verdict.CONTRADICTS:
        against = "; ".join(c.arithmetic for c in _against(claim, rule, ledger))
        sentences.insert(0, f"In the report itself: {against}.")
    return Judgement(
        claim, measured, figures.get("low"), figures.get("high"), runs, verdict, " ".join(sentences)
    )

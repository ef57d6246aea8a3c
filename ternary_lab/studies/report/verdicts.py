"""Rules that test claims, and the verdicts that follow from the rules.

A claim gets the first of these verdicts whose condition holds:

    not testable here         the ledger gives a reason, or fewer than two runs have the measured value
    exact                     the configuration, the data or the architecture has the claimed value, as printed
    contradicts itself        the runs do not support the claim, and the report itself contradicts the claim
    artefact of the metric    the runs support the claim, but so does, for example, an untrained network
    reproduced                the runs support the claim
    direction only            the runs do not support the claim, but every run has the claimed sign or order
    not reproduced            none of the conditions above holds
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import median
from typing import Any

from ternary_lab.studies.report.evidence import Evidence, SeedEvidence
from ternary_lab.studies.report.ledger import Claim, Contradiction, Ledger, Value
from ternary_lab.studies.statistics import prediction_interval

Measure = Callable[[SeedEvidence], float]
ROUNDING = 1e-12
"""Tolerance for float rounding when values are compared at a printed digit."""


class Verdict(StrEnum):
    UNTESTABLE = "not testable here"
    EXACT = "exact"
    CONTRADICTS = "contradicts itself"
    TOO_WIDE = "too wide to tell"
    ARTEFACT = "artefact of the metric"
    REPRODUCED = "reproduced"
    DIRECTION = "direction only"
    NOT = "not reproduced"


@dataclass(frozen=True)
class Rule:
    """The test of a claim.

    `note` is a text in which {median}, {low}, {high}, {n} and {also} are filled in.
    """

    note: str = ""
    why: str = ""
    """Reason why the claim cannot be tested here. With a reason, only `note`, `measure` and `also` are used."""
    fact: Callable[[Evidence], Any] | None = None
    """A value of the configuration, data or architecture. The claim is exact if it has this value."""
    measure: Measure | None = None
    """A number per run, which is compared with the claimed number or judged by `true`."""
    ends: tuple[Measure, Measure] | None = None
    """Two numbers per run, which are compared with the ends of the claimed range."""
    true: Callable[[float], bool] | None = None
    """The condition of a statement. The number of every run must meet this condition."""
    order: Callable[[SeedEvidence], bool] | None = None
    """The sign, order or inequality that the claim implies."""
    baseline: Callable[[Evidence], bool] | None = None
    """Condition under which a claim that holds proves nothing, for example because untrained networks meet it too."""
    epochs: Callable[[int], Measure] | None = None
    """`measure` at any epoch, for a test of neighbouring epochs."""
    also: Callable[[SeedEvidence], float] | None = None
    """A second number per run. The median of this number is {also} in the note."""


@dataclass(frozen=True)
class Judgement:
    """A claim with the measured value and the verdict.

    `low` and `high` are the least and the greatest values of the runs. They describe the runs and decide nothing.
    """

    claim: Claim
    measured: Value
    low: float | None
    high: float | None
    runs: int
    verdict: Verdict
    note: str
    rule: str = ""
    """The test in words, with its threshold."""
    interval: tuple[float, float] | None = None
    """The 95 % prediction interval for one more seed, if it decides. A range has one for each end, in `note`."""
    values: Mapping[int, float] = field(default_factory=dict)
    """The measured value of each seed. It is empty if the claim is not decided by runs."""
    holds: tuple[int, int] | None = None
    """(k, n) if the claim is a statement that is true in k of n runs."""
    evidence: str = ""
    """What decides the claim, for example "8 runs of v5_5" or "the configuration"."""
    lines: tuple[int, ...] = ()
    """Lines of the report that contain the claim, counted from 1."""
    same_as: str = ""
    """The first claim of the report that states the same figure. It is empty for that claim itself."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.claim.id, "claimed": self.claim.value if self.claim.number is not None else self.claim.claimed,
            "measured": self.measured, "low": self.low, "high": self.high, "runs": self.runs,
            "verdict": str(self.verdict), "note": self.note, "rule": self.rule, "interval": self.interval,
            "values": dict(self.values), "holds": self.holds, "evidence": self.evidence, "lines": self.lines,
            "same_as": self.same_as,
        }


def predicts(values: Sequence[float], value: float, half_digit: float = 0.0) -> bool:
    """Return whether a printed value lies in the prediction interval of the values.

    The printed value is rounded, so a difference of up to `half_digit`, half a unit of its last digit, is allowed.
    """
    low, high = prediction_interval(values)
    slack = half_digit * (1 + 1e-9) + ROUNDING
    return low - slack <= value <= high + slack


def judge(
    claim: Claim, rule: Rule, evidence: Evidence, ledger: Ledger, siblings: Sequence[tuple[Claim, Rule]]
) -> Judgement:
    """Return the judgement on one claim.

    `siblings` are the claims about the same quantity and pathway, with their rules.
    """
    case = _Case(claim, rule, evidence, ledger)
    if rule.why:
        return case.judgement(Verdict.UNTESTABLE, rule.why)
    if rule.fact is not None:
        return case.of_fact(rule.fact(evidence))
    if rule.ends is not None:
        return case.of_range(*map(case.values, rule.ends))
    assert rule.measure is not None
    return case.of_measure(case.values(rule.measure), siblings)


@dataclass(frozen=True)
class _Case:
    """A claim, its rule and everything else on which the verdict depends."""

    claim: Claim
    rule: Rule
    evidence: Evidence
    ledger: Ledger

    def of_fact(self, value: Any) -> Judgement:
        number = self.claim.number
        if isinstance(value, int | float) and not isinstance(value, bool) and number is not None:
            equal = abs(value - number) <= self.claim.half_digit * (1 + 1e-9) + ROUNDING
        else:
            equal = value == self.claim.value
        return self.judgement(Verdict.EXACT if equal else self.verdict(False, self.rule.order), measured=value)

    def of_range(self, lows: Sequence[float], highs: Sequence[float]) -> Judgement:
        if len(lows) < 2:
            return self.missing()
        claimed = self.claim.value
        assert isinstance(claimed, list)
        half = 0.5 * math.pow(10, -(self.claim.decimals or 0))
        holds = predicts(lows, float(claimed[0]), half) and predicts(highs, float(claimed[1]), half)
        found = f"{median(lows):.4g} to {median(highs):.4g}"
        judgement = self.judgement(self.verdict(holds, self.rule.order), measured=found)
        return replace(judgement, low=min(lows), high=max(highs), runs=len(lows))

    def of_measure(self, values: Sequence[float], siblings: Sequence[tuple[Claim, Rule]]) -> Judgement:
        if len(values) < 2:
            return self.missing()
        if self.rule.true is not None:
            holds = all(map(self.rule.true, values))
        else:
            assert self.claim.number is not None, f"{self.claim.id} needs a rule of its own"
            holds = predicts(values, self.claim.number, self.claim.half_digit)
        return self.judgement(self.verdict(holds, self.order(siblings)), "" if holds else self.neighbour())

    def missing(self) -> Judgement:
        first, last = self.claim.span
        where = f"epoch {first}" if first == last else f"epochs {first} to {last}"
        reason = f"The runs given have no weights, rows or counterfactuals that would show it ({where})."
        return self.judgement(Verdict.UNTESTABLE, reason)

    def values(self, measure: Measure) -> list[float]:
        """Return the values of a measure for all runs in which the value is not nan."""
        return [value for value in map(measure, self.evidence.runs) if not math.isnan(value)]

    def verdict(self, holds: bool, order: Callable[[SeedEvidence], bool] | None) -> Verdict:
        """Return the verdict on a claim that is testable and not exact."""
        baseline = self.rule.baseline
        if not holds and self.against():
            return Verdict.CONTRADICTS
        if holds:
            return Verdict.ARTEFACT if baseline is not None and baseline(self.evidence) else Verdict.REPRODUCED
        return Verdict.DIRECTION if order is not None and all(map(order, self.evidence.runs)) else Verdict.NOT

    def against(self) -> list[Contradiction]:
        """Return the hard contradictions that speak against a claim that the runs do not support.

        A number at one epoch may refute a general statement without being wrong itself. Against such a number, only
        contradictions by arithmetic count.
        """
        hard = self.ledger.hard(self.claim.id)
        return [c for c in hard if c.kind == "arithmetic"] if self.rule.epochs is not None else hard

    def order(self, siblings: Sequence[tuple[Claim, Rule]]) -> Callable[[SeedEvidence], bool] | None:
        """Return the rule's own order or, if it has none, the printed order between this epoch and another epoch.

        The other epoch is the nearest earlier epoch for which the report prints a different number. If there is none,
        it is the nearest later epoch. The result is None if there is no order to test.
        """
        rule, number, here = self.rule, self.claim.number, self.claim.epoch
        if rule.order is not None or rule.true is not None or rule.epochs is None or number is None:
            return rule.order
        if not isinstance(here, int):
            return None
        others = {
            other.epoch: other.number for other, its in siblings
            if its.epochs is not None and other.number is not None and other.number != number
            and isinstance(other.epoch, int) and other.epoch != here
        }
        if not others:
            return None
        near = min([epoch for epoch in others if epoch < here] or others, key=lambda epoch: abs(epoch - here))
        at, sign = rule.epochs, math.copysign(1, number - others[near])
        return lambda run: (at(here)(run) - at(near)(run)) * sign > 0

    def neighbour(self) -> str:
        """Return a note if the claimed number is that of a neighbouring epoch, and an empty text otherwise."""
        number, here = self.claim.number, self.claim.epoch
        if self.rule.epochs is None or number is None or not isinstance(here, int):
            return ""
        for epoch in (here - 1, here + 1):
            values = self.values(self.rule.epochs(epoch))
            if len(values) >= 2 and predicts(values, number, self.claim.half_digit):
                return (
                    f"The runs show this figure at epoch {epoch} (median {median(values):.4g}), not at {here}: "
                    "the cell is probably labelled one epoch off."
                )
        return ""

    def judgement(self, verdict: Verdict, note: str = "", *, measured: Value = None) -> Judgement:
        """Return the judgement, with the values of the measure over runs and with the rule's note filled in."""
        values = self.values(self.rule.measure) if self.rule.measure is not None else []
        also = self.values(self.rule.also) if self.rule.also is not None else []
        figures: dict[str, Any] = {"also": median(also) if also else math.nan}
        if values:
            measured = median(values)
            figures |= {"median": measured, "low": min(values), "high": max(values), "n": len(values)}
        told = ("{also" not in self.rule.note or also) and (self.rule.measure is None or values)
        sentences = [note, self.rule.note.format(**figures) if told else ""]
        if verdict is Verdict.CONTRADICTS:
            sentences.insert(0, f"In the report itself: {'; '.join(c.arithmetic for c in self.against())}.")
        return Judgement(
            self.claim, measured, figures.get("low"), figures.get("high"), len(values), verdict,
            " ".join(filter(None, sentences)),
        )

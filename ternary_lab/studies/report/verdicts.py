"""A rule for every claim, and the verdict that it leads to.

The first verdict that applies is given: not testable here; exact; contradicts itself; artefact of the metric;
reproduced; direction only; not reproduced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import mean, median, stdev
from typing import Any

from scipy.special import stdtrit

from ternary_lab.studies.report.evidence import Run, Trial
from ternary_lab.studies.report.ledger import Claim, Contradiction, Ledger, Value

Measure = Callable[[Run], float]


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
    """How a claim is tested. `note` is a sentence; {median}, {low}, {high}, {n} and {also} are filled in."""

    note: str = ""
    why: str = ""
    """Why the claim cannot be tested here; then nothing else counts but `measure`, for the note."""
    fact: Callable[[Trial], Any] | None = None
    """What the lab's own object says: exact when it equals the claimed value."""
    measure: Measure | None = None
    """A number per run: held against the claimed number, or judged by `true`."""
    ends: tuple[Measure, Measure] | None = None
    """Two numbers per run, held against the ends of the claimed range."""
    true: Callable[[float], bool] | None = None
    """Of a statement: what must hold of the number in every run."""
    order: Callable[[Run], bool] | None = None
    """The sign, order or inequality that the claim implies."""
    baseline: Callable[[Trial], bool] | None = None
    """Whether something that learnt nothing gives the figure too."""
    epochs: Callable[[int], Measure] | None = None
    """`measure` at any epoch, to look at the neighbours."""
    also: Callable[[Run], float] | None = None
    """A second number for the note: its median."""


@dataclass(frozen=True)
class Interval:
    """Numbers of several runs, and where one more seed would fall with 95 % probability."""

    values: Sequence[float]

    @property
    def prediction(self) -> tuple[float, float]:
        """mean ± t s √(1 + 1/n), t the 97.5 % quantile of Student's distribution with n - 1 degrees of freedom."""
        n, centre = len(self.values), mean(self.values)
        if n < 2:
            return -math.inf, math.inf
        half = float(stdtrit(n - 1, 0.975)) * stdev(self.values) * math.sqrt(1 + 1 / n)
        return centre - half, centre + half

    def holds(self, value: float, half_digit: float = 0.0) -> bool:
        """Whether a value printed to some digit lies inside, at that digit."""
        low, high = self.prediction
        slack = half_digit * (1 + 1e-9) + 1e-12
        return low - slack <= value <= high + slack


@dataclass(frozen=True)
class Judgement:
    """A claim, what the runs say, and the verdict. Low and high are the least and the greatest of the runs."""

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


def judge(claim: Claim, rule: Rule, trial: Trial, ledger: Ledger, siblings: Sequence[tuple[Claim, Rule]]) -> Judgement:
    """The verdict on one claim. `siblings` are the claims of the same quantity and pathway, with their rules."""
    if rule.why:
        return _judgement(claim, rule, trial, ledger, Verdict.UNTESTABLE, None, rule.why)
    if rule.fact is not None:
        return _of_fact(claim, rule, trial, ledger)
    if rule.ends is not None:
        return _of_range(claim, rule, trial, ledger)
    assert rule.measure is not None
    values = _values(rule.measure, trial)
    if len(values) < 2:
        return _judgement(claim, rule, trial, ledger, Verdict.UNTESTABLE, None, _missing(claim))
    interval = Interval(values)
    if rule.true is not None:
        holds = all(map(rule.true, values))
    else:
        assert claim.number is not None, f"{claim.id} needs a rule of its own"
        holds = interval.holds(claim.number, claim.half_digit)
    verdict = _verdict(claim, rule, trial, ledger, holds, _order(claim, rule, siblings))
    return _judgement(claim, rule, trial, ledger, verdict, values, _neighbour(claim, rule, trial, holds))


def _of_fact(claim: Claim, rule: Rule, trial: Trial, ledger: Ledger) -> Judgement:
    assert rule.fact is not None
    value = rule.fact(trial)
    if isinstance(value, int | float) and not isinstance(value, bool) and claim.number is not None:
        equal = abs(value - claim.number) <= claim.half_digit * (1 + 1e-9) + 1e-12
    else:
        equal = value == claim.value
    verdict = Verdict.EXACT if equal else _verdict(claim, rule, trial, ledger, False, rule.order)
    return _judgement(claim, rule, trial, ledger, verdict, None, "", measured=value)


def _of_range(claim: Claim, rule: Rule, trial: Trial, ledger: Ledger) -> Judgement:
    assert rule.ends is not None
    lows, highs = (_values(end, trial) for end in rule.ends)
    if len(lows) < 2:
        return _judgement(claim, rule, trial, ledger, Verdict.UNTESTABLE, None, _missing(claim))
    assert isinstance(claim.value, list)
    half = 0.5 * math.pow(10, -(claim.decimals or 0))
    low, high = float(claim.value[0]), float(claim.value[1])
    holds = Interval(lows).holds(low, half) and Interval(highs).holds(high, half)
    verdict = _verdict(claim, rule, trial, ledger, holds, rule.order)
    found = f"{median(lows):.4g} to {median(highs):.4g}"
    judgement = _judgement(claim, rule, trial, ledger, verdict, None, "", measured=found, runs=len(lows))
    return Judgement(claim, found, min(lows), max(highs), len(lows), verdict, judgement.note)


def _verdict(
    claim: Claim, rule: Rule, trial: Trial, ledger: Ledger, holds: bool,
    order: Callable[[Run], bool] | None,
) -> Verdict:
    if not holds and _against(claim, rule, ledger):
        return Verdict.CONTRADICTS
    if holds and rule.baseline is not None and rule.baseline(trial):
        return Verdict.ARTEFACT
    if holds:
        return Verdict.REPRODUCED
    if order is not None and all(map(order, trial.runs)):
        return Verdict.DIRECTION
    return Verdict.NOT


def _against(claim: Claim, rule: Rule, ledger: Ledger) -> list[Contradiction]:
    """The hard contradictions that speak against a claim which the runs do not support.

    A figure read off at one epoch is what a sweeping statement is refuted by, whatever its own digits: only
    other figures can contradict it.
    """
    hard = ledger.hard(claim.id)
    return [c for c in hard if c.kind == "arithmetic"] if rule.epochs is not None else hard


def _order(claim: Claim, rule: Rule, siblings: Sequence[tuple[Claim, Rule]]) -> Callable[[Run], bool] | None:
    """The rule's own; else the order that the report prints between this epoch and the nearest earlier one."""
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


def _neighbour(claim: Claim, rule: Rule, trial: Trial, holds: bool) -> str:
    if holds or rule.epochs is None or claim.number is None or not isinstance(claim.epoch, int):
        return ""
    for epoch in (claim.epoch - 1, claim.epoch + 1):
        values = _values(rule.epochs(epoch), trial)
        if len(values) >= 2 and Interval(values).holds(claim.number, claim.half_digit):
            return (
                f"The runs show this figure at epoch {epoch} (median {median(values):.4g}), not at {claim.epoch}: "
                "the cell is probably labelled one epoch off."
            )
    return ""


def _values(measure: Measure, trial: Trial) -> list[float]:
    """The number of every run that has it."""
    return [value for value in map(measure, trial.runs) if not math.isnan(value)]


def _missing(claim: Claim) -> str:
    first, last = claim.span
    where = f"epoch {first}" if first == last else f"epochs {first} to {last}"
    return f"The runs given have no weights, rows or counterfactuals that would show it ({where})."


def _judgement(
    claim: Claim, rule: Rule, trial: Trial, ledger: Ledger, verdict: Verdict, values: Sequence[float] | None, note: str,
    *, measured: Value = None, runs: int = 0,
) -> Judgement:
    if values is None and rule.measure is not None:
        values = _values(rule.measure, trial)
    figures: dict[str, Any] = {}
    if values:
        measured, runs = median(values), len(values)
        figures = {"median": measured, "low": min(values), "high": max(values), "n": runs}
    also = _values(rule.also, trial) if rule.also is not None else []
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

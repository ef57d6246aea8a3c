"""Verdicts, the rules that lead to them, and judgements.

A claim gets the first of these verdicts whose condition holds:

    not testable here         the ledger gives a reason, or fewer than two runs have the evidence that the rule needs
    exact                     the configuration, the data, the architecture or the original's code has the claimed
                              value, as printed
    too wide to tell          the interval decides nothing: it contains the number, and almost any other number too
    not decided               the interval of a difference contains the limit, so it may lie on either side
    contradicts itself        a hard contradiction of the report speaks against the claim (see below)
    artefact of the metric    the runs support the claim, but so does, for example, an untrained network
    reproduced                the runs support the claim
    direction only            the runs do not support the claim, but every run has the claimed sign or order, which the
                              rule then names
    not reproduced            none of the conditions above holds

The runs support a number that lies in the 95 % prediction interval for one more seed. They support a range if they
support both of its ends, and a statement if it is true in every run. They support a difference from other runs of the
same seeds, for example from a counterfactual, if the whole interval of the mean difference meets the condition.

A contradiction speaks against a claim that the runs do not support. It also speaks against a claim that they support,
if they support all other claims of the contradiction too: these claims cannot all be true, so the runs cannot settle
it. A measured figure that the report prints is the exception if the runs support it, because the contradiction lies in
what the report concludes from such figures. A printed value of one epoch that the runs do not support is contradicted
only by arithmetic on printed values.

A prediction interval is too wide if half of its width is more than half of the claimed number or, for a share in
percent, if its width is more than 50 points. A relative change in percent is not a share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from statistics import median
from typing import Any

from ternary_lab.studies.report.conditions import BOUNDS, Condition, Need, reaches
from ternary_lab.studies.report.evidence import Evidence, MissingValueError, NotMeasuredError, SeedEvidence
from ternary_lab.studies.report.ledger import Claim, Contradiction, Ledger, Value
from ternary_lab.studies.statistics import PERCENT, Bounds, interval, prediction_interval

Measure = Callable[[SeedEvidence], float]
ROUNDING = 1e-12
"""Tolerance for float rounding when values are compared at a printed digit."""
WIDE_SHARE, WIDE_POINTS = 0.5, 50.0
"""An interval is too wide if half of its width is above this share of the number, or its width above these points."""


class Verdict(StrEnum):
    UNTESTABLE = "not testable here"
    EXACT = "exact"
    CONTRADICTS = "contradicts itself"
    TOO_WIDE = "too wide to tell"
    UNDECIDED = "not decided"
    ARTEFACT = "artefact of the metric"
    REPRODUCED = "reproduced"
    DIRECTION = "direction only"
    NOT = "not reproduced"


@dataclass(frozen=True)
class Rule:
    """The test of a claim."""

    of: str = ""
    """Words for the measured number or the fact."""
    note: str = ""
    """A text in which {median}, {low}, {high}, {n} and the names in `also` are filled in."""
    why: str = ""
    """Reason why the claim cannot be tested here. With a reason, only `note` and `also` are used."""
    fact: Callable[[Evidence], Any] | None = None
    """A value of the configuration, data, architecture or original. The claim is exact if it has this value."""
    source: str = "the configuration"
    """The source of `fact`, in words."""
    measure: Measure | None = None
    """A number per run, which is compared with the claimed number or judged by `true`."""
    ends: tuple[Measure, Measure] | None = None
    """Two numbers per run, which are compared with the ends of the claimed range."""
    true: Condition | None = None
    """The condition of a statement. The number of every run must meet this condition."""
    comparisons: int = 0
    """Number of comparisons in the family of a difference, among which its interval is simultaneous; otherwise 0."""
    order: Callable[[SeedEvidence], bool] | None = None
    """The sign, order or inequality that the claim implies."""
    way: str = ""
    """`order` in words."""
    baseline: Callable[[Evidence], bool] | None = None
    """Condition under which a claim that holds proves nothing, for example because untrained networks meet it too."""
    beats: str = ""
    """`baseline` in words."""
    epochs: Callable[[int], Measure] | None = None
    """`measure` at any epoch. Only a rule that reads a printed value of one epoch has it."""
    until: int | None = None
    """Last epoch that a run must have. If it is None, it is the last epoch of the claim's span."""
    needs: tuple[Need, ...] = ()
    """Other evidence that a run must have. Runs without it do not take part."""
    also: Mapping[str, Measure] = field(default_factory=dict)
    """Other numbers per run, by the name under which their median stands in the note."""

    @property
    def words(self) -> str:
        """The test in words, with its threshold."""
        if self.why:
            return "No test."
        if self.fact is not None:
            return f"{self.of}: as claimed, to the printed digit. Decided by {self.source}."
        if self.comparisons:
            assert self.true is not None
            test = (
                f"{self.of}: the whole simultaneous interval of the mean difference is {self.true.words} "
                f"({self.comparisons} comparisons)."
            )
        elif self.true is not None:
            test = f"{self.of}: {self.true.words} in every run."
        elif self.ends is not None:
            test = f"{self.of}: both claimed ends lie in the 95 % prediction intervals for one more seed."
        else:
            test = f"{self.of}: the claimed number lies in the 95 % prediction interval for one more seed."
        return f"{test} Artefact if {self.beats}." if self.baseline is not None else test


@dataclass(frozen=True)
class Judgement:
    """A claim with the measured value and the verdict.

    `measured` is the median of the runs, the mean of a difference, or the fact. `low` and `high` are the least and the
    greatest values of the runs. They describe the runs and decide nothing.
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
    """The interval that decides, if one does: of one more seed for a number, of the mean for a difference.

    A range has one for each end, in `note`.
    """
    values: Mapping[int, float] = field(default_factory=dict)
    """The measured value of each seed. It is empty if the claim is not decided by one number per run."""
    holds: tuple[int, int] | None = None
    """(k, n) if the claim is a statement that is true in k of n runs."""
    evidence: str = ""
    """The source of the decision, for example "8 runs of v5_5" or "the configuration"."""
    lines: tuple[int, ...] = ()
    """Lines of the report that contain the claim, counted from 1."""
    same_as: str = ""
    """The first claim of the report that states the same figure. It is empty for that claim itself."""
    condition: Condition | None = None
    """The condition of a statement."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.claim.id, "claimed": self.claim.value if self.claim.number is not None else self.claim.claimed,
            "measured": self.measured, "low": self.low, "high": self.high, "runs": self.runs,
            "verdict": str(self.verdict), "note": self.note, "rule": self.rule, "interval": self.interval,
            "values": dict(self.values), "holds": self.holds, "evidence": self.evidence, "lines": self.lines,
            "same_as": self.same_as,
        }


def predicts(
    values: Sequence[float], value: float, half_digit: float = 0.0, *, bounds: Bounds | None = None
) -> bool:
    """Return whether a printed value lies in the prediction interval of the values.

    The printed value is rounded, so a difference of up to `half_digit`, half a unit of its last digit, is allowed.
    `bounds` are the least and the greatest possible value, if the quantity has bounds.
    """
    return _contains(prediction_interval(values, bounds=bounds), value, half_digit)


def _contains(interval: tuple[float, float], value: float, half_digit: float) -> bool:
    slack = half_digit * (1 + 1e-9) + ROUNDING
    return interval[0] - slack <= value <= interval[1] + slack


def too_wide(interval: tuple[float, float], value: float, *, bounds: Bounds | None = None) -> bool:
    """Return whether an interval that contains `value` would also contain almost any other number.

    That is so if half of its width is more than half of |value| or, for bounds of 0 and 100 percent, if its width is
    more than 50 points.
    """
    width = interval[1] - interval[0]
    return width / 2 > WIDE_SHARE * abs(value) or (bounds == PERCENT and width > WIDE_POINTS)


def judge(
    claim: Claim, rule: Rule, evidence: Evidence, ledger: Ledger, siblings: Sequence[tuple[Claim, Rule]]
) -> Judgement:
    """Return the judgement on one claim.

    `siblings` are the claims of the same report, with their rules: the order of printed numbers and the contradictions
    are found among them. Raises RuntimeError if a run has no value although it has all that the rule needs.
    """
    case = _Case(claim, rule, evidence, ledger, siblings)
    try:
        return _judged(case)
    except NotMeasuredError as error:
        reason = replace(case, rule=Rule(why=str(error)))
        return replace(_judged(reason), rule=rule.words)
    except MissingValueError as error:
        raise RuntimeError(f"claim {claim.id}: {error}") from error


def _judged(case: _Case) -> Judgement:
    """Return the judgement on a case. Raises NotMeasuredError for a quantity that a run does not measure."""
    rule, finding = case.rule, case.finding
    if isinstance(finding, str):
        return case.judgement(Verdict.UNTESTABLE, _Finding(False, case.described), finding)
    if finding.exact:
        return case.judgement(Verdict.EXACT, finding)
    against = case.against(finding.holds)
    sentence = f"In the report itself: {'; '.join(c.arithmetic for c in against)}." if against else ""
    if finding.wide:
        return case.judgement(Verdict.UNDECIDED if rule.comparisons else Verdict.TOO_WIDE, finding, sentence)
    if against:
        if finding.holds:
            sentence += " The runs support this claim, and the claims that it contradicts too."
        return case.judgement(Verdict.CONTRADICTS, finding, sentence)
    if finding.holds:
        artefact = rule.baseline is not None and rule.baseline(case.evidence)
        return case.judgement(Verdict.ARTEFACT if artefact else Verdict.REPRODUCED, finding)
    order, way = case.order
    directed = order is not None and all(map(order, case.runs))
    found = case.judgement(Verdict.DIRECTION if directed else Verdict.NOT, finding, case.neighbour)
    return found if order is None else replace(found, rule=f"{found.rule} Direction: {way}.")


@dataclass(frozen=True)
class _Finding:
    """Result of the evidence on a claim. Contradictions in the report are considered later."""

    holds: bool
    """True if the runs support the claim. An interval that is too wide supports no claim."""
    values: Mapping[int, float] = field(default_factory=dict)
    measured: Value = None
    ends: tuple[float, float] | None = None
    """Least and greatest value of a range over the runs."""
    interval: tuple[float, float] | None = None
    wide: bool = False
    """True if an interval decides nothing."""
    exact: bool = False
    count: tuple[int, int] | None = None
    note: str = ""


@dataclass(frozen=True)
class _Case:
    """A claim, its rule and everything else on which the verdict depends."""

    claim: Claim
    rule: Rule
    evidence: Evidence
    ledger: Ledger
    siblings: Sequence[tuple[Claim, Rule]]

    @cached_property
    def needs(self) -> tuple[Need, ...]:
        """Everything that a run must have to take part."""
        until = self.claim.span[1] if self.rule.until is None else self.rule.until
        return self.rule.needs if self.rule.fact is not None else (reaches(until), *self.rule.needs)

    @cached_property
    def runs(self) -> list[SeedEvidence]:
        return [run for run in self.evidence.runs if all(need.met(run) for need in self.needs)]

    @cached_property
    def bounds(self) -> Bounds | None:
        return BOUNDS.get(self.claim.quantity)

    @cached_property
    def described(self) -> dict[int, float]:
        """The values of the measure of an untestable claim, which only describe the runs."""
        return self.values(self.rule.measure) if self.rule.measure is not None and len(self.runs) > 1 else {}

    @cached_property
    def finding(self) -> _Finding | str:
        """The result of the evidence, or the reason why the claim cannot be tested."""
        if self.rule.why:
            return self.rule.why
        if self.rule.fact is not None:
            value = self.rule.fact(self.evidence)
            return _Finding(self.equals(value), measured=value, exact=self.equals(value))
        if len(self.runs) < 2:
            return self.missing
        if self.rule.ends is not None:
            return self.of_range(*map(self.values, self.rule.ends))
        assert self.rule.measure is not None
        values = self.values(self.rule.measure)
        if self.rule.true is not None:
            return self.of_statement(self.rule.true, values)
        number = self.claim.number
        assert number is not None, f"{self.claim.id} needs a condition or a claimed number"
        predicted = self.predicted(values)
        inside = _contains(predicted, number, self.claim.half_digit)
        wide = inside and too_wide(predicted, number, bounds=self.bounds)
        return _Finding(inside and not wide, values, interval=predicted, wide=wide)

    def of_statement(self, true: Condition, values: Mapping[int, float]) -> _Finding:
        """Return what the runs say on a statement. The interval of a difference decides, the count only describes."""
        count = sum(map(true, values.values())), len(values)
        if not self.rule.comparisons:
            return _Finding(count[0] == count[1], values, count=count)
        mean = interval(values.values(), comparisons=self.rule.comparisons)
        met = [true(mean.low), true(mean.high)]
        wide = any(met) and not all(met)
        unit = f" {true.unit}" if true.unit else ""
        bounds = f"a mean difference below {mean.low:.2g}{unit} or above {mean.high:.2g}{unit}"
        return _Finding(
            all(met), values, measured=mean.mean, count=count, interval=(mean.low, mean.high), wide=wide,
            note=f"{bounds[0].upper()}{bounds[1:]} is excluded." if wide else "",
        )

    @cached_property
    def missing(self) -> str:
        """The first need that fewer than two runs meet together with the needs before it."""
        left = list(self.evidence.runs)
        for need in self.needs:
            left = [run for run in left if need.met(run)]
            if len(left) < 2:
                return f"The runs given have no {need.words}."
        raise AssertionError(f"{self.claim.id}: all needs are met")

    def equals(self, value: Any) -> bool:
        """Return whether a fact equals the claimed value at its printed digits."""
        number = self.claim.number
        if isinstance(value, int | float) and not isinstance(value, bool) and number is not None:
            return _contains((value, value), number, self.claim.half_digit)
        return bool(value == self.claim.value)

    def predicted(self, values: Mapping[int, float]) -> tuple[float, float]:
        return prediction_interval(values.values(), bounds=self.bounds)

    def of_range(self, lows: Mapping[int, float], highs: Mapping[int, float]) -> _Finding:
        claimed = self.claim.value
        assert isinstance(claimed, list)
        half = 0.5 * math.pow(10, -(self.claim.decimals or 0))
        intervals = [self.predicted(values) for values in (lows, highs)]
        pairs = list(zip(intervals, map(float, claimed), strict=True))
        inside = all(_contains(ends, end, half) for ends, end in pairs)
        wide = inside and any(too_wide(ends, end, bounds=self.bounds) for ends, end in pairs)
        texts = " and ".join(f"[{low:.3g}, {high:.3g}]" for low, high in intervals)
        return _Finding(
            inside and not wide, measured=f"{median(lows.values()):.4g} to {median(highs.values()):.4g}",
            ends=(min(lows.values()), max(highs.values())), wide=wide,
            note=f"The prediction intervals of the two ends are {texts}.",
        )

    def values(self, measure: Measure) -> dict[int, float]:
        """Return the values of a measure by seed. Raises MissingValueError for a missing value."""
        found = {run.seed: float(measure(run)) for run in self.runs}
        for seed, value in found.items():
            if math.isnan(value):
                raise MissingValueError(f"the measure of seed {seed} is not a number")
        return found

    def against(self, holds: bool) -> list[Contradiction]:
        """Return the hard contradictions that speak against the claim, which the runs support or not."""
        hard = self.ledger.hard(self.claim.id)
        reading = self.rule.epochs is not None
        if not holds:
            return [c for c in hard if not reading or c.kind == "arithmetic"]
        printed = reading or self.claim.kind == "metric"
        return [] if printed else [c for c in hard if all(map(self.supported, set(c.ids) - {self.claim.id}))]

    def supported(self, other: str) -> bool:
        """Return whether the evidence supports another claim of the report. An unknown claim is not supported."""
        for claim, rule in self.siblings:
            if claim.id == other:
                try:
                    finding = _Case(claim, rule, self.evidence, self.ledger, ()).finding
                except NotMeasuredError:
                    return False
                return not isinstance(finding, str) and finding.holds
        return False

    @cached_property
    def order(self) -> tuple[Callable[[SeedEvidence], bool] | None, str]:
        """The rule's own order or, if it has none, the printed order between this epoch and another, with its words.

        The other epoch is the nearest earlier epoch for which the report prints a different number of this quantity and
        pathway. If there is none, it is the nearest later epoch. The order is None if there is none to test.
        """
        rule, number, here = self.rule, self.claim.number, self.claim.epoch
        if rule.order is not None or rule.true is not None or rule.epochs is None or number is None:
            return rule.order, rule.way
        if not isinstance(here, int):
            return None, ""
        last = min(run.last for run in self.runs)
        others = {
            other.epoch: other.number for other, its in self.siblings
            if (other.quantity, other.pathway) == (self.claim.quantity, self.claim.pathway)
            and its.epochs is not None and other.number is not None and other.number != number
            and isinstance(other.epoch, int) and other.epoch != here and other.epoch <= last
        }
        if not others:
            return None, ""
        near = min([epoch for epoch in others if epoch < here] or others, key=lambda epoch: abs(epoch - here))
        at, sign = rule.epochs, math.copysign(1, number - others[near])
        way = f"{'higher' if sign > 0 else 'lower'} at epoch {here} than at epoch {near}, as printed, in every run"
        return lambda run: (at(here)(run) - at(near)(run)) * sign > 0, way

    @cached_property
    def neighbour(self) -> str:
        """A note if the claimed number is that of a neighbouring epoch, and an empty text otherwise."""
        number, here = self.claim.number, self.claim.epoch
        if self.rule.epochs is None or number is None or not isinstance(here, int):
            return ""
        for epoch in (here - 1, here + 1):
            if not 0 <= epoch <= min(run.last for run in self.runs):
                continue
            values = self.values(self.rule.epochs(epoch))
            low, high = self.predicted(values)
            any_percentage = self.bounds == PERCENT and high - low > WIDE_POINTS
            if _contains((low, high), number, self.claim.half_digit) and not any_percentage:
                middle = f"{median(values.values()):.4g}"
                return (
                    f"The runs show this figure at epoch {epoch} (median {middle}), not at {here}: the cell is "
                    "probably labelled one epoch off."
                )
        return ""

    @property
    def source(self) -> str:
        """The source of the decision, in words."""
        if self.rule.fact is not None:
            return self.rule.source
        runs = f"{len(self.runs)} runs of {self.evidence.config.name}"
        return " with ".join(filter(None, (runs, " and ".join(need.source for need in self.rule.needs))))

    def judgement(self, verdict: Verdict, finding: _Finding, note: str = "") -> Judgement:
        """Return the judgement, with the texts of the rule filled in."""
        values = list(finding.values.values())
        low, high = (min(values), max(values)) if values else finding.ends or (None, None)
        enough = len(self.runs) > 1
        figures: dict[str, Any] = {
            name: median(self.values(measure).values()) for name, measure in self.rule.also.items() if enough
        }
        if values:
            figures |= {"median": median(values), "low": low, "high": high, "n": len(values)}
        own = self.rule.note.format(**figures) if enough or not (self.rule.also or self.rule.measure) else ""
        return Judgement(
            self.claim, median(values) if values and finding.measured is None else finding.measured, low, high,
            len(self.runs) if values or finding.ends else 0, verdict,
            " ".join(filter(None, (note, finding.note, own))), self.rule.words, finding.interval, finding.values,
            finding.count, "" if verdict is Verdict.UNTESTABLE else self.source,
            self.ledger.lines.get(self.claim.id, ()), condition=self.rule.true,
        )

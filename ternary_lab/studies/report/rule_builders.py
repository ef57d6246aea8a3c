"""Builders of rules: readings of a history, statements about runs, and baselines of untrained networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ternary_lab.config import Config
from ternary_lab.studies.report.evidence import Evidence, SeedEvidence
from ternary_lab.studies.report.ledger import Claim
from ternary_lab.studies.report.verdicts import Measure, Rule, predicts

PAIR = ("A", "B")
PEAK_EPOCH = 69
"""Epoch at which the report has the highest coverage."""
COVERED_UNTRAINED = "An untrained network covers more than that with as many draws."


def column(name: str, epoch: int) -> Measure:
    """Return a measure that reads column `name` of a run at one epoch."""
    return lambda run: run.at(name, epoch)


def reading(name: str, epoch: int, **more: Any) -> Rule:
    """Return a rule that reads column `name` of the run's history at one epoch."""
    return Rule(measure=column(name, epoch), epochs=lambda e: column(name, e), **more)


def statement(measure: Measure, true: Callable[[float], bool], note: str = "", **more: Any) -> Rule:
    """Return a rule for a statement. The condition `true` must hold for the measure of every run."""
    return Rule(measure=measure, true=true, note=note, **more)


def configured(read: Callable[[Config], Any], **more: Any) -> Rule:
    """Return a rule for a value of the configuration, which `read` returns."""
    return Rule(fact=lambda evidence: read(evidence.config), **more)


def extreme(name: str, first: int, last: int, pick: Callable[..., float]) -> Measure:
    """Return a measure of the least or the greatest value of both pathways over a span of epochs.

    `pick` is min or max. The measure is nan if there are no values.
    """
    def measure(run: SeedEvidence) -> float:
        spans = [run.over(f"{name}_{p}", first, last) for p in PAIR]
        values = [pick(span) for span in spans if len(span)]
        return float(pick(values)) if values else math.nan
    return measure


def final_information(run: SeedEvidence) -> float:
    """Return the informative coverage at epoch 103, in percent, averaged over both pathways."""
    return run.both("informative_coverage", 103)


def relative_change(name: str) -> Callable[[Claim], Rule]:
    """Return a function that returns a claim's rule for the relative change of a quantity, in percent.

    The change is measured from the first to the last epoch of the claim's span.
    """
    def rule(claim: Claim) -> Rule:
        column_name = f"{name}_{claim.pathway}" if claim.pathway in PAIR else name
        first, last = claim.span
        sign = math.copysign(1, claim.number or 0)
        def measure(run: SeedEvidence) -> float:
            return 100 * (run.at(column_name, last) / run.at(column_name, first) - 1)
        return Rule(measure=measure, order=lambda run: measure(run) * sign > 0)
    return rule


def untrained_gives(claim: Claim) -> Callable[[Evidence], bool]:
    """Return a function that tests whether another untrained network might have the claimed coverage."""
    def baseline(evidence: Evidence) -> bool:
        found = evidence.untrained_coverage
        values = found[claim.pathway] if claim.pathway in PAIR else [
            (a + b) / 2 for a, b in zip(found["A"], found["B"], strict=True)
        ]
        assert claim.number is not None
        return predicts(values, claim.number, claim.half_digit)
    return baseline


def untrained_reaches(threshold: float) -> Callable[[Evidence], bool]:
    """Return a function that tests whether every untrained network covers at least `threshold` percent."""
    return lambda evidence: min(map(min, evidence.untrained_coverage.values())) >= threshold

"""Builders of rules: readings of a history, statements about runs, and baselines of untrained networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ternary_lab.config import Config
from ternary_lab.metrics.quantities import QUANTITIES
from ternary_lab.model import PATHWAYS
from ternary_lab.studies.report.conditions import Condition
from ternary_lab.studies.report.evidence import SeedEvidence
from ternary_lab.studies.report.ledger import Claim
from ternary_lab.studies.report.verdicts import Measure, Rule

PEAK_EPOCH = 69
"""Epoch at which the report has the highest coverage."""
WORDS = {"phase": "the phase of training", "unique_ops": "the number of distinct operations among the prior draws"}
"""Words for columns that are not in `QUANTITIES`."""
AT_THE_END = "mean of both pathways and of epochs 74-103"
"""The time and the pathways of outcomes at the end of training: one cycle of the temperature τ_A."""


def words_for(column: str) -> str:
    """Return the words for a history column, such as "latent entropy H of A"."""
    name, _, pathway = column.rpartition("_")
    if pathway not in PATHWAYS:
        name, pathway = column, ""
    words = WORDS.get(name) or QUANTITIES[name].words
    return f"{words} of {pathway}" if pathway else words


def sentence(words: str) -> str:
    """Return the words with a capital first letter."""
    return words[:1].upper() + words[1:]


def column(name: str, epoch: int) -> Measure:
    """Return a measure that reads column `name` of a run at one epoch."""
    return lambda run: run.at(name, epoch)


def reading(name: str, epoch: int, **more: Any) -> Rule:
    """Return a rule that reads column `name` of the run's history at one epoch."""
    of = f"{sentence(words_for(name))} at epoch {epoch}"
    return Rule(of=of, measure=column(name, epoch), epochs=lambda e: column(name, e), **more)


def number(of: str, measure: Measure, note: str = "", **more: Any) -> Rule:
    """Return a rule that compares the claimed number with a measure of the runs. `of` are words for the measure."""
    return Rule(of=of, measure=measure, note=note, **more)


def statement(of: str, measure: Measure, true: Condition, note: str = "", **more: Any) -> Rule:
    """Return a rule for a statement. The measure, with the words `of`, must meet the condition in every run."""
    return Rule(of=of, measure=measure, true=true, note=note, **more)


def difference(of: str, measure: Measure, true: Condition, note: str = "", **more: Any) -> Rule:
    """Return a rule for a statement about the mean difference between runs of the same seeds.

    The whole interval of the mean must meet the condition. It is a Student interval with the level 1 - 0.05/m for m
    comparisons (Bonferroni). `rules.RULES` sets m to the number of differences in the ledger.
    """
    return Rule(of=of, measure=measure, true=true, note=note, comparisons=1, **more)


def configured(of: str, read: Callable[[Config], Any], **more: Any) -> Rule:
    """Return a rule for a value of the configuration, which `read` returns. `of` are words for the value."""
    return Rule(of=of, fact=lambda evidence: read(evidence.config), **more)


def extreme(name: str, first: int, last: int, pick: Callable[..., float]) -> Measure:
    """Return a measure of the least or the greatest value of both pathways over a span of epochs.

    `pick` is min or max.
    """
    return lambda run: float(pick(pick(run.over(f"{name}_{p}", first, last)) for p in PATHWAYS))


def lowest_and_highest(of: str, name: str, first: int, last: int) -> Rule:
    """Return a rule that compares a claimed range with the least and the greatest value of a column over epochs.

    `of` are words for these two values.
    """
    return Rule(of=of, ends=(
        lambda run: float(run.over(name, first, last).min()), lambda run: float(run.over(name, first, last).max())
    ))


def spread(name: str) -> Measure:
    """Return a measure of the range of a column over epochs 90-103, in percent of its mean."""
    def measure(run: SeedEvidence) -> float:
        values = run.over(name, 90, 103)
        return float(100 * (values.max() - values.min()) / values.mean())
    return measure


def lr_correction(run: SeedEvidence) -> Any:
    """Return StateNet's relative correction of the learning rate in each of epochs 0-103, in percent."""
    return 100 * (run.over("lr", 0, 103) / run.over("lr_scheduled", 0, 103) - 1)


def final_information(run: SeedEvidence) -> float:
    """Return the informative coverage at the end, in percent: the mean of both pathways and of epochs 74-103."""
    return run.cycle("informative_coverage")


def relative_change(name: str, **more: Any) -> Callable[[Claim], Rule]:
    """Return a function that returns a claim's rule for the relative change of a quantity, in percent.

    The change is measured from the first to the last epoch of the claim's span.
    """
    def rule(claim: Claim) -> Rule:
        column_name = f"{name}_{claim.pathway}" if claim.pathway in PATHWAYS else name
        first, last = claim.span
        sign = math.copysign(1, claim.number or 0)
        def measure(run: SeedEvidence) -> float:
            return 100 * (run.at(column_name, last) / run.at(column_name, first) - 1)
        of = f"The relative change of {words_for(column_name)} from epoch {first} to {last}, in percent"
        way = f"the change is {'positive' if sign > 0 else 'negative'} in every run"
        return Rule(of=of, measure=measure, order=lambda run: measure(run) * sign > 0, way=way, **more)
    return rule


def untrained_reaches(threshold: float, pathways: Sequence[str] = PATHWAYS) -> dict[str, Any]:
    """Return the baseline of a rule on sampled coverage, with its words.

    A claim of at most this coverage proves nothing if every run's own network reaches it before training. The mean of
    two pathways reaches it if both do.

    Args:
        threshold: coverage, in percent.
        pathways: the pathways that the claim is about.
    """
    return {
        "baseline": lambda evidence: min(min(evidence.untrained_coverage[p]) for p in pathways) >= threshold,
        "beats": f"the network of every run covers at least {threshold:.4g} % before training",
    }

"""The verdicts in numbers: how many claims of each kind there are, and how many of the rest have each verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ternary_lab.studies.report.verdicts import Judgement, Verdict

CONFIGURATION = ("architecture", "artifact", "config", "data", "schedule")
"""Kinds of claims about what was set or stored, such as layer sizes, schedules and file names.

The lab's own configuration was written after the report, so an equal value proves only that it was copied rightly.
"""


@dataclass(frozen=True)
class Headline:
    """Numbers of claims. Every claim is counted once, in the first group to which it belongs."""

    total: int
    configuration: int
    """Claims about what was set or stored."""
    repeated: int
    """Other claims that state a figure again that an earlier claim states."""
    untestable: int
    """Other claims that cannot be tested here."""
    verdicts: Mapping[Verdict, int]
    """Numbers of the remaining claims by verdict. The verdict "not testable here" is not among them."""

    @property
    def tested(self) -> int:
        """Number of distinct testable claims beyond the configuration."""
        return sum(self.verdicts.values())


def headline(judgements: Sequence[Judgement]) -> Headline:
    """Return the numbers of claims by group, and those of the remaining claims by verdict."""
    beyond = [j for j in judgements if j.claim.kind not in CONFIGURATION]
    distinct = [j for j in beyond if not j.same_as]
    tested = [j.verdict for j in distinct if j.verdict is not Verdict.UNTESTABLE]
    return Headline(
        total=len(judgements), configuration=len(judgements) - len(beyond), repeated=len(beyond) - len(distinct),
        untestable=len(distinct) - len(tested),
        verdicts={verdict: tested.count(verdict) for verdict in Verdict if verdict is not Verdict.UNTESTABLE},
    )

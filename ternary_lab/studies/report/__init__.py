"""Notebook 11: tests of the training report's claims on runs of several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.studies.report.evidence import Evidence, collect_evidence
from ternary_lab.studies.report.headline import Headline, headline
from ternary_lab.studies.report.ledger import ledger
from ternary_lab.studies.report.original import original_agreement, original_tests
from ternary_lab.studies.report.rules import rule
from ternary_lab.studies.report.verdicts import Judgement, Verdict, judge

__all__ = [
    "Evidence", "Headline", "Judgement", "Verdict", "claims_table", "collect_evidence", "headline", "judge_all",
    "judge_runs", "ledger", "original_agreement", "original_tests",
]


def judge_all(evidence: Evidence) -> list[Judgement]:
    """Return a judgement on every claim, in the order of the ledger.

    A claim that states a figure again has the judgement of the first claim that states it.
    """
    whole = ledger()
    rules = [(claim, rule(claim)) for claim in whole.claims.values()]
    found = {
        claim.id: judge(claim, its, evidence, whole, rules) for claim, its in rules if claim.id not in whole.repeats
    }
    for again, first in whole.repeats.items():
        found[again] = replace(
            found[first], claim=whole.claims[again], lines=whole.lines[again], same_as=first,
        )
    return [found[name] for name in whole.claims]


@with_fixed_arithmetic
def judge_runs(sources: Sequence[str | Path], *, progress: bool = False) -> list[Judgement]:
    """Return a judgement on every claim, from the evidence of runs.

    `sources` and the raised errors are those of `collect_evidence`.
    """
    return judge_all(collect_evidence(sources, progress=progress))


def claims_table(judgements: Sequence[Judgement]) -> pd.DataFrame:
    """Return a table with a row per claim and its judgement.

    The columns are id, lines, section, kind, pathway, epoch, statement, claimed, measured, low, high, runs,
    interval_low, interval_high, holds, verdict, rule, evidence, same_as and note. `low` and `high` are those of the
    runs, the interval is that which decides. The columns lines and holds are texts such as "13, 48" and "7 of 8".
    """
    return pd.DataFrame([_row(judgement) for judgement in judgements])


def _row(j: Judgement) -> dict[str, object]:
    low, high = j.interval or (None, None)
    return {
        "id": j.claim.id, "lines": ", ".join(map(str, j.lines)),
        **{name: getattr(j.claim, name) for name in ("section", "kind", "pathway", "epoch", "statement", "claimed")},
        "measured": j.measured, "low": j.low, "high": j.high, "runs": j.runs, "interval_low": low,
        "interval_high": high, "holds": f"{j.holds[0]} of {j.holds[1]}" if j.holds else "", "verdict": str(j.verdict),
        "rule": j.rule, "evidence": j.evidence, "same_as": j.same_as, "note": j.note,
    }

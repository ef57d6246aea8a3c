"""The training report on trial: every claim held against runs of several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ternary_lab.backend.numerics import fenced
from ternary_lab.studies.report.evidence import Trial, collect
from ternary_lab.studies.report.ledger import ledger
from ternary_lab.studies.report.rules import rule
from ternary_lab.studies.report.verdicts import Judgement, Verdict, judge

__all__ = ["Judgement", "Trial", "Verdict", "collect", "judge_all", "ledger", "table", "try_claims"]


def judge_all(trial: Trial) -> list[Judgement]:
    """A judgement on every claim, in the ledger's order."""
    claims = list(ledger().claims.values())
    rules = {claim.id: rule(claim) for claim in claims}
    return [
        judge(claim, rules[claim.id], trial, ledger(), [
            (other, rules[other.id]) for other in claims
            if (other.quantity, other.pathway) == (claim.quantity, claim.pathway)
        ])
        for claim in claims
    ]


@fenced
def try_claims(sources: Sequence[str | Path], *, progress: bool = False) -> list[Judgement]:
    """Judge the report by run directories, experiments or published ones ("v5_5"), at least two seeds in all.

    Raises RunError for what holds no run, a seed given twice, or runs of different configurations.
    """
    return judge_all(collect(sources, progress=progress))


def table(judgements: Sequence[Judgement]) -> pd.DataFrame:
    """A row per claim: id, section, pathway, epoch, statement, claimed, measured, low, high, runs, verdict, note."""
    return pd.DataFrame([
        {
            "id": j.claim.id, "section": j.claim.section, "kind": j.claim.kind, "pathway": j.claim.pathway,
            "epoch": j.claim.epoch, "statement": j.claim.statement, "claimed": j.claim.claimed, "measured": j.measured,
            "low": j.low, "high": j.high, "runs": j.runs, "verdict": str(j.verdict), "note": j.note,
        }
        for j in judgements
    ])

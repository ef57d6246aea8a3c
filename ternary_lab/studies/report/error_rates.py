"""Error rates of the verdicts, measured with planted claims of which it is known whether they are true.

One seed is left out. Its figures are claims that are true, because this seed is one more run of the same system. The
same figures, shifted by a known amount, are claims that are false. Both are judged by the runs of the other seeds, with
the rules of the ledger. Every seed is left out once.

Only rules that compare a measured number with the claimed number are used, and only figures that differ between seeds
at the printed digits. Comparisons with untrained networks and contradictions of the report play no part, because
neither tests whether a number is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from ternary_lab.studies.report.conditions import BOUNDS
from ternary_lab.studies.report.evidence import Evidence, MissingValueError, NotMeasuredError, SeedEvidence
from ternary_lab.studies.report.ledger import Claim, Ledger, ledger
from ternary_lab.studies.report.rules import rule
from ternary_lab.studies.report.verdicts import Rule, Verdict, judge
from ternary_lab.studies.statistics import LEVEL, share_interval

SHIFTS = {"deviations": (0.0, 1.0, 2.0, 3.0, 4.0), "percent": (0.0, 5.0, 10.0, 20.0, 50.0)}
"""Shifts in standard deviations of the seeds, and in percent of the figure."""
GIVEN = (Verdict.REPRODUCED, Verdict.TOO_WIDE, Verdict.DIRECTION, Verdict.NOT)
"""Verdicts that a planted claim can get."""
NO_CONTRADICTIONS = Ledger({}, {}, {})


@dataclass(frozen=True)
class Figure:
    """A figure of the report that can be planted: its claim, its value in every run, and the rule for any claim."""

    claim: Claim
    values: Mapping[int, float] = field(repr=False)
    """Measured value by seed."""
    rule_of: Callable[[Claim], Rule] = field(default=rule, repr=False)

    @property
    def deviation(self) -> float:
        """Standard deviation of the values of all seeds."""
        return float(np.std(list(self.values.values()), ddof=1))

    def planted(self, value: float) -> Claim:
        """Return the claim with another value, rounded to the printed digits."""
        return replace(self.claim, value=round(value, round(-math.log10(2 * self.claim.half_digit))))

    def judging(self, claim: Claim) -> Rule:
        """Return the rule that judges a planted claim. It knows the values, and it has no baseline and no note."""
        return replace(
            self.rule_of(claim), measure=lambda run: self.values[run.seed], baseline=None, note="", also={}
        )


@dataclass(frozen=True)
class _Remembering(SeedEvidence):
    """A run that remembers the values that were read, because each is needed for many claims."""

    known: dict[tuple[str, int], float] = field(default_factory=dict)

    def at(self, column: str, epoch: int) -> float:
        if (column, epoch) not in self.known:
            self.known[column, epoch] = super().at(column, epoch)
        return self.known[column, epoch]


def figures(evidence: Evidence) -> list[Figure]:
    """Return the figures of the report that can be planted. Claims with equal values in every run are one figure.

    A figure can be planted if its rule compares a number of each run with the claimed number, if every run has this
    number, and if the standard deviation of the seeds is at least one unit of the last printed digit.
    """
    found: dict[tuple[float, ...], Figure] = {}
    for claim in ledger().claims.values():
        its = rule(claim)
        if claim.number is None or its.why or its.measure is None or its.true is not None or its.fact is not None:
            continue
        try:
            figure = Figure(claim, {run.seed: its.measure(run) for run in evidence.runs})
        except (MissingValueError, NotMeasuredError):  # some run lacks the evidence
            continue
        if figure.deviation >= 2 * claim.half_digit:
            found.setdefault(tuple(figure.values.values()), figure)
    return list(found.values())


def judge_planted(
    evidence: Evidence, found: Sequence[Figure] | None = None, shifts: Mapping[str, Sequence[float]] = SHIFTS
) -> pd.DataFrame:
    """Return the verdicts on planted claims, with a row per left-out seed, figure, unit, shift and sign of the shift.

    The columns are seed, id, unit ("deviations" or "percent"), shift, sign (+1, -1, or 0 for a true claim) and verdict.
    A shifted claim is left out if the shift does not change its printed digits, or if it gives a number outside the
    bounds of the quantity, for example more than 100 % of the space.

    Args:
        evidence: at least three runs, so that two are left.
        found: the figures to plant; those of `figures` unless given.
        shifts: the sizes of the shifts, by unit. At a shift of 0 the claims are true.
    """
    runs = [_Remembering(**{f.name: getattr(run, f.name) for f in fields(SeedEvidence)}) for run in evidence.runs]
    found = figures(Evidence(runs)) if found is None else found
    rows = []
    for left_out in runs:
        others = Evidence([run for run in runs if run is not left_out])
        true = [figure.planted(figure.values[left_out.seed]) for figure in found]
        siblings = _siblings(found, true)
        for figure, claim in zip(found, true, strict=True):
            beside = siblings[claim.quantity, claim.pathway]
            known: dict[object, Verdict] = {}
            for unit, shift, sign, planted in _shifted(figure, claim, shifts):
                if planted.value not in known:
                    judgement = judge(planted, figure.judging(planted), others, NO_CONTRADICTIONS, beside)
                    known[planted.value] = judgement.verdict
                rows.append((left_out.seed, claim.id, unit, shift, sign, str(known[planted.value])))
    return pd.DataFrame(rows, columns=["seed", "id", "unit", "shift", "sign", "verdict"])


def _siblings(
    found: Sequence[Figure], claims: Sequence[Claim]
) -> dict[tuple[str, str], list[tuple[Claim, Rule]]]:
    """Return the planted claims with their rules, by quantity and pathway."""
    groups: dict[tuple[str, str], list[tuple[Claim, Rule]]] = {}
    for figure, claim in zip(found, claims, strict=True):
        groups.setdefault((claim.quantity, claim.pathway), []).append((claim, figure.judging(claim)))
    return groups


def _shifted(
    figure: Figure, true: Claim, shifts: Mapping[str, Sequence[float]]
) -> Iterator[tuple[str, float, int, Claim]]:
    """Yield unit, shift, sign and claim of a true claim and of its shifted copies."""
    value = true.number
    assert value is not None
    low, high = BOUNDS.get(true.quantity, (-math.inf, math.inf))
    for unit, sizes in shifts.items():
        step = figure.deviation if unit == "deviations" else abs(value) / 100
        for shift in sizes:
            for sign in (1, -1) if shift else (0,):
                planted = figure.planted(value + sign * shift * step)
                assert planted.number is not None
                if low <= planted.number <= high and (sign == 0 or planted.value != true.value):
                    yield unit, shift, sign, planted


def judge_others(evidence: Evidence, control: str, found: Sequence[Figure]) -> pd.DataFrame:
    """Return the verdicts on figures of another system, with a row per seed and figure.

    The claims are the figures of a counterfactual, which is a different system. Each is judged by the runs of the other
    seeds. Only readings of one epoch are used, and only of epochs that the counterfactual has. The columns are seed, id
    and verdict.

    Args:
        evidence: at least three runs. Runs without the counterfactual only judge.
        control: name of the counterfactual.
        found: the figures to plant.
    """
    rows = []
    for run in evidence.runs:
        if control not in run.controls:
            continue
        others = Evidence([other for other in evidence.runs if other is not run])
        claims = []
        for figure in found:
            its = figure.rule_of(figure.claim)
            if its.epochs is None or its.measure is None:
                continue
            try:
                claims.append((figure, figure.planted(float(its.measure(run.controls[control])))))
            except (MissingValueError, NotMeasuredError):  # the counterfactual starts later
                continue
        siblings = _siblings([figure for figure, _ in claims], [claim for _, claim in claims])
        for figure, claim in claims:
            beside = siblings[claim.quantity, claim.pathway]
            judgement = judge(claim, figure.judging(claim), others, NO_CONTRADICTIONS, beside)
            rows.append((run.seed, claim.id, str(judgement.verdict)))
    return pd.DataFrame(rows, columns=["seed", "id", "verdict"])


def verdict_rates(planted: pd.DataFrame) -> pd.DataFrame:
    """Return how often each verdict is given, with a row per unit, shift and verdict of `GIVEN`.

    The columns are unit, shift, verdict, share, low, high (of `clustered_interval`), n (planted claims) and seeds. The
    share is the mean of the shares of the left-out seeds.

    Args:
        planted: the table of `judge_planted`.
    """
    rows = []
    for (unit, shift), its in planted.groupby(["unit", "shift"], sort=False):
        for verdict in GIVEN:
            by_seed = (its["verdict"] == str(verdict)).groupby(its["seed"]).mean()
            share, low, high = clustered_interval(by_seed.tolist(), len(its))
            rows.append((unit, shift, str(verdict), share, low, high, len(its), len(by_seed)))
    return pd.DataFrame(rows, columns=["unit", "shift", "verdict", "share", "low", "high", "n", "seeds"])


def clustered_interval(shares: Sequence[float], n: int) -> tuple[float, float, float]:
    """Return the mean of the shares of clusters, and the ends of its 95 % interval, all in 0..1.

    Claims about one seed are right or wrong together, so n claims are fewer than n independent ones. Their effective
    number follows from the spread of the shares of the clusters, and with it the interval is that of Clopper and
    Pearson (Korn and Graubard, *Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data*, 1998). If all claims are alike, the spread is 0 and tells nothing; each cluster then
    counts as one claim.

    Args:
        shares: the share of each of at least two clusters.
        n: number of claims in all clusters.
    """
    values, k = np.asarray(shares), len(shares)
    share = float(values.mean())
    if share in (0.0, 1.0):
        return share, *share_interval(share * k, k)
    variance = float(values.var(ddof=1)) / k
    quantile = (1 + LEVEL) / 2
    few = float(stdtrit(n - 1, quantile) / stdtrit(k - 1, quantile)) ** 2
    effective = min(share * (1 - share) / variance * few, n) if variance else float(n)
    return share, *share_interval(share * effective, effective)


def statement_rate(probability: float, seeds: int) -> float:
    """Return how often a statement that is true with this probability in a seed is true in every one of `seeds`."""
    return probability ** seeds


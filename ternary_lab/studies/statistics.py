"""Statistics over seeds, and the loading of published tables. `docs/statistics.md` explains when each one is used.

A 95 % confidence interval of n values is mean ± t s/√n. The next value lies within mean ± t s √(1 + 1/n) with 95 %
probability. Here s is the standard deviation of the values, and t is the 97.5 % quantile of Student's distribution with
n - 1 degrees of freedom. The interval of a single value is infinite.

Values with bounds are first mapped to the whole line: to ln((v - low)/(high - low)) - ln((high - v)/(high - low)) for
two bounds, and to ln(v - low) for a lower bound only. The interval is computed there and mapped back, so it never
leaves the bounds.

For m comparisons in one table, each interval has the level 1 - 0.05/m (Bonferroni). The probability that any of the m
intervals misses its true value is then at most 5 %, however the comparisons depend on each other. This is the first
step of Holm's procedure (Holm 1979), and it has an interval for each decision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import betaincinv, expit, stdtrit

from ternary_lab.errors import RunError
from ternary_lab.runs.files import read_csv
from ternary_lab.runs.load import local_or_published
from ternary_lab.space import SIZE

LEVEL = 0.95
CYCLE = 30
"""Epochs in a cycle of the temperature τ_A in v5.5."""
Bounds = tuple[float, float]
PERCENT: Bounds = (0.0, 100.0)
POSITIVE: Bounds = (0.0, math.inf)
NEAREST = 0.5 / SIZE
"""Smallest distance of a value from a bound, as a share of the range: half an operation.

A value at the bound has no finite image on the whole line, so it is moved by this distance.
"""


@dataclass(frozen=True)
class Interval:
    """Mean of n values with the 95 % confidence interval of the mean."""

    n: int
    mean: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        """Return `mean [low, high]`, with each number in the given form (default .3g).

        The result is `mean` alone if the three numbers have the same text, or if the mean is infinite. For an interval
        of no values the result is a dash.
        """
        if self.n == 0:
            return "–"
        if math.isinf(self.mean):
            return format(self.mean, form or ".3g")
        mean, low, high = (format(value, form or ".3g") for value in (self.mean, self.low, self.high))
        return mean if low == mean == high else f"{mean} [{low}, {high}]"

    @property
    def excludes_zero(self) -> bool:
        """True if 0 lies outside the interval."""
        return self.low > 0 or self.high < 0

    @property
    def decided(self) -> str:
        """Decision on a difference: `higher` or `lower` if the interval excludes 0, and otherwise `not decided`."""
        return ("higher" if self.low > 0 else "lower") if self.excludes_zero else "not decided"


def interval(values: Iterable[float], *, bounds: Bounds | None = None, comparisons: int = 1) -> Interval:
    """Return the mean and the confidence interval of the values that are not nan.

    The ends of the interval are nan if there are no values, or if a value is infinite.

    Args:
        bounds: least and greatest possible value, if the quantity has bounds. The mean is then the mean on the mapped
            scale, mapped back; for positive values it is the geometric mean.
        comparisons: number of comparisons among which this one is made; the level of the interval is 1 - 0.05/m.
    """
    array = np.asarray(list(values), dtype=float)
    array = array[~np.isnan(array)]
    n = len(array)
    if not n or not np.isfinite(array).all():
        return Interval(n, float(array.mean()) if n else math.nan, math.nan, math.nan)
    mapped = _mapped(array, bounds)
    mean, half = float(mapped.mean()), _spread(mapped, comparisons) / math.sqrt(n)
    return Interval(n, *(_unmapped(value, bounds) for value in (mean, mean - half, mean + half)))


def prediction_interval(values: Iterable[float], *, bounds: Bounds | None = None) -> tuple[float, float]:
    """Return (low, high), the interval that contains the value of one more seed with 95 % probability.

    `bounds` are the least and the greatest possible value, if the quantity has bounds.
    """
    array = _mapped(np.asarray(list(values), dtype=float), bounds)
    half = _spread(array) * math.sqrt(1 + 1 / len(array))
    return _unmapped(float(array.mean()) - half, bounds), _unmapped(float(array.mean()) + half, bounds)


def share_interval(hits: float, n: float) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share, of which `hits` of n trials are an estimate.

    The interval is exact (Clopper and Pearson 1934). Both ends lie in 0..1. For trials that depend on each other, n may
    be their effective number, which need not be whole.
    """
    low = float(betaincinv(hits, n - hits + 1, (1 - LEVEL) / 2)) if hits else 0.0
    high = float(betaincinv(hits + 1, n - hits, (1 + LEVEL) / 2)) if hits < n else 1.0
    return low, high


def median_and_range(values: Iterable[float], form: str = ".3g") -> str:
    """Return the text `median [lowest, highest]` of the values that are not nan, each in the given form."""
    array = np.asarray(list(values), dtype=float)
    array = array[~np.isnan(array)]
    if not len(array):
        return "–"
    middle, low, high = (format(float(value), form) for value in (np.median(array), array.min(), array.max()))
    return middle if low == middle == high else f"{middle} [{low}, {high}]"


def _mapped(values: np.ndarray, bounds: Bounds | None) -> np.ndarray:
    """Return the values on the whole line. Raises ValueError for a value outside the bounds."""
    if bounds is None:
        return values
    low, high = bounds
    if (values < low).any() or (values > high).any():
        raise ValueError(f"values from {values.min():g} to {values.max():g} are not within {low:g} and {high:g}")
    if math.isinf(high):
        if (values == low).any():
            raise ValueError(f"a value is at the bound {low:g}, and its logarithm is infinite")
        return np.log(values - low)
    share = np.clip((values - low) / (high - low), NEAREST, 1 - NEAREST)
    return np.log(share) - np.log1p(-share)


def _unmapped(value: float, bounds: Bounds | None) -> float:
    """Return the value whose image on the whole line is `value`."""
    if bounds is None:
        return value
    low, high = bounds
    return float(low + np.exp(value)) if math.isinf(high) else float(low + (high - low) * expit(value))


def _spread(values: np.ndarray, comparisons: int = 1) -> float:
    """Return t s of n values, or infinity for a single value."""
    n = len(values)
    quantile = 1 - (1 - LEVEL) / (2 * comparisons)
    return float(stdtrit(n - 1, quantile)) * float(values.std(ddof=1)) if n > 1 else math.inf


def summary(table: pd.DataFrame, by: str | Sequence[str], metrics: Sequence[str], form: str = ".3g") -> pd.DataFrame:
    """Return a table of texts `median [lowest, highest]`, with a row per group and a column per metric.

    The groups have the same order as in `table`.
    """
    keys = [by] if isinstance(by, str) else list(by)
    groups = table.groupby(keys, sort=False, observed=True, dropna=False)

    def shown(values: pd.Series[float]) -> str:
        return median_and_range(values, form)

    return groups[list(metrics)].agg(shown)


def cycle_means(history: pd.DataFrame, columns: Sequence[str], last: int = 103, cycle: int = CYCLE) -> pd.DataFrame:
    """Return the means of `columns` over the last cycle of the temperature τ_A, with a row per seed.

    Outcomes swing with τ_A, so a single epoch is arbitrary. The cycle ends with the epoch `last`. The table has the
    columns seed and those of `columns`. Raises ValueError if a run lacks an epoch of the cycle.
    """
    first = last - cycle + 1
    rows = history[history["epoch"].between(first, last)]
    counts = rows.groupby("seed")["epoch"].nunique().reindex(history["seed"].unique(), fill_value=0)
    if (counts < cycle).any():
        raise ValueError(f"the run of seed {counts.idxmin()} has only {counts.min()} of the epochs {first} to {last}")
    return rows.groupby("seed")[list(columns)].mean().reset_index()


def paired_differences(
    table: pd.DataFrame, group: str, base: str, metrics: Sequence[str], by: Sequence[str] = (), primary: str = ""
) -> pd.DataFrame:
    """Return the differences of the other groups from the base group, paired by seed.

    The columns are `group`, title if `table` has titles, the columns of `by`, metric, n, mean, low, high, comparisons
    and decided. The interval from low to high is simultaneous over `comparisons` comparisons, and it decides: the
    column decided is "higher", "lower" or "not decided".

    Args:
        table: a row per group, seed and value of `by`.
        group: the column that names the group.
        base: the group from which the other groups differ.
        metrics: the columns to compare.
        by: columns that must be equal in both rows of a pair.
        primary: the metric that was chosen as the outcome of the question before the numbers were known. Its rows are
            one family of comparisons, and the rows of all other metrics are another. If it is empty, all rows are one
            family.
    """
    labels = [group, *(["title"] if "title" in table else [])]
    pairs = ["seed", *by]
    control = table[table[group] == base].set_index(pairs)[list(metrics)]
    groups = list(table[table[group] != base].groupby([*labels, *by], sort=False))
    main = sum(metric == primary for metric in metrics)
    rows = []
    for names, its in groups:
        differences = its.set_index(pairs)[list(metrics)] - control
        for metric in metrics:
            comparisons = len(groups) * (main if metric == primary else len(metrics) - main)
            found = interval(differences[metric], comparisons=comparisons)
            its_names = dict(zip([*labels, *by], names, strict=True))
            rows.append({
                **its_names, "metric": metric, **vars(found), "comparisons": comparisons, "decided": found.decided,
            })
    return pd.DataFrame(rows)


def load_table(path: str | Path, content: str, command: str) -> pd.DataFrame:
    """Load the table in the file `path` or, if there is no such file, the published table of that name.

    Raises RunError if neither exists. The error message contains `content`, which describes the table, and `command`,
    which makes the table.
    """
    file = local_or_published(path)
    if not file.is_file():
        raise RunError(f"{path}: no table of {content}: make one with `ternary-lab {command}`")
    return read_csv(file)

"""Statistics over seeds, and the loading of published tables.

A 95 % confidence interval of n values is mean ± t s/√n. The next value lies within mean ± t s √(1 + 1/n) with 95 %
probability. Here s is the standard deviation of the values, and t is the 97.5 % quantile of Student's distribution with
n - 1 degrees of freedom. The interval of a single value is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from ternary_lab.errors import RunError
from ternary_lab.runs.files import read_csv
from ternary_lab.runs.load import local_or_published


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


def interval(values: Iterable[float]) -> Interval:
    """Return the mean and the confidence interval of the values that are not nan.

    The ends of the interval are nan if there are no values, or if a value is infinite.
    """
    array = np.asarray(list(values), dtype=float)
    array = array[~np.isnan(array)]
    n = len(array)
    mean = float(array.mean()) if n else math.nan
    if not math.isfinite(mean):
        return Interval(n, mean, math.nan, math.nan)
    half = _spread(array) / math.sqrt(n)
    return Interval(n, mean, mean - half, mean + half)


def prediction_interval(values: Iterable[float]) -> tuple[float, float]:
    """Return (low, high), the interval that contains the value of one more seed with 95 % probability."""
    array = np.asarray(list(values), dtype=float)
    half = _spread(array) * math.sqrt(1 + 1 / len(array))
    return float(array.mean()) - half, float(array.mean()) + half


def _spread(values: np.ndarray) -> float:
    """Return t s of n values, or infinity for a single value."""
    n = len(values)
    return float(stdtrit(n - 1, 0.975)) * float(values.std(ddof=1)) if n > 1 else math.inf


def summary(table: pd.DataFrame, by: str | Sequence[str], metrics: Sequence[str], form: str = ".3g") -> pd.DataFrame:
    """Return a table of texts `mean [low, high]`, with a row per group and a column per metric.

    The groups have the same order as in `table`.
    """
    keys = [by] if isinstance(by, str) else list(by)
    groups = table.groupby(keys, sort=False, observed=True, dropna=False)

    def shown(values: pd.Series[float]) -> str:
        return format(interval(values), form)

    return groups[list(metrics)].agg(shown)


def paired_differences(
    table: pd.DataFrame, group: str, base: str, metrics: Sequence[str], by: Sequence[str] = ()
) -> pd.DataFrame:
    """Return the differences of the other groups from the base group, paired by seed.

    The columns are `group`, title if `table` has titles, the columns of `by`, metric, n, mean, low and high.

    Args:
        table: a row per group, seed and value of `by`.
        group: the column that names the group.
        base: the group from which the other groups differ.
        metrics: the columns to compare.
        by: columns that must be equal in both rows of a pair.
    """
    labels = [group, *(["title"] if "title" in table else [])]
    pairs = ["seed", *by]
    control = table[table[group] == base].set_index(pairs)[list(metrics)]
    rows = []
    for names, its in table[table[group] != base].groupby([*labels, *by], sort=False):
        differences = its.set_index(pairs)[list(metrics)] - control
        for metric in metrics:
            found = vars(interval(differences[metric]))
            rows.append({**dict(zip([*labels, *by], names, strict=True)), "metric": metric, **found})
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

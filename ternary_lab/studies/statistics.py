"""Statistics over seeds: means with confidence intervals, paired differences, prediction intervals, published tables.

A 95 % confidence interval of n values is mean ± t s/√n; the next value lies within mean ± t s √(1 + 1/n) with 95 %
probability. t is the 97.5 % quantile of Student's distribution with n - 1 degrees of freedom. One value has an
infinite interval.
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
from ternary_lab.runs.load import local_or_published


@dataclass(frozen=True)
class Interval:
    """A mean over n values with its 95 % confidence interval."""

    n: int
    mean: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        """`mean [low, high]`, each in the given form (default .3g); `mean` alone if the three read the same.

        An interval of no values is a dash.
        """
        if self.n == 0:
            return "–"
        if math.isinf(self.mean):
            return format(self.mean, form or ".3g")
        mean, low, high = (format(value, form or ".3g") for value in (self.mean, self.low, self.high))
        return mean if low == mean == high else f"{mean} [{low}, {high}]"


def interval(values: Iterable[float]) -> Interval:
    """Mean and confidence interval of the values that are not nan.

    Without values, or with an infinite one, the ends are nan.
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
    """The interval that holds the value of one more seed with 95 % probability, (low, high)."""
    array = np.asarray(list(values), dtype=float)
    half = _spread(array) * math.sqrt(1 + 1 / len(array))
    return float(array.mean()) - half, float(array.mean()) + half


def _spread(values: np.ndarray) -> float:
    """t s of n values; infinite for one."""
    n = len(values)
    return float(stdtrit(n - 1, 0.975)) * float(values.std(ddof=1)) if n > 1 else math.inf


def summary(table: pd.DataFrame, by: str | Sequence[str], metrics: Sequence[str], form: str = ".3g") -> pd.DataFrame:
    """A row per group and a column per metric, as text `mean [low, high]`; groups in the order of the table."""
    keys = [by] if isinstance(by, str) else list(by)
    groups = table.groupby(keys, sort=False, observed=True, dropna=False)

    def shown(values: pd.Series[float]) -> str:
        return format(interval(values), form)

    return groups[list(metrics)].agg(shown)


def paired_differences(
    table: pd.DataFrame, group: str, base: str, metrics: Sequence[str], by: Sequence[str] = ()
) -> pd.DataFrame:
    """Differences from the base group, seed by seed: group, its title if there is one, by, metric, n, mean, low, high.

    Args:
        table: a row per group, seed and value of `by`.
        group: the column that names the group.
        base: the group from which the others differ.
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
    """A published table by its name, or the table in a file. Raises RunError where there is none.

    The error says what the table contains and which command makes it.
    """
    file = local_or_published(path)
    if not file.is_file():
        raise RunError(f"{path}: no table of {content}: make one with `ternary-lab {command}`")
    return pd.read_csv(file)

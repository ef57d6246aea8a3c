"""Means over seeds and how sure they are: mean ± t s/√n, t the 97.5 % quantile of Student's distribution (n - 1).

One value has no interval: its ends are infinite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtrit


@dataclass(frozen=True)
class Interval:
    """A mean over n values with its 95 % confidence interval."""

    n: int
    mean: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        """`mean [low, high]`, each in the given form (default .3g); `mean` alone where that makes all three alike.

        Of no values it is a dash.
        """
        if self.n == 0:
            return "–"
        if math.isinf(self.mean):
            return format(self.mean, form or ".3g")
        mean, low, high = (format(value, form or ".3g") for value in (self.mean, self.low, self.high))
        return mean if low == mean == high else f"{mean} [{low}, {high}]"


def interval(values: Iterable[float]) -> Interval:
    """The mean of values and its interval; nan are left out. Of no values, or where one is infinite, it has none."""
    array = np.asarray(list(values), dtype=float)
    array = array[~np.isnan(array)]
    n = len(array)
    if n == 0:
        return Interval(0, math.nan, math.nan, math.nan)
    if n == 1:
        return Interval(1, float(array[0]), -math.inf, math.inf)
    mean = float(array.mean())
    if math.isinf(mean):
        return Interval(n, mean, math.nan, math.nan)
    half = float(stdtrit(n - 1, 0.975)) * float(array.std(ddof=1)) / math.sqrt(n)
    return Interval(n, mean, mean - half, mean + half)


def summary(table: pd.DataFrame, by: str | Sequence[str], metrics: Sequence[str], form: str = ".3g") -> pd.DataFrame:
    """A row per group and a column per metric, as text `mean [low, high]`, groups in the order of the table."""
    keys = [by] if isinstance(by, str) else list(by)
    groups = table.groupby(keys, sort=False, observed=True, dropna=False)

    def shown(values: pd.Series[float]) -> str:
        return format(interval(values), form)

    return groups[list(metrics)].agg(shown)

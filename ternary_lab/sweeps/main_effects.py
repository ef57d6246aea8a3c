"""What the keys of a sweep do to its metrics: main effects and two-way interactions, with 95 % intervals over seeds.

With ȳ_s the mean of a metric over all points of seed s, ȳ_s(a) that over the points where a key has the level a, and
ȳ_s(a, b) that where another has the level b as well (Fisher 1935):

    effect of a               ȳ_s(a) - ȳ_s
    interaction of a and b    ȳ_s(a, b) less what the sum of a term per level fits best to all pairs that occur;
                              where all do, ȳ_s(a, b) - ȳ_s(a) - ȳ_s(b) + ȳ_s, of means of pairs

each seed by itself, so that what a seed adds to all points drops out; then mean and interval over seeds
(`intervals`). In a full grid these are the terms of the analysis of variance. In a random or Sobol design points that
share a level differ in other keys too: the interval then holds the chance of the seeds and not that of the points.

A key with more than `LEVELS` numbers is cut into `BINS` groups of about equally many points, each called by its mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ternary_lab.errors import InputError, nearest
from ternary_lab.studies.statistics import interval

LEVELS, BINS = 8, 4
AFTER_KEYS = "status"
"""The column that follows the keys in a sweep's table."""


def keys_of(table: pd.DataFrame) -> list[str]:
    """The keys of a sweep's table (`sweep.results`). Raises InputError for another table."""
    columns = list(table.columns)
    if columns[:2] != ["point", "seed"] or AFTER_KEYS not in columns:
        raise InputError("table: is not a sweep's: it must have the columns of results.csv")
    return columns[2 : columns.index(AFTER_KEYS)]


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the points that are done for every seed: others would compare seeds by different points."""
    keys_of(table)
    done = table[table["status"] == "done"]
    counts = done.groupby("point")["seed"].nunique()
    return done[done["point"].isin(counts[counts == table["seed"].nunique()].index)]


def varied(table: pd.DataFrame) -> list[str]:
    """The keys that have more than one value."""
    return [key for key in keys_of(table) if table[key].nunique(dropna=False) > 1]


def main_effects(table: pd.DataFrame, metrics: Sequence[str], keys: Sequence[str] | None = None) -> pd.DataFrame:
    """key, level, metric, overall, n, mean, low, high: what each level changes, against the mean of all points.

    Args:
        table: a sweep's (`sweep.results`); of its points those that are done for every seed count.
        metrics: columns of it.
        keys: default: all that vary.

    `overall` is the metric's mean over everything, n the number of seeds. Raises InputError for a metric or key that
    is none, or when no point is done for every seed.
    """
    data = _Data.of(table, metrics, keys)
    rows = []
    for key in data.keys:
        for metric in metrics:
            by_level = data.means([key], metric)
            overall = data.means([], metric)[""]
            for level in by_level:
                found = interval(by_level[level] - overall)
                rows.append({"key": key, "level": level, "metric": metric, "overall": overall.mean(), **vars(found)})
    return pd.DataFrame(rows)


def interactions(table: pd.DataFrame, metrics: Sequence[str], keys: Sequence[str] | None = None) -> pd.DataFrame:
    """key_a, level_a, key_b, level_b, metric, n, mean, low, high: what two levels do beyond what each does by itself.

    Arguments and errors as for `main_effects`. A pair of levels that no point has is left out.
    """
    data = _Data.of(table, metrics, keys)
    rows = []
    for a, b in combinations(data.keys, 2):
        for metric in metrics:
            pairs = data.means([a, b], metric)
            levels_a, levels_b = (pairs.columns.get_level_values(side) for side in (0, 1))
            for level_a, level_b, values in zip(levels_a, levels_b, _residuals(pairs).T, strict=True):
                rows.append({"key_a": a, "level_a": level_a, "key_b": b, "level_b": level_b, "metric": metric,
                             **vars(interval(values))})
    return pd.DataFrame(rows, columns=["key_a", "level_a", "key_b", "level_b", "metric", "n", "mean", "low", "high"])


@dataclass(frozen=True)
class _Data:
    """Rows of the points that count, with the levels of their keys."""

    rows: pd.DataFrame
    keys: list[str]

    @staticmethod
    def of(table: pd.DataFrame, metrics: Sequence[str], keys: Sequence[str] | None) -> _Data:
        known = keys_of(table)
        for key in keys or ():
            if key not in known:
                raise InputError(f"keys: {key!r} is no key of the sweep{nearest(key, known, 'effects.keys_of(table)')}")
        for metric in metrics:
            if metric not in table or not pd.api.types.is_numeric_dtype(table[metric]) or metric in ("seed", *known):
                raise InputError(f"metrics: {metric!r} is no metric of the table")
        rows = complete(table)
        if rows.empty:
            raise InputError("table: no point is done for every seed yet: wait for the sweep, or take fewer seeds")
        chosen = list(keys) if keys is not None else varied(rows)
        return _Data(rows.assign(**{key: levels(rows[key]) for key in chosen}), chosen)

    def means(self, keys: list[str], metric: str) -> pd.DataFrame:
        """Mean over points: a row per seed, a column per level, or per pair of levels; "" of all points."""
        if not keys:
            return self.rows.groupby("seed")[[metric]].mean().set_axis([""], axis=1)
        return self.rows.groupby(["seed", *keys], dropna=False)[metric].mean().unstack(keys).sort_index(axis=1)


def levels(values: pd.Series[Any]) -> pd.Series[Any]:
    """Values of a key by level: themselves, or, where they are many numbers, the mean of their group."""
    if not pd.api.types.is_numeric_dtype(values) or values.nunique() <= LEVELS:
        return values
    # Of equally many points, not rows: each point has a row per seed.
    distinct = values.drop_duplicates().sort_values()
    group = pd.Series(np.arange(len(distinct)) * BINS // len(distinct), index=distinct)
    names = distinct.groupby(group.to_numpy()).mean().map(lambda mean: float(f"{mean:.3g}"))
    return values.map(group).map(names)


def _residuals(pairs: pd.DataFrame) -> np.ndarray:
    """(seeds, pairs): means per seed and pair of levels, less the best sum of a term per level."""
    terms = np.concatenate([pd.get_dummies(pairs.columns.get_level_values(side)).to_numpy(float) for side in (0, 1)], 1)
    values = pairs.to_numpy(float)
    residuals: np.ndarray = values - values @ (terms @ np.linalg.pinv(terms))
    return residuals

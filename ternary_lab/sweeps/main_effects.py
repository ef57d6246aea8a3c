"""Main effects and two-way interactions of a sweep's keys on its metrics, with intervals over seeds.

The definitions (Fisher 1935) use means of a metric over points of one seed s:

    ȳ_s                       mean over all points
    ȳ_s(a)                    mean over the points where a key has the level a
    ȳ_s(a, b)                 mean over the points where a key has the level a and another key has the level b

    effect of a               ȳ_s(a) - ȳ_s
    interaction of a and b    ȳ_s(a, b) minus the best fit to all pairs of levels by a sum of one term per level;
                              if all pairs occur, ȳ_s(a, b) - ȳ_s(a) - ȳ_s(b) + ȳ_s, with means over pairs

Effects and interactions are computed per seed, so that a shift of all points by the seed cancels. Then the mean and the
interval over seeds are computed (`studies.statistics.interval`). In a full grid, the effects and interactions are the
terms of the analysis of variance. In a random or Sobol design, points with the same level also differ in other keys.
The interval then covers the randomness of the seeds, but not the randomness of the points.

Effects describe, with a 95 % interval each. Interactions answer one question, whether two keys interact. So the
intervals of all pairs of levels are simultaneous (Bonferroni), and `interaction_shows` says yes if one of them excludes
0. This is a test with the statistic max |t|. The F test of the analysis of variance would need pairs of levels with
equal variances, and t does not.

If a metric spans orders of magnitude, levels multiply it rather than add to it. Then no interaction means that the
logarithm is a sum of one term per level, and `logarithm=True` asks for this.

If a key has more than `LEVELS` different numbers, these numbers are divided into `BINS` groups of about equally many
points. The name of a group is its mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ternary_lab.errors import InputError, nearest
from ternary_lab.studies.statistics import POSITIVE, interval

LEVELS, BINS = 8, 4
AFTER_KEYS = "status"
"""Name of the column that follows the keys in the table of a sweep."""


def keys_of(table: pd.DataFrame) -> list[str]:
    """Return the keys in the table of a sweep (`run.results`). Raises InputError for any other table."""
    columns = list(table.columns)
    if columns[:2] != ["point", "seed"] or AFTER_KEYS not in columns:
        raise InputError("table: is not a sweep's: it must have the columns of results.csv")
    return columns[2 : columns.index(AFTER_KEYS)]


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of points that are done for every seed.

    If other points were kept, the seeds would be compared on different points.
    """
    keys_of(table)
    done = table[table["status"] == "done"]
    counts = done.groupby("point")["seed"].nunique()
    return done[done["point"].isin(counts[counts == table["seed"].nunique()].index)]


def varied(table: pd.DataFrame) -> list[str]:
    """Return the keys that have more than one value."""
    return [key for key in keys_of(table) if table[key].nunique(dropna=False) > 1]


def main_effects(table: pd.DataFrame, metrics: Sequence[str], keys: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the effect of each level of each key on each metric, relative to the mean of all points.

    Args:
        table: results of a sweep (`run.results`); only points that are done for every seed are used.
        metrics: columns of the table.
        keys: keys of the sweep; by default, all keys with more than one value.

    The columns are key, level, metric, overall, n, mean, low and high. `overall` is the mean of the metric over all
    points and seeds. `n` is the number of seeds. Raises InputError if a metric or key is unknown, or if no point is
    done for every seed.
    """
    rows, keys = _rows(table, metrics, keys)
    found = []
    for key in keys:
        for metric in metrics:
            overall = rows.groupby("seed")[metric].mean()
            for level, means in _means(rows, [key], metric).items():
                effect = {"key": key, "level": level, "metric": metric, "overall": overall.mean()}
                found.append({**effect, **vars(interval(means - overall))})
    return pd.DataFrame(found)


def interactions(
    table: pd.DataFrame, metrics: Sequence[str], keys: Sequence[str] | None = None, *, logarithm: bool = False
) -> pd.DataFrame:
    """Return the interaction of each pair of levels of two keys: their joint effect beyond the effects of both levels.

    The columns are key_a, level_a, key_b, level_b, metric, n, mean, low, high and comparisons. The intervals of one
    metric and one pair of keys are simultaneous: all of them contain the true interactions with at least 95 %
    probability. `comparisons` is their number. Pairs of levels that no point has are left out.

    Args:
        logarithm: whether to take the natural logarithm of the metrics first; the metrics are then called `ln NAME`.

    Other arguments and errors are as in `main_effects`. Raises InputError also if the logarithm of a metric is not
    finite.
    """
    rows, keys = _rows(table, metrics, keys)
    if logarithm:
        rows, metrics = _logarithms(rows, metrics)
    found = []
    for a, b in combinations(keys, 2):
        for metric in metrics:
            pairs = _means(rows, [a, b], metric)
            levels_of_pairs: list[Any] = list(pairs.columns)
            for (level_a, level_b), values in zip(levels_of_pairs, _residuals(pairs).T, strict=True):
                found.append({"key_a": a, "level_a": level_a, "key_b": b, "level_b": level_b, "metric": metric,
                              **vars(interval(values, comparisons=len(levels_of_pairs))),
                              "comparisons": len(levels_of_pairs)})
    return pd.DataFrame(found, columns=[
        "key_a", "level_a", "key_b", "level_b", "metric", "n", "mean", "low", "high", "comparisons",
    ])


def interaction_shows(found: pd.DataFrame) -> bool:
    """Return whether two keys interact: whether an interval of their interactions excludes 0.

    If they do not interact, the answer is yes with a probability of at most 5 %.

    Args:
        found: the rows of `interactions` for one metric and one pair of keys. Raises InputError for others.
    """
    if len(found[["key_a", "key_b", "metric"]].drop_duplicates()) != 1:
        raise InputError("found: must hold the interactions of one pair of keys in one metric")
    return bool(((found["low"] > 0) | (found["high"] < 0)).any())


def ratios(table: pd.DataFrame, metric: str, key: str, by: str) -> pd.DataFrame:
    """Return how much each level of a key multiplies a metric, relative to the lowest level, for each level of `by`.

    The columns are `by`, `key`, n, mean, low, high and comparisons. The ratios are paired by seed. `mean` is their
    geometric mean, and the intervals from low to high are simultaneous over all rows. Arguments and errors are as in
    `main_effects`; the metric must be positive.
    """
    rows, _ = _rows(table, [metric], [key, by])
    _logarithms(rows, [metric])
    pairs = _means(rows, [by, key], metric)
    lowest, levels_of_pairs = min(rows[key]), list[Any](pairs.columns)
    wanted = [(level, other) for level, other in levels_of_pairs if other != lowest and (level, lowest) in pairs]
    return pd.DataFrame([
        {by: level, key: other, "comparisons": len(wanted),
         **vars(interval(pairs[level, other] / pairs[level, lowest], bounds=POSITIVE, comparisons=len(wanted)))}
        for level, other in wanted
    ])


def _rows(
    table: pd.DataFrame, metrics: Sequence[str], keys: Sequence[str] | None
) -> tuple[pd.DataFrame, list[str]]:
    """Return the complete rows of a table, with the levels of its keys, and the keys. Raises InputError."""
    known = keys_of(table)
    for key in keys or ():
        if key not in known:
            near = nearest(key, known, "main_effects.keys_of(table)")
            raise InputError(f"keys: {key!r} is no key of the sweep{near}")
    for metric in metrics:
        if metric not in table or not pd.api.types.is_numeric_dtype(table[metric]) or metric in ("seed", *known):
            raise InputError(f"metrics: {metric!r} is no metric of the table: choose a column of numbers")
    rows = complete(table)
    if rows.empty:
        raise InputError("table: no point is done for every seed yet: wait for the sweep, or take fewer seeds")
    chosen = list(keys) if keys is not None else varied(rows)
    return rows.assign(**{key: levels(rows[key]) for key in chosen}), chosen


def _logarithms(rows: pd.DataFrame, metrics: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows with the natural logarithms of the metrics, and the names of these. Raises InputError."""
    for metric in metrics:
        if not (np.isfinite(rows[metric]) & (rows[metric] > 0)).all():
            raise InputError(f"metrics: {metric} is not positive everywhere, so it has no logarithm: leave it out")
    return rows.assign(**{f"ln {metric}": np.log(rows[metric]) for metric in metrics}), [f"ln {m}" for m in metrics]


def _means(rows: pd.DataFrame, keys: list[str], metric: str) -> pd.DataFrame:
    """Return means over points, with a row per seed and a column per level or pair of levels."""
    return rows.groupby(["seed", *keys], dropna=False)[metric].mean().unstack(keys).sort_index(axis=1)


def levels(values: pd.Series[Any]) -> pd.Series[Any]:
    """Return the level of each value of a key: the value itself or, for many numbers, the mean of its group."""
    if not pd.api.types.is_numeric_dtype(values) or values.nunique() <= LEVELS:
        return values
    # Groups have equally many points, not rows, because each point has a row per seed.
    distinct = values.drop_duplicates().sort_values()
    group = pd.Series(np.arange(len(distinct)) * BINS // len(distinct), index=distinct)
    names = distinct.groupby(group.to_numpy()).mean().map(lambda mean: float(f"{mean:.3g}"))
    return values.map(group).map(names)


def _residuals(pairs: pd.DataFrame) -> np.ndarray:
    """Return the interactions (seeds, pairs) of pairs of levels.

    An interaction is the mean of a seed and a pair, minus the best fit by a sum of one term per level.
    """
    terms = np.concatenate([pd.get_dummies(pairs.columns.get_level_values(side)).to_numpy(float) for side in (0, 1)], 1)
    values = pairs.to_numpy(float)
    residuals: np.ndarray = values - values @ (terms @ np.linalg.pinv(terms))
    return residuals

"""Figures of sweeps: main effects, a metric by the levels of two keys, heat maps of interactions, parallel coordinates.

The argument `words` of a figure maps a key of the sweep to its words and unit. A key that it lacks is written as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize, TwoSlopeNorm

from ternary_lab.figures.parts import heat_map, legend_below
from ternary_lab.figures.save import Drawing
from ternary_lab.figures.style import GREY, INK, figure_of, new_axes, plain
from ternary_lab.figures.tables import heading
from ternary_lab.sweeps.main_effects import LEVELS, complete, varied

SPREAD = 0.05
"""Share of the height of an axis over which lines through the same level are spread."""
LOW = 0.1
"""An axis of many positive numbers is logarithmic if half of the numbers lie below this share of their range."""


Words = Mapping[str, str] | None


def main_effects(effects: pd.DataFrame, words: Words = None) -> Drawing:
    """Plot the mean of each metric (rows) at each level of each key (columns), with the 95 % interval of the effect.

    Args:
        effects: the table that `main_effects.main_effects` returns.
    """
    metrics, keys = (list(dict.fromkeys(effects[column])) for column in ("metric", "key"))
    with new_axes(len(metrics), len(keys), 0.8 + 1.6 * len(metrics), sharey="row") as axes:
        for axis, (metric, key) in zip(axes, ((m, k) for m in metrics for k in keys), strict=True):
            rows = effects[(effects["metric"] == metric) & (effects["key"] == key)]
            middle, x = rows["overall"] + rows["mean"], range(len(rows))
            axis.axhline(rows["overall"].iloc[0], color=GREY, linewidth=0.8, linestyle=":")
            axis.errorbar(
                x, middle, yerr=[_finite(rows["mean"] - rows["low"]), _finite(rows["high"] - rows["mean"])],
                color=INK, marker="o", markersize=3.5, linewidth=1, elinewidth=1.2, capsize=2,
            )
            axis.set_xticks(x, [_text(level) for level in rows["level"]])
            axis.set_xlim(-0.4, len(rows) - 0.6)
            if metric == metrics[-1]:
                axis.set_xlabel(_said(key, words))
        for row, metric in enumerate(metrics):
            axes[row * len(keys)].set_ylabel(fill(_said(metric, words), 26))
        figure_of(axes[0]).supxlabel(
            f"dot: mean over points; bar: 95 % interval of the effect over {effects['n'].min()} seeds; "
            "dotted line: mean of all", fontsize=7,
        )
    said = []
    for (key, metric), rows in effects.groupby(["key", "metric"], sort=False):
        means = rows["mean"].to_numpy()
        best, worst = rows.iloc[means.argmax()], rows.iloc[means.argmin()]
        low, high = (row["overall"] + row["mean"] for row in (worst, best))
        said.append(f"{_said(metric, words)}, is lowest, {low:.3g}, at {_said(key, words)} {_text(worst['level'])} and "
                    f"highest, {high:.3g}, at {_text(best['level'])}")
    alt = f"Line charts show the main effects of {len(keys)} keys over {effects['n'].min()} seeds: {'; '.join(said)}."
    return Drawing.of(axes, alt, effects)


def by_levels(table: pd.DataFrame, metric: str, key: str, by: str, words: Words = None) -> Drawing:
    """Plot a metric on a logarithmic axis against the levels of a key, with a line for each level of `by`.

    A dot is a run, and a line joins the geometric means over seeds. Parallel lines mean that the two keys do not
    interact. Only points that are done for every seed are drawn.

    Args:
        table: the results of a sweep (`run.load_results`); the metric is positive.
    """
    rows = complete(table)
    order, lines = _levels(rows[key]), _levels(rows[by])
    shades = colormaps["viridis"](np.linspace(0.1, 0.85, len(lines)))
    offsets = SPREAD * (np.arange(len(lines)) - (len(lines) - 1) / 2)
    with new_axes(1, 1, 3.0) as (axis,):
        for shade, offset, level, mark in zip(shades, offsets, lines, cycle("osD^v"), strict=False):
            own = rows[rows[by] == level]
            x = np.array([order.index(value) for value in own[key]]) + offset
            axis.scatter(x, own[metric], s=12, color=shade, marker=mark, alpha=0.45, linewidth=0)
            means = own.groupby(key)[metric].agg(lambda values: float(np.exp(np.log(values).mean()))).reindex(order)
            axis.plot(np.arange(len(order)) + offset, means, color=shade, marker=mark, label=_text(level))
        axis.set_yscale("log")
        plain(axis)
        axis.set_xticks(range(len(order)), [_text(level) for level in order])
        axis.set_xlabel(_said(key, words))
        axis.set_ylabel(_said(metric, words))
        n = rows["seed"].nunique()
        legend_below([axis], f"{_said(by, words)} (dot: a run; line: geometric mean, n = {n} seeds)", ncols=len(lines))
    means = rows.groupby([by, key])[metric].agg(lambda values: float(np.exp(np.log(values).mean())))
    said = "; ".join(
        f"at {_text(level)}, from {means[level].iloc[0]:.3g} to {means[level].iloc[-1]:.3g}" for level in lines
    )
    alt = (
        f"Lines show {_said(metric, words)}, against {_said(key, words)}, from {_text(order[0])} to "
        f"{_text(order[-1])}, with a line for each level of {_said(by, words)}: {said}."
    )
    return Drawing.of([axis], alt, rows[["point", "seed", key, by, metric]])


def interactions(found: pd.DataFrame, words: Words = None) -> Drawing:
    """Draw heat maps of the interaction of each pair of keys. A dot marks an interaction whose interval excludes 0.

    Args:
        found: rows of one metric of the table that `main_effects.interactions` returns.
    """
    metric, pairs = found["metric"].iloc[0], list(dict.fromkeys(zip(found["key_a"], found["key_b"], strict=True)))
    widest = found.groupby(["key_a", "key_b"])["level_a"].nunique().max()
    columns = min(3 if widest <= 3 else 2, len(pairs))
    count = -(-len(pairs) // columns)
    most = max(float(found["mean"].abs().max()), 1e-12)
    norm = TwoSlopeNorm(0, -most, most)
    with new_axes(count, columns, 0.5 + 2.3 * count) as axes:
        for axis, (a, b) in zip(axes, pairs, strict=False):
            rows = found[(found["key_a"] == a) & (found["key_b"] == b)]
            _heat_map(axis, rows, norm)
            axis.set_xlabel(_said(a, words))
            axis.set_ylabel(_said(b, words))
        for axis in axes[len(pairs):]:
            axis.remove()
        figure = figure_of(axes[0])
        bar = figure.colorbar(ScalarMappable(norm, "PRGn"), ax=axes[: len(pairs)], aspect=30, shrink=0.9)
        bar.set_label(f"interaction in {_said(metric, words)}")
        figure.supxlabel(
            f"dot: the interval over {found['n'].max()} seeds excludes 0 (simultaneous 95 % intervals)", fontsize=7
        )
    sure = found[(found["low"] > 0) | (found["high"] < 0)]
    first = found.iloc[found["mean"].abs().to_numpy().argmax()]
    alt = (
        f"Heat maps show the interactions of {len(pairs)} pair{'s' * (len(pairs) > 1)} of keys in "
        f"{_said(metric, words)}. The intervals of {len(sure)} of {len(found)} exclude 0. The largest is "
        f"{first['mean']:+.3g} at {_said(first['key_a'], words)} {_text(first['level_a'])} with "
        f"{_said(first['key_b'], words)} {_text(first['level_b'])}."
    )
    return Drawing(figure, alt, found)


def _heat_map(axis: Axes, rows: pd.DataFrame, norm: Normalize) -> None:
    text = [
        f"{mean:+.2g}{' •' if low > 0 or high < 0 else ''}"
        for mean, low, high in rows[["mean", "low", "high"]].to_numpy(float)
    ]
    means, words = (  # the lowest level is at the bottom
        rows.assign(text=text).pivot(index="level_b", columns="level_a", values=name).iloc[::-1]
        for name in ("mean", "text")
    )
    means = means.rename(index=_text, columns=_text)
    heat_map(axis, means, cmap="PRGn", norm=norm, text=words.to_numpy(), annot_kws={"fontsize": 6.5})


def parallel(table: pd.DataFrame, metric: str, words: Words = None) -> Drawing:
    """Draw parallel coordinates: an axis for each key, and a line for each point across all axes.

    The colour of a line shows the mean of `metric` over seeds. Only points that are done for every seed are drawn.

    Args:
        table: the results of a sweep (`run.load_results`).
    """
    rows = complete(table)
    keys = varied(rows) or [table.columns[2]]
    seeds = rows["seed"].nunique()
    means = rows.groupby("point", sort=False).agg({**dict.fromkeys(keys, "first"), metric: "mean"}).reset_index()
    means = means.sort_values(metric, kind="stable", ignore_index=True)
    heights = np.stack([_heights(means[key], discrete=True) for key in keys] + [_heights(means[metric])], 1)
    # Lines through one level would cover each other, so they are spread in the order of the metric.
    heights[:, :-1] += SPREAD * (np.arange(len(means)) / max(1, len(means) - 1) - 0.5)[:, None]
    values = means[metric].to_numpy(float)
    low, high = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0.0, 1.0)
    norm = Normalize(low, high if high > low else low + 1)
    with new_axes(1, 1, 3.2) as (axis,):
        lines = [np.stack((np.arange(len(keys) + 1), line), 1) for line in heights]
        colours = colormaps["viridis_r"](norm(values))
        axis.add_collection(LineCollection(lines, colors=colours, linewidths=0.9, alpha=0.8))
        for place, name in enumerate([*keys, metric]):
            axis.axvline(place, color=INK, linewidth=0.7)
            for height, text in _ticks(means[name], discrete=name != metric):
                axis.text(place + 0.03, height, text, fontsize=6.5, va="center",
                          bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8})
        axis.set_xticks(range(len(keys) + 1), [_said(name, words) for name in (*keys, metric)])
        axis.set_yticks([])
        axis.set_xlim(-0.1, len(keys) + 0.35)
        axis.set_ylim(-0.06, 1.06)
        axis.grid(visible=False)
        axis.spines[["left", "bottom"]].set_visible(False)
        bar = figure_of(axis).colorbar(ScalarMappable(norm, "viridis_r"), ax=axis, aspect=30, pad=0.02)
        bar.set_label(f"{_said(metric, words)}, mean of {seeds} seeds")
    ends = means.dropna(subset=[metric]).iloc[[0, -1]] if np.isfinite(values).any() else means.iloc[:0]
    said = "; ".join(
        f"{row[metric]:.3g} at " + ", ".join(f"{_said(key, words)} {_text(row[key])}" for key in keys)
        for _, row in ends.iterrows()
    )
    alt = (
        f"Parallel coordinates show {len(means)} points with their mean {_said(metric, words)}, over {seeds} seeds. "
        f"The lowest and the highest are {said}."
    )
    return Drawing.of([axis], alt, means)


def _heights(values: pd.Series[Any], discrete: bool = False) -> np.ndarray:
    """Return the heights of values on an axis from 0 to 1.

    A few levels are spaced evenly. Many numbers are placed by their value.
    """
    if discrete and not _many(values):
        order = _levels(values)
        return np.array([order.index(value) for value in values]) / max(1, len(order) - 1)
    numbers = values.to_numpy(float)
    if _logarithmic(values):
        numbers = np.log(numbers)
    low, span = np.nanmin(numbers, initial=np.inf), np.ptp(numbers[np.isfinite(numbers)]) if len(numbers) else 0.0
    heights: np.ndarray = (numbers - low) / (span or 1.0)
    return heights


def _ticks(values: pd.Series[Any], discrete: bool) -> list[tuple[float, str]]:
    if discrete and not _many(values):
        order = _levels(values)
        return [(i / max(1, len(order) - 1), _text(level)) for i, level in enumerate(order)]
    low, high = values.min(), values.max()
    middle = (low * high) ** 0.5 if _logarithmic(values) else (low + high) / 2
    ticks = [(0.0, low), (0.5, middle), (1.0, high)] if high > low else [(0.0, low)]
    return [(height, _text(value)) for height, value in ticks if value == value]


def _many(values: pd.Series[Any]) -> bool:
    return bool(pd.api.types.is_numeric_dtype(values)) and values.nunique() > LEVELS


def _logarithmic(values: pd.Series[Any]) -> bool:
    low, high = values.min(), values.max()
    return _many(values) and bool(low > 0) and bool(values.median() < low + LOW * (high - low))


def _levels(values: pd.Series[Any]) -> list[Any]:
    return sorted(values.unique(), key=lambda value: (isinstance(value, str), value))


def _finite(values: pd.Series[Any]) -> Sequence[float]:
    """Return the lengths of error bars. The length is 0 for a single seed, which has no finite interval."""
    return [value if np.isfinite(value) else 0.0 for value in values]


def _said(column: object, words: Words) -> str:
    """Return the words for a key or a metric. The words for a logarithm have no unit."""
    name = str(column)
    if name.startswith("ln "):
        return f"ln {_said(name[3:], words).rpartition(', ')[0] or name[3:]}"
    return (words or {}).get(name, heading(name))


def _text(level: Any) -> str:
    return f"{level:.3g}" if isinstance(level, float) else str(level)

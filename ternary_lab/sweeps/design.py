"""Sweep files: a base configuration, a design over some of its keys, seeds, and a budget.

    base: quick                                     # a configuration, by name or file
    set: {checkpoints.every: 0}                     # settings of all runs; they override the base
    design:
      kind: random                                  # grid, random or sobol
      count: 32                                     # number of points of a random or Sobol design
      seed: 0
      keys:
        rho.coupled: {low: 0.3, high: 0.9}
        optimiser.weight_decay: {low: 1e-5, high: 1e-2, scale: log}
        optimiser.clip_per: {values: [model, pathway]}
    seeds: 1..8                                     # or a list
    budget: {runs: 256, epochs: 4096}               # a larger sweep is an error

A point assigns a value to each key. A run is a point with a seed. A grid contains every combination of values. In a
grid, a range stands for `count` values, which include both ends. A random design draws each value independently. A
Sobol design takes the points of a scrambled Sobol sequence (Owen 1998). These points fill the space evenly, most evenly
if their number is a power of two. In a random or Sobol design, a larger `count` adds points and keeps the other
points. A range of whole numbers includes both ends. Drawn numbers are rounded to six digits.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator

from ternary_lab import config_files
from ternary_lab.arguments import read_path
from ternary_lab.config import Config
from ternary_lab.config_files import load_config, settings
from ternary_lab.errors import ConfigError, nearest
from ternary_lab.settings import Section, Whole

Number = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[Whole, Field(ge=0, le=2**32 - 1)]
Count = Annotated[Whole, Field(ge=1, le=1_000_000)]
_SPAN = re.compile(r"(-?\d{1,10})\.\.(-?\d{1,10})")
LONGEST_SPAN = 100_000
MOST_POINTS = 10_000
"""Largest number of points of a sweep. Every point is checked before the first run starts, which takes milliseconds."""


class Values(Section):
    """Values that a key takes: a list of values, or a range of numbers."""

    values: tuple[Any, ...] | None = Field(None, min_length=1, description="the values, of any type that the key takes")
    low: Number | None = Field(None, description="lower end of a range")
    high: Number | None = Field(None, description="upper end")
    scale: Literal["linear", "log"] = Field("linear", description="the scale on which a range is even")
    count: Whole | None = Field(None, ge=2, le=10_000, description="values of a range in a grid, including both ends")

    @model_validator(mode="after")
    def _values_or_range(self) -> Values:
        if self.values is not None:
            if (self.low, self.high, self.count, self.scale) != (None, None, None, "linear"):
                raise ValueError("takes values, or low and high, not both")
            for i, value in enumerate(self.values):
                if value in self.values[:i]:
                    raise ValueError(f"{value!r} is given twice")
        elif self.low is None or self.high is None:
            raise ValueError("give values, or low and high")
        elif not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low:g} and {self.high:g}")
        elif self.scale == "log" and self.low <= 0:
            raise ValueError(f"a logarithmic range must begin above 0, got {self.low:g}")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """(low, high) of a range, or zeros if `values` are given."""
        return self.low or 0.0, self.high or 0.0

    def between(self, u: float, whole: bool) -> Any:
        """Return the value at position u in [0, 1).

        If the key has a list of `values`, each value has an interval of u of the same length. If the key has a range,
        equal intervals of u give equal parts of the range, on the scale of the key. `whole` asks for a whole number.
        """
        if self.values is not None:
            return self.values[int(u * len(self.values))]
        low, high = self.ends
        end = high + 1 if whole else high  # a whole number n stands for [n, n + 1)
        value = low * (end / low) ** u if self.scale == "log" else low + u * (end - low)
        return min(math.floor(value), int(high)) if whole else self._rounded(value)

    def levels(self, whole: bool) -> list[Any]:
        """Return the values of this key in a grid. `whole` asks for whole numbers."""
        if self.values is not None:
            return list(self.values)
        space = np.geomspace if self.scale == "log" else np.linspace
        levels = map(float, space(*self.ends, self.count or 0))
        return [round(level) if whole else self._rounded(level) for level in levels]

    def _rounded(self, value: float) -> float:
        low, high = self.ends
        return min(max(float(f"{value:.6g}"), low), high)


class Design(Section):
    """Points of a sweep."""

    kind: Literal["grid", "random", "sobol"] = Field(description="how points are chosen")
    keys: dict[str, Values] = Field(min_length=1, max_length=64, description="dotted key -> the values that it takes")
    count: Count | None = Field(None, description="points of a random or Sobol design")
    seed: Seed = Field(0, description="of the points; independent of the runs' seeds")

    @field_validator("keys")
    @classmethod
    def _keys_exist(cls, keys: dict[str, Values]) -> dict[str, Values]:
        known = {name: field for name, field in settings().items() if name != "name"}
        for key, values in keys.items():
            if key not in known:
                raise ValueError(f"unknown key {key!r}{nearest(key, known, '`ternary-lab list settings`')}")
            if values.values is None and known[key].annotation not in (int, float):
                raise ValueError(f"{key} is no number: give values, not a range")
            low, high = values.ends
            if _whole(key) and (low != int(low) or high != int(high)):
                raise ValueError(f"{key} takes whole numbers, got a range from {low:g} to {high:g}")
        return keys

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Design:
        if self.kind == "grid":
            if self.count is not None:
                raise ValueError("count is given, but a grid has as many points as its values make: delete it")
            for key, values in self.keys.items():
                if values.values is None and values.count is None:
                    raise ValueError(f"keys.{key}: in a grid a range needs count, the number of its values")
                levels = values.levels(_whole(key)) if values.values is None else []
                if len(set(levels)) < len(levels):
                    raise ValueError(f"keys.{key}: {len(levels)} whole numbers do not fit into the range: lower count")
            return self
        if self.count is None:
            raise ValueError(f"count is missing: say how many points a {self.kind} design has")
        for key, values in self.keys.items():
            if values.count is not None:
                raise ValueError(f"keys.{key}.count: only a grid has values per key: delete it")
        return self

    @property
    def size(self) -> int:
        """Number of points. Equal points of a random or Sobol design are all counted."""
        if self.kind == "grid":
            return math.prod(len(v.values) if v.values is not None else v.count or 0 for v in self.keys.values())
        return self.count or 0

    def points(self) -> list[dict[str, Any]]:
        """Return the points in order. Each point is a dictionary from key to value."""
        whole = {key: _whole(key) for key in self.keys}
        if self.kind == "grid":
            levels = (values.levels(whole[key]) for key, values in self.keys.items())
            return [dict(zip(self.keys, point, strict=True)) for point in product(*levels)]
        return [
            {key: self.keys[key].between(float(u), whole[key]) for key, u in zip(self.keys, row, strict=True)}
            for row in self._unit()
        ]

    def _unit(self) -> np.ndarray:
        """Return random numbers (points, keys) in [0, 1), from which the values of the points are computed."""
        if self.kind == "random":
            return np.random.default_rng(self.seed).random((self.size, len(self.keys)))
        from scipy.stats.qmc import Sobol

        # The number of drawn points is a power of two. A shorter sequence is the beginning of a longer sequence.
        sequence = Sobol(len(self.keys), rng=np.random.default_rng(self.seed))
        return sequence.random_base2(max(1, math.ceil(math.log2(self.size))))[: self.size]


class Budget(Section):
    """The largest number of runs and the largest number of epochs of a sweep. At least one of them must be given."""

    runs: Whole | None = Field(None, ge=1, description="runs at most")
    epochs: Whole | None = Field(None, ge=1, description="epochs of all runs together at most")

    @model_validator(mode="after")
    def _not_empty(self) -> Budget:
        if self.runs is None and self.epochs is None:
            raise ValueError("give runs or epochs: the most that the sweep may cost")
        return self


class Sweep(Section):
    """Content of a sweep file."""

    name: str = Field(max_length=80, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", description="default: the file's name")
    title: str = Field("", description="the question that it answers, in a few words")
    base: str = Field(description="configuration that the points change: a file beside this one, or as for `train`")
    set: dict[str, Any] = Field({}, description="dotted keys and values of all runs")
    design: Design
    seeds: tuple[Seed, ...] = Field(min_length=1, max_length=LONGEST_SPAN, description="a list, or first..last")
    cohort: Count | None = Field(None, description="runs side by side at most; none: as many as fit")
    budget: Budget

    @field_validator("seeds", mode="before")
    @classmethod
    def _from_span(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if (found := span(value)) is None:
            raise ValueError(f"write a list, or first..last, got {value!r}")
        return tuple(found)

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if twice := [seed for seed in set(seeds) if seeds.count(seed) > 1]:
            raise ValueError(f"{twice[0]} is given twice: a seed makes one run of each point")
        return seeds

    @model_validator(mode="after")
    def _within_budget(self) -> Sweep:
        runs = self.design.size * len(self.seeds)
        remedy = "raise it, or take fewer points or seeds"
        if self.budget.runs is not None and runs > self.budget.runs:
            planned = f"{runs} runs are planned ({self.design.size} points x {len(self.seeds)} seeds)"
            raise ValueError(f"budget.runs: {planned}, {self.budget.runs} allowed: {remedy}")
        # Each run has at least one epoch, so this check needs no point.
        if self.budget.epochs is not None and runs > self.budget.epochs:
            raise ValueError(
                f"budget.epochs: {runs} runs are planned, {self.budget.epochs} epochs allowed: {remedy}"
            )
        if self.design.size > MOST_POINTS:
            raise ValueError(
                f"design: {self.design.size} points, more than the {MOST_POINTS} of one sweep: take fewer values, or "
                "divide the sweep into several files"
            )
        return self


@dataclass(frozen=True)
class Point:
    """A point of a design: the values of its keys, and the configuration with these values."""

    values: Mapping[str, Any]
    config: Config


def load_sweep(source: str | Path) -> Sweep:
    """Load a sweep from its YAML file, or a shipped sweep by its bare name.

    Raises ConfigError. If a key is wrong, the message names the key.
    """
    path = find_sweep(source)
    name = re.sub("[^A-Za-z0-9_.-]+", "_", path.stem).lstrip(".-")[:80]  # the default directory has this name
    data = {"name": name or "sweep", **config_files.read_mapping(path)}
    if isinstance(base := data.get("base"), str) and os.path.isfile(beside := path.parent / read_path(base)):
        data["base"] = str(beside)
    try:
        return Sweep.model_validate(config_files.plain_data(data))
    except ValidationError as error:
        raise ConfigError(f"{path}: {config_files.explain(error, data, Sweep)}") from None


def find_sweep(name: str | Path) -> Path:
    """Return the path of a sweep file, which is given by its path or, if the sweep is shipped, by its bare name.

    Raises ConfigError if there is no such file.
    """
    return config_files.find_shipped(name, sweep_files(), "sweep", "sweeps")


def sweep_files() -> dict[str, Path]:
    """Return a dictionary from bare name to file for the sweeps that ship with the library."""
    folders = config_files.shipped_folders("sweeps")
    return {file.stem: file for folder in folders for file in sorted(folder.glob("[!.]*.yaml"))}


def points(sweep: Sweep) -> list[Point]:
    """Return the distinct points of a sweep.

    Raises ConfigError if the base or a point is not a valid configuration, or if there are more epochs than the budget
    allows.
    """
    said = f"sweep {sweep.name}:"
    base = load_config(config_files.find_config(sweep.base), sweep.set, overrides_from=f"{said} set").as_dict()
    found: dict[str, Point] = {}
    for number, values in enumerate(sweep.design.points(), 1):
        # Modes come first, because a new mode drops the settings that only the previous mode has.
        overrides = dict(sorted(values.items(), key=lambda item: not item[0].endswith(".mode")))
        shown = ", ".join(f"{key}={value}" for key, value in values.items())
        made = load_config(base, overrides, overrides_from=f"{said} point {number} ({shown})")
        found.setdefault(made.model_dump_json(), Point(values, made))
    epochs = len(sweep.seeds) * sum(point.config.training.total_epochs for point in found.values())
    if sweep.budget.epochs is not None and epochs > sweep.budget.epochs:
        raise ConfigError(
            f"sweep {sweep.name}: budget.epochs: {epochs} epochs are planned, {sweep.budget.epochs} allowed: raise it, "
            "or take fewer points, seeds or training.total_epochs"
        )
    return list(found.values())


def span(text: str) -> list[int] | None:
    """Return the whole numbers of a span, [1, 2, 3, 4] for `1..4`, or None if the text has another form.

    Raises ValueError if the span is empty or has more than `LONGEST_SPAN` numbers.
    """
    if not (match := _SPAN.fullmatch(text.strip())):
        return None
    first, last = map(int, match.groups())
    if not first <= last < first + LONGEST_SPAN:
        raise ValueError(f"{text}: must rise, by less than {LONGEST_SPAN}")
    return list(range(first, last + 1))


def _whole(key: str) -> bool:
    return settings()[key].annotation is int

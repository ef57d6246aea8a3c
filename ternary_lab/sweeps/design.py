"""A sweep as data: a base configuration, a design over some of its keys, seeds, and a budget.

    base: quick                                     # a configuration, by name or file
    set: {checkpoints.every: 0}                     # what all runs have, over the base
    design:
      kind: random                                  # grid, random or sobol
      count: 32                                     # points, in a random or Sobol design
      seed: 0
      keys:
        rho.coupled: {low: 0.3, high: 0.9}
        optimiser.weight_decay: {low: 1e-5, high: 1e-2, scale: log}
        optimiser.clip_per: {values: [model, pathway]}
    seeds: 1..8                                     # or a list
    budget: {runs: 256, epochs: 4096}               # more are refused

A point is a value for each key, a run a point and a seed. In a grid every value meets every other, and a range is
`count` values from end to end. A random design draws each value independently; a Sobol design takes the points of a
scrambled Sobol sequence (Owen 1998), which fill the space evenly, best where their number is a power of two. Both begin
alike for every `count`, so that raising it adds points and changes none. Ranges of whole numbers hold both ends; drawn
numbers are rounded to six digits.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator

from ternary_lab import config_files
from ternary_lab.config import Config
from ternary_lab.config_files import load_config, settings
from ternary_lab.errors import ConfigError, nearest
from ternary_lab.settings import Section

Number = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
_SPAN = re.compile(r"(-?\d{1,10})\.\.(-?\d{1,10})")
LONGEST_SPAN = 100_000


class Values(Section):
    """What a key may be: some values, or a range of numbers."""

    values: tuple[Any, ...] | None = Field(None, min_length=1, description="the values, of any type that the key takes")
    low: Number | None = Field(None, description="lower end of a range")
    high: Number | None = Field(None, description="upper end")
    scale: Literal["linear", "log"] = Field("linear", description="what a range is even in")
    count: int | None = Field(None, ge=2, le=10_000, description="values of a range in a grid, both ends among them")

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Values:
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

    def between(self, u: float, whole: bool) -> Any:
        """The value at u in [0, 1): even over the values, or over the range on its scale."""
        if self.values is not None:
            return self.values[int(u * len(self.values))]
        assert self.low is not None
        assert self.high is not None
        high = self.high + 1 if whole else self.high  # each whole number has the range up to the next
        value = self.low * (high / self.low) ** u if self.scale == "log" else self.low + u * (high - self.low)
        return min(math.floor(value), int(self.high)) if whole else self._rounded(value)

    def levels(self, whole: bool) -> list[Any]:
        """The values of a grid."""
        if self.values is not None:
            return list(self.values)
        assert self.low is not None
        assert self.high is not None
        assert self.count is not None
        space = np.geomspace if self.scale == "log" else np.linspace
        return [round(float(x)) if whole else self._rounded(float(x)) for x in space(self.low, self.high, self.count)]

    def _rounded(self, value: float) -> float:
        assert self.low is not None
        assert self.high is not None
        return min(max(float(f"{value:.6g}"), self.low), self.high)


class Design(Section):
    """Which points are tried."""

    kind: Literal["grid", "random", "sobol"] = Field(description="how points are laid out")
    keys: dict[str, Values] = Field(min_length=1, max_length=64, description="dotted key -> what it may be")
    count: Count | None = Field(None, description="points of a random or Sobol design")
    seed: Seed = Field(0, description="of the points, apart from the runs' seeds")

    @field_validator("keys")
    @classmethod
    def _that_exist(cls, keys: dict[str, Values]) -> dict[str, Values]:
        known = {name: field for name, field in settings().items() if name != "name"}
        for key, values in keys.items():
            if key not in known:
                raise ValueError(f"unknown key {key!r}{nearest(key, known, '`ternary-lab list settings`')}")
            if values.values is None and known[key].annotation not in (int, float):
                raise ValueError(f"{key} is no number: give values, not a range")
            ends = (values.low or 0.0, values.high or 0.0)
            if _whole(key) and any(end != int(end) for end in ends):
                raise ValueError(f"{key} takes whole numbers, got a range from {ends[0]:g} to {ends[1]:g}")
        return keys

    @model_validator(mode="after")
    def _of_its_kind(self) -> Design:
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
        """Number of points; those of a random or Sobol design that meet are counted each."""
        if self.kind == "grid":
            return math.prod(len(v.values) if v.values is not None else v.count or 0 for v in self.keys.values())
        assert self.count is not None
        return self.count

    def points(self) -> list[dict[str, Any]]:
        """A value for each key, point by point."""
        if self.kind == "grid":
            levels = (values.levels(_whole(key)) for key, values in self.keys.items())
            return [dict(zip(self.keys, point, strict=True)) for point in product(*levels)]
        return [
            {key: self.keys[key].between(float(u), _whole(key)) for key, u in zip(self.keys, row, strict=True)}
            for row in self._unit()
        ]

    def _unit(self) -> np.ndarray:
        """(points, keys) in [0, 1)."""
        assert self.count is not None
        if self.kind == "random":
            return np.random.default_rng(self.seed).random((self.count, len(self.keys)))
        from scipy.stats.qmc import Sobol

        # A whole power of two is drawn and cut: a shorter sequence is the beginning of a longer one.
        sequence = Sobol(len(self.keys), rng=np.random.default_rng(self.seed))
        return sequence.random_base2(max(1, math.ceil(math.log2(self.count))))[: self.count]


class Budget(Section):
    """The most that a sweep may cost; at least one of the two."""

    runs: int | None = Field(None, ge=1, description="runs at most")
    epochs: int | None = Field(None, ge=1, description="epochs of all runs together at most")

    @model_validator(mode="after")
    def _something(self) -> Budget:
        if self.runs is None and self.epochs is None:
            raise ValueError("give runs or epochs: the most that the sweep may cost")
        return self


class Sweep(Section):
    """A sweep file."""

    name: str = Field(max_length=80, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", description="default: the file's name")
    title: str = Field("", description="a few words on what it asks")
    base: str = Field(description="configuration that the points change: a file beside this one, or as for `train`")
    set: dict[str, Any] = Field({}, description="dotted keys and values that all runs have")
    design: Design
    seeds: tuple[Seed, ...] = Field(min_length=1, max_length=LONGEST_SPAN, description="a list, or first..last")
    cohort: Count | None = Field(None, description="runs trained side by side at most; none: what the device holds")
    budget: Budget

    @field_validator("seeds", mode="before")
    @classmethod
    def _a_span(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if (found := span(value)) is None:
            raise ValueError(f"write a list, or first..last, got {value!r}")
        return tuple(found)

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if twice := [seed for seed in set(seeds) if seeds.count(seed) > 1]:
            raise ValueError(f"{twice[0]} is given twice: a seed makes one run of each point")
        return seeds

    @model_validator(mode="after")
    def _within_budget(self) -> Sweep:
        size = self.design.size
        if self.budget.runs is not None and size * len(self.seeds) > self.budget.runs:
            raise ValueError(
                f"budget.runs: {size * len(self.seeds)} runs are planned ({size} points x {len(self.seeds)} seeds), "
                f"{self.budget.runs} allowed: raise it, or take fewer points or seeds"
            )
        # Before any point is made: a run has at least one epoch.
        if self.budget.epochs is not None and size * len(self.seeds) > self.budget.epochs:
            raise ValueError(
                f"budget.epochs: {size * len(self.seeds)} runs are planned, {self.budget.epochs} epochs allowed: "
                "raise it, or take fewer points or seeds"
            )
        return self


@dataclass(frozen=True)
class Point:
    """One point of a design: the values of its keys, and the whole configuration that they make."""

    values: Mapping[str, Any]
    config: Config


def load_sweep(source: str | Path) -> Sweep:
    """A sweep from its YAML file, or a shipped one by its bare name. Raises ConfigError naming the key."""
    path = find_sweep(source)
    data = {"name": path.stem, **config_files.read_mapping(path)}
    if isinstance(base := data.get("base"), str) and os.path.isfile(path.parent / base):
        data["base"] = str(path.parent / base)
    try:
        return Sweep.model_validate(config_files.tuples(data))
    except ValidationError as error:
        raise ConfigError(f"{path}: {config_files.explain(error, data, Sweep)}") from None


def find_sweep(name: str | Path) -> Path:
    """The path of a sweep's file: as given, or a shipped one by its bare name. Raises ConfigError."""
    return config_files.find_shipped(name, sweep_files(), "sweep", "sweeps")


def sweep_files() -> dict[str, Path]:
    """The sweeps that ship with the library, by bare name."""
    folders = config_files.shipped_folders("sweeps")
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


def points(sweep: Sweep) -> list[Point]:
    """The distinct points of a sweep, each with its configuration.

    Raises ConfigError for a base that is none, a point that is no configuration, and more epochs than budgeted.
    """
    base = load_config(config_files.find_config(sweep.base), sweep.set).as_dict()
    found: dict[str, Point] = {}
    for number, values in enumerate(sweep.design.points(), 1):
        # A mode comes first: it drops the settings that only the mode before it had.
        overrides = dict(sorted(values.items(), key=lambda item: not item[0].endswith(".mode")))
        try:
            made = load_config(base, overrides)
        except ConfigError as error:
            shown = ", ".join(f"{key}={value}" for key, value in values.items())
            raise ConfigError(f"sweep {sweep.name}: point {number} ({shown}): {error}") from None
        found.setdefault(made.model_dump_json(), Point(values, made))
    epochs = len(sweep.seeds) * sum(point.config.training.total_epochs for point in found.values())
    if sweep.budget.epochs is not None and epochs > sweep.budget.epochs:
        raise ConfigError(
            f"sweep {sweep.name}: budget.epochs: {epochs} epochs are planned, {sweep.budget.epochs} allowed: raise it, "
            "or take fewer points, seeds or training.total_epochs"
        )
    return list(found.values())


def span(text: str) -> list[int] | None:
    """`1..4` as [1, 2, 3, 4]; None for another text. Raises ValueError for one that is empty or endless."""
    if not (match := _SPAN.fullmatch(text.strip())):
        return None
    first, last = map(int, match.groups())
    if not first <= last < first + LONGEST_SPAN:
        raise ValueError(f"{text}: must rise, by less than {LONGEST_SPAN}")
    return list(range(first, last + 1))


def combinations(lists: Mapping[str, Sequence[Any]]) -> Iterable[dict[str, Any]]:
    """Every value with every other."""
    return (dict(zip(lists, values, strict=True)) for values in product(*lists.values()))


def _whole(key: str) -> bool:
    return settings()[key].annotation is int

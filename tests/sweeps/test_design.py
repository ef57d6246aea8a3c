"""Sweep files: their contents, their points, and the message for every kind of error in one."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ternary_lab import ConfigError, load_config
from ternary_lab.sweeps.design import Design, Sweep, Values, find_sweep, load_sweep, points, span

ROOT = Path(__file__).parents[2]
GRID: dict[str, Any] = {
    "base": "quick",
    "design": {"kind": "grid", "keys": {
        "rho.isolated": {"values": [0.0, 0.1]},
        "optimiser.weight_decay": {"low": 1e-4, "high": 1e-2, "scale": "log", "count": 3},
    }},
    "seeds": [1, 2],
    "budget": {"runs": 12},
}
KEYS = {
    "rho.isolated": {"low": 0, "high": 1},
    "optimiser.weight_decay": {"low": 1e-5, "high": 1e-2, "scale": "log"},
    "beta.B.warmup_epochs": {"low": 1, "high": 4},
    "optimiser.clip_per": {"values": ("model", "pathway")},
}


def _load(folder: Path, change: dict[str, Any]) -> Sweep:
    (folder / "it.yaml").write_text(yaml.safe_dump({**GRID, **change}, sort_keys=False))
    return load_sweep(folder / "it.yaml")


def _drawn(kind: str, count: int, seed: int = 0) -> list[dict[str, Any]]:
    return Design(kind=kind, count=count, seed=seed, keys={k: Values(**v) for k, v in KEYS.items()}).points()  # type: ignore[arg-type]


def test_a_grid_is_every_value_with_every_other(tmp_path: Path) -> None:
    found = points(_load(tmp_path, {}))
    expected = list(itertools.product([0.0, 0.1], [1e-4, 1e-3, 1e-2]))
    assert [tuple(point.values.values()) for point in found] == expected
    for point, (rho, decay) in zip(found, expected, strict=True):
        assert point.config == load_config("quick", {"rho.isolated": rho, "optimiser.weight_decay": decay})


@pytest.mark.parametrize("kind", ["random", "sobol"])
def test_drawn_points_lie_in_their_ranges_and_more_of_them_begin_alike(kind: str) -> None:
    few, many = _drawn(kind, 11), _drawn(kind, 100)
    assert many[:11] == few
    assert _drawn(kind, 11, seed=1) != few
    assert all(0 <= point["rho.isolated"] <= 1 for point in many)
    assert {point["beta.B.warmup_epochs"] for point in many} == {1, 2, 3, 4}  # both ends are included
    assert all(type(point["beta.B.warmup_epochs"]) is int for point in many)
    assert {point["optimiser.clip_per"] for point in many} == {"model", "pathway"}
    # Values are even on the scale of the range: half of them lie below its middle.
    below = sum(point["optimiser.weight_decay"] < math.sqrt(1e-5 * 1e-2) for point in many)
    assert 35 <= below <= 65


def test_a_sobol_design_is_more_even_than_chance() -> None:
    """With 64 points, each of 64 equal parts of a range has one."""
    keys = {key: Values(low=0, high=1) for key in ("rho.isolated", "rho.coupled")}
    design = Design(kind="sobol", count=64, keys=keys)
    for key in design.keys:
        assert sorted(int(64 * point[key]) for point in design.points()) == list(range(64))


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 50), st.integers(1, 50), st.sampled_from(["linear", "log"]))
def test_a_value_lies_in_its_range(u: float, low: int, more: int, scale: Any) -> None:
    values = Values(low=low, high=low + more, scale=scale)
    assert low <= values.between(u, whole=False) <= low + more
    assert low <= values.between(u, whole=True) <= low + more
    assert values.between(0.0, whole=True) == low
    assert values.between(1 - 1e-12, whole=True) == low + more


def test_points_that_make_the_same_configuration_are_one(tmp_path: Path) -> None:
    design = {"kind": "random", "count": 50, "keys": {"beta.B.warmup_epochs": {"low": 1, "high": 3}}}
    found = points(_load(tmp_path, {"design": design, "budget": {"runs": 100}}))
    assert sorted(point.values["beta.B.warmup_epochs"] for point in found) == [1, 2, 3]


def test_a_mode_may_come_after_the_settings_that_only_it_has(tmp_path: Path) -> None:
    keys = {"beta.B.end": {"values": [0.1, 0.2]}, "beta.B.mode": {"values": ["linear_warmup"]}}
    found = points(_load(tmp_path, {"design": {"kind": "grid", "keys": keys}}))
    assert [point.config.betas(40)[1] for point in found] == [0.1, 0.2]


def test_the_base_may_be_a_file_beside_the_sweep_and_set_changes_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nkl: {free_bits: 0.25}\n")
    (point, *_) = points(_load(tmp_path, {"base": "mine.yaml", "set": {"training.total_epochs": 3}}))
    assert (point.config.kl.free_bits, point.config.training.total_epochs) == (0.25, 3)


def test_seeds_may_be_a_span(tmp_path: Path) -> None:
    assert _load(tmp_path, {"seeds": "3..4"}).seeds == (3, 4)
    assert span("1..8") == list(range(1, 9))
    assert span("-2..0") == [-2, -1, 0]
    assert span("1,8") is None


KEY = "rho.isolated"


def _keys(**values: Any) -> dict[str, Any]:
    return {"design": {"kind": "grid", "keys": {KEY: values}}}


@pytest.mark.parametrize(("change", "parts"), [
    ({"sedes": [1]}, ["unknown key sedes", "did you mean seeds"]),
    ({"budget": {"run": 1}}, ["unknown key budget.run", "did you mean budget.runs?"]),
    ({"budget": {}}, ["budget: give runs or epochs"]),
    ({"budget": {"runs": 11}}, ["budget.runs: 12 runs are planned (6 points x 2 seeds), 11 allowed"]),
    ({"budget": {"epochs": 11}}, ["budget.epochs: 12 runs are planned, 11 epochs allowed"]),
    ({"seeds": [1, 1]}, ["seeds: 1 is given twice"]),
    ({"seeds": []}, ["seeds"]),
    ({"seeds": "4..1"}, ["seeds: 4..1: must rise"]),
    ({"seeds": "four"}, ["seeds: write a list, or first..last"]),
    ({"seeds": [-1]}, ["seeds.0", "greater than or equal to 0"]),
    ({"design": {"kind": "grids", "keys": {}}}, ["design.kind", "'grid', 'random' or 'sobol'"]),
    ({"design": {"kind": "grid", "keys": {}}}, ["design.keys"]),
    ({"design": {"kind": "grid", "keys": {"rho.isolate": {"values": [1]}}}},
     ["unknown key 'rho.isolate'", "did you mean rho.isolated"]),
    ({"design": {"kind": "grid", "keys": {"name": {"values": ["a"]}}}}, ["unknown key 'name'"]),
    (_keys(values=[0.1], vales=[1]), [f"unknown key design.keys.{KEY}.vales", "did you mean", "values"]),
    (_keys(values=[0.1, 0.1]), [f"design.keys.{KEY}: 0.1 is given twice"]),
    (_keys(values=[0.1], low=0), ["values, or low and high, not both"]),
    (_keys(low=0), ["give values, or low and high"]),
    (_keys(low=1, high=0), ["low must be below high, got 1 and 0"]),
    (_keys(low=0, high=1, scale="log", count=3), ["must begin above 0, got 0"]),
    (_keys(low=0, high=1), [f"keys.{KEY}: in a grid a range needs count"]),
    (_keys(low=0, high="one"), [f"design.keys.{KEY}.high", "valid number, got 'one'"]),
    ({"design": {"kind": "grid", "keys": {"optimiser.clip_per": {"low": 0, "high": 1, "count": 2}}}},
     ["optimiser.clip_per is no number: give values"]),
    ({"design": {"kind": "grid", "keys": {"beta.B.warmup_epochs": {"low": 1, "high": 3, "count": 5}}}},
     ["5 whole numbers do not fit"]),
    ({"design": {"kind": "grid", "keys": {"beta.B.warmup_epochs": {"low": 1, "high": 3.5, "count": 2}}}},
     ["takes whole numbers"]),
    ({"design": {"kind": "grid", "count": 3, "keys": GRID["design"]["keys"]}}, ["delete it"]),
    ({"design": {"kind": "sobol", "keys": {KEY: {"low": 0, "high": 1}}}}, ["count is missing", "sobol"]),
    ({"design": {"kind": "sobol", "count": 4, "keys": {KEY: {"low": 0, "high": 1, "count": 2}}}}, [f"{KEY}.count"]),
    ({"base": "quik"}, ["quik", "did you mean quick?"]),
    ({"set": {"rho.isolate": 1}}, ["unknown key rho.isolate"]),
    (_keys(values=[0.1, 1.5]), ["point 2 (rho.isolated=1.5)", "less than or equal to 1"]),
    ({"budget": {"epochs": 95}}, ["budget.epochs: 96 epochs are planned, 95 allowed"]),
], ids=str)
def test_what_is_wrong_with_a_sweep_is_one_line(change: dict[str, Any], parts: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        points(_load(tmp_path, change))
    line = str(caught.value)
    assert "\n" not in line
    assert all(part in line for part in parts), line


def test_a_design_beyond_its_budget_is_refused_before_its_points_are_made(tmp_path: Path) -> None:
    keys = {key: {"low": 0, "high": 1, "count": 1000} for key in ("rho.isolated", "rho.consolidated", "rho.coupled")}
    with pytest.raises(ConfigError, match="2000000000 runs are planned"):
        _load(tmp_path, {"design": {"kind": "grid", "keys": keys}, "budget": {"epochs": 10}})


def test_more_points_than_can_be_checked_are_refused_at_once(tmp_path: Path) -> None:
    keys = {key: {"low": 0, "high": 1, "count": 1000} for key in ("rho.isolated", "rho.consolidated")}
    with pytest.raises(ConfigError, match="design: 1000000 points, more than the 10000 of one sweep"):
        _load(tmp_path, {"design": {"kind": "grid", "keys": keys}, "budget": {"runs": 10**9}})


@pytest.mark.parametrize(("text", "part"), [
    ("seeds: [010]", "'010': write 10"), ("seeds: 1:30", "first..last, got '1:30'"), ("cohort: 010", "'010': write 10"),
    ("budget: {runs: 1:30}", "without a colon"), ("seeds: [1.5]", "got 1.5"),
])
def test_a_number_that_yaml_would_change_is_refused(text: str, part: str, tmp_path: Path) -> None:
    key = text.split(":")[0]
    rest = yaml.safe_dump({name: value for name, value in GRID.items() if name != key}, sort_keys=False)
    (tmp_path / "it.yaml").write_text(f"{rest}{text}\n")
    with pytest.raises(ConfigError) as caught:
        load_sweep(tmp_path / "it.yaml")
    assert part in str(caught.value)


def test_values_of_a_key_are_checked_as_they_are_written(tmp_path: Path) -> None:
    text = yaml.safe_dump({**GRID, "design": {"kind": "grid", "keys": {"data.batch_size": {"values": ["V"]}}}})
    (tmp_path / "it.yaml").write_text(text.replace("- V", "- 010"))
    with pytest.raises(ConfigError, match=r"data\.batch_size: .*'010': write 10"):
        points(load_sweep(tmp_path / "it.yaml"))
    (tmp_path / "it.yaml").write_text(text.replace("- V", "- 16.0"))
    (point,) = points(load_sweep(tmp_path / "it.yaml"))
    assert repr(point.config.data.batch_size) == "16"


def test_a_missing_file_is_named_with_the_nearest_shipped_one() -> None:
    with pytest.raises(ConfigError, match="did you mean warmup_rho"):
        find_sweep("warmup_ro")


@pytest.mark.parametrize("file", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda file: file.stem)
def test_what_ships_is_within_its_budget(file: Path) -> None:
    sweep = load_sweep(file.stem)
    assert sweep.title
    assert len(points(sweep)) == sweep.design.size

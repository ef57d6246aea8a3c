"""Tests of a schedule of β that is defined outside the library.

The tests configure the schedule, train, interrupt and resume runs with it, and verify these runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field
from small import SMALL

from ternary_lab import Config, ConfigError, RunRecord, load_config, load_run, run_experiment
from ternary_lab.config import differences
from ternary_lab.config_files import from_yaml, parse_override, settings
from ternary_lab.history import TIMING_COLUMNS
from ternary_lab.runs.verify import verify
from ternary_lab.schedules import Schedule
from ternary_lab.settings import Period, Weight

pytestmark = pytest.mark.usefixtures("one_thread", "exponential")
SETTINGS = {"beta.B.mode": "exponential", "beta.B.end": 0.6, "beta.B.epochs": 2}


@pytest.fixture(scope="module")
def exponential() -> Iterator[None]:
    """Define the mode `exponential` for the tests of this file only."""

    class Exponential(Schedule):
        """The value at epoch e is end·(1 - exp(-e/epochs))."""

        mode: Literal["exponential"] = "exponential"
        end: Weight = Field(0.5, description="value that is approached")
        epochs: Period = Field(50, description="epochs in which the distance to `end` falls by a factor e")

        def value_at(self, e: int, horizon: int, leader: float) -> float:
            return self.end * (1 - math.exp(-e / self.epochs))

    yield
    del Schedule.modes["exponential"]


def _expected(e: int) -> float:
    return 0.6 * (1 - math.exp(-e / 2))


def _by_overrides(_: Path) -> Config:
    return load_config(SMALL.as_dict(), SETTINGS)


def _by_mapping(_: Path) -> Config:
    data = SMALL.as_dict()
    data["beta"]["B"] = {"mode": "exponential", "end": 0.6, "epochs": 2}
    return load_config(data)


def _by_file(folder: Path) -> Config:
    (folder / "base.yaml").write_text(SMALL.as_yaml())
    path = folder / "mine.yaml"
    path.write_text("base: base.yaml\nbeta: {B: {mode: exponential, end: 0.6, epochs: 2}}\n")
    return load_config(path)


def _by_command_line(_: Path) -> Config:
    texts = ("beta.B.mode=exponential", "beta.B.end=6e-1", "beta.B.epochs=2")
    return load_config(SMALL.as_dict(), dict(map(parse_override, texts)))


@pytest.mark.parametrize("load", [_by_overrides, _by_mapping, _by_file, _by_command_line])
def test_every_way_to_configure_it_gives_the_same_values(load: Any, tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.betas(0)[1] == 0.0
    assert [config.betas(e) for e in range(5)] == [(SMALL.betas(e)[0], _expected(e)) for e in range(5)]
    assert config == from_yaml(config.as_yaml(), "text") == load_config(config.as_dict())
    assert differences(SMALL, config).keys() == {
        "beta.B.mode", "beta.B.end", "beta.B.epochs", "beta.B.start", "beta.B.warmup_epochs", "beta.B.lag",
        "beta.B.ramp_epochs",
    }


def test_its_settings_are_listed_and_its_defaults_hold() -> None:
    assert {"beta.A.epochs", "beta.B.epochs"} <= settings().keys()
    assert load_config("v5_5", {"beta.B.mode": "exponential"}).betas(50)[1] == 0.5 * (1 - math.exp(-1))


@pytest.mark.parametrize(("overrides", "parts"), [
    ({"beta.B.mode": "exponent"}, ["beta.B.mode", "must be one of staged, ", "off, exponential", "'exponent'"]),
    ({"beta.B.epoch": 3}, ["unknown key beta.B.epoch", "did you mean beta.B.epochs?"]),
    ({"beta.B.warmup_epochs": 3}, ["unknown key beta.B.warmup_epochs", "beta.B.epochs"]),
    ({"beta.B.epochs": 0}, ["beta.B.epochs", "greater than or equal to 1", "got 0"]),
    ({"beta.B.end": "high"}, ["beta.B.end", "number", "'high'"]),
])
def test_what_is_wrong_with_its_settings_is_named(overrides: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(SMALL.as_dict(), {**SETTINGS, **overrides})
    assert all(part in str(caught.value) for part in parts), caught.value


def test_a_schedule_can_follow_it_and_it_can_follow_another() -> None:
    config = load_config("v5_5", {"beta.A.mode": "exponential", "beta.B.lag": math.pi / 2})
    assert config.betas(60) == (pytest.approx(0.8 * (1 - math.exp(-1.2))),) * 2

    class Half(Schedule):
        mode: Literal["half"] = "half"
        follows: ClassVar[bool] = True

        def value_at(self, e: int, horizon: int, leader: float) -> float:
            return leader / 2

    try:
        config = load_config("v5_5", {"beta.B": {"mode": "half"}})
        assert [config.betas(e)[1] for e in (0, 30, 400)] == [config.betas(e)[0] / 2 for e in (0, 30, 400)]
        with pytest.raises(ConfigError, match=r"\(half, lagged_after_warmup\): one of them must lead"):
            load_config("v5_5", {"beta.A": {"mode": "half"}})
    finally:
        del Schedule.modes["half"]


def test_a_mode_belongs_to_one_class() -> None:
    with pytest.raises(TypeError, match="mode 'jump' is taken by Jump"):
        class Leap(Schedule):
            mode: Literal["jump"] = "jump"

    assert load_config("v5_5", {"beta.B.mode": "jump"}).betas(50)[1] == 0.5


def _rows(run: RunRecord) -> str:
    return run.history.drop(columns=list(TIMING_COLUMNS)).to_csv()


def test_an_interrupted_run_resumes_to_the_same_bytes_and_verifies(tmp_path: Path) -> None:
    config = load_config(SMALL.as_dict(), {**SETTINGS, "training.total_epochs": 2})
    whole = run_experiment(config, [1], tmp_path / "whole", device="cpu")[1]
    cut = run_experiment(config, [1], tmp_path / "cut", device="cpu", stop=lambda: True)[1]
    assert list(cut.history["epoch"]) == [0]
    resumed = run_experiment(config, [1], tmp_path / "cut", device="cpu")[1]
    assert list(resumed.history["beta_B"]) == [_expected(0), _expected(1)]
    assert _rows(resumed).encode() == _rows(whole).encode()
    assert load_run(resumed.path).config == config
    for run in (whole, resumed):
        found = verify(run)
        assert found.sound
        assert found.metrics

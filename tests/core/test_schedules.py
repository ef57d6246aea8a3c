"""Tests of the schedules against the log of the original and against the formulas of v5.5.

The formulas are tested at every breakpoint.
"""

from __future__ import annotations

import functools
import math
import operator

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ternary_lab import load_config, schedules
from ternary_lab.config import Config
from ternary_lab.schedules import Staged
from ternary_lab.studies.report.original import RUNS

CONFIG = Config()
BREAKPOINTS = (0, 30, 40, 50, 60, 90, 120, 180, 200, 220, 250, 270, 300, 350, 400)
NEIGHBOURS = sorted({e + d for e in BREAKPOINTS for d in (-1, 0, 1) if e + d >= 0})


@pytest.fixture(scope="module")
def original() -> pd.DataFrame:
    return pd.read_csv(RUNS, dtype=str)


def test_schedules_equal_the_originals_log_to_its_printed_precision(original: pd.DataFrame) -> None:
    assert len(original) > 300
    for row in original.to_dict("records"):
        e = int(row["epoch"])
        balanced = 0.8 < float(row["grad_ratio"]) < 1.2
        beta_a, beta_b = CONFIG.betas(e)
        tau_a, tau_b = CONFIG.temperatures(e)
        # ρ in the log is a mean over the 247 batches of an epoch. The same computation here rounds ties equally.
        # `sum` is more accurate from Python 3.12 on, so it is not used.
        rho = functools.reduce(operator.add, [CONFIG.permeability(e, balanced)] * 247) / 247
        ours = {
            "beta_A": f"{beta_a:.3f}", "beta_B": f"{beta_b:.3f}", "temperature_A": f"{tau_a:.3f}",
            "temperature_B": f"{tau_b:.3f}", "rho": f"{rho:.3f}", "lr_scheduled": f"{CONFIG.lr(e):.6f}",
        }
        assert ours == {column: row[column] for column in ours}, f"seed {row['seed']}, epoch {e}"


def test_phases_equal_the_originals_log(original: pd.DataFrame) -> None:
    for _, rows in original.groupby("seed"):
        phase = 1
        for row in rows.to_dict("records"):
            phase = CONFIG.phase(int(row["epoch"]), phase, 0.8 < float(row["grad_ratio"]) < 1.2)
            assert phase == float(row["phase"])


@pytest.mark.parametrize("e", NEIGHBOURS)
def test_betas(e: int) -> None:
    a = 0.3 * e / 50 if e < 50 else 0.3 + 0.5 * min((e - 50) / 350, 1)
    b = 0.0 if e < 50 else a * abs(math.sin(0.785))
    assert CONFIG.betas(e) == pytest.approx((a, b), rel=1e-12, abs=1e-15)


def test_beta_b_jumps_at_epoch_50() -> None:
    assert CONFIG.betas(49)[1] == 0.0
    assert CONFIG.betas(50)[1] == pytest.approx(0.2121, abs=1e-4)


@pytest.mark.parametrize("e", NEIGHBOURS)
def test_temperatures(e: int) -> None:
    base = 1.0 - 0.7 * min(e / 400, 1)
    amplitude = 0.5 if e >= 250 else 0.1 * base
    a = max(0.1, base + amplitude * math.cos(2 * math.pi * (e % 30) / 30))
    b = 0.3 if e >= 250 else 0.9 - 0.7 * min(max(0, e - 30) / 400, 1)
    assert CONFIG.temperatures(e) == pytest.approx((a, b), rel=1e-12)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("e", NEIGHBOURS)
def test_permeability(e: int, balanced: bool) -> None:
    if e < 40:
        rho = 0.1
    elif e < 120:
        rho = 0.1 + 0.2 * (e - 40) / 80
    elif e >= 250:
        rho = 0.7
    else:
        rho = 0.3 + 0.4 * min((e - 120) / 80, 1) if balanced else 0.3
    assert CONFIG.permeability(e, balanced) == pytest.approx(rho, rel=1e-12)


@pytest.mark.parametrize("e", NEIGHBOURS)
def test_phase(e: int) -> None:
    for previous in (1, 2, 3):
        for balanced in (False, True):
            if e < 40:
                expected = 1
            elif e < 120:
                expected = 2
            elif e >= 250:
                expected = 4
            else:
                expected = 3 if balanced or previous == 3 else 2
            assert CONFIG.phase(e, previous, balanced) == expected


@pytest.mark.parametrize("e", NEIGHBOURS)
def test_learning_rate(e: int) -> None:
    steps = [(350, 5e-6), (300, 1e-5), (250, 2e-5), (220, 5e-5), (180, 1e-4), (120, 3e-4), (50, 5e-4), (0, 1e-3)]
    assert CONFIG.lr(e) == next(value for first, value in steps if e >= first)


@pytest.mark.parametrize("e", NEIGHBOURS)
def test_lambda3(e: int) -> None:
    expected = 0.3 + 0.15 * math.cos(2 * math.pi * (e % 30) / 30 + math.pi / 2)
    assert CONFIG.lambda3(e) == pytest.approx(expected, rel=1e-12)


def test_the_other_modes_of_beta() -> None:
    linear = load_config("v5_5", {"beta.A": {"mode": "linear_warmup", "end": 0.5, "warmup_epochs": 10}})
    assert [linear.betas(e)[0] for e in (0, 5, 10, 400)] == [0, 0.25, 0.5, 0.5]
    jump = load_config("v5_5", {"beta.B": {"mode": "jump", "end": 0.6, "at_epoch": 3, "ramp_epochs": 4}})
    assert [jump.betas(e)[1] for e in (2, 3, 5, 7, 8)] == pytest.approx([0, 0, 0.3, 0.6, 0.6])
    mirrored = load_config("v5_5", {
        "beta.B": {"mode": "constant", "value": 0.4},
        "beta.A": {"mode": "lagged_after_warmup", "start": 0.0, "lag": math.pi / 2},
    })
    assert [mirrored.betas(e) for e in (49, 50)] == [(0.0, 0.4), (pytest.approx(0.4), 0.4)]
    assert load_config("v5_5", {"beta.A.mode": "off"}).betas(300) == (0.0, 0.0)


@given(st.integers(0, 2000), st.floats(0, 10), st.floats(0, 10), st.integers(1, 500), st.integers(1, 500))
def test_staged_stays_between_its_values(e: int, start: float, end: float, warmup: int, horizon: int) -> None:
    value = Staged(start=start, end=end, warmup_epochs=warmup).value_at(e, horizon, 0.0)
    assert -1e-9 <= value <= max(start, end) + 1e-9
    assert e < max(warmup, horizon) or value == pytest.approx(end)


@given(st.dictionaries(st.integers(1, 500), st.floats(0, 1), max_size=6), st.integers(0, 600))
def test_a_step_holds_until_the_next(steps: dict[int, float], e: int) -> None:
    steps = {0: 2.0, **steps}
    expected = 2.0
    for first in range(e + 1):
        expected = steps.get(first, expected)
    assert schedules.step_value(e, steps) == expected

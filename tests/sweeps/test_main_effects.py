"""Main effects and interactions: laws of the analysis of variance, and sums that can be checked by hand."""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest

from ternary_lab import InputError
from ternary_lab.figures.save import render
from ternary_lab.studies.statistics import interval
from ternary_lab.sweeps import figures
from ternary_lab.sweeps.main_effects import (
    BINS,
    complete,
    interaction_shows,
    interactions,
    keys_of,
    levels,
    main_effects,
    ratios,
    varied,
)
from ternary_lab.sweeps.run import load_results

A, B, C = (1, 2, 3), (0.1, 0.2), ("x", "y")


def _table(
    metric: Callable[[int, float, str, int], float], seeds: Sequence[int] = (1, 2, 3, 4), status: str = "done"
) -> pd.DataFrame:
    return pd.DataFrame([
        {"point": f"{a}{b}{c}", "seed": seed, "a.a": a, "b.b": b, "c.c": c, "status": status, "reason": "", "epochs": 3,
         "loss": metric(a, b, c, seed), "other": float(seed)}
        for seed in seeds for a, b, c in itertools.product(A, B, C)
    ])


def _noise(*of: object) -> float:
    return float(np.random.default_rng(zlib.crc32(repr(of).encode())).normal())


def test_of_an_additive_metric_effects_are_its_terms_and_interactions_vanish() -> None:
    table = _table(lambda a, b, c, seed: a**2 + 10 * b + (c == "y") + 100 * seed)
    effects = main_effects(table, ["loss"]).set_index(["key", "level"])
    overall = 14 / 3 + 1.5 + 0.5 + 250
    assert effects["overall"].to_numpy() == pytest.approx([overall] * 7)
    terms = {("a.a", 1): 1 - 14 / 3, ("a.a", 2): 4 - 14 / 3, ("a.a", 3): 9 - 14 / 3,
             ("b.b", 0.1): -0.5, ("b.b", 0.2): 0.5, ("c.c", "x"): -0.5, ("c.c", "y"): 0.5}
    for term, value in terms.items():
        row = effects.loc[term]  # the shift by 100 per seed cancels
        assert (row["mean"], row["low"], row["high"]) == pytest.approx((value, value, value), abs=1e-9)
    found = interactions(table, ["loss"])
    assert len(found) == 6 + 6 + 4
    assert found[["mean", "low", "high"]].abs().to_numpy().max() < 1e-9


def test_a_product_is_an_interaction() -> None:
    found = interactions(_table(lambda a, b, c, seed: float((a == 1) and (b == 0.1))), ["loss"], ["a.a", "b.b"])
    by_pair = {(row["level_a"], row["level_b"]): row["mean"] for _, row in found.iterrows()}
    # The cell of the product, centred over both keys: 1 - 1/2 - 1/3 + 1/6.
    assert by_pair[1, 0.1] == pytest.approx(1 / 3)
    assert by_pair[1, 0.2] == pytest.approx(-1 / 3)
    assert by_pair[2, 0.1] == pytest.approx(-1 / 6)


@pytest.mark.parametrize("seed", range(3))
def test_effects_of_a_key_and_interactions_of_a_row_sum_to_zero(seed: int) -> None:
    table = _table(lambda *of: _noise(seed, *of))
    assert main_effects(table, ["loss"]).groupby("key")["mean"].sum().abs().max() < 1e-9
    found = interactions(table, ["loss"])
    for side in ("a", "b"):
        assert found.groupby(["key_a", "key_b", f"level_{side}"])["mean"].sum().abs().max() < 1e-9


def test_terms_of_all_orders_add_up_to_the_cell_means() -> None:
    table = _table(lambda *of: _noise(*of))
    effects = main_effects(table, ["loss"], ["a.a", "b.b"]).set_index(["key", "level"])
    pairs = interactions(table, ["loss"], ["a.a", "b.b"]).set_index(["level_a", "level_b"])["mean"]
    for (a, b), cell in table.groupby(["a.a", "b.b"])["loss"].mean().items():
        row = effects.loc[("a.a", a)]
        assert row["overall"] + row["mean"] + effects.loc[("b.b", b), "mean"] + pairs[a, b] == pytest.approx(cell)


def test_the_interval_is_that_of_the_seeds_own_effects() -> None:
    table = _table(lambda *of: _noise(*of))
    row = main_effects(table, ["loss"]).set_index(["key", "level"]).loc[("b.b", 0.2)]
    own = [rows.loc[rows["b.b"] == 0.2, "loss"].mean() - rows["loss"].mean() for _, rows in table.groupby("seed")]
    expected = interval(own)
    assert (row["n"], row["low"], row["high"]) == (4, pytest.approx(expected.low), pytest.approx(expected.high))


def _two_keys(values: np.ndarray) -> pd.DataFrame:
    """The table of a sweep over two keys, from values (seeds, levels of a, levels of b)."""
    places = np.stack([axis.ravel() for axis in np.indices(values.shape)], 1)
    table = pd.DataFrame(places, columns=["seed", "a.a", "b.b"])
    point = table["a.a"].astype(str) + "-" + table["b.b"].astype(str)
    table.insert(0, "point", point)
    return table.assign(status="done", loss=values.ravel())


def _spread_of_the_published_sweep() -> np.ndarray:
    """Standard deviations over seeds of ln informative coverage of B, (levels of the warm-up, levels of ρ)."""
    table = load_results("sweep.csv")
    table = table[table["beta_B"] > 0]
    coverage = np.log(table["informative_coverage_B"])
    spread = coverage.groupby([table["beta.B.warmup_epochs"], table["rho.consolidated"]]).std().unstack()
    return spread.to_numpy(float)


@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_without_an_interaction_the_answer_is_yes_at_most_once_in_20(kind: str) -> None:
    """The spread of the simulated runs is that of the published sweep, which differs tenfold between points."""
    spread, simulations = _spread_of_the_published_sweep(), 200
    generator = np.random.default_rng(10)
    additive = np.linspace(0, 1, spread.shape[0])[:, None] - np.linspace(0, 2, spread.shape[1])
    yes = 0
    for _ in range(simulations):
        noise = generator.normal(size=(8, *spread.shape))
        if kind == "skewed":
            noise = generator.exponential(size=noise.shape) - 1
        seeds = generator.normal(size=(8, 1, 1))
        table = _two_keys(np.exp(additive + seeds + spread * noise))
        yes += interaction_shows(interactions(table, ["loss"], logarithm=True))
    assert yes / simulations <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / simulations)


def test_an_interaction_shows_and_a_mixture_of_metrics_is_refused() -> None:
    spread = _spread_of_the_published_sweep()
    noise = np.random.default_rng(11).normal(size=(8, *spread.shape)) * spread
    noise[:, -1, -1] -= 2
    found = interactions(_two_keys(np.exp(noise)), ["loss"], logarithm=True)
    assert interaction_shows(found)
    assert set(found["metric"]) == {"ln loss"}
    assert set(found["comparisons"]) == {spread.size}
    with pytest.raises(InputError, match="one pair of keys in one metric"):
        interaction_shows(pd.concat([found, found.assign(metric="other")]))


def test_the_logarithm_makes_a_product_of_levels_additive() -> None:
    table = _table(lambda a, b, c, seed: a**2 * 10 * b * (1 + (c == "y")) * seed)
    assert interactions(table, ["loss"], logarithm=True)["mean"].abs().max() < 1e-9
    assert interactions(table, ["loss"])["mean"].abs().max() > 0.1
    with pytest.raises(InputError, match="not positive everywhere"):
        interactions(_table(lambda a, b, c, seed: float(a - 1)), ["loss"], logarithm=True)


def test_ratios_of_a_product_are_its_factors() -> None:
    table = _table(lambda a, b, c, seed: a**2 * (100 if b == 0.2 and a == 3 else b) * seed)
    found = ratios(table, "loss", "b.b", "a.a").set_index("a.a")
    assert (found["b.b"] == 0.2).all()
    assert (found["comparisons"] == 3).all()
    for level, factor in ((1, 2.0), (2, 2.0), (3, 1000.0)):
        assert found.loc[level, ["mean", "low", "high"]].tolist() == pytest.approx([factor] * 3)


def test_a_point_that_failed_for_one_seed_counts_for_none() -> None:
    table = _table(lambda a, b, c, seed: float(seed))
    table.loc[0, "status"] = "failed"
    kept = complete(table)
    assert len(kept) == len(table) - 4
    assert table.loc[0, "point"] not in set(kept["point"])
    found = interactions(table, ["loss"])
    assert len(found) == 16
    assert found["mean"].abs().max() < 1e-9


def test_levels_that_never_meet_are_left_out_and_make_no_interaction() -> None:
    table = _table(lambda a, b, c, seed: a**2 + 10 * b + seed)
    table = table[~((table["a.a"] == 3) & (table["b.b"] == 0.2))]
    found = interactions(table, ["loss"], ["a.a", "b.b"])
    assert (3, 0.2) not in set(zip(found["level_a"], found["level_b"], strict=True))
    assert len(found) == 5
    assert found["mean"].abs().max() < 1e-9


def test_many_numbers_are_grouped_and_few_are_not() -> None:
    few = pd.Series([1, 2, 3] * 4)
    assert levels(few) is few
    many = pd.Series([float(i) for i in range(40)] * 2)
    grouped = levels(many)
    assert grouped.nunique() == BINS
    assert list(grouped.value_counts()) == [20] * BINS
    for name, own in many.groupby(grouped):
        assert name == pytest.approx(own.mean(), rel=0.01)
    assert grouped[many.sort_values().index].is_monotonic_increasing


def test_what_is_no_sweep_or_no_metric_is_named() -> None:
    table = _table(lambda *of: 1.0)
    assert keys_of(table) == ["a.a", "b.b", "c.c"]
    assert varied(table[table["a.a"] == 1]) == ["b.b", "c.c"]
    for wrong in ("los", "reason", "a.a", "seed"):
        with pytest.raises(InputError, match=f"'{wrong}' is no metric"):
            main_effects(table, [wrong])
    with pytest.raises(InputError, match=re.escape("'a' is no key of the sweep: did you mean")):
        interactions(table, ["loss"], ["a"])
    with pytest.raises(InputError, match=r"columns of results\.csv"):
        main_effects(pd.DataFrame({"loss": [1.0]}), ["loss"])
    with pytest.raises(InputError, match="no point is done for every seed yet"):
        main_effects(_table(lambda *of: 1.0, status="left"), ["loss"])


# --- figures


def test_the_figures_say_what_they_show() -> None:
    table = _table(lambda a, b, c, seed: a * b + _noise(a, b, c, seed) / 50)
    effects = figures.main_effects(main_effects(table, ["loss", "other"]))
    assert len(effects.figure.axes) == 6
    assert "a.a" in effects.alt
    assert "4 seeds" in effects.alt
    assert set(effects.data["metric"]) == {"loss", "other"}
    pairs = figures.interactions(interactions(table, ["loss"]))
    assert len(pairs.figure.axes) == 3 + 1  # a panel per pair of keys, and the colours' scale
    assert "a.a" in pairs.alt
    by = figures.by_levels(table[table["c.c"] == "x"], "loss", "b.b", "a.a", {"a.a": "the first, epochs"})
    assert "the first, epochs" in by.alt
    assert len(by.data) == 3 * 2 * 4
    lines = figures.parallel(table, "loss")
    assert len(lines.data) == 12
    assert "12 points" in lines.alt
    for drawing in (effects, by, pairs, lines):
        assert "nan" not in drawing.alt
        assert render(drawing.figure).startswith(b"\x89PNG")


def test_parallel_coordinates_take_one_value_constant_keys_and_any_type() -> None:
    table = _table(lambda a, b, c, seed: float("nan") if a == 1 else 1.0)
    table["d.d"] = 1
    table = table[["point", "seed", "a.a", "b.b", "c.c", "d.d", *table.columns[5:-1]]]
    assert "12 points" in figures.parallel(table, "loss").alt

"""`evaluate`: known values of the original model at epoch 60, within Monte Carlo error, and the shape of the JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ternary_lab import InputError, evaluate, load_model, space
from ternary_lab.cli import main
from ternary_lab.metrics.evaluate import ROWS, describe
from ternary_lab.metrics.quantities import QUANTITIES, label

pytestmark = pytest.mark.usefixtures("one_thread")

EPOCH_60 = Path(__file__).parents[1] / "data" / "epoch_60.pt"
PATHWAY_KEYS = {
    "sampled_coverage", "unique_operations", "uniform_baseline", "expected_coverage", "output_entropy", "decoder_noise",
    "information", "informative_coverage", "informative_coverage_raw", "effective_coverage", "missing_mass", "neg_elbo",
    "neg_iwae", "n99", "rarest", "active_units",
}
RARE = {"expected_coverage", "missing_mass", "n99", "rarest"}


def _evaluated(*options: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["evaluate", str(EPOCH_60), "--json", *options])
    assert (result.exit_code, result.output) == (0, result.stdout)  # nothing on stderr
    data: dict[str, Any] = json.loads(result.stdout)
    return data


@pytest.fixture(scope="module")
def quick(one_thread: None) -> dict[str, Any]:
    return _evaluated("--quick")


def test_the_json_has_its_documented_shape(quick: dict[str, Any]) -> None:
    assert quick.keys() == {
        "checkpoint", "epoch", "seed", "samples", "latents", "decoding", "A", "B", "reconstruction", "rho",
    }
    assert quick["A"].keys() == quick["B"].keys() == PATHWAY_KEYS
    assert quick["reconstruction"].keys() == {"A", "B", "A_injected", "B_injected"}
    assert all(row.keys() == {"train", "validation", "test", "all"} for row in quick["reconstruction"].values())
    said = {key: quick[key] for key in ("checkpoint", "epoch", "samples", "latents", "decoding")}
    assert said == {
        "checkpoint": str(EPOCH_60), "epoch": 60, "samples": 195_000, "latents": 262_144, "decoding": "categorical",
    }
    assert quick["rho"] == pytest.approx(0.15)  # a quarter of the way from 0.1 to 0.3


def test_the_epoch_60_rows(quick: dict[str, Any]) -> None:
    """Known raw values are from 195,000 pseudo-random latents; the others are corrected for bias."""
    rows: dict[str, tuple[float, float, float]] = {
        "sampled_coverage": (98.36, 95.77, 0.25),
        "decoder_noise": (2.469, 1.335, 0.01),
        "informative_coverage_raw": (6.87, 17.68, 0.2),
        "informative_coverage": (6.97, 18.09, 0.1),
        "effective_coverage": (76.5, 67.5, 0.5),
        "neg_elbo": (14.86, 14.68, 0.25),  # known for all operations, here for the test split
        "neg_iwae": (12.20, 11.98, 0.25),
    }
    for name, (a, b, error) in rows.items():
        assert quick["A"][name] == pytest.approx(a, abs=error), name
        assert quick["B"][name] == pytest.approx(b, abs=error), name
    for pathway, entropy in (("A", 9.678), ("B", 9.490)):
        p = quick[pathway]
        raw = math.log(p["informative_coverage_raw"] * space.SIZE / 100) + p["decoder_noise"]
        assert raw == pytest.approx(entropy, abs=0.012)
        assert raw < p["output_entropy"] < raw + 0.03
    for row in quick["reconstruction"].values():
        assert row["all"] == pytest.approx(100, abs=0.02)


def test_the_metrics_agree_with_each_other(quick: dict[str, Any]) -> None:
    for p in (quick["A"], quick["B"]):
        assert p["uniform_baseline"] == pytest.approx(99.995, abs=1e-3)
        assert p["sampled_coverage"] == pytest.approx(100 * p["unique_operations"] / space.SIZE)
        assert p["information"] == pytest.approx(p["output_entropy"] - p["decoder_noise"])
        assert p["informative_coverage"] == pytest.approx(100 * math.exp(p["information"]) / space.SIZE)
        assert p["informative_coverage_raw"] < p["informative_coverage"]
        assert p["neg_iwae"] < p["neg_elbo"]
        assert p["active_units"] in range(17)
    for row in quick["reconstruction"].values():
        parts = (15_746 * row["train"] + 1_968 * row["validation"] + 1_969 * row["test"]) / space.SIZE
        assert row["all"] == pytest.approx(parts, abs=1e-3)


def test_too_few_latents_leave_out_measures_of_rare_operations(quick: dict[str, Any]) -> None:
    assert {name for name, value in quick["A"].items() if value is None} == RARE


@pytest.mark.slow
@pytest.mark.parametrize(("latents", "n99_b"), [(2**20, 452_649), (2**22, 432_000)])
def test_the_epoch_60_rows_of_rare_operations(latents: int, n99_b: float) -> None:
    full = _evaluated("--latents", str(latents))
    a, b = full["A"], full["B"]
    assert (a["missing_mass"], b["missing_mass"]) == pytest.approx((0.217, 0.412), abs=0.008)  # known for 2^20 latents
    assert a["n99"] / 90_641 == pytest.approx(2.71, abs=0.03)
    assert b["n99"] == pytest.approx(n99_b, rel=0.03)
    assert (a["informative_coverage"], b["informative_coverage"]) == pytest.approx((6.97, 18.09), abs=0.03)
    for p in (a, b):
        assert p["expected_coverage"] == pytest.approx(p["sampled_coverage"], abs=0.25)
        assert 0 < p["rarest"] < 1


def test_every_metric_is_in_the_table_of_quantities() -> None:
    counts = {"sampled_coverage", "unique_operations", "uniform_baseline"}
    assert PATHWAY_KEYS - counts <= QUANTITIES.keys()
    assert label("neg_elbo", "test") == "-ELBO, test, nats"
    assert QUANTITIES["neg_elbo"].columns == ("neg_elbo_A", "neg_elbo_B")


def test_options_reach_the_evaluation() -> None:
    few = _evaluated("--samples", "1000", "--latents", "64", "--rho", "1", "--argmax")
    assert (few["samples"], few["latents"], few["rho"], few["decoding"]) == (1000, 64, 1.0, "argmax")
    assert few["A"]["unique_operations"] <= 1000
    assert few["A"]["uniform_baseline"] == pytest.approx(4.954, abs=0.01)
    rows = few["reconstruction"]
    assert rows["A_injected"]["all"] < rows["A"]["all"]  # A decodes only B's code


def test_the_table_names_the_settings_of_the_evaluation() -> None:
    text = describe(evaluate(load_model(EPOCH_60), 1000, 64, rho=0.25, iwae_samples=1), "title")
    assert "n = 1,000 categorical draws" in text
    assert "uniform baseline 4.954 %" in text
    assert "M = 64 Sobol latents" in text
    assert "ρ = 0.25" in text


def test_the_table_is_aligned_and_has_a_row_for_each_metric_that_was_measured() -> None:
    few = evaluate(load_model(EPOCH_60), 1000, 64, iwae_samples=1)
    full = replace(few.A, expected_coverage=1.0, missing_mass=2.0, n99=3e9, rarest=4e-99)
    measured = replace(few, A=full, B=full)
    for evaluation, rows in ((few, len(ROWS) - 4 + 8), (measured, len(ROWS) + 8)):
        text = describe(evaluation, "title")
        above, table = text.split("\n\n")
        lines = table.splitlines()
        assert len(lines) == 1 + rows
        assert len({len(line) for line in lines}) == 1
        assert max(len(line) for line in text.splitlines()) <= 100
        assert ("left out" in above) == (rows < len(ROWS) + 8)


def test_an_evaluation_is_repeatable_and_uses_the_given_split() -> None:
    model = load_model(EPOCH_60)
    first, second = (evaluate(model, 500, 64, iwae_samples=1).as_dict() for _ in range(2))
    assert first == second
    other = evaluate(model, 500, 64, iwae_samples=1, split=space.split(7, 0.8, 0.15)).as_dict()
    assert other["A"]["neg_elbo"] != first["A"]["neg_elbo"]
    assert other["A"]["unique_operations"] == first["A"]["unique_operations"]


@pytest.mark.parametrize("arguments", [
    {"samples": 0}, {"samples": 1.5}, {"samples": True}, {"latents": 63}, {"iwae_samples": 0}, {"rho": 1.1},
    {"rho": math.nan}, {"rho": "0.1"}, {"decoding": "greedy"},
], ids=str)
def test_a_bad_argument_is_named(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(arguments))):
        evaluate(load_model(EPOCH_60), **{"samples": 100, "latents": 64, **arguments})

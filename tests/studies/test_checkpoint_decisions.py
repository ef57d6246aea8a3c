"""The comparisons that decide notebook 08: rarely a decision without an effect, and the right one with an effect."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from ternary_lab.metrics.quantities import QUANTITIES
from ternary_lab.studies.checkpoints_and_ensembles import decisions
from ternary_lab.studies.checkpoints_and_ensembles.choices import CRITERIA, OUTCOMES
from ternary_lab.studies.checkpoints_and_ensembles.tables import EQUAL, LEARNED, best_member
from ternary_lab.studies.statistics import interval

TIMES = 100
"""Simulated experiments of each test."""
MOST = 0.05 + 3 * math.sqrt(0.05 * 0.95 / TIMES)


def _values(rng: np.random.Generator, seeds: int, columns: int) -> np.ndarray:
    """Return measures (seeds, columns) that are correlated within a seed, as different measures of a run are."""
    return rng.normal(size=(seeds, 1)) + rng.normal(size=(seeds, columns))


def _rows(rng: np.random.Generator, name: str, groups: list[str], metrics: list[str], seeds: int) -> pd.DataFrame:
    """Return a table with a row per group and seed, in which all groups have the same distribution."""
    parts = []
    level = rng.normal(size=(seeds, 1)) * 3
    for group in groups:
        values = level + _values(rng, seeds, len(metrics))
        table = pd.DataFrame(values, columns=metrics)
        table[name], table["seed"] = group, range(seeds)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def _choices(rng: np.random.Generator) -> pd.DataFrame:
    rules = [*CRITERIA.values(), "epoch 60", "epoch 70", "epoch 100"]
    return decisions.choice_differences(_rows(rng, "rule", rules, list(OUTCOMES), 8))


def _measures(rng: np.random.Generator) -> pd.DataFrame:
    names = ["noisy", "variance", "informative_coverage", "effective_coverage", "neg_iwae"]
    return _rows(rng, "member", ["epoch 60", best_member(), EQUAL, LEARNED], names, 8)


def _pathways(rng: np.random.Generator) -> pd.DataFrame:
    parts = [_rows(rng, "reader", ["both", "better"], ["exact"], 8).assign(epoch=epoch) for epoch in (60, 100)]
    table = pd.concat(parts).pivot_table(index=["seed", "epoch"], columns="reader", values="exact")
    return decisions.pathway_differences(table.reset_index())


def _rivals(rng: np.random.Generator, shift: float = 0.0) -> pd.DataFrame:
    parts = []
    for p in "AB":
        table = _rows(rng, "model", [f"v5_5_{p}", "0.1", "0.3", "1"], list(decisions.MEASURES), 4)
        table["beta"] = pd.to_numeric(table["model"], errors="coerce")
        table.loc[table["beta"].notna(), "model"] = f"beta_vae_{p}"
        parts.append(table)
    table = pd.concat(parts, ignore_index=True).assign(title=lambda t: t["model"])
    table.loc[table["beta"].notna(), list(decisions.MEASURES)] += shift
    return table


EXPERIMENTS: dict[str, tuple[Callable[[np.random.Generator], pd.DataFrame], str]] = {
    "choice of the epoch": (_choices, "neg_elbo"),
    "reading": (lambda rng: decisions.reading_differences(_measures(rng)), "noisy"),
    "generating": (lambda rng: decisions.generator_differences(_measures(rng)), ""),
    "pathways": (_pathways, ""),
    "models": (lambda rng: decisions.model_differences(_rivals(rng)), next(iter(decisions.MEASURES))),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_without_an_effect_a_family_decides_at_most_once_in_twenty(name: str) -> None:
    experiment, primary = EXPERIMENTS[name]
    rng = np.random.default_rng(8)
    wrong = {True: 0, False: 0}
    for _ in range(TIMES):
        found = experiment(rng)
        for family, rows in found.groupby(found["metric"] == primary):
            wrong[bool(family)] += int((rows["better"] != "not decided").any())
    assert max(wrong.values()) / TIMES <= MOST


def test_an_effect_is_decided_in_the_direction_of_each_quantity() -> None:
    found = decisions.model_differences(_rivals(np.random.default_rng(0), shift=1000.0))
    assert len(found) == 6 * len(decisions.MEASURES)
    assert (found["decided"] == "higher").all()
    for metric, its in found.groupby("metric"):
        less = metric == "draws" or QUANTITIES.get(str(metric), QUANTITIES["coverage"]).better == "less"
        assert set(its["better"]) == {"worse" if less else "better"}, metric


def test_the_ensemble_is_compared_with_the_best_member_that_is_read_as_often() -> None:
    measures = _measures(np.random.default_rng(1))
    exact = measures.set_index(["member", "seed"])["noisy"]
    row = decisions.reading_differences(measures).set_index("metric").loc["noisy"]
    assert row["member"] == EQUAL
    assert row["comparisons"] == 1
    assert row["mean"] == pytest.approx((exact[EQUAL] - exact[best_member()]).mean())


def test_a_pathway_is_compared_with_v5_5_of_the_same_decoder_and_seed() -> None:
    rivals = _rivals(np.random.default_rng(2))
    found = decisions.model_differences(rivals)
    theirs = rivals[(rivals["model"] == "beta_vae_B") & (rivals["beta"] == 0.3)].set_index("seed")["neg_elbo"]
    ours = rivals[rivals["model"] == "v5_5_B"].set_index("seed")["neg_elbo"]
    its = found[(found["decoder"] == "B") & (found["rival"] == "β = 0.3")].set_index("metric")
    row = its.loc["neg_elbo"]
    assert row["mean"] == pytest.approx((theirs - ours).mean())
    assert row["comparisons"] == 6 * (len(decisions.MEASURES) - 1)
    assert its.at["informative_coverage", "comparisons"] == 6


def test_a_table_of_texts_has_each_difference_with_its_decision() -> None:
    measures = _measures(np.random.default_rng(3))
    measures.loc[measures["member"] == EQUAL, "neg_iwae"] -= 1000
    measures.loc[measures["member"] == LEARNED, "neg_iwae"] = math.nan
    found = decisions.generator_differences(measures)
    texts = decisions.shown_table(found, "member", "metric")
    assert list(texts.index) == [EQUAL, LEARNED]
    assert texts.loc[LEARNED, "neg_iwae"] == "–"
    assert re.fullmatch(r"-[\d,]+ \[-[\d,]+, -\d+\] better", str(texts.at[EQUAL, "neg_iwae"]))
    row = found[(found["member"] == EQUAL) & (found["metric"] == "effective_coverage")].iloc[0]
    assert str(texts.at[EQUAL, "effective_coverage"]).startswith(
        f"{row['mean']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
    )


def test_alone_is_the_decision_of_a_single_interval() -> None:
    rng = np.random.default_rng(4)
    found = decisions.model_differences(rivals := _rivals(rng, shift=3.0))
    for _, row in found.iterrows():
        at = {name: rivals[rivals["model"] == f"{name}_{row['decoder']}"] for name in ("v5_5", "beta_vae")}
        theirs = at["beta_vae"][at["beta_vae"]["beta"].map("β = {:g}".format) == row["rival"]]
        metric = str(row["metric"])
        single = interval(theirs.set_index("seed")[metric] - at["v5_5"].set_index("seed")[metric])
        assert (row["alone"] != "not decided") == single.excludes_zero
        if row["better"] != "not decided":
            assert row["alone"] == row["better"]
    # Alone, more is decided than together.
    assert (found["alone"] != "not decided").sum() > (found["better"] != "not decided").sum()


def test_pairs_of_readings_are_those_of_the_members() -> None:
    rows = [{"member": f"epoch 60, {name}", "seed": seed, "noisy": value + seed}
            for name, value in (("both pathways", 10.0), ("better pathway, 2 samples", 20.0)) for seed in (1, 2)]
    pairs = decisions.pathway_pairs(pd.DataFrame(rows), 60)
    assert pairs.to_dict("list") == {"seed": [1, 2], "epoch": [60, 60], "both": [11.0, 12.0], "better": [21.0, 22.0]}

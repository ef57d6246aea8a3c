"""Tables over seeds: intervals, chosen epochs and their regret, ensembles, experiments on part of the space."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from weight_measures import weight_measures

from ternary_lab import RunError, load_runs, space, splits
from ternary_lab.metrics import likelihood
from ternary_lab.metrics.decoding import entry_probabilities
from ternary_lab.runs.load import ANSWERS, FULL, PUBLISHED, RunSet
from ternary_lab.studies.checkpoints_and_ensembles import choices
from ternary_lab.studies.checkpoints_and_ensembles import tables as checkpoint_tables
from ternary_lab.studies.generalisation import tables
from ternary_lab.studies.statistics import interval, summary

pytestmark = pytest.mark.usefixtures("one_thread")

ONE = RunSet({42: load_runs("v5_5")[42]})


# --- intervals


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_an_interval_is_that_of_students_distribution(values: list[float]) -> None:
    found = interval(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    error = stats.sem(values)
    if error > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), error)
        assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_one_value_has_an_infinite_interval_and_nan_values_do_not_count() -> None:
    assert interval([3.0, math.nan]) == interval([3.0])
    assert (interval([3.0]).low, interval([3.0]).high) == (-math.inf, math.inf)
    assert math.isnan(interval([math.nan]).mean)
    assert format(interval([2.0, 2.0]), ".1f") == "2.0"
    assert format(interval([1.0, 3.0]), "+.1f") == "+2.0 [-10.7, +14.7]"


def test_a_summary_keeps_the_order_of_the_groups() -> None:
    table = pd.DataFrame({"rule": ["b", "b", "a", "a"], "value": [1.0, 1.0, 2.0, 4.0]})
    found = summary(table, "rule", ["value"])
    assert list(found.index) == ["b", "a"]
    assert found.at["b", "value"] == "1"
    assert found.at["a", "value"] == "3 [2, 4]"


def test_intervals_contain_the_mean_in_95_percent_of_cases() -> None:
    rng = np.random.default_rng(0)
    found = [interval(rng.normal(1.0, 2.0, 5)) for _ in range(4000)]
    covered = np.mean([i.low <= 1.0 <= i.high for i in found])
    assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


# --- which checkpoint


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    return choices.checkpoint_outcomes(load_runs(FULL))


def test_there_are_outcomes_of_every_epoch_up_to_120(scores: pd.DataFrame) -> None:
    for _, run in scores.groupby("seed"):
        assert set(range(121)) <= set(run["epoch"])
        assert run["epoch"].max() == 399 or run["epoch"].max() == 390
    assert scores["seed"].nunique() >= 4


@pytest.mark.parametrize("last", [60, 119, None])
def test_regret_is_never_negative_and_missing_where_it_would_be_circular(
    scores: pd.DataFrame, last: int | None
) -> None:
    found = choices.chosen_epochs(scores, last, fixed=[50])
    if last is not None:
        assert found["epoch"].max() <= last
    lost = choices.regret(found, scores, last)
    for outcome in choices.OUTCOMES:
        circular = lost["rule"].map(lambda rule, o=outcome: o in choices.CIRCULAR.get(rule, ()))
        assert (lost[outcome].isna() == circular).all()
        assert (lost.loc[~circular, outcome] >= 0).all()
    at = found[found["rule"] == "epoch 50"]
    assert (at["epoch"] == 50).all()


def test_sampled_coverage_is_judged_on_other_draws_than_those_that_choose(scores: pd.DataFrame) -> None:
    chosen = (scores["coverage_A"] + scores["coverage_B"]) / 2
    differ = (scores["coverage"] - chosen).abs()
    assert (differ > 0).mean() > 0.9
    assert differ.max() < 1
    # So the epoch that coverage chooses is not always the best of the judging draws.
    lost = choices.regret(choices.chosen_epochs(scores, 119), scores, 119)
    assert (lost.loc[lost["rule"] == choices.CRITERIA["coverage"], "coverage"] > 0).any()


def test_the_last_epoch_is_one_rule_even_if_it_is_fixed(scores: pd.DataFrame) -> None:
    for fixed, there in (([50], True), ([50, 119], False)):
        rules = set(choices.chosen_epochs(scores, 119, fixed)["rule"])
        assert ("last epoch" in rules) == there
        assert {f"epoch {epoch}" for epoch in fixed} <= rules


def test_readings_by_epoch_are_those_of_the_probes() -> None:
    run = load_runs(FULL)[42]
    assert run.probes is not None
    row = choices.readings_by_epoch(RunSet({42: run}), [390]).iloc[0]
    probe = run.probes.set_index("epoch").loc[390]
    assert row["own"] == pytest.approx((probe["own_test_A"] + probe["own_test_B"]) / 2)
    assert row["injected"] == pytest.approx((probe["injected_A"] + probe["injected_B"]) / 2)


def test_outcomes_on_the_test_split_equal_those_of_the_weights(scores: pd.DataFrame) -> None:
    run = load_runs(FULL)[42]
    row = scores[(scores["seed"] == 42) & (scores["epoch"] == 120)].iloc[0]
    model = run.model(120)
    x = space.operations(splits.split(run.config.data).test).unsqueeze(0)
    right = likelihood.right_entries(model.core, model.core.encode(x)[0], x)
    assert row["reconstruction_test"] == pytest.approx(float(likelihood.percent_exact(right).mean()), abs=0.1)
    noise = torch.randn(16, 2, 1, x.shape[1], 16, generator=torch.Generator().manual_seed(0))
    assert row["neg_elbo"] == pytest.approx(float(likelihood.negative_elbo(model.core, x, noise).mean()), abs=0.1)


def test_runs_without_probes_are_named() -> None:
    with pytest.raises(RunError, match="has no probes"):
        choices.checkpoint_outcomes(load_runs("counterfactuals/lr_stays"))
    with pytest.raises(RunError, match="no table of alternatives"):
        checkpoint_tables.load_alternatives("nothing.csv")
    with pytest.raises(RunError, match="no experiments"):
        tables.load_experiments("nothing")


def test_mixtures_of_checkpoints_obey_the_bounds_of_their_members() -> None:
    table = checkpoint_tables.generators(ONE, (60, 100), latents=4096).set_index(["member", "pathway"])
    for p in "AB":
        one, two = table.loc[("epoch 60", p)], table.loc[("epoch 100", p)]
        for name in ("equal weights", "learned weights"):
            mixed = table.loc[(name, p)]
            share = mixed["w_60"]
            assert mixed["w_60"] + mixed["w_100"] == pytest.approx(1)
            # -ln of a mean is at most the mean of -ln.
            assert mixed["neg_iwae"] <= share * one["neg_iwae"] + (1 - share) * two["neg_iwae"] + 1e-6
            # The noise of a mixture is the mean of its members' noises.
            assert mixed["decoder_noise"] == pytest.approx(
                share * one["decoder_noise"] + (1 - share) * two["decoder_noise"]
            )
        best = table.loc[("best member, 2 samples", p)]
        alone = table.loc[(f"epoch {best['chosen']:.0f}", p)]
        assert best["informative_coverage"] == alone["informative_coverage"]
        # More importance samples tighten the bound.
        assert best["neg_iwae"] < alone["neg_iwae"]


def test_more_samples_read_better_and_the_best_member_is_one_of_the_members() -> None:
    table = checkpoint_tables.readings(ONE, (60, 100)).set_index(["member", "pathway"])
    for p in "AB":
        best = table.loc[("best member, 2 samples", p)]
        often = table.loc[(f"epoch {best['chosen']:.0f}, 2 samples", p)]
        assert (best["noisy"], best["variance"]) == (often["noisy"], often["variance"])
        for epoch in (60, 100):
            once, twice = table.loc[(f"epoch {epoch}", p)], table.loc[(f"epoch {epoch}, 2 samples", p)]
            assert twice["noisy"] > once["noisy"]
            # The mean of two independent probabilities has half of their variance.
            assert twice["variance"] == pytest.approx(once["variance"] / 2, rel=0.05)


def test_the_variance_of_a_reading_is_that_over_many_samples() -> None:
    model = ONE[42].model(100)
    x = space.operations(splits.split(ONE[42].config.data).test)
    noise = torch.Generator().manual_seed(0)
    many = torch.stack([entry_probabilities(model, "B", x, generator=noise) for _ in range(40)])
    expected = float(many.var(0).sum(-1).mean())
    table = checkpoint_tables.readings(ONE, (100,)).set_index(["member", "pathway"])
    assert table.loc[("epoch 100", "B"), "variance"] == pytest.approx(expected, rel=0.05)


def test_two_pathways_are_compared_with_the_pathway_that_the_validation_split_prefers() -> None:
    table = checkpoint_tables.pathway_ensembles(ONE[42], [60, 100])
    wide = table[table["code"] == "sample"].pivot_table(index="epoch", columns="rule", values="exact")
    for _, row in wide.iterrows():
        assert row["better twice"] in (row["A twice"], row["B twice"])
    # At epoch 100 pathway B decodes much better from samples, on every split.
    assert wide.at[100, "better twice"] == wide.at[100, "B twice"] > wide.at[100, "A twice"]
    assert (wide["best of"] >= wide[["A", "B"]].max(axis=1)).all()


def test_measures_of_runs_without_weights_come_from_the_published_table() -> None:
    runs = load_runs("v5_5")
    table = checkpoint_tables.ensemble_measures(runs)
    assert table["seed"].nunique() == len(runs)
    assert list(dict.fromkeys(table["member"]))[:4] == [f"epoch {e}" for e in checkpoint_tables.RECOMMENDED]
    kept = pd.read_csv(PUBLISHED / ANSWERS).set_index(["seed", "measure"])["value"]
    row = table[(table["seed"] == 49) & (table["member"] == "best member, 4 samples")].iloc[0]
    assert row["noisy"] == kept[(49, "best member, 4 samples: noisy")]
    assert math.isnan(row["w_60"])
    with pytest.raises(RunError, match="the weights of some of the epochs"):
        checkpoint_tables.ensemble_measures(runs, (10, 20))


def test_published_weight_measures_equal_those_of_the_published_weights() -> None:
    kept = pd.read_csv(PUBLISHED / ANSWERS)
    assert kept["seed"].nunique() >= 8
    found = weight_measures(ONE).set_index("measure")["value"]
    of_seed = kept[kept["seed"] == 42].set_index("measure")["value"]
    assert set(found.index) == set(of_seed.index)
    for name, value in of_seed.items():
        # If two values are almost equally probable, argmax may differ on another CPU.
        assert found[name] == pytest.approx(value, rel=0.01), name


# --- does it generalise


def test_the_experiments_have_four_seeds_and_sizes_are_ordered() -> None:
    experiments = tables.load_experiments()
    assert {"train_1", "train_5", "train_20", "train_50", *tables.STRUCTURES} == set(experiments)
    table = tables.training_sizes(experiments, load_runs("v5_5"))
    assert table.groupby("share")["seed"].nunique().min() >= 4
    assert table["share"].is_monotonic_increasing
    assert (table["entries"] >= table["test"]).all()
    left = tables.left_out_structures(experiments)
    assert set(left["smaller"]) == {82, 216, 729}
    assert (left["entries_left_out"] >= left["left_out"]).all()


def test_injecting_nothing_gives_the_own_code_and_everything_the_other_code() -> None:
    run = ONE[42]
    table = tables.injected_reconstruction(run, [60], [0.0, 1.0]).set_index(["rho", "pathway"])["exact"]
    x = space.operations(splits.split(run.config.data).test)
    model = run.model(60)
    for p, other in (("A", "B"), ("B", "A")):
        own = (model.reconstruct(x, pathway=p) == x).all(1).float().mean()  # type: ignore[arg-type]
        assert table[(0.0, p)] == pytest.approx(100 * float(own))
        z = model.encode(x, other).mean  # type: ignore[arg-type]
        crossed = (model.decode(z, p).argmax(-1) - 1 == x).all(1).float().mean()  # type: ignore[arg-type]
        assert table[(1.0, p)] == pytest.approx(100 * float(crossed))


def test_reconstruction_by_part_has_the_values_of_the_probes() -> None:
    probes = ONE[42].probes
    assert probes is not None
    table = tables.reconstruction_by_part(probes)
    assert len(table) == 6 * len(probes)
    row = table[(table["epoch"] == 60) & (table["pathway"] == "B") & (table["part"] == "validation")].iloc[0]
    assert row["exact"] == probes.set_index("epoch").at[60, "own_validation_B"]


def test_the_parts_of_a_split_stand_beside_each_other() -> None:
    probes = ONE[42].probes
    assert probes is not None
    found = tables.seen_and_unseen(ONE, probes).set_index(["epoch", "pathway"])
    row = probes.set_index("epoch").loc[10]
    assert found.loc[(10, "A"), ["train", "test", "smaller"]].tolist() == [row["own_train_A"], row["own_test_A"], 1969]


def _study(rng: np.random.Generator, wrong: float, seeds: int, rows: int, sizes: tuple[int, int]) -> pd.DataFrame:
    """Return the percentages of two parts whose operations are wrong with the same probability within a seed."""
    logits = math.log(wrong / (1 - wrong)) + rng.normal(size=(rows, seeds))
    p = 1 / (1 + np.exp(-logits))
    first, second = (100 - 100 * rng.binomial(size, p) / size for size in sizes)
    return pd.DataFrame({
        "row": np.repeat(range(rows), seeds), "seed": np.tile(range(seeds), rows), "first": first.ravel(),
        "second": second.ravel(), "smaller": min(sizes),
    })


@pytest.mark.parametrize(
    ("seeds", "rows", "sizes"), [(8, 2, (15_746, 1969)), (8, 14, (15_746, 1969)), (4, 6, (82, 1969))]
)
@pytest.mark.parametrize("wrong", [0.8, 0.3, 0.03, 1e-3, 1e-4, 3e-5])
def test_without_an_effect_a_difference_is_decided_in_at_most_one_of_20_studies(
    wrong: float, seeds: int, rows: int, sizes: tuple[int, int]
) -> None:
    """Notebook 07 decides by this table whether the parts of the split differ, and whether left-out structures do."""
    rng, trials = np.random.default_rng(0), 200
    found = (tables.share_differences(_study(rng, wrong, seeds, rows, sizes), "first", "second", ["row"])
             for _ in range(trials))
    decided = sum((table["decided"] != "not decided").any() for table in found)
    assert decided / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


def test_a_difference_of_shares_is_decided_by_the_shown_interval() -> None:
    rng = np.random.default_rng(1)
    table = _study(rng, 0.3, 8, 2, (15_746, 1969))
    table["first"] += 10 * (table["row"] == 1)
    found = tables.share_differences(table, "first", "second", ["row"]).set_index("row")
    assert found["decided"].to_dict() == {0: "not decided", 1: "higher"}
    assert set(found["comparisons"]) == {2}
    its = table[table["row"] == 1]
    plain = interval(its["first"] - its["second"], comparisons=2)
    assert found.at[1, "low"] == pytest.approx(plain.low - 50 / 1969)
    assert found.at[1, "high"] == pytest.approx(plain.high + 50 / 1969)


def test_trivial_methods_copy_or_fail() -> None:
    found = tables.trivial_methods(tables.load_experiments(), load_runs("v5_5")).pivot(index="share", columns="method")
    assert (found["exact"][tables.PCA_9] == 100).all()
    assert (found["exact"][tables.NEAREST] == 0).all()
    assert found["entries"][tables.NEAREST].is_monotonic_increasing
    assert list(found.index) == [1, 5, 20, 50, 80]

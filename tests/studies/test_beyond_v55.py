"""Recipes: shipped configurations, the table and its differences, the ideal front and the figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small import SMALL

from ternary_lab import ConfigError, RunError, evaluate, load_config, load_runs, space
from ternary_lab.backend.random_streams import stream
from ternary_lab.config import differences
from ternary_lab.config_files import Counterfactual, shipped_configs
from ternary_lab.metrics.baselines import scaled
from ternary_lab.metrics.sobol import sobol_normal
from ternary_lab.model import PATHWAYS, Architecture
from ternary_lab.runs.load import RunSet
from ternary_lab.runs.train import run_experiment
from ternary_lab.studies.beyond_v55 import comparisons, figures
from ternary_lab.studies.beyond_v55 import ideal_front as per_entry
from ternary_lab.studies.beyond_v55 import tables as recipe_tables
from ternary_lab.studies.beyond_v55.ideal_front import ideal_front
from ternary_lab.studies.beyond_v55.tables import BEYOND, MEASURES, ONE_RATE, RECIPES, REPAIRED, SHARPENED, V5_5
from ternary_lab.studies.statistics import interval

pytestmark = pytest.mark.usefixtures("one_thread")


# --- what is shipped


def test_the_recipes_are_the_shipped_configurations() -> None:
    for name in RECIPES:
        load_config(name)
    shipped = [f"{folder}/{path.stem}" for folder in ("ablations", "variants") for path in shipped_configs(folder)]
    assert set(shipped) <= set(RECIPES)
    assert {name for name in RECIPES if "/" in name} <= set(shipped)


ABOUT = {"name", "training.total_epochs", "early_stopping.patience", "checkpoints.every", "checkpoints.windows",
         "evaluation.latents", "evaluation.coverage_samples", "evaluation.coverage_at"}
"""Settings for the length and the measurement of a run, which do not change how it is trained."""


def test_each_defect_is_one_setting_and_all_repaired_changes_them_all() -> None:
    base, mended = load_config(V5_5), set()
    for name, recipe in RECIPES.items():
        if recipe.group == "defect":
            changed = {key for key in differences(base, load_config(name)) if key not in ABOUT}
            assert len({key.rpartition(".")[0] for key in changed}) == 1, (name, changed)
            mended |= changed
    repaired = {key for key in differences(base, load_config(REPAIRED)) if key not in ABOUT}
    assert repaired == {*mended, "early_stopping.metric"}
    assert set(differences(load_config("repaired"), load_config(REPAIRED))) <= ABOUT


def test_beyond_keeps_the_architecture_and_the_epochs() -> None:
    v5_5, beyond = load_config(V5_5), load_config(BEYOND)
    assert beyond.model.model_copy(update={"use_statenet": True}) == v5_5.model
    assert Architecture(beyond.model).parameters == 168_770
    assert beyond.training.total_epochs == recipe_tables.END + 1
    wide = Architecture(load_config("variants/one_wide_pathway").model)
    assert 168_000 < wide.encoder.size + wide.decoder_B.size <= 168_770


# --- the table


def test_recipes_are_trained_once_and_rows_of_others_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_tables, "RECIPES", {"small": recipe_tables.Recipe("small", "small", "part")})
    monkeypatch.setattr(recipe_tables, "load_config", lambda name: SMALL)
    table = tmp_path / "table.csv"
    pd.DataFrame({"recipe": ["other", "small"], "seed": [1, 9], "pathway": ["A", "A"]}).to_csv(table, index=False)
    recipe_tables.write_recipes([], [1, 2], tmp_path / "runs", table, 256, device="cpu")
    first = pd.read_csv(table)
    assert list(first["recipe"]) == ["other", *["small"] * 4]
    assert list(first["seed"][1:]) == [1, 1, 2, 2]
    assert (first["epoch"][1:] == 2).all()
    weights = tmp_path / "runs" / "small" / "seed=1" / "checkpoints" / "latest.safetensors"
    written = weights.stat().st_mtime_ns
    recipe_tables.write_recipes(["small"], [1, 2], tmp_path / "runs", table, 256, device="cpu")
    pd.testing.assert_frame_equal(pd.read_csv(table), first)
    assert weights.stat().st_mtime_ns == written


def test_an_unknown_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        recipe_tables.write_recipes(["nonsense"], [1], tmp_path, tmp_path / "table.csv")
    with pytest.raises(RunError, match="ternary-lab recipes"):
        recipe_tables.load_recipes(tmp_path / "none.csv")


def test_the_end_point_is_the_end_or_the_last_epoch_of_a_shorter_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(SMALL.as_dict(), {"training.total_epochs": 5, "checkpoints.every": 2})
    run = run_experiment(config, [1], tmp_path, device="cpu")[1]
    assert recipe_tables.end_point(run).epoch == 4
    monkeypatch.setattr(recipe_tables, "END", 2)
    assert recipe_tables.end_point(run).epoch == 2
    monkeypatch.setattr(recipe_tables, "END", 1)
    with pytest.raises(RunError, match="epoch_0001"):
        recipe_tables.end_point(run)


def test_runs_that_go_on_are_measured_at_the_end_that_a_counterfactual_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = load_config(SMALL.as_dict(), {"training.total_epochs": 5, "checkpoints.every": 1})
    monkeypatch.setattr(recipe_tables, "load_config", lambda name: longer)
    monkeypatch.setattr(recipe_tables, "load_counterfactual", lambda name: Counterfactual(
        name=name, title="unchanged", after=1, set={"training.total_epochs": 3, "checkpoints.every": 0}))
    monkeypatch.setattr(recipe_tables, "END", 2)
    table = recipe_tables.write_recipes(
        [V5_5], [1], tmp_path / "runs", tmp_path / "table.csv", 256, device="cpu")
    found, run = pd.read_csv(table), load_runs(tmp_path / "runs" / V5_5)[1]
    assert (found["epoch"] == 2).all()
    assert int(run.history["epoch"].max()) == 4
    expected = evaluate(run.model(2), latents=256, seed=1)
    own = found[(found["recipe"] == V5_5) & (found["pathway"] == "B")].iloc[0]
    assert own["informative_coverage"] == pytest.approx(expected.B.informative_coverage, rel=1e-6)


def test_sharpening_multiplies_the_logits_and_nothing_else() -> None:
    model = load_runs("v5_5")[42].model(100)
    sharp = scaled(model, 4)
    z = torch.randn(20, 16, generator=torch.Generator().manual_seed(1))
    for p in PATHWAYS:
        assert sharp.decode(z, p).allclose(4 * model.decode(z, p), rtol=1e-4, atol=1e-4)
    assert sharp.core.blocks.encoders.equal(model.core.blocks.encoders)
    assert model.decode(z, "B").allclose(load_runs("v5_5")[42].model(100).decode(z, "B"))


def test_joint_informative_coverage_equals_brute_force() -> None:
    """Compared with the whole table p(x|z) of all latents of both pathways."""
    model = load_runs("v5_5")[42].model(100)
    found = evaluate(model, samples=1, latents=64, iwae_samples=1, seed=3)
    z = torch.cat(list(sobol_normal(16, 64, stream(3, "latents").initial_seed(), torch.device("cpu"))), -1).t()
    classes = (space.operations(torch.arange(space.SIZE)) + 1).long()
    tables = []
    for p in PATHWAYS:
        log_p = torch.log_softmax(model.decode(z, p).double(), -1)
        tables.append(sum(log_p[:, k, classes[:, k]] for k in range(9)).exp())
    joint = torch.cat(tables)
    information = torch.special.entr(joint.mean(0)).sum() - torch.special.entr(joint).sum(1).mean()
    expected = 100 * math.exp(float(information)) / space.SIZE
    assert recipe_tables.joint_informative_coverage(found) == pytest.approx(expected, rel=1e-3)


def test_effective_coverage_from_too_few_latents_is_nan() -> None:
    columns = [f"{kind}_coverage_{p}" for kind in ("effective", "informative") for p in PATHWAYS]
    few, enough = (recipe_tables.load_histories(name)[columns].notna().all() for name in (REPAIRED, BEYOND))
    assert few.to_list() == [False, False, True, True]
    assert enough.all()


def test_steadiness() -> None:
    history = pd.DataFrame({"epoch": range(40), "train_loss": [100.0, 1.0, 50.0] + [5.0] * 37, "neg_elbo_A": 14.0})
    history.loc[25, "train_loss"] = 8.0
    history.loc[history["epoch"] % 2 == 1, "neg_elbo_A"] = 14.5
    found = recipe_tables.steadiness(history, "A")
    assert found["spike"] == 3.0  # the rise at epoch 2 is before `FIRST_SPIKE_EPOCH`
    assert found["wobble"] == pytest.approx(0.5)


def test_differences_are_paired_by_seed() -> None:
    rows = [
        {"recipe": recipe, "seed": seed, "pathway": p, "neg_elbo": 10.0 * seed + (shift if seed < 3 else 2 * shift)}
        for recipe, shift in ((V5_5, 0.0), (BEYOND, 1.0)) for seed in (1, 2, 3) for p in PATHWAYS
    ]
    rows.append({"recipe": BEYOND, "seed": 4, "pathway": "A", "neg_elbo": 0.0})  # has no pair
    table = pd.DataFrame(rows).assign(title="")
    found = comparisons.recipe_differences(table, [BEYOND], V5_5, ["neg_elbo"])
    expected = interval([1.0, 1.0, 2.0], comparisons=2)
    for _, row in found.iterrows():
        assert (row["n"], row["mean"], row["low"]) == (3, pytest.approx(expected.mean), pytest.approx(expected.low))


def _decided(*rows: tuple[str, str, str, str]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["title", "pathway", "metric", "decided"])
    return table.assign(mean=1.0, low=0.5, high=2.0)


def test_decisions_name_the_decided_and_count_the_others() -> None:
    metric = "neg_elbo"
    found = _decided(("a", "A", metric, "higher"), ("a", "B", metric, "not decided"), ("b", "A", metric, "lower"),
                     ("b", "B", metric, "lower"), ("c", "A", metric, "not decided"))
    assert comparisons.decisions(found) == "Higher: a (A); lower: b (A), b (B); not decided: 2 of 5."
    assert comparisons.decisions(found[1:2].drop(columns="pathway")) == "Not decided: 1 of 1."
    assert comparisons.decisions(found[:1].drop(columns="pathway")) == "Higher: a."


def test_a_table_of_differences_marks_those_that_are_decided() -> None:
    found = comparisons.differences_table(_decided(
        ("b", "A", "neg_elbo", "higher"), ("b", "B", "neg_elbo", "not decided"),
        ("a", "A", "neg_elbo", "not decided"), ("a", "B", "neg_elbo", "lower"),
    ))
    assert found.index.tolist() == ["b", "a"]
    assert found["neg_elbo_A"].tolist() == ["+1.00 [+0.50, +2.00] *", "+1.00 [+0.50, +2.00]"]
    assert found["neg_elbo_B"].tolist() == ["+1.00 [+0.50, +2.00]", "+1.00 [+0.50, +2.00] *"]


def _random_recipes(names: Sequence[str], generator: np.random.Generator, seeds: int = 8) -> pd.DataFrame:
    """A table of recipes without any effect: runs of one seed share a shift, and recipes differ in spread."""
    index = pd.MultiIndex.from_product([names, range(seeds), PATHWAYS], names=["recipe", "seed", "pathway"])
    spread = 1 + np.arange(len(names))[:, None, None]
    values = generator.normal(size=(1, seeds, 1)) + spread * generator.normal(size=(len(names), seeds, 2))
    table = pd.DataFrame({"informative_coverage": values.ravel()}, index).reset_index()
    both = generator.normal(size=len(table))
    return table.assign(title=[RECIPES[name].title for name in table["recipe"]], informative_coverage_both=both)


DEFECTS = [name for name, recipe in RECIPES.items() if recipe.group in ("defect", "repaired")]


@pytest.mark.parametrize("question", ["beyond", "repairs", "statenet", "generators", "coupling"])
def test_without_an_effect_the_primary_outcome_decides_at_most_once_in_20(question: str) -> None:
    """Every question of notebook 09, with random runs. A false positive is any decided comparison."""
    asked: dict[str, tuple[Sequence[str], Callable[[pd.DataFrame], pd.DataFrame]]] = {
        "beyond": ([V5_5, BEYOND], lambda table: comparisons.recipe_differences(table, [BEYOND], V5_5, primary)),
        "repairs": ([V5_5, *DEFECTS], lambda table: comparisons.recipe_differences(table, DEFECTS, V5_5, primary)),
        "statenet": (
            [recipe_tables.OFF, ONE_RATE, *recipe_tables.TAUGHT],
            lambda table: comparisons.statenet_differences(table, primary),
        ),
        "generators": ([ONE_RATE, recipe_tables.WIDE], comparisons.generator_differences),
        "coupling": ([ONE_RATE, *PARTS], lambda table: comparisons.recipe_differences(table, PARTS, ONE_RATE, primary)),
    }
    primary = comparisons.COMPARED[:1]
    names, ask = asked[question]
    generator, simulations, false = np.random.default_rng(9), 120, 0
    for _ in range(simulations):
        found = ask(_random_recipes(names, generator, 4 if question == "coupling" else 8))
        false += bool((found["decided"] != comparisons.UNDECIDED).any())
    assert false / simulations <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / simulations)


PARTS = ["variants/injected", "variants/aligned"]


def test_the_primary_outcome_is_a_family_of_its_own() -> None:
    found = comparisons.recipe_differences(recipe_tables.load_recipes(), DEFECTS, V5_5)
    sizes = found.groupby("metric")["comparisons"].unique().map(list).to_dict()
    assert sizes == {"informative_coverage": [12], "effective_coverage": [24], "neg_elbo": [24]}


def test_statenet_is_compared_within_each_recipe() -> None:
    table = _random_recipes([recipe_tables.OFF, ONE_RATE, *recipe_tables.TAUGHT], np.random.default_rng(3))
    for name, value in ((recipe_tables.OFF, 1.0), (recipe_tables.TAUGHT[0], 3.0), (ONE_RATE, 10.0),
                        (recipe_tables.TAUGHT[1], 11.0)):
        table.loc[table["recipe"] == name, "informative_coverage"] = value
    found = comparisons.statenet_differences(table, ["informative_coverage"])
    means = found.groupby("title")["mean"].unique().map(list).to_dict()
    assert means == {"in v5.5": [2.0], comparisons.IN_ONE_RATE: [1.0]}
    assert set(found["comparisons"]) == {4}


def test_generators_are_compared_with_b_alone() -> None:
    table = _random_recipes([ONE_RATE, recipe_tables.WIDE], np.random.default_rng(4))
    one, wide = ({"A": 80.0, "B": 90.0}, {"A": 0.0, "B": 93.0})
    values = {ONE_RATE: one, recipe_tables.WIDE: wide}
    table["informative_coverage"] = [values[r][p] for r, p in zip(table["recipe"], table["pathway"], strict=True)]
    found = comparisons.generator_differences(table.assign(informative_coverage_both=85.0)).set_index("title")["mean"]
    assert found.to_dict() == {"A alone": -10.0, "A or B with equal chance": -5.0, "one wide pathway": 3.0}


def test_a_goal_is_reached_only_by_both_pathways() -> None:
    good = {"effective_coverage": 99.0, "missing_mass": 0.01, "n99": 95_000.0, "neg_iwae": 10.5,
            "reconstruction_test": 100.0, "neg_elbo": 13.0, "informative_coverage": 96.0}
    bad = {**good, "neg_elbo": 13.6, "n99": 100_000.0}
    rows = [
        {"recipe": recipe, "title": recipe.upper(), "seed": seed, "pathway": p}
        | (bad if (recipe, p) == ("y", "B") else good)
        for recipe in "xy" for seed in (1, 2, 3) for p in PATHWAYS
    ]
    rows[0]["neg_elbo"] = 20.0  # one seed of three does not change the median
    found = comparisons.goals_reached(pd.DataFrame(rows), ["x", "y"])
    assert found["X"].str.endswith("✓").all()
    assert found.index[~found["Y"].str.endswith("✓")].tolist() == ["n₉₉ / n₉₉ of uniform noise", "-ELBO, test, nats"]
    assert found.loc["-ELBO, test, nats", "Y"] == "13 / 13.6"
    assert found.loc["n₉₉ / n₉₉ of uniform noise", "X"] == "1.048 / 1.048 ✓"  # three digits would show the goal, 1.05


def test_the_front_by_hand_is_near_the_ideal_front_in_both_decoders() -> None:
    ideal = ideal_front([3.0, 12.0])
    found = comparisons.front_by_hand(ideal, 2**18)
    assert found["pathway"].tolist() == ["A", "B"] * 2
    for row, best in zip(found.itertuples(), ideal.loc[ideal.index.repeat(2)].itertuples(), strict=True):
        assert row.weight == best.weight
        assert row.neg_elbo == pytest.approx(best.neg_elbo, abs=0.1)
        assert row.informative_coverage == pytest.approx(best.informative_coverage, abs=2)  # too high: few latents


def test_the_causes_add_up_to_informative_coverage_and_elbo() -> None:
    table = recipe_tables.load_recipes()
    one = table[(table["recipe"] == BEYOND) & (table["seed"] == 42)]
    found = comparisons.losses_by_cause(one, [BEYOND])
    for row, lost in zip(one.itertuples(), found.itertuples(), strict=True):
        assert lost.pathway == row.pathway
        assert 100 * math.exp(-lost.frequencies - lost.noise) == pytest.approx(row.informative_coverage, rel=1e-4)
        assert math.log(space.SIZE) + row.missing_mass + lost.code == pytest.approx(row.neg_elbo)
        assert lost.code > 0


def test_the_row_by_hand_is_that_of_the_model() -> None:
    rows = comparisons.rows_by_hand(2**16).set_index("pathway")
    assert rows.index.tolist() == ["A", "B"]
    assert set(rows["recipe"]) == {comparisons.BY_HAND}
    assert (rows["reconstruction_test"] == 100).all()
    assert {goal.metric for goal in comparisons.GOALS} <= set(rows)


def test_the_published_weights_have_the_published_measures() -> None:
    table = recipe_tables.load_recipes()
    stored = table[(table["recipe"] == BEYOND) & (table["seed"] == 42)].set_index("pathway")
    found = evaluate(load_runs(BEYOND)[42].model(recipe_tables.END), latents=2**17, seed=42)
    for p in PATHWAYS:
        now = getattr(found, p)
        assert now.neg_elbo == pytest.approx(stored["neg_elbo"][p], abs=1e-3)
        assert now.informative_coverage == pytest.approx(stored["informative_coverage"][p], abs=1)


def test_rows_are_picked_in_the_order_of_the_names() -> None:
    table = pd.DataFrame({"recipe": ["a", "b", "a", "c"], "seed": [1, 1, 2, 1]})
    picked = recipe_tables.pick(table, ["b", "a"])
    assert picked[["recipe", "seed"]].to_numpy().tolist() == [["b", 1], ["a", 1], ["a", 2]]


def test_the_published_table_has_every_recipe_with_its_seeds() -> None:
    table = recipe_tables.load_recipes()
    there = {name: set(rows["seed"]) for name, rows in table.groupby("recipe")}
    wanted = {name: set(recipe_tables.seeds_of(recipe)) for name, recipe in RECIPES.items()}
    assert there.keys() == {*wanted, SHARPENED}
    assert all(there[name] >= seeds for name, seeds in wanted.items())
    assert there[SHARPENED] == wanted[V5_5]
    assert not table[["recipe", "factor", "seed", "pathway"]].duplicated().any()
    kept = table[table["recipe"] != SHARPENED]
    assert kept[[m for m in MEASURES if m != "n99"]].notna().all(axis=None)
    # With factor 1 it is v5.5 itself.
    both = table[(table["factor"] == 1) & table["recipe"].isin([V5_5, SHARPENED])].set_index(["seed", "pathway"])
    same = both.loc[both["recipe"] == SHARPENED, "neg_elbo"]
    assert same.to_dict() == pytest.approx(both.loc[both["recipe"] == V5_5, "neg_elbo"][same.index].to_dict(), rel=1e-4)


# --- the ideal front


def test_the_ideal_front_is_convex() -> None:
    """Convex: the weight is the slope, d(-ELBO)/dI, between a point and the next."""
    weights = [0.5, 1.0, 2.0, 4.0, 8.0]
    front = ideal_front(weights)
    information = front["informative_coverage"].map(math.log)
    slopes = (front["neg_elbo"].diff() / information.diff()).iloc[1:]
    for low, slope, high in zip(weights, slopes, weights[1:], strict=False):
        assert low < slope < high
    assert (front["decoder_noise"].diff().dropna() < 0).all()


def test_the_sums_over_a_grid_equal_averages_over_draws() -> None:
    log_parameters = torch.tensor(per_entry.START, dtype=torch.float64).log()
    bound, output, noise = per_entry._entry(log_parameters)
    mean, inner, outer, threshold, slope, below, above = per_entry.START
    generator = stream(1, "sample")
    z = torch.randn(400_000, dtype=torch.float64, generator=generator)

    def log_p(z: torch.Tensor) -> torch.Tensor:
        def odds(d: torch.Tensor) -> torch.Tensor:
            return torch.where(d > 0, above * (slope * d / above).tanh(), below * (slope * d / below).tanh())

        return torch.log_softmax(torch.stack([odds(-z - threshold), 0 * z, odds(z - threshold)], 1), 1)

    p = log_p(z).exp()
    mixed = p.mean(0)
    assert float(output) == pytest.approx(float(-(mixed * mixed.log()).sum()), abs=2e-3)
    assert float(noise) == pytest.approx(float(-(p * log_p(z)).sum(1).mean()), abs=2e-3)
    classes = [(-mean, outer), (0.0, inner), (mean, outer)]
    expected = sum(
        float(-log_p(m + s * z)[:, c].mean()) + 0.5 * (m * m + s * s - 1) - math.log(s)
        for c, (m, s) in enumerate(classes)
    ) / 3
    assert float(bound) == pytest.approx(expected, abs=0.01)


# --- figures


def test_the_figures_show_the_given_recipes() -> None:
    table = recipe_tables.load_recipes()
    names = [V5_5, REPAIRED, BEYOND]
    measures = ["informative_coverage", "neg_elbo", "reconstruction_test"]
    drawing = figures.recipe_comparison(table, names, measures)
    assert len(drawing.figure.axes) == 3
    assert all(RECIPES[name].title in drawing.alt for name in names)
    assert set(drawing.data["recipe"]) == set(names)
    hand = comparisons.rows_by_hand(2**14)
    drawn = figures.coverage_front(pd.concat([table, hand]), ideal_front([1.0, 4.0]), [V5_5, BEYOND])
    assert len(drawn.figure.axes) == 4
    assert set(drawn.data["recipe"]) == {V5_5, BEYOND, SHARPENED, comparisons.BY_HAND}
    assert "weights set by hand" in drawn.alt
    forest = figures.changes(comparisons.recipe_differences(table, DEFECTS, V5_5))
    assert len(forest.figure.axes) == len(comparisons.COMPARED)
    assert "raw gradient norms (B)" in forest.alt
    histories = {"v5.5": load_runs("v5_5").history, "beyond": load_runs("beyond").history}
    through = figures.recipes_by_epoch(histories)
    assert set(through.data["recipe"]) == set(histories)
    some = RunSet({42: load_runs("v5_5")[42]}).history
    assert "λ₃" in figures.statenet_decisions(some, some).alt
    assert "56 trials" in figures.search_trials(recipe_tables.load_search(), ideal_front([1.0])).alt

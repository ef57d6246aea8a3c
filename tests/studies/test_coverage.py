"""Tables and figures of notebook 05: laws of the metrics, and decisions without an effect."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from ternary_lab import RunError, evaluate, load_config, load_runs, space
from ternary_lab.backend.random_streams import Streams
from ternary_lab.metrics import baselines
from ternary_lab.metrics.coverage import drawn_operations, uniform_coverage
from ternary_lab.model import PATHWAYS, Architecture
from ternary_lab.studies.beyond_v55.tables import load_recipes
from ternary_lab.studies.coverage import figures, tables
from ternary_lab.studies.probes import all_probes
from ternary_lab.training.run_state import RunState

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def untrained() -> pd.DataFrame:
    return tables.initial_networks([42, 43])


@pytest.fixture(scope="module")
def rivals(untrained: pd.DataFrame) -> pd.DataFrame:
    return tables.rivals(load_recipes(), untrained, 32, 2**17)


def test_an_initial_network_has_the_weights_with_which_a_run_starts() -> None:
    config = load_config("v5_5")
    start = RunState.initial(config, 42).blocks
    network = baselines.untrained(42)
    named = network.core.architecture.named(network.core.blocks)
    assert {name: values.tolist() for name, values in Architecture(config.model).named(start).items()} == {
        name: values.tolist() for name, values in named.items()
    }


def test_expected_counts_of_an_initial_network_are_near_a_count_of_draws(untrained: pd.DataFrame) -> None:
    core = baselines.untrained(42).core
    for pathway in PATHWAYS:
        seen = drawn_operations(core, pathway, 50_000, "categorical", Streams([1], "evaluation", 0, device=core.device))
        row = untrained[(untrained["seed"] == 42) & (untrained["pathway"] == pathway)].iloc[0]
        # The standard deviation of such a count is below 0.3 points.
        assert 100 * float(seen.float().mean()) == pytest.approx(row["coverage_50000"], abs=1.0)


def test_counts_of_trained_runs_are_those_of_the_probes() -> None:
    runs = load_runs("v5_5")
    found = tables.trained_runs(runs, 100).set_index(["seed", "pathway"])
    probes = all_probes(runs).set_index(["seed", "epoch"])
    assert len(found) == 2 * len(runs)
    assert found.at[(43, "B"), "coverage_195000"] == probes.at[(43, 100), "coverage_195000_B"]
    assert found.at[(43, "B"), "reconstruction_test"] == probes.at[(43, 100), "own_test_B"]
    again = evaluate(runs[43].model(100), samples=1, latents=64).A
    # The same weights and operations, judged with other posterior samples.
    assert found.at[(43, "A"), "neg_elbo"] == pytest.approx(again.neg_elbo, abs=0.05)
    with pytest.raises(RunError, match="no probes of epoch 101"):
        tables.trained_runs(runs, 101)


def test_without_an_effect_of_training_a_change_is_decided_in_at_most_one_of_20_studies() -> None:
    rng, trials, seeds = np.random.default_rng(0), 400, 8
    columns = [*tables.COUNTED, "informative_coverage"]

    def state(start: np.ndarray) -> pd.DataFrame:
        values = start + rng.normal(size=start.shape)
        return pd.DataFrame(values, columns=columns).assign(
            seed=np.repeat(range(seeds), 2), pathway=np.tile(list(PATHWAYS), seeds)
        )

    wrong = {"primary": 0, "others": 0, "counts": 0}
    for _ in range(trials):
        start = rng.normal(90, 2, (2 * seeds, len(columns)))
        found = tables.changes_by_training(state(start), state(start))
        decided = found["decided"] != "not decided"
        primary = found["metric"] == "coverage_50000"
        wrong["primary"] += decided[primary].any()
        wrong["others"] += decided[~primary].any()
        wrong["counts"] += tables.change_of_counts(found) != "not decided"
    assert max(wrong.values()) / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


def test_a_fall_of_the_count_is_decided_as_lower() -> None:
    runs = load_runs("v5_5")
    after = tables.trained_runs(runs, 100)
    before = after.assign(coverage_50000=after["coverage_50000"] + 5)
    found = tables.changes_by_training(before, after)
    changed = found[found["metric"] == "coverage_50000"]
    assert set(changed["decided"]) == {"lower"}
    assert changed["mean"].to_numpy() == pytest.approx([-5, -5])
    assert tables.change_of_counts(found) == "not decided"  # only one of the two counts falls
    before["coverage_195000"] += 5
    assert tables.change_of_counts(tables.changes_by_training(before, after)) == "lower"
    assert tables.change_of_counts(tables.changes_by_training(after, before)) == "higher"


def test_each_game_wins_its_metric_and_loses_another(rivals: pd.DataFrame) -> None:
    middle = rivals.groupby(["model", "pathway"])[list(tables.BEST)].median()
    a, single = middle.xs("A", level="pathway"), middle.xs(tables.NO_PATHWAY, level="pathway")
    v55, loud = a.loc["v5.5"], a.loc["v5.5, logits × 32"]
    noise, maps = single.loc["uniform noise"], single.loc[tables.RANDOM]
    assert noise["coverage"] == pytest.approx(uniform_coverage(195_000))
    assert noise["neg_elbo"] < v55["neg_elbo"]
    assert maps["effective_coverage"] > 10 > maps["reconstruction_test"]
    assert maps["informative_coverage"] > v55["informative_coverage"]
    assert loud["informative_coverage"] > 3 * v55["informative_coverage"]
    assert loud["neg_elbo"] > 3 * v55["neg_elbo"]


def test_a_random_map_has_the_scores_of_its_whole_model(rivals: pd.DataFrame) -> None:
    rows = rivals[rivals["model"] == tables.RANDOM].set_index("seed")
    assert list(rows.index) == list(tables.MAPS)
    whole = evaluate(baselines.random_map(0), latents=2**17, iwae_samples=1).A
    # The latents are not the same: the two estimates differ by about 0.4 %.
    assert rows.at[0, "informative_coverage"] == pytest.approx(whole.informative_coverage, rel=0.02)
    assert rows.at[0, "effective_coverage"] == pytest.approx(whole.effective_coverage, rel=0.02)
    assert rows["informative_coverage"].nunique() == len(rows)


def test_the_error_of_a_count_is_an_upper_bound_near_the_spread_of_many_counts() -> None:
    rng, draws = np.random.default_rng(0), 50_000
    for weights in (np.ones(space.SIZE), np.arange(1.0, space.SIZE + 1), np.logspace(-4, 0, space.SIZE)):
        p = weights / weights.sum()
        counts = 100 * (rng.multinomial(draws, p, size=300) > 0).mean(1)
        bound = tables.count_error(float(counts.mean()))
        assert counts.std(ddof=1) <= 1.15 * bound
        assert counts.std(ddof=1) > bound / 3


def test_medians_by_epoch_end_with_the_mean_over_a_cycle() -> None:
    values = {"seed": np.repeat([1, 2, 3], 104), "epoch": np.tile(np.arange(104), 3)}
    history = pd.DataFrame(values).assign(coverage_A=lambda t: t["epoch"] * 1.0, coverage_B=lambda t: t["seed"] * 10.0)
    found = tables.by_epoch(history, [0, 50, 200], {"coverage": ".1f"})
    assert found["epoch"].tolist() == ["0", "50", "mean 74-103"]
    assert found["pathway A"].tolist() == ["0.0", "50.0", "88.5"]
    assert found["pathway B"].tolist() == ["20.0 [10.0, 30.0]"] * 3
    short = tables.by_epoch(history[history["epoch"] < 20], [0], {"coverage": ".1f"})
    assert short["epoch"].tolist() == ["0"]
    assert tables.measured_epochs(pd.DataFrame({"epoch": [103.0, 100.0, 103.0]})) == "100 or 103"


def test_a_scale_of_coverages_separates_values_near_100_percent() -> None:
    axis = Figure().subplots()
    figures.coverage_scale(axis)
    to, back = axis.transScale, axis.transScale.inverted()
    at = {c: to.transform((0, c))[1] for c in (0.0, 90.0, 99.0, 99.9)}
    assert at[99.9] - at[99.0] > 0.8 * (at[99.0] - at[90.0])
    assert [back.transform((0, y))[1] for y in at.values()] == pytest.approx(list(at))


def test_the_parts_of_the_bound_add_up_and_no_gap_is_negative(rivals: pd.DataFrame) -> None:
    parts = tables.bound_parts(rivals)
    assert parts[["ln_size", "excess", "gap"]].sum(axis=1).to_numpy() == pytest.approx(parts["neg_elbo"])
    assert parts["ln_size"].to_numpy() == pytest.approx(math.log(space.SIZE))
    assert (parts["gap"] > -0.05).all()
    assert parts[parts["model"] == "uniform noise"]["gap"].to_numpy() == pytest.approx([0])
    recipes = load_recipes().query("recipe == 'beyond'").groupby("pathway")[["neg_elbo", "neg_log_p"]].mean()
    beyond = parts[parts["model"] == "beyond"].set_index("pathway")
    assert beyond["gap"].to_numpy() == pytest.approx((recipes["neg_elbo"] - recipes["neg_log_p"]).to_numpy())
    assert "random sharp map" not in set(parts["model"])


def test_more_latents_and_the_correction_bring_estimates_nearer_to_the_value_from_many_latents() -> None:
    model = load_runs("v5_5")[43].model(100)
    found = tables.coverages_by_latents(model, (2**13, 2**16)).set_index(["latents", "pathway", "seed"])
    assert len(found) == 8
    best = tables.coverages_by_latents(model, [2**18], [2]).set_index("pathway")
    for pathway in PATHWAYS:
        aim = best.at[pathway, "informative_coverage"]
        few, many = (found.xs((count, pathway)) for count in (2**13, 2**16))
        assert (few["informative_coverage_raw"] < few["informative_coverage"]).all()
        assert (abs(few["informative_coverage"] - aim) < abs(few["informative_coverage_raw"] - aim)).all()
        assert (abs(many["informative_coverage"] - aim) < abs(few["informative_coverage"] - aim)).all()
        assert few["informative_coverage"].nunique() == 2
    whole = evaluate(model, latents=2**13, iwae_samples=1, seed=0)
    assert whole.A.effective_coverage == pytest.approx(found.at[(2**13, "A", 0), "effective_coverage"], rel=0.05)


def test_medians_of_pathways_are_texts() -> None:
    table = pd.DataFrame({
        "model": ["x"] * 4 + ["y"], "pathway": [*"AABB", "A"], "value": [1.0, 3.0, 5.0, 5.0, math.inf],
    })
    found = tables.medians_of_pathways(table, {"value": ".1f"})
    assert found["value"].to_dict() == {"x": "2.0 / 5.0", "y": "–"}


def test_figures_have_alternative_text_and_data(untrained: pd.DataFrame, rivals: pd.DataFrame) -> None:
    runs = load_runs("v5_5")
    uniform = baselines.uniform(space.SIZE)
    tilted = torch.arange(1.0, space.SIZE + 1, dtype=torch.float64)
    outputs = {"flat, A": uniform, "tilted, B": tilted / tilted.sum()}
    entropies = tables.entropies_by_epoch(runs[42], [49, 50])
    drawings = {
        "change": figures.before_and_after(untrained, tables.trained_runs(runs, 100), 100),
        "curves": figures.coverage_curves(outputs), "counts": figures.coverage_counts(all_probes(runs)),
        "learnt": figures.measures_by_epoch(runs.history), "entropies": figures.output_entropies(entropies),
        "rivals": figures.rival_scores(rivals, tables.BEST),
    }
    panel = drawings["rivals"].figure.axes[list(tables.BEST).index("missing_mass")]
    assert [text.get_text() for text in panel.texts] == ["not estimable"]
    for name, drawing in drawings.items():
        assert isinstance(drawing.figure, Figure), name
        assert len(drawing.data) > 0, name
        assert "nan" not in drawing.alt.split(), name
    curve = drawings["curves"].data
    assert curve["flat, A"].to_numpy() == pytest.approx(curve["uniform"].to_numpy())
    assert (curve["tilted, B"] <= curve["uniform"] + 1e-9).all()
    shown = tables.coverage_by_draws(outputs, [1000])
    assert shown.loc["flat, A"].to_numpy() == pytest.approx(shown.loc["uniform noise"].to_numpy())
    before, after = (entropies[entropies["epoch"] == e].set_index("pathway").loc["B"] for e in (49, 50))
    assert before["decoder_noise"] > before["output_entropy"] / 2 > after["decoder_noise"]

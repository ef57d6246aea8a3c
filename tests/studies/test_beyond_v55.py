"""Recipes: the table and its arithmetic, the shipped configurations, the ideal front, the figures."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from small import SMALL

from ternary_lab import ConfigError, RunError, evaluate, load_config, load_runs, space
from ternary_lab.backend.random_streams import stream
from ternary_lab.config import differences
from ternary_lab.config_files import shipped_configs
from ternary_lab.metrics.baselines import scaled
from ternary_lab.metrics.sobol import sobol_normal
from ternary_lab.model import PATHWAYS, Architecture
from ternary_lab.runs.load import RunSet
from ternary_lab.runs.train import run_experiment
from ternary_lab.studies.beyond_v55 import figures
from ternary_lab.studies.beyond_v55 import ideal_front as per_entry
from ternary_lab.studies.beyond_v55 import tables as recipe_tables
from ternary_lab.studies.beyond_v55.ideal_front import ideal_front
from ternary_lab.studies.beyond_v55.tables import BEYOND, MEASURES, RECIPES, REPAIRED, SHARPENED, V5_5
from ternary_lab.studies.statistics import interval

pytestmark = pytest.mark.usefixtures("one_thread")


# --- what is shipped


def test_every_recipe_is_shipped_and_what_is_shipped_is_a_recipe() -> None:
    for name in RECIPES:
        load_config(name)
    shipped = [f"{folder}/{path.stem}" for folder in ("ablations", "variants") for path in shipped_configs(folder)]
    assert set(shipped) <= set(RECIPES)
    assert {name for name in RECIPES if "/" in name} <= set(shipped)


ABOUT = {"name", "training.total_epochs", "early_stopping.patience", "checkpoints.every", "checkpoints.windows",
         "evaluation.latents", "evaluation.coverage_samples", "evaluation.coverage_at"}
"""Settings that say how long and how closely a run is watched, not how it is trained."""


def test_a_defect_is_one_setting_and_all_repaired_is_all_of_them() -> None:
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


def test_what_is_no_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        recipe_tables.write_recipes(["nonsense"], [1], tmp_path, tmp_path / "table.csv")
    with pytest.raises(RunError, match="ternary-lab recipes"):
        recipe_tables.load_recipes(tmp_path / "none.csv")


def test_the_end_is_the_last_epoch_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(SMALL.as_dict(), {"training.total_epochs": 5, "checkpoints.every": 2})
    run = run_experiment(config, [1], tmp_path, device="cpu")[1]
    assert recipe_tables.end(run).epoch == 4
    monkeypatch.setattr(recipe_tables, "END", 3)
    assert recipe_tables.end(run).epoch == 2
    for path in (run.path / "checkpoints").glob("epoch_*"):
        path.unlink()
    with pytest.raises(RunError):
        recipe_tables.end(run)


def test_sharpening_multiplies_the_logits_and_nothing_else() -> None:
    model = load_runs("v5_5")[42].model(100)
    sharp = scaled(model, 4)
    z = torch.randn(20, 16, generator=torch.Generator().manual_seed(1))
    for p in PATHWAYS:
        assert sharp.decode(z, p).allclose(4 * model.decode(z, p), rtol=1e-4, atol=1e-4)
    assert sharp.core.blocks.encoders.equal(model.core.blocks.encoders)
    assert model.decode(z, "B").allclose(load_runs("v5_5")[42].model(100).decode(z, "B"))  # its own are as they were


def test_both_pathways_at_random_are_one_generator() -> None:
    """Against the whole table p(x|z) of every latent of both."""
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
    assert recipe_tables.of_both(found) == pytest.approx(100 * math.exp(float(information)) / space.SIZE, rel=1e-3)


def test_an_effective_coverage_by_too_few_latents_is_not_shown() -> None:
    columns = [f"{kind}_coverage_{p}" for kind in ("effective", "info") for p in PATHWAYS]
    few, enough = (recipe_tables.load_histories(name)[columns].notna().all() for name in (REPAIRED, BEYOND))
    assert few.to_list() == [False, False, True, True]
    assert enough.all()


def test_steadiness() -> None:
    history = pd.DataFrame({"epoch": range(40), "train_loss": [100.0, 1.0, 50.0] + [5.0] * 37, "neg_elbo_A": 14.0})
    history.loc[25, "train_loss"] = 8.0
    history.loc[history["epoch"] % 2 == 1, "neg_elbo_A"] = 14.5
    found = recipe_tables.steadiness(history, "A")
    assert found["spike"] == 3.0  # that of epoch 2 is of a loss that is still falling
    assert found["wobble"] == pytest.approx(0.5)


def test_effects_are_paired_by_seed() -> None:
    rows = [
        {"recipe": recipe, "seed": seed, "pathway": p, "neg_elbo": 10.0 * seed + (shift if seed < 3 else 2 * shift)}
        for recipe, shift in ((V5_5, 0.0), (BEYOND, 1.0)) for seed in (1, 2, 3) for p in PATHWAYS
    ]
    rows.append({"recipe": BEYOND, "seed": 4, "pathway": "A", "neg_elbo": 0.0})  # has nobody to be compared with
    found = recipe_tables.effects(pd.DataFrame(rows), [BEYOND], V5_5, ["neg_elbo"])
    expected = interval([1.0, 1.0, 2.0])
    for _, row in found.iterrows():
        assert (row["n"], row["mean"], row["low"]) == (3, pytest.approx(expected.mean), pytest.approx(expected.low))


def _differences() -> pd.DataFrame:
    rows = [
        ("a", "A", "neg_elbo", -1.0, -2.0, -0.5), ("a", "B", "neg_elbo", 1.0, 0.5, 2.0),
        ("b", "A", "neg_elbo", 0.1, -1.0, 1.0), ("b", "B", "neg_elbo", 0.1, -1.0, 1.0),
        ("a", "A", "informative_coverage", 3.0, 1.0, 5.0),
    ]
    return pd.DataFrame(rows, columns=["title", "pathway", "measure", "mean", "low", "high"])


def test_what_is_sure_is_said_with_its_side() -> None:
    bound, coverage = recipe_tables.sure(_differences()).splitlines()
    assert bound == "- **-ELBO, test, nats**: better: a (A); worse: a (B)."
    assert coverage == "- **informative coverage, %**: better: a (A); worse: none."
    assert set(recipe_tables.BETTER) == set(MEASURES)


def test_differences_are_listed_by_measure_and_in_their_order() -> None:
    text = recipe_tables.listed(_differences()[:4])
    assert text.startswith("-ELBO, test, nats\n")
    first, second = text.splitlines()[-2:]
    assert first.split() == ["a", "-1", "[-2,", "-0.5]", "+1", "[+0.5,", "+2]"]
    assert second.startswith("b")


def test_a_goal_is_reached_by_both_pathways_or_not() -> None:
    index = pd.MultiIndex.from_product([[V5_5, BEYOND], PATHWAYS])
    values = {"neg_elbo": [14.0, 13.0, 13.5, 13.0], "effective_coverage": [98.0, 99.0, 97.0, 99.0]}
    medians = pd.DataFrame(values, index)
    found = recipe_tables.standing(medians, {"neg_elbo": (13.5, "≤"), "effective_coverage": (98, "≥")}, [V5_5, BEYOND])
    assert found["beyond"].tolist() == ["13.5 / 13 ✓", "97 / 99"]
    assert found["v5.5"].tolist() == ["14 / 13", "98 / 99 ✓"]


def test_rows_are_picked_in_the_order_asked_for() -> None:
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
    # Sharpened by 1 it is v5.5 itself.
    both = table[(table["factor"] == 1) & table["recipe"].isin([V5_5, SHARPENED])].set_index(["seed", "pathway"])
    same = both.loc[both["recipe"] == SHARPENED, "neg_elbo"]
    assert same.to_dict() == pytest.approx(both.loc[both["recipe"] == V5_5, "neg_elbo"][same.index].to_dict(), rel=1e-4)


# --- the ideal front


def test_the_ideal_front_is_a_front() -> None:
    """Convex: the weight is the slope, d(-ELBO)/dI, between a point and the next."""
    weights = [0.5, 1.0, 2.0, 4.0, 8.0]
    front = ideal_front(weights)
    information = front["informative_coverage"].map(math.log)
    slopes = (front["neg_elbo"].diff() / information.diff()).iloc[1:]
    for low, slope, high in zip(weights, slopes, weights[1:], strict=False):
        assert low < slope < high
    assert (front["decoder_noise"].diff().dropna() < 0).all()


def test_an_entrys_sums_are_its_averages_over_draws() -> None:
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


def test_the_figures_show_what_they_are_given() -> None:
    table = recipe_tables.load_recipes()
    names = [V5_5, REPAIRED, BEYOND]
    measures = ["informative_coverage", "neg_elbo", "reconstruction_test"]
    drawing = figures.recipe_comparison(table, names, measures)
    assert len(drawing.figure.axes) == 3
    assert all(RECIPES[name].title in drawing.alt for name in names)
    assert set(drawing.data["recipe"]) == set(names)
    drawn = figures.coverage_front(table, ideal_front([1.0, 4.0]), [V5_5, BEYOND])
    assert len(drawn.figure.axes) == 4
    assert set(drawn.data["recipe"]) == {V5_5, BEYOND, SHARPENED}
    histories = {"v5.5": load_runs("v5_5").history, "beyond": load_runs("beyond").history}
    sharp = table[table["recipe"] == SHARPENED]
    through = figures.recipes_by_epoch(histories, sharp)
    assert set(through.data["recipe"]) == set(histories)
    some = RunSet({42: load_runs("v5_5")[42]}).history
    assert "λ₃" in figures.statenet_decisions(some, some).alt

"""The published table of main effects against the published weights, and what follows from the table."""

from __future__ import annotations

import io
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from ternary_lab import RunError, load_run, load_runs, space
from ternary_lab.metrics.baselines import untrained
from ternary_lab.metrics.entry_effects import entry_effects
from ternary_lab.studies.epoch50_disruption import animation, effects, figures, words
from ternary_lab.studies.generalisation.arithmetic import edit_vectors

TABLE = effects.published_effects()
RUNS = load_runs("v5_5")
QUANTITIES = ["explained", effects.COSINE, "shortest", "longest", "ratio", "own", "fitted"]


def _published(model: str, seed: int, epoch: int) -> pd.DataFrame:
    rows = TABLE[(TABLE["model"] == model) & (TABLE["seed"] == seed) & (TABLE["epoch"] == epoch)]
    return rows.set_index("pathway")[QUANTITIES]


@pytest.mark.parametrize(("model", "seed", "epoch"), [
    (effects.UNTRAINED, 42, -1), (effects.UNTRAINED, 49, -1), ("v5_5", 42, 0), ("v5_5", 42, 49), ("v5_5", 42, 50),
    ("v5_5", 43, 100), ("v5_5", 44, 60), ("v5_5", 45, 80), ("beyond", 42, 70),
])
def test_the_published_rows_are_those_of_the_published_weights(model: str, seed: int, epoch: int) -> None:
    network = untrained(seed) if model == effects.UNTRAINED else load_run(f"{model}/seed={seed}").model(epoch)
    found = pd.DataFrame(effects.model_effects(network)).set_index("pathway")
    # Another processor rounds differently, so argmax can decode a few operations differently.
    pd.testing.assert_frame_equal(found[QUANTITIES], _published(model, seed, epoch), rtol=1e-3, atol=0.02)


def test_the_table_has_every_seed_at_every_epoch_and_the_untrained_networks_of_the_same_seeds() -> None:
    v5_5 = TABLE[TABLE["model"] == "v5_5"]
    assert set(v5_5["seed"]) == set(RUNS) == set(TABLE.loc[TABLE["model"] == effects.UNTRAINED, "seed"])
    assert {0, effects.BEFORE, effects.AFTER, 100} <= set(v5_5["epoch"])
    for _, rows in v5_5.groupby(["seed", "pathway"]):
        assert rows["epoch"].tolist() == sorted(set(v5_5["epoch"]))
    np.testing.assert_allclose(TABLE["ratio"], TABLE["longest"] / TABLE["shortest"], rtol=1e-5)


def test_published_runs_are_described_by_the_table_and_other_runs_by_their_weights() -> None:
    table = effects.load_effects(RUNS)
    assert set(table["model"]) == {"v5_5", effects.UNTRAINED}
    assert len(table) == (TABLE["model"].isin(("v5_5", effects.UNTRAINED))).sum()


def test_runs_of_ones_own_are_measured_at_each_kept_epoch(tmp_path: Path) -> None:
    shutil.copytree(RUNS[43].path, tmp_path / "v5_5" / "seed=43")
    table = effects.load_effects(load_runs(tmp_path / "v5_5"))
    assert table["epoch"].tolist() == [-1, -1, *(epoch for epoch in RUNS[43].epochs for _ in "AB")]
    for (model, epoch), rows in table.groupby(["model", "epoch"]):
        its = rows.set_index("pathway")[QUANTITIES]
        pd.testing.assert_frame_equal(its, _published(model, 43, epoch), rtol=1e-3, atol=0.02)


def test_the_effects_are_the_mean_displacements_of_notebook_07() -> None:
    model = RUNS[42].model(50)
    found = entry_effects(model.encode(space.operations(), "B").mean).effects
    vectors = edit_vectors(model, "B", torch.arange(space.SIZE))
    torch.testing.assert_close(found.unsqueeze(1) - found.unsqueeze(2), vectors, atol=1e-4, rtol=1e-4)


# The change at epoch 50


def test_factors_are_geometric_means_within_seeds() -> None:
    rows = TABLE[(TABLE["model"] == "v5_5") & TABLE["epoch"].isin((49, 50)) & (TABLE["pathway"] == "B")]
    wide = rows.pivot(index="seed", columns="epoch", values=effects.COSINE)
    found = effects.factors(rows, "epoch", 49).set_index("metric").loc[effects.COSINE]
    assert float(found["mean"]) == pytest.approx(float(np.prod(wide[50] / wide[49]) ** (1 / len(wide))))
    assert float(found["low"]) < float(found["mean"]) < float(found["high"])
    assert float(found["low"]) * float(found["high"]) == pytest.approx(float(found["mean"]) ** 2)
    assert found["comparisons"] == 1


def test_the_finding_holds_also_without_the_seed_in_which_it_was_first_seen() -> None:
    rows = TABLE[(TABLE["model"] == "v5_5") & TABLE["epoch"].isin((49, 50))]
    for some in (rows, rows[rows["seed"] != 42]):
        found = effects.factors(some, "epoch", 49)
        assert set(found.loc[found["metric"] == effects.COSINE, "decided"]) == {"lower"}
    after = rows[rows["epoch"] == 50]
    assert after[effects.COSINE].max() < 0.15
    assert after["ratio"].max() < 1.2


def test_the_sentences_have_the_numbers_of_the_table_and_name_missing_epochs() -> None:
    table = effects.load_effects(RUNS)
    first = table[(table["epoch"] == 0) & (table["pathway"] == "B")]["explained"]
    logits = np.log(first / (1 - first)).mean()
    assert f"{1 / (1 + np.exp(-logits)):.3f} [" in words.sum_of_effects(table)
    assert "8 seeds, 42 to 49" in words.sum_of_effects(table)
    assert words.orthogonal_steps(table).count("by a factor of 0.") == 2
    assert "no weights of the epochs 49 and 50" in words.orthogonal_steps(table[table["epoch"] != 49])


def test_the_comparison_without_beta_b_is_that_of_the_last_epochs() -> None:
    stays, scheduled = (
        TABLE[TABLE["model"] == name].pivot(index="seed", columns="pathway", values=effects.COSINE)
        for name in (effects.STAYS, effects.SCHEDULED)
    )
    assert set(stays.index) == set(scheduled.index) == set(RUNS)
    text = words.steps_without_weight()
    for p in "AB":
        assert f"{np.exp(np.log(stays[p] / scheduled[p]).mean()):.2f} [" in text
    assert "at epoch 103" in text


def test_the_networks_of_the_notebook_are_those_told_and_the_last_of_other_experiments() -> None:
    networks = effects.named_networks(effects.load_effects(RUNS))
    assert list(dict.fromkeys(networks["network"]))[:4] == [effects.UNTRAINED, "epoch 0", "epoch 49", "epoch 50"]
    for model, name in effects.OTHER_NETWORKS.items():
        its = networks[networks["model"] == model]
        assert set(its["epoch"]) == {TABLE.loc[TABLE["model"] == model, "epoch"].max()}
        assert its["network"].str.contains(name, regex=False).all()
        assert (its["seed"].nunique() == 8) == (not its["network"].str.contains("seed").any())


def test_the_figure_shows_the_table_and_says_what_it_shows() -> None:
    table = effects.load_effects(RUNS)
    drawing = figures.entry_steps(table)
    assert drawing.seeds == sorted(RUNS)
    assert len(drawing.figure.axes) == 3
    median = table[(table["epoch"] == 50) & (table["model"] == "v5_5")].groupby("pathway")[effects.COSINE].median()
    assert f"{median['A']:.2f} / {median['B']:.2f} at epoch 50" in drawing.alt
    course, untrained_line = drawing.figure.axes[1].lines[:2]
    assert np.interp(50, *np.asarray(course.get_data())) == pytest.approx(median["A"])
    start = table[(table["model"] == effects.UNTRAINED) & (table["pathway"] == "A")][effects.COSINE].median()
    assert set(untrained_line.get_ydata()) == {start}


# The animation


def test_the_plane_is_orthonormal_and_keeps_angles() -> None:
    draw = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 16, generator=draw).unbind()
    first, second = first / first.norm(), second / second.norm()
    plane = animation.plane_of(first, second)
    torch.testing.assert_close(plane @ plane.T, torch.eye(2))
    seen = torch.stack((first, second)) @ plane.T
    torch.testing.assert_close(seen @ seen.T, torch.stack((first, second)) @ torch.stack((first, second)).T)
    torch.testing.assert_close(seen[0], seen[1].flip(0))
    orthogonal = torch.eye(16)[:2]
    torch.testing.assert_close(animation.plane_of(*orthogonal), orthogonal)


def test_points_and_arrows_are_between_two_epochs_and_the_title_is_that_of_the_nearer() -> None:
    draw = torch.Generator().manual_seed(0)
    moments = {epoch: animation.moment(torch.randn(space.SIZE, 4, generator=draw), (0, 1)) for epoch in (49, 50)}
    axes = Figure().subplots(1, 2)
    panels = animation._Panels(*axes, "B", (0, 1), moments)
    panels.draw(49, 50, 0.75)
    points = 0.25 * moments[49].points + 0.75 * moments[50].points
    np.testing.assert_allclose(panels.dots.get_offsets(), points[panels.chosen], atol=1e-5)
    steps = 0.25 * moments[49].steps + 0.75 * moments[50].steps
    np.testing.assert_allclose(panels.arrows.U, steps[:, 0], atol=1e-5)
    assert axes[0].get_title(loc="left").startswith("B, epoch 50") or axes[0].get_title().startswith("B, epoch 50")


def test_the_animation_moves_from_epoch_to_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(animation, "BETWEEN", 2)
    moving = animation.animate_steps(RUNS[42], 49, 51)
    picture = Image.open(io.BytesIO(moving.gif))
    assert picture.n_frames == 2 * 2 + 1
    frames = []
    for i in range(picture.n_frames):
        picture.seek(i)
        frames.append((picture.convert("RGB").tobytes(), picture.info["duration"]))
    assert [duration for _, duration in frames] == [
        animation.STILL, animation.FRAME, animation.STILL, animation.FRAME, animation.STILL,
    ]
    assert all(one != other for (one, _), (other, _) in pairwise(frames))
    assert f"{_published('v5_5', 42, 49).at['B', effects.COSINE]:.2f} in the first epoch" in moving.alt
    assert moving.seeds == [42]


def test_an_animation_needs_two_epochs() -> None:
    with pytest.raises(RunError, match="fewer than two epochs from 48 to 49"):
        animation.animate_steps(RUNS[43], 48, 49)

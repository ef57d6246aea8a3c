"""Counterfactuals: their files, their training side by side and their comparison seed by seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from scipy import stats
from small import SMALL

from ternary_lab import ConfigError, RunError, branch, load_config, load_counterfactual, load_runs, run_experiment
from ternary_lab.cli import main
from ternary_lab.config_files import Counterfactual, shipped_counterfactuals
from ternary_lab.history import TIMING_COLUMNS
from ternary_lab.runs.train import train_counterfactuals
from ternary_lab.studies.epoch50_disruption import figures
from ternary_lab.studies.epoch50_disruption.tables import (
    CONTROL,
    ORDER,
    OUTCOMES,
    TERMS,
    final_outcomes,
    largest_rise,
    load_branches,
    median_terms,
    outcomes,
)
from ternary_lab.studies.probes import all_probes
from ternary_lab.studies.statistics import paired_differences

CHANGES = [
    Counterfactual(name="same", title="same", after=0, set={}),
    Counterfactual(name="no_floor", title="no floor", after=0, set={"kl.free_bits": 0.0}),
    Counterfactual(name="new", title="new", set={"optimiser.lr_steps": {0: 0.002}}),
]


def _comparable(history: pd.DataFrame) -> pd.DataFrame:
    return history.drop(columns=["run", *TIMING_COLUMNS]).reset_index(drop=True)


# As data


def test_the_shipped_counterfactuals_change_v5_5() -> None:
    shipped = shipped_counterfactuals()
    assert {c.name for c in shipped} == set(ORDER)
    base = load_config("v5_5")
    for c in shipped:
        changed = load_config(base.as_dict(), c.set)
        assert changed.training.total_epochs == 104
        assert changed.model == base.model
        assert c.after in (None, 39, 49)


def test_the_changes_of_each_counterfactual_at_epoch_50() -> None:
    base = load_config("v5_5")
    betas = {c.name: load_config(base.as_dict(), c.set) for c in shipped_counterfactuals()}
    beta_b = {name: [config.betas(e)[1] for e in (39, 40, 49, 50, 60, 70)] for name, config in betas.items()}
    assert beta_b["as_scheduled"] == beta_b["lr_stays"] == [base.betas(e)[1] for e in (39, 40, 49, 50, 60, 70)]
    assert beta_b["beta_b_stays_0"] == beta_b["nothing_at_50"] == [0] * 6
    assert beta_b["beta_b_rises"][3] == 0
    assert beta_b["beta_b_rises"][4] == pytest.approx(base.betas(60)[1] / 2)
    assert beta_b["beta_b_rises"][5] == base.betas(70)[1]
    assert beta_b["beta_b_jumps_to_half"] == [0, 0, 0, 0.5, 0.5, 0.5]
    assert beta_b["jump_at_40"][0] == 0 < beta_b["jump_at_40"][1]
    assert beta_b["beta_b_warms_up"] == pytest.approx([0.39, 0.4, 0.49, 0.5, 0.5, 0.5])
    assert betas["lr_stays"].lr(60) == betas["nothing_at_50"].lr(60) == 1e-3
    assert betas["free_bits_off"].kl.free_bits == 0


@pytest.mark.parametrize(("text", "part"), [
    ("title: x\n", "set"), ("set: {}\n", "title"), ("title: x\nset: {}\nbefore: 3\n", "before"),
    ("title: x\nset: {}\nafter: -1\n", "after"), ("- x\n", "must be a mapping"), ("title: [\n", "not YAML"),
])
def test_an_invalid_file_is_named(text: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"wrong\.yaml.*{part}"):
        load_counterfactual(tmp_path / "wrong.yaml")


# Trained


def test_counterfactuals_train_side_by_side_as_they_do_alone(tmp_path: Path) -> None:
    runs = run_experiment(SMALL, [1, 2], tmp_path / "runs", device="cpu")
    trained = train_counterfactuals(list(runs.values()), CHANGES, tmp_path / "what-if", device="cpu")
    assert list(trained) == ["same", "no_floor", "new"]
    for seed, run in runs.items():
        same = _comparable(trained["same"][seed].history)
        pd.testing.assert_frame_equal(same, _comparable(run.history.iloc[1:]), rtol=1e-5)
        alone = branch(run, 0, {"kl.free_bits": 0.0}, run_dir=tmp_path / f"alone{seed}", device="cpu")
        pd.testing.assert_frame_equal(
            _comparable(trained["no_floor"][seed].history), _comparable(alone.history), rtol=1e-4
        )
        assert list(trained["new"][seed].history["epoch"]) == [0, 1, 2]
    found = load_runs(tmp_path / "what-if" / "no_floor")
    assert set(found) == {1, 2}
    assert set(found.history["run"]) == {"no_floor/seed=1", "no_floor/seed=2"}


def test_counterfactuals_that_cannot_be_trained_are_refused(tmp_path: Path) -> None:
    runs = list(run_experiment(SMALL, [1], tmp_path / "runs", device="cpu").values())
    for counterfactuals, error, part in (
        ([], ConfigError, "none given"), ([CHANGES[0], CHANGES[0]], ConfigError, "two have the name same"),
        ([CHANGES[0].model_copy(update={"after": 1})], RunError, "no checkpoint epoch_0001"),
    ):
        with pytest.raises(error, match=part):
            train_counterfactuals(runs, counterfactuals, tmp_path / "what-if", device="cpu")
    assert not (tmp_path / "what-if").exists()


def test_the_command_trains_a_file(tmp_path: Path) -> None:
    run_experiment(SMALL, [1, 2], tmp_path / "runs", device="cpu")
    (tmp_path / "off.yaml").write_text("title: without\nafter: 0\nset: {beta.B.mode: 'off'}\n")
    words = ["branch", str(tmp_path / "runs"), str(tmp_path / "off.yaml"), "--seeds", "2", "--run-dir",
             str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*words, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "without, 1 runs" in result.stdout
    assert (load_runs(tmp_path / "out" / "off").history["beta_B"] == 0).all()


# Compared


def _final() -> pd.DataFrame:
    rows = [
        {"name": name, "title": name, "seed": seed, "x": base + 10 * seed}
        for name, bases in {CONTROL: (1.0, 2.0, 3.0), "other": (2.0, 4.0, 3.5)}.items()
        for seed, base in enumerate(bases)
    ]
    return pd.DataFrame(rows)


def test_differences_are_paired_by_seed() -> None:
    (row,) = paired_differences(_final(), "name", CONTROL, ["x"]).itertuples()
    differences = np.array([1.0, 2.0, 0.5])
    low, high = stats.t.interval(0.95, 2, differences.mean(), stats.sem(differences))
    assert (row.n, row.mean, row.low, row.high) == pytest.approx((3, differences.mean(), low, high))


def test_a_seed_without_its_control_does_not_count() -> None:
    table = _final()
    rows = table[~((table["name"] == CONTROL) & (table["seed"] == 1))]
    (row,) = paired_differences(rows, "name", CONTROL, ["x"]).itertuples()
    assert (row.n, row.mean) == (2, 0.75)


def test_the_published_control_repeats_its_run() -> None:
    control = load_branches()[CONTROL].runs
    runs = load_runs("v5_5")
    assert len(control) == 4
    for seed, repeated in control.items():
        rows = runs[seed].history[runs[seed].history["epoch"].between(50, 103)]
        pd.testing.assert_frame_equal(_comparable(repeated.history), _comparable(rows), rtol=1e-4, atol=1e-4)


def test_the_published_counterfactuals_are_complete() -> None:
    branches = load_branches()
    assert list(branches) == list(ORDER)
    for branch_ in branches.values():
        assert len(branch_.runs) >= 4
        assert branch_.runs.history["epoch"].max() == 103
    final = final_outcomes(branches)
    assert set(OUTCOMES) <= set(final.columns)
    assert final.groupby("name").size().min() >= 4


def test_terms_of_the_loss_and_their_rise() -> None:
    history = load_runs("v5_5").history
    total = history[list(TERMS)].sum(axis=1)
    assert np.allclose(total, history["train_loss"], rtol=1e-4, atol=1e-4)
    rise = largest_rise(history, 50)
    assert rise.index[0] == "loss_kl_B"
    wide = history.pivot(index="seed", columns="epoch", values="loss_kl_B")
    assert rise.iloc[0] == pytest.approx((wide[50] - wide[49]).median())
    assert list(median_terms(history, 48, 52).index) == [48, 49, 50, 51, 52]
    assert list(outcomes(history).columns) == ["seed", "epoch", *OUTCOMES]


def test_a_folder_without_counterfactuals_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no counterfactual"):
        load_branches(tmp_path)


def test_figures_have_alternative_text_and_data() -> None:
    runs, branches = load_runs("v5_5"), load_branches()
    for drawing in (
        figures.spike_terms(runs.history), figures.codes_and_leak(all_probes(runs)),
        figures.outcome_trajectories(branches),
        figures.outcomes_at_end(branches),
    ):
        assert isinstance(drawing.figure, Figure)
        assert len(drawing.data) > 0
        assert "nan" not in drawing.alt.split()

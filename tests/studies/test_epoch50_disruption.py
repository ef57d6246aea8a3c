"""Counterfactuals: their files, their training side by side and their comparison seed by seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from small import SMALL

from ternary_lab import ConfigError, RunError, branch, load_config, load_counterfactual, load_runs, run_experiment
from ternary_lab.cli import main
from ternary_lab.config_files import Counterfactual, shipped_counterfactuals
from ternary_lab.history import TIMING_COLUMNS
from ternary_lab.runs.train import train_counterfactuals
from ternary_lab.studies.epoch50_disruption import figures, words
from ternary_lab.studies.epoch50_disruption.tables import (
    CONTROL,
    ORDER,
    OUTCOMES,
    PRIMARY,
    TERMS,
    Branch,
    compared_epochs,
    control_differences,
    decisions,
    final_outcomes,
    largest_rise,
    load_branches,
    means_by_title,
    median_terms,
    outcomes,
    spike_and_surge,
    term_rises,
)
from ternary_lab.studies.probes import all_probes


@pytest.fixture(scope="module")
def branches() -> dict[str, Branch]:
    return load_branches()


@pytest.fixture(scope="module")
def final(branches: dict[str, Branch]) -> pd.DataFrame:
    return final_outcomes(branches)


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
    whole = range(104)
    matched = betas["beta_b_warms_up_matched"]
    assert [matched.betas(e) for e in whole[50:]] == [base.betas(e) for e in whole[50:]]
    rises = np.diff([matched.betas(e)[1] for e in whole])
    assert 0 < rises.max() < 0.01 < base.betas(50)[1] - base.betas(49)[1]
    assert {betas["beta_a_from_start"].betas(e)[0] for e in whole} == {0.8}
    assert {betas["beta_at_start_values"].betas(e) for e in whole} == {(0.3, 0.0)}
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


def _branch(
    name: str, after: int | None, beta: Mapping[int, float], lr: Callable[[int], float],
    outcome: Callable[[int, float, float], float], first: int = 0, seeds: Sequence[int] = (1, 2),
) -> Branch:
    """A counterfactual whose outcome is a function of the epoch, the age and the learning; `beta` has steps of β_B."""
    rows = []
    for seed in seeds:
        age, learning = -1.0, 0.0
        for epoch in range(first, 104):
            beta_b = beta[max(start for start in beta if start <= epoch)]
            if beta_b:
                age, learning = age + 1, learning + lr(epoch)
            value = outcome(epoch, age, learning) + seed
            rows.append({
                "seed": seed, "epoch": epoch, "beta_B": beta_b, "lr_scheduled": lr(epoch),
                **{f"{metric}_{pathway}": value for metric in OUTCOMES for pathway in "AB"},
            })
    counterfactual = Counterfactual(name=name, title=name, after=after, set={})
    return Branch(counterfactual, cast(Any, SimpleNamespace(history=pd.DataFrame(rows))))


def _halved(epoch: int) -> float:
    return 0.002 if epoch < 50 else 0.001


def _set(outcome: Callable[[int, float, float], float]) -> dict[str, Branch]:
    return {
        CONTROL: _branch(CONTROL, 49, {0: 0.0, 50: 0.2}, _halved, outcome, 50),
        "earlier": _branch("earlier", 39, {0: 0.0, 40: 0.2}, _halved, outcome, 40),
        "faster": _branch("faster", 49, {0: 0.0, 50: 0.2}, lambda _: 0.002, outcome, 50),
        "later": _branch("later", 49, {0: 0.0, 60: 0.2}, _halved, outcome, 50),
        "never": _branch("never", 49, {0: 0.0}, lambda _: 0.002, outcome, 50),
        "from the start": _branch("from the start", None, {0: 0.0, 1: 0.2}, _halved, outcome),
    }


COMPARED = {
    "earlier": {"same epoch", "same age", "same learning"}, "faster": {"same epoch", "same learning"},
    "later": {"same epoch"}, "from the start": {"same epoch", "same age"},
}


@pytest.mark.parametrize(("comparison", "outcome"), [
    ("same epoch", lambda epoch, age, learning: epoch), ("same age", lambda epoch, age, learning: 3 * age),
    ("same learning", lambda epoch, age, learning: 1000 * learning),
])
def test_outcomes_of_one_clock_do_not_differ_at_the_same_time_of_that_clock(
    comparison: str, outcome: Callable[[int, float, float], float]
) -> None:
    """There is no comparison by age where β_B leaves 0 later, and none at all where it never does."""
    differences = control_differences(final_outcomes(_set(outcome)))
    rows = differences[differences["metric"] == PRIMARY]
    assert {name: set(its["comparison"]) for name, its in rows.groupby("name")} == COMPARED
    at = rows[rows["comparison"] == comparison]
    assert at["mean"].tolist() == pytest.approx([0] * len(at), abs=1e-9)
    assert (rows.loc[rows["comparison"] != comparison, "mean"].abs() > 0.1).any()


def test_compared_epochs_are_those_of_the_schedule(branches: dict[str, Branch]) -> None:
    found = {name: compared_epochs(branch, branches[CONTROL]) for name, branch in branches.items()}
    cycle = np.arange(74.0, 104)
    assert all(np.array_equal(its["same epoch"], cycle) for its in found.values())
    assert np.array_equal(found["jump_at_40"]["same age"], cycle - 10)
    assert np.allclose(found["jump_at_40"]["same learning"], cycle - 20)
    assert np.allclose(found["lr_stays"]["same learning"], 49 + (cycle - 49) / 2)
    assert np.array_equal(found["beta_b_warms_up"]["same age"], cycle - 49)
    assert {name for name, its in found.items() if len(its) == 1} >= {
        CONTROL, "beta_b_stays_0", "nothing_at_50", "beta_b_rises", "beta_b_jumps_to_half", "free_bits_off",
    }


def test_final_outcomes_are_means_over_a_cycle(branches: dict[str, Branch], final: pd.DataFrame) -> None:
    history = branches["jump_at_40"].runs[43].history
    table = final.set_index(["name", "comparison", "seed"])
    for comparison, first, last in (("same epoch", 74, 103), ("same age", 64, 93)):
        rows = history[history["epoch"].between(first, last)]
        row = table.loc[("jump_at_40", comparison, 43)]
        assert row["epochs"] == f"{first}-{last}"
        coverages = rows[["informative_coverage_A", "informative_coverage_B"]]
        assert row[PRIMARY] == pytest.approx(coverages.to_numpy().mean())


def _random_final(random: np.random.Generator, shift: float = 0.0, seeds: int = 8) -> pd.DataFrame:
    """A table of final outcomes without any effect, except `shift` standard deviations in one counterfactual.

    Outcomes of a seed have a common part, and the comparisons of one counterfactual have correlated outcomes.
    """
    common = random.normal(size=(seeds, len(OUTCOMES)))
    compared = {
        CONTROL: COMPARED["earlier"], "lr_stays": COMPARED["faster"], "jump_at_40": COMPARED["earlier"],
        "beta_b_stays_0": COMPARED["later"], "free_bits_off": COMPARED["later"],
    }
    rows = []
    for name, comparisons in compared.items():
        own = random.normal(size=(seeds, len(OUTCOMES))) + shift * (name == "free_bits_off")
        for comparison in sorted(comparisons):
            noise = 0.0 if name == CONTROL else 0.5 * random.normal(size=own.shape)
            values = dict(zip(OUTCOMES, (2 * common + own + noise).T, strict=True))
            beta = 0.3 * (name != "beta_b_stays_0")
            rows.append(pd.DataFrame({
                "name": name, "title": name, "comparison": comparison, "beta_B": beta, "seed": range(seeds), **values,
            }))
    return pd.concat(rows, ignore_index=True)


def test_under_no_effect_a_family_decides_something_in_at_most_5_percent_of_experiments() -> None:
    random, n = np.random.default_rng(0), 200
    wrong = {"primary": 0, "secondary": 0, "decisions": 0}
    for _ in range(n):
        found = control_differences(_random_final(random))
        decided = found["decided"] != "not decided"
        wrong["primary"] += bool(decided[found["metric"] == PRIMARY].any())
        wrong["secondary"] += bool(decided[found["metric"] != PRIMARY].any())
        wrong["decisions"] += bool((decisions(found) != "not decided").any())
    assert max(wrong.values()) / n <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / n), wrong
    assert wrong["primary"] > 0  # the intervals are not so wide that nothing is ever decided


def test_a_large_effect_is_decided() -> None:
    found = decisions(control_differences(_random_final(np.random.default_rng(1), shift=10)))
    assert found["free_bits_off"] == "higher"
    assert (found.drop("free_bits_off") == "not decided").all()


def test_a_decision_needs_every_comparison() -> None:
    rows = pd.DataFrame({
        "name": ["a", "a", "b", "b", "c", "d"], "metric": [PRIMARY] * 5 + ["neg_elbo"],
        "decided": ["higher", "not decided", "lower", "lower", "higher", "higher"],
    })
    assert decisions(rows).to_dict() == {"a": "not decided", "b": "lower", "c": "higher"}


def test_the_intervals_of_the_published_differences_are_possible(final: pd.DataFrame) -> None:
    """An outcome in percent cannot fall by more than its value in the control."""
    control = final[(final["name"] == CONTROL) & (final["comparison"] == "same epoch")].mean(numeric_only=True)
    found = control_differences(final)
    for row in found[found["metric"] != "neg_elbo"].itertuples():
        assert -control[row.metric] <= row.low <= row.high <= 100 - control[row.metric], row


# In words


@pytest.mark.parametrize(("decided", "part"), [
    ("higher", "harmful"), ("lower", "useful"), ("not decided", "no benefit"),
])
def test_the_answer_follows_from_the_decision(
    decided: str, part: str, branches: dict[str, Branch], final: pd.DataFrame
) -> None:
    differences = control_differences(final)
    differences.loc[differences["name"] == "beta_b_rises", "decided"] = decided
    measured = spike_and_surge(load_runs("v5_5").history, branches)
    assert part in " ".join(words.answer(measured, final, differences))
    line = next(line for line in words.decided_names(differences).splitlines() if "rises over 20" in line)
    assert line.startswith(f"- {decided.capitalize()}")
    assert words.listed(differences, ["beta_b_rises"]).endswith(f"points, {decided}.")


def test_a_sentence_names_each_run_that_learns_faster() -> None:
    differences = control_differences(_random_final(np.random.default_rng(3)))
    said = words.learning_rate(differences)
    assert said.count("at the same learning") == 2
    assert "lr_stays" in said
    assert words.difference(differences, "lr_stays", "same learning") in said


def test_a_table_of_differences_has_a_row_per_comparison() -> None:
    differences = control_differences(_random_final(np.random.default_rng(2)))
    table = words.difference_table(differences)
    assert len(table) == (differences["metric"] == PRIMARY).sum()
    assert table["neg_elbo"].str.fullmatch(r"[-+\d.]+ \[[-+\d.]+, [-+\d.]+\]").all()
    assert "beta_b_stays_0" not in set(table["name"])


# Published


def test_the_published_control_repeats_its_run(branches: dict[str, Branch]) -> None:
    control = branches[CONTROL].runs
    runs = load_runs("v5_5")
    assert len(control) >= 4
    for seed, repeated in control.items():
        rows = runs[seed].history[runs[seed].history["epoch"].between(50, 103)]
        pd.testing.assert_frame_equal(_comparable(repeated.history), _comparable(rows), rtol=1e-4, atol=1e-4)


def test_the_published_counterfactuals_are_complete(branches: dict[str, Branch]) -> None:
    assert list(branches) == list(ORDER)
    seeds = set(branches[CONTROL].runs)
    for branch_ in branches.values():
        assert set(branch_.runs) == seeds
        assert branch_.runs.history["epoch"].max() == 103


def test_terms_of_the_loss_and_their_rise() -> None:
    history = load_runs("v5_5").history
    total = history[list(TERMS)].sum(axis=1)
    assert np.allclose(total, history["train_loss"], rtol=1e-4, atol=1e-4)
    rise = largest_rise(history, 50)
    assert rise.index[0] == "loss_kl_B"
    wide = history.pivot(index="seed", columns="epoch", values="loss_kl_B")
    assert rise.iloc[0] == pytest.approx((wide[50] - wide[49]).median())
    rises = term_rises(history, history[history["seed"] != 43], 50)
    assert set(rises.index) == set(history["seed"]) - {43}
    assert np.allclose(rises[list(TERMS)].sum(axis=1), rises["train_loss"], atol=1e-3)
    assert list(median_terms(history, 48, 52).index) == [48, 49, 50, 51, 52]
    assert list(outcomes(history).columns) == ["seed", "epoch", *OUTCOMES]


def test_the_jump_of_beta_b_alone_makes_spike_and_surge(branches: dict[str, Branch]) -> None:
    history = load_runs("v5_5").history
    found = spike_and_surge(history, branches).groupby("name")
    low, high = found.min(numeric_only=True), found.max(numeric_only=True)
    for name in (CONTROL, "lr_stays", "free_bits_off"):
        assert low.at[name, "rise"] > 4
        assert low.at[name, "overshoot"] > 1.5
        assert low.at[name, "surge"] > 5
    for name in ("beta_b_stays_0", "nothing_at_50"):  # B's training is unstable: a few runs have a spike of their own
        assert found["rise"].median()[name] < 1.1
        assert high.at[name, "rise"] < low.at[CONTROL, "rise"] / 2
        assert high.at[name, "surge"] < 0.5
        rises = term_rises(history, branches[name].runs.history, 50)
        assert rises.median().abs().max() < 0.1
    assert high.at["beta_b_rises", "overshoot"] < 1
    assert low.at["beta_b_rises", "surge"] > 5
    one = branches[CONTROL].runs[42].history.set_index("epoch")
    before = history[history["seed"] == 42].set_index("epoch").loc[49]
    row = found.get_group(CONTROL).set_index("seed").loc[42]
    assert row["rise"] == pytest.approx(one["train_loss"].loc[50] / before["train_loss"])
    assert row["overshoot"] == pytest.approx(one["train_loss"].loc[50] / one["train_loss"].loc[60])
    coverage = one["informative_coverage_B"].loc[60] - before["informative_coverage_B"]
    assert row["surge"] == pytest.approx(coverage)
    assert found["spike"].sum().loc[[CONTROL, "beta_b_rises"]].tolist() == [len(branches[CONTROL].runs), 0]
    # After epoch 50 the loss of this run rises in no epoch by half, and it ends lower.
    losses = [before["train_loss"], *one["train_loss"]]
    assert [epoch for epoch, (a, b) in enumerate(pairwise(losses), 50) if b > 1.5 * a] == [50]


def test_a_sentence_on_spikes_and_surges_follows_from_the_runs() -> None:
    runs = pd.DataFrame({
        "name": ["beta_b_stays_0", "nothing_at_50", "beta_b_rises"], "spike": [False, True, False],
        "surge": [0.1, -0.1, 15.0],
    })
    said = words.spikes_and_surges(runs)
    assert "1 of 2 runs have a spike" in said
    assert said.endswith("surges without a spike.")
    for column, value in {"spike": True, "surge": 2.0}.items():
        assert not words.spikes_and_surges(runs.assign(**{column: value})).endswith("without a spike.")


def test_before_epoch_50_a_reads_the_code_of_b() -> None:
    at = all_probes(load_runs("v5_5")).set_index("epoch")
    assert (at.loc[[49], "own_test_A"] < 20).all()
    assert (at.loc[[49], "injected_A"] > 99).all()
    assert (at.loc[[50], "own_test_A"] > 90).all()
    assert (at.loc[[49], "norm_B"] > 30).all()
    assert (at.loc[[50], "norm_B"] < 10).all()


def test_means_by_title_are_those_of_a_cycle() -> None:
    history = load_runs("v5_5").history
    table = means_by_title({"a": history, "b": history[history["seed"] == 44]}, ["kl_A"], 49)
    assert table["title"].value_counts().to_dict() == {"a": 8, "b": 1}
    rows = history[(history["seed"] == 44) & history["epoch"].between(20, 49)]
    assert table.loc[table["seed"] == 44, "kl_A"].tolist() == pytest.approx([rows["kl_A"].mean()] * 2)


def test_a_folder_without_counterfactuals_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no counterfactual"):
        load_branches(tmp_path)


def test_figures_have_alternative_text_and_data(branches: dict[str, Branch]) -> None:
    runs = load_runs("v5_5")
    for drawing in (
        figures.spike_terms(runs.history), figures.codes_and_leak(all_probes(runs)),
        figures.outcome_trajectories(branches),
        figures.outcomes_at_end(branches),
    ):
        assert isinstance(drawing.figure, Figure)
        assert len(drawing.data) > 0
        assert "nan" not in drawing.alt.split()
    shown = figures.outcomes_at_end(branches).data
    regularised = {name for name, one in branches.items() if one.runs.history["beta_B"].max() > 0}
    assert set(shown["name"]) == regularised - {CONTROL}

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
    held_rises,
    largest_rise,
    load_branches,
    means_by_title,
    median_terms,
    outcomes,
    pair_differences,
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


def _random_pair(random: np.random.Generator, shift: float = 0.0) -> pd.DataFrame:
    """The control and two counterfactuals; `a` is higher than `b` by `shift` standard deviations."""
    common, rows = random.normal(size=(8, len(OUTCOMES))), []
    both = ("same epoch", "same age")
    for name, comparisons, own in ((CONTROL, both, 0.0), ("b", both[:1], 0.0), ("a", both, shift)):
        for comparison in comparisons:
            values = common + own + random.normal(size=common.shape)
            rows.append(pd.DataFrame({
                "name": name, "title": name, "comparison": comparison, "seed": range(8),
                **dict(zip(OUTCOMES, values.T, strict=True)),
            }))
    return pd.concat(rows, ignore_index=True)


def test_under_no_effect_a_pair_of_counterfactuals_differs_in_at_most_5_percent_of_experiments() -> None:
    random, n = np.random.default_rng(5), 400
    wrong = {"primary": 0, "secondary": 0}
    for _ in range(n):
        found = pair_differences(_random_pair(random), "a", "b")
        decided = found["decided"] != "not decided"
        wrong["primary"] += bool(decided[found["metric"] == PRIMARY].any())
        wrong["secondary"] += bool(decided[found["metric"] != PRIMARY].any())
    assert max(wrong.values()) / n <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / n), wrong
    assert min(wrong.values()) > 0


def test_a_pair_is_compared_with_the_last_cycle_of_its_base() -> None:
    final = _random_pair(np.random.default_rng(6), shift=20)
    found = pair_differences(final, "a", "b").set_index(["comparison", "metric"])
    assert set(found["decided"]) == {"higher"}
    for comparison in ("same epoch", "same age"):
        ours = final[(final["name"] == "a") & (final["comparison"] == comparison)][PRIMARY].mean()
        its = final[final["name"] == "b"][PRIMARY].mean()
        assert found.at[(comparison, PRIMARY), "mean"] == pytest.approx(ours - its)
    said = words.warm_up_or_jump(found.reset_index())
    assert said.count("at the same age by") == said.count("at the same epoch by") == 2
    assert "(higher)" in said


# In words


@pytest.mark.parametrize(("low", "mean", "high", "text"), [
    (-0.777, -0.161, 0.455, "-0.16 [-0.78, +0.46]"), (0.0021, 0.13, 0.26, "+0.130 [+0.002, +0.260]"),
    (-3.054, 6.38, 15.81, "+6.4 [-3.1, +15.8]"), (-0.001, 0.1, 0.2, "+0.10 [+0.00, +0.20]"),
])
def test_an_interval_without_0_shows_that(low: float, mean: float, high: float, text: str) -> None:
    row = {"name": "a", "comparison": "same epoch", "metric": PRIMARY, "n": 4, "mean": mean, "low": low, "high": high}
    assert words.difference(pd.DataFrame([row]), "a") == text


def test_seeds_are_named() -> None:
    assert words.seeds([45, 42, 43, 44, 42]) == "4 seeds, 42 to 45"
    assert words.seeds([3]) == "1 seed, 3"
    assert words.seeds([1, 5]) == "2 seeds, 1, 5"


def test_conflicts_and_the_largest_difference_follow_from_the_decisions() -> None:
    metrics = (PRIMARY, "effective_coverage", "neg_elbo")
    decided = {"a": ("lower", "higher", "not decided"), "b": ("higher", "higher", "lower"),
               "c": ("not decided", "lower", "lower")}
    table = pd.DataFrame([
        {"name": name, "title": f"title {name}", "comparison": "same epoch", "metric": metric, "n": 4,
         "mean": 9.0 if name == "c" else i + 1.0 + (name == "b"), "low": 0.5, "high": 9.5, "decided": word}
        for name, words_ in decided.items() for i, (metric, word) in enumerate(zip(metrics, words_, strict=True))
    ])
    said = words.conflicts(table)
    assert said == (
        "The outcomes can disagree: “title a” has lower informative coverage but higher effective coverage."
    )
    assert words.other_outcomes(table, "a").count("(") == 1
    assert "effective coverage is higher at the same epoch (+2.00" in words.other_outcomes(table, "a")
    assert "ELBO is lower at the same epoch (+4.00" in words.other_outcomes(table, "b")
    assert "not decidedly" in words.other_outcomes(table.assign(decided="not decided"), "a")
    assert "“title b”: +2.00" in words.largest(table)
    assert words.largest(table.assign(decided="not decided")) == ""


@pytest.mark.parametrize(("decided", "part"), [
    ("higher", "harmful"), ("lower", "useful"), ("not decided", "no benefit"),
])
def test_the_answer_follows_from_the_decision(
    decided: str, part: str, branches: dict[str, Branch], final: pd.DataFrame
) -> None:
    differences = control_differences(final)
    differences.loc[differences["name"] == "beta_b_rises", "decided"] = decided
    measured = spike_and_surge(load_runs("v5_5").history, branches)
    said = " ".join(words.answer(measured, final, differences))
    assert part in said
    alone = control_differences(final[final["name"].isin((CONTROL, "beta_b_rises"))])
    single = alone[(alone["metric"] == PRIMARY) & (alone["comparison"] == "same epoch")].iloc[0]
    assert single["comparisons"] == 1
    corrected = f"the interval is [{single['low']:+.2f}, {single['high']:+.2f}], and the difference would be lower"
    assert (corrected in said) == (decided != "lower")
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


def test_the_published_counterfactuals_have_the_same_seeds(branches: dict[str, Branch]) -> None:
    seeds = set(branches[CONTROL].runs)
    for branch_ in branches.values():
        assert set(branch_.runs) == seeds
        assert branch_.runs.history["epoch"].max() == 103


def test_the_published_counterfactuals_are_complete(branches: dict[str, Branch]) -> None:
    missing = [name for name in ORDER if name not in branches]
    if missing:
        pytest.skip(f"not published yet: {', '.join(missing)}")
    assert list(branches) == list(ORDER)


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
    for name in ("beta_b_stays_0", "nothing_at_50"):
        assert found["rise"].median()[name] < 1.1
        assert high.at[name, "rise"] < low.at[CONTROL, "rise"] / 2
        assert high.at[name, "surge"] < 0.5
        rises = term_rises(history, branches[name].runs.history, 50)
        assert rises.median().abs().max() < 0.1
        assert found["spike"].sum()[name] <= 1  # The loss of seed 47 doubles without β_B, and coverage does not surge.
    assert high.at["beta_b_rises", "overshoot"] < 1
    assert low.at["beta_b_rises", "rise"] > 2  # the loss rises here, too, but it stays high
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


def test_a_spike_belongs_to_epochs_50_to_52() -> None:
    """A loss that jumps in epoch 60 is no spike, and one that jumps in epoch 52 is one if it falls again."""
    before = pd.DataFrame({"seed": [1], "epoch": [49], "train_loss": [1.0], "informative_coverage_B": [2.0]})
    for epoch, stays, spike in ((52, False, True), (60, False, False), (52, True, False), (53, False, False)):
        losses = [3.0 if e == epoch or (stays and e > epoch) else 1.0 for e in range(50, 104)]
        history = pd.DataFrame({
            "seed": 1, "epoch": range(50, 104), "train_loss": losses, "informative_coverage_B": 5.0,
        })
        one = Branch(Counterfactual(name="a", title="a", after=49, set={}), cast(Any, SimpleNamespace(history=history)))
        row = spike_and_surge(before, {"a": one}).iloc[0]
        assert row["spike"] == spike, (epoch, stays)
        assert row["rise"] == (3 if epoch == 52 else 1)
        assert row["surge"] == 3


def test_a_sentence_on_spikes_has_the_extremes_of_the_runs() -> None:
    runs = pd.DataFrame({
        "name": ["beta_b_stays_0", "nothing_at_50", "beta_b_rises", "beta_b_rises"], "seed": [1, 1, 1, 2],
        "spike": [False, True, False, False], "surge": [0.1, -0.1, 15.0, 16.0], "rise": [1.2, 1.3, 3.0, 4.0],
    })
    said = words.spikes(runs)
    for part in ("1 seeds, at 2 learning", "1 of 2 runs", "most 1.3 ", "+0.10", "0 of 2 runs", "least 3 ", "+15.0"):
        assert part in said, part


def test_rises_with_held_factors_leave_only_the_changes_of_the_terms() -> None:
    """Terms and factors are planted: each term of B doubles, and so do the factors of both pathways."""
    rows = []
    for epoch, factor, size in ((49, {"A": 0.5, "B": 1.0, "3": 0.2}, 1.0), (50, {"A": 1.0, "B": 2.0, "3": 0.4}, 2.0)):
        raw = {"ce_A": 3.0, "ce_B": 0.1 * size, "kl_A": 8.0, "kl_B": 50.0 * size, "entropy_B": 2.0 * size,
               "repulsion_B": 0.3 * size}
        weight = {"ce_A": 1.0, "ce_B": 1.0, "kl_A": 0.3, "kl_B": 0.2 * (epoch == 50), "entropy_B": -0.05,
                  "repulsion_B": 0.01}
        weighted = {f"loss_{name}": factor[name[-1]] * weight[name] * value for name, value in raw.items()}
        alignment = factor["3"] * 1.5
        rows.append({
            "seed": 7, "epoch": epoch, **raw, **weighted, "beta_A": 0.3, "beta_B": weight["kl_B"],
            "lambda3": factor["3"], "loss_alignment": alignment, "train_loss": sum(weighted.values()) + alignment,
        })
    found = held_rises(pd.DataFrame(rows), 50).loc[7]
    expected = {
        "loss_ce_A": 0, "loss_ce_B": 0.1, "loss_kl_A": 0, "loss_kl_B": 20, "loss_entropy_B": -0.1,
        "loss_repulsion_B": 0.003, "loss_alignment": 0, "train_loss": 20.003,
    }
    assert found.to_dict() == pytest.approx(expected, abs=1e-12)
    with pytest.raises(KeyError, match="lacks epoch 50 or 51"):
        held_rises(pd.DataFrame(rows), 51)


def test_the_factors_before_the_jump_are_the_same_in_all_terms() -> None:
    """`held_rises` takes a pathway's factor from its cross-entropy; the KL and the entropy have the same factor."""
    at = load_runs("v5_5").history.query("epoch == 49")
    assert np.allclose(at["loss_ce_A"] / at["ce_A"], at["loss_kl_A"] / at["beta_A"] / at["kl_A"], rtol=0.02)
    shares = at["loss_entropy_B"] / at["entropy_B"] / (at["loss_ce_B"] / at["ce_B"])
    assert np.allclose(shares, shares.median(), rtol=0.02)


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

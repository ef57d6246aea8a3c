"""Milestones of a training and the statements about them, on a history whose numbers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small import SMALL

from ternary_lab import load_runs, run_experiment, space, splits
from ternary_lab.errors import RunError
from ternary_lab.metrics.baselines import untrained
from ternary_lab.metrics.likelihood import coding
from ternary_lab.studies.training import (
    ENTRIES,
    agreement_words,
    compared,
    milestones,
    shares_of_range,
    statement_table,
    statements,
    unbalanced_loss,
    untrained_neg_elbo,
)


def _history(seeds: int = 3, epochs: int = 60, jump: int | None = 20) -> pd.DataFrame:
    """A history in which every column is a simple function of seed and epoch."""
    rows = []
    for seed in range(seeds):
        for e in range(epochs + seed):
            on = jump is not None and e >= jump
            rows.append({
                "seed": seed, "epoch": e, "train_loss": 1.0 + seed + 10 * (e == jump), "val_loss": abs(e - 4) + 1.0,
                "beta_B": 0.2 if on else 0.0, "kl_B": 50.0 if on else 500.0, "reconstruction_B": 100.0,
                "informative_coverage_A": float(e), "informative_coverage_B": 10.0 if on else 0.1,
                "coverage_A": 99.0, "coverage_B": 98.5 + e / 1000,
            })
    return pd.DataFrame(rows)


def test_milestones_are_the_values_around_the_jump_and_the_means_of_the_last_cycle() -> None:
    found = milestones(_history())
    assert found["epochs"].tolist() == [60, 61, 62]
    assert found["best_epoch"].tolist() == [4, 4, 4]
    assert found["loss_before"].tolist() == [1.0, 2.0, 3.0]
    assert found["loss_at"].tolist() == [11.0, 12.0, 13.0]
    assert found["loss_after"].tolist() == [1.0, 2.0, 3.0]
    assert found["val_at"].tolist() == [17.0] * 3
    assert found["beta_B_before"].tolist() == [0.0] * 3
    assert found["beta_B_at"].tolist() == [0.2] * 3
    # The last epoch of every run is 59, also for runs that go on.
    assert found["informative_coverage_A"].tolist() == pytest.approx([np.mean(range(30, 60))] * 3)


def test_a_run_without_a_jump_has_no_milestones_around_it() -> None:
    found = milestones(_history(jump=None))
    assert found.isna().sum().loc[["loss_before", "loss_at", "informative_B_at"]].tolist() == [3, 3, 3]
    assert not found["epochs"].isna().any()


@pytest.mark.parametrize(("epochs", "end"), [(1, 0.0), (29, 28.0), (30, 14.5), (31, 15.5)])
def test_a_run_that_is_shorter_than_a_cycle_ends_with_its_last_epoch(epochs: int, end: float) -> None:
    assert milestones(_history(1, epochs, None))["informative_coverage_A"].tolist() == [end]


def test_runs_stand_beside_the_published_runs_of_the_same_seeds() -> None:
    table = compared(_history(2), _history(3), True).set_index("quantity")
    assert list(table.columns) == ["trained here, n = 2", "published, same seeds", "published, n = 3"]
    assert list(table.loc[ENTRIES["loss_at"]]) == ["11.5 [11, 12]", "11.5 [11, 12]", "12 [11, 13]"]
    without = compared(_history(1, 5, None), _history(3), False).set_index("quantity")
    assert list(without.loc[ENTRIES["loss_at"]]) == ["–", "12 [11, 13]"]


def test_each_statement_is_counted_over_the_runs() -> None:
    table = statement_table(_history())
    counts = dict(zip(table["quantity"], table["true in"], strict=True))
    assert counts.pop("training loss at the jump / one epoch before") == "2 of 3"  # 11/1, 12/2, 13/3
    assert set(counts.values()) == {"3 of 3"}


@pytest.mark.parametrize("column", ["val_loss", "informative_coverage_B", "kl_B", "reconstruction_B", "coverage_A"])
def test_a_history_that_breaks_a_statement_is_seen(column: str) -> None:
    """A statement is false for a run whose column is constant and small, or has a spike at the jump."""
    broken = _history(1).assign(**{column: 1e-3})
    if column == "val_loss":
        broken.loc[broken["epoch"] == 20, "val_loss"] = 1.0  # a spike, and the lowest loss is at epoch 0
    table = statement_table(broken)
    assert (table["true in"] == "0 of 1").any()


def test_the_published_runs_make_every_statement_true() -> None:
    table = statement_table(load_runs("v5_5").history)
    assert len(table) == len(statements())
    assert set(table["true in"]) == {"8 of 8"}


def test_the_published_runs_have_the_values_of_the_report() -> None:
    found = milestones(load_runs("v5_5").history)
    assert (found["loss_before"] < 3).all()
    assert (found["loss_at"] > 7).all()
    assert found["loss_after"].between(5, 9).all()
    assert (found["informative_B_before"] < 0.5).all()
    assert (found["informative_B_at"] > 5).all()
    assert found["beta_B_at"].tolist() == pytest.approx([0.3 * abs(np.sin(0.785))] * 8)


def test_shares_of_the_range_are_counted_before_and_from_the_jump() -> None:
    ours = _history(3, 40)  # train_loss is 1, 2 and 3, and 11, 12 and 13 at the jump at epoch 20
    theirs = pd.DataFrame({"epoch": range(60), "train_loss": [0.0] * 5 + [2.0] * 15 + [12.0] + [2.0] * 9 + [4.0] * 30})
    shares = shares_of_range(ours, theirs, ["train_loss"])[["below", "inside", "above"]].to_numpy()
    # Our runs have 40 to 42 epochs, so 42 epochs are compared: 22 from the jump, of which 12 are above.
    assert shares[0].tolist() == [25.0, 75.0, 0.0]
    assert shares[1].tolist() == pytest.approx([0, 1000 / 22, 1200 / 22])
    with pytest.raises(RunError, match="no jump"):
        shares_of_range(_history(jump=None), theirs, ["train_loss"])


def test_the_words_name_the_quantity_with_the_lowest_share_inside() -> None:
    shares = pd.DataFrame({
        "quantity": ["a", "b", "c"] * 2, "jump": ["before"] * 3 + ["from"] * 3, "below": [0.0, 20, 10, 5, 0, 0],
        "inside": [100.0, 77, 78, 90, 100, 100], "above": [0.0, 3, 12, 5, 0, 0],
    })
    names = {"a": "first", "b": "second", "c": "third"}
    assert agreement_words(shares, "before", 78, names) == (
        "at least this share is inside for 2 of 3 quantities; the lowest share is that of second (inside 77 %, "
        "below 20 %, above 3 %)"
    )
    assert agreement_words(shares, "from", 95, names).startswith("at least this share is inside for 2 of 3 quantities")
    assert "first (inside 90 %" in agreement_words(shares, "from", 95, names)


def test_our_values_are_rounded_as_the_printed_ones() -> None:
    ours = _history(2, 40).assign(train_loss=0.0449)
    theirs = pd.DataFrame({"epoch": range(40), "train_loss": [0.04] * 39 + [0.05]})
    assert shares_of_range(ours, theirs, ["train_loss"])["inside"].tolist() == [100.0, 95.0]


def test_a_value_of_the_same_distribution_lies_in_the_range_of_n_runs_with_the_stated_probability() -> None:
    rng = np.random.default_rng(0)
    size, n = 20_000, 8
    ours = pd.concat([pd.DataFrame({
        "epoch": range(size), "beta_B": np.arange(size) >= size // 2, "train_loss": rng.normal(size=size),
    }).astype({"beta_B": float}) for _ in range(n)])
    theirs = pd.DataFrame({"epoch": range(size), "train_loss": rng.normal(size=size)})
    inside = shares_of_range(ours, theirs, ["train_loss"])["inside"].mean()
    assert inside == pytest.approx(100 * (n - 1) / (n + 1), abs=3 * 100 * (0.25 / size) ** 0.5)


def test_without_a_balance_the_training_loss_is_the_unbalanced_loss(tmp_path: Path) -> None:
    off = SMALL.gradient_balance.model_copy(update={"enabled": False})
    settings = SMALL.model_copy(update={"gradient_balance": off})
    history = run_experiment(settings, [1, 2], tmp_path / "off", device="cpu").history
    assert unbalanced_loss(history, settings.loss).tolist() == pytest.approx(history["train_loss"].tolist(), rel=1e-4)


def test_the_gap_of_the_published_losses_before_the_jump_comes_from_the_balance() -> None:
    runs = load_runs("v5_5")
    before = runs.history[runs.history["epoch"] == 49]
    assert (before["train_loss"] < before["val_loss"]).all()
    assert (unbalanced_loss(before, runs[42].config.loss) > before["val_loss"]).all()


def test_uniform_noise_and_untrained_networks_have_a_lower_neg_elbo_than_v5_5() -> None:
    runs = load_runs("v5_5")
    found = untrained_neg_elbo(runs)
    assert found.index.tolist() == sorted(runs)
    last = runs.history[runs.history["epoch"] == 103].set_index("seed")
    for p in "AB":
        assert (np.log(space.SIZE) < last[f"neg_elbo_{p}"]).all()
        assert (found[p] < last[f"neg_elbo_{p}"]).all()
    # A second way: -ELBO of each validation operation from other samples, with the error of their mean.
    x = space.operations(splits.split(runs[43].config.data).validation).unsqueeze(0)
    noise = torch.randn(1, 2, 1, x.shape[1], 16, generator=torch.Generator().manual_seed(0))
    each = coding(untrained(43).core, x, noise).neg_elbo[:, 0].double()
    errors = each.std(1) * (2 / x.shape[1]) ** 0.5
    assert ((each.mean(1) - torch.tensor(found.loc[43].tolist())).abs() <= 4 * errors).all()
    assert (errors < 0.05).all()

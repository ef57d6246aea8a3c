"""Tables of the disruption at epoch 50: the terms of the loss, and outcomes of counterfactuals.

A counterfactual is a set of runs with changed settings, for example without the jump of β_B. Its outcomes are compared
with those of the control, the schedule of v5.5, in up to three ways:

    same epoch     both outcomes are means over the epochs 74 to 103, the last cycle of the temperature τ_A
    same age       the age is the number of epochs since β_B left 0. Epochs with the ages of the control's cycle
    same learning  the learning is the sum of the learning rates since β_B left 0. Epochs with the learning of the
                   control's cycle

The comparison at the same age is made if β_B leaves 0 earlier than in the control. The comparison at the same learning
is made if both runs have the same state before β_B leaves 0 in one of them, and if their learning differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ternary_lab.config import COUNTERFACTUALS
from ternary_lab.config_files import Counterfactual, shipped_counterfactuals
from ternary_lab.errors import RunError
from ternary_lab.metrics.quantities import label
from ternary_lab.runs.load import RunSet, load_runs, local_or_published
from ternary_lab.studies.statistics import CYCLE, cycle_means, paired_differences

CONTROL = "as_scheduled"
GROUPS = {
    "events of epoch 50": ("lr_stays", "beta_b_stays_0", "nothing_at_50"),
    "how β_B leaves 0": ("beta_b_rises", "beta_b_jumps_to_half", "jump_at_40"),
    "no jump of β_B": ("beta_b_warms_up", "beta_b_warms_up_matched"),
    "β_A": ("beta_a_from_start", "beta_at_start_values"),
    "permeability ρ": ("rho_stays_0_1", "rho_starts_at_0_3"),
    "floor of the KL": ("free_bits_off",),
}
"""Names of the counterfactuals by the setting that they change."""
ORDER = (CONTROL, *(name for names in GROUPS.values() for name in names))
"""Names of the counterfactuals in the order of tables and figures."""

TERMS = {
    "loss_ce_A": "cross-entropy A", "loss_ce_B": "cross-entropy B", "loss_kl_A": "KL A", "loss_kl_B": "KL B",
    "loss_entropy_B": "output entropy B", "loss_repulsion_B": "repulsion B", "loss_alignment": "entropy alignment",
}
"""Descriptions of the terms whose sum is the training loss, by column of a history."""

PRIMARY = "informative_coverage"
"""The outcome that decides whether a counterfactual is better than the control."""
SECONDARY = ("effective_coverage", "neg_elbo")
"""Outcomes that explain the decision. Sampled coverage is not one of them: uniform noise has almost 100 %."""
OUTCOMES = {name: label(name) for name in (PRIMARY, *SECONDARY, "coverage", "reconstruction")}
"""Labels of the outcomes of counterfactuals. All outcomes are means of both pathways."""
SAME_EPOCH, SAME_AGE, SAME_LEARNING = "same epoch", "same age", "same learning"
LAST = 103
"""Last epoch of the counterfactuals."""


@dataclass(frozen=True)
class Branch:
    """One counterfactual and its runs."""

    counterfactual: Counterfactual
    runs: RunSet

    @property
    def title(self) -> str:
        return self.counterfactual.title


def load_branches(folder: str | Path = COUNTERFACTUALS) -> dict[str, Branch]:
    """Load the counterfactuals with their runs, by name, in the order of `ORDER`.

    `folder` is the published folder, or a folder of `ternary-lab branch`. Raises RunError if the folder contains no
    counterfactual.
    """
    path = local_or_published(folder)
    known = {c.name: c for c in shipped_counterfactuals()}
    names = [name for name in (*ORDER, *sorted(set(known) - set(ORDER))) if name in known]
    found = {name: Branch(known[name], load_runs(path / name)) for name in names if (path / name).is_dir()}
    if not found:
        raise RunError(f"{folder}: holds no counterfactual: train them with `ternary-lab branch`")
    return found


def median_terms(history: pd.DataFrame, first: int, last: int) -> pd.DataFrame:
    """Return the median over runs of each term of the training loss, in nats.

    The table has a row per epoch from `first` to `last`, and the columns of `TERMS`.
    """
    near = history[history["epoch"].between(first, last)]
    return near.groupby("epoch")[list(TERMS)].median()


def term_rises(before: pd.DataFrame, after: pd.DataFrame, epoch: int) -> pd.DataFrame:
    """Return the rise of each term of the training loss from `epoch` - 1 to `epoch`, in nats.

    The table has a row per seed, the columns of `TERMS`, and the column train_loss with the rise of the whole loss.

    Args:
        before: history that contains `epoch` - 1.
        after: history that contains `epoch`; the same history, or that of a counterfactual. Seeds that are in one of
            the two histories only are left out.
    """
    columns = [*TERMS, "train_loss"]
    start = before[before["epoch"] == epoch - 1].set_index("seed")[columns]
    end = after[after["epoch"] == epoch].set_index("seed")[columns]
    return (end - start).dropna(how="all")


def held_rises(history: pd.DataFrame, epoch: int) -> pd.DataFrame:
    """Return the rises of `term_rises` as they would be with the factors λ and g of `epoch` - 1, in nats.

    The weights β are those of each epoch. A history has no column for λ g of a pathway. It is the weighted
    cross-entropy divided by the cross-entropy, which is exact if g is the same in all batches of `epoch` - 1.

    Raises KeyError if the history lacks one of the epochs.
    """
    before, after = (history[history["epoch"] == e].set_index("seed") for e in (epoch - 1, epoch))
    if before.empty or after.empty:
        raise KeyError(f"the history lacks epoch {epoch - 1} or {epoch}")
    factor = {pathway: before[f"loss_ce_{pathway}"] / before[f"ce_{pathway}"] for pathway in "AB"}
    held = {
        "loss_alignment": after["loss_alignment"] * before["lambda3"] / after["lambda3"],
        **{f"loss_ce_{p}": factor[p] * after[f"ce_{p}"] for p in "AB"},
        **{f"loss_kl_{p}": factor[p] * after[f"beta_{p}"] * after[f"kl_{p}"] for p in "AB"},
        **{name: before[name] * after[raw] / before[raw]
           for name, raw in (("loss_entropy_B", "entropy_B"), ("loss_repulsion_B", "repulsion_B"))},
    }
    rises = pd.DataFrame(held)[list(TERMS)] - before[list(TERMS)]
    return rises.assign(train_loss=rises.sum(axis=1)).dropna(how="all")


def largest_rise(history: pd.DataFrame, epoch: int) -> pd.Series[float]:
    """Return the rise of each term of the training loss since the epoch before, in nats, with the largest rise first.

    A rise is the median over runs.
    """
    return term_rises(history, history, epoch)[list(TERMS)].median().sort_values(ascending=False)


def spike_and_surge(history: pd.DataFrame, branches: Mapping[str, Branch]) -> pd.DataFrame:
    """Return the size of the spike and of the surge in each counterfactual that starts after epoch 49.

    `history` is that of the runs from which the counterfactuals start. The table has a row per counterfactual and seed,
    and the columns name, title, seed and

        rise        largest training loss of the epochs 50 to 52, divided by the loss of epoch 49
        overshoot   largest training loss of the epochs 50 to 52, divided by the loss of epoch 60
        later_rise  largest training loss of the epochs 53 to 75, divided by the loss of epoch 49
        spike       whether the loss of one of these three epochs is more than 1.5 times that of the epoch before, and
                    higher than that of ten epochs later
        surge       informative coverage of B at epoch 60 minus that at epoch 49, in percentage points
    """
    before = history[history["epoch"] == 49].set_index("seed")
    parts = []
    for name, branch in branches.items():
        if branch.counterfactual.after != 49:
            continue
        its = branch.runs.history.set_index(["epoch", "seed"])
        loss, coverage = (its[column].unstack() for column in ("train_loss", "informative_coverage_B"))
        largest = loss.loc[50:52].max()  # a gradual rise begins with β_B = 0 at epoch 50
        whole = pd.concat([before[["train_loss"]].T.set_axis([49]), loss])
        spike = (whole > 1.5 * whole.shift(1)) & (whole > whole.shift(-10))
        parts.append(pd.DataFrame({
            "name": name, "title": branch.title, "rise": largest / before["train_loss"],
            "overshoot": largest / loss.loc[60], "later_rise": loss.loc[53:75].max() / before["train_loss"],
            "spike": spike.loc[50:52].any(),
            "surge": coverage.loc[60] - before["informative_coverage_B"],
        }).dropna().rename_axis("seed").reset_index())
    return pd.concat(parts, ignore_index=True)


def outcomes(history: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the columns seed, epoch and those of `OUTCOMES`."""
    data = {"seed": history["seed"], "epoch": history["epoch"]}
    data |= {name: (history[f"{name}_A"] + history[f"{name}_B"]) / 2 for name in OUTCOMES}
    return pd.DataFrame(data)


def compared_epochs(branch: Branch, control: Branch) -> dict[str, np.ndarray]:
    """Return the epochs of a counterfactual that are compared with the last cycle of the control, by comparison.

    Each array (30,) has an epoch of the counterfactual for each epoch of the control's cycle. An epoch between two
    whole numbers stands for the interpolated outcome. The comparisons are those of the module's description.
    """
    cycle = np.arange(LAST - CYCLE + 1, LAST + 1)
    found = {SAME_EPOCH: cycle.astype(float)}
    ours, its = _clocks(control), _clocks(branch)
    if its.empty or its.index[0] > ours.index[0]:
        return found
    if its.index[0] < ours.index[0]:
        found[SAME_AGE] = np.interp(ours.loc[cycle, "age"], its["age"], its.index)
    learning = ours.loc[cycle, "learning"]
    if branch.counterfactual.after is not None and not np.allclose(learning, its.loc[cycle, "learning"]):
        found[SAME_LEARNING] = np.interp(learning, its["learning"], its.index)
    return found


def _clocks(branch: Branch) -> pd.DataFrame:
    """Return age and learning by epoch, from the epoch on in which β_B leaves 0. All seeds have the same schedules."""
    first = branch.runs.history.drop_duplicates("epoch").set_index("epoch")
    on = first.loc[(first["beta_B"] > 0).cummax()]
    return pd.DataFrame({"age": np.arange(len(on)), "learning": on["lr_scheduled"].cumsum()}, index=on.index)


def final_outcomes(branches: Mapping[str, Branch]) -> pd.DataFrame:
    """Return the outcomes at the end: means over 30 epochs, the length of a cycle of τ_A.

    The table has a row per counterfactual, comparison and seed. The columns are name, title, comparison, epochs (a text
    such as "74-103"), beta_B (its mean over these epochs), seed and those of `OUTCOMES`. The rows of the control are
    the same in each comparison.
    """
    control, parts = branches[CONTROL], []
    comparisons = {name: compared_epochs(branch, control) for name, branch in branches.items()}
    cycle = comparisons[CONTROL][SAME_EPOCH]
    comparisons[CONTROL] = dict.fromkeys((SAME_EPOCH, SAME_AGE, SAME_LEARNING), cycle)
    for name, branch in branches.items():
        history = branch.runs.history
        runs, weight = outcomes(history).groupby("seed"), history.groupby("epoch")["beta_B"].first()
        for comparison, epochs in comparisons[name].items():
            parts.append(pd.DataFrame([
                {
                    "name": name, "title": branch.title, "comparison": comparison,
                    "epochs": f"{epochs[0]:.0f}-{epochs[-1]:.0f}", "seed": seed,
                    "beta_B": np.interp(epochs, weight.index, weight).mean(),
                    **{metric: np.interp(epochs, rows["epoch"], rows[metric]).mean() for metric in OUTCOMES},
                }
                for seed, rows in runs
            ]))
    return pd.concat(parts, ignore_index=True)


def control_differences(final: pd.DataFrame) -> pd.DataFrame:
    """Return the differences of `final_outcomes` from the control, paired by seed.

    The columns are those of `statistics.paired_differences`, with the comparison. The differences of the primary
    outcome are one family of comparisons, and those of the secondary outcomes are another. Counterfactuals in which
    β_B stays 0 are left out: their outcomes are near a bound, where such an interval would leave the possible range.
    """
    regularised = final[final["beta_B"] > 0]
    return paired_differences(
        regularised, "name", CONTROL, [PRIMARY, *SECONDARY], by=["comparison"], primary=PRIMARY
    )


def pair_differences(final: pd.DataFrame, name: str, base: str) -> pd.DataFrame:
    """Return the differences of the counterfactual `name` from the counterfactual `base`, paired by seed.

    `final` is the table of `final_outcomes`. The comparisons are those of `name` with the control at the same epoch
    and, if there is one, at the same age; the outcome of `base` is always that of the last cycle. So β_B must leave 0
    in `base` at the same epoch as in the control. The columns and families are those of `control_differences`.
    """
    ours = final[(final["name"] == name) & final["comparison"].isin((SAME_EPOCH, SAME_AGE))]
    its = final[(final["name"] == base) & (final["comparison"] == SAME_EPOCH)]
    its = pd.concat([its.assign(comparison=comparison) for comparison in ours["comparison"].unique()])
    return paired_differences(
        pd.concat([ours, its]), "name", base, [PRIMARY, *SECONDARY], by=["comparison"], primary=PRIMARY
    )


def decisions(differences: pd.DataFrame, metric: str = PRIMARY) -> pd.Series[str]:
    """Return "higher", "lower" or "not decided" for each counterfactual, by name.

    A counterfactual is higher or lower than the control only if all its comparisons say so. Otherwise, the number of
    epochs or the learning rate may explain the difference.
    """
    rows = differences[differences["metric"] == metric].groupby("name", sort=False)["decided"]
    return rows.agg(lambda words: words.iloc[0] if words.nunique() == 1 else "not decided")


def means_by_title(histories: Mapping[str, pd.DataFrame], columns: Sequence[str], last: int = LAST) -> pd.DataFrame:
    """Return the means of columns of several histories over the 30 epochs that end with `last`.

    The table has a row per title and seed. `histories` is a dictionary from title to history.
    """
    return pd.concat([
        cycle_means(history, columns, last).assign(title=title) for title, history in histories.items()
    ], ignore_index=True)

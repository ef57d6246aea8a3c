"""Tables of the disruption at epoch 50: the terms of the loss, and outcomes of counterfactuals.

A counterfactual is a set of runs with changed settings, for example without the jump of β_B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ternary_lab.config import COUNTERFACTUALS
from ternary_lab.config_files import Counterfactual, shipped_counterfactuals
from ternary_lab.errors import RunError
from ternary_lab.metrics.quantities import label
from ternary_lab.runs.load import RunSet, load_runs, local_or_published
from ternary_lab.studies.statistics import paired_differences

CONTROL = "as_scheduled"
ORDER = (
    "as_scheduled", "lr_stays", "beta_b_stays_0", "nothing_at_50", "beta_b_rises", "beta_b_jumps_to_half",
    "free_bits_off", "jump_at_40", "beta_b_warms_up",
)
"""Counterfactuals, ordered from the event as it happened to the largest departure from it."""

TERMS = {
    "loss_ce_A": "cross-entropy A", "loss_ce_B": "cross-entropy B", "loss_kl_A": "KL A", "loss_kl_B": "KL B",
    "loss_entropy_B": "output entropy B", "loss_repulsion_B": "repulsion B", "loss_alignment": "entropy alignment",
}
"""Descriptions of the terms whose sum is the training loss, by column of a history."""

OUTCOMES = {name: label(name) for name in (
    "train_loss", "kl", "coverage", "informative_coverage", "effective_coverage", "neg_elbo", "reconstruction",
)}
"""Quantities by which counterfactuals are compared. All quantities except the loss are means over both pathways."""


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


def largest_rise(history: pd.DataFrame, epoch: int) -> pd.Series[float]:
    """Return the rise of each term of the training loss since the epoch before, in nats, with the largest rise first.

    A rise is the median over runs.
    """
    wide = history.set_index(["seed", "epoch"])[list(TERMS)].unstack("epoch")
    rises = {term: (wide[term][epoch] - wide[term][epoch - 1]).median() for term in TERMS}
    return pd.Series(rises).sort_values(ascending=False)


def outcomes(history: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the columns seed, epoch and those of `OUTCOMES`."""
    data = {"seed": history["seed"], "epoch": history["epoch"], "train_loss": history["train_loss"]}
    data |= {name: (history[f"{name}_A"] + history[f"{name}_B"]) / 2 for name in OUTCOMES if name != "train_loss"}
    return pd.DataFrame(data)


def final_outcomes(branches: Mapping[str, Branch], epoch: int = 103) -> pd.DataFrame:
    """Return the outcomes at one epoch, with a row per counterfactual and seed.

    The columns are name, title, seed and those of `OUTCOMES`.
    """
    parts = []
    for name, branch in branches.items():
        rows = outcomes(branch.runs.history)
        parts.append(rows[rows["epoch"] == epoch].assign(name=name, title=branch.title))
    return pd.concat(parts, ignore_index=True)[["name", "title", "seed", *OUTCOMES]]


def control_differences(final: pd.DataFrame) -> pd.DataFrame:
    """Return the differences of `final_outcomes` from the control, paired by seed.

    The columns are name, title, metric, n, mean, low and high.
    """
    return paired_differences(final, "name", CONTROL, list(OUTCOMES))

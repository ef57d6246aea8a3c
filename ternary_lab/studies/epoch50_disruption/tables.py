"""The epoch-50 disruption: its terms, and what would have happened without parts of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from ternary_lab.config import COUNTERFACTUALS
from ternary_lab.config_files import Counterfactual, shipped_counterfactuals
from ternary_lab.errors import RunError
from ternary_lab.runs.load import RunRecord, RunSet, load_runs, local_or_published
from ternary_lab.studies.statistics import interval

CONTROL = "as_scheduled"
ORDER = (
    "as_scheduled", "lr_stays", "beta_b_stays_0", "nothing_at_50", "beta_b_rises", "beta_b_jumps_to_half",
    "free_bits_off", "jump_at_40", "beta_b_warms_up",
)
"""From what happened to what departs from it most."""

TERMS = {
    "loss_ce_A": "cross-entropy A", "loss_ce_B": "cross-entropy B", "loss_kl_A": "KL A", "loss_kl_B": "KL B",
    "loss_entropy_B": "output entropy B", "loss_repulsion_B": "repulsion B", "loss_alignment": "entropy alignment",
}
"""The terms whose sum is the training loss, as columns of a history."""

OUTCOMES = {
    "train_loss": "training loss, nats",
    "kl": "KL with free bits, nats",
    "coverage": "sampled coverage, %",
    "informative_coverage": "informative coverage, %",
    "effective_coverage": "effective coverage, %",
    "neg_elbo": "-ELBO, nats",
    "reconstruction": "reconstruction, %",
}
"""What a counterfactual is compared by; all but the loss are means of both pathways."""


@dataclass(frozen=True)
class Branch:
    """One counterfactual and its runs."""

    counterfactual: Counterfactual
    runs: RunSet

    @property
    def title(self) -> str:
        return self.counterfactual.title


def load_branches(folder: str | Path = COUNTERFACTUALS) -> dict[str, Branch]:
    """Counterfactuals with their runs, by name, as in `ORDER`: the published, or a folder of `ternary-lab branch`.

    Raises RunError when the folder holds none.
    """
    path = local_or_published(folder)
    known = {c.name: c for c in shipped_counterfactuals()}
    names = [name for name in (*ORDER, *sorted(set(known) - set(ORDER))) if name in known]
    found = {name: Branch(known[name], load_runs(path / name)) for name in names if (path / name).is_dir()}
    if not found:
        raise RunError(f"{folder}: holds no counterfactual: train them with `ternary-lab branch`")
    return found


def loss_terms(history: pd.DataFrame, first: int, last: int) -> pd.DataFrame:
    """Median over runs of each term of the training loss, nats, a row per epoch first..last; columns as in `TERMS`."""
    near = history[history["epoch"].between(first, last)]
    return near.groupby("epoch")[list(TERMS)].median()


def largest_rise(history: pd.DataFrame, epoch: int) -> pd.Series[float]:
    """How much each term rose from the epoch before, nats: median over runs, the largest first."""
    wide = history.set_index(["seed", "epoch"])[list(TERMS)].unstack("epoch")
    rises = {term: (wide[term][epoch] - wide[term][epoch - 1]).median() for term in TERMS}
    return pd.Series(rises).sort_values(ascending=False)


def outcomes(history: pd.DataFrame) -> pd.DataFrame:
    """seed, epoch and the columns of `OUTCOMES`."""
    data = {"seed": history["seed"], "epoch": history["epoch"], "train_loss": history["train_loss"]}
    data |= {name: (history[f"{name}_A"] + history[f"{name}_B"]) / 2 for name in OUTCOMES if name != "train_loss"}
    return pd.DataFrame(data)


def final_outcomes(branches: Mapping[str, Branch], epoch: int = 103) -> pd.DataFrame:
    """A row per counterfactual and seed at one epoch: name, title, seed and the columns of `OUTCOMES`."""
    parts = []
    for name, branch in branches.items():
        rows = outcomes(branch.runs.history)
        parts.append(rows[rows["epoch"] == epoch].assign(name=name, title=branch.title))
    table = pd.concat(parts, ignore_index=True)
    return table[["name", "title", "seed", *OUTCOMES]]


def effects(final: pd.DataFrame, control: str = CONTROL, metrics: Sequence[str] = tuple(OUTCOMES)) -> pd.DataFrame:
    """Differences from the control, paired by seed: name, title, metric, n, mean, and its interval low, high."""
    base = final[final["name"] == control].set_index("seed")
    rows = []
    for (name, title), group in final[final["name"] != control].groupby(["name", "title"], sort=False):
        for metric in metrics:
            found = interval(group.set_index("seed")[metric] - base[metric])
            rows.append({"name": name, "title": title, "metric": metric, **asdict(found)})
    return pd.DataFrame(rows)


def probes(runs: Mapping[int, RunRecord]) -> pd.DataFrame:
    """The probes of several runs, one below the other. Raises RunError when a run has none."""
    return pd.concat([run.probed() for run in runs.values()], ignore_index=True)

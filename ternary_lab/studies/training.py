"""Milestones in the training of v5.5, such as the loss at the jump, and statements about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from ternary_lab import space, splits
from ternary_lab.backend.random_streams import Streams
from ternary_lab.config import Loss
from ternary_lab.errors import RunError
from ternary_lab.figures.history import disruption
from ternary_lab.metrics.baselines import untrained
from ternary_lab.metrics.likelihood import negative_elbo
from ternary_lab.runs.load import RunSet
from ternary_lab.studies.statistics import CYCLE, median_and_range

END = ("coverage_A", "coverage_B", "informative_coverage_A", "informative_coverage_B")
"""Columns whose means over the last cycle of the temperature are milestones."""
ENTRIES = {
    "loss_before": "training loss one epoch before the jump, nats", "loss_at": "training loss at the jump, nats",
    "loss_after": "training loss one epoch after the jump, nats",
    "val_before": "validation loss one epoch before the jump, nats", "val_at": "validation loss at the jump, nats",
    "informative_B_before": "informative coverage of B one epoch before the jump, %",
    "informative_B_at": "informative coverage of B at the jump, %",
    "informative_coverage_A": "informative coverage of A at the end, %",
    "informative_coverage_B": "informative coverage of B at the end, %",
    "coverage_A": "sampled coverage of A at the end, %", "coverage_B": "sampled coverage of B at the end, %",
    "epochs": "epochs",
}
"""Words for the milestones that a table compares, by column."""


def milestones(history: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each seed of a history, with the seed as index.

    | columns | content |
    |---|---|
    | epochs, best_epoch, lowest_loss | number of epochs, epoch of the lowest validation loss, lowest training loss |
    | loss_before, loss_at, loss_after | training loss one epoch before, at and one epoch after the jump of β_B, nats |
    | val_before, val_at, val_after | validation loss at these epochs, nats |
    | beta_B_before, beta_B_at, kl_B_before, kl_B_at | β_B and the KL of B (nats) before and at the jump |
    | reconstruction_B_before | percent of validation operations that B reconstructs from its own code before the jump |
    | informative_B_before, informative_B_at | informative coverage of B before and at the jump, percent |
    | the names in `END` | percent, mean over the last cycle of τ_A that all runs have, or over all epochs if fewer |

    The jump is the epoch at which β_B leaves 0. Without a jump, its columns are missing values.
    """
    last = int(history.groupby("seed")["epoch"].max().min())
    rows = {seed: _of_one_run(run.set_index("epoch"), last) for seed, run in history.groupby("seed")}
    return pd.DataFrame(rows).T.rename_axis("seed")


def _of_one_run(rows: pd.DataFrame, last: int) -> dict[str, float]:
    jump = disruption(rows.reset_index())
    places = {"before": -1, "at": 0, "after": 1}

    def at(place: str, column: str) -> float:
        if jump is None or jump + places[place] not in rows.index:
            return math.nan
        return float(rows[column].loc[jump + places[place]])

    return {
        "epochs": len(rows), "best_epoch": float(rows.index[int(rows["val_loss"].argmin())]),
        "lowest_loss": rows["train_loss"].min(),
        **{f"loss_{place}": at(place, "train_loss") for place in places},
        **{f"val_{place}": at(place, "val_loss") for place in places},
        **{f"{column}_{place}": at(place, column) for column in ("beta_B", "kl_B") for place in ("before", "at")},
        "reconstruction_B_before": at("before", "reconstruction_B"),
        **{f"informative_B_{place}": at(place, "informative_coverage_B") for place in ("before", "at")},
        **rows.loc[first_of_end(last):last, list(END)].mean(),
    }


def first_of_end(last: int) -> int:
    """Return the first epoch of the means "at the end" of runs whose last epoch is `last`.

    The end is the last cycle of the temperature τ_A. A run that is shorter than a cycle ends with its last epoch alone.
    """
    return last - CYCLE + 1 if last >= CYCLE - 1 else last


def unbalanced_loss(history: pd.DataFrame, weights: Loss) -> pd.Series[float]:
    """Return the training loss of each row of a history as it would be with the gradient scales g = 1, in nats.

    It is computed from the means of the terms and of λ over the epoch, so it is exact only if λ is constant in the
    epoch. `weights` holds the weights of v5.5's terms; the loss must have no others.
    """
    h = history
    of_A = h["ce_A"] + h["beta_A"] * h["kl_A"]
    of_B = h["ce_B"] + h["beta_B"] * h["kl_B"]
    of_B += weights.repulsion_weight * h["repulsion_B"] - weights.entropy_weight * h["entropy_B"]
    return h["lambda1"] * of_A + h["lambda2"] * of_B + h["loss_alignment"]


def untrained_neg_elbo(runs: RunSet) -> pd.DataFrame:
    """Return -ELBO of the initial weights of runs on their validation split, in nats, with the seed as index.

    The columns are A and B. β, τ, ρ, the KL and the number of posterior samples are those of `neg_elbo` in a history.
    """
    rows = {}
    for seed, run in runs.items():
        c = run.config
        x = space.operations(splits.split(c.data).validation).unsqueeze(0)
        shape = (c.evaluation.elbo_samples, 2, 1, x.shape[1], c.model.latent_dim)
        noise = Streams([seed], "evaluation", device=torch.device("cpu")).normal(*shape)[0]
        rows[seed] = negative_elbo(untrained(seed, c.model).core, x, noise)[:, 0].tolist()
    return pd.DataFrame.from_dict(rows, orient="index", columns=["A", "B"]).rename_axis("seed")


def shares_of_range(ours: pd.DataFrame, theirs: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return where the values of other runs lie, compared with the range of our runs at the same epoch.

    There is a row for each column in `names`, before and from the jump of β_B in our runs. The columns are quantity,
    jump ("before" or "from"), and below, inside and above, in percent of the epochs that both have. If all runs have
    the same distribution, a value lies inside the range of n runs with the probability (n - 1)/(n + 1). Our values are
    rounded to as many decimals as the other runs have, so a range of small values may be a single number.
    """
    jump = disruption(ours)
    if jump is None:
        raise RunError("ours: the history has no jump of β_B, so no epoch is before it: give runs that have the jump")
    decimals = {name: _decimals(theirs[name]) for name in names}
    ends = ours.round(decimals).groupby("epoch")[list(names)]
    low, high = ends.min(), ends.max()
    shared = theirs[theirs["epoch"].isin(low.index)].round(decimals).set_index("epoch")[list(names)]
    rows = []
    for name in names:
        for place, rows_of in (("before", shared.index < jump), ("from", shared.index >= jump)):
            values = shared.loc[rows_of, name]
            under, over = values < low.loc[values.index, name], values > high.loc[values.index, name]
            rows.append({
                "quantity": name, "jump": place, "below": 100 * under.mean(), "inside": 100 * (~under & ~over).mean(),
                "above": 100 * over.mean(),
            })
    return pd.DataFrame(rows)


def agreement_words(shares: pd.DataFrame, place: str, expected: float, names: Mapping[str, str]) -> str:
    """Return for how many quantities the share inside is as large as expected, and the quantity with the lowest share.

    `shares` is the table of `shares_of_range`, `place` is "before" or "from", `expected` is in percent, and `names` has
    the words for each quantity.
    """
    rows = shares[shares["jump"] == place].set_index("quantity")
    least = str(rows["inside"].idxmin())
    parts = [f"{part} {share:.0f} %" for part, share in rows.loc[least, ["inside", "below", "above"]].items()]
    return (
        f"at least this share is inside for {(rows['inside'] >= expected).sum()} of {len(rows)} quantities; the lowest "
        f"share is that of {names[least]} ({', '.join(parts)})"
    )


def _decimals(values: pd.Series[float], most: int = 12) -> int:
    """Return the number of digits after the decimal point with which values are written, at most `most`."""
    return next((k for k in range(most) if (values.round(k) - values).abs().max() < 10.0 ** -most), most)


@dataclass(frozen=True)
class Statement:
    """A statement about one quantity of a run."""

    quantity: str
    limit: str
    value: Callable[[pd.DataFrame], pd.Series[float]]
    """The quantity of each run, from the table of `milestones`."""
    holds: Callable[[pd.Series[float]], pd.Series[bool]]


def statements() -> list[Statement]:
    """Return the statements that notebook 02 makes about every run of v5.5.

    Their thresholds were chosen for this library, after its first runs.
    """
    return [
        Statement("training loss at the jump / one epoch before", "at least 5",
                  lambda m: m["loss_at"] / m["loss_before"], lambda v: v >= 5),
        Statement("validation loss at the jump / one epoch after", "within 10 % of 1",
                  lambda m: m["val_at"] / m["val_after"], lambda v: (v - 1).abs() <= 0.1),
        Statement("KL of B at the jump / one epoch before", "below 0.5",
                  lambda m: m["kl_B_at"] / m["kl_B_before"], lambda v: v < 0.5),
        Statement("informative coverage of B at the jump / before", "over 5",
                  lambda m: m["informative_B_at"] / m["informative_B_before"], lambda v: v > 5),
        Statement("reconstruction by B from its own code before the jump, validation, %", "above 99",
                  lambda m: m["reconstruction_B_before"], lambda v: v > 99),
        Statement("epoch of the lowest validation loss", "below 10", lambda m: m["best_epoch"], lambda v: v < 10),
        Statement("lower sampled coverage of A and B at the end, %", "above 98",
                  lambda m: m[["coverage_A", "coverage_B"]].min(axis=1), lambda v: v > 98),
    ]


def statement_table(history: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each statement: quantity, its median and range, the statement, and in how many runs it holds."""
    found = milestones(history)
    rows = []
    for statement in statements():
        values = statement.value(found)
        true = statement.holds(values)
        rows.append((statement.quantity, median_and_range(values), statement.limit, f"{true.sum()} of {len(true)}"))
    return pd.DataFrame(rows, columns=["quantity", "median [lowest, highest]", "statement", "true in"])


def compared(history: pd.DataFrame, published: pd.DataFrame, same_seeds: bool) -> pd.DataFrame:
    """Return the milestones of runs that were trained here beside those of the published runs of v5.5.

    Each text is `median [lowest, highest]`, or one number for one run. If `same_seeds` is true, a column has the
    published runs of the seeds of `history`.
    """
    here, there = milestones(history), milestones(published)
    groups = {f"trained here, n = {len(here)}": here}
    if same_seeds:
        groups["published, same seeds"] = there.loc[there.index.intersection(here.index)]
    groups[f"published, n = {len(there)}"] = there
    return pd.DataFrame({
        "quantity": list(ENTRIES.values()),
        **{title: [median_and_range(runs[name]) for name in ENTRIES] for title, runs in groups.items()},
    })

"""Tables on the choice of a checkpoint: what each criterion chooses, and what the chosen checkpoint is worth.

A criterion reads the training and validation splits or draws from the prior (`history.best_epoch`). The chosen
checkpoint is judged by outcomes. -ELBO, -IWAE and reconstruction are measured on the test split, and sampled coverage
is counted on draws that no criterion reads. Informative and effective coverage were measured only once after each
epoch, from the same latents. Each outcome is a mean over both pathways, because one checkpoint is chosen for both.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ternary_lab import history
from ternary_lab.metrics.quantities import QUANTITIES, label
from ternary_lab.model import PATHWAYS
from ternary_lab.runs.load import RunSet

OUTCOMES = {
    **{name: label(name) for name in (
        "coverage", "informative_coverage", "effective_coverage", "reconstruction_test",
    )},
    **{name: label(name, "test") for name in ("neg_elbo", "neg_iwae")},
}
"""Quantities by which a checkpoint is judged, with their labels."""
CRITERIA: dict[str, str] = {
    **{name: QUANTITIES[name].words for name in history.CRITERIA},
    "val_loss": "validation loss as scheduled", "reconstruction": "validation reconstruction",
}
"""Descriptions of the criteria of `history.best_epoch`, by name."""
CIRCULAR = {CRITERIA["informative_coverage"]: ("informative_coverage", "effective_coverage")}
"""The outcomes that come from the same latents as a criterion, by the criterion.

Such an outcome cannot judge the criterion: the criterion would choose errors of the measurement too.
"""
_SOURCES = {
    "coverage": ("coverage_195000",), "reconstruction_test": ("own_test",), "neg_elbo": ("rate", "distortion"),
    "neg_iwae": ("iwae",),
}
"""The columns of the probes whose sum is an outcome, without the pathway."""


def checkpoint_outcomes(runs: RunSet) -> pd.DataFrame:
    """Return a table with a row per run and epoch that has probes.

    The columns are those of the history and those of `OUTCOMES`. Raises RunError for a run without probes.
    """
    parts = []
    for run in runs.values():
        probes, rows = run.probed(), run.history
        measured = pd.DataFrame({"epoch": probes["epoch"]})
        for name, columns in _SOURCES.items():
            measured[name] = sum(probes[f"{column}_{p}"] for column in columns for p in PATHWAYS) / 2
        for name in ("informative_coverage", "effective_coverage"):
            rows[name] = (rows[f"{name}_A"] + rows[f"{name}_B"]) / 2
        parts.append(rows.merge(measured, on="epoch"))
    return pd.concat(parts, ignore_index=True)


def chosen_epochs(outcomes: pd.DataFrame, last: int | None = None, fixed: Sequence[int] = ()) -> pd.DataFrame:
    """Return the outcomes of the epoch that each rule chooses, for each seed.

    The columns are rule, seed, epoch and those of `OUTCOMES`. The rules are the criteria, each epoch in `fixed`, and
    the last epoch if it is not fixed. The rule of the fixed epoch 60 is called `epoch 60`. Only epochs up to `last` can
    be chosen. Outcomes that are `CIRCULAR` for a criterion are nan.
    """
    rows = []
    for seed, run in outcomes.groupby("seed"):
        within = run if last is None else run[run["epoch"] <= last]
        at, end = within.set_index("epoch"), int(within["epoch"].max())
        epochs = {title: history.best_epoch(within, name) for name, title in CRITERIA.items()}  # type: ignore[arg-type]
        epochs |= {f"epoch {epoch}": epoch for epoch in fixed}
        if end not in fixed:
            epochs["last epoch"] = end
        for rule, epoch in epochs.items():
            judged = at.loc[epoch, list(OUTCOMES)].to_dict() | dict.fromkeys(CIRCULAR.get(rule, ()), float("nan"))
            rows.append({"rule": rule, "seed": seed, "epoch": epoch, **judged})
    return pd.DataFrame(rows)


def regret(choices: pd.DataFrame, outcomes: pd.DataFrame, last: int | None = None) -> pd.DataFrame:
    """Return `choices` with each outcome replaced by its distance from the best value in the run.

    A distance of 0 is the best; a worse outcome has a positive distance. `choices` is a table of `chosen_epochs`, and
    `outcomes` a table of `checkpoint_outcomes`. The best value is taken over epochs up to `last`.
    """
    within = outcomes if last is None else outcomes[outcomes["epoch"] <= last]
    table = choices.copy()
    for outcome in OUTCOMES:
        smaller = QUANTITIES[outcome].better == "less"
        groups = within.groupby("seed")[outcome]
        gap = choices[outcome] - choices["seed"].map(groups.min() if smaller else groups.max())
        table[outcome] = gap if smaller else -gap
    return table


def readings_by_epoch(runs: RunSet, epochs: Sequence[int]) -> pd.DataFrame:
    """Return how well pathways decode their own codes and injected codes after some epochs, from the probes.

    The columns are epoch, seed, rho, own and injected (percent exact of test operations and of all operations),
    neg_elbo (nats, own code, test split), informative_coverage and effective_coverage (percent). All but rho are means
    over both pathways. `injected` uses the permeability ρ of the epoch, as training does; `own` uses ρ = 0. Raises
    RunError for a run without probes.
    """
    outcomes = checkpoint_outcomes(runs)
    probes = pd.concat([run.probed() for run in runs.values()])
    injected = probes[["seed", "epoch"]].assign(injected=(probes["injected_A"] + probes["injected_B"]) / 2)
    table = outcomes.merge(injected, on=["seed", "epoch"]).rename(columns={"reconstruction_test": "own"})
    columns = ["epoch", "seed", "rho", "own", "injected", "neg_elbo", "informative_coverage", "effective_coverage"]
    return table.loc[table["epoch"].isin(epochs), columns].reset_index(drop=True)

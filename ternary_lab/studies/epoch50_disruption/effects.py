"""Main effects of the nine entries on the codes (`metrics.entry_effects`), by run and epoch.

The table of effects has a row per model, seed, epoch and pathway, and the columns

    model              name of an experiment, or untrained: the networks of the same seeds before training
    epoch              epoch of the weights; -1 for untrained networks
    explained          R² of the sum of the main effects, 0..1
    largest_cosine     largest |cos| between the steps of two entries, 0..1
    shortest, longest  lengths of the shortest and the longest of the nine steps
    ratio              longest / shortest; 1 if all steps have the same length
    own                operations that the decoder gives back from their code μ, percent. Argmax decodes all entries
    fitted             operations that the decoder gives back from the sum of the main effects alone, percent

The published runs keep the weights of only some seeds and epochs. `tools/publish.py` makes the table from all of them,
while their weights are still there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from ternary_lab import space
from ternary_lab.backend.console import bar
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.config import COUNTERFACTUALS
from ternary_lab.metrics.baselines import untrained
from ternary_lab.metrics.entry_effects import entry_effects
from ternary_lab.metrics.likelihood import percent_exact, right_entries
from ternary_lab.model import PATHWAYS, TernaryVAE
from ternary_lab.runs.files import read_csv
from ternary_lab.runs.load import EFFECTS, PUBLISHED, RunSet
from ternary_lab.studies.statistics import paired_differences

UNTRAINED = "untrained"
SCHEDULED, STAYS = (f"{COUNTERFACTUALS}/{name}" for name in ("as_scheduled", "beta_b_stays_0"))
EXPERIMENTS = ("v5_5", "beyond", SCHEDULED, STAYS)
"""Experiments in the published table."""
OTHER_NETWORKS = {SCHEDULED: "as scheduled", STAYS: "β_B stays 0", "beyond": "beyond"}
"""Published experiments that are compared with v5.5, with their names in a table."""
TOLD = (0, 49, 50, 60, 100)
"""Epochs in a table of texts."""
BEFORE, AFTER = 49, 50
"""Epochs before and after the jump of β_B."""
COSINE = "largest_cosine"
"""The quantity that decides whether the steps have become orthogonal."""
OTHERS = ("ratio", "longest")
"""Further quantities of the steps."""


@with_fixed_arithmetic
@torch.no_grad()
def model_effects(model: TernaryVAE) -> list[dict[str, Any]]:
    """Return the columns of the table from `pathway` on, for each pathway of a model."""
    x = space.operations().to(model.device).unsqueeze(0)
    mu, _ = model.core.encode(x)
    found = entry_effects(mu)
    own, fitted = (percent_exact(right_entries(model.core, code, x)) for code in (mu, found.fitted()))
    shortest, longest = found.lengths.aminmax(dim=-1)
    columns = {
        "explained": found.explained, COSINE: found.largest_cosine, "shortest": shortest, "longest": longest,
        "ratio": longest / shortest, "own": own, "fitted": fitted,
    }
    return [
        {"pathway": pathway, **{name: float(values[i, 0]) for name, values in columns.items()}}
        for i, pathway in enumerate(PATHWAYS)
    ]


def measured_effects(groups: Mapping[str, RunSet], *, progress: bool = False) -> pd.DataFrame:
    """Return the table of effects of several experiments, given by name, and of untrained networks.

    The epochs are those with saved weights or, if a run has saved no epoch, its last one. The untrained networks have
    the seeds and the architecture of the first experiment. Raises RunError for a run without weights.
    """
    rows = []
    first = next(iter(groups.values()))
    for seed, run in first.items():
        model = untrained(seed, run.config.model)
        rows += [{"model": UNTRAINED, "seed": seed, "epoch": -1, **its} for its in model_effects(model)]
    points = [
        (name, seed, run, epoch) for name, runs in groups.items() for seed, run in runs.items()
        for epoch in run.epochs or [run.checkpoint().epoch]
    ]
    for name, seed, run, epoch in bar(points, desc="entry effects", unit="epoch", show=progress):
        rows += [{"model": name, "seed": seed, "epoch": epoch, **its} for its in model_effects(run.model(epoch))]
    return pd.DataFrame(rows)


def load_effects(runs: RunSet, *, progress: bool = False) -> pd.DataFrame:
    """Return the table of effects of runs of one experiment and of untrained networks of the same seeds.

    The name of the model is that of the configuration. The rows come from the published table if the runs are
    published, and otherwise from their weights. Raises RunError for a run without weights.
    """
    name = next(iter(runs.values())).config.name
    table = published_effects()
    kept = table[table["model"].isin((name, UNTRAINED)) & table["seed"].isin(list(runs))]
    published = all(run.path.is_relative_to(PUBLISHED / name) for run in runs.values())
    if published and set(runs) == set(kept.loc[kept["model"] == name, "seed"]):
        return kept.reset_index(drop=True)
    return measured_effects({name: runs}, progress=progress)


def published_effects() -> pd.DataFrame:
    """Return the published table of effects of the `EXPERIMENTS` and of untrained networks."""
    return read_csv(PUBLISHED / EFFECTS)


def named_networks(table: pd.DataFrame) -> pd.DataFrame:
    """Return rows of a table of effects with words for model and epoch in the column network, for a table of texts.

    The rows are those of the epochs in `TOLD` of the table of `load_effects`, and then those of other published
    experiments at their last epoch.
    """
    told = table[table["epoch"].isin((-1, *TOLD))].sort_values(["epoch", "pathway", "seed"])
    parts = [told.assign(network=[UNTRAINED if epoch < 0 else f"epoch {epoch}" for epoch in told["epoch"]])]
    others = published_effects()
    for name, words in OTHER_NETWORKS.items():
        its = others[others["model"] == name]
        last = its[its["epoch"] == its["epoch"].max()].sort_values(["pathway", "seed"])
        seeds = last["seed"].nunique()
        few = f" ({seeds} seed{'s' * (seeds > 1)})" if seeds < table["seed"].nunique() else ""
        parts.append(last.assign(network=f"epoch {its['epoch'].max()}, {words}{few}"))
    return pd.concat(parts, ignore_index=True)


def factors(table: pd.DataFrame, group: str, base: Any, metrics: Sequence[str] = (COSINE, *OTHERS)) -> pd.DataFrame:
    """Return the factors by which quantities of the steps differ from those of the group `base`, paired by seed.

    The columns are those of `statistics.paired_differences`, with the pathway. The mean is the geometric mean of the
    factors. The intervals are computed on the logarithmic scale. The largest |cos| is one family of comparisons, and
    the other quantities are another.
    """
    logarithms = table.assign(**{name: np.log(table[name]) for name in metrics})
    found = paired_differences(logarithms, group, base, metrics, by=["pathway"], primary=COSINE)
    return found.assign(**{name: np.exp(found[name]) for name in ("mean", "low", "high")})

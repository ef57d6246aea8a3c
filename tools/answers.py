"""Answers to the report's recommendations that no history holds: of every seed's weights, a row per measure.

    measure                                    | value, mean of both pathways
    <member>: informative_coverage, neg_iwae, noisy   | `model_choice.checkpoint_ensembles`: percent, nats, percent
    path: detour, path: between                | `generalisation.interpolation`, straight paths at epoch 100
"""

from __future__ import annotations

import pandas as pd

from ternary_lab.backend.numerics import fenced
from ternary_lab.runs.load import RunSet
from ternary_lab.studies.checkpoints_and_ensembles.tables import RECOMMENDED, checkpoint_ensembles
from ternary_lab.studies.generalisation.tables import interpolation

MEASURES = ("informative_coverage", "neg_iwae", "noisy")


@fenced
def answers(runs: RunSet, *, progress: bool = False) -> pd.DataFrame:
    """seed, measure, value of runs that kept the weights of `RECOMMENDED` epochs. Raises RunError for others."""
    together = checkpoint_ensembles(runs, progress=progress)
    means = together.groupby(["seed", "member"], sort=False)[list(MEASURES)].mean().reset_index()
    rows = [
        {"seed": seed, "measure": f"{member}: {name}", "value": value}
        for name in MEASURES
        for seed, member, value in zip(means["seed"], means["member"], means[name], strict=True)
    ]
    walks = interpolation(runs, RECOMMENDED[-1])
    walks = walks[(walks["model"] != "untrained") & (walks["way"] == "straight")]
    for seed, some in walks.groupby("seed"):
        for name in ("detour", "between"):
            value = float((some[name] * some["count"]).sum() / some["count"].sum())
            rows.append({"seed": seed, "measure": f"path: {name}", "value": value})
    return pd.DataFrame(rows).dropna(ignore_index=True)

"""Answers to the report's recommendations that no history holds: of every seed's weights, a row per measure.

    measure                                    | value, mean of both pathways
    <member>: info_coverage, neg_iwae, noisy   | `model_choice.checkpoint_ensembles`: percent, nats, percent
    path: detour, path: between                | `generalisation.interpolation`, straight paths at epoch 100
"""

from __future__ import annotations

import pandas as pd

from ternary_lab.generalisation import interpolation
from ternary_lab.model_choice import RECOMMENDED, checkpoint_ensembles
from ternary_lab.record import RunSet

MEASURES = ("info_coverage", "neg_iwae", "noisy")


def answers(runs: RunSet, *, progress: bool = False) -> pd.DataFrame:
    """seed, measure, value of runs that kept the weights of `RECOMMENDED` epochs. Raises RunError for others."""
    together = checkpoint_ensembles(runs, progress=progress)
    long = together.groupby(["seed", "member"], sort=False)[list(MEASURES)].mean().stack().rename("value").reset_index()
    long["measure"] = long["member"] + ": " + long["level_2"]
    walks = interpolation(runs, RECOMMENDED[-1])
    walks = walks[(walks["model"] != "untrained") & (walks["way"] == "straight")]
    paths = [
        {"seed": seed, "measure": f"path: {name}", "value": float((rows[name] * rows["count"]).sum() / total)}
        for seed, rows in walks.groupby("seed") for total in [rows["count"].sum()] for name in ("detour", "between")
    ]
    return pd.concat([long[["seed", "measure", "value"]].dropna(), pd.DataFrame(paths)], ignore_index=True)

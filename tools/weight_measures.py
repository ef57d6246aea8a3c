"""Measures of several checkpoints together, for the report's recommendations: a row per seed and measure.

    measure                                           | value, mean of both pathways
    <member>: informative_coverage, neg_iwae, noisy   | `checkpoint_ensembles`: percent, nats, percent
    path: detour, path: between                       | `generalisation.tables.path_qualities`, straight, at epoch 100
"""

from __future__ import annotations

import pandas as pd

from ternary_lab.backend.numerics import fenced
from ternary_lab.runs.load import RunSet
from ternary_lab.studies.checkpoints_and_ensembles.tables import RECOMMENDED, checkpoint_ensembles
from ternary_lab.studies.generalisation.tables import path_qualities

MEASURES = ("informative_coverage", "neg_iwae", "noisy")


@fenced
def weight_measures(runs: RunSet, *, progress: bool = False) -> pd.DataFrame:
    """seed, measure, value of runs that kept the weights of `RECOMMENDED` epochs. Raises RunError for others."""
    together = checkpoint_ensembles(runs, progress=progress)
    means = together.groupby(["seed", "member"], sort=False)[list(MEASURES)].mean().reset_index()
    rows = [
        {"seed": seed, "measure": f"{member}: {name}", "value": value}
        for name in MEASURES
        for seed, member, value in zip(means["seed"], means["member"], means[name], strict=True)
    ]
    paths = path_qualities(runs, RECOMMENDED[-1])
    paths = paths[(paths["model"] != "untrained") & (paths["way"] == "straight")]
    for seed, some in paths.groupby("seed"):
        for name in ("detour", "between"):
            value = float((some[name] * some["count"]).sum() / some["count"].sum())
            rows.append({"seed": seed, "measure": f"path: {name}", "value": value})
    return pd.DataFrame(rows).dropna(ignore_index=True)

"""Measures of the weights of several checkpoints, which the report's recommendations use.

A value is the mean of both pathways. The first column shows the names of the measures, the second column their source:

    measure                                           | source
    <member>: informative_coverage, neg_iwae, noisy   | `checkpoint_ensembles`: percent, nats, percent
    path: detour, path: between                       | `generalisation.tables.path_qualities`, straight, at epoch 100
"""

from __future__ import annotations

import pandas as pd

from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.runs.load import RunSet
from ternary_lab.studies.checkpoints_and_ensembles.tables import RECOMMENDED, checkpoint_ensembles
from ternary_lab.studies.generalisation.tables import path_qualities

MEASURES = ("informative_coverage", "neg_iwae", "noisy")


@with_fixed_arithmetic
def weight_measures(runs: RunSet, *, progress: bool = False) -> pd.DataFrame:
    """Return a table with the columns seed, measure and value, and one row per seed and measure.

    The runs must have kept the weights of the `RECOMMENDED` epochs. Raises RunError otherwise.
    """
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

"""Measures of the weights of several checkpoints, for the report's recommendations and for notebook 08.

A value is the mean of both pathways. The first column shows the names of the measures, the second column their source:

    measure                                    | source
    <member>: informative_coverage, ...        | `checkpoints_and_ensembles.tables.measured_ensembles`, all its columns
    path: detour, path: between                | `generalisation.tables.path_qualities`, straight, at epoch 100

The published runs keep the weights of only some seeds, because all weights are too large to publish. `tools/publish.py`
makes this table from all seeds, while their weights are still there.
"""

from __future__ import annotations

import pandas as pd

from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.runs.load import RunSet
from ternary_lab.studies.checkpoints_and_ensembles.tables import RECOMMENDED, measured_ensembles
from ternary_lab.studies.generalisation.tables import path_qualities


@with_fixed_arithmetic
def weight_measures(runs: RunSet, *, progress: bool = False) -> pd.DataFrame:
    """Return a table with the columns seed, measure and value, and one row per seed and measure.

    The runs must have kept the weights of the `RECOMMENDED` epochs. Raises RunError otherwise.
    """
    together = measured_ensembles(runs, progress=progress)
    long = together.melt(["member", "seed"], var_name="name").dropna(ignore_index=True)
    measures = pd.DataFrame({"seed": long["seed"], "measure": long["member"] + ": " + long["name"],
                             "value": long["value"]})
    rows = []
    paths = path_qualities(runs, RECOMMENDED[-1])
    paths = paths[(paths["model"] != "untrained") & (paths["way"] == "straight")]
    for seed, some in paths.groupby("seed"):
        for name in ("detour", "between"):
            value = float((some[name] * some["count"]).sum() / some["count"].sum())
            rows.append({"seed": seed, "measure": f"path: {name}", "value": value})
    return pd.concat([measures, pd.DataFrame(rows)], ignore_index=True)

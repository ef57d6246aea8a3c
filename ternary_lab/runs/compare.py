"""Comparison of two runs: settings, last metrics and histories."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ternary_lab.arguments import require
from ternary_lab.config import differences
from ternary_lab.errors import RunError
from ternary_lab.runs.load import RunRecord


@dataclass(frozen=True)
class Comparison:
    """Settings, last metrics and histories of two runs, which are called a and b."""

    settings: pd.DataFrame
    """The settings that differ. The index is the dotted key of a setting. The columns are a and b."""
    final: pd.DataFrame
    """The last epoch of each run. The index is a column of the history. The columns are a and b."""
    histories: pd.DataFrame
    """The rows of both histories. The column `which` is a or b."""


def compare(run_a: RunRecord, run_b: RunRecord) -> Comparison:
    """Return the settings that differ, the metrics of the last epochs, and the histories of two runs.

    Raises RunError if a run has no finished epoch.
    """
    for run in (run_a, run_b):
        require(run, RunRecord, "run", "read it with load_run")
        if run.history.empty:
            raise RunError(f"{run.path}: has no epoch yet: wait for its first, or train it on")
    changed = differences(run_a.config, run_b.config)
    settings = pd.DataFrame(
        {"a": [a for a, _ in changed.values()], "b": [b for _, b in changed.values()]},
        index=pd.Index(changed, name="key"),
    )
    histories = {"a": run_a.history, "b": run_b.history}
    final = pd.DataFrame({which: history.iloc[-1] for which, history in histories.items()}).drop(index=["run"])
    return Comparison(settings, final, pd.concat([table.assign(which=which) for which, table in histories.items()]))

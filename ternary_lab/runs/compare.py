"""Comparison of two runs: settings, last metrics and histories."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ternary_lab.config import differences
from ternary_lab.errors import RunError
from ternary_lab.runs.load import RunRecord


@dataclass(frozen=True)
class Comparison:
    """Two runs, a and b, side by side."""

    settings: pd.DataFrame
    """The settings that differ. Index: dotted key; columns a and b."""
    final: pd.DataFrame
    """The last epoch. Index: column of the history; columns a and b."""
    histories: pd.DataFrame
    """Both histories; the column `which` is a or b."""


def compare(run_a: RunRecord, run_b: RunRecord) -> Comparison:
    """The settings that differ, the final metrics and the histories of two runs.

    Raises RunError for a run without a finished epoch.
    """
    for run in (run_a, run_b):
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

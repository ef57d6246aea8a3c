"""The figures of the report that are not of one history: verdicts, disruption, counterfactuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ternary_lab.figures.save import Drawing, save_figure
from ternary_lab.studies.epoch50_disruption import figures
from ternary_lab.studies.epoch50_disruption.tables import Branch
from ternary_lab.studies.report import Evidence, Judgement
from ternary_lab.studies.report.figures import verdicts

REPORT = ("verdicts", "disruption_terms", "disruption_codes", "counterfactuals", "counterfactuals_final")


def draw_report(
    trial: Evidence,
    judgements: Sequence[Judgement],
    branches: Mapping[str, Branch],
    folder: str | Path,
    *,
    notebook: str = "ternary_lab.figures",
    parameters: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Draw the figures of `REPORT` into a folder and return the files. Raises RunError as `save_figure` does."""
    history = pd.concat([run.history.reset_index() for run in trial.runs], ignore_index=True)
    drawings: dict[str, Drawing] = {"verdicts": verdicts(judgements), "disruption_terms": figures.terms(history)}
    if all("norm_B" in run.probes for run in trial.runs):
        probes = pd.concat([run.probes.reset_index() for run in trial.runs], ignore_index=True)
        drawings["disruption_codes"] = figures.codes(probes)
    drawings |= {"counterfactuals": figures.trajectories(branches), "counterfactuals_final": figures.final(branches)}
    files: list[Path] = []
    for name, drawing in drawings.items():
        files += save_figure(
            drawing.figure, folder, name, drawing.data, drawing.alt, notebook, parameters or {},
            [run.seed for run in trial.runs],
        )
    return files

"""`python -m ternary_lab.figures FOLDER`: the figures of the published runs of v5.5 and of the report on them."""

from __future__ import annotations

import sys

from studies import draw_studies

from ternary_lab.errors import TernaryLabError
from ternary_lab.explorer.animation import animate_codes
from ternary_lab.explorer.codes_by_epoch import CodesByEpoch
from ternary_lab.figures import Gallery, draw_all
from ternary_lab.runs.load import load_run, load_runs
from ternary_lab.studies.epoch50_disruption.tables import load_branches
from ternary_lab.studies.report import collect, judge_all
from ternary_lab.studies.report.figures import report_figures

RUNS, EXPLORED = "v5_5", "v5_5/seed=42"

if __name__ == "__main__":
    try:
        folder, origin = sys.argv[1] if len(sys.argv) > 1 else "figures", {"runs": RUNS}
        draw_all(load_runs(RUNS), folder, parameters=origin, progress=sys.stderr.isatty())
        trial = collect([RUNS])
        gallery = Gallery(folder, "ternary_lab.figures", origin, [run.seed for run in trial.runs])
        for name, drawing in report_figures(trial, judge_all(trial), load_branches()).items():
            gallery.save(name, drawing)
        draw_studies(folder, progress=sys.stderr.isatty())
        gallery = Gallery(folder, "ternary_lab.figures", {"run": EXPLORED})
        gallery.save("epoch50", animate_codes(CodesByEpoch(load_run(EXPLORED))))
    except TernaryLabError as error:
        sys.exit(f"error: {error}")
    print(f"{folder}: figures of {RUNS}")

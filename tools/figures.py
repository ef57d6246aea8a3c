"""`python tools/figures.py FOLDER`: draw the figures of the published runs of v5.5 and of the report."""

from __future__ import annotations

import sys

from studies import draw_studies

from ternary_lab.errors import TernaryLabError
from ternary_lab.explorer.animation import morph
from ternary_lab.explorer.codes_by_epoch import Atlas
from ternary_lab.figures import draw_all
from ternary_lab.figures.save import save_files
from ternary_lab.runs.load import load_run, load_runs
from ternary_lab.studies.epoch50_disruption.tables import load_branches
from ternary_lab.studies.report import collect_evidence, judge_all
from ternary_lab.studies.report.draw import draw_report

RUNS, EXPLORED = "v5_5", "v5_5/seed=42"

if __name__ == "__main__":
    try:
        folder, origin = sys.argv[1] if len(sys.argv) > 1 else "figures", {"runs": RUNS}
        draw_all(load_runs(RUNS), folder, parameters=origin, progress=sys.stderr.isatty())
        evidence = collect_evidence([RUNS])
        draw_report(evidence, judge_all(evidence), load_branches(), folder, parameters=origin)
        draw_studies(folder, progress=sys.stderr.isatty())
        run = load_run(EXPLORED)
        animation, alt = morph(Atlas(run))
        save_files(
            folder, "epoch50", {"epoch50.gif": animation}, alt, "ternary_lab.figures", {"run": EXPLORED}, [run.seed]
        )
    except TernaryLabError as error:
        sys.exit(f"error: {error}")
    print(f"{folder}: figures of {RUNS}")

"""`python -m ternary_lab.figures FOLDER`: the figures of the published runs of v5.5 and of the report on them."""

from __future__ import annotations

import sys

from ternary_lab.claims import collect, judge_all
from ternary_lab.disruption import load_branches
from ternary_lab.errors import TernaryLabError
from ternary_lab.figures import draw_all, draw_report
from ternary_lab.record import load_runs

RUNS = "v5_5"

if __name__ == "__main__":
    try:
        folder, origin = sys.argv[1] if len(sys.argv) > 1 else "figures", {"runs": RUNS}
        draw_all(load_runs(RUNS), folder, parameters=origin, progress=sys.stderr.isatty())
        trial = collect([RUNS])
        draw_report(trial, judge_all(trial), load_branches(), folder, parameters=origin)
    except TernaryLabError as error:
        sys.exit(f"error: {error}")
    print(f"{folder}: figures of {RUNS}")

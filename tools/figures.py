"""Figures of the README that no notebook shows.

`python tools/figures.py FOLDER` saves the figures of the histories of all published runs of v5.5, and the animation of
the codes around epoch 50.
"""

from __future__ import annotations

import sys

from ternary_lab.errors import TernaryLabError
from ternary_lab.figures import Gallery, draw_all
from ternary_lab.runs.load import load_run, load_runs
from ternary_lab.studies.epoch50_disruption.animation import animate_steps

RUNS, EXPLORED = "v5_5", "v5_5/seed=42"

if __name__ == "__main__":
    try:
        folder = sys.argv[1] if len(sys.argv) > 1 else "figures"
        draw_all(
            load_runs(RUNS), folder, notebook="tools/figures.py", parameters={"runs": RUNS},
            progress=sys.stderr.isatty(),
        )
        gallery = Gallery(folder, "tools/figures.py", {"run": EXPLORED})
        gallery.save("epoch50", animate_steps(load_run(EXPLORED)))
    except TernaryLabError as error:
        sys.exit(f"error: {error}")
    print(f"{folder}: figures of {RUNS}")

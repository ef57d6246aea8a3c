"""`python -m ternary_lab.figures FOLDER`: the figures of the published run of v5.5."""

from __future__ import annotations

import sys

from ternary_lab.errors import TernaryLabError
from ternary_lab.figures import draw_all
from ternary_lab.record import load_run

RUN = "v5_5/seed=42"

if __name__ == "__main__":
    try:
        folder = sys.argv[1] if len(sys.argv) > 1 else "figures"
        draw_all(load_run(RUN), folder, parameters={"run": RUN}, progress=sys.stderr.isatty())
    except TernaryLabError as error:
        sys.exit(f"error: {error}")
    print(f"{folder}: figures of {RUN}")

"""Figure of the speed as a function of the number of runs that are trained together.

`python benchmarks/scaling.py benchmarks` draws the results of `make bench` from the JSON files in the folder
`benchmarks`. The figure is saved in the same folder.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bench import floor_seconds
from matplotlib.ticker import NullLocator, ScalarFormatter

from ternary_lab.errors import RunError
from ternary_lab.figures.save import Drawing, Gallery
from ternary_lab.figures.style import GREEN, INK, PATHWAY, PURPLE, figure_of, panels, style

Results = Mapping[str, Mapping[str, Any]]
"""For each name of a device, the JSON that the benchmark writes."""


def scaling_data(results: Results) -> pd.DataFrame:
    """Return a table with one row per device and cohort size.

    Seconds are the share of one run: the seconds of the cohort divided by the number of runs.
    """
    rows = []
    for name, result in results.items():
        for runs, row in result["cohorts"].items():
            parts = (f"{part}_seconds" for part in ("train", "eval", "epoch"))
            shares = {part: row.get(part, math.nan) / int(runs) for part in parts}
            rows.append({
                "device": name, "runs": int(runs), **shares, "run_epochs_per_second": row["run_epochs_per_second"],
                "matrix_floor_seconds": floor_seconds(result),
            })
    return pd.DataFrame(rows)


def scaling(results: Results) -> Drawing:
    """Plot run-epochs per second (left) and the seconds of one run's epoch (right) against the number of runs R.

    The right panel shows training, evaluation and both. If there are several devices, each device has its own marker,
    and both axes are logarithmic.
    """
    data = scaling_data(results)
    several = len(results) > 1
    with style():
        left, right = panels(1, 2, 2.6)
        for marker, (name, rows) in zip("os^vD<>p*", data.groupby("device", sort=False), strict=False):
            # With several devices, the left legend names the devices and the right legend the curves.
            of = f", {name}" if not several else ""
            shown = "" if not several or marker == "o" else "_"
            left.plot(rows["runs"], rows["run_epochs_per_second"], marker=marker, color=INK, label=str(name))
            for part, label, colour in (
                ("train", "training alone", PATHWAY["A"]), ("eval", "evaluation alone", PATHWAY["B"]),
                ("epoch", "both, overlapped", GREEN),
            ):
                seconds = rows[f"{part}_seconds"]
                right.plot(rows["runs"], seconds, marker=marker, color=colour, label=f"{shown}{label}{of}")
            floor = rows["matrix_floor_seconds"].iloc[0]
            right.axhline(floor, color=PURPLE, linewidth=0.9, linestyle="--", label=f"{shown}products of training{of}")
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.set_xticks(sorted(data["runs"].unique()))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel("runs trained side by side, R")
        left.set_ylabel("run-epochs a second")
        left.set_title("Throughput with every metric")
        left.legend(loc="lower right")
        right.set_ylabel("seconds of one run's epoch")
        right.set_title("Where the time goes")
        if several:
            left.set_yscale("log")
            right.set_yscale("log")
            seconds = data[["train_seconds", "eval_seconds", "epoch_seconds"]].to_numpy()
            right.set_ylim(np.nanmin(seconds) / 50, 2 * np.nanmax(seconds))
            left.legend(loc="upper left")
            right.legend(loc="lower left")
        else:
            left.set_ylim(0, 1.15 * float(data["run_epochs_per_second"].max()))
            right.set_ylim(0, 1.6 * float(data[["train_seconds", "eval_seconds", "epoch_seconds"]].to_numpy().max()))
            right.legend(loc="upper right")
    parts = []
    for name, result in results.items():
        speeds = [f"{row['run_epochs_per_second']:.2f} at R = {runs}" for runs, row in result["cohorts"].items()]
        parts.append(f"on {name} they are {', '.join(speeds)}")
    alt = (
        "Line charts show the run-epochs a second and the seconds of one epoch by the number R of runs trained side "
        f"by side. The run-epochs a second are as follows: {'; '.join(parts)}."
    )
    return Drawing(figure_of(left), alt, data)


def load(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the results in a folder, by file name. Raises RunError if there is no result or a file cannot be read."""
    results = {}
    for file in sorted(folder.glob("*.json")):
        if file.name == "manifest.json":
            continue
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{file}: cannot be read: {error}") from None
        if not result.get("cohorts") or "matrix_floor_seconds" not in result:
            raise RunError(f"{file}: has no cohort or no matrix floor, because measuring failed: measure again")
        results[file.stem] = result
    if not results:
        raise RunError(f"{folder}: holds no result: run `make bench` first")
    return results


def draw(folder: Path) -> list[Path]:
    """Save the figure of the results in a folder in the same folder, and return the files of the figure."""
    results = load(folder)
    return Gallery(folder, "benchmarks/scaling.py", {"results": list(results)}).save("scaling", scaling(results))


if __name__ == "__main__":
    for path in draw(Path(sys.argv[1])):
        print(path)

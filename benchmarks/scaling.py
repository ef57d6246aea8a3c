"""Speed against the number of runs trained side by side, from the results of `ternary-lab bench`.

`python -m ternary_lab.figures.scaling benchmarks` draws the JSON files of that folder beside them.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bench import floor_seconds
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from ternary_lab.errors import RunError
from ternary_lab.figures.save import save_figure
from ternary_lab.figures.style import GREEN, INK, PATHWAY, PURPLE, panels, style

Results = Mapping[str, Mapping[str, Any]]
"""Name -> what `ternary-lab bench --json` prints."""


def scaling_data(results: Results) -> pd.DataFrame:
    """A row per device and cohort size; seconds are those of one run's epoch, its share of the cohort's."""
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


def scaling(results: Results, ax: Axes | Sequence[Axes] | None = None) -> Figure:
    """Run-epochs a second (left), and the seconds of one run's epoch by part (right), against the number of runs R.

    Several devices have a marker each, the same on both sides, and logarithmic axes.
    """
    data = scaling_data(results)
    several = len(results) > 1
    with style():
        left, right = panels(1, 2, 2.6, ax)
        for marker, (name, rows) in zip("os^vD<>p*", data.groupby("device", sort=False), strict=False):
            # The legend of several names parts; whose they are is in the other legend.
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
            parts = data[["train_seconds", "eval_seconds", "epoch_seconds"]].to_numpy()
            right.set_ylim(np.nanmin(parts) / 50, 2 * np.nanmax(parts))
            left.legend(loc="upper left")
            right.legend(loc="lower left")
        else:
            left.set_ylim(0, 1.15 * float(data["run_epochs_per_second"].max()))
            right.set_ylim(0, 1.6 * float(data[["train_seconds", "eval_seconds", "epoch_seconds"]].to_numpy().max()))
            right.legend(loc="upper right")
    return left.figure  # type: ignore[return-value]


def describe(results: Results) -> str:
    """The figure in words."""
    parts = []
    for name, result in results.items():
        speeds = [f"{row['run_epochs_per_second']:.2f} at R = {runs}" for runs, row in result["cohorts"].items()]
        parts.append(f"{name}: {', '.join(speeds)}")
    return "Run-epochs a second against the number R of runs trained side by side. " + "; ".join(parts) + "."


def load(folder: Path) -> dict[str, dict[str, Any]]:
    """The results in a folder, by file name. Raises RunError when there is none or one cannot be read."""
    results = {}
    for file in sorted(folder.glob("*.json")):
        if file.name == "manifest.json":
            continue
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{file}: cannot be read: {error}") from None
        if not result.get("cohorts") or "matrix_floor_seconds" not in result:
            raise RunError(f"{file}: has no cohort or no matrix floor, for they failed: measure them again")
        results[file.stem] = result
    if not results:
        raise RunError(f"{folder}: holds no result: run `make bench` first")
    return results


def draw(folder: Path) -> list[Path]:
    """Write the figure of a folder's results into the folder."""
    results = load(folder)
    return save_figure(
        scaling(results), folder, "scaling", scaling_data(results), describe(results), "ternary_lab.figures.scaling",
        {"results": list(results)}, [],
    )


if __name__ == "__main__":
    for path in draw(Path(sys.argv[1])):
        print(path)

"""The original system: its printed runs, and facts about its code.

`original_runs.csv` has every epoch that three runs of the original printed on a CPU. `original_code.yaml` has facts
that were read in the original's public repository, with the path and the commit of each file. The project contains
none of the original's code.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ternary_lab.runs.files import read_csv
from ternary_lab.settings import read_yaml
from ternary_lab.studies.report.evidence import Evidence
from ternary_lab.studies.statistics import PERCENT, POSITIVE, Bounds, prediction_interval

COMPARED = (
    "train_loss", "val_loss", "ce_A", "ce_B", "kl_A", "kl_B", "H_A", "H_B", "coverage_A", "coverage_B", "grad_ratio",
)
"""History columns in which the original and the library are compared."""
DIGITS = {"H": 3, "coverage": 2, "grad": 3}
"""Digits after the decimal point that the original prints, by the beginning of a column's name; otherwise 4."""
EPOCHS = (0, 10, 40, 49, 50, 51, 60, 70, 100)
"""Epochs at which they are compared: those for which the report prints figures."""
RUNS = Path(__file__).parent / "original_runs.csv"
CODE = Path(__file__).parent / "original_code.yaml"


@dataclass(frozen=True)
class OriginalCode:
    """Facts about the code and the earlier session of the original."""

    repository: str
    files: Mapping[str, str]
    """The commit at which each file was read, by path."""
    settings: Mapping[str, tuple[str, ...]]
    """Names of the settings that are `read`, `never_read` and `read_without_effect`."""
    values: Mapping[str, float]
    """Values of the settings that the report names."""
    counting: str
    in_checkpoint: tuple[str, ...]
    v5_4_monitoring_interval: int
    early_session: Mapping[str, Any]
    """Figures and words about a run of 106 epochs, from the file of an earlier session."""
    measured_here: Mapping[str, Any]
    """Times in seconds that were measured by running the original's code."""

    @property
    def without_effect(self) -> tuple[str, ...]:
        """Names of the settings that change nothing: those that are never read, and those that are read for nothing."""
        return (*self.settings["never_read"], *self.settings["read_without_effect"])

    @property
    def setting_count(self) -> int:
        return sum(map(len, self.settings.values()))


@functools.cache
def original_code() -> OriginalCode:
    """Return the facts about the original's code that ship with the library."""
    data = read_yaml(CODE.read_text(encoding="utf-8"))
    data["settings"] = {name: tuple(found) for name, found in data["settings"].items()}
    data["in_checkpoint"] = tuple(data["in_checkpoint"])
    return OriginalCode(**data)


@functools.cache
def original_runs() -> pd.DataFrame:
    """Return the epochs that runs of the original printed, with a row per seed and epoch.

    The columns have the names of the library's histories: losses and KL in nats, coverage in percent. The numbers have
    the digits that the original prints.
    """
    return read_csv(RUNS)


def original_agreement(
    evidence: Evidence, columns: Sequence[str] = COMPARED, epochs: Sequence[int] = EPOCHS
) -> pd.DataFrame:
    """Return whether the printed runs of the original lie in the prediction intervals of the library's runs.

    There is a row per column and epoch. The columns are quantity, epoch, seed_42, seed_43, seed_44 (the original's
    values), median, low, high (of the library's runs; low and high are the ends of the 95 % prediction interval for one
    more seed) and inside, the number of the original's values in the interval, to their printed digit. Of the values of
    an equal system, 95 % are expected inside.
    """
    printed = original_runs()
    rows = []
    for column in columns:
        for epoch in epochs:
            its = printed[printed["epoch"] == epoch].set_index("seed")[column]
            ours = [run.at(column, epoch) for run in evidence.runs]
            low, high = prediction_interval(ours, bounds=_bounds(column))
            half = 0.5 * 10.0 ** -_digits(column)
            rows.append({
                "quantity": column, "epoch": epoch, **{f"seed_{seed}": value for seed, value in its.items()},
                "median": float(np.median(ours)), "low": low, "high": high,
                "inside": int(its.between(low - half, high + half).sum()),
            })
    return pd.DataFrame(rows)


def original_tests(
    evidence: Evidence, columns: Sequence[str] = COMPARED, epochs: Sequence[int] = EPOCHS
) -> pd.DataFrame:
    """Test for each quantity whether the original's and the library's runs have the same distribution.

    The statistic of a quantity is the largest difference over the epochs between the two means, each divided by the
    standard deviation of all runs at this epoch. It is compared with the statistics of all other ways to choose as many
    runs (a permutation test, Fisher 1935), so its p is exact. There is a row per quantity, with the columns quantity,
    original and library (numbers of runs), statistic, epoch (that of the largest difference), p and adjusted (p after
    Holm 1979). A small number of runs limits p from below: 1/165 with 3 and 8 runs. All values are compared at the
    digits that the original prints. Runs of the same seed begin with the same weights in both systems, which makes the
    test cautious.
    """
    printed = original_runs()
    rows = []
    for column in columns:
        theirs = printed.pivot_table(index="seed", columns="epoch", values=column)[list(epochs)].to_numpy()
        ours = np.array([[run.at(column, epoch) for epoch in epochs] for run in evidence.runs]).round(_digits(column))
        statistic, place, p = permutation_test(theirs, ours)
        rows.append({
            "quantity": column, "original": len(theirs), "library": len(ours), "statistic": statistic,
            "epoch": epochs[place], "p": p,
        })
    return pd.DataFrame(rows).assign(adjusted=lambda table: holm(table["p"].tolist()))


def permutation_test(first: np.ndarray, second: np.ndarray) -> tuple[float, int, float]:
    """Test whether two samples of runs have the same distribution of K outcomes.

    `first` (m, K) and `second` (n, K) hold the outcomes. The statistic is the largest absolute difference of the two
    means, each divided by the standard deviation of all m + n runs. An outcome that is equal in all runs has the
    difference 0. Returns the statistic, the index of its outcome, and p: the share of all choices of m runs whose
    statistic is at least as large.
    """
    both = np.concatenate([first, second])
    deviations = both.std(0)
    scaled = (both - both.mean(0)) / np.where(deviations > 0, deviations, 1.0)
    indices = np.array(list(combinations(range(len(both)), len(first))))
    chosen = np.zeros((len(indices), len(both)))
    np.put_along_axis(chosen, indices, 1.0, axis=1)
    differences = np.abs(chosen @ scaled / len(first) - (1 - chosen) @ scaled / len(second))
    largest = differences.max(1)  # The first choice is the actual one.
    return float(largest[0]), int(differences[0].argmax()), float((largest >= largest[0] * (1 - 1e-12)).mean())


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's procedure (1979), each at most 1."""
    order = np.argsort(p, kind="stable")
    adjusted = np.minimum(np.maximum.accumulate(np.asarray(p)[order] * (len(p) - np.arange(len(p)))), 1.0)
    result = np.empty(len(p))
    result[order] = adjusted
    return [float(value) for value in result]


def _digits(column: str) -> int:
    """Return the number of digits after the decimal point that the original prints of a column."""
    return next((digits for start, digits in DIGITS.items() if column.startswith(start)), 4)


def _bounds(column: str) -> Bounds | None:
    """Return the bounds of a history column. Losses contain an entropy bonus and have none."""
    if column.startswith("coverage"):
        return PERCENT
    return None if column.endswith("loss") else POSITIVE

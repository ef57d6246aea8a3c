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
from typing import Any, NamedTuple

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
    """Test the question: do the original's and the library's runs have the same distribution?

    This is one test, and its p is the smallest value of the column `adjusted`. The statistic of a quantity is the
    largest |t| over the epochs, where t is Student's statistic of the two groups of runs. The statistic of the test is
    the largest of all quantities. It is compared with those of all other ways to choose as many runs, so p is exact
    (Westfall and Young, Resampling-based multiple testing, 1993). A small number of runs limits p from below: 1/165
    with 3 and 8 runs.

    There is a row per quantity, with the columns quantity, original and library (numbers of runs), statistic, epoch
    (that of the largest |t|), p and adjusted. `p` belongs to a test of this quantity alone. `adjusted` is the share of
    choices whose largest |t| of all quantities is at least `statistic`. All values are compared at the digits that the
    original prints. Runs of the same seed begin with the same weights in both systems. If this makes their values
    similar, the test is cautious.
    """
    printed = original_runs()
    first = [
        printed.pivot_table(index="seed", columns="epoch", values=column)[list(epochs)].to_numpy() for column in columns
    ]
    second = [
        np.array([[run.at(column, epoch) for epoch in epochs] for run in evidence.runs]).round(_digits(column))
        for column in columns
    ]
    found = permutation_test(np.stack(first, 1), np.stack(second, 1))
    return pd.DataFrame({
        "quantity": list(columns), "original": len(first[0]), "library": len(second[0]), "statistic": found.statistic,
        "epoch": [epochs[place] for place in found.place], "p": found.p, "adjusted": found.adjusted,
    })


class PermutationTest(NamedTuple):
    """Results of a permutation test of two samples of runs, each of shape (Q,) for Q quantities."""

    statistic: np.ndarray
    """Largest |t| over the outcomes of the quantity. If only the two samples differ, it is infinite, up to rounding."""
    place: np.ndarray
    """Index of the outcome with this |t|."""
    p: np.ndarray
    """Share of all choices of runs for which the statistic of the quantity is at least as large."""
    adjusted: np.ndarray
    """Share of all choices of runs for which the largest statistic of all quantities is at least as large."""


def permutation_test(first: np.ndarray, second: np.ndarray) -> PermutationTest:
    """Test whether two samples of runs have the same distribution of Q quantities with K outcomes each.

    `first` (m, Q, K) and `second` (n, Q, K) hold the outcomes. Every choice of m of the m + n runs is compared with the
    actual one. An outcome that is equal in all runs has t = 0. If the distributions are equal, the smallest `adjusted`
    is at most α with a probability of at most α (Westfall and Young 1993).
    """
    both = np.concatenate([first, second])
    m, n = len(first), len(second)
    deviations = both.std(0)
    scaled = (both - both.mean(0)) / np.where(deviations > 0, deviations, 1.0)
    indices = np.array(list(combinations(range(m + n), m)))  # The first choice is the actual one.
    chosen = np.zeros((len(indices), m + n))
    np.put_along_axis(chosen, indices, 1.0, axis=1)
    # |t| increases with the difference of the means in standard deviations of all runs, so the latter is compared.
    differences = np.abs(np.tensordot(chosen / m - (1 - chosen) / n, scaled, 1))
    largest = differences.max(2)
    reached = largest[0] * (1 - 1e-12)
    within = np.maximum(m + n - largest[0] ** 2 * m * n / (m + n), 0.0)
    with np.errstate(divide="ignore"):
        statistic = largest[0] * np.sqrt(m * n * (m + n - 2) / (m + n)) / np.sqrt(within)
    return PermutationTest(
        statistic, differences[0].argmax(1), (largest >= reached).mean(0),
        (largest.max(1, keepdims=True) >= reached).mean(0),
    )


def _digits(column: str) -> int:
    """Return the number of digits after the decimal point that the original prints of a column."""
    return next((digits for start, digits in DIGITS.items() if column.startswith(start)), 4)


def _bounds(column: str) -> Bounds | None:
    """Return the bounds of a history column. Losses contain an entropy bonus and have none."""
    if column.startswith("coverage"):
        return PERCENT
    return None if column.endswith("loss") else POSITIVE

"""The original system: its printed runs, and facts about its code.

`original_runs.csv` has every epoch that three runs of the original printed on a CPU. `original_code.yaml` has facts
that were read in the original's public repository, with the path and the commit of each file. The project contains
none of the original's code.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ternary_lab.runs.files import read_csv
from ternary_lab.settings import read_yaml

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
    """What the file of an earlier session says about a run of 106 epochs."""
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

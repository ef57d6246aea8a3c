"""Reading of run folders: configuration, history, checkpoints and provenance.

Each seed of an experiment has a folder, such as `RUN_DIR/seed=42`. `FILES` lists its files.
"""

from __future__ import annotations

import codecs
import io
import json
import lzma
import os
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ternary_lab.arguments import read_path, shown, whole_number
from ternary_lab.config import Config
from ternary_lab.config_files import from_yaml
from ternary_lab.errors import FEW, ConfigError, RunError, nearest
from ternary_lab.history import FILE_COLUMNS, LATER, OLD_NAMES, name_in_files
from ternary_lab.runs import checkpoint
from ternary_lab.runs.checkpoint import Checkpoint
from ternary_lab.runs.checksums import (
    CONFIG_REMEDY,
    PROVENANCE_REMEDY,
    REMEDY,
    UNKNOWN_HERE,
    check_csv,
    check_json,
    check_text,
    damaged,
)
from ternary_lab.runs.files import children, exists, read_csv, unix_lines
from ternary_lab.runs.locks import OWNER
from ternary_lab.runs.provenance import TrainedSpan, provenance_problem, trained_spans

if TYPE_CHECKING:
    from ternary_lab.model import TernaryVAE

CONFIG, PROVENANCE, HISTORY, PROBES, LOG, CHECKPOINTS = (
    "config.yaml", "provenance.json", "history.csv", "probes.csv", "log.jsonl", "checkpoints",
)
PACKED_HISTORY = "history.csv.xz"
FILES = {
    CONFIG: "every setting",
    PROVENANCE: "seed, devices, versions, hash of the source code, time, and the reason why the run ended",
    HISTORY: "one row per epoch, added after each epoch",
    PACKED_HISTORY: "the history of a published run, packed with xz",
    PROBES: "more measures of the saved epochs, if `ternary-lab probe` was run",
    LOG: "events with their times, one JSON object per line: started, resumed, stopped",
    f"{CHECKPOINTS}/epoch_0050.safetensors": "state after an epoch that the settings `checkpoints` keep",
    f"{CHECKPOINTS}/best_val_loss.safetensors": "state after the best epoch under a criterion",
    f"{CHECKPOINTS}/latest.safetensors": "state after the last epoch, from which training resumes",
    f"{CHECKPOINTS}/previous.safetensors": "state after the epoch before that, in case `latest` is damaged",
}
"""The files in the folder of a run, with their contents."""
ANY = "*.safetensors"
"""Pattern of the names of all checkpoints."""
EPOCH = re.compile(r"epoch_(\d+)\.safetensors")
"""Pattern of the name of a checkpoint that is kept because of its epoch."""
WAIT = 2.0
"""Longest time in seconds to wait for the checkpoint of an epoch that a process is just writing."""
FULL = "v5_5_full"
"""Name of the published runs over all 400 epochs. These runs kept the weights of every epoch up to 120."""
ANSWERS = "answers.csv"
"""Name of the published table that `tools/weight_measures.py` writes."""
EFFECTS = "entry_effects.csv"
"""Name of the published table of `studies.epoch50_disruption.effects`."""
LARGEST = 64 * 2**20
"""Largest size in bytes of an unpacked text file. Larger files are not read."""
PUBLISHED = Path(__file__).parent / "published"
"""Folder of the runs that ship with the library."""


@dataclass(frozen=True)
class RunRecord:
    """A run on disk. Each file is read when it is needed. Raises RunError for a folder without config.yaml."""

    path: Path
    """Directory of the run. It is absolute, so that the run can be read after a change of the working directory."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", read_path(self.path).absolute())
        if not os.path.isfile(self.path / CONFIG):
            if is_run(self.path):
                read_config(self.path / CONFIG)  # raises the error for a missing file
            raise RunError(f"{self.path}: not a run directory: it has no {CONFIG}")

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def config(self) -> Config:
        """All settings of the run. Raises RunError or ConfigError."""
        return read_config(self.path / CONFIG)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Seed, devices, versions, hash of the library's source code, and times. Raises RunError."""
        return read_provenance(self.path / PROVENANCE)

    def trained_on(self, epoch: int) -> TrainedSpan:
        """Return the span of epochs that contains `epoch`. The span names the device that trained these epochs.

        Raises RunError if the provenance names no device, or if `epoch` is not a whole number.
        """
        epoch = whole_number(epoch, "epoch", error=RunError)
        spans = trained_spans(self.provenance)
        return next((span for span in reversed(spans) if span.first_epoch <= epoch), spans[0])

    @property
    def seed(self) -> int:
        return int(self.provenance["seed"])

    @property
    def history(self) -> pd.DataFrame:
        """Table with one row per epoch. The columns are those of `EpochRecord`. Raises RunError."""
        path = self.path / HISTORY
        packed = self.path / PACKED_HISTORY
        if not _exists(path) and not _exists(packed):
            reason = REMEDY if any(self._checkpoints.glob(ANY)) else "no epoch has been finished yet"
            raise RunError(f"{path}: missing: {reason}")
        added = self.config.added_columns
        path = path if _exists(path) else packed
        table = read_table(path, (*FILE_COLUMNS, *added), () if added else LATER)
        if len(table) and not all(kind.kind in "iufb" for name, kind in table.dtypes.items() if name != "run"):
            raise damaged(path, "it has a text where a number belongs")
        if len(gap := (np.diff(table["epoch"].to_numpy()) != 1).nonzero()[0]):
            raise damaged(path, f"row {gap[0] + 2} is not of the epoch after that of the row above it")
        table = table.rename(columns=OLD_NAMES)
        return table.assign(**{name: value for name, value in LATER.items() if name not in table})

    @property
    def probes(self) -> pd.DataFrame | None:
        """The table of `probe_run` with one row per saved epoch, or None if the run was not probed."""
        path = self.path / PROBES
        return read_table(path) if _exists(path) else None

    def probed(self) -> pd.DataFrame:
        """Return the table `probes`. Raises RunError if the run was not probed."""
        table = self.probes
        if table is None:
            raise RunError(f"{self.path}: has no probes: make them with `ternary-lab probe`")
        return table

    @property
    def epochs(self) -> list[int]:
        """Saved epochs, which have a checkpoint of their own, in ascending order."""
        names = (EPOCH.fullmatch(file.name) for file in self._checkpoints.glob("epoch_*"))
        return sorted(int(match.group(1)) for match in names if match)

    @property
    def stopped(self) -> str | None:
        """Reason why the run has ended, or None if the run has not ended."""
        reason = self.provenance.get("stopped")
        return None if reason is None else str(reason)

    @property
    def selected(self) -> str:
        """Name of the checkpoint that `Config.criterion` chose. `checkpoint` and `model` accept this name."""
        return f"best_{name_in_files(self.config.criterion)}"

    @property
    def _checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    def checkpoint(self, epoch: int | str | None = None) -> Checkpoint:
        """Return the checkpoint of an epoch, or the checkpoint with a name such as "best_val_loss".

        The default is the latest checkpoint. Raises RunError if there is no such checkpoint. The message then lists the
        saved epochs. Raises RunError also for an epoch that is not a whole number.
        """
        if epoch is not None and not isinstance(epoch, str):
            epoch = whole_number(epoch, "epoch", error=RunError)
        name = "latest" if epoch is None else epoch if isinstance(epoch, str) else f"epoch_{epoch:04d}"
        path = self._checkpoints / f"{name}.safetensors"
        if _exists(path):
            return checkpoint.load(path)
        if isinstance(epoch, int) and (found := self._unnumbered(epoch)) is not None:
            return found
        if isinstance(epoch, str):
            near = nearest(epoch, [file.stem for file in self._checkpoints.glob("*.safetensors")])
        else:
            near = nearest_epochs(epoch or 0, self.epochs)
        raise RunError(f"{self.path}: no checkpoint {name}{near}")

    def _unnumbered(self, epoch: int) -> Checkpoint | None:
        """Return the checkpoint of an epoch from a file without the number of the epoch, or None.

        The last epoch is in `latest`. While a process trains the run, `latest` may go on to the next epoch, and then
        the epoch is in `previous`. Training writes the row of an epoch before its checkpoint, which is waited for.
        """
        latest, previous = (self._checkpoints / f"{name}.safetensors" for name in ("latest", "previous"))
        deadline = time.monotonic() + WAIT
        while _exists(latest):
            point = checkpoint.load(latest)
            if point.epoch == epoch:
                return point
            if not (self.path / OWNER).exists():
                return None
            if point.epoch != epoch - 1 or time.monotonic() > deadline:
                break
            time.sleep(0.01)
        if _exists(previous) and (point := checkpoint.load(previous)).epoch == epoch:
            return point
        return None

    def model(self, epoch: int | str | None = None) -> TernaryVAE:
        """Return the model in the checkpoint of an epoch or of a name (default: the latest checkpoint)."""
        return self.checkpoint(epoch).model()


class RunSet(dict[int, RunRecord]):
    """Runs of one experiment as a dictionary from seed to run. For example, `runs[42]` is the run with seed 42."""

    def __missing__(self, seed: int) -> RunRecord:
        raise RunError(f"no run with seed {shown(seed)}; there are {number_ranges(sorted(self))}")

    @property
    def history(self) -> pd.DataFrame:
        """Table with the rows of the histories of all runs."""
        return pd.concat([run.history for run in self.values()], ignore_index=True)


def load_run(source: str | Path) -> RunRecord:
    """Return the run in a directory, or the published run with a name such as "v5_5/seed=42".

    Raises RunError if there is no such run, or if the directory is that of an experiment with several runs.
    """
    path = run_path(source)
    if not is_run(path) and (inside := [child.name for child in _runs_directly_in(path)]):
        shown = ", ".join(inside[:FEW]) + ", …" * (len(inside) > FEW)
        raise RunError(f"{path}: holds {len(inside)} runs: choose one of {shown}")
    return RunRecord(path)


def load_runs(source: str | Path) -> RunSet:
    """Return all runs in the directory of an experiment, or of a published experiment such as "v5_5", by seed.

    The directory of a single run is accepted too. Raises RunError if there is no run, if two runs have the same seed,
    or if the seed of a run cannot be read.
    """
    runs = RunSet()
    for run in sorted(runs_in(source), key=lambda run: run.seed):
        if run.seed in runs:
            raise RunError(
                f"{run.path} and {runs[run.seed].path}: have the same seed {run.seed}: load one of them by its own path"
            )
        runs[run.seed] = run
    return runs


def runs_in(source: str | Path) -> list[RunRecord]:
    """Return all runs in a directory or in a published experiment, in the order of their names.

    The directory of a single run is accepted too. Raises RunError if there is no run, or if a run has no config.yaml.
    """
    path = run_path(source)
    found = [RunRecord(folder) for folder in ([path] if is_run(path) else _runs_directly_in(path))]
    if not found:
        raise RunError(f"{path}: holds no run")
    return found


def is_run(folder: Path) -> bool:
    """Return whether a folder holds a run. It may have lost files.

    A folder without config.yaml holds a run if it has two other files of a run. One of them alone may have another
    origin. Raises RunError if the folder cannot be read.
    """
    try:
        if exists(folder / CONFIG):
            return True
        histories = exists(folder / HISTORY) or exists(folder / PACKED_HISTORY)
        others = [exists(folder / PROVENANCE), exists(folder / LOG), any((folder / CHECKPOINTS).glob(ANY))]
        return sum([histories, *others]) >= 2
    except OSError as error:
        raise RunError(f"{folder}: cannot be read: {error.strerror}: make it readable") from None


def _runs_directly_in(folder: Path) -> list[Path]:
    return [child for child in children(folder) if is_run(child)]


def published() -> list[str]:
    """Return the names of the runs that ship with the library. `load_run` accepts these names."""
    return sorted(file.parent.relative_to(PUBLISHED).as_posix() for file in PUBLISHED.rglob(CONFIG))


def local_or_published(path: str | Path) -> Path:
    """Return `path` if it exists, and otherwise the path of the published file or folder of this name."""
    path = read_path(path)
    return path if path.exists() else PUBLISHED / path


def run_path(source: str | Path) -> Path:
    """Return the folder of a run or an experiment, which is a path or the name of a published one. Raises RunError."""
    path = read_path(source)
    if path.is_dir():
        return path
    if not path.is_absolute() and ".." not in path.parts and (PUBLISHED / path).is_dir():
        return PUBLISHED / path
    runs = published()
    experiments = dict.fromkeys(run.rpartition("/")[0] for run in runs)
    near = nearest(str(source), [*experiments, *runs], "`ternary-lab list runs`")
    tried = "" if path.is_absolute() else f" ({path.absolute()})"
    raise RunError(f"{path}: no such run directory{tried}, nor a published run{near}")


def read_config(path: Path) -> Config:
    """Read the configuration of a run. Raises RunError for a damaged file.

    Raises ConfigError for an intact file with a setting that this process does not know. A notebook may define such a
    setting, or a newer version.
    """
    if not _exists(path):
        raise RunError(f"{path}: missing: {REMEDY}")
    text = read_text(path)
    content = check_text(text, path)
    try:
        return from_yaml(content, str(path))
    except ConfigError as error:
        if content == text:  # no checksum says that the file is intact
            raise RunError(f"{error}: {CONFIG_REMEDY}") from None
        raise ConfigError(f"{error}: {UNKNOWN_HERE}") from error


def read_provenance(path: Path) -> dict[str, Any]:
    """Read the provenance of a run. Raises RunError."""
    if not _exists(path):
        raise RunError(f"{path}: missing: start the run again with the same command to restore it")
    text = read_text(path)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error) if text.strip("\0\n ") else "it is empty", PROVENANCE_REMEDY) from None
    if not isinstance(data, dict):
        raise damaged(path, "it is not a mapping", PROVENANCE_REMEDY)
    content = check_json(data, path)
    if problem := provenance_problem(content):
        raise damaged(path, problem, PROVENANCE_REMEDY)
    return content


def _exists(path: Path) -> bool:
    """Return whether a file exists. It may exist if this user cannot look; reading it then names the reason."""
    try:
        return exists(path)
    except OSError:
        return True


def read_text(path: Path) -> str:
    """Read a text file of a run. A file with the suffix `.xz` is unpacked.

    Line endings become those of Unix. A byte order mark is left out, and so is a last character that is cut off. Raises
    RunError if the file cannot be read, is not text, or has more than `LARGEST` bytes.
    """
    try:
        with (lzma.open if path.suffix == ".xz" else open)(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, EOFError, lzma.LZMAError) as error:
        remedy = "make it readable" if isinstance(error, PermissionError) else REMEDY
        raise RunError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}: {remedy}") from None
    if len(data) > LARGEST:
        raise RunError(f"{path}: more than {LARGEST} bytes: not a run's, and not read")
    try:
        text, _ = codecs.utf_8_decode(data.removeprefix(codecs.BOM_UTF8), "strict", False)
        return unix_lines(text)
    except UnicodeDecodeError:
        raise damaged(path, "it is not text") from None


def read_table(path: Path, columns: Sequence[str] | None = None, optional: Collection[str] = ()) -> pd.DataFrame:
    """Read a CSV file of a run without its checksums. Raises RunError.

    Args:
        columns: as in `check_csv`.
        optional: as in `check_csv`.
    """
    text = check_csv(read_text(path), path, columns, optional)
    try:
        return read_csv(io.StringIO(text))
    except ValueError as error:
        raise damaged(path, str(error).splitlines()[0]) from None


def nearest_epochs(epoch: int, known: Sequence[int]) -> str:
    """Return the end of a message about an epoch that is not there: all known epochs, or the nearest three of many."""
    ranges = number_ranges(known)
    if ranges.count(",") < FEW:
        return f"; there are those of epochs {ranges}"
    close = sorted(known, key=lambda one: abs(one - epoch))[:3]
    return f"; the nearest are those of epochs {number_ranges(sorted(close))}. All epochs: `RunRecord.epochs`"


def number_ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers as a text of ranges. For example, [0, 10, 45, 46, 47] becomes "0, 10, 45-47"."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges) or "none"

"""Reading of run folders: configuration, history, checkpoints and provenance.

    RUN_DIR/seed=42/
        config.yaml         every setting
        provenance.json     seed, devices, versions, times
        history.csv         one row per epoch, added after each epoch (published runs: history.csv.xz)
        probes.csv          more measures of the saved epochs, if `ternary-lab probe` was run
        log.jsonl           events: started, resumed, stopped
        checkpoints/        epoch_0050, best_val_loss, latest and previous (safetensors)
"""

from __future__ import annotations

import io
import json
import lzma
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ternary_lab.config import Config
from ternary_lab.config_files import from_yaml
from ternary_lab.errors import FEW, RunError, nearest
from ternary_lab.history import FILE_COLUMNS, LATER, OLD_NAMES, name_in_files
from ternary_lab.runs import checkpoint
from ternary_lab.runs.checkpoint import Checkpoint
from ternary_lab.runs.checksums import REMEDY, check_csv, check_json, check_text, damaged
from ternary_lab.runs.files import read_csv
from ternary_lab.runs.provenance import TrainedSpan, trained_spans

if TYPE_CHECKING:
    from ternary_lab.model import TernaryVAE

CONFIG, PROVENANCE, HISTORY, PROBES, LOG, CHECKPOINTS = (
    "config.yaml", "provenance.json", "history.csv", "probes.csv", "log.jsonl", "checkpoints",
)
PACKED_HISTORY = "history.csv.xz"
FULL = "v5_5_full"
"""Name of the published runs over all 400 epochs. These runs kept the weights of every epoch up to 120."""
ANSWERS = "answers.csv"
"""Name of the published table that `tools/weight_measures.py` writes."""
LARGEST = 64 * 2**20
"""Largest size in bytes of an unpacked text file. Larger files are not read."""
PUBLISHED = Path(__file__).parent / "published"
"""Folder of the runs that ship with the library."""


@dataclass(frozen=True)
class RunRecord:
    """A run on disk. Each file is read when it is needed. Raises RunError for a folder without config.yaml."""

    path: Path

    def __post_init__(self) -> None:
        if not (self.path / CONFIG).is_file():
            raise RunError(f"{self.path}: not a run directory: it has no {CONFIG}")

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def config(self) -> Config:
        path = self.path / CONFIG
        return from_yaml(check_text(read_text(path), path), str(path))

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Seed, devices, versions, hash of the library's source code, and times. Raises RunError."""
        path = self.path / PROVENANCE
        if not path.exists():
            raise RunError(f"{path}: missing: start the run again with the same command to restore it")
        try:
            data = json.loads(read_text(path))
        except ValueError as error:
            raise damaged(path, str(error)) from None
        if not isinstance(data, dict):
            raise damaged(path, "not a mapping")
        return check_json(data, path)

    def trained_on(self, epoch: int) -> TrainedSpan:
        """Return the span of epochs that contains `epoch`. The span names the device that trained these epochs.

        Raises RunError if the provenance names no device.
        """
        try:
            spans = trained_spans(self.provenance)
            return next((span for span in reversed(spans) if span.first_epoch <= epoch), spans[0])
        except (KeyError, IndexError, TypeError):
            raise damaged(self.path / PROVENANCE, "it does not say on which device the run was trained") from None

    @property
    def seed(self) -> int:
        return int(self.provenance["seed"])

    @property
    def history(self) -> pd.DataFrame:
        """Table with one row per epoch. The columns are those of `EpochRecord`. Raises RunError."""
        path = self.path / HISTORY
        packed = self.path / PACKED_HISTORY
        if not path.exists() and not packed.exists():
            raise RunError(f"{path}: missing: no epoch has been finished yet")
        added = self.config.added_columns
        table = read_table(path if path.exists() else packed, (*FILE_COLUMNS, *added), () if added else LATER)
        table = table.rename(columns=OLD_NAMES)
        return table.assign(**{name: value for name, value in LATER.items() if name not in table})

    @property
    def probes(self) -> pd.DataFrame | None:
        """The table of `probe_run` with one row per saved epoch, or None if the run was not probed."""
        path = self.path / PROBES
        return read_table(path) if path.exists() else None

    def probed(self) -> pd.DataFrame:
        """Return the table `probes`. Raises RunError if the run was not probed."""
        table = self.probes
        if table is None:
            raise RunError(f"{self.path}: has no probes: make them with `ternary-lab probe`")
        return table

    @property
    def epochs(self) -> list[int]:
        """Saved epochs, which have a checkpoint of their own, in ascending order."""
        names = (re.fullmatch(r"epoch_(\d+)\.safetensors", file.name) for file in self._checkpoints.glob("epoch_*"))
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
        saved epochs.
        """
        name = "latest" if epoch is None else epoch if isinstance(epoch, str) else f"epoch_{epoch:04d}"
        path = self._checkpoints / f"{name}.safetensors"
        if path.is_file():
            return checkpoint.load(path)
        if isinstance(epoch, int) and (self._checkpoints / "latest.safetensors").is_file():
            latest = self.checkpoint()
            if latest.epoch == epoch:
                return latest
        if isinstance(epoch, str):
            near = nearest(epoch, [file.stem for file in self._checkpoints.glob("*.safetensors")])
        else:
            near = nearest_epochs(epoch or 0, self.epochs)
        raise RunError(f"{self.path}: no checkpoint {name}{near}")

    def model(self, epoch: int | str | None = None) -> TernaryVAE:
        """Return the model in the checkpoint of an epoch or of a name (default: the latest checkpoint)."""
        return self.checkpoint(epoch).model()


class RunSet(dict[int, RunRecord]):
    """Runs of one experiment as a dictionary from seed to run. For example, `runs[42]` is the run with seed 42."""

    def __missing__(self, seed: int) -> RunRecord:
        raise RunError(f"no run with seed {seed}; there are {number_ranges(sorted(self))}")

    @property
    def history(self) -> pd.DataFrame:
        """Table with the rows of the histories of all runs."""
        return pd.concat([run.history for run in self.values()], ignore_index=True)


def load_run(source: str | Path) -> RunRecord:
    """Return the run in a directory, or the published run with a name such as "v5_5/seed=42".

    Raises RunError if there is no such run, or if the directory is that of an experiment with several runs.
    """
    path = _run_path(source)
    if not (path / CONFIG).is_file():
        inside = sorted(child.name for child in path.iterdir() if (child / CONFIG).is_file())
        if inside:
            shown = ", ".join(inside[:FEW]) + ", …" * (len(inside) > FEW)
            raise RunError(f"{path}: holds {len(inside)} runs: choose one of {shown}")
    return RunRecord(path)


def load_runs(source: str | Path) -> RunSet:
    """Return all runs in the directory of an experiment, or of a published experiment such as "v5_5", by seed.

    The directory of a single run is accepted too. Raises RunError if there is no run.
    """
    path = _run_path(source)
    folders = [path] if (path / CONFIG).is_file() else sorted(path.iterdir())
    runs = [RunRecord(folder) for folder in folders if (folder / CONFIG).is_file()]
    if not runs:
        raise RunError(f"{path}: holds no run")
    return RunSet({run.seed: run for run in sorted(runs, key=lambda run: run.seed)})


def published() -> list[str]:
    """Return the names of the runs that ship with the library. `load_run` accepts these names."""
    return sorted(file.parent.relative_to(PUBLISHED).as_posix() for file in PUBLISHED.rglob(CONFIG))


def local_or_published(path: str | Path) -> Path:
    """Return `path` if it exists, and otherwise the path of the published file or folder of this name."""
    return Path(path) if Path(path).exists() else PUBLISHED / path


def _run_path(source: str | Path) -> Path:
    path = Path(source)
    if path.is_dir():
        return path
    if not path.is_absolute() and ".." not in path.parts and (PUBLISHED / path).is_dir():
        return PUBLISHED / path
    runs = published()
    experiments = dict.fromkeys(run.rpartition("/")[0] for run in runs)
    near = nearest(str(source), [*experiments, *runs], "`ternary-lab list runs`")
    tried = "" if path.is_absolute() else f" ({path.absolute()})"
    raise RunError(f"{path}: no such run directory{tried}, nor a published run{near}")


def read_text(path: Path) -> str:
    """Read a text file of a run. A file with the suffix `.xz` is unpacked.

    Raises RunError if the file cannot be read, is not text, or has more than `LARGEST` bytes.
    """
    try:
        with (lzma.open if path.suffix == ".xz" else open)(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise RunError(f"{path}: cannot be read: {error}: {REMEDY}") from None
    if len(data) > LARGEST:
        raise RunError(f"{path}: more than {LARGEST} bytes: not a run's, and not read")
    try:
        return data.decode()
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

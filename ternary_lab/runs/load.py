"""What a run leaves behind, read back: its configuration, history, checkpoints and provenance.

    RUN_DIR/seed=42/
        config.yaml         every setting, resolved
        provenance.json     what produced the run
        history.csv         a row per epoch, written as it happens (published: history.csv.xz)
        probes.csv          measures of the weights kept, where they were taken
        log.jsonl           events: started, resumed, stopped
        checkpoints/        epoch_0050, best_val_loss, latest and the one before it (safetensors)
"""

from __future__ import annotations

import io
import json
import lzma
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
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
from ternary_lab.runs.checksums import REMEDY, check_json, check_table, check_text, damaged

if TYPE_CHECKING:
    from ternary_lab.model import TernaryVAE
from ternary_lab import config
from ternary_lab.runs.provenance import Stretch, stretches

CONFIG, PROVENANCE, HISTORY, PROBES, LOG, CHECKPOINTS = (
    "config.yaml", "provenance.json", "history.csv", "probes.csv", "log.jsonl", "checkpoints",
)
PACKED_HISTORY = "history.csv.xz"
FULL = "v5_5_full"
"""The runs of all 400 epochs, which kept every epoch up to 120."""
ANSWERS = "answers.csv"
"""The published table of `tools/weight_measures.py`."""
LARGEST = 64 * 2**20
"""Bytes of a history or of another text, unpacked: a longer one is not read."""
PUBLISHED = Path(__file__).parent / "published"
"""Runs that ship with the library: histories and weights."""


@dataclass(frozen=True)
class RunRecord:
    """One run on disk. Nothing is read until it is asked for."""

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
        """Seed, devices, versions, hash of the library's source, times."""
        return _read_json(self.path / PROVENANCE)

    def trained_on(self, epoch: int) -> Stretch:
        """The device that trained and measured an epoch. Raises RunError where the provenance is damaged."""
        try:
            found = stretches(self.provenance)
            return next((s for s in reversed(found) if s.first_epoch <= epoch), found[0])
        except (KeyError, IndexError, TypeError):
            raise damaged(self.path / PROVENANCE, "it does not say on which device the run was trained") from None

    @property
    def seed(self) -> int:
        return int(self.provenance["seed"])

    @property
    def history(self) -> pd.DataFrame:
        """A row per epoch; the columns are those of `training.EpochRecord`."""
        path = self.path / HISTORY
        packed = self.path / PACKED_HISTORY
        if not path.exists() and not packed.exists():
            raise RunError(f"{path}: missing: no epoch has been finished yet")
        table = read_table(path if path.exists() else packed, FILE_COLUMNS, LATER).rename(columns=OLD_NAMES)
        return table.assign(**{name: value for name, value in LATER.items() if name not in table})

    def probed(self) -> pd.DataFrame:
        """`probes`. Raises RunError where they were not kept."""
        table = self.probes
        if table is None:
            raise RunError(f"{self.path}: has no probes: make them with `ternary-lab probe`")
        return table

    @property
    def probes(self) -> pd.DataFrame | None:
        """What `probes.probe_run` found, a row per epoch with weights; None where it was not kept."""
        path = self.path / PROBES
        return read_table(path) if path.exists() else None

    @property
    def epochs(self) -> list[int]:
        """Epochs with a checkpoint of their own."""
        found = (re.fullmatch(r"epoch_(\d+)\.safetensors", file.name) for file in self._checkpoints.glob("epoch_*"))
        return sorted(int(match.group(1)) for match in found if match)

    @property
    def stopped(self) -> str | None:
        """Why the run ended, or None while it can go on."""
        reason = self.provenance.get("stopped")
        return None if reason is None else str(reason)

    @property
    def selected(self) -> str:
        """Name of the checkpoint that the configuration's criterion chose, for `checkpoint` and `model`."""
        return f"best_{name_in_files(self.config.criterion)}"

    @property
    def _checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    def checkpoint(self, epoch: int | str | None = None) -> Checkpoint:
        """The checkpoint of an epoch, of a name such as "best_val_loss", or the latest.

        Raises RunError naming the epochs there are when it does not exist.
        """
        name = "latest" if epoch is None else epoch if isinstance(epoch, str) else f"epoch_{epoch:04d}"
        path = self._checkpoints / f"{name}.safetensors"
        if path.is_file():
            return checkpoint.load(path)
        if isinstance(epoch, int) and (self._checkpoints / "latest.safetensors").is_file():
            latest = self.checkpoint()
            if latest.epoch == epoch:
                return latest
        raise RunError(f"{self.path}: no checkpoint {name}; there are those of epochs {spans(self.epochs)}")

    def model(self, epoch: int | str | None = None) -> TernaryVAE:
        """The trained model at an epoch (default: the last)."""
        return self.checkpoint(epoch).model()


class RunSet(Mapping[int, RunRecord]):
    """The runs of one experiment by seed: `runs[42]`, and all rows at once in `history`."""

    def __init__(self, runs: Mapping[int, RunRecord]) -> None:
        self._runs = dict(runs)

    def __getitem__(self, seed: int) -> RunRecord:
        try:
            return self._runs[seed]
        except KeyError:
            raise RunError(f"no run with seed {seed}; there are {spans(sorted(self._runs))}") from None

    def __contains__(self, seed: object) -> bool:
        return seed in self._runs

    def __iter__(self) -> Iterator[int]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def history(self) -> pd.DataFrame:
        """The histories of all runs, one below the other."""
        return pd.concat([run.history for run in self._runs.values()], ignore_index=True)


def load_run(source: str | Path) -> RunRecord:
    """A run by its directory, or a published one by its name, "v5_5/seed=42". Raises RunError when there is none."""
    path = _run_path(source)
    if not (path / CONFIG).is_file():
        inside = sorted(child.name for child in path.iterdir() if (child / CONFIG).is_file())
        if inside:
            shown = ", ".join(inside[:FEW]) + ", …" * (len(inside) > FEW)
            raise RunError(f"{path}: holds {len(inside)} runs: choose one of {shown}")
    return RunRecord(path)


def load_runs(source: str | Path) -> RunSet:
    """All runs in an experiment's directory (or a published experiment, "v5_5"), by seed."""
    path = _run_path(source)
    if (path / CONFIG).is_file():
        run = RunRecord(path)
        return RunSet({run.seed: run})
    runs = [RunRecord(child) for child in sorted(path.iterdir()) if (child / CONFIG).is_file()]
    if not runs:
        raise RunError(f"{path}: holds no run")
    return RunSet({run.seed: run for run in sorted(runs, key=lambda run: run.seed)})


def located(path: str | Path) -> Path:
    """A file or folder that is there, or else the place of what is published under that name."""
    return Path(path) if Path(path).exists() else PUBLISHED / path


def published() -> list[str]:
    """Names of the runs that ship with the library, for `load_run`."""
    return sorted(file.parent.relative_to(PUBLISHED).as_posix() for file in PUBLISHED.rglob(CONFIG))


def _run_path(source: str | Path) -> Path:
    path = Path(source)
    if path.is_dir():
        return path
    if not path.is_absolute() and ".." not in path.parts and (PUBLISHED / path).is_dir():
        return PUBLISHED / path
    runs = published()
    experiments = dict.fromkeys(run.rpartition("/")[0] for run in runs)
    near = nearest(str(source), [*experiments, *runs], "`ternary-lab list runs`")
    raise RunError(f"{path}: no such run directory, nor a published run{near}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: missing: start the run again with the same command to restore it") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: damaged: {error}") from None
    if not isinstance(data, dict):
        raise RunError(f"{path}: damaged: not a mapping")
    return check_json(data, path)


def read_text(path: Path) -> str:
    """A text file of a run, unpacked, at most `LARGEST` bytes of it."""
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


def read_table(path: Path, columns: Sequence[str] | None = None, later: Collection[str] = ()) -> pd.DataFrame:
    """A CSV file of a run, without its checksums. Raises RunError for a damaged one, or one of other columns.

    `later`, the last of the columns, may be lacking.
    """
    text = check_table(read_text(path), path, columns, later)
    try:
        return pd.read_csv(io.StringIO(text))
    except ValueError as error:
        raise damaged(path, str(error).splitlines()[0]) from None


def spans(numbers: list[int]) -> str:
    """[0, 10, 45, 46, 47] as "0, 10, 45-47"."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found) or "none"


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side."""

    settings: pd.DataFrame
    """Index: dotted key; columns a and b; the settings that differ."""
    final: pd.DataFrame
    """Index: column of the history; columns a and b; the last epoch."""
    histories: pd.DataFrame
    """Both histories, told apart by the column `which`."""


def compare(run_a: RunRecord, run_b: RunRecord) -> Comparison:
    """Differing settings, final metrics and the histories of two runs. Raises RunError for one without an epoch."""
    for run in (run_a, run_b):
        if run.history.empty:
            raise RunError(f"{run.path}: has no epoch yet: wait for its first, or train it on")
    changed = config.differences(run_a.config, run_b.config)
    settings = pd.DataFrame(
        {"a": [a for a, _ in changed.values()], "b": [b for _, b in changed.values()]},
        index=pd.Index(changed, name="key"),
    )
    last = {which: run.history.iloc[-1] for which, run in (("a", run_a), ("b", run_b))}
    final = pd.DataFrame(last).drop(index=["run"])
    histories = pd.concat([run.history.assign(which=which) for which, run in (("a", run_a), ("b", run_b))])
    return Comparison(settings, final, histories)

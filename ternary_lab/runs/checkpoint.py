"""Checkpoints without pickle: tensors as safetensors, everything else as JSON in the file's header.

A full checkpoint holds what a run needs to go on (weights, AdamW's moments, controllers, best epoch;
random streams are named by seed and epoch, so those two numbers are all that they need); a
weights-only one just the model. Files are replaced atomically: a reader sees the old file or the new.
"""

from __future__ import annotations

import json
import math
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.numpy import save as save_arrays
from safetensors.torch import load as load_tensors
from torch import Tensor

from ternary_lab.backend.numerics import fenced
from ternary_lab.config import Config
from ternary_lab.config_files import from_yaml
from ternary_lab.controllers import Controllers
from ternary_lab.errors import CheckpointError
from ternary_lab.model import Architecture, TernaryVAE
from ternary_lab.networks import Blocks
from ternary_lab.runs.checksums import DOCUMENT, REMEDY, digest
from ternary_lab.runs.files import write_atomically
from ternary_lab.space import SIZE
from ternary_lab.training.run_state import Best, RunState

FORMAT = "ternary-lab-1"
"""The header's only key: safetensors writes several in random order, and equal runs shall leave equal bytes."""
OUTPUT = "output"
"""Name of the output distributions' moving average, where the run's loss asks for information."""
LARGEST = 256 * 2**20
"""Bytes: larger files are no checkpoints of this model and are not read."""


@dataclass(frozen=True)
class Checkpoint:
    """One run at one moment."""

    config: Config
    seed: int | None
    epoch: int
    """Last finished epoch; -1 before the first."""
    rho: float
    """Permeability in force in that epoch."""
    blocks: Blocks
    state: RunState | None
    """None when only weights were kept."""
    cohort: tuple[str, ...] = ()
    """Names of the runs that were trained side by side with this one."""

    def model(self) -> TernaryVAE:
        return TernaryVAE(self.config.model, self.blocks)


@fenced
def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically. Raises RunError when the disk refuses."""
    write_atomically(path, encoded(checkpoint, checkpoint.config.as_yaml()))


def encoded(checkpoint: Checkpoint, config: str) -> bytes:
    """The bytes of a checkpoint's file.

    `config` is `checkpoint.config.as_yaml()`, which takes longer than the rest of the header: a run that is written
    every epoch keeps it.
    """
    architecture = Architecture(checkpoint.config.model)
    tensors = {f"model.{k}": v for k, v in architecture.named(checkpoint.blocks).items()}
    state = checkpoint.state
    if state is not None:
        for kind, moments in (("first", state.first_moments), ("second", state.second_moments)):
            named = architecture.named(moments)
            tensors |= {f"{kind}.{k}": v for k, v in named.items() if _trained(k, checkpoint.config)}
        if state.output is not None:
            tensors[OUTPUT] = state.output
    header = {
        "config": config,
        "seed": checkpoint.seed,
        "epoch": checkpoint.epoch,
        "rho": checkpoint.rho,
        "cohort": list(checkpoint.cohort),
        "state": None
        if state is None
        else {
            "steps": state.steps,
            "controllers": asdict(state.controllers),
            "best": _plain_best(state.best),
            "selected": _plain_best(state.selected),
            "stopped": state.stopped,
        },
    }
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    header[DOCUMENT] = digest(tensors, header)
    # As arrays they may be views of one block, which safetensors refuses of tensors and would have to be copied.
    arrays = {k: v.numpy() for k, v in tensors.items()}
    return save_arrays(arrays, {FORMAT: json.dumps(header, allow_nan=False)})


@fenced
def load(path: Path) -> Checkpoint:
    """Read a checkpoint written by `save`. Raises CheckpointError for anything else."""
    data = _read(path)
    metadata = _metadata(data, path)
    if FORMAT not in metadata:
        raise CheckpointError(f"{path}: safetensors, but not a Ternary Lab checkpoint (no {FORMAT} header)")
    try:
        tensors = load_tensors(data)
        header = json.loads(metadata[FORMAT])
        ours = header.pop(DOCUMENT, None)
        config = from_yaml(header["config"], f"{path}: its configuration")
        architecture = Architecture(config.model)
        if 4 * architecture.parameters > len(data):
            raise CheckpointError(f"{path}: holds less than the {architecture.parameters} weights that it declares")
        blocks = architecture.from_named(_under("model.", tensors), str(path))
        state = None
        if header["state"] is not None:
            saved = header["state"]
            empty = architecture.named(architecture.empty())
            untrained = {k: v for k, v in empty.items() if not _trained(k, config)}
            state = RunState(
                next_epoch=int(header["epoch"]) + 1,
                steps=int(saved["steps"]),
                blocks=blocks,
                first_moments=architecture.from_named(_under("first.", tensors) | untrained, str(path)),
                second_moments=architecture.from_named(_under("second.", tensors) | untrained, str(path)),
                controllers=Controllers(**saved["controllers"]),
                best=_best(saved["best"]),
                # Runs begun before there was a choice were chosen by the early-stopping metric.
                selected=_best(saved.get("selected", saved["best"])),
                stopped=saved["stopped"],
                output=_output(config, tensors),
            )
        if ours is not None and ours != digest(tensors, header):
            raise CheckpointError(f"{path}: damaged checkpoint: its checksum differs: {REMEDY}")
        return Checkpoint(
            config, header["seed"], int(header["epoch"]), float(header["rho"]), blocks, state, tuple(header["cohort"])
        )
    except CheckpointError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint: {type(error).__name__}: {error}") from None


@fenced
def load_model(source: str | Path, *, device: str | torch.device = "cpu") -> TernaryVAE:
    """The model in a checkpoint: this lab's safetensors, or an original v5.5 `.pt` (weights only, no code run).

    Raises CheckpointError for a file that is missing, truncated or something else.
    """
    return open_checkpoint(source).model().to(device)


@fenced
def open_checkpoint(source: str | Path) -> Checkpoint:
    """A checkpoint of either kind, told apart by its suffix."""
    path = Path(source)
    return import_original(path) if path.suffix in (".pt", ".pth") else load(path)


def import_original(path: Path) -> Checkpoint:
    """The weights of an original v5.5 checkpoint (a pickle of tensors). Nothing in it is executed."""
    _check_file(path)
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch says of a foreign file; it is refused below in one line
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises a dozen types for foreign or hostile files
        reason = "it holds more than weights, which could run code" if "weights_only" in str(error).lower() else (
            "it is not a torch checkpoint, or it is truncated"
        )
        raise CheckpointError(f"{path}: refused: {reason}") from None
    weights = content.get("model") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(_plain(v) for v in weights.values()):
        raise CheckpointError(f"{path}: not an original v5.5 checkpoint: it has no weights under 'model'")
    config = Config()
    blocks = Architecture(config.model).from_named({str(k): v for k, v in weights.items()}, str(path))
    epoch = content.get("epoch", -1)
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < -1:
        raise CheckpointError(f"{path}: its epoch is {epoch!r}, not a whole number")
    # The original's balance is not stored; before phase 3 ρ does not depend on it.
    return Checkpoint(config, None, epoch, config.permeability(max(epoch, 0), False), blocks, None)


def _trained(name: str, config: Config) -> bool:
    """Whether a weight has moments: StateNet's only where it learns."""
    return config.statenet.training != "none" or not name.startswith("state_net.")


def _output(config: Config, tensors: Mapping[str, Tensor]) -> Tensor | None:
    if not config.information.enabled:
        return None
    output = tensors[OUTPUT]
    if output.shape != (2, 1, SIZE) or not bool((output >= 0).all()):
        raise ValueError(f"tensor {OUTPUT} is no pair of distributions over {SIZE} operations")
    return output


def _plain_best(best: Best) -> dict[str, Any]:
    return {"value": None if math.isinf(best.value) else best.value, "epoch": best.epoch}


def _best(saved: Mapping[str, Any]) -> Best:
    return Best(math.inf if saved["value"] is None else saved["value"], saved["epoch"])


def _plain(value: object) -> bool:
    """Whether it is an ordinary tensor of real numbers in memory."""
    return isinstance(value, Tensor) and (value.layout, value.device.type, value.is_floating_point()) == (
        torch.strided, "cpu", True
    )


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if not path.is_file():
        raise CheckpointError(f"{path}: is not a file")
    if size > LARGEST:
        raise CheckpointError(f"{path}: {size} bytes, more than any checkpoint of this model ({LARGEST}): not read")


def _check_archive(path: Path) -> None:
    """Raises CheckpointError for a zip archive that unpacks to more than any checkpoint of this model."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path}: refused: a damaged archive: {error}") from None
    if size > LARGEST:
        raise CheckpointError(
            f"{path}: refused: it would unpack to {size} bytes, more than any checkpoint of this model ({LARGEST})"
        )


def _read(path: Path) -> bytes:
    _check_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None


def _metadata(data: bytes, path: Path) -> Mapping[str, Any]:
    """The string metadata in a safetensors header."""
    try:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length]) if length <= len(data) - 8 else None
    except (struct.error, ValueError, RecursionError):
        header = None
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: not a safetensors file, or truncated")
    return metadata


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

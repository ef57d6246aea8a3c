"""Checkpoint files of runs.

A checkpoint is a safetensors file. Tensors are stored as such, and all other values are JSON in the header of the file.
No pickle is used.

A full checkpoint holds everything that a run needs to continue: the weights, AdamW's moments, the state of the
controllers, and the best epochs. It holds no state of random number generators, because the seed and the epoch
determine every random stream. A weights-only checkpoint holds the weights, but not the rest of the state.
"""

from __future__ import annotations

import io
import json
import math
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import save as save_arrays
from safetensors.torch import load as load_tensors
from torch import Tensor

from ternary_lab.arguments import read_path
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.config import Config
from ternary_lab.config_files import from_yaml
from ternary_lab.controllers import Controllers
from ternary_lab.errors import CheckpointError, ConfigError, first_names
from ternary_lab.model import Architecture, TernaryVAE
from ternary_lab.networks import Blocks
from ternary_lab.runs.checksums import REMEDY, SHA256, UNKNOWN_HERE, checkpoint_checksum
from ternary_lab.runs.files import write_atomically
from ternary_lab.space import SIZE
from ternary_lab.training.run_state import Best, RunState

FORMAT = "ternary-lab-1"
"""The only key of the header. safetensors writes several keys in random order, but equal runs need equal bytes."""
OUTPUT = "output"
"""Name of the tensor (2, 1, SIZE) with the moving averages of the output distributions, for information terms."""
LARGEST = 256 * 2**20
"""Largest size in bytes of a file that is read. No checkpoint of this model is larger."""
WEIGHTS = ("model", "model_state_dict", "state_dict")
"""Keys under which an original checkpoint may hold its weights."""
WRAPPERS = {"_orig_mod", "module", "model"}
"""Parts that `torch.compile`, data parallelism and Lightning add to the name of a weight. No name in v5.5 has them."""
SAVE_AGAIN = "save {'epoch': epoch, 'model': model.state_dict()} where it was made"


@dataclass(frozen=True)
class Checkpoint:
    """The state of one run after one epoch."""

    config: Config
    seed: int | None
    epoch: int
    """Index of the last finished epoch, or -1 before the first epoch."""
    rho: float
    """Permeability ρ in that epoch."""
    blocks: Blocks
    state: RunState | None
    """State from which training can continue; None in a weights-only checkpoint."""
    cohort: tuple[str, ...] = ()
    """Names of the runs that were trained side by side with this run. The name of this run is included."""

    def model(self) -> TernaryVAE:
        return TernaryVAE(self.config.model, self.blocks)


@with_fixed_arithmetic
def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically. Raises RunError if the file cannot be written."""
    write_atomically(path, encoded(checkpoint, checkpoint.config.as_yaml()))


def encoded(checkpoint: Checkpoint, config: str) -> bytes:
    """Return the content of a checkpoint's file.

    Args:
        config: the text `checkpoint.config.as_yaml()`. To compute this text takes longer than the rest, so training
            computes it only once for each run.
    """
    architecture = Architecture(checkpoint.config.model)
    tensors = {f"model.{k}": v for k, v in architecture.named(checkpoint.blocks).items()}
    state = checkpoint.state
    if state is not None:
        for kind, moments in (("first", state.first_moments), ("second", state.second_moments)):
            named = architecture.named(moments)
            tensors |= {f"{kind}.{k}": v for k, v in named.items() if _has_moments(k, checkpoint.config)}
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
            "best": _best_as_json(state.best),
            "selected": _best_as_json(state.selected),
            "stopped": state.stopped,
        },
    }
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    header[SHA256] = checkpoint_checksum(tensors, header)
    # safetensors refuses tensors that are views of one block of memory, but accepts NumPy arrays that are such views.
    # So the tensors need not be copied.
    arrays = {k: v.numpy() for k, v in tensors.items()}
    return save_arrays(arrays, {FORMAT: json.dumps(header, allow_nan=False)})


@with_fixed_arithmetic
def load(path: Path) -> Checkpoint:
    """Read a checkpoint that `save` has written. Raises CheckpointError for any other file, and for a damaged file."""
    data = _read(path)
    try:
        tensors = load_tensors(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, ValueError, RecursionError, MemoryError, OverflowError):
        raise CheckpointError(f"{path}: not a safetensors file, or truncated") from None
    if FORMAT not in metadata:
        raise CheckpointError(f"{path}: safetensors, but not a Ternary Lab checkpoint (no {FORMAT} header)")
    try:
        header = json.loads(metadata[FORMAT])
        checksum = header.pop(SHA256, None)
        try:
            config = from_yaml(header["config"], f"{path}: its configuration")
        except ConfigError as error:
            if checksum is None or checksum != checkpoint_checksum(tensors, header):
                raise
            raise CheckpointError(f"{error}: {UNKNOWN_HERE}") from error
        architecture = Architecture(config.model)
        if 4 * architecture.parameters > len(data):
            raise CheckpointError(f"{path}: holds less than the {architecture.parameters} weights that it declares")
        blocks = architecture.from_named(_with_prefix("model.", tensors), str(path))
        state = None
        if header["state"] is not None:
            saved = header["state"]
            zeros = architecture.named(architecture.empty())
            zeros = {k: v for k, v in zeros.items() if not _has_moments(k, config)}
            state = RunState(
                next_epoch=int(header["epoch"]) + 1,
                steps=int(saved["steps"]),
                blocks=blocks,
                first_moments=architecture.from_named(_with_prefix("first.", tensors) | zeros, str(path)),
                second_moments=architecture.from_named(_with_prefix("second.", tensors) | zeros, str(path)),
                controllers=Controllers(**saved["controllers"]),
                best=_best(saved["best"]),
                # Older runs have no `selected`. The early-stopping metric chose the models of these runs.
                selected=_best(saved.get("selected", saved["best"])),
                stopped=saved["stopped"],
                output=_output(tensors) if config.information.enabled else None,
            )
        if checksum is not None and checksum != checkpoint_checksum(tensors, header):
            raise CheckpointError(f"{path}: damaged checkpoint: its checksum differs: {REMEDY}")
        return Checkpoint(
            config, header["seed"], int(header["epoch"]), float(header["rho"]), blocks, state, tuple(header["cohort"])
        )
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint: {type(error).__name__}: {error}") from None


@with_fixed_arithmetic
def load_model(source: str | Path, *, device: str | torch.device = "cpu") -> TernaryVAE:
    """Return the model in a checkpoint file.

    The file is a safetensors file of this library, or a `.pt` file of the original v5.5. The weights in a `.pt` file
    are read, but no code in the file is run. Raises CheckpointError if the file is missing, truncated or of another
    kind.
    """
    return open_checkpoint(source).model().to(device)


@with_fixed_arithmetic
def open_checkpoint(source: str | Path) -> Checkpoint:
    """Read a checkpoint of this library, or of the original v5.5 if torch has written the file.

    Raises CheckpointError.
    """
    path = read_path(source)
    return import_original(path) if path.suffix.lower() in (".pt", ".pth") or _of_torch(path) else load(path)


def _of_torch(path: Path) -> bool:
    """Return whether a file begins as one of `torch.save`: an archive, or a pickle in the format before torch 1.6."""
    if not path.is_file():  # to open a pipe could wait for ever
        return False
    try:
        with path.open("rb") as file:
            return file.read(4).startswith((b"PK\x03\x04", b"\x80\x02"))
    except OSError:
        return False


def import_original(path: Path) -> Checkpoint:
    """Read the weights and the epoch of an original v5.5 checkpoint, which is a pickle of tensors.

    The weights are a dictionary under one of the keys `WEIGHTS`, or the whole content of the file. Their names may have
    the parts `WRAPPERS`. Everything else is left out, except for the key `epoch`. Without this key the epoch is -1.

    No code in the file is run. Raises CheckpointError.
    """
    content = _unpickled(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a v5.5 checkpoint: it holds no dictionary, but a {type(content).__name__}")
    weights = next(filter(_has_tensors, (*(content.get(key) for key in WEIGHTS), content)), None)
    if weights is None:
        keys = f"tensors under {', '.join(WEIGHTS[:-1])} or {WEIGHTS[-1]}; its keys are {first_names(content)}"
        raise CheckpointError(f"{path}: not a v5.5 checkpoint: it has no {keys}")
    named: dict[str, Tensor] = {}
    for key, value in weights.items():
        name = ".".join(part for part in str(key).split(".") if part not in WRAPPERS)
        if name in named:
            raise CheckpointError(f"{path}: it holds a weight twice, under another name as {first_names([key])}")
        named[name] = value
    config = Config()
    architecture = Architecture(config.model)
    blocks = architecture.from_named(named, str(path))
    places = architecture.named(blocks)
    networks = {name.partition(".")[0] for name in places}
    if others := [name for name in named if name.partition(".")[0] in networks and name not in places]:
        raise CheckpointError(f"{path}: not a v5.5 checkpoint: v5.5 has no weights {first_names(others)}")
    epoch = content.get("epoch", -1)
    epoch = int(epoch) if isinstance(epoch, float) and epoch.is_integer() else epoch
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < -1:
        raise CheckpointError(f"{path}: its epoch is {epoch!r:.60}, not a whole number from 0, or -1 before training")
    # The original does not store whether its gradients were balanced. Before phase 3, ρ does not depend on this.
    return Checkpoint(config, None, epoch, config.permeability(max(epoch, 0), False), blocks, None)


def _has_tensors(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(item, Tensor) for item in value.values())


class _NumPy:
    """Stand-in for a type or an array of NumPy in a pickle. It keeps what the pickle gives it, and runs nothing."""

    def __init__(self, *given: object) -> None:
        self.given = given

    def __setstate__(self, state: object) -> None:
        """Leave out the rest: the numbers of an array, or details of a type."""


def _number(kind: object = None, data: object = b"", *_: object) -> object:
    """Return one number of NumPy in a pickle, as a number of Python. Other values become a stand-in."""
    code = kind.given[0] if isinstance(kind, _NumPy) and kind.given else None
    if isinstance(code, str) and isinstance(data, bytes) and re.fullmatch("[iu][1248]|f[248]|b1", code):
        return np.frombuffer(data, code)[0].item()
    return _NumPy()


_STAND_INS: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
    (_NumPy, "numpy.dtype"),
    (_NumPy, "numpy.ndarray"),
    *((_NumPy, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
"""Functions that are called instead of NumPy's. A hostile file could make NumPy's own functions read other memory."""


def _unpickled(path: Path) -> object:
    """Return the content of a file that `torch.save` has written. No code in it is run. Raises CheckpointError."""
    data = _read(path)
    _check_unpacked_size(data, path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_STAND_INS):
            warnings.simplefilter("ignore")  # torch warns about foreign files, which are refused below with one line
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises a dozen types for foreign or hostile files
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            reason = f"it holds {found[1]:.60}, which could run code: {SAVE_AGAIN}"
        elif "TorchScript" in str(error):
            reason = f"it holds a program of TorchScript: {SAVE_AGAIN}"
        else:
            reason = "it is not a torch checkpoint with pickle protocol 2, or it is truncated"
        raise CheckpointError(f"{path}: refused: {reason}") from None


def _has_moments(name: str, config: Config) -> bool:
    """Return whether a checkpoint holds AdamW's moments of the weight `name`.

    Moments of StateNet's weights are held only if StateNet learns.
    """
    return config.statenet.training != "none" or not name.startswith("state_net.")


def _output(tensors: Mapping[str, Tensor]) -> Tensor:
    output = tensors[OUTPUT]
    if output.shape != (2, 1, SIZE) or not bool((output >= 0).all()):
        raise ValueError(f"tensor {OUTPUT} is not a pair of distributions over {SIZE} operations")
    return output


def _best_as_json(best: Best) -> dict[str, Any]:
    return {"value": None if math.isinf(best.value) else best.value, "epoch": best.epoch}


def _best(saved: Mapping[str, Any]) -> Best:
    return Best(math.inf if saved["value"] is None else saved["value"], saved["epoch"])


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _read(path: Path) -> bytes:
    """Read the bytes of a file. Raises CheckpointError if the file cannot be read, or is too large for a checkpoint."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise CheckpointError(f"{path}: is not a file")
        if size > LARGEST:
            raise CheckpointError(f"{path}: {size} bytes, more than any checkpoint of this model ({LARGEST}): not read")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None


def _check_unpacked_size(data: bytes, path: Path) -> None:
    """Check the unpacked size of a file that is a zip archive.

    Raises CheckpointError if the archive is damaged, or unpacks to more than `LARGEST` bytes.
    """
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path}: refused: a damaged archive: {error}") from None
    if size > LARGEST:
        raise CheckpointError(
            f"{path}: refused: it would unpack to {size} bytes, more than any checkpoint of this model ({LARGEST})"
        )

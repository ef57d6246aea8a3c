"""Provenance of a run: source hash, versions, machine, and the devices that trained its epochs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from ternary_lab.backend.cpus import available_cpus
from ternary_lab.backend.numerics import can_flush_denormals


def source_hash() -> str:
    """Return the SHA-256 of the library's source code. Runs record this hash to identify their code."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return a dictionary from name to version, for Python and for the packages that affect results."""
    found = {"python": platform.python_version()}
    for name in ("torch", "numpy", "pandas", "pydantic", "safetensors", "matplotlib", "ternary-lab"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@dataclass(frozen=True)
class TrainedSpan:
    """Consecutive epochs of a run that one device trained. The span ends where the next span of the run begins."""

    first_epoch: int
    device: str
    """cpu or cuda."""
    card: str | None
    """Name of the GPU; None for a CPU."""
    multiprocessors: int | None
    """Number of multiprocessors of the GPU; None for a CPU, and if the number was not recorded."""
    torch_version: str
    tf32: bool | None
    """Whether the GPU may round the factors of float32 products to TF32; None if this was not recorded."""

    @staticmethod
    def here(first_epoch: int, device: torch.device) -> TrainedSpan:
        """Return the span that this process begins on `device` at epoch `first_epoch`."""
        version = str(torch.__version__)
        if device.type == "cpu":
            return TrainedSpan(first_epoch, "cpu", None, None, version, False)
        card = torch.cuda.get_device_properties(device)
        tf32 = torch.backends.cuda.matmul.allow_tf32
        return TrainedSpan(first_epoch, "cuda", card.name, card.multi_processor_count, version, tf32)

    def __str__(self) -> str:
        return "the CPU" if self.device == "cpu" else f"a CUDA GPU ({self.card})"


NO_DEVICE = "it does not say on which device the run was trained"
_SPANS = TypeAdapter(list[TrainedSpan])


def trained_spans(provenance: Mapping[str, Any]) -> list[TrainedSpan]:
    """Return the spans of a run in the order of its epochs. Older runs record only the first device, as `device`."""
    if "devices" in provenance:
        return _SPANS.validate_python(provenance["devices"])
    name, version = provenance["device"], provenance["versions"]["torch"]
    if name == "cpu":
        return [TrainedSpan(0, "cpu", None, None, version, False)]
    return [TrainedSpan(0, "cuda", name, None, version, None)]


def provenance_problem(told: Mapping[str, Any]) -> str:
    """Return what is wrong with the content of a provenance.json, or "" if a run can be read and resumed with it."""
    seed, seconds, stopped = told.get("seed"), told.get("wall_seconds", 0.0), told.get("stopped")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        return "it names no seed" if seed is None else f"its seed is {seed!r} and not a whole number"
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return f"its wall_seconds are {seconds!r} and not a number"
    if not isinstance(stopped, str | None):
        return f"its reason of the end, stopped, is {stopped!r} and not a text"
    try:
        return "" if trained_spans(told) else NO_DEVICE
    except (KeyError, TypeError, ValueError):
        return NO_DEVICE


def provenance(seed: int, span: TrainedSpan) -> dict[str, Any]:
    """Return the content of provenance.json for a new run."""
    return {
        "seed": seed,
        "devices": [asdict(span)],
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "available_cpus": available_cpus(),
        "denormals": "zero" if can_flush_denormals() else "kept",
        "source_sha256": source_hash(),
        "versions": versions(),
        "wall_seconds": 0.0,
    }

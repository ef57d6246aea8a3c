"""Provenance of a run: source hash, versions, machine, and the devices that trained its epochs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ternary_lab.backend.cpus import available_cpus
from ternary_lab.backend.numerics import can_flush_denormals

if TYPE_CHECKING:
    pass


def source_hash() -> str:
    """sha256 over the library's own source, so that a result names the code that made it."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("torch", "numpy", "pandas", "pydantic", "safetensors", "matplotlib", "ternary-lab")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@dataclass(frozen=True)
class Stretch:
    """Epochs of a run that one device trained, up to those of the next stretch."""

    first_epoch: int
    device: str
    """cpu or cuda."""
    card: str | None
    """A GPU's name."""
    multiprocessors: int | None
    """Of a GPU; None where it was not recorded."""
    torch_version: str
    tf32: bool | None
    """Whether a GPU may round the factors of float32 products to TF32; None where it was not recorded."""

    @staticmethod
    def here(first_epoch: int, device: torch.device) -> Stretch:
        """What this process trains on."""
        version = str(torch.__version__)
        if device.type == "cpu":
            return Stretch(first_epoch, "cpu", None, None, version, False)
        card = torch.cuda.get_device_properties(device)
        tf32 = torch.backends.cuda.matmul.allow_tf32
        return Stretch(first_epoch, "cuda", card.name, card.multi_processor_count, version, tf32)

    def __str__(self) -> str:
        return "the CPU" if self.device == "cpu" else f"a CUDA GPU ({self.card})"


def stretches(provenance: Mapping[str, Any]) -> list[Stretch]:
    """The devices of a run, in the order of its epochs. Older runs tell the first one only, as `device`."""
    if "devices" in provenance:
        return [Stretch(**stretch) for stretch in provenance["devices"]]
    name, version = provenance["device"], provenance["versions"]["torch"]
    if name == "cpu":
        return [Stretch(0, "cpu", None, None, version, False)]
    return [Stretch(0, "cuda", name, None, version, None)]


def provenance(seed: int, stretch: Stretch) -> dict[str, Any]:
    """What is about to produce a run."""
    return {
        "seed": seed,
        "devices": [asdict(stretch)],
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "available_cpus": available_cpus(),
        "denormals": "zero" if can_flush_denormals() else "kept",
        "source_sha256": source_hash(),
        "versions": versions(),
        "wall_seconds": 0.0,
    }

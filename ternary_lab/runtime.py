"""Where a computation runs, and the random numbers it reads.

Randomness is stateless: a stream is named by (seed, purpose, epoch) and made afresh from that name.
So a run's numbers depend on nothing that other runs, other purposes or earlier epochs drew, a resumed
or branched run reads what an undisturbed one reads, and no generator state has to be stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from ternary_lab.errors import DeviceError

Purpose = Literal["order", "noise", "validation", "coverage", "latents", "evaluation", "sample"]


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """`auto` is CUDA where a GPU is present, else the CPU. Raises DeviceError for a device that is not there."""
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise DeviceError(f"unknown device {device!r}: use auto, cpu or cuda") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"device {str(chosen)!r} was asked for and no CUDA GPU is visible to torch {torch.__version__}: "
            "use --device cpu, or install the CUDA build of torch"
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device {str(chosen)!r}: only {torch.cuda.device_count()} CUDA GPU(s) are visible")
    if chosen.type not in ("cpu", "cuda"):
        raise DeviceError(f"device {str(chosen)!r} is not supported: use auto, cpu or cuda")
    return chosen


@contextmanager
def at_most_threads(count: int) -> Iterator[None]:
    """Within it torch uses at most `count` CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(count, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def stream(
    seed: int, purpose: Purpose, epoch: int = 0, *, device: torch.device | str = "cpu"
) -> torch.Generator:
    """The random stream of one run for one purpose in one epoch, at its beginning, on `device`."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{epoch}".encode(), digest_size=7).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest, "little"))

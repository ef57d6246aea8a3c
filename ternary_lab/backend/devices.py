"""The choice of a device, tensors on a device, and one-line messages for CUDA errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ternary_lab.errors import DeviceError, TernaryLabError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

INTACT = "the last finished epoch is intact"
RESUMES = f"{INTACT} and the same command resumes"
TOO_OLD = ("driver on your system is too old", "driver version is insufficient")
OUT_OF_MEMORY = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
BUSY = "busy or unavailable"
NO_KERNEL = "no kernel image is available"
_NAME = re.compile(r"auto|(?P<cpu>cpu(:0)?)|cuda(:[0-9]{1,4})?")
FAILED = ("CUDA error", "CUDA driver error", "CUBLAS_STATUS", "cuBLAS error", "uncorrectable ECC error")


def device_name(device: str | torch.device) -> str:
    """Return the usual spelling of a device: auto, cpu, cuda or cuda:N. The CPU has no number, so cpu:0 becomes cpu.

    torch is not imported, and the device may be missing. Raises DeviceError if the device is unknown or not supported.
    """
    match = _NAME.fullmatch(str(device))
    if match is None:
        raise DeviceError(f"unknown device {str(device)!r}: use auto, cpu or cuda (cuda:1 is the second GPU)")
    return "cpu" if match["cpu"] else match[0]


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device with this name; `auto` means CUDA if there is a GPU, and otherwise the CPU.

    Raises DeviceError if the device is unknown, missing or not supported.
    """
    import torch

    name = device_name(device)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(name)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise missing_gpu(str(chosen))
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device {str(chosen)!r}: only {torch.cuda.device_count()} CUDA GPU(s) are visible")
    return chosen


def on_device(values: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return Python numbers as a tensor on a device. The host does not wait for the copy to a GPU."""
    import torch

    made = torch.tensor(values, dtype=dtype, device="cpu")
    return (made.pin_memory() if device.type == "cuda" else made).to(device, non_blocking=True)


@contextmanager
def gpu_errors(room: Callable[[], str] | None = None) -> Iterator[None]:
    """Replace torch's GPU errors inside this context by a DeviceError with a one-line message and a remedy.

    Other errors are not changed. `room` returns the remedy that the message names if the GPU's memory is full.
    """
    try:
        yield
    except TernaryLabError:
        raise
    except RuntimeError as error:  # torch's OutOfMemoryError and AcceleratorError are RuntimeErrors
        explained = _explained(error, room)
        if explained is None:
            raise
        raise explained from None


def missing_gpu(wanted: str) -> DeviceError:
    """Return the error for the missing device `wanted`, such as cuda or cuda:1, when torch finds no GPU."""
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        reason = ""
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        reason = str(error)
    if any(text in reason for text in TOO_OLD):
        return _old_driver()
    return DeviceError(
        f"device {wanted!r} was asked for and no CUDA GPU is visible to torch {torch.__version__}: "
        "use --device cpu, or install the CUDA build of torch"
    )


def _explained(error: RuntimeError, room: Callable[[], str] | None) -> DeviceError | None:
    """Return the DeviceError that explains an error of torch, or None if the error is not about a GPU."""
    text = str(error)
    first = (text.strip().splitlines() or [type(error).__name__])[0]
    if any(part in text for part in TOO_OLD):
        return _old_driver()
    if type(error).__name__ == "OutOfMemoryError" or any(part in text for part in OUT_OF_MEMORY):
        remedy = room() if room is not None else "train fewer runs side by side, or use --device cpu"
        return DeviceError(f"the GPU's memory is full: {remedy}; {INTACT}")
    if BUSY in text:
        return DeviceError(
            "the GPU is busy: another process uses it alone, or its compute mode is prohibited: wait (nvidia-smi shows "
            f"the process), choose another GPU with CUDA_VISIBLE_DEVICES, or use --device cpu; {RESUMES}"
        )
    if NO_KERNEL in text:
        return DeviceError(
            "this build of torch has no kernels for the GPU: install another build, or use --device cpu"
        )
    if type(error).__name__ == "AcceleratorError" or any(part in text for part in FAILED):
        return DeviceError(f"the GPU failed: {first}: {RESUMES}; if it fails again, check the GPU with nvidia-smi")
    return None


def _old_driver() -> DeviceError:
    import torch

    return DeviceError(
        f"the NVIDIA driver is too old for torch {torch.__version__} (CUDA {torch.version.cuda}): update the driver, "
        "install a torch build for an older CUDA, or use --device cpu"
    )

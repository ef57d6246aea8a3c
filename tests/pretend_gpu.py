"""A pretended GPU for tests: its tensors are on device `gpu:0`, have their numbers on the CPU, and follow CUDA's rules.

    with PretendedGPU() as gpu:
        cohort = Cohort([config], [seed], gpu.device)      # the library's own code, real numbers, autograd too
    gpu.kernels, gpu.waits, gpu.atomics                    # counts of the work of a GPU

It raises `RefusedByCUDAError`, with file and line of the library, for

    operands on two devices        such as one-hot classes, settings, noise or a step counter on the CPU. Allowed as on
                                   CUDA: CPU indices into a GPU tensor, a CPU scalar as an operand of arithmetic
    a generator of one device      that fills a tensor of the other device
    a GPU tensor passed to NumPy

It counts, by operator and by file and line,

    kernels     operators that are neither views nor allocations: one or a few launches each on a GPU
    waits       operations for which the host waits: reading numbers, masks as indices, copies from and to the CPU
    atomics     sums that a GPU adds in any order, if the numbers are not whole, so that the order changes the result

It does not test a real GPU's kernels, rounding, races, captured graphs, memory or speed. Its random numbers are those
of the CPU; a real GPU draws others.

Use it in one thread only. Other tests may run before and after it in the same process: outside of `with`, torch only
keeps the name of the device. Tests of a real GPU may not run in the same process, because autograd supports the streams
of one kind of device only. It uses private functions of the torch release in the lock file.
"""

from __future__ import annotations

import functools
import os
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import ternary_lab

NAME = "gpu"
CPU = torch.device("cpu")
LIBRARY = str(Path(ternary_lab.__file__).parent) + os.sep

# Operators, by their names in torch.ops.aten.
COPIES = {"copy_", "_to_copy"}
"""Read one device and write another."""
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""Accept indices from the CPU."""
ALL_ON_DEVICE = {"cat", "stack", "mm", "bmm", "addmm", "baddbmm", "dot", "mv", "gather", "scatter_add_"}
"""Refuse even a scalar from the CPU. So do fused optimisers, whose kernels read it through a pointer."""
WAITS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2", "unique_dim", "bincount"}
"""Return numbers to the host, or a tensor whose size depends on numbers."""
ATOMICS = {
    "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_", "index_add", "index_add_", "bincount", "histc",
    "put_", "cumsum", "multinomial",
}
"""Add in any order: by atomics, or by running sums over pieces."""
ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "_unsafe_view"}
PRODUCTS = {"mm", "bmm", "addmm", "addmm_", "baddbmm", "baddbmm_", "mv", "addmv", "dot"}


class RefusedByCUDAError(RuntimeError):
    """CUDA refuses this."""


class OnGPU(Tensor):
    """A tensor of the pretended GPU."""

    held: Tensor
    """The numbers, on the CPU."""

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGPU:
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: a tensor of the pretended GPU after `with PretendedGPU()`, or in another thread")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        raise RefusedByCUDAError(f"numpy: a tensor on {NAME} at {line_of_library()}")


class Generator(torch.Generator):
    """A generator that may be on the pretended GPU; it draws the same numbers as on the CPU."""

    place: torch.device

    def __new__(cls, device: str | torch.device = "cpu") -> Generator:
        made = super().__new__(cls, "cpu")
        made.place = torch.device(device)
        return made

    device = property(lambda self: self.place)  # type: ignore[assignment]


class _Generators(TorchFunctionMode):
    """Compares the devices of generator and tensor, before torch's dispatcher strips the generator of its class."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (generator := kwargs.get("generator")) is not None:
            filled = next((x for x in args if isinstance(x, Tensor)), None)
            place = filled.device if filled is not None else torch.device(kwargs.get("device") or CPU)
            if place.type != generator.device.type:
                raise RefusedByCUDAError(
                    f"{func.__name__}: a tensor on {place.type}, a generator on {generator.device.type} "
                    f"at {line_of_library()}"
                )
        return func(*args, **kwargs)


class _Mode(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and to import the compiler in order to tell it so takes seconds."""
        return False


class PretendedGPU(_Mode):
    """While it is entered there is a GPU, `device`. The counts are of all that was done on it."""

    def __init__(self) -> None:
        super().__init__()
        register()
        self.device = torch.device(NAME, 0)
        self.kernels: Counter[str] = Counter()
        """Operator -> how often."""
        self.waits: Counter[str] = Counter()
        """Operator, file and line -> how often."""
        self.atomics: Counter[str] = Counter()
        """Likewise."""
        self._within = ExitStack()

    def __enter__(self) -> PretendedGPU:
        self._within.callback(setattr, torch, "Generator", torch.Generator)
        self._within.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch.Generator = Generator  # type: ignore[misc]
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=): made on the CPU, then moved
        # Autograd has a thread for each device that was known when it was first used, which may have been before this.
        self._within.enter_context(torch.autograd.set_multithreading_enabled(False))
        self._within.enter_context(_Generators())
        super().__enter__()
        return self

    def __exit__(self, *of: Any) -> None:
        super().__exit__(*of)
        self._within.close()

    def as_one_kernel(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The function, counted as one kernel of that name: where there is a GPU, it is one."""
        def counted(*args: Any) -> Any:
            before = self.kernels.copy()
            result = function(*args)
            self.kernels = before + Counter([name])
            return result

        return counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), _name(func)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        ours = [x for x in tensors if isinstance(x, OnGPU)]
        to_gpu = isinstance(args[0], OnGPU) if name == "copy_" else bool(ours)
        if kwargs.get("device") is not None:
            to_gpu, kwargs["device"] = torch.device(kwargs["device"]).type == NAME, CPU
        if ours and name not in COPIES:
            _check_devices(func, args, tensors)
        if ours or to_gpu:
            self._count(func, args, kwargs, tensors, to_gpu)
        out = func(*_held(args), **_held(kwargs))
        if not to_gpu:
            return out
        wrapper_of = {id(x.held): x for x in ours}

        def wrapped(x: Any) -> Any:
            """A tensor that was changed in place stays the one that it was."""
            return x if not isinstance(x, Tensor) else wrapper_of[id(x)] if id(x) in wrapper_of else OnGPU(x)

        return tree_map(wrapped, out)

    def _count(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], to_gpu: bool) -> None:
        name = _name(func)
        if torch.Tag.inplace_view in func.tags:
            raise NotImplementedError(f"{func} changes a shape in place, which the pretended GPU does not follow")
        if func.is_view or name in ALLOCATIONS:
            return
        self.kernels[name] += 1
        crosses = name in COPIES and (not to_gpu or not all(isinstance(x, OnGPU) for x in tensors))
        asynchronous = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
        indices = [x for x in tree_leaves(args[1]) if isinstance(x, Tensor)] if name in INDEXED else []
        by_mask = any(x.dtype == torch.bool for x in indices)
        filled = by_mask and name != "index" and args[2].numel() == 1  # x[mask] = number: no index is made of the mask
        moved = not all(isinstance(x, OnGPU) for x in indices)
        if name in WAITS or (crosses and not asynchronous) or (by_mask and not filled) or moved:
            self.waits[f"{name} at {line_of_library()}"] += 1
        accumulates = name in INDEXED and len(args) > 3 and args[3]
        if name in ATOMICS or accumulates:
            added = [x.held for x in tensors if isinstance(x, OnGPU) and x.is_floating_point()]
            if added and not torch.equal(added[-1], added[-1].round()):
                self.atomics[f"{name} at {line_of_library()}"] += 1


class TensorFloat32(_Mode):
    """Factors of float32 products are rounded to the 11 bits of TF32, as on a GPU that is allowed to."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _name(func) in PRODUCTS:
            *before, a, b = args
            args = (*before, *(_rounded(x) if x.dtype == torch.float32 else x for x in (a, b)))
        return func(*args, **(kwargs or {}))


def line_of_library() -> str:
    """Where the library is now: file:line."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.startswith(LIBRARY):
        frame = frame.f_back
    return f"{frame.f_code.co_filename.removeprefix(LIBRARY)}:{frame.f_lineno}" if frame else "outside of the library"


@functools.cache
def register() -> None:
    """Make the device's name known to torch. RuntimeError where torch no longer has what the pretended GPU needs."""
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as backend

        for private in ("_only_lift_cpu_tensors", "_set_only_lift_cpu_tensors"):
            getattr(torch._C, private)
    except (ImportError, AttributeError) as error:
        raise RuntimeError(
            f"torch {torch.__version__} has moved a private function that tests/pretend_gpu.py stands on: {error}: "
            "bring that file up to date with it"
        ) from error
    backend(NAME)


def _check_devices(func: Any, args: Any, tensors: list[Tensor]) -> None:
    name = _name(func)
    allowed = {id(x) for x in tree_leaves(args[1])} if name in INDEXED and isinstance(args[0], OnGPU) else set()
    strict = name in ALL_ON_DEVICE or name.startswith("_fused")
    for x in tensors:
        if isinstance(x, OnGPU) or id(x) in allowed:
            continue
        written = x is args[0] and func._schema.is_mutable
        if x.dim() or strict or written:
            raise RefusedByCUDAError(f"{func}: tensors on {NAME} and on cpu, {tuple(x.shape)}, at {line_of_library()}")


def _name(func: Any) -> str:
    name: str = func._schema.name.split("::")[1]
    return name


def _held(values: Any) -> Any:
    return tree_map(lambda x: x.held if isinstance(x, OnGPU) else x, values)


def _rounded(x: Tensor) -> Tensor:
    significand, exponent = torch.frexp(x)
    return torch.ldexp((significand * 2**11).round() / 2**11, exponent)

"""A pretended GPU for tests.

Its tensors are on the device `gpu:0`, but the CPU holds their numbers. Operations on them follow the rules of CUDA.

    with PretendedGPU() as gpu:
        cohort = Cohort([config], [seed], gpu.device)      # the library's own code, real numbers, autograd too
    gpu.kernels, gpu.waits, gpu.atomics                    # counts of the work of a GPU

It raises `RefusedByCUDAError` in three cases. The message names file and line of the library.

    two operands    are on different devices, for example if one-hot classes, settings, noise or a step counter are on
                    the CPU. As on CUDA, CPU indices into a GPU tensor and CPU scalars in arithmetic are allowed
    a generator     fills a tensor on another device
    a GPU tensor    is passed to NumPy

It counts three kinds of operations. Kernels are counted by operator, waits and atomics by operator, file and line.

    kernels     operators that are neither views nor allocations. A real GPU launches one or a few kernels for each
    waits       operations for which the host waits: reading numbers, masks as indices, copies from and to the CPU
    atomics     sums that a GPU adds in any order. Sums of integers do not count: every order gives the same sum

The pretended GPU does not test the kernels, rounding, races, captured graphs, memory or speed of a real GPU. Its random
numbers are the random numbers of the CPU. A real GPU draws other numbers.

Use the pretended GPU in one thread only. Other tests can run before and after it in the same process, because after
`with` torch keeps only the name of the device. Tests of a real GPU cannot run in the same process, because autograd
supports the streams of only one kind of device. The module uses private functions of the torch release in the lock
file.
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

# Sets of operators, by the names of the operators in torch.ops.aten.
COPIES = {"copy_", "_to_copy"}
"""Operators that read from one device and write to another device."""
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""Operators that accept indices on the CPU."""
ALL_ON_DEVICE = {"cat", "stack", "mm", "bmm", "addmm", "baddbmm", "dot", "mv", "gather", "scatter_add_"}
"""Operators that refuse even a scalar on the CPU.

Fused optimisers refuse it too, because their kernels read the scalar through a pointer.
"""
WAITS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2", "unique_dim", "bincount"}
"""Operators that return numbers to the host, or a tensor whose size depends on numbers."""
ATOMICS = {
    "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_", "index_add", "index_add_", "bincount", "histc",
    "put_", "cumsum", "multinomial",
}
"""Operators that add in any order, because they use atomics or sums over pieces."""
ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "_unsafe_view"}
PRODUCTS = {"mm", "bmm", "addmm", "addmm_", "baddbmm", "baddbmm_", "mv", "addmv", "dot"}


class RefusedByCUDAError(RuntimeError):
    """An operation that CUDA would refuse."""


class OnGPU(Tensor):
    """A tensor of the pretended GPU."""

    held: Tensor
    """The numbers of the tensor, on the CPU."""

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
    """A random generator on the CPU or on the pretended GPU. It draws the same numbers on both devices."""

    place: torch.device

    def __new__(cls, device: str | torch.device = "cpu") -> Generator:
        made = super().__new__(cls, "cpu")
        made.place = torch.device(device)
        return made

    device = property(lambda self: self.place)  # type: ignore[assignment]


class _Generators(TorchFunctionMode):
    """Compares the devices of a generator and of the tensor that it fills.

    This check must precede the dispatcher of torch, which replaces the generator by an object without `place`.
    """

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
        """Return False, so that torch does not import its compiler.

        If the result were True, torch would import the compiler in order to exclude this mode from compilation. The
        import takes seconds, and nothing is compiled here.
        """
        return False


class PretendedGPU(_Mode):
    """A context in which a pretended GPU, `device`, exists. The counters include all operations on this device."""

    def __init__(self) -> None:
        super().__init__()
        register()
        self.device = torch.device(NAME, 0)
        self.kernels: Counter[str] = Counter()
        """Number of kernels by operator."""
        self.waits: Counter[str] = Counter()
        """Number of waits by operator, file and line."""
        self.atomics: Counter[str] = Counter()
        """Number of sums in any order, by operator, file and line."""
        self._within = ExitStack()

    def __enter__(self) -> PretendedGPU:
        self._within.callback(setattr, torch, "Generator", torch.Generator)
        self._within.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch.Generator = Generator  # type: ignore[misc]
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) builds on the CPU, then moves
        # Autograd makes one thread for each device that is known at its first use. The GPU may be registered later.
        self._within.enter_context(torch.autograd.set_multithreading_enabled(False))
        self._within.enter_context(_Generators())
        super().__enter__()
        return self

    def __exit__(self, *of: Any) -> None:
        super().__exit__(*of)
        self._within.close()

    def as_one_kernel(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return a function that counts as one kernel `name`. On a real GPU, `function` is one kernel."""
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
            """Return the existing wrapper of a tensor that was changed in place; wrap any other tensor."""
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
        filled = by_mask and name != "index" and args[2].numel() == 1  # x[mask] = number makes no index of the mask
        moved = not all(isinstance(x, OnGPU) for x in indices)
        if name in WAITS or (crosses and not asynchronous) or (by_mask and not filled) or moved:
            self.waits[f"{name} at {line_of_library()}"] += 1
        accumulates = name in INDEXED and len(args) > 3 and args[3]
        if name in ATOMICS or accumulates:
            added = [x.held for x in tensors if isinstance(x, OnGPU) and x.is_floating_point()]
            if added and not torch.equal(added[-1], added[-1].round()):
                self.atomics[f"{name} at {line_of_library()}"] += 1


class TensorFloat32(_Mode):
    """Rounds the factors of float32 products to the 11 bits of TF32, as a GPU does if TF32 is allowed."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _name(func) in PRODUCTS:
            *before, a, b = args
            args = (*before, *(_rounded(x) if x.dtype == torch.float32 else x for x in (a, b)))
        return func(*args, **(kwargs or {}))


def line_of_library() -> str:
    """Return the current position in the library as "file:line"."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.startswith(LIBRARY):
        frame = frame.f_back
    return f"{frame.f_code.co_filename.removeprefix(LIBRARY)}:{frame.f_lineno}" if frame else "outside of the library"


@functools.cache
def register() -> None:
    """Register the name of the device with torch.

    Raises RuntimeError if torch lacks a private function that the pretended GPU needs.
    """
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

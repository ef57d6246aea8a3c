"""The arithmetic that the library computes with, whatever its caller has set.

Inside `fence` numbers are float32 by default, tensors are on the CPU unless a device is named, matrix products have
float32's whole precision, nothing is cast by autocast, and denormal numbers count as zero. Some processors take a
hundred times as long for a denormal number as for another one, and sharp decoders are full of products that small.
Afterwards all of it is as the caller had it. Public functions that compute are decorated with `fenced`; threads of
the library's own begin with `prepare_thread`.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar, cast

import torch

P = ParamSpec("P")
T = TypeVar("T")

_ENVIRONMENT_BYTES = 64
"""More than the C type fenv_t has on any platform: 32 on x86-64, 8 on ARM."""


@contextmanager
def fence() -> Iterator[None]:
    """Compute under the library's arithmetic within it; inside another fence it does nothing."""
    if _thread.depth:
        yield
        return
    with ExitStack() as undo:
        undo.enter_context(_process)
        flushed = denormals_are_zero()
        if not flushed:
            _flush(True)
            undo.callback(_flush, False)
        elif torch.get_num_threads() > 1:
            _tell_pool()
        if torch.get_default_device().type != "cpu":
            undo.enter_context(torch.device("cpu"))
        if torch.is_inference_mode_enabled():
            undo.enter_context(torch.inference_mode(False))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                undo.enter_context(torch.autocast(kind, enabled=False))
        _thread.depth = 1
        undo.callback(setattr, _thread, "depth", 0)
        yield


def fenced(function: Callable[P, T]) -> Callable[P, T]:
    """The function, which computes inside `fence`. A generator leaves it whenever it hands over a value."""
    if inspect.isgeneratorfunction(function):
        return cast(Callable[P, T], _fenced_generator(function))

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> T:
        with fence():
            return function(*args, **kwargs)

    return inside


def _fenced_generator(function: Callable[P, Iterator[T]]) -> Callable[P, Iterator[T]]:
    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        values = function(*args, **kwargs)
        try:
            while True:
                with fence():
                    try:
                        value = next(values)
                    except StopIteration:
                        return
                yield value
        finally:
            with fence():
                values.close()  # type: ignore[attr-defined]

    return inside


def prepare_thread() -> None:
    """Begin a thread of the library's own, which computes on one CPU thread and takes denormal numbers for zero."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def denormals_are_zero() -> bool:
    """Whether this thread takes denormal numbers for zero now."""
    return sys.float_info.min / 2 == 0.0


def can_flush_denormals() -> bool:
    """Whether this processor can take denormal numbers for zero: x86-64 and 64-bit ARM can."""
    with fence():
        return denormals_are_zero()


def _flush(on: bool) -> None:
    torch.set_flush_denormal(on)
    if torch.get_num_threads() > 1:
        _tell_pool()


def _tell_pool() -> None:
    """Give the threads that torch shares an operation with the floating-point environment of this one."""
    run = _on_every_thread()
    if run is not None:
        run()


@functools.cache
def _on_every_thread() -> Callable[[], None] | None:
    """A call that copies this thread's floating-point environment to its OpenMP threads; None where there is none.

    torch sets the flag in the calling thread alone, and OpenMP's threads keep what they were born with. GOMP_parallel
    is what compilers call for a parallel region (GCC's libgomp; LLVM and Intel have it too).
    """
    library = ctypes.CDLL(torch._C.__file__)  # a name is looked for in what the library is linked with as well
    try:
        parallel, read, write = library.GOMP_parallel, library.fegetenv, library.fesetenv
    except AttributeError:
        return None
    parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    write_address = ctypes.cast(write, ctypes.c_void_p)

    def run() -> None:
        environment = ctypes.create_string_buffer(_ENVIRONMENT_BYTES)
        read(environment)
        parallel(write_address, ctypes.addressof(environment), torch.get_num_threads(), 0)

    return run


class _Thread(threading.local):
    depth = 0


class _Process:
    """What torch holds once for all threads: set by the first thread that comes in, put back by the last to leave."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._undo = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._undo = ExitStack()
                self._set()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._undo.close()

    def _set(self) -> None:
        kind = torch.get_default_dtype()
        if kind != torch.float32:
            torch.set_default_dtype(torch.float32)
            self._undo.callback(torch.set_default_dtype, kind)
        backends: Any = torch.backends
        # What has a precision of matrix products of its own: nothing before torch 2.9.
        matmuls = [b for b in (backends.cuda.matmul, backends.mkldnn.matmul) if hasattr(b, "fp32_precision")]
        of_each = [matmul.fp32_precision for matmul in matmuls]
        try:
            precision = torch.get_float32_matmul_precision()
        except RuntimeError:  # set for the backends apart, which this older setting cannot say
            precision = None
        inherited = backends.fp32_precision if matmuls else "none"
        if precision == "highest" and inherited == "none" and not {*of_each} - {"none", "ieee"}:
            return
        # Put back in the opposite order: the setting for all first, then each backend's.
        for matmul, value in zip(matmuls, of_each, strict=True):
            self._undo.callback(setattr, matmul, "fp32_precision", value)
        self._undo.callback(torch.set_float32_matmul_precision, precision or "highest")
        torch.set_float32_matmul_precision("highest")


_thread, _process = _Thread(), _Process()

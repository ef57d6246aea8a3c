"""The library's floating-point arithmetic, which does not depend on the caller's torch settings.

Inside `fixed_arithmetic` the default type is float32, the default device is the CPU, matrix products have full float32
precision, autocast is off, and denormal numbers count as zero. At the end the caller's settings are restored.

Denormal numbers count as zero because some processors need a hundred times as long for a denormal number as for another
number. Products of the probabilities of a sharp decoder, whose entries are almost certain, are often denormal.

Public functions that compute are decorated with `with_fixed_arithmetic`. The library's own threads start with
`prepare_thread`.
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
"""Size of a buffer for the C type fenv_t, whose own size is 32 on x86-64 and 8 on ARM."""


@contextmanager
def fixed_arithmetic() -> Iterator[None]:
    """Use the library's arithmetic inside this context.

    A second context inside it, in the same thread, does nothing.
    """
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
            _openmp_copier()()
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


def with_fixed_arithmetic(function: Callable[P, T]) -> Callable[P, T]:
    """Return a version of the function that runs inside `fixed_arithmetic`.

    A generator leaves the context while the caller handles a value.
    """
    if inspect.isgeneratorfunction(function):
        return cast(Callable[P, T], _fenced_generator(function))

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> T:
        with fixed_arithmetic():
            return function(*args, **kwargs)

    return inside


def _fenced_generator(function: Callable[P, Iterator[T]]) -> Callable[P, Iterator[T]]:
    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        values = function(*args, **kwargs)
        try:
            while True:
                with fixed_arithmetic():
                    try:
                        value = next(values)
                    except StopIteration:
                        return
                yield value
        finally:
            with fixed_arithmetic():
                values.close()  # type: ignore[attr-defined]

    return inside


def prepare_thread() -> None:
    """Prepare a thread of the library: torch uses one CPU thread there, and denormal numbers count as zero."""
    # In a new thread, torch's first operation takes over the number that any thread has set last. Reading the number
    # makes torch do this now, and not after it was set to 1.
    torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def denormals_are_zero() -> bool:
    """Return whether denormal numbers count as zero in this thread now."""
    return sys.float_info.min / 2 == 0.0


def can_flush_denormals() -> bool:
    """Return whether this processor can treat denormal numbers as zero, as x86-64 and 64-bit ARM can."""
    with fixed_arithmetic():
        return denormals_are_zero()


def _flush(on: bool) -> None:
    torch.set_flush_denormal(on)
    if torch.get_num_threads() > 1:
        _openmp_copier()()


@functools.cache
def _openmp_copier() -> Callable[[], None]:
    """Return a function that copies this thread's floating-point environment to the thread's OpenMP threads.

    If torch does not use OpenMP, the function does nothing. torch sets the flag for denormal numbers in the calling
    thread only, and each OpenMP thread keeps the environment with which it started. The function calls GOMP_parallel,
    which starts a parallel region in GCC's libgomp, and also in the runtimes of LLVM and Intel.
    """
    library = ctypes.CDLL(torch._C.__file__)  # also finds the names of the libraries that this file is linked with
    try:
        parallel, read, write = library.GOMP_parallel, library.fegetenv, library.fesetenv
    except AttributeError:
        return lambda: None
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
    """torch's settings for the whole process.

    The first thread that enters the context changes these settings. The last thread that leaves it restores them.
    """

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
        # These backends have their own precision of matrix products. Before torch 2.9 there are none.
        matmuls = [b for b in (backends.cuda.matmul, backends.mkldnn.matmul) if hasattr(b, "fp32_precision")]
        own = [matmul.fp32_precision for matmul in matmuls]
        try:
            precision = torch.get_float32_matmul_precision()
        except RuntimeError:  # the backends differ, and this older setting cannot express that
            precision = None
        inherited = backends.fp32_precision if matmuls else "none"
        if precision == "highest" and inherited == "none" and not {*own} - {"none", "ieee"}:
            return
        # Settings are restored in reverse order: first the setting for all backends, then the setting of each backend.
        for matmul, value in zip(matmuls, own, strict=True):
            self._undo.callback(setattr, matmul, "fp32_precision", value)
        self._undo.callback(torch.set_float32_matmul_precision, precision or "highest")
        torch.set_float32_matmul_precision("highest")


_thread, _process = _Thread(), _Process()

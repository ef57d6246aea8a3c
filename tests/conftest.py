"""Options and fixtures of all tests."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

try:
    import nbval.kernel as nbval_kernel
except ModuleNotFoundError:  # the core is tested without notebooks, too
    nbval_kernel = None

# On a shared machine, an example may take any amount of time.
settings.register_profile("lab", deadline=None)
settings.load_profile("lab")

DATA = Path(__file__).parent / "data"

# The backend that this variable names may need a display. The tests have no display.
os.environ.pop("MPLBACKEND", None)

# A shell starts its background jobs with Ctrl-C ignored, and nohup ignores SIGHUP. The tests send both.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _start_again(*arguments: Any, **options: Any) -> Any:
    """Start a kernel for nbval as `run_notebook` does: once more if another process took a port of the first kernel."""
    options["stderr"].close()  # nbval leaves this file open, which another test would report
    options["stderr"] = subprocess.DEVNULL
    try:
        return _start_of_nbval(*arguments, **options)
    except RuntimeError as error:
        if "died" not in str(error):
            raise
    return _start_of_nbval(*arguments, **options)


if nbval_kernel is not None:
    _start_of_nbval = nbval_kernel.start_new_kernel
    nbval_kernel.start_new_kernel = _start_again


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: run `make test-slow`"))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Limit torch to one thread, for small computations.

    More threads slow small computations down, on a busy machine by a factor of twenty.
    """
    with _threads(1):
        yield


@pytest.fixture(scope="module")
def two_threads() -> Iterator[None]:
    """Limit torch to two threads, so that an epoch is measured while the next epoch trains."""
    with _threads(2):
        yield


@pytest.fixture
def data() -> Path:
    return DATA

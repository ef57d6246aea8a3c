"""Options and fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

# On a shared machine, an example may take any time.
settings.register_profile("lab", deadline=None)
settings.load_profile("lab")

DATA = Path(__file__).parent / "data"

# A backend that the environment names may need a display, which the tests do not have.
os.environ.pop("MPLBACKEND", None)


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
    """One thread, for small computations. More threads slow them down, on a busy machine twenty-fold."""
    with _threads(1):
        yield


@pytest.fixture(scope="module")
def two_threads() -> Iterator[None]:
    """Two threads, for measuring an epoch while the next one trains."""
    with _threads(2):
        yield


@pytest.fixture
def data() -> Path:
    return DATA

"""CPU threads, parallel CUDA streams, and calls that threads execute beside the caller."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch

from ternary_lab.backend import cpus
from ternary_lab.backend.numerics import prepare_thread

# torch starts one thread per CPU of the machine, even if the cgroup allows fewer.
if (_threads := cpus.within_quota(torch.get_num_threads())) < torch.get_num_threads():
    torch.set_num_threads(_threads)
K = TypeVar("K")
T = TypeVar("T")


@contextmanager
def at_most_threads(count: int) -> Iterator[None]:
    """A context in which torch uses at most `count` CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(count, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def helping_threads(count: int) -> ThreadPoolExecutor | None:
    """A pool of `count` threads for `Tasks`, each with one CPU thread of torch; None if `count` is 0."""
    return ThreadPoolExecutor(count, "helper", prepare_thread) if count > 0 else None


class Lanes:
    """Independent calls on parallel CUDA streams while a CUDA graph is captured; elsewhere, one call after the other.

    Tensors that a call reads must be kept until `join`. A call must not use the lanes that execute it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams: list[torch.cuda.Stream] = []
        self._open = 0

    def together(self, *calls: Callable[[], Any]) -> list[Any]:
        """Execute calls and join; their results in order. The longest call should come first."""
        if not self._capturing():
            return [call() for call in calls]
        others = [self._on_lane(i, call) for i, call in enumerate(calls[1:])]
        first = calls[0]()
        self.join()
        return [first, *others]

    def aside(self, call: Callable[[], object]) -> None:
        """Execute a call whose result is not read before `join`. Such calls wait for one another."""
        if self._capturing():
            self._on_lane(0, call)
        else:
            call()

    def join(self) -> None:
        """Make all later work wait for the calls on the lanes."""
        for lane in self._streams[: self._open]:
            torch.cuda.current_stream(self._device).wait_stream(lane)
        self._open = 0

    def _capturing(self) -> bool:
        return self._device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    def _on_lane(self, index: int, call: Callable[[], T]) -> T:
        if index == len(self._streams):
            self._streams.append(torch.cuda.Stream(self._device))  # type: ignore[no-untyped-call]
        lane = self._streams[index]
        lane.wait_stream(torch.cuda.current_stream(self._device))
        self._open = max(self._open, index + 1)
        with torch.cuda.stream(lane):
            return call()


class Tasks(Generic[K, T]):
    """Calls that helping threads execute while the caller continues.

    The result of a call must not depend on the other calls or on the thread.
    """

    def __init__(self, calls: Mapping[K, Callable[[], T]], helpers: ThreadPoolExecutor | None) -> None:
        self._calls, self._helpers = calls, helpers
        self._futures: dict[K, Future[T]] = {}
        self._own: dict[K, T] = {}

    def begin(self) -> None:
        """Hand the calls to the helpers, once."""
        if self._helpers is not None:
            self._futures = {key: self._helpers.submit(call) for key, call in self._calls.items()}
            self._helpers = None

    def results(self) -> dict[K, T]:
        """The results of the calls, in order. The caller executes the calls that no helper has started.

        Raises the exception of a call that failed.
        """
        self.begin()
        with at_most_threads(1):
            for key, call in self._calls.items():
                if key not in self._own and (key not in self._futures or self._futures[key].cancel()):
                    self._own[key] = call()
        return {key: self._own[key] if key in self._own else self._futures[key].result() for key in self._calls}

    def cancel(self) -> None:
        """Start no further call."""
        for future in self._futures.values():
            future.cancel()


def in_order(calls: Iterable[Callable[[], T]], device: torch.device) -> Iterator[T]:
    """The results of the calls, in order. On a CPU, torch's threads execute one call each at a time."""
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads == 1:
        yield from (call() for call in calls)
        return
    with ThreadPoolExecutor(threads, "helper", prepare_thread) as pool:
        running: deque[Future[T]] = deque()
        for call in calls:
            running.append(pool.submit(call))
            if len(running) > 2 * threads:
                yield running.popleft().result()
        yield from (future.result() for future in running)

"""CPU threads, parallel CUDA streams, and calls that other threads execute for the caller."""

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
    """Limit torch to at most `count` CPU threads inside this context."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(count, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def helping_threads(count: int) -> ThreadPoolExecutor | None:
    """Return a pool of `count` threads for `Tasks`, or None if `count` is 0.

    In each of these threads torch uses one CPU thread.
    """
    return ThreadPoolExecutor(count, "helper", prepare_thread) if count > 0 else None


class SideStreams:
    """Parallel CUDA streams for independent calls while a CUDA graph is captured.

    When no graph is captured, the calls are executed one after the other. The caller must keep all tensors that a call
    reads until `join`. A call must not use the `SideStreams` object that executes it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams: list[torch.cuda.Stream] = []
        self._open = 0

    def together(self, *calls: Callable[[], Any]) -> list[Any]:
        """Execute the calls, join, and return the results in the order of the calls. Put the longest call first."""
        if not self._capturing():
            return [call() for call in calls]
        others = [self._on_stream(i, call) for i, call in enumerate(calls[1:])]
        first = calls[0]()
        self.join()
        return [first, *others]

    def aside(self, call: Callable[[], object]) -> None:
        """Execute a call whose result is not read before `join`. Calls that are set aside run one after the other."""
        if self._capturing():
            self._on_stream(0, call)
        else:
            call()

    def join(self) -> None:
        """Make all later work wait for the calls on the side streams."""
        for stream in self._streams[: self._open]:
            torch.cuda.current_stream(self._device).wait_stream(stream)
        self._open = 0

    def _capturing(self) -> bool:
        return self._device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    def _on_stream(self, index: int, call: Callable[[], T]) -> T:
        if index == len(self._streams):
            self._streams.append(torch.cuda.Stream(self._device))  # type: ignore[no-untyped-call]
        stream = self._streams[index]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        self._open = max(self._open, index + 1)
        with torch.cuda.stream(stream):
            return call()


class Tasks(Generic[K, T]):
    """Calls that helper threads execute while the caller continues.

    The result of a call must not depend on the other calls or on the thread.
    """

    def __init__(self, calls: Mapping[K, Callable[[], T]], helpers: ThreadPoolExecutor | None) -> None:
        self._calls, self._helpers = calls, helpers
        self._futures: dict[K, Future[T]] = {}
        self._own: dict[K, T] = {}

    def begin(self) -> None:
        """Give the calls to the helpers. Only the first use of `begin` has an effect."""
        if self._helpers is not None:
            self._futures = {key: self._helpers.submit(call) for key, call in self._calls.items()}
            self._helpers = None

    def results(self) -> dict[K, T]:
        """Return a dictionary from each key to the result of the call. The order is that of the calls.

        The calling thread executes the calls that no helper has started.
        Raises the exception of a call that failed.
        """
        self.begin()
        with at_most_threads(1):
            for key, call in self._calls.items():
                if key not in self._own and (key not in self._futures or self._futures[key].cancel()):
                    self._own[key] = call()
        return {key: self._own[key] if key in self._own else self._futures[key].result() for key in self._calls}

    def cancel(self) -> None:
        """Cancel the calls that no helper has started."""
        for future in self._futures.values():
            future.cancel()


def in_order(calls: Iterable[Callable[[], T]], device: torch.device) -> Iterator[T]:
    """Yield the results of the calls, in the order of the calls.

    On a CPU, the calls are executed in parallel by as many threads as torch uses. Each thread executes one call at a
    time.
    """
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

"""Where a computation runs, on which threads, and the random numbers it reads.

Randomness is stateless: a stream is named by (seed, purpose, epoch) and made afresh from that name.
So a run's numbers depend on nothing that other runs, other purposes or earlier epochs drew, a resumed
or branched run reads what an undisturbed one reads, and no generator state has to be stored.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, Literal, TypeVar

import torch

from ternary_lab import cpus
from ternary_lab.errors import DeviceError

# torch starts a thread for every CPU of the machine, however few the cgroup allows.
if (_threads := cpus.within_quota(torch.get_num_threads())) < torch.get_num_threads():
    torch.set_num_threads(_threads)

K = TypeVar("K")
T = TypeVar("T")
Purpose = Literal["order", "noise", "coverage", "latents", "evaluation", "sample", "prior", "lesson"]


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


def helping_threads(count: int) -> ThreadPoolExecutor | None:
    """Threads for `Tasks`, each of which computes on one CPU thread; None for none."""
    return ThreadPoolExecutor(count, "helper", torch.set_num_threads, (1,)) if count > 0 else None


class Tasks(Generic[K, T]):
    """Calls that helping threads work off in their order while the caller goes on.

    What a call returns must not depend on the others, nor on the thread that makes it.
    """

    def __init__(self, calls: Mapping[K, Callable[[], T]], helpers: ThreadPoolExecutor | None) -> None:
        self._calls = calls
        self._futures = {key: helpers.submit(call) for key, call in calls.items()} if helpers else {}
        self._own: dict[K, T] = {}

    def results(self) -> dict[K, T]:
        """What the calls returned, in their order. The caller makes those that no helper has begun.

        Raises what a call raised.
        """
        with at_most_threads(1):
            for key, call in self._calls.items():
                if key not in self._own and (key not in self._futures or self._futures[key].cancel()):
                    self._own[key] = call()
        return {key: self._own[key] if key in self._own else self._futures[key].result() for key in self._calls}

    def cancel(self) -> None:
        """Begin no further call."""
        for future in self._futures.values():
            future.cancel()


def in_order(calls: Iterable[Callable[[], T]], device: torch.device) -> Iterator[T]:
    """What the calls return, in their order. On a CPU they are made on all of its threads, one thread each."""
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads == 1:
        yield from (call() for call in calls)
        return
    with ThreadPoolExecutor(threads, "helper", torch.set_num_threads, (1,)) as pool:
        under_way: deque[Future[T]] = deque()
        for call in calls:
            under_way.append(pool.submit(call))
            if len(under_way) > 2 * threads:
                yield under_way.popleft().result()
        yield from (future.result() for future in under_way)


def stream(
    seed: int, purpose: Purpose, epoch: int = 0, part: str = "", *, device: torch.device | str = "cpu"
) -> torch.Generator:
    """The random stream of one run for one purpose (or a part of it) in one epoch, at its beginning, on `device`."""
    name = "/".join((str(seed), purpose, str(epoch), *([part] if part else [])))
    digest = hashlib.blake2b(name.encode(), digest_size=7).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest, "little"))

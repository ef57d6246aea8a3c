"""Engines that carry out tasks: one after the other in this process, or by Ray on the cores and GPUs of a cluster.

A task is a call without arguments. It leaves its result in files, and can continue from the files of an earlier
attempt. So an engine may repeat a task. An engine returns only the reason of a failure.

Ray (Moritz et al. 2018, https://arxiv.org/abs/1712.05889) gives each task a core, and a GPU of its own if the task
needs a GPU. When a worker or a node dies, its task starts again on another worker or node, up to `RETRIES` times. Nodes
that join the cluster receive tasks that have not started yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ternary_lab.backend.devices import device_name
from ternary_lab.errors import DeviceError, EngineError, TernaryLabError, missing
from ternary_lab.runs.interrupt import kept_handlers

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Task = Callable[[], object]
"""A task. For Ray the task must be picklable: a `functools.partial` of a module's function."""

ENGINES = ("local", "ray")
RETRIES = 5
TICK = 1.0
"""Longest time in seconds between two calls of `tick` while Ray works."""
ANSWER = 20.0
"""Longest wait for a cluster's answer, in seconds."""
LONGEST_FOLDER = 39
"""Largest length of TMPDIR. Ray adds 68 characters to it in the names of sockets, which have at most 107 characters."""


@contextmanager
def engine(name: str, address: str | None = None, device: str | torch.device = "auto") -> Iterator[Local | Ray]:
    """Yield the engine that is called `name`: `local` or `ray`.

    Ray uses the cluster at `address`. Without an address, Ray uses a running cluster or, if there is none, starts a
    cluster on this machine.

    Raises DeviceError if the device is unknown or missing. Raises EngineError if there is no such engine, if an address
    is given to the local engine, if Ray is not installed, or if the cluster cannot be reached or lacks a required GPU.
    """
    if name == "ray":
        with _ray(address, device) as found:
            yield found
    elif name != "local":
        raise EngineError(f"engine {name!r}: there are {' and '.join(ENGINES)}")
    elif address is not None:
        raise EngineError(f"address {address!r} is one of Ray's: add --engine ray")
    else:
        yield Local(device)


class Local:
    """Engine that carries out one task after the other in this process."""

    slots = 1
    """Number of tasks that are carried out at once."""

    def __init__(self, device: str | torch.device = "auto") -> None:
        from ternary_lab.backend.devices import resolve_device

        self.device = str(resolve_device(device))

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in the place where tasks are carried out, and return its result."""
        return function(*arguments)

    def run(self, tasks: Sequence[Task], tick: Callable[[], None]) -> Iterator[tuple[int, str | None]]:
        """Carry out tasks. After each task, yield its index, and the reason of its failure or None.

        `Ray` calls `tick` about once a second while it waits for tasks. This engine never calls `tick`.
        """
        for index, task in enumerate(tasks):
            yield index, attempt(task)


@contextmanager
def _ray(address: str | None, device: str | torch.device) -> Iterator[Ray]:
    kind = device_name(device)
    if kind not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"device {kind!r}: Ray chooses the GPU: use auto, cpu or cuda")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no statistics are sent to the makers of Ray
    try:
        import ray
    except ImportError:
        raise EngineError(missing("ray")) from None
    from logging import ERROR  # imported by Ray in any case, and slow for `ternary-lab --help`

    connected_before = ray.is_initialized()
    place = address
    try:
        if not connected_before:
            place = _place(address)
            _check_answer(place)
        with kept_handlers():
            ray.init(
                address, log_to_driver=False, logging_level=ERROR, include_dashboard=False,
                ignore_reinit_error=True,
            )
    except Exception as error:  # Ray raises many types if an address has no cluster
        where = f"at {place}" if place else "here, and none can be started"
        way = "set RAY_TMPDIR to a shorter path" if "AF_UNIX" in str(error) else (
            "start one with `ray start --head`, or use --address local"
        )
        raise EngineError(f"no Ray cluster {where}: {_first_line(error)}: {way}") from None
    try:
        has_gpu = ray.cluster_resources().get("GPU", 0) >= 1
        if kind == "cuda" and not has_gpu:
            raise EngineError("device 'cuda' was asked for, and no node of the Ray cluster has a GPU: use --device cpu")
        yield Ray(ray, "cuda" if kind != "cpu" and has_gpu else "cpu")
    finally:
        if not connected_before:
            ray.shutdown()


def _place(address: str | None) -> str | None:
    """Return HOST:PORT of a running cluster, or None if a cluster is to be started on this machine.

    Raises ConnectionError if no cluster runs, and ValueError if the address is not valid.
    """
    if address in (None, "auto"):
        address = os.environ.get("RAY_ADDRESS") or address
    if address not in (None, "auto", "local"):
        return address
    from ray._private.services import canonicalize_bootstrap_address

    place: str | None = canonicalize_bootstrap_address(address)
    if place is None and len(os.environ.get("TMPDIR", "")) > LONGEST_FOLDER:
        os.environ.setdefault("RAY_TMPDIR", "/tmp")
    return place


def _check_answer(place: str | None) -> None:
    """Raise ConnectionError or ValueError if no cluster answers at HOST:PORT.

    Ray itself would try for a quarter of an hour, for example if a cluster has ended and its address is still known.
    """
    import socket  # imported here, so that `ternary-lab --help` is fast

    if place is None or "://" in place:  # Ray's client, for ray://, gives up after half a minute
        return
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("an address is HOST:PORT")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER) as connection:
            if not connection.recv(1):  # a cluster speaks first
                raise ConnectionError("another server is there")
    except TimeoutError:
        raise ConnectionError(f"no answer within {ANSWER:g} s") from None
    except OSError as error:
        raise ConnectionError(error.strerror or str(error)) from None


class Ray:
    """Engine that carries out tasks on the Ray cluster to which this process is connected.

    The class has the same methods as `Local`.
    """

    def __init__(self, ray: Any, device: str) -> None:
        self._ray, self.device = ray, device

    @property
    def slots(self) -> int:
        return max(1, int(self._ray.cluster_resources().get("GPU" if self.device == "cuda" else "CPU", 0)))

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        found: T = self._ray.get(self._remote(function).remote(*arguments))
        return found

    def run(self, tasks: Sequence[Task], tick: Callable[[], None]) -> Iterator[tuple[int, str | None]]:
        remote = self._remote(attempt)
        waiting = {remote.remote(task): index for index, task in enumerate(tasks)}
        while waiting:
            ended, _ = self._ray.wait(list(waiting), timeout=TICK)
            tick()
            for reference in ended:
                try:
                    failure = self._ray.get(reference)
                except self._ray.exceptions.RayError as error:
                    failure = f"its worker was lost {RETRIES + 1} times, or could not start: {_first_line(error)}"
                yield waiting.pop(reference), failure

    def _remote(self, function: Callable[..., T]) -> Any:
        gpus = 1 if self.device == "cuda" else 0
        return self._ray.remote(function).options(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)


def attempt(task: Task) -> str | None:
    """Carry out a task and catch its error. Return the reason of the failure in one line, or None after a success."""
    try:
        task()
    except TernaryLabError as error:
        return " ".join(str(error).split())
    except Exception as error:
        return f"{type(error).__name__}: {_first_line(error)}"
    return None


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

"""Where tasks are carried out: one after the other in this process, or by Ray on the cores and GPUs of a cluster.

A task is a call without arguments that leaves its result in files and can be made again from what an earlier attempt
left there. So an engine may repeat it, and what it returns is only whether it failed, and why.

Ray (Moritz et al. 2018, https://arxiv.org/abs/1712.05889) gives each task a core, and a GPU of its own where it
computes on one. A task whose worker or node dies is begun again on another, `RETRIES` times; waiting tasks go to nodes
that join.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from ternary_lab.errors import DeviceError, EngineError, TernaryLabError, missing

T = TypeVar("T")
Task = Callable[[], object]
"""For Ray it must be picklable: a `functools.partial` of a module's function."""

ENGINES = ("local", "ray")
RETRIES = 5
TICK = 1.0
"""Seconds between two looks at what Ray has done."""


class Engine(AbstractContextManager["Engine"], Protocol):
    """Carries out tasks while its context lasts."""

    device: str
    """What a task computes on: cpu or cuda."""

    @property
    def slots(self) -> int:
        """Tasks carried out at once."""

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """What a function returns where tasks are carried out."""

    def run(self, tasks: Sequence[Task], tick: Callable[[], None]) -> Iterator[tuple[int, str | None]]:
        """Carry out tasks; each one's index when it has ended, with why it failed, or None.

        `tick` is called about once a second where the engine has nothing else to do.
        """


class Local:
    """One task after the other, in this process."""

    slots = 1

    def __init__(self, device: str = "auto") -> None:
        from ternary_lab.backend.devices import resolve_device

        self.device = str(resolve_device(device))

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left open."""

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        return function(*arguments)

    def run(self, tasks: Sequence[Task], tick: Callable[[], None]) -> Iterator[tuple[int, str | None]]:
        for index, task in enumerate(tasks):
            yield index, attempt(task)


class Ray:
    """Tasks on a Ray cluster: that at `address`, a running one, or else one that is started on this machine.

    Raises EngineError when Ray is not installed, the cluster cannot be reached or has no GPU that is asked for.
    """

    def __init__(self, address: str | None = None, device: str = "auto") -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # this library tells nobody what it does
        try:
            import ray
        except ImportError:
            raise EngineError(missing("ray")) from None
        if device not in ("auto", "cpu", "cuda"):
            raise DeviceError(f"device {device!r}: Ray chooses the GPU: use auto, cpu or cuda")
        self._ray, self._address, self._wanted = ray, address, device
        self.device = "cpu"
        self._ours = not ray.is_initialized()

    def __enter__(self) -> Ray:
        try:
            self._ray.init(self._address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False,
                           ignore_reinit_error=True)
        except Exception as error:  # Ray raises a dozen types for an address that leads nowhere
            where = f"at {self._address}" if self._address else "here, and none can be started"
            raise EngineError(
                f"no Ray cluster {where}: {_first_line(error)}: start one with `ray start --head`"
            ) from None
        if self._wanted == "cuda" and not self._resource("GPU"):
            self.__exit__()
            raise EngineError("device 'cuda' was asked for, and no node of the Ray cluster has a GPU: use --device cpu")
        self.device = "cuda" if self._wanted != "cpu" and self._resource("GPU") else "cpu"
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:  # whoever was connected before stays so
            self._ray.shutdown()

    def _resource(self, name: str) -> int:
        return int(self._ray.cluster_resources().get(name, 0))

    @property
    def slots(self) -> int:
        return max(1, self._resource("GPU" if self.device == "cuda" else "CPU"))

    def _remote(self, function: Callable[..., T]) -> Any:
        gpus = 1 if self.device == "cuda" else 0
        return self._ray.remote(function).options(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)

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


def engine(name: str, address: str | None = None, device: str = "auto") -> Engine:
    """The engine of a name: local, or ray. Raises EngineError as `Ray` does, DeviceError."""
    if name == "ray":
        return Ray(address, device)
    if name != "local":
        raise EngineError(f"engine {name!r}: there are {' and '.join(ENGINES)}")
    if address is not None:
        raise EngineError(f"address {address!r} is one of Ray's: add --engine ray")
    return Local(device)


def attempt(task: Task) -> str | None:
    """Carry out a task; why it failed, in one line, or None. One that fails must not end the others."""
    try:
        task()
    except TernaryLabError as error:
        return " ".join(str(error).split())
    except Exception as error:
        return f"{type(error).__name__}: {_first_line(error)}"
    return None


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

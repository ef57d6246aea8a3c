"""Signals that end a command: Ctrl-C, SIGTERM and SIGHUP. Training ends after the current epoch.

Slurm, Docker and `kill` send SIGTERM. A terminal that is closed sends SIGHUP.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from ternary_lab.backend.console import say


class Terminated(KeyboardInterrupt):
    """Exception for SIGTERM and SIGHUP. All code that cleans up after Ctrl-C does the same after these signals."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def terminate(number: int, _: FrameType | None) -> None:
    """Handle SIGTERM or SIGHUP. Raises Terminated."""
    raise Terminated(number)


AT_ONCE = (signal.default_int_handler, terminate)
"""Handlers of signals that stop a programme at once. Training replaces them by a handler that waits for the epoch."""
TERMINATING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise Terminated inside the `with` block.

    A signal that the caller ignores (`nohup`), or that another program handles, is left alone.
    """
    with _handlers(terminate, [number for number in TERMINATING if signal.getsignal(number) is signal.SIG_DFL]):
        yield


@contextlib.contextmanager
def interrupt_after_epoch() -> Iterator[Callable[[], None]]:
    """Delay the first Ctrl-C (or the stop button of a notebook) to the end of the epoch. A second Ctrl-C acts at once.

    SIGTERM and SIGHUP are delayed too, inside `termination_as_interrupt`.

    Yields a function that the caller calls after each epoch. The function raises KeyboardInterrupt if Ctrl-C was
    pressed, and Terminated after another signal. A resumed run can only continue after a complete epoch, so a stop
    inside an epoch would lose the work of this epoch.
    """
    received: list[int] = []
    # A handler that another program has set stays in place.
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *TERMINATING)}
    before = {number: handler for number, handler in before.items() if handler in AT_ONCE}

    def request(number: int, _: FrameType | None) -> None:
        received.append(number)
        for delayed, handler in before.items():
            signal.signal(delayed, handler)
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        say(f"\nstopping after this epoch; a second {name} stops at once")

    def check() -> None:
        if received and received[0] == signal.SIGINT:
            raise KeyboardInterrupt("stopped after an epoch: the same call goes on from there")
        if received:
            raise Terminated(received[0])

    with _handlers(request, list(before)):
        yield check


@contextlib.contextmanager
def _handlers(handler: Callable[[int, FrameType | None], None], numbers: list[int]) -> Iterator[None]:
    """Set the handler of signals inside the `with` block. Only the main thread may set handlers."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


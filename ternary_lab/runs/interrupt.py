"""Signals that end a command: Ctrl-C, SIGTERM and SIGHUP. Training ends after the current epoch.

Slurm, Docker and `kill` send SIGTERM. A terminal that is closed sends SIGHUP.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

from ternary_lab.backend.console import say

TERMINATING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Terminated(KeyboardInterrupt):
    """Exception for SIGTERM and SIGHUP. All code that cleans up after Ctrl-C does the same after these signals."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class TerminateHandler:
    """Handler of SIGTERM and SIGHUP, which raises Terminated."""

    received: int | None = None
    """The signal that was received last, or None."""

    def __call__(self, number: int, _: FrameType | None) -> None:
        self.received = number
        raise Terminated(number)


@contextlib.contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise Terminated inside the `with` block.

    A signal that the caller ignores (`nohup`), or that another program handles, is left alone.
    """
    handler = TerminateHandler()
    before = _set({number: handler for number in TERMINATING if signal.getsignal(number) is signal.SIG_DFL})
    try:
        yield
    except KeyboardInterrupt as stop:
        if handler.received is None or isinstance(stop, Terminated):
            raise
        raise Terminated(handler.received) from None  # Ray raises a KeyboardInterrupt of its own
    finally:
        _set(before)


@contextlib.contextmanager
def kept_handlers() -> Iterator[None]:
    """Set the present handlers again after the `with` block.

    `ray.init` replaces the handler of SIGTERM by one that ends the process without a word.
    """
    before = {number: handler for number, handler in _present().items() if handler is not None}
    try:
        yield
    except SystemExit:
        if isinstance(before.get(signal.SIGTERM), TerminateHandler):
            raise Terminated(signal.SIGTERM) from None
        raise
    finally:
        _set(before)


@contextlib.contextmanager
def interrupt_after_epoch() -> Iterator[Callable[[], None]]:
    """Delay the first Ctrl-C (or the stop button of a notebook) to the end of the epoch. A second Ctrl-C acts at once.

    SIGTERM and SIGHUP are delayed too, inside `termination_as_interrupt`.

    Yields a function that the caller calls after each epoch. The function raises KeyboardInterrupt if Ctrl-C was
    pressed, and Terminated after another signal. A resumed run can only continue after a complete epoch, so a stop
    inside an epoch would lose the work of this epoch.
    """
    before = _handlers()
    received: list[int] = []

    def request(number: int, _: FrameType | None) -> None:
        received.append(number)
        _set(before)
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        say(f"\nstopping after this epoch; a second {name} stops at once")

    def check() -> None:
        if received and received[0] == signal.SIGINT:
            raise KeyboardInterrupt("stopped after an epoch: the same call goes on from there")
        if received:
            raise Terminated(received[0])

    _set(dict.fromkeys(before, request))
    try:
        yield check
    finally:
        _set(before)


def _present() -> dict[int, Any]:
    """Return the handlers by signal. The handler is None if it was not set by Python."""
    return {number: signal.getsignal(number) for number in (signal.SIGINT, *TERMINATING)}


def _handlers() -> dict[int, Any]:
    """Return the handlers that stop the work at once, by signal. Those of other programs are not among them."""
    return {
        number: handler for number, handler in _present().items()
        if handler is signal.default_int_handler or isinstance(handler, TerminateHandler)
    }


def _set(handlers: Mapping[int, Any]) -> dict[int, Any]:
    """Set the handlers of signals, and return the former ones. Only the main thread may do this; others do nothing."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number, handler in handlers.items()}

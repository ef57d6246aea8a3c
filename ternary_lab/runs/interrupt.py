"""Interruption of training by Ctrl-C after the current epoch."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def interrupt_after_epoch() -> Iterator[Callable[[], None]]:
    """Delay the first Ctrl-C (or the stop button of a notebook) to the end of the epoch. A second Ctrl-C acts at once.

    Yields a function that the caller calls after each epoch. The function raises KeyboardInterrupt if Ctrl-C was
    pressed. A resumed run can only continue after a complete epoch, so a stop inside an epoch would lose the work of
    this epoch.
    """
    requested = threading.Event()

    def request(*_: object) -> None:
        requested.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nstopping after this epoch; press Ctrl-C again to stop at once", file=sys.stderr, flush=True)

    def check() -> None:
        if requested.is_set():
            raise KeyboardInterrupt("stopped after an epoch: the same call goes on from there")

    # Only the main thread may set a handler, and a handler that another program has set stays in place.
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield check
        return
    signal.signal(signal.SIGINT, request)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)

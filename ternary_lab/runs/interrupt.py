"""Ctrl-C during training: the current epoch is finished first."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def interrupt_after_epoch() -> Iterator[Callable[[], None]]:
    """Let the first Ctrl-C (or a notebook's stop button) wait for the end of the epoch; a second one does not.

    Yields a function to call after each epoch, which raises KeyboardInterrupt after Ctrl-C. Training resumes only at
    epoch boundaries, so stopping inside an epoch would lose its work.
    """
    requested = threading.Event()

    def request(*_: object) -> None:
        requested.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nstopping after this epoch; press Ctrl-C again to stop at once", file=sys.stderr, flush=True)

    def check() -> None:
        if requested.is_set():
            raise KeyboardInterrupt("stopped after an epoch: the same call goes on from there")

    # Only the main thread may set a handler, and another programme's handler stays in place.
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield check
        return
    signal.signal(signal.SIGINT, request)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)

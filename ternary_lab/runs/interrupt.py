"""Ctrl-C during training: the current epoch is finished first."""

from __future__ import annotations

import signal
import sys
import threading


class Interrupt:
    """In this block, a first Ctrl-C (or a notebook's stop button) waits for the end of the epoch; a second does not.

    Training resumes only at epoch boundaries, so stopping inside an epoch would lose its work.
    """

    def __init__(self) -> None:
        self._requested = False
        # Only the main thread may set a handler, and another programme's handler stays in place.
        self._handles = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )

    def __enter__(self) -> Interrupt:
        if self._handles:
            signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handles:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _request(self, *_: object) -> None:
        self._requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nstopping after this epoch; press Ctrl-C again to stop at once", file=sys.stderr, flush=True)

    def check(self) -> None:
        """Raises KeyboardInterrupt if it was requested."""
        if self._requested:
            raise KeyboardInterrupt("stopped after an epoch: the same call goes on from there")

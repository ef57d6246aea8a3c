"""One process trains a run directory at a time.

The operating system holds the lock (flock, by the filelock library), and gives it back when its process ends, however
it ends: a stale one cannot be. Who holds it is written beside it, for the message to the second.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ternary_lab.errors import RunError

LOCK, OWNER = ".lock", ".owner.json"


@contextmanager
def held(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold a run directory, which is made if need be.

    Raises RunError naming the process that has it already, and still has it after `patience` seconds.
    """
    from filelock import FileLock, Timeout

    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / LOCK)
        lock.acquire(timeout=patience)
    except Timeout:
        raise RunError(f"{path}: is being trained by {owner(path)}: wait for it, watch it, or stop it") from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(
            f"{path}: cannot be locked: {reason}: make it writable or choose another --run-dir"
        ) from None
    try:
        with contextlib.suppress(OSError):  # it only serves a message
            us = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            (path / OWNER).write_text(json.dumps(us))
        yield
    finally:
        with contextlib.suppress(OSError):
            (path / OWNER).unlink()
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a process holds a run directory now."""
    from filelock import FileLock, Timeout

    # To ask is to take it for a moment, so what nobody says to hold is not asked about.
    if not (path / OWNER).exists():
        return False
    try:
        with FileLock(path / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # not ours to lock
        return False


def owner(path: Path) -> str:
    """Who holds a run directory, in words."""
    try:
        us = json.loads((path / OWNER).read_text())
        return f"process {int(us['pid'])} on {us['host']!s} since {us['since']!s}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"

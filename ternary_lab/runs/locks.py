"""Locks of run directories. A lock lets only one process at a time train a run.

The operating system holds the lock (flock, through the filelock library), and releases the lock when the process ends
in any way. So no lock is left behind. A file beside the lock names the process that trains the run. If a second process
tries to train the run, the error message names the first process.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from ternary_lab.errors import RunError

LOCK, OWNER = ".lock", ".owner.json"


@contextlib.contextmanager
def locked(path: Path, timeout: float = 0.0) -> Iterator[None]:
    """Hold the lock of a run directory inside the `with` block. A missing directory is created.

    Raises RunError if another process still holds the lock after `timeout` seconds; the message names this process.
    Raises RunError also if the directory cannot be locked.
    """
    from filelock import FileLock, Timeout

    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / LOCK)
        lock.acquire(timeout=timeout)
    except Timeout:
        raise RunError(f"{path}: is being trained by {_owner(path)}: wait for it, watch it, or stop it") from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(f"{path}: cannot be locked: {reason}: make it writable or choose another --run-dir") from None
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    try:
        with contextlib.suppress(OSError):  # only the error message needs this file
            (path / OWNER).write_text(json.dumps(owner))
        yield
    finally:
        with contextlib.suppress(OSError):
            (path / OWNER).unlink()
        lock.release()


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of a run directory now.

    The answer is False for a directory whose lock this user cannot try.
    """
    from filelock import FileLock, Timeout

    if not (path / OWNER).exists():  # then the lock is not tried, because this would hold the lock for a moment
        return False
    try:
        with FileLock(path / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # another user's directory
        return False


def _owner(path: Path) -> str:
    """Describe the process that holds the lock in words."""
    try:
        owner = json.loads((path / OWNER).read_text())
        return f"process {int(owner['pid'])} on {owner['host']!s} since {owner['since']!s}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"

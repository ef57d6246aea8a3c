"""Locks of run directories. A lock lets only one process at a time train a run.

The operating system holds the lock (flock, through the filelock library), and releases the lock when the process ends
in any way. So no lock is left behind. A file beside the lock names the process that trains the run. If a second process
tries to train the run, the error message names the first process.

Some file systems have no flock, for example NFS without a lock service. There the lock is a file that exists while the
run is trained (the soft lock of filelock). A process that is killed leaves this file behind. The next process on the
same machine removes it, if filelock is version 3.22 or newer.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ternary_lab.errors import RunError
from ternary_lab.runs.files import UNSUPPORTED, reason_and_remedy

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOGGER = logging.getLogger(__name__)
LOCK, SOFT_LOCK, OWNER = ".lock", ".lock.soft", ".owner.json"
SPARE = 32
"""Number of files that training opens at most, beside the lock of each run."""


@contextlib.contextmanager
def locked(path: Path, timeout: float = 0.0) -> Iterator[None]:
    """Hold the lock of a run directory inside the `with` block. A missing directory is created.

    Raises RunError if another process still holds the lock after `timeout` seconds; the message names this process.
    Raises RunError also if the directory cannot be locked.
    """
    from filelock import Timeout

    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
        soft = Path(lock.lock_file).name == SOFT_LOCK
        if soft:
            _warn_of_soft_locks(path.parent)
        lock.acquire(timeout=timeout)
    except Timeout:
        owner = _owner(path)
        no_owner = f"delete {SOFT_LOCK} there" if soft else "its file system refuses flock: choose another directory"
        left = "" if owner and not soft else f". If no such process is running, {no_owner}"
        raise RunError(
            f"{path}: is being trained by {owner or 'another process'}: wait for it, watch it, or stop it{left}"
        ) from None
    except OSError as error:
        reason = reason_and_remedy(error).replace("another directory", "another --run-dir")
        raise RunError(f"{path}: cannot be locked: {reason}") from None
    process = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    try:
        with contextlib.suppress(OSError):  # only the error message needs this file
            (path / OWNER).write_text(json.dumps(process))
        yield
    finally:
        with contextlib.suppress(OSError):
            (path / OWNER).unlink()
        lock.release()


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of a run directory now.

    The answer is False for a directory whose lock this user cannot try.
    """
    from filelock import Timeout

    if not (path / OWNER).exists():  # then the lock is not tried, because this would hold the lock for a moment
        return False
    try:
        with _lock(path).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # another user's directory
        return False


def check_open_files(runs: int) -> None:
    """Check that this process may open the files that training `runs` runs side by side needs.

    Each lock is an open file. If the limit of open files is too low, it is raised as far as the operating system
    allows. Raises RunError if this is not enough.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    needed = runs + SPARE
    if not _can_open(needed):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        raised = soft + needed if hard == resource.RLIM_INFINITY else min(soft + needed, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        if not _can_open(needed):
            raise RunError(
                f"{runs} runs: they need {needed} open files, and the limit of this process is {raised}: raise it with "
                f"`ulimit -n {raised + needed}`, or train fewer seeds at a time"
            )


def _can_open(count: int) -> bool:
    """Return whether this process can open `count` more files."""
    with contextlib.ExitStack() as files:
        try:
            for _ in range(count):
                files.enter_context(open(os.devnull, "rb"))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                return False
            raise
    return True


def _lock(path: Path) -> BaseFileLock:
    """Return the lock of a run directory: flock, or the soft lock if its file system has no flock. Raises OSError."""
    from filelock import FileLock, SoftFileLock

    if _has_flock(path / LOCK):
        return FileLock(path / LOCK)
    return SoftFileLock(path / SOFT_LOCK)


@functools.cache
def _warn_of_soft_locks(folder: Path) -> None:
    """Log a warning, once for each folder of runs."""
    LOGGER.warning("%s: its file system has no locks (flock): a file %s in each run is the lock", folder, SOFT_LOCK)


def _has_flock(file: Path) -> bool:
    """Return whether the file system of `file` has flock. The file is created if it is missing. Raises OSError."""
    try:
        import fcntl
    except ImportError:  # Windows has other locks
        return True
    with open(file, "ab") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in (*UNSUPPORTED, errno.ENOLCK)
    return True


def _owner(path: Path) -> str:
    """Describe the process that holds the lock in words. Return "" if it is not known."""
    try:
        owner = json.loads((path / OWNER).read_text())
        return f"process {int(owner['pid'])} on {owner['host']!s} since {owner['since']!s}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""

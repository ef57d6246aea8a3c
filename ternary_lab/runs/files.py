"""Writing of files: atomic replacement, hard links and appended text. Reading and writing of CSV tables."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

import pandas as pd

from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.errors import RunError

STRAY = (
    ".*", "*~", "~$*", "#*#", "*.tmp", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "lost+found", "__macosx",
    "$recycle.bin", "system volume information", "@eadir", "#recycle",
)
"""Patterns of the names, in lower case, of files and folders that are not part of a run.

Operating systems, file servers, editors, Jupyter, locks and killed writes leave them in any folder. All hidden names
are among them, such as .DS_Store, .ipynb_checkpoints, .nfs0001, ._config.yaml and .lock.
"""
UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Numbers of the errors by which a file system says that it does not have an operation."""
_REMEDIES = {
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "free space or choose another directory",
    (errno.EMFILE, errno.ENFILE): "raise the limit of open files (`ulimit -n`)",
    (errno.EACCES, errno.EPERM, errno.EBUSY, errno.ETXTBSY): (
        "make it writable, close the programs that use it, or choose another directory"
    ),
    (errno.ENAMETOOLONG,): "choose a shorter path",
}


def is_stray(path: Path) -> bool:
    """Return whether a file or folder has the name of one that systems and editors leave behind (see `STRAY`)."""
    name = path.name.lower()
    return any(fnmatchcase(name, pattern) for pattern in STRAY)


def unix_lines(text: str) -> str:
    """Return a text with the line endings of Unix, also if they were converted more than once."""
    return re.sub("\r+\n?", "\n", text) if "\r" in text else text


def children(folder: Path) -> list[Path]:
    """Return the files and folders in a folder, sorted by name, without stray ones (see `is_stray`).

    Raises RunError if the folder cannot be read.
    """
    try:
        return sorted(child for child in folder.iterdir() if not is_stray(child))
    except OSError as error:
        raise RunError(f"{folder}: cannot be read: {error.strerror}: make it readable") from None


def exists(path: Path) -> bool:
    """Return whether a file or folder exists. Raises OSError if this user may not know.

    Before Python 3.14, `Path.exists` does the same. From 3.14 on, it returns False instead of raising the error.
    """
    try:
        path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP):
            return False
        raise
    return True


def reason_and_remedy(error: OSError) -> str:
    """Return the words of the operating system for an error of writing, and what helps, as "reason: remedy"."""
    remedies = (remedy for numbers, remedy in _REMEDIES.items() if error.errno in numbers)
    return f"{error.strerror or error}: {next(remedies, 'choose another directory')}"


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError inside the `with` block into a RunError that names `path` and the remedy."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written: {reason_and_remedy(error)}; "
            "what was written before is intact and the same command resumes"
        ) from None


@contextlib.contextmanager
def _if_supported(*refusals: int) -> Iterator[None]:
    """Ignore an OSError by which the file system refuses the operation inside the `with` block.

    `refusals` are numbers of errors that also mean a refusal here.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (*UNSUPPORTED, *refusals):
            raise


def require_writable(path: Path) -> None:
    """Check that a file can be written at `path`. Call it before a long computation whose result goes there.

    Missing folders are made, and a file at `path` is left as it is. Raises RunError.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        temporary = _temporary(path)
        temporary.touch()
        temporary.unlink()


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace the content of a file. A reader sees the complete old content or the complete new content.

    If `durable` is true, the new content survives a power cut. Otherwise a power cut may restore the old content.
    Raises RunError.
    """
    with staged_write(path, data, durable=durable):
        pass


@contextlib.contextmanager
def staged_write(path: Path, data: bytes, *, durable: bool = True) -> Iterator[Path]:
    """Write `data` to a temporary file beside `path`, yield this file, and rename it to `path` at the end of the block.

    Inside the block, the temporary file is already on disk, and the caller can give it more names with `link`. Raises
    RunError.
    """
    temporary = _temporary(path)
    with write_errors(path):
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                _sync(file)
            yield temporary
            os.replace(temporary, path)
            if durable:
                sync_directory(path.parent)
        except Exception:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def link(file: Path, name: Path) -> None:
    """Give a file a second name. Another file that already has this name is replaced.

    On a file system without hard links, the file is copied. Raises RunError.
    """
    temporary = _temporary(name)
    with write_errors(name):
        try:
            os.link(file, temporary)
        except OSError:  # a file system without hard links
            write_atomically(name, file.read_bytes())
            return
        os.replace(temporary, name)
        temporary.unlink(missing_ok=True)  # os.replace keeps both names if they belong to the same file


def append(path: Path, text: str) -> None:
    """Append text to a file, and wait until the text is on disk. Raises RunError."""
    with write_errors(path), open(path, "a", encoding="utf-8") as file:
        file.write(text)
        _sync(file)


def sync_directory(folder: Path) -> None:
    """Flush the entries (file names) of a folder to disk, so that new and renamed files survive a power cut.

    Windows, SMB shares and many other file systems cannot open or flush a folder. They refuse in different ways. There
    the call has no effect. Raises RunError for any other error.
    """
    with write_errors(folder), _if_supported(errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR):
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


@with_fixed_arithmetic
def read_csv(source: Any, **options: Any) -> pd.DataFrame:
    """Read a table from a CSV file or buffer, with exact floats. `options` are passed to `pandas.read_csv`.

    By default, pandas before version 3.1 reads a quarter of all floats with a wrong last digit.
    """
    if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1):
        options["float_precision"] = "round_trip"
    table: pd.DataFrame = pd.read_csv(source, **options)
    return table


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table atomically as CSV with seven significant digits. Raises RunError."""
    write_atomically(path, table.to_csv(index=False, float_format="%.7g", lineterminator="\n").encode())


def _sync(file: IO[Any]) -> None:
    """Flush an open file to disk, if the file system can."""
    file.flush()
    with _if_supported():
        os.fsync(file.fileno())


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")

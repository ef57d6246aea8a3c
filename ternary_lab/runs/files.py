"""Writing files: atomic replacement, hard links, appended lines, and tables as CSV."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from ternary_lab.backend.numerics import fenced
from ternary_lab.errors import RunError


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a RunError that names `path` and the remedy."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written: {error.strerror}: free space or choose another directory; "
            "what was written before is intact and the same command resumes"
        ) from None


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace a file: a reader sees the old content or the new, never a part. Raises RunError.

    A power cut may bring the old file back, unless the write is `durable`.
    """
    with staged_write(path, data, durable=durable):
        pass


@contextlib.contextmanager
def staged_write(path: Path, data: bytes, *, durable: bool = True) -> Iterator[Path]:
    """Write `data` to a temporary file beside `path`, yield it, and rename it to `path` at the end of the block.

    The temporary file is already on disk inside the block, where it can be given more names. Raises RunError.
    """
    temporary = _temporary(path)
    with write_errors(path):
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
            os.replace(temporary, path)
            if durable:
                sync_directory(path.parent)
        except Exception:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def link(file: Path, name: Path) -> None:
    """Give a file a second name, in place of any file that has that name. Raises RunError."""
    temporary = _temporary(name)
    with write_errors(name):
        try:
            os.link(file, temporary)
        except OSError:  # a file system without hard links
            write_atomically(name, file.read_bytes())
            return
        os.replace(temporary, name)
        temporary.unlink(missing_ok=True)  # replacing a name of the same file leaves both


def append(path: Path, text: str) -> None:
    """Add text to the end of a file, durably. Raises RunError."""
    with write_errors(path), open(path, "a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(folder: Path) -> None:
    """Make the names in a folder durable. Raises RunError."""
    with write_errors(folder):
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


@fenced
def read_csv(source: Any, **options: Any) -> pd.DataFrame:
    """The table of a CSV file or buffer, with exact floats. `options` are those of pandas.

    By default, pandas before 3.1 reads a quarter of all floats with a wrong last digit.
    """
    if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1):
        options["float_precision"] = "round_trip"
    table: pd.DataFrame = pd.read_csv(source, **options)
    return table


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV with seven digits, atomically. Raises RunError."""
    write_atomically(path, table.to_csv(index=False, float_format="%.7g", lineterminator="\n").encode())


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")

"""Files written whole or not at all: a temporary file beside them, flushed, then renamed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ternary_lab.backend.numerics import fenced
from ternary_lab.errors import RunError


def write_atomically(path: Path, data: bytes, *, lasting: bool = True) -> None:
    """Replace a file by new content, durably. Raises RunError naming the file when that fails.

    Unless it is `lasting`, a power cut may bring the old file back, whole.
    """
    with written_beside(path, data, lasting=lasting):
        pass


@contextlib.contextmanager
def written_beside(path: Path, data: bytes, *, lasting: bool = True) -> Iterator[Path]:
    """A file of new content in the folder of `path`, durable already, which takes that name at the end of the block.

    In the block it can be given other names. Raises RunError naming `path` when it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
        os.replace(temporary, path)
        if lasting:
            sync_directory(path.parent)
    except Exception as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        raise RunError(
            f"{path}: cannot be written: {error.strerror}: free space or choose another directory; "
            "what was written before is intact and the same command resumes"
        ) from None


def sync_directory(folder: Path) -> None:
    """Make the names in a folder durable."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@fenced
def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, to seven digits, atomically."""
    write_atomically(path, table.to_csv(index=False, float_format="%.7g", lineterminator="\n").encode())

"""Checksums of a run's files.

    file             | place of the checksum                 | covered content
    config.yaml      | comment `sha256` in the last line     | the text above the last line
    provenance.json  | member `sha256`                       | the other members
    history.csv      | column `crc32`, the last of each row  | the first line and the row, without this column
    log.jsonl        | member `crc32` of each line           | the other members of the line
    probes.csv       | as in history.csv                     | as in history.csv
    *.safetensors    | member `sha256` of the JSON header    | the other members of the JSON header, and each tensor

The checksum of JSON is computed from JSON with sorted keys. Each row of a table and each line of a log has a short
checksum of its own. So an error message can name the damaged row, and a line that is still being written can be
recognised. Files without any checksum come from older versions and are accepted.

The checksums cover a text with the line endings of Unix and without a byte order mark. Git, copying tools and editors
on Windows may convert both. `load.read_text` undoes this, so a converted file still matches its checksums.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import zlib
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ternary_lab.errors import RunError

CRC32, SHA256 = "crc32", "sha256"
_COMMENT = f"# {SHA256}: "
_PLACE = re.compile(f'{_COMMENT}|"{SHA256}|"{CRC32}"|,{CRC32}\n')
_CHECKED_ROW = re.compile(",[0-9a-f]{8}\n$")
_PAST_CHECKSUM = re.compile(",[0-9a-f]{8}.")
REMEDY = "restore it from a copy, or train again with --fresh"
CONFIG_REMEDY = (
    "undo the edit or restore it from a copy; to train with other settings, give them with --set and choose another "
    "--run-dir"
)
PROVENANCE_REMEDY = "restore it from a copy, or delete it, and the same training command writes it again"
UNKNOWN_HERE = (
    "the file is intact: first import the code that defines this setting, or use the version of ternary-lab that wrote "
    "the file"
)
"""Remedy for an intact configuration that this process cannot read.

The configuration may name a loss term or a schedule that a notebook defines, or come from a newer version.
"""
_CHANGED = "so it was edited or damaged after it was written"


def damaged(path: Path, reason: str, remedy: str = REMEDY) -> RunError:
    """Return the error for a damaged file."""
    return RunError(f"{path}: damaged: {reason}: {remedy}")


def has_checksum(text: str) -> bool:
    """Return whether a text of a run, or the JSON header of a checkpoint, contains a checksum of itself."""
    return _PLACE.search(text) is not None


def crc32(text: str) -> str:
    """Return the CRC-32 of a text as eight hexadecimal digits."""
    return f"{zlib.crc32(text.encode()):08x}"


def sha256(text: str) -> str:
    """Return the SHA-256 of a text as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def text_with_checksum(text: str) -> str:
    """Append a comment line with the checksum to a text, which must end with a newline."""
    return f"{text}{_COMMENT}{sha256(text)}\n"


def check_text(text: str, path: Path) -> str:
    """Return the text without its checksum. Raises RunError if the checksum does not match the text."""
    body, comment, checksum = text.rpartition(_COMMENT)
    if not comment:
        return text
    if checksum.rstrip("\n") != sha256(body):
        raise damaged(path, f"its checksum differs, {_CHANGED}", CONFIG_REMEDY)
    return body


def json_with_checksum(data: Mapping[str, Any]) -> bytes:
    """Return a mapping as JSON. The checksum of the mapping is an additional member."""
    return json.dumps(_with_checksum(data, SHA256, sha256), indent=1).encode()


def check_json(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the mapping without its checksum. Raises RunError if the checksum does not match the mapping."""
    if SHA256 in data and data != _with_checksum(data, SHA256, sha256):
        raise damaged(path, f"its checksum differs, {_CHANGED}", PROVENANCE_REMEDY)
    return {key: value for key, value in data.items() if key != SHA256}


def log_line_with_checksum(event: Mapping[str, Any]) -> str:
    """Return an event as a line of JSON. The checksum of the event is an additional member."""
    return json.dumps(_with_checksum(event, CRC32, crc32)) + "\n"


def check_log(text: str, path: Path) -> None:
    """Check the lines of a log. Raises RunError if a line is damaged; the message names the first damaged line.

    A last line without a newline is accepted if its JSON is incomplete, because a run may still be writing this line.
    """
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        try:
            event = json.loads(line)
            changed = event != _with_checksum(event, CRC32, crc32) and CRC32 in event
        except (ValueError, AttributeError, TypeError):
            if not line.endswith("\n") and "}" not in line[-2:]:
                continue
            raise damaged(path, f"line {number} is not an event") from None
        if changed:
            raise damaged(path, f"the checksum of line {number} differs, {_CHANGED}")


def row_with_checksum(head: str, row: str) -> str:
    """Return a row of CSV with a newline. The last cell is the checksum of `head` and `row`.

    `head` is the first line of the file. `head` and `row` must not end with a newline.
    """
    return f"{row},{crc32(head + row)}\n"


def csv_with_checksums(text: str) -> str:
    """Return a CSV text with a last column that holds the checksum of every row."""
    head, *rows = text.splitlines()
    return "".join([f"{head},{CRC32}\n", *(row_with_checksum(head, row) for row in rows)])


def check_csv(text: str, path: Path, columns: Sequence[str] | None = None, optional: Collection[str] = ()) -> str:
    """Return the CSV text without its checksums, and without a last line that is still being written.

    A complete last row counts even if an editor has removed the newline at its end.

    Raises RunError if a row does not match its checksum; the message names the row. Raises RunError also if the columns
    of the text are not `columns`. The columns in `optional` are the last of `columns`. The text may have all of the
    optional columns or none of them.
    """
    lines = text.splitlines(keepends=True)
    unfinished = lines.pop() if lines and not lines[-1].endswith("\n") else ""
    if _PAST_CHECKSUM.search(unfinished):
        raise damaged(path, "the end of its last row")
    if not lines:
        raise damaged(path, "it is empty")
    head = next(csv.reader([lines[0]]), [])
    has_checksums = head[-1:] == [CRC32]
    names = head[:-1] if has_checksums else head
    if columns is not None and names not in (list(columns), list(columns)[: len(columns) - len(optional)]):
        raise damaged(path, "its columns are not those of such a file")
    if not has_checksums:
        if any(_CHECKED_ROW.search(line) for line in lines[1:]):
            raise damaged(path, "its first line")
        return "".join(lines)
    first = lines[0].rpartition(",")[0]
    if unfinished and f"{unfinished}\n" == row_with_checksum(first, unfinished.rpartition(",")[0]):
        lines.append(f"{unfinished}\n")
    rows = [line.rpartition(",")[0] for line in lines[1:]]
    for number, (row, line) in enumerate(zip(rows, lines[1:], strict=True), 1):
        if line != row_with_checksum(first, row):
            raise damaged(path, f"the checksum of row {number} differs, {_CHANGED}")
    return "".join(f"{line}\n" for line in (first, *rows))


def intact_csv(text: str, path: Path, columns: Sequence[str], optional: Collection[str] = ()) -> str:
    """Return what `check_csv` returns for the longest beginning of a CSV text that it accepts.

    The result is "" if the first line is damaged.
    """
    lines = text.splitlines(keepends=True)

    def checked(count: int) -> str | None:
        try:
            return check_csv("".join(lines[:count]), path, columns, optional)
        except RunError:
            return None

    whole = checked(len(lines))
    if whole is not None:
        return whole
    return checked(bisect_left(range(1, len(lines)), True, key=lambda count: checked(count) is None)) or ""


def checkpoint_checksum(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a checkpoint's header and of the name, type, shape and bytes of each tensor.

    The tensors must be contiguous and on the CPU.
    """
    found = hashlib.sha256(sha256(json.dumps(header, sort_keys=True)).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        found.update(tensor.numpy().data)
    return found.hexdigest()


def _with_checksum(data: Mapping[str, Any], name: str, checksum: Callable[[str], str]) -> dict[str, Any]:
    """Return the mapping with a last member `name`, which is the checksum of the other members."""
    rest = {key: value for key, value in data.items() if key != name}
    return {**rest, name: checksum(json.dumps(rest, sort_keys=True))}

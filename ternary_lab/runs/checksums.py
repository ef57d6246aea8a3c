"""Checksums of a run's files.

    file                  | checksum
    config.yaml           | last line, a comment: sha256 of the text above it
    provenance.json       | member sha256: of the other members
    history.csv           | last column crc32: of the first line and the row, both without this column
    log.jsonl             | member crc32 of each line: of its other members
    probes.csv            | as history.csv
    *.safetensors         | member sha256 of the header's JSON: of its other members, and of each tensor

JSON is summed with sorted keys. Lines that are appended have a short checksum each, so that one damaged row is named
and a line that is still being written is recognised. Files without any checksum come from older versions and are
accepted.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ternary_lab.errors import RunError

CRC32, SHA256 = "crc32", "sha256"
_COMMENT = f"# {SHA256}: "
_CHECKED_ROW = re.compile(",[0-9a-f]{8}\n$")
_PAST_CHECKSUM = re.compile(",[0-9a-f]{8}.")
REMEDY = "restore it from a copy, or train again with --fresh"


def damaged(path: Path, reason: str) -> RunError:
    """The error for a damaged file."""
    return RunError(f"{path}: damaged: {reason}: {REMEDY}")


def crc32(text: str) -> str:
    """CRC-32 as eight hexadecimal digits."""
    return f"{zlib.crc32(text.encode()):08x}"


def sha256(text: str) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def text_with_checksum(text: str) -> str:
    """A text of lines, with its checksum as a comment in the last line."""
    return f"{text}{_COMMENT}{sha256(text)}\n"


def check_text(text: str, path: Path) -> str:
    """The text without its checksum. Raises RunError if it has changed."""
    body, comment, checksum = text.rpartition(_COMMENT)
    if not comment:
        return text
    if checksum != sha256(body) + "\n":
        raise damaged(path, "its checksum differs")
    return body


def json_with_checksum(data: Mapping[str, Any]) -> bytes:
    """A mapping as JSON, with its checksum as a member."""
    return json.dumps(_with_checksum(data, SHA256, sha256), indent=1).encode()


def check_json(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The mapping without its checksum. Raises RunError if it has changed."""
    if SHA256 in data and data != _with_checksum(data, SHA256, sha256):
        raise damaged(path, "its checksum differs")
    return {key: value for key, value in data.items() if key != SHA256}


def log_line_with_checksum(event: Mapping[str, Any]) -> str:
    """An event as a line of JSON, with its checksum as a member."""
    return json.dumps(_with_checksum(event, CRC32, crc32)) + "\n"


def check_log(text: str, path: Path) -> None:
    """Raises RunError naming the first line that has changed. A last line without its end is still being written."""
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            if line.rstrip().endswith("}") or line[:-1].endswith("}"):
                raise damaged(path, f"the end of line {number}")
            continue
        try:
            event = json.loads(line)
            changed = event != _with_checksum(event, CRC32, crc32) and CRC32 in event
        except (ValueError, AttributeError, TypeError):
            raise damaged(path, f"line {number} is not an event") from None
        if changed:
            raise damaged(path, f"the checksum of line {number} differs")


def row_with_checksum(head: str, row: str) -> str:
    """A row of CSV, with the checksum of head and row as its last cell. Both come without line ends."""
    return f"{row},{crc32(head + row)}\n"


def csv_with_checksums(text: str) -> str:
    """A CSV text, with a checksum as the last cell of every row."""
    head, *rows = text.splitlines()
    return "".join([f"{head},{CRC32}\n", *(row_with_checksum(head, row) for row in rows)])


def check_csv(text: str, path: Path, columns: Sequence[str] | None = None, optional: Collection[str] = ()) -> str:
    """The CSV text without its checksums, and without a last line that is still being written.

    Raises RunError naming a row that has changed, or when the columns are not `columns`; the `optional` ones, which
    are the last of them, may be missing.
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
    rows = [line.rpartition(",")[0] for line in lines[1:]]
    for number, (row, line) in enumerate(zip(rows, lines[1:], strict=True), 1):
        if line != row_with_checksum(first, row):
            raise damaged(path, f"the checksum of row {number} differs")
    return "".join(f"{line}\n" for line in (first, *rows))


def checkpoint_checksum(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """SHA-256 of a checkpoint: its header, and the name, type, shape and bytes of each contiguous CPU tensor."""
    found = hashlib.sha256(sha256(json.dumps(header, sort_keys=True)).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        found.update(tensor.numpy().data)
    return found.hexdigest()


def _with_checksum(data: Mapping[str, Any], name: str, checksum: Callable[[str], str]) -> dict[str, Any]:
    """The mapping with the checksum of its other members as its last member."""
    rest = {key: value for key, value in data.items() if key != name}
    return {**rest, name: checksum(json.dumps(rest, sort_keys=True))}

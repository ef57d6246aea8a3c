"""Checksums that a run's files carry, so that a byte that rots is noticed and named.

    file                  | checksum
    config.yaml           | last line, a comment: sha256 of the text above it
    provenance.json       | member sha256: of the other members, keys sorted
    history.csv           | last column crc32: of the first line and the row, without this column
    log.jsonl             | member crc32 of every line: of its other members
    probes.csv            | as history.csv
    *.safetensors         | member sha256 of the header's JSON: of the header and each tensor's name, type, shape, bytes

Files without a checksum are those of a run written before there were any, and are taken as they are.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ternary_lab.errors import RunError

ROW = "crc32"
DOCUMENT = "sha256"
_MARK = f"# {DOCUMENT}: "
_SUM = re.compile(",[0-9a-f]{8}\n$")
_PAST = re.compile(",[0-9a-f]{8}.")
REMEDY = "restore it from a copy, or train again with --fresh"


def crc32(text: str) -> str:
    """Eight hexadecimal digits."""
    return f"{zlib.crc32(text.encode()):08x}"


def damaged(path: Path, what: str) -> RunError:
    return RunError(f"{path}: damaged: {what}: {REMEDY}")


def sealed_text(text: str) -> str:
    """A text of lines with its checksum as a comment in the last one."""
    return f"{text}{_MARK}{hashlib.sha256(text.encode()).hexdigest()}\n"


def check_text(text: str, path: Path) -> str:
    """The text as it was before `sealed_text`. Raises RunError when a byte of it has changed."""
    body, mark, digest = text.rpartition(_MARK)
    if not mark:
        return text
    if digest != hashlib.sha256(body.encode()).hexdigest() + "\n":
        raise damaged(path, "its checksum differs")
    return body


def sealed_json(data: Mapping[str, Any]) -> bytes:
    """A mapping as JSON that carries its checksum."""
    rest = {key: value for key, value in data.items() if key != DOCUMENT}
    return json.dumps({**rest, DOCUMENT: _of_json(rest)}, indent=1).encode()


def check_json(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """The mapping without its checksum. Raises RunError when anything in it has changed."""
    rest = {key: value for key, value in data.items() if key != DOCUMENT}
    if DOCUMENT in data and data[DOCUMENT] != _of_json(rest):
        raise damaged(path, "its checksum differs")
    return rest


def sealed_row(head: str, line: str) -> str:
    """A line of CSV with the checksum of itself and the table's head as its last cell; both are given without ends."""
    return f"{line},{crc32(head + line)}\n"


def sealed_table(text: str) -> str:
    """A CSV text with a checksum as the last cell of every row."""
    head, *rows = text.splitlines()
    return "".join([f"{head},{ROW}\n", *(sealed_row(head, row) for row in rows)])


def check_table(
    text: str, path: Path, columns: Sequence[str] | None = None, later: Collection[str] = ()
) -> str:
    """A CSV text without its checksums; a last line without an end is being written, and left out.

    Raises RunError naming the row that has changed, or when the columns are not those asked for; `later`, the
    last of them, may be lacking.
    """
    lines = text.splitlines(keepends=True)
    torn = lines.pop() if lines and not lines[-1].endswith("\n") else ""
    if _PAST.search(torn):
        raise damaged(path, "the end of its last row")
    if not lines:
        raise damaged(path, "it is empty")
    head = next(csv.reader([lines[0]]), [])
    sealed = head[-1:] == [ROW]
    names = head[:-1] if sealed else head
    if columns is not None and names not in (list(columns), list(columns)[: len(columns) - len(later)]):
        raise damaged(path, "its columns are not those of such a file")
    if not sealed:
        if any(_SUM.search(line) for line in lines[1:]):
            raise damaged(path, "its first line")
        return "".join(lines)
    first = lines[0].rpartition(",")[0]
    kept = [first + "\n"]
    for number, line in enumerate(lines[1:], 1):
        body, _, digest = line.rpartition(",")
        if digest != crc32(first + body) + "\n":
            raise damaged(path, f"the checksum of row {number} differs")
        kept.append(body + "\n")
    return "".join(kept)


def sealed_event(event: Mapping[str, Any]) -> str:
    """A line of JSON that carries its checksum."""
    return json.dumps({**event, ROW: crc32(json.dumps(event, sort_keys=True))}) + "\n"


def check_events(text: str, path: Path) -> None:
    """Raises RunError naming the first line of JSON that has changed; one without an end is being written."""
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            if line.rstrip().endswith("}") or line[:-1].endswith("}"):
                raise damaged(path, f"the end of line {number}")
            continue
        try:
            event = json.loads(line)
            digest = event.pop(ROW, None)
        except (ValueError, AttributeError, TypeError):
            raise damaged(path, f"line {number} is not an event") from None
        if digest is not None and digest != crc32(json.dumps(event, sort_keys=True)):
            raise damaged(path, f"the checksum of line {number} differs")


def digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """sha256 over a checkpoint: its header's members, and each tensor's name, type, shape and bytes, by name."""
    found = hashlib.sha256(_of_json(header).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        found.update(tensor.numpy().data)
    return found.hexdigest()


def _of_json(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

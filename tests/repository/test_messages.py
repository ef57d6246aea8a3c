"""Every message of an error, read from the source: what is wrong, why, and what helps, in one line of plain English.

`python tests/repository/test_messages.py` prints all messages as a table.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ternary_lab import errors

ROOT = Path(errors.__file__).parent
RAISED = {
    "UsageError", "BadParameter",
    *(name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, errors.TernaryLabError)),
}
HELP = re.compile(
    r"\b(must|takes?|needs?|use|choose|give|write|make|delete|wait|add|raise|restore|start|train|retrain|install|convert|"
    r"rename|keep|name|free|stop|run|set|leave|fix|end|verify|clone|judge|type|draw|load|move|close|compute|"
    r"there (?:are|is)|known here|did you mean|beside it)\b"
)
"""Words of a remedy, or of a demand that says what is right."""
PASSED_ON = re.compile(
    r"near|remedy|missing\(|explain\(|lost|again|error\}$|REMEDY|RESUMES|INTACT|UNKNOWN_HERE|diverged|reason\}$|way\}"
)
"""Placeholders that stand for a text which holds the remedy itself."""
ENOUGH = (
    # Only another file helps, or more time.
    "{path}: is not a file", "{path}: not a safetensors file, or truncated", "{path}: safetensors, but not a",
    "{path}: cannot be read: {error.strerror}", "{path}: missing: no epoch", "{path} is not a Jupyter notebook: ",
    "{name}: is a directory, not a", "{path}: is a directory, not a", "{path}: holds less than", "{path}: {size} bytes",
    "{path}: refused: ",
    "{path}: not an original", "{path}: its epoch is", "{path}: damaged checkpoint: {type(error)",
    "{origin}: not a v5.5 checkpoint", "{path}: not a v5.5 checkpoint", "{origin}: weight {name} ",
    # The fault is named so closely that it is clear what to change.
    "{origin}: nested too deeply", "{origin}: {len(text)} characters", "{path}: circular `base`",
    "{criterion}: was not measured", "{path} has no parameter `{name}`: no cell", "{path} failed in {problem}",
    "seeds: {seed!r} is not an integer in",
    "seeds: {shown(value)} is not an integer in", "{source}: {first_line(text)!r} is not YAML",
    "split: its test part is empty",
    "device {str(chosen)!r}: only",
)
"""Beginnings of the messages that need no words for a remedy."""


class Message(NamedTuple):
    """A message of an error, with the places of its values in braces."""

    file: str
    line: int
    error: str
    text: str

    @property
    def words(self) -> str:
        """The message without its placeholders."""
        return re.sub(r"\{[^{}]*\}", "", self.text)


def messages() -> Iterator[Message]:
    """Every message that is written where its error is made. A variable as a message is made elsewhere."""
    for file in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name in RAISED and isinstance(node.args[0], ast.Constant | ast.JoinedStr):
                    yield Message(file.relative_to(ROOT).as_posix(), node.lineno, name, _text(node.args[0]))


def _text(node: ast.Constant | ast.JoinedStr) -> str:
    text = ""
    for part in [node] if isinstance(node, ast.Constant) else node.values:
        if isinstance(part, ast.FormattedValue):
            text += f"{{{ast.unparse(part.value)}{'!r' * (part.conversion > 0)}}}"
        else:
            text += str(part.value) if isinstance(part, ast.Constant) else ""
    return text


def faults(message: Message) -> list[str]:
    """The rules that a message breaks."""
    text, words = message.text, message.words
    rules = {
        "more than one line": "\n" in text or "  " in text,
        "an exclamation mark, or a word that blames or begs": re.search(
            r"!(?!r\})|\b(please|sorry|oops|illegal|fatal|stupid|forbidden)\b", text, re.IGNORECASE
        ),
        "does not begin with what is wrong": re.match(
            r"[A-Z]|(error|cannot|could|failed|unable|need|invalid|bad)\b", text
        ),
        "a full stop at the end": text.endswith("."),
        "the representation of an exception or a class": re.search(
            r"\{(error|exception|e)!r\}|\{type\(\w+\)(!r)?\}|\.shape(!r)?\}|__class__", text
        ),
        "no remedy": not (HELP.search(words) or PASSED_ON.search(text) or text.startswith(ENOUGH)),
        "too long to read on a terminal": len(words) > 320,
    }
    return [rule for rule, broken in rules.items() if broken]


def test_the_reader_finds_the_messages() -> None:
    found = list(messages())
    assert len(found) > 180
    assert {message.error for message in found} >= RAISED - {"TernaryLabError", "MissingPackageError"}
    assert "seed {max(seeds, key=seeds.count)} is given twice: give each seed once" in {one.text for one in found}


def test_every_message_names_the_thing_and_the_remedy_in_one_line() -> None:
    table = [f"{m.file}:{m.line}: {', '.join(faults(m))}: {m.text}" for m in messages() if faults(m)]
    assert not table, "\n" + "\n".join(table)


@pytest.mark.parametrize("text", [
    "{path}: is damaged:\nrestore it", "{path}: is damaged: restore it!", "Error in {path}: restore it",
    "cannot read {path}: restore it", "{path}: is damaged: restore it.", "{path}: {error!r}: restore it",
    "{name} must have one shape, got {value.shape}", "{path}: is damaged", "{path}: illegal value: choose another",
])
def test_a_bad_message_is_found(text: str) -> None:
    assert faults(Message("x.py", 1, "RunError", text))


if __name__ == "__main__":
    for message in messages():
        print(f"{message.file}:{message.line}\t{message.error}\t{message.text}\t{'; '.join(faults(message))}")

"""The messages that the page of questions explains are messages of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_messages import _text

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
QUOTED = [message for _, message in re.findall(r"^> (``?)(.+)\1$", PAGE, re.MULTILINE)]


def _texts() -> Iterator[str]:
    """Every text in the code, with … in place of the values."""
    for file in (ROOT / "ternary_lab").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant | ast.JoinedStr):
                yield re.sub(r"(\{[^{}]*\})+", "…", _text(node))
    yield from re.findall(r'echo "(error: .+?)"', (ROOT / "Makefile").read_text(encoding="utf-8"))


TEXTS = set(_texts())


def test_the_page_explains_many_messages() -> None:
    assert len(QUOTED) == len(set(QUOTED)) > 15


@pytest.mark.parametrize("message", QUOTED)
def test_a_message_on_the_page_is_a_message_of_the_code(message: str) -> None:
    assert message in TEXTS

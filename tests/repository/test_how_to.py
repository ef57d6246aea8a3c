"""The Python of every how-to page and of the quickstart runs as it is written, in an empty folder."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from ternary_lab.settings import Choice

FOLDER = Path(__file__).parents[2] / "docs" / "how_to"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.stem != "index")
SECONDS = 2.0
"""Most seconds of processor time for a block, after the library is imported."""


def _blocks(page: Path) -> list[tuple[int, str]]:
    """(line in the page, source) of every with_fixed_arithmetic block of Python."""
    text = page.read_text(encoding="utf-8")
    with_fixed_arithmetic = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: found.start(1)].count("\n"), found[1]) for found in with_fixed_arithmetic]


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    import torch

    weight = torch.zeros(1, requires_grad=True)
    weight.sum().backward()
    torch.optim.AdamW([weight]).step()  # the first one imports torch's compiler, which takes seconds


@pytest.mark.parametrize("page", [*PAGES, FOLDER.parent / "quickstart.md"], ids=lambda page: page.stem)
def test_a_page_runs_as_it_is_written(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.chdir(tmp_path)
    for family in Choice.__subclasses__():  # a class that a page defines ends with its test
        monkeypatch.setattr(family, "modes", dict(family.modes))
    module = ModuleType("how_to")
    monkeypatch.setitem(sys.modules, "how_to", module)  # pydantic looks up names in the module of a class
    blocks = _blocks(page)
    assert blocks
    for line, source in blocks:
        code = compile("\n" * line + source, str(page), "exec")  # a failure names the line of the page
        started = time.process_time()
        exec(code, vars(module))
        taken = time.process_time() - started
        assert taken < SECONDS, f"{page.name}, line {line + 1}: {taken:.1f} s"


def test_the_index_lists_every_page() -> None:
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\w+\.md)\)", index)) == {page.name for page in PAGES}
    assert {page.stem for page in PAGES} == {
        "schedule", "loss", "metric", "decoder", "space", "claims", "score", "notebook", "many_gpus",
        "without_the_library",
    }

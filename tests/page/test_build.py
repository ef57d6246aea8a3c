"""The page of a run as a file, and the command that writes it."""

from __future__ import annotations

import base64
import json
import re
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from small import SMALL

from ternary_lab import load_config, run_experiment
from ternary_lab.cli import main
from ternary_lab.cli.reading import _on_desktop
from ternary_lab.page.build import page, write_page
from ternary_lab.page.data import bundle
from ternary_lab.runs.load import RunRecord

pytestmark = pytest.mark.usefixtures("one_thread")
HEADER = re.compile(r'<script type="application/json" id="header">(.*?)</script>', re.DOTALL)
PART = re.compile(r'<script type="text/plain" id="part-(\w+)">(.*?)</script>', re.DOTALL)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    (run,) = run_experiment(SMALL, [3], run_dir=tmp_path_factory.mktemp("runs") / "mine").values()
    return run


def test_the_page_holds_the_header_and_the_parts(run: RunRecord) -> None:
    found, held = page(run, links={"other/seed=1": "</script>.html"}, prior=False), bundle(run, prior=False)
    header = json.loads(HEADER.findall(found)[0])
    links = header.pop("links")
    assert links == [{"run": "other/seed=1", "href": "</script>.html"}]
    assert header == json.loads(json.dumps(held.header))
    assert {name: base64.b64decode(text) for name, text in PART.findall(found)} == held.parts


def test_a_page_is_complete_and_names_no_address(run: RunRecord) -> None:
    found = page(run, prior=False)
    own = PART.sub("", found)
    assert "export async function mount(" in own
    assert ".ternary-explorer" in own
    assert not re.search(r"\{\{\w+\}\}", found)  # places of the template
    addresses = set(re.findall(r"https?://[\w./-]+", own))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # the name of a format, which no browser loads
    assert not re.search(r"@import|<link[^>]+href=\"(?!data:)|<script[^>]+src=", own)


def test_the_small_configuration_of_the_library_has_a_page(tmp_path: Path) -> None:
    config = load_config("quick", {"training.total_epochs": 2, "evaluation": {"coverage_samples": 100, "latents": 64}})
    (run,) = run_experiment(config, [42], run_dir=tmp_path / "quick").values()
    (header,) = HEADER.findall(page(run, prior=False))
    assert json.loads(header)["run"] == "quick/seed=42"
    assert json.loads(header)["epochs"] == [0, 1]


def _explore(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(main, ["explore", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def test_the_command_writes_a_page_and_prints_its_path(
    run: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or len(opened) == 1)
    assert _explore(run.path, "--no-prior")[0] == "explorer-mine-seed=3.html\n"
    default = tmp_path / "explorer-mine-seed=3.html"
    assert default.read_text(encoding="utf-8") == page(run, prior=False)
    assert _explore(run.path, "-o", tmp_path / "new" / "page.html", "--no-prior")[0] == "new/page.html\n"
    assert (tmp_path / "new" / "page.html").read_bytes() == default.read_bytes()
    assert opened == []  # stdout is no terminal here
    _explore(run.path, "-o", "page.html", "--no-prior", "--open")
    assert opened == [(tmp_path / "page.html").as_uri()]
    assert "no browser was found: open the page yourself\n" in _explore(run.path, "--no-prior", "--open")[1]


def test_a_page_is_opened_on_a_desktop_only(run: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)) or True)
    monkeypatch.setattr("ternary_lab.cli.reading._on_desktop", lambda: True)
    _explore(run.path, "--no-prior", "--no-open")
    _explore(run.path, "--no-prior", "-o", "page.html")
    assert opened == []
    _explore(run.path, "--no-prior")
    assert len(opened) == 1


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="these systems always have windows")
def test_a_desktop_has_a_terminal_and_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for terminal, display in product((True, False), (":0", "")):
        monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda terminal=terminal: terminal))
        monkeypatch.setenv("DISPLAY", display)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        if _on_desktop():
            found.add((terminal, display))
    monkeypatch.undo()
    assert found == {(True, ":0")}


@pytest.mark.parametrize(("arguments", "message"), [
    (("nothing",), "error: nothing: no such run directory"),
    (("v5_5",), "holds 8 runs: choose one of seed=42"),
    (("v5_5/seed=46",), "holds no weights: choose a run with weights"),
])
def test_a_run_without_a_page_is_an_error_of_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said, error = _explore(*arguments, code=2)
    assert said == ""
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_an_error_before_the_work(run: RunRecord, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "folder", tmp_path / "file" / "page.html"):
        said, error = _explore(run.path, "-o", path, code=2)
        assert said == ""
        assert error.startswith(f"error: {path}: cannot be written: ")
        assert error.count("\n") == 1  # not even a progress bar


def test_a_failure_leaves_the_page_of_before(run: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_page(run, tmp_path / "page.html", prior=False)
    before = path.read_bytes()
    monkeypatch.setattr("ternary_lab.page.build.bundle", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_page(run, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]

"""Notebooks of other people: None and dicts as parameters, values from files, and the spelling of papermill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from test_notebooks import save

from ternary_lab.cli import main
from ternary_lab.errors import NotebookError
from ternary_lab.notebooks import Parameter, check_parameters, parameters, parse_parameters, read_parameters

CONTRACT = """\
limit = None  # rows to read
options = {}  # how to read, such as {a: 1}
count: int | None = None  # of rows [1, 9]
size: Optional[float] = 2  # length [m]
names: None | List[str] = None
table: Dict[str, int] = {"a": 1}
anything: typing.Any = [1, "a", None]
colour = None  # of the line {red, 3, None}
"""


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The notebook book.ipynb in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return save(
        Path("book.ipynb"), "print(limit, options, count, size, names, table, anything, colour)", contract=CONTRACT
    )


def test_none_and_dicts_are_parameters(book: Path) -> None:
    assert parameters(book) == {
        "limit": Parameter("limit", None, "any", "rows to read"),
        "options": Parameter("options", {}, "dict", "how to read, such as {a: 1}"),
        "count": Parameter("count", None, "int | None", "of rows", 1, 9),
        "size": Parameter("size", 2.0, "float | None", "length [m]"),
        "names": Parameter("names", None, "list[str] | None"),
        "table": Parameter("table", {"a": 1}, "dict"),
        "anything": Parameter("anything", [1, "a", None], "any"),
        "colour": Parameter("colour", None, "any", "of the line", choices=("red", 3, None)),
    }


@pytest.mark.parametrize(("name", "text", "value"), [
    ("limit", "5", 5),
    ("limit", "1e-3", 1e-3),
    ("limit", "true", True),
    ("limit", "None", None),
    ("limit", "null", None),
    ("limit", "a: b", "a: b"),
    ("limit", "[1, {a: null}]", [1, {"a": None}]),
    ("limit", "", ""),
    ("options", '{"a": [1, 2.5], b: {c: x}}', {"a": [1, 2.5], "b": {"c": "x"}}),
    ("options", "{}", {}),
    ("count", "3", 3),
    ("count", "none", None),
    ("names", "a,b", ["a", "b"]),
    ("names", "None", None),
    ("colour", "red", "red"),
    ("colour", "3", 3),
])
def test_a_text_becomes_a_plain_value(book: Path, name: str, text: str, value: object) -> None:
    (parsed,) = parse_parameters(book, {name: text}).values()
    assert parsed == value
    assert type(parsed) is type(value)
    assert check_parameters(book, {name: value}) == {name: value}


@pytest.mark.parametrize(("name", "text", "message"), [
    ("options", "[1]", "`options` takes a dict such as {a: 1"),
    ("options", "3", "`options` takes a dict"),
    ("options", "None", "`options` takes a dict"),
    ("options", "{1: 2}", "`options` takes a dict"),
    ("options", "{a: .inf}", "`options` takes a dict"),
    ("options", "{a", "parameter `options`: '{a' is not YAML"),
    ("limit", "{a: b: c}", "parameter `limit`: '{a: b: c}' is not YAML"),
    ("count", "12", r"`count` takes a value in \[1, 9\], not 12"),
    ("count", "1.5", "`count` takes an int such as 3"),
    ("colour", "4", "`colour` takes one of red, 3, None, not 4"),
])
def test_a_text_of_another_form_is_refused(book: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(NotebookError, match=message) as caught:
        parse_parameters(book, {name: text})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, {"a": {1}}, float("nan"), {"a": float("inf")}, (1,)],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_cannot_be_written_is_refused(book: Path, value: object) -> None:
    for name in ("limit", "options"):
        with pytest.raises(NotebookError, match=f"`{name}` takes a"):
            check_parameters(book, {name: value})


@pytest.mark.parametrize("text", ["- 1", "3", "{1: 2}", "a: [", "a: 1\na: 2", "&a [*a]"])
def test_a_file_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(NotebookError, match=r"^values\.yaml: ") as caught:
        read_parameters(text, "values.yaml")
    assert "\n" not in str(caught.value)


# The command


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of each execution; nothing is executed."""
    calls: list[dict[str, Any]] = []

    def run_notebook(path: Path, output: Path, values: dict[str, Any], **options: Any) -> Path:
        calls.append({"path": path, "output": output, "values": check_parameters(path, values), **options})
        return output

    monkeypatch.setattr("ternary_lab.notebooks.run_notebook", run_notebook)
    return calls


def _call(*words: str) -> Result:
    return CliRunner().invoke(main, ["run", "book.ipynb", *words])


def test_values_come_from_files_texts_and_words(book: Path, given: list[dict[str, Any]]) -> None:
    Path("a.yaml").write_text("limit: 3\ncount: 4\noptions:\n  rate: 1e-3\n")
    Path("b.json").write_text(json.dumps({"count": 5, "names": ["x"]}))
    done = _call("-f", "a.yaml", "--parameters_file", "b.json", "-y", "{limit: 6, size: 7}", "-r", "limit", "None",
                 "-p", "size", "8")
    assert done.exit_code == 0, done.output
    assert given[0]["values"] == {
        "limit": "None", "count": 5, "options": {"rate": 1e-3}, "names": ["x"], "size": 8.0,
    }


def test_the_spelling_of_papermill_is_understood(book: Path, given: list[dict[str, Any]]) -> None:
    done = _call("there/out.ipynb", "--cwd", ".", "--execution-timeout", "9", "--parameters", "limit", "3")
    assert done.exit_code == 0, done.output
    assert given == [{
        "path": Path("book.ipynb"), "output": Path("there/out.ipynb"), "values": {"limit": 3}, "cwd": Path("."),
        "timeout": 9,
    }]
    assert _call("-o", "out.ipynb").exit_code == 0
    assert (given[1]["output"], given[1]["cwd"], given[1]["timeout"]) == (Path("out.ipynb"), None, None)
    assert "given twice" in _call("out.ipynb", "-o", "out.ipynb").stderr


@pytest.mark.parametrize(("words", "part"), [
    (["-f", "gone.yaml"], "/gone.yaml cannot be read: No such file or directory: name a YAML file of parameters"),
    (["-f", "book.ipynb"], "has no parameter `cells`"),
    (["-f", "."], "cannot be read: Is a directory"),
    (["-y", "limit"], "error: -y: 'limit' is not a line `NAME: VALUE`"),
    (["-y", "{count: x}"], "`count` takes int | None, not 'x'"),
    (["--each", "count=1,2", "-y", "{count: 3}"], "count is given twice"),
    (["--cwd", "gone"], "/gone) is not a folder: choose another working directory"),
    (["--timeout", "0"], "is not in the range"),
])
def test_what_is_wrong_is_named_before_a_kernel_starts(book: Path, words: list[str], part: str) -> None:
    done = _call(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert part in done.stderr
    assert [file.name for file in Path.cwd().iterdir()] == ["book.ipynb"]


def test_sets_take_values_of_files(book: Path) -> None:
    from ternary_lab.notebooks.run import parameter_sets

    sets = parameter_sets(book, {"size": "3"}, ["count=1..2"], {"options": {"a": 1}, "size": 4})
    assert sets["count=2.ipynb"] == {"options": {"a": 1}, "size": 3.0, "count": 2}

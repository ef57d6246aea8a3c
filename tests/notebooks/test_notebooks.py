# mypy: disable-error-code="no-untyped-call"
"""Notebooks: their parameters, the runner, the export and the checks before a commit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ternary_lab.cli import main
from ternary_lab.errors import NotebookError
from ternary_lab.notebooks import (
    Parameter,
    check_notebook,
    check_parameters,
    export_html,
    find_notebooks,
    parameters,
    parse_parameters,
    run_notebook,
    unread_parameters,
    validate,
)
from ternary_lab.notebooks.cells import WIDGET_STATE
from ternary_lab.notebooks.export import replace_formulas

CONTRACT = """\
epochs = 60  # epochs to train [1, 400]
rate = 1e-3  # learning rate [0, inf]
device = "auto"  # where to train {auto, cpu, cuda}
seeds = [42, 43]  # one run per seed [0, 100]
quick = False
scale: float = 1  # factor
names: list[str] = []  # runs to compare
"""
READS = "print(epochs, rate, device, seeds, quick, scale, names)"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
FIGURE = f'<img alt="a pixel" src="data:image/png;base64,{PIXEL}">'


def save(path: Path, *cells: Any, contract: str = "n = 1  # a number [0, 9]") -> Path:
    """A notebook with a title, a parameters cell and the given cells, not executed."""
    tagged = new_code_cell(contract, metadata={"tags": ["parameters"]})
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    code = [new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    notebook = new_notebook(cells=[new_markdown_cell("# A question"), tagged, *code], metadata=metadata)
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def book(tmp_path: Path) -> Path:
    return save(tmp_path / "book.ipynb", READS, contract=CONTRACT)


def edit(path: Path, change: Any) -> Path:
    """Apply `change` to the JSON of a notebook."""
    notebook = json.loads(path.read_text())
    change(notebook)
    path.write_text(json.dumps(notebook))
    return path


# Parameters


def test_the_contract_is_read_from_the_parameters_cell(book: Path) -> None:
    known = parameters(book)
    assert list(known) == ["epochs", "rate", "device", "seeds", "quick", "scale", "names"]
    assert known["epochs"] == Parameter("epochs", 60, "int", "epochs to train", 1, 400)
    assert known["device"] == Parameter(
        "device", "auto", "str", "where to train", choices=("auto", "cpu", "cuda")
    )
    assert known["seeds"] == Parameter("seeds", [42, 43], "list[int]", "one run per seed", 0, 100)
    assert known["quick"] == Parameter("quick", False, "bool")
    assert known["scale"] == Parameter("scale", 1.0, "float", "factor")
    assert known["names"] == Parameter("names", [], "list[str]", "runs to compare")


def test_a_notebook_without_a_parameters_cell_has_no_parameters(tmp_path: Path) -> None:
    path = edit(save(tmp_path / "bare.ipynb", "1 + 1"), lambda nb: nb["cells"][1]["metadata"].clear())
    assert parameters(path) == {}
    with pytest.raises(NotebookError, match="no cell is tagged"):
        check_parameters(path, {"n": 3})


def test_a_literal_may_span_lines_and_its_comment_closes_it(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.ipynb", contract="seeds = [\n    1,  # the first\n    2,\n]  # all of them [1, 2]"
    )
    assert parameters(path)["seeds"] == Parameter("seeds", [1, 2], "list[int]", "all of them", 1, 2)


@pytest.mark.parametrize(
    ("contract", "message"),
    [
        ("n = 3\nm = 2 * n", r"line 2: `m` is not a plain literal"),
        ("import os", "line 1: `import os` is not `NAME = literal`"),
        ("a = b = 1", "is not `NAME = literal`"),
        ("a, b = 1, 2", "is not `NAME = literal`"),
        ("n = 1\nn = 2", "line 2: `n` is assigned twice"),
        ("n = {1: 2}", "`n` takes a dict such as"),
        ("n: dict = [1]", "`n` takes a dict such as"),
        ("n = {'a': 1e999}", "`n` takes a dict such as"),
        ("n: complex = 3", "`n` is of type complex: use one of int, float"),
        ("n: int | None = 1.5", r"`n` takes int \| None, not 1.5"),
        ("n: int | str = 3", "use one of int"),
        ("n = []", r"annotate it: `list\[int\]`"),
        ("n = [1, 'a']", "mixed list"),
        ("n = [[1]]", "use one of int"),
        ("n: int = 1.5", "`n` takes int, not 1.5"),
        ("n = 5  # too many [1, 4]", r"`n` takes a value in \[1, 4\], not 5"),
        ("n = 'c'  # letter {a, b}", "`n` takes one of a, b, not 'c'"),
        ("n = 5  # reversed [4, 1]", "is no range for `n`"),
        ("n = 5  # letters [a, b]", "is no range for `n`"),
        ("n = 'a'  # a range of strings [1, 2]", "is no range for `n`"),
        ("n = 5  # set of letters {a, 5}", "`n` takes an int such as 3, not 'a'"),
        ("n = (", "the parameters cell is not Python"),
        ("%time n = 3", "the parameters cell is not Python"),
    ],
)
def test_a_broken_contract_is_named(tmp_path: Path, contract: str, message: str) -> None:
    path = save(tmp_path / "bad.ipynb", contract=contract)
    with pytest.raises(NotebookError, match=message) as caught:
        parameters(path)
    assert str(caught.value).startswith(str(path))


def test_only_one_cell_holds_parameters(tmp_path: Path) -> None:
    twice = new_code_cell("m = 1", metadata={"tags": ["parameters"]})
    with pytest.raises(NotebookError, match="2 cells are tagged"):
        parameters(save(tmp_path / "two.ipynb", twice))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "no parameter `epoch`: did you mean epochs."),
        ({"zzz": 3}, "no parameter `zzz`; known here: epochs, rate, device"),
        ({"epochs": "3"}, "`epochs` takes int, not '3'"),
        ({"epochs": True}, "`epochs` takes int, not True"),
        ({"epochs": 3.5}, "`epochs` takes int, not 3.5"),
        ({"epochs": 0}, r"`epochs` takes a value in \[1, 400\], not 0"),
        ({"rate": False}, "`rate` takes float, not False"),
        ({"rate": float("nan")}, "`rate` takes a finite number"),
        ({"rate": float("inf")}, "`rate` takes a finite number"),
        ({"rate": 10**400}, "`rate` takes float"),
        ({"quick": 1}, "`quick` takes bool, not 1"),
        ({"device": "tpu"}, "`device` takes one of auto, cpu, cuda, not 'tpu'"),
        ({"seeds": 42}, r"`seeds` takes list\[int\], not 42"),
        ({"seeds": [1, 200]}, r"takes a value in \[0, 100\], not 200"),
        ({"names": None}, r"takes list\[str\], not None"),
    ],
)
def test_values_are_checked_against_the_contract(book: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(NotebookError, match=message) as caught:
        check_parameters(book, values)
    assert "\n" not in str(caught.value)


def test_an_int_stands_for_a_float_and_ranges_include_their_ends(book: Path) -> None:
    checked = check_parameters(book, {"rate": 1, "epochs": 400, "seeds": [0, 100]})
    assert checked == {"rate": 1.0, "epochs": 400, "seeds": [0, 100]}
    assert type(checked["rate"]) is float


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("epochs", "3", 3),
        ("epochs", "3.0", 3),
        ("epochs", "1e2", 100),
        ("rate", "1e-3", 1e-3),
        ("rate", "2", 2.0),
        ("quick", "true", True),
        ("quick", "False", False),
        ("device", "cpu", "cpu"),
        ("seeds", "[1,2]", [1, 2]),
        ("seeds", "1, 2", [1, 2]),
        ("seeds", "7", [7]),
        ("seeds", "[]", []),
        ("names", "a,b", ["a", "b"]),
        ("names", "true", ["true"]),
    ],
)
def test_a_command_line_text_becomes_the_type(book: Path, name: str, text: str, value: object) -> None:
    parsed = parameters(book)[name].parse(text)
    assert parsed == value
    assert type(parsed) is type(value)
    assert parse_parameters(book, {name: text}) == {name: value}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *[("epochs", text) for text in ("", "3.5", "010", "1:30", "1_0", "0x10", "٣", "true", "401", "9" * 5000)],
        *[("rate", text) for text in ("nan", "inf", "1e999", "fast", "1e", "", "1.2.3")],
        *[("quick", text) for text in ("1", "yes", "")],
        *[("seeds", text) for text in ("1,,2", "1 2", "[1", "[1],[2]", "1.5")],
        ("device", "CPU"),
    ],
)
def test_a_text_of_another_type_is_refused(book: Path, name: str, text: str) -> None:
    with pytest.raises(NotebookError, match=f"`{name}`"):
        parameters(book)[name].parse(text)


def test_an_unknown_name_on_the_command_line_gets_the_nearest(book: Path) -> None:
    with pytest.raises(NotebookError, match="did you mean epochs"):
        parse_parameters(book, {"epohcs": "3"})


TEXT = st.text("a7 é∑𝟛\"'\\\n\t{}=%,[]")
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "str": TEXT,
}


PLAIN = st.recursive(
    st.one_of(st.none(), *SCALARS.values()),
    lambda parts: st.one_of(st.lists(parts, max_size=3), st.dictionaries(TEXT, parts, max_size=3)),
    max_leaves=5,
)


@pytest.mark.parametrize("kind", sorted(SCALARS))
@given(st.data())
def test_parsing_inverts_writing(kind: str, data: st.DataObject) -> None:
    value = data.draw(SCALARS[kind])
    assert Parameter("x", value, kind).parse(str(value)) == value
    if kind != "str":
        values = data.draw(st.lists(SCALARS[kind]))
        assert Parameter("x", values, f"list[{kind}]").parse(str(values)) == values


@settings(deadline=None)  # the first example imports papermill
@given(st.one_of(*SCALARS.values(), *map(st.lists, SCALARS.values()), st.dictionaries(TEXT, PLAIN)))
def test_papermill_writes_the_value_that_was_checked(value: Any) -> None:
    from papermill.translators import PythonTranslator

    namespace: dict[str, object] = {}
    exec(PythonTranslator.codify({"x": value}), namespace)
    assert namespace["x"] == value
    assert type(namespace["x"]) is type(value)


@pytest.mark.parametrize(("name", "value", "taken"), [
    ("epochs", np.int64(3), 3), ("epochs", 3.0, 3), ("rate", np.float64(0.5), 0.5), ("rate", np.int64(1), 1.0),
    ("seeds", range(3), [0, 1, 2]), ("seeds", np.arange(2), [0, 1]), ("seeds", (s for s in [1.0, 2]), [1, 2]),
    ("quick", np.True_, True), ("names", (Path("a"), "b"), ["a", "b"]),
])
def test_a_value_of_numpy_becomes_a_plain_one(book: Path, name: str, value: Any, taken: Any) -> None:
    namespace = {name: value}
    validate(book, namespace)
    assert repr(namespace[name]) == repr(taken)


@pytest.mark.parametrize(("text", "hint"), [("010", ": write 10"), ("-007", ": write -7"), ("1:30", "without a colon")])
def test_a_number_that_programs_read_differently_is_refused(book: Path, text: str, hint: str) -> None:
    for name in ("epochs", "rate", "seeds"):
        with pytest.raises(NotebookError, match=f"`{name}` takes .* not '{text}'.*{hint}"):
            parse_parameters(book, {name: text})


def test_a_notebook_validates_its_own_values(book: Path) -> None:
    validate(book, {"epochs": 3, "other": object()})
    with pytest.raises(NotebookError, match="`epochs` takes a value"):
        validate(book, {"epochs": 0})


# Parameters that no cell reads


@pytest.mark.parametrize(
    "cell",
    [
        "print(n)",
        "f'{n:>3}'",
        "def f(m=n): pass",
        "def f():\n    return [n for _ in range(3)]",
        "class A:\n    m = n",
        "n += 1",
        "n = min(n, 3)",
        "if n:\n    n = 2",
        "%time\nprint(n)",
        "%%time\nprint(n)",
        "!echo {n + 1}",
        "files = !ls $n",
        "%run it.py ${n}",
        "%%bash -s {n}\necho $1",
        "list?\nprint(n)",
        "for i in n:\n    i??",
        "%matplotlib inline\nfiles = !ls\nprint(n)",
        "x = (3\n% n)",
        "await f(n)",
        "m = 1\ndel m\nn = n",
    ],
)
def test_a_parameter_is_read(tmp_path: Path, cell: str) -> None:
    assert unread_parameters(save(tmp_path / "a.ipynb", cell)) == []


@pytest.mark.parametrize(
    "cell",
    [
        "",
        "m = 1",
        "# n",
        "'n'",
        "n = 2\nprint(n)",
        "n: int = 2\nprint(n)",
        "(n, m) = 2, 3\nprint(n)",
        "def f(n):\n    return n",
        "[n for n in range(3)]",
        "f = lambda n: n",
        "a.n",
        "f(n=3)",
        "%%bash\necho $n --flag",
        "%timeit n",
    ],
)
def test_a_parameter_is_not_read(tmp_path: Path, cell: str) -> None:
    assert unread_parameters(save(tmp_path / "a.ipynb", cell)) == ["n"]


def test_only_the_unread_parameters_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ipynb", "b = 0", "print(a, b)", contract="a = 1\nb = 2\nc = 3")
    assert unread_parameters(path) == ["b", "c"]


def test_a_cell_that_is_not_python_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ipynb", "print(")
    with pytest.raises(NotebookError, match=r"code cell 2 is not Python in line 1: '.' was never closed") as caught:
        unread_parameters(path)
    assert str(caught.value).startswith(str(path))


# Running


def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the test fail if a kernel is started."""
    monkeypatch.setattr("ternary_lab.notebooks.run._execute", lambda *_: pytest.fail("a kernel was started"))


def test_nothing_starts_when_the_caller_is_wrong(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(monkeypatch)
    output = tmp_path / "out.ipynb"
    for values in ({"epoch": 3}, {"epochs": "3"}, {"epochs": 0}):
        with pytest.raises(NotebookError):
            run_notebook(book, output, values)
    with pytest.raises(NotebookError, match="no later cell reads `n`: use it there or delete it"):
        run_notebook(save(tmp_path / "unread.ipynb", "print(1)"), output)
    with pytest.raises(NotebookError, match="cannot be written"):
        run_notebook(book, book / "out.ipynb")
    (tmp_path / "folder.ipynb").mkdir()
    with pytest.raises(NotebookError, match="cannot be written"):
        run_notebook(book, tmp_path / "folder.ipynb")
    with pytest.raises(NotebookError, match=r"end it in \.ipynb"):
        run_notebook(book, tmp_path / "out.html")
    assert not output.exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", "3", "not json", '{"cells": 3, "nbformat": 4}', "\x00"])
def test_a_file_that_is_no_notebook_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.ipynb"
    path.write_text(text)
    with pytest.raises(NotebookError, match="is not a Jupyter notebook") as caught:
        run_notebook(path, tmp_path / "out.ipynb")
    assert "\n" not in str(caught.value)


def test_a_missing_notebook_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotebookError, match=r"gone\.ipynb does not exist"):
        run_notebook(tmp_path / "gone.ipynb", tmp_path / "out.ipynb")
    with pytest.raises(NotebookError, match="cannot be read"):
        parameters(tmp_path)


def test_a_run_gets_its_values_and_leaves_a_clean_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    folder = tmp_path / "with {braces}"
    folder.mkdir()
    cells = ["import os", "a, b, c, d", "os.path.exists('book.ipynb')", "'Agg' in os.environ['MPLBACKEND']"]
    # papermill's inspect_notebook misreads a and c; papermill sets them all the same.
    contract = "a = 1  # a = 1, 2 [0, 9]\nb: float = 2\nc = 'x=y # z'\nd = [1]"
    path = save(folder / "book.ipynb", *cells, contract=contract)
    output = run_notebook(
        path, tmp_path / "new" / "out.ipynb", {"a": 5, "b": 3, "c": 'say "=" \\n', "d": [7]}
    )
    executed = nbformat.read(output, as_version=4)
    shown = [cell.outputs[0].data["text/plain"] for cell in executed.cells[4:]]
    assert shown == [repr((5, 3.0, 'say "=" \\n', [7])), "True", "False"]
    assert os.environ["MPLBACKEND"] == "Agg"
    assert "injected-parameters" in executed.cells[2].metadata.tags
    assert check_notebook(output) == []
    written = capfd.readouterr()
    assert written.out == ""
    started, *between, finished = written.err.splitlines()  # a slow machine prints progress between
    assert started == f"book.ipynb: started in {folder}"
    assert finished.startswith("book.ipynb: finished in ")
    assert all(line.startswith("book.ipynb: ") for line in between)


FAILURES = {
    "raises": (["print(n)", "1 / 0", "print(2)"], "code cell 3: ZeroDivisionError: division by zero"),
    "exits": (["print(n)", "import sys; sys.exit(0)"], "code cell 3: SystemExit: 0"),
    "dies": (["print(n)", "import os; os.kill(os.getpid(), 9)", "print(2)"], "code cell 3: the kernel died"),
    "widget": (
        ["import ipywidgets\nout = ipywidgets.Output()\nwith out:\n    raise ValueError('hidden')\nn"],
        "a widget's output: ValueError: hidden",
    ),
}


@pytest.mark.parametrize("name", sorted(FAILURES))
def test_no_failure_is_hidden(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    cells, message = FAILURES[name]
    path, output = save(tmp_path / "book.ipynb", *cells), tmp_path / "out.ipynb"
    with pytest.raises(NotebookError) as caught:
        run_notebook(path, output, progress=False)
    assert message in str(caught.value)
    assert str(output) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert nbformat.read(output, as_version=4).metadata.papermill.exception is True
    assert capfd.readouterr() == ("", "")


# Export


def test_the_page_loads_nothing_from_the_network(tmp_path: Path) -> None:
    cell = new_code_cell("x = 1", execution_count=1)
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "a"}, "text/plain": "VBox()"}
    cell.outputs = [new_output("display_data", {"text/html": FIGURE}), new_output("display_data", view)]
    asked = new_markdown_cell("## When $\\beta_B$ is $1/2$\n\nIs $\\beta_A$ <https://arxiv.org> 1 or `$x$`?")
    path = save(tmp_path / "book.ipynb", asked, cell)
    edit(path, lambda nb: nb["metadata"].update(widgets={WIDGET_STATE: {"state": {}}}))
    html = export_html(path, tmp_path / "new" / "book.html").read_text()
    loaded = r"(<(script|link|img|iframe)\b[^>]*|url\(|@import[^;]*|import\()['\"\s=\w]*https?:"
    assert re.search(loaded, html) is None
    assert "<script src" not in html
    assert "<title>A question</title>" in html
    assert PIXEL in html
    assert "a pixel" in html
    assert "An interactive view" in html
    assert "VBox()" not in html
    assert "<msub><mi>&#x003B2;</mi><mi>A</mi></msub>" in html
    assert "or <code>$x$</code>" in html
    assert "$1/2$" not in html
    assert re.search(r"FORMULA|<[^>]*<math", html) is None
    assert re.search(r'<details class="code"><summary>code</summary>(?:(?!</details>).)*class="n">x<', html, re.DOTALL)


def test_a_link_to_a_notebook_becomes_text_and_other_links_stay(tmp_path: Path) -> None:
    text = "See [`02_train`](02_train.ipynb) or [two\nwords](../b.ipynb#part), [a](https://a.org/b.ipynb), [c](c.csv)."
    html = export_html(save(tmp_path / "book.ipynb", new_markdown_cell(text)), tmp_path / "book.html").read_text()
    assert re.findall(r'href="([^"#]+)', html) == ["https://a.org/b.ipynb", "c.csv"]
    assert "See <code>02_train</code> or two\nwords, " in html


def test_a_function_has_a_space_around_it_but_not_before_a_parenthesis() -> None:
    spaced, close = replace_formulas(r"$2 \ln N$"), replace_formulas(r"$\ln(N)$")
    assert '<mo lspace="0.17em" rspace="0.17em">ln</mo>' in spaced
    assert '<mo lspace="0.17em" rspace="0em">ln</mo>' in close


def test_an_export_that_cannot_be_written_is_named(book: Path) -> None:
    with pytest.raises(NotebookError, match="cannot be written"):
        export_html(book, book / "book.html")


# Checking


@pytest.fixture
def committed(tmp_path: Path) -> Path:
    """A notebook that is ready to be committed."""
    figure = new_code_cell("show(n)", execution_count=2)
    figure.outputs = [new_output("display_data", {"text/html": FIGURE, "text/plain": "Figure"})]
    path = save(tmp_path / "fine.ipynb", figure, new_markdown_cell("The answer: ![one](one.png), /3."))
    return edit(path, lambda nb: nb["cells"][1].update(execution_count=1))


def test_a_committed_notebook_has_no_problems(committed: Path) -> None:
    assert check_notebook(committed) == []


def output_of(nb: Any) -> Any:
    return nb["cells"][2]["outputs"]


def printed(text: str) -> Any:
    return lambda nb: output_of(nb).append({"output_type": "stream", "name": "stdout", "text": text})


def widget(state: dict[str, Any]) -> Any:
    saved = {WIDGET_STATE: {"state": {"a": {"state": state}}}}
    return lambda nb: nb["metadata"].update(widgets=saved)


ERROR = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}
LONG = "def f():\n" + "    pass\n" * 8
DAMAGE = {
    "title": (lambda nb: nb["cells"].pop(0), "not a Markdown title"),
    "no heading": (lambda nb: nb["cells"][0].update(source="A question"), "not a Markdown title"),
    "kernel": (lambda nb: nb["metadata"]["kernelspec"].update(name="mine"), "the kernelspec is 'mine'"),
    "no kernel": (lambda nb: nb["metadata"].clear(), "the kernelspec is None"),
    "long definition": (lambda nb: nb["cells"][2].update(source=LONG + "show(n)"), "`f` has 9 lines"),
    "not Python": (lambda nb: nb["cells"][2].update(source="show("), "code cell 2 is not Python"),
    "no parameters": (lambda nb: nb["cells"][1]["metadata"].clear(), "no parameters"),
    "computed": (lambda nb: nb["cells"][1].update(source="n = 1 + f(1)"), "not a plain literal"),
    "unread": (lambda nb: nb["cells"][2].update(source="show(m)"), "no later cell reads the parameter `n`"),
    "not executed": (lambda nb: nb["cells"][2].update(execution_count=None), "code cell 2: not executed, not once"),
    "out of order": (lambda nb: nb["cells"][2].update(execution_count=7), "code cell 2: executed as [7], not once"),
    "error": (lambda nb: output_of(nb).append(ERROR), "code cell 2: ValueError: no: an error: fix the cell"),
    "widget error": (widget({"outputs": [ERROR]}), "a widget's output: ValueError: no"),
    "size": (printed("x\n" * 750_001), "that the outputs take, more than 1500000"),
    "wide": (printed("x" * 101), "a printed line of 101 characters, more than 100"),
    "no alt": (lambda nb: output_of(nb)[0]["data"].update({"text/html": "<img src=''>"}), "an image has no alt text"),
    "blank alt": (lambda nb: output_of(nb)[0]["data"].update({"text/html": "<img alt=' '/>"}), "code cell 2: an image"),
    "drawing": (lambda nb: output_of(nb)[0]["data"].update({"text/html": "<svg></svg>"}), "no aria-label"),
    "widget's picture": (widget({"value": "<b>a</b><img src=''>"}), "a widget's value: an image has no alt text"),
    "bare image": (
        lambda nb: output_of(nb)[0].update(data={"image/png": PIXEL}),
        "an image without alt text",
    ),
    "Markdown image": (lambda nb: nb["cells"][3].update(source="![](a.png)"), "cell 4: an image in Markdown"),
    "home": (printed("saved to /home/alice/runs"), "'/home/alice/runs'"),
    "temporary": (printed("/tmp/ipykernel_7/1.py:3: UserWarning"), "'/tmp/ipykernel_7"),
    "working": (printed(f"file://{Path.cwd()}/runs"), f"{Path.cwd()}/runs"),
    "root": (printed("reads /root/data.csv"), "cell 3: an absolute path, '/root/data.csv'"),
    "installed": (printed("in file:///usr/lib/python3"), "'/usr/lib/python3'"),
    "prompt": (printed("me@box:/work# ls"), "cell 3: a machine's name, '@box:/work# ls'"),
    "source": (lambda nb: nb["cells"][3].update(source="see /Users/bob/x"), "source of cell 4: an absolute"),
    "metadata": (lambda nb: nb["metadata"].update(path="/home/bob"), "the notebook's metadata: an absolute"),
    "host": (printed("trained on box-17."), "this machine's name"),
}


@pytest.mark.parametrize("name", sorted(DAMAGE))
def test_each_damage_is_one_problem(committed: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "box-17")
    change, message = DAMAGE[name]
    problems = check_notebook(edit(committed, change))
    assert any(message in problem for problem in problems), problems
    assert len(problems) == 1
    assert "\n" not in problems[0]
    assert str(committed) not in problems[0]


@pytest.mark.parametrize(
    "text",
    [
        "runs/tmp/a", "see ./home/x", "https://a.org/home/x", "box-17b", "and/or", "the folder /data", "</var>",
        "a@b.org: no",
    ],
)
def test_harmless_text_is_no_problem(committed: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "box-17")
    assert check_notebook(edit(committed, printed(text))) == []


def test_the_size_budget_is_a_parameter(committed: Path) -> None:
    assert any("more than 10" in problem for problem in check_notebook(committed, max_output_bytes=10))


def test_a_file_that_is_no_notebook_is_its_only_problem(tmp_path: Path) -> None:
    (problem,) = check_notebook(tmp_path / "gone.ipynb")
    assert problem.startswith("does not exist")


def test_an_image_in_words_is_fine(committed: Path) -> None:
    drawing = '<svg aria-label="a pixel"></svg>'
    edit(committed, lambda nb: output_of(nb)[0]["data"].update({"text/html": drawing}))
    assert check_notebook(committed) == []


def test_notebooks_are_found_in_folders_and_by_name(committed: Path) -> None:
    folder = committed.parent
    other = save(folder / "another.ipynb")
    (folder / "notes.txt").touch()
    assert find_notebooks([folder, committed]) == [other, committed]
    assert find_notebooks([committed, folder]) == [committed, other]
    (folder / "empty").mkdir()
    for path, message in ((folder / "empty", "holds no notebook"), (folder / "gone.ipynb", "does not exist")):
        with pytest.raises(NotebookError, match=message):
            find_notebooks([committed, path])


def test_the_command_prints_a_line_for_each_finding(committed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(committed.parent.parent)
    folder, call = committed.parent.name, CliRunner().invoke
    fine = call(main, ["check-notebooks", folder])
    assert (fine.exit_code, fine.stdout) == (0, "1 notebook checked, 0 findings\n")
    save(committed.with_name("bad.ipynb"), "print(n)")
    bad = call(main, ["check-notebooks", folder])
    finding = "code cell 1: not executed, not once each from top to bottom: restart the kernel and run all cells"
    assert bad.exit_code == 1
    assert bad.stdout == f"{folder}/bad.ipynb: {finding}\n2 notebooks checked, 1 finding\n"
    told = call(main, ["check-notebooks", folder, "--json"])
    assert told.exit_code == 1
    assert json.loads(told.stdout) == [
        {"notebook": f"{folder}/bad.ipynb", "findings": [finding]},
        {"notebook": f"{folder}/fine.ipynb", "findings": []},
    ]
    gone = call(main, ["check-notebooks"])
    assert (gone.exit_code, gone.stdout) == (2, "")
    assert gone.stderr == "error: notebooks does not exist: name a notebook, or a folder of notebooks\n"


def test_importing_the_module_loads_no_notebook_machinery() -> None:
    heavy = "{'torch', 'papermill', 'nbformat', 'nbconvert', 'nbclient', 'matplotlib'}"
    code = f"import sys, ternary_lab.notebooks; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

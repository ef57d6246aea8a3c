# mypy: disable-error-code="no-untyped-call"
"""One notebook under many sets of parameters: the sets, their file names, and the failure of one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner, Result
from small import write_book

from ternary_lab import NotebookError
from ternary_lab.cli import main
from ternary_lab.notebooks.run import is_finished, parameter_sets, run_each


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory that holds book.ipynb."""
    monkeypatch.chdir(tmp_path)
    write_book(tmp_path)


def _sets(*each: str, **fixed: str) -> dict[str, dict[str, object]]:
    return dict(parameter_sets(Path("book.ipynb"), fixed, each))


def test_sets_are_every_value_with_every_other() -> None:
    assert _sets("seed=1..3") == {f"seed={seed}.ipynb": {"seed": seed} for seed in (1, 2, 3)}
    found = _sets("seed=1,2", "config=quick,runs/my own.yaml", sizes="3,4")
    assert list(found) == [
        "seed=1,config=quick.ipynb", "seed=1,config=runs_my_own.yaml.ipynb",
        "seed=2,config=quick.ipynb", "seed=2,config=runs_my_own.yaml.ipynb",
    ]
    assert found["seed=2,config=runs_my_own.yaml.ipynb"] == {
        "seed": 2, "config": "runs/my own.yaml", "sizes": [3, 4],
    }
    assert _sets("sizes=1..2") == {"sizes=1.ipynb": {"sizes": [1]}, "sizes=2.ipynb": {"sizes": [2]}}


@pytest.mark.parametrize(("each", "part"), [
    (["seed"], "write NAME=1..8 or NAME=a,b,c"),
    (["seed="], "write NAME=1..8"),
    (["seed=8..1"], "must rise"),
    (["seed=1,2", "seed=3"], "seed is given twice"),
    (["sizes=1"], "sizes is given twice"),
    (["sed=1..3"], "did you mean seed"),
    (["seed=1..12"], "`seed` takes a value in [0, 9], not 10"),
    (["seed=one"], "an int such as 3"),
    (["config=a b,a_b"], "config=a_b.ipynb"),
], ids=str)
def test_a_set_that_breaks_the_contract_stops_before_any_kernel_starts(each: list[str], part: str) -> None:
    with pytest.raises(NotebookError) as caught:
        run_each("book.ipynb", {"sizes": "1"}, each)
    assert part in str(caught.value)
    assert not Path("reports").exists()


def _call(*words: str) -> Result:
    return CliRunner().invoke(main, ["run", "book.ipynb", *words])


def test_each_set_is_executed_and_one_that_fails_stops_no_other() -> None:
    done = _call("--each", "seed=2..4", "-p", "config", "mine", "--html")
    assert done.exit_code == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: 1 of 3 notebooks failed, seed=3 in: ")
    assert "AssertionError" in last
    for seed in (2, 4):
        executed = nbformat.read(f"reports/book/seed={seed}.ipynb", as_version=4)
        assert executed.cells[-1].outputs[0].text == f"{seed} mine [1, 2]\n"
        assert Path(f"reports/book/seed={seed}.html").is_file()
    assert "book.ipynb: 3 of 3, seed=4: done" in done.stderr


def test_a_batch_goes_on_where_it_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def execute(path: Path, values: dict[str, object], *_: object) -> tuple[nbformat.NotebookNode, str | None]:
        begun.append(str(values))
        if len(begun) == stop_after:
            raise KeyboardInterrupt
        executed = nbformat.read(path, as_version=4)
        executed.metadata.papermill = {"parameters": values}
        return executed, None

    monkeypatch.setattr("ternary_lab.notebooks.run._execute", execute)
    words, stop_after = ["--each", "seed=4..7", "-p", "config", "mine"], 3
    assert _call(*words).exit_code == 130
    files = {file: file.read_bytes() for file in Path("reports/book").iterdir()}
    assert [file.name for file in sorted(files)] == ["seed=4.ipynb", "seed=5.ipynb"]

    begun, stop_after = [], 0
    done = _call(*words, "--html")
    assert done.exit_code == 0, done.output
    assert begun == [f"{{'config': 'mine', 'seed': {seed}}}" for seed in (6, 7)]
    assert "4 sets of parameters, 2 finished before: --fresh executes them again" in done.stderr
    assert "3 of 4, seed=6: done" in done.stderr
    assert done.stdout.splitlines() == [f"reports/book/seed={seed}.ipynb" for seed in (4, 5, 6, 7)]
    assert all(file.read_bytes() == content for file, content in files.items())
    assert len(list(Path("reports/book").glob("*.html"))) == 4

    for change in (["--fresh"], ["-p", "config", "yours"]):
        begun = []
        assert _call(*words, *change).exit_code == 0
        assert len(begun) == 4
    _edit_book(lambda text: text.replace("print(seed", "print(2 * seed"))
    begun = []
    assert _call(*words, "-p", "config", "yours").exit_code == 0
    assert len(begun) == 4


def _edit_book(change: Callable[[str], str]) -> None:
    book = Path("book.ipynb")
    book.write_text(change(book.read_text()))


def test_a_failed_or_torn_notebook_is_not_finished() -> None:
    target = Path("out.ipynb")
    assert not is_finished(Path("book.ipynb"), target, {})
    executed = nbformat.read("book.ipynb", as_version=4)
    for exception in (False, True, None):
        executed.metadata.papermill = {"parameters": {"seed": 2}, "exception": exception}
        nbformat.write(executed, target)
        assert is_finished(Path("book.ipynb"), target, {"seed": 2}) == (exception is False)
        assert not is_finished(Path("book.ipynb"), target, {"seed": 3})
    target.write_text(target.read_text()[:-9])
    assert not is_finished(Path("book.ipynb"), target, {"seed": 2})


def test_where_they_went_is_printed() -> None:
    done = _call("--each", "seed=1", "-o", "there")
    assert done.exit_code == 0, done.output
    assert done.stdout == "there/seed=1.ipynb\n"


@pytest.mark.parametrize("words", [["--engine", "ray"], ["--fresh"]], ids=str)
def test_some_options_go_with_many_sets(words: list[str]) -> None:
    done = _call(*words)
    assert done.exit_code == 2
    assert f"{words[0]} goes with --each" in done.stderr

# mypy: disable-error-code="no-untyped-call"
"""The runner: its outputs are whole, its kernel is this interpreter's, and a cell that misbehaves is named."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock
from jupyter_client.connect import LocalPortCache
from jupyter_core.utils import ensure_event_loop
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, RunningKernel
from test_notebooks import save

from ternary_lab.errors import NotebookError
from ternary_lab.notebooks import cells, kernel, run, run_notebook, validate


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that replaces the execution: every cell prints `text`, and `failure` is what stops it."""
    def install(text: str = "new", failure: str | None = None) -> None:
        def execute(path: Path, values: object, *_: object) -> tuple[nbformat.NotebookNode, str | None]:
            executed = cells.read_notebook(path)
            executed.metadata.papermill = {"parameters": values}
            for _number, cell in cells.code_cells(executed):
                cell.outputs = [nbformat.v4.new_output("stream", text=text)]
                cell.metadata.papermill = {"start_time": "now"}
            return executed, failure

        monkeypatch.setattr(run, "_execute", execute)

    return install


# Outputs


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("in_place", [True, False])
def test_a_full_disk_leaves_the_notebook_and_the_earlier_output(
    tmp_path: Path, stub: Callable[..., None], monkeypatch: pytest.MonkeyPatch, call: str, in_place: bool
) -> None:
    stub()
    path = save(tmp_path / "book.ipynb", "print(n)")
    output = path if in_place else save(tmp_path / "out.ipynb", "print(2 * n)")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(NotebookError, match="cannot be written: No space left on device: free space or"):
        run_notebook(path, output, progress=False)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_notebook_is_not_replaced_by_its_failed_execution(tmp_path: Path, stub: Callable[..., None]) -> None:
    path = save(tmp_path / "book.ipynb", "print(n)")
    link = tmp_path / "link.ipynb"
    link.symlink_to(path)
    before = path.read_bytes()
    stub("half", "ValueError: no")
    with pytest.raises(NotebookError, match=r"executed so far: .*link\.failed\.ipynb"):
        run_notebook(path, link, progress=False)
    assert path.read_bytes() == before
    assert "half" in (tmp_path / "link.failed.ipynb").read_text()
    stub("whole")
    run_notebook(path, link, progress=False)
    assert "whole" in path.read_text()
    assert link.is_symlink()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["book.ipynb", "link.ipynb"]


def test_two_runs_do_not_write_one_output(tmp_path: Path, stub: Callable[..., None]) -> None:
    stub()
    path, output = save(tmp_path / "book.ipynb", "print(n)"), tmp_path / "out.ipynb"
    with FileLock(tmp_path / ".out.ipynb.lock"), pytest.raises(NotebookError, match="being written by another run"):
        run_notebook(path, output, progress=False)
    assert not output.exists()
    run_notebook(path, output, progress=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["book.ipynb", "out.ipynb"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_no_reason_to_stop(
    tmp_path: Path, stub: Callable[..., None], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    stub()

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    run_notebook(save(tmp_path / "book.ipynb", "print(n)"), tmp_path / "out.ipynb", progress=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["book.ipynb", "out.ipynb"]


@pytest.mark.parametrize("letter", ["a", "é", "𝟛"])
def test_the_longest_name_of_a_file_works(tmp_path: Path, stub: Callable[..., None], letter: str) -> None:
    stub()
    path, ending = save(tmp_path / "book.ipynb", "print(n)"), ".ipynb"
    name = letter * ((255 - len(ending)) // len(letter.encode())) + ending
    for output in (tmp_path / name, tmp_path / f"b{name[1:]}"):
        run_notebook(path, output, progress=False)
        run_notebook(path, output, progress=False)
    with pytest.raises(NotebookError, match="cannot be written: File name too long: choose another place"):
        run_notebook(path, tmp_path / f"aaaa{name}", progress=False)
    assert len(list(tmp_path.iterdir())) == 3


def test_text_without_utf8_is_written(tmp_path: Path) -> None:
    cells.write_text(tmp_path / "out.ipynb", '{"a": "\udcff"}')
    assert (tmp_path / "out.ipynb").read_bytes() == b'{"a": "\\udcff"}'


def test_a_missing_notebook_or_folder_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotebookError) as caught:
        run_notebook("gone.ipynb", "out.ipynb")
    assert f"gone.ipynb ({tmp_path / 'gone.ipynb'}) does not exist" in str(caught.value)
    save(tmp_path / "book.ipynb", "print(n)")
    with pytest.raises(NotebookError) as caught:
        run_notebook("book.ipynb", "out.ipynb", cwd="gone")
    assert f"gone ({tmp_path / 'gone'}) is not a folder" in str(caught.value)
    assert not Path("out.ipynb").exists()


def test_a_long_line_of_an_exception_is_cut() -> None:
    assert cells.first_line("a" * 300) == "a" * 300
    assert cells.first_line("a" * 10**6 + "\nb") == "a" * 300 + "…"


# The kernel


def test_the_kernel_is_this_interpreter_and_works_where_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = tmp_path / "jupyter" / "kernels" / "python3"
    specs.mkdir(parents=True)
    (specs / "kernel.json").write_text("{")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    (tmp_path / "books").mkdir()
    (tmp_path / "work").mkdir()
    path = save(
        tmp_path / "books" / "book.ipynb",
        "import os, sys\nfrom ternary_lab import notebooks\nnotebooks.validate('book.ipynb', globals())",
        "print(sys.executable, os.getcwd(), limit, options, '\\udcff')",
        contract="limit = None  # rows\noptions = {}  # as {colour: red}",
    )
    monkeypatch.chdir(tmp_path)
    values = {"limit": 5, "options": {"a": [1, None]}}
    run_notebook(path, tmp_path / "out.ipynb", values, cwd="work", progress=False)
    shown = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[-1].outputs[0].text
    assert shown.split(" ", 2)[:2] == [sys.executable, str(tmp_path / "work")]
    assert shown.split(" ", 2)[2].startswith("5 {'a': [1, None]} ")


def test_a_notebook_validates_itself_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "book.ipynb", "print(n)")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("JPY_SESSION_NAME", str(path))
    with pytest.raises(NotebookError, match="`n` takes a value"):
        validate("book.ipynb", {"n": 10})


LOUD = [
    "from ternary_lab.notebooks import validate\nprint(n)",
    "print('x' * 5000)\nprint('y')",
    "from IPython.display import clear_output, display\nfor _ in range(9):\n    print('z' * 900)\n    clear_output()",
    "display('w' * 5000)",
    "for i in range(50): display(i)",
    "raise ValueError('v' * 5000)",
]


def test_a_cell_that_shows_too_much_is_cut_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ternary_lab.notebooks import kernel

    monkeypatch.setattr(kernel, "LIMIT", 2000)
    path, output = save(tmp_path / "book.ipynb", *LOUD), tmp_path / "out.ipynb"
    with pytest.raises(NotebookError, match="code cell 7: ValueError: v") as caught:
        run_notebook(path, output, progress=False)
    assert len(str(caught.value)) < 1000
    assert output.stat().st_size < 20_000
    executed = nbformat.read(output, as_version=4)
    notes = list(run.cut_outputs(executed))
    assert [note.split(": output cut: ")[0] for note in notes] == ["code cell 3", "code cell 5", "code cell 6"]
    assert notes[0].endswith("characters, of which 2,000 may be kept: show less")
    printed = executed.cells[4].outputs
    assert printed[0].text == "x" * 2000
    assert executed.cells[5].outputs == []
    assert capsys.readouterr() == ("", "")


def test_an_interruption_while_the_kernel_starts_leaves_no_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ternary_lab.notebooks.kernel import Client

    started: list[int] = []

    def interrupted(self: Client) -> None:
        started.append(self.km.provisioner.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "start_new_kernel_client", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_notebook(save(tmp_path / "book.ipynb", "print(n)"), tmp_path / "out.ipynb", progress=False)
    assert not _runs(*started)
    assert [file.name for file in tmp_path.iterdir()] == ["book.ipynb"]


def test_a_kernel_that_dies_leaves_no_process(tmp_path: Path) -> None:
    mark = tmp_path / "child.txt"
    cell = (
        f"import os, subprocess, sys\nchild = subprocess.Popen(['sleep', '99'])\n"
        f"open({str(mark)!r}, 'w').write(str(child.pid * n))\nos._exit(3)"
    )
    with pytest.raises(NotebookError, match="code cell 2: the kernel died"):
        run_notebook(save(tmp_path / "book.ipynb", cell), tmp_path / "out.ipynb", progress=False)
    deadline = time.monotonic() + 10
    while _runs(int(mark.read_text())):
        assert time.monotonic() < deadline, "the child is alive"
        time.sleep(0.05)


def _runs(number: int) -> bool:
    """Return whether a process exists and is not a zombie that waits for its parent."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_endless_loop_ends_at_the_time_limit(tmp_path: Path) -> None:
    path, output = save(tmp_path / "book.ipynb", "print(n)", "while True: pass", "print(2)"), tmp_path / "out.ipynb"
    with pytest.raises(NotebookError, match="code cell 3: not finished after 1 s: look for an endless loop") as caught:
        run_notebook(path, output, progress=False, timeout=1)
    assert "--timeout" in str(caught.value)
    executed = nbformat.read(output, as_version=4)
    assert executed.cells[2].outputs[0].text == "1\n"
    assert not asyncio.all_tasks(ensure_event_loop())  # none waits for the kernel that is gone


def _run_until_stopped(path: Path, output: Path) -> None:
    def stop(*_: object) -> None:
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, stop)
    run_notebook(path, output, progress=False)


def test_a_stopped_runner_leaves_no_kernel_and_no_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mark = tmp_path / "kernel.txt"
    cell = (
        "import os, time, sys\nprint(n)\n"
        f"open({str(mark)!r}, 'w').write(f'{{os.getpid()}} {{sys.argv[sys.argv.index(\"-f\") + 1]}}')\ntime.sleep(99)"
    )
    path, output = save(tmp_path / "book.ipynb", cell), save(tmp_path / "out.ipynb", "print(n)")
    before = output.read_bytes()
    runner = multiprocessing.get_context("spawn").Process(target=_run_until_stopped, args=(path, output))
    runner.start()
    deadline = time.monotonic() + 60
    while not mark.exists() or not mark.read_text():
        assert time.monotonic() < deadline, "no kernel has started"
        time.sleep(0.05)
    assert runner.pid is not None
    os.kill(runner.pid, signal.SIGTERM)
    runner.join(30)
    assert runner.exitcode == 143
    number, connection = mark.read_text().split(" ", 1)
    assert not Path(connection).exists()
    assert not _runs(int(number))
    assert output.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["book.ipynb", "kernel.txt", "out.ipynb"]
    assert capfd.readouterr().err == ""


# Starts


@pytest.fixture
def taken_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Let Jupyter choose a port that another process has taken, as long as the list is not empty."""
    real = LocalPortCache.find_available_port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [taken.getsockname()[1]]
        monkeypatch.setattr(LocalPortCache, "find_available_port", lambda *call: ports.pop() if ports else real(*call))
        yield ports


def test_a_kernel_whose_port_was_taken_is_started_again(tmp_path: Path, taken_port: list[int]) -> None:
    output = tmp_path / "out.ipynb"
    run_notebook(save(tmp_path / "book.ipynb", "print(n)"), output, progress=False)
    assert taken_port == []
    assert nbformat.read(output, as_version=4).cells[2].outputs[0].text == "1\n"


def test_kernels_that_all_die_at_their_start_are_one_error(
    tmp_path: Path, taken_port: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    port = taken_port[0]
    taken_port[:] = [port] * 100
    with pytest.raises(NotebookError, match=r"book\.ipynb: no kernel started in .*: Kernel died"):
        run_notebook(save(tmp_path / "book.ipynb", "print(n)"), tmp_path / "out.ipynb", progress=False)
    assert len(taken_port) == 100 - kernel.STARTS * 5
    assert capfd.readouterr().err.count("a kernel died at its start: another one is started") == kernel.STARTS - 1


def test_nbval_starts_a_kernel_again_too(taken_port: list[int]) -> None:
    running = RunningKernel(CURRENT_ENV_KERNEL_NAME)
    running.stop()
    assert taken_port == []

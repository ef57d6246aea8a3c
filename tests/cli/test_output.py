"""No failure of stdout or stderr stops the work of a command, and the exit status tells what became of the result.

Every command prints into a pipe whose reader has ended, into a full disk, into closed streams and in other encodings.
Its files must be those of the same command with working streams.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pytest
from small import SMALL, write_book

import ternary_lab
from ternary_lab import run_experiment
from ternary_lab.backend.console import SteadyStream, bar, say
from ternary_lab.cli import main
from ternary_lab.metrics import evaluate

pytestmark = pytest.mark.usefixtures("one_thread")
EPOCH_60 = Path(__file__).parents[1] / "data" / "epoch_60.pt"
SWEEP = """
base: small.yaml
design: {kind: grid, keys: {kl.free_bits: {values: [0.1, 0.5]}}}
seeds: [1]
budget: {runs: 10}
"""
BRANCH = "title: β changes\nafter: 0\nset: {kl.free_bits: 0.1}\n"
COMMANDS = {
    "train": "small.yaml --device cpu --seeds 1 2",
    "branch": "a branch.yaml --device cpu",
    "sweep": "sweep.yaml --device cpu",
    "recipes": "beyond --seeds 1",
    "alternatives": "--seeds 1",
    "list": "configs",
    "explore": "a/seed=1 --no-prior",
    "evaluate": "a/seed=1 --latents 64 --samples 100",
    "score": "ternary_lab.metrics.baselines:uniform_draws --draws 1000",
    "compare": "a/seed=1 a/seed=1",
    "probe": "a",
    "claims": "v5_5",
    "run": "book.ipynb",
    "check-notebooks": "book.ipynb",
    "verify": "a",
    "import-v55": f"{EPOCH_60} out.safetensors",
    "reproduce": "--quick",
}
"""Words of a small call of each command."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A folder with everything that the calls need."""
    root = tmp_path_factory.mktemp("work")
    run_experiment(SMALL, [1], root / "a", device="cpu")
    (root / "small.yaml").write_text(SMALL.as_yaml())
    (root / "sweep.yaml").write_text(SWEEP)
    (root / "branch.yaml").write_text(BRANCH, encoding="utf-8")
    write_book(root)
    return root


@pytest.fixture(autouse=True)
def _shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    """The long computations are replaced by short ones, which show progress in the same way."""
    def counted(*_: object, **__: object) -> Iterator[str]:
        for number in bar(range(3), desc="β", unit="step", show=True):
            say(f"ρ = {number}")
            Path(f"file_{number}").write_text("done")
            yield f"file_{number}: β and ρ"

    def table(*_: object, **__: object) -> pd.DataFrame:
        Path("runs/alternatives").mkdir(parents=True)
        return pd.DataFrame({"model": [*counted()]})

    monkeypatch.setattr(evaluate, "evaluate", lambda *a, **k: _EVALUATE(*a, **k | {"progress": True}, iwae_samples=1))
    monkeypatch.setattr("ternary_lab.studies.probes.probe", lambda *_: {"own_A": 1.0})
    monkeypatch.setattr("ternary_lab.studies.report.judge_runs", lambda *_, **__: [*counted()][:0])
    monkeypatch.setattr("ternary_lab.studies.beyond_v55.tables.write_recipes", lambda *_, **__: [*counted()][-1])
    monkeypatch.setattr("ternary_lab.studies.beyond_v55.alternatives.benchmark", table)
    monkeypatch.setattr("ternary_lab.notebooks.run_notebook", lambda *_, **__: [*counted()][-1])
    monkeypatch.setattr("ternary_lab.cli.reproduce.reproduce", counted)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # nbval imports it, which silences progress


_EVALUATE = evaluate.evaluate


def _broken_pipe() -> IO[str]:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", encoding="utf-8")


def _full() -> IO[str]:
    return open("/dev/full", "w", encoding="utf-8")


def _closed() -> IO[str]:
    stream = io.StringIO()
    stream.close()
    return stream


def _text(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding, line_buffering=True)


def _call(words: list[str], out: Any, err: Any, monkeypatch: pytest.MonkeyPatch) -> object:
    """Call the command line with these two streams, and return the exit status."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as end:
            main(words, prog_name="ternary-lab")
    for stream in {out, err} - {None}:
        if not isinstance(getattr(stream, "buffer", None), io.BytesIO):
            stream.close()  # what a broken stream still held has been discarded, so this does not fail
    return end.value.code


def _said(stream: io.TextIOWrapper) -> str:
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode(stream.encoding)


def _files() -> set[Path]:
    return set(Path.cwd().rglob("*"))


def test_every_command_is_called() -> None:
    assert COMMANDS.keys() == main.commands.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_no_stream_stops_the_work(
    command: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_a_copy(name: str, out: Any, err: Any) -> tuple[object, set[Path]]:
        place = shutil.copytree(folder, tmp_path / name)
        monkeypatch.chdir(place)
        before = _files()
        status = _call([command, *COMMANDS[command].split()], out, err, monkeypatch)
        return status, {path.relative_to(place) for path in _files() - before}

    out, err = _text("utf-8"), _text("utf-8")
    status, made = in_a_copy("working", out, err)
    assert status in (0, 1), _said(err)  # 1: check-notebooks finds something
    result = _said(out)
    assert result

    assert in_a_copy("pipes", _broken_pipe(), _broken_pipe()) == (status or 141, made)
    assert in_a_copy("full", _full(), _closed()) == (status or 2, made)
    foreign = _text("cp1252")
    assert in_a_copy("foreign", foreign, None) == (status, made)
    assert _said(foreign) == result.encode("cp1252", "backslashreplace").decode("cp1252")


@pytest.mark.parametrize("words", [["--help"], *([command, "--help"] for command in COMMANDS)], ids=" ".join)
def test_help_is_printed_in_every_encoding(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cp1252", "latin-1", "ascii", "utf-8"):
        out = _text(name)
        assert _call(words, out, _text(name), monkeypatch) == 0
        assert "Usage: " in _said(out)
    assert _call(words, _broken_pipe(), None, monkeypatch) == 141


def test_a_result_that_cannot_be_written_is_told_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    err = _text("utf-8")
    assert _call(["list", "runs"], _full(), err, monkeypatch) == 2
    (line,) = _said(err).splitlines()
    assert line.startswith("error: standard output cannot be written: No space left on device: free space")


def test_the_status_of_an_error_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (_broken_pipe, _full, _closed, lambda: None):
        assert _call(["evaluate", "missing"], stream(), stream(), monkeypatch) == 2
        assert _call(["nothing"], stream(), stream(), monkeypatch) == 2


@pytest.mark.parametrize(("error", "said"), [
    (OSError(errno.EROFS, "Read-only file system", "reports"), "reports: Read-only file system: choose another"),
    (OSError(errno.ENOSPC, "No space left on device"), "a file: No space left on device: free space"),
    (OSError(errno.EMFILE, "Too many open files"), "a file: Too many open files: raise the limit"),
])
def test_an_error_of_the_system_is_one_line_with_its_remedy(
    error: OSError, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("ternary_lab.notebooks.run_notebook", fails)
    monkeypatch.setattr("ternary_lab.notebooks.parse_parameters", lambda *_: {})
    err = _text("utf-8")
    assert _call(["run", "book.ipynb"], _text("utf-8"), err, monkeypatch) == 2
    assert _said(err).startswith(f"error: {said}")
    assert len(_said(err).splitlines()) == 1


@pytest.mark.parametrize("make", [_broken_pipe, _full, _closed, lambda: None, lambda: _text("ascii")])
def test_progress_of_the_library_survives_too(
    make: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        patch.delitem(sys.modules, "ipykernel", raising=False)
        for terminal in (False, True):
            patch.setattr("ternary_lab.runs.progress.on_terminal", lambda terminal=terminal: terminal)
            runs = run_experiment(SMALL, [1], tmp_path / str(terminal), device="cpu", progress=True)
            assert len(runs[1].history) == 3
        say("β")
    with contextlib.suppress(OSError, AttributeError):  # a broken stream still holds lines, and None has no `close`
        stream.close()


def test_a_stream_that_works_gets_everything() -> None:
    below = _text("utf-8")
    steady = SteadyStream(below)
    print("β", "ρ", file=steady, flush=True)
    assert _said(below) == "β ρ\n"
    assert (steady.error, steady.encoding, steady.isatty()) == (None, "utf-8", False)


SCRIPT = """
import os, sys
from ternary_lab.backend.console import steady_output
with steady_output():
    sys.stderr.write("half a line")
    with open("history.csv", "w") as file:
        file.write(" ".join(os.readlink(f"/proc/self/fd/{number}") for number in range(3)))
        try:
            os.write(2, b"a line of another library")
        except OSError:
            pass
    print("result")
    sys.exit(0)
"""


@pytest.mark.parametrize(("redirection", "status"), [
    ("", 0), ("2>&1 | true; exit ${PIPESTATUS[0]}", 141), ("2>/dev/full", 0), (">/dev/full 2>/dev/full", 2), (">&-", 0),
    ("2>&-", 0), ("<&- >&- 2>&-", 0), ("2>&1 >/dev/null | true; exit ${PIPESTATUS[0]}", 0),
])
def test_the_status_holds_to_the_end_of_the_process(redirection: str, status: int, tmp_path: Path) -> None:
    """At its very end Python writes what the streams still hold. Then a failure would change the exit status."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = f"{{ sleep 0.05; {sys.executable} script.py; }} {redirection}"  # by then `true` has ended
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=buffered, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (status, False)
    streams = (tmp_path / "history.csv").read_text()  # what others write to stderr is not in it
    assert (len(streams.split()), "history.csv" in streams) == (3, False)


def test_only_the_console_writes_to_stderr() -> None:
    """Library code says lines by `say` and counts by `bar`. Commands print results by `click.echo`."""
    root = Path(ternary_lab.__file__).parent
    writing = re.compile(r"(?<!`)\bprint\(|import tqdm|sys\.std(?:out|err)")
    writers = {file.relative_to(root).as_posix() for file in root.rglob("*.py") if writing.search(file.read_text())}
    assert writers == {"backend/console.py"}

"""Ctrl-C, SIGTERM and SIGHUP end a command alike: the epoch is kept, no kernel is left, the status is 128 + n."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from click.testing import CliRunner, Result
from small import SMALL

from ternary_lab import load_run, run_experiment
from ternary_lab.cli import main
from ternary_lab.runs.epoch_files import RunFiles
from ternary_lab.runs.interrupt import Terminated, interrupt_after_epoch, kept_handlers, termination_as_interrupt
from ternary_lab.runs.verify import verify

pytestmark = pytest.mark.usefixtures("one_thread")
SWEEP = """
base: small.yaml
design: {kind: grid, keys: {kl.free_bits: {values: [0.1, 0.5]}}}
seeds: [1]
budget: {runs: 10}
cohort: 1
"""
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working directory with small.yaml. Afterwards, every handler of a signal is as it was before."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL.as_yaml())
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # nbval imports it, which silences progress
    before = {number: signal.getsignal(number) for number in STATUS}
    yield
    assert {number: signal.getsignal(number) for number in STATUS} == before


def _call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def _in_epoch_0(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Call `action` once, when the first epoch of the first run is written. A second signal would stop at once."""
    real, called = RunFiles.commit, list[bool]()

    def commit(self: RunFiles, row: Any, *rest: Any) -> None:
        if row.epoch == 0 and not called:
            called.append(True)
            action()
        real(self, row, *rest)

    monkeypatch.setattr(RunFiles, "commit", commit)


@pytest.mark.parametrize(("command", "number"), [
    *(("train", number) for number in STATUS), ("sweep", signal.SIGTERM), ("reproduce", signal.SIGTERM),
])
def test_a_signal_lets_the_epoch_end_and_the_same_command_goes_on(
    command: str, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {
        "train": ["train", "small.yaml", "--device", "cpu"],
        "sweep": ["sweep", "sweep.yaml", "--device", "cpu"],
        "reproduce": ["reproduce", "--quick", "--device", "cpu"],
    }[command]
    monkeypatch.setattr("ternary_lab.cli.reproduce.load_config", lambda _: SMALL)
    with monkeypatch.context() as patch:
        _in_epoch_0(patch, lambda: os.kill(os.getpid(), number))
        stopped = _call(*words)
    assert stopped.exit_code == STATUS[number], stopped.output
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    assert f"\nstopping after this epoch; a second {name} stops at once\n" in stopped.stderr
    assert stopped.stderr.endswith(": the last finished epoch is saved; the same command goes on from there\n")
    for path in Path("runs").rglob("config.yaml"):
        run = load_run(path.parent)
        assert len(run.history) in (1, 2)  # the next epoch may have begun
        assert verify(run).sound
    if command != "reproduce":  # it would execute notebooks
        assert _call(*words).exit_code == 0
        assert {len(load_run(path.parent).history) for path in Path("runs").rglob("config.yaml")} == {3}


@pytest.mark.parametrize("number", STATUS, ids=lambda number: number.name)
def test_the_first_signal_waits_and_a_second_one_stops_at_once(number: signal.Signals) -> None:
    reached = []

    def epoch() -> None:
        with termination_as_interrupt(), interrupt_after_epoch():
            os.kill(os.getpid(), number)
            reached.append("the rest of the epoch")
            os.kill(os.getpid(), number)
            reached.append("more")

    with pytest.raises(KeyboardInterrupt) as stop:
        epoch()
    assert reached == ["the rest of the epoch"]
    assert isinstance(stop.value, Terminated) == (number != signal.SIGINT)


def test_a_signal_leaves_no_kernel() -> None:
    cells = [
        nbformat.v4.new_code_cell("wait = 600", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "import os, signal, time\n"
            "open('kernel', 'w').write(str(os.getpid()))\n"
            "os.kill(os.getppid(), signal.SIGTERM)\n"
            "time.sleep(wait)"
        ),
    ]
    kernel = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), "book.ipynb")
    stopped = _call("run", "book.ipynb", "--each", "wait=600,601")
    assert stopped.exit_code == 143, stopped.output
    assert stopped.stderr.splitlines()[-1].startswith("stopped by SIGTERM: ")
    assert "epoch" not in stopped.stderr
    number = int(Path("kernel").read_text())
    deadline = time.monotonic() + 30
    while Path(f"/proc/{number}").exists() and "\nState:\tZ" not in Path(f"/proc/{number}/status").read_text():
        assert time.monotonic() < deadline, "the kernel outlives the command"
        time.sleep(0.05)


def test_commands_without_epochs_promise_none(monkeypatch: pytest.MonkeyPatch) -> None:
    run_experiment(SMALL, [1], "a", device="cpu")
    for target, words in (
        ("ternary_lab.metrics.evaluate.evaluate", ["evaluate", "a/seed=1"]),
        ("ternary_lab.studies.probes.probe", ["probe", "a"]),
        ("ternary_lab.runs.verify.verify", ["verify", "a"]),
        ("ternary_lab.studies.report.judge_runs", ["claims", "a"]),
    ):
        for number, status in STATUS.items():
            with monkeypatch.context() as patch:
                patch.setattr(target, lambda *_, number=number, **__: os.kill(os.getpid(), number))
                stopped = _call(*words)
            assert stopped.exit_code == status
            assert stopped.stderr.endswith(": the same command starts again\n")


def test_a_signal_that_the_caller_handles_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`nohup` lets SIGHUP be ignored, and a program may use SIGTERM for its own ends."""
    received: list[int] = []
    before = [signal.signal(signal.SIGHUP, signal.SIG_IGN)]
    before.append(signal.signal(signal.SIGTERM, lambda number, _: received.append(number)))
    try:
        _in_epoch_0(monkeypatch, lambda: [os.kill(os.getpid(), n) for n in (signal.SIGHUP, signal.SIGTERM)])
        assert _call("train", "small.yaml", "--device", "cpu").exit_code == 0
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGTERM, before[1])
    assert received == [signal.SIGTERM]


def test_the_library_alone_sets_no_handler_of_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    _in_epoch_0(monkeypatch, lambda: seen.append(signal.getsignal(signal.SIGTERM)))
    run_experiment(SMALL, [1], "a", device="cpu")
    assert seen == [signal.SIG_DFL]


def test_ray_cannot_take_the_signal() -> None:
    """`ray.init` sets a handler that ends the process without a word."""
    def start(signal_arrives: bool) -> None:
        with termination_as_interrupt():
            ours = signal.getsignal(signal.SIGTERM)
            with kept_handlers():
                signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
                if signal_arrives:
                    os.kill(os.getpid(), signal.SIGTERM)
                    time.sleep(1)
            assert signal.getsignal(signal.SIGTERM) is ours

    start(False)
    with pytest.raises(Terminated, match="SIGTERM"):
        start(True)


def test_the_signal_is_known_although_ray_raises_another_exception() -> None:
    def wait() -> None:
        with termination_as_interrupt():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)
            except Terminated:
                raise KeyboardInterrupt from None

    with pytest.raises(Terminated, match="SIGTERM"):
        wait()

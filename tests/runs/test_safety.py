"""Tests of the safety of runs on disk: kills, flipped bytes, two processes, divergence, Ctrl-C, full disks."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import SMALL

from ternary_lab import NotebookError, RunError, load_config, load_run, load_runs, run_experiment, train
from ternary_lab.config import Config
from ternary_lab.errors import DivergenceError, TernaryLabError
from ternary_lab.history import TIMING_COLUMNS
from ternary_lab.notebooks import run_notebook
from ternary_lab.runs import checkpoint as checkpoints
from ternary_lab.runs.checksums import (
    check_csv,
    check_text,
    checkpoint_checksum,
    csv_with_checksums,
    text_with_checksum,
)
from ternary_lab.runs.directory import RunPlan
from ternary_lab.runs.load import read_table, read_text
from ternary_lab.runs.locks import LOCK
from ternary_lab.runs.train import train_runs
from ternary_lab.runs.verify import verify
from ternary_lab.studies.probes import write_probes

LONG = load_config(SMALL.as_dict(), {
    "early_stopping.patience": 0, "training.total_epochs": 40, "checkpoints.every": 10, "name": "long",
})
SEEDS = (1, 2, 3)


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Limit torch to one thread, because more threads slow small computations down."""


def results(root: Path) -> dict[str, Any]:
    """Return the results of runs: the rows of the histories without times, and the bytes of the newest checkpoints."""
    found: dict[str, Any] = {}
    for seed, run in load_runs(root).items():
        found[f"{seed} rows"] = run.history.drop(columns=list(TIMING_COLUMNS)).to_csv()
        found[f"{seed} weights"] = (run.path / "checkpoints" / "latest.safetensors").read_bytes()
    return found


# Kill anywhere


def _train(root: str, seeds: tuple[int, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    run_experiment(LONG, seeds, root, device="cpu")


@pytest.fixture(scope="module")
def processes() -> Any:
    """Return a context for processes in which the library is already imported.

    A kill then hits the training and not the imports.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ternary_lab.runs.train", "ternary_lab.training"])
    return context


@pytest.mark.parametrize("seeds", [SEEDS[:1], SEEDS], ids=["one run", "a cohort"])
@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_instants_ends_with_the_same_bits(
    processes: Any, kills: int, seeds: tuple[int, ...], tmp_path: Path
) -> None:
    run_experiment(LONG, seeds, tmp_path / "whole", device="cpu")
    expected = results(tmp_path / "whole")
    chance, done, killed = random.Random(kills + len(seeds)), 0, 0
    root = tmp_path / "0"
    while killed < kills:
        process = processes.Process(target=_train, args=(str(root), seeds))
        process.start()
        process.join(chance.uniform(0.05, 1.2))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            killed += 1
        else:  # the training has finished, so another one begins
            assert process.exitcode == 0
            assert results(root) == expected
            done += 1
            root = tmp_path / str(done)
    _train(str(root), seeds)
    assert results(root) == expected
    for path in root.rglob("*"):
        assert not path.name.endswith(".tmp"), path
    assert all(verify(run).sound for run in load_runs(root).values())


def test_a_notebook_whose_kernel_is_killed_resumes_when_it_is_run_again(tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text(LONG.as_yaml())
    source = textwrap.dedent("""
        import os, signal, threading
        from ternary_lab import load_config, run_experiment
        def die():
            os.kill(os.getpid(), signal.SIGKILL)
        def wanted():
            marks = {"begun"} if os.path.exists("runs/seed=1/checkpoints/latest.safetensors") else set()
            return marks and die() if kill else False
        runs = run_experiment(load_config("long.yaml"), [1], "runs", device="cpu", stop=wanted)
        print(len(runs[1].history))
    """)
    notebook = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell("kill = True  # die after an epoch", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(source),
    ])
    nbformat.write(notebook, tmp_path / "dies.ipynb")
    with pytest.raises(NotebookError, match="kernel died"):
        run_notebook(tmp_path / "dies.ipynb", tmp_path / "out.ipynb", progress=False)
    assert 0 < len(load_run(tmp_path / "runs" / "seed=1").history) < 40
    run_notebook(tmp_path / "dies.ipynb", tmp_path / "out.ipynb", {"kill": False}, progress=False)
    run_experiment(LONG, [1], tmp_path / "whole", device="cpu")
    assert results(tmp_path / "runs") == results(tmp_path / "whole")


# Damaged files


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """Train a cohort to its end and return its directory, which has every kind of file."""
    root = tmp_path_factory.mktemp("written")
    runs = run_experiment(SMALL, [1, 2], root, device="cpu")
    write_probes(runs[1])
    return root


def contents(path: Path) -> Any:
    """Return the content of a run's file, as the library reads it. Raises TernaryLabError for a damaged file."""
    if path.suffix == ".safetensors":
        point = checkpoints.load(path)
        assert point.state is not None
        blocks = {"weights": point.blocks, "m": point.state.first_moments, "v": point.state.second_moments}
        tensors = {f"{kind}.{name}": value for kind, b in blocks.items() for name, value in vars(b).items()}
        rest = [point.epoch, point.seed, point.rho, point.cohort, point.config.as_yaml(), repr(point.state.controllers),
                repr(point.state.best), point.state.stopped, point.state.steps]
        return checkpoint_checksum(tensors, {"rest": repr(rest)})
    if path.name == "config.yaml":
        return load_run(path.parent).config.as_yaml()
    if path.name == "provenance.json":
        return {key: value for key, value in load_run(path.parent).provenance.items() if key in KNOWN}
    if path.name == "log.jsonl":
        problems = verify(load_run(path.parent)).files[path.name]
        if problems:
            raise RunError(problems)
        members = ("event", "next_epoch", "device", "epoch", "reason")
        events = [json.loads(line) for line in read_text(path).splitlines()]
        return [[event.get(name) for name in members] for event in events]
    return read_table(path).to_csv()


KNOWN = ("seed", "devices", "dtype", "threads", "source_sha256", "versions", "wall_seconds", "stopped")


@pytest.mark.parametrize("many", [20, pytest.param(220, marks=pytest.mark.slow)])
def test_a_flipped_byte_is_harmless_or_reported(many: int, written: Path, tmp_path: Path) -> None:
    """The test flips every byte of each small file.

    In a large file, it flips the first 40 bytes, the last 40 bytes and `many` random bytes.
    """
    shutil.copytree(written / "seed=1", tmp_path / "seed=1")
    chance, noticed, harmless = random.Random(0), 0, 0
    files = sorted(path for path in (tmp_path / "seed=1").rglob("*") if path.is_file() and path.name != LOCK)
    assert {path.suffix for path in files} == {".safetensors", ".yaml", ".json", ".jsonl", ".csv"}
    for path in files:
        original = path.read_bytes()
        before = contents(path)
        size = len(original)
        some = {*range(40), *range(size - 40, size), *chance.sample(range(size), many)}
        offsets = range(size) if size < 80 + many else sorted(some)
        for at in offsets:
            data = bytearray(original)
            data[at] ^= chance.randrange(1, 256)
            path.write_bytes(data)
            try:
                after = contents(path)
            except TernaryLabError as error:
                assert path.name in str(error)  # noqa: PT017
                noticed += 1
            else:
                assert after == before, f"byte {at} of {path.name} changed the content unnoticed"
                harmless += 1
        path.write_bytes(original)
    print(f"{noticed} flipped bytes noticed, {harmless} harmless")
    assert noticed > 20 * harmless


@pytest.mark.parametrize("names", [("latest",), ("latest", "previous"), ("latest", "previous", "epoch_0002")])
@pytest.mark.parametrize("seeds", [(1,), (1, 2)], ids=["one run", "a cohort"])
def test_a_damaged_checkpoint_is_reported_and_an_earlier_one_used(
    names: tuple[str, ...], seeds: tuple[int, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_experiment(SMALL, seeds, tmp_path, device="cpu")
    expected = results(tmp_path)
    files = [tmp_path / "seed=1" / "checkpoints" / f"{name}.safetensors" for name in names]
    for path in {path.stat().st_ino: path for path in files}.values():  # several names may belong to one file
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    run_experiment(SMALL, seeds, tmp_path, device="cpu")
    assert results(tmp_path) == expected
    for name in names[:1]:
        assert f"{name}.safetensors: damaged" in caplog.text
    assert all(verify(run).sound for run in load_runs(tmp_path).values())


BREAKS = "\r\n,\"\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
TEXT = st.text(st.characters(codec="utf-8", exclude_characters=BREAKS), max_size=20)


@given(st.lists(TEXT, min_size=1, max_size=6), st.data())
def test_readers_remove_checksums_and_find_a_changed_character(lines: list[str], data: st.DataObject) -> None:
    text = "".join(f"{line}\n" for line in lines)
    assert check_text(text_with_checksum(text), Path("x")) == text
    table = "a,b\n" + "".join(f"{i},{line}\n" for i, line in enumerate(lines))
    written = csv_with_checksums(table)
    assert check_csv(written, Path("x")) == table
    at = data.draw(st.integers(len("a,b,crc32\n"), len(written) - 2))
    changed = written[:at] + ("x" if written[at] != "x" else "y") + written[at + 1:]
    with pytest.raises(RunError, match="damaged"):
        check_csv(changed, Path("x"))


def test_verify_finds_a_forged_history_with_valid_checksums(written: Path, tmp_path: Path) -> None:
    """The checksums are right, but a metric in the history is not the metric of the weights."""
    run = tmp_path / "seed=1"
    shutil.copytree(written / "seed=1", run)
    assert verify(load_run(run)).sound
    assert verify(load_run(run)).largest_difference == 0
    path = run / "history.csv"
    table = read_table(path)
    table.loc[table.index[-1], "info_coverage_B"] += 5
    path.write_text(csv_with_checksums(table.to_csv(index=False, lineterminator="\n")))
    found = verify(load_run(run))
    assert found.differing == ["informative_coverage_B"]
    assert "informative_coverage_B" in found.describe()
    (run / "notes.exe").write_bytes(b"MZ")
    assert "none of the files" in verify(load_run(run)).files["notes.exe"]


# Two processes


HOLD = "import sys, time; from pathlib import Path; from ternary_lab.runs.locks import locked\n" \
    "with locked(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"


def test_a_second_process_is_refused_until_the_first_has_died(tmp_path: Path) -> None:
    run = tmp_path / "seed=1"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        us = rf"seed=1: is being trained by process {holder.pid} on {os.uname().nodename} "
        with pytest.raises(RunError, match=us):
            run_experiment(SMALL, [2, 1], tmp_path, device="cpu")
        assert not (run / "config.yaml").exists()
        holder.send_signal(signal.SIGKILL)
    assert (run / ".owner.json").exists()  # the process had no time to clean up
    runs = run_experiment(SMALL, [2, 1], tmp_path, device="cpu")
    assert all(run.stopped for run in runs.values())
    assert not (run / ".owner.json").exists()


def test_a_directory_with_other_files_is_left_unchanged(tmp_path: Path) -> None:
    (tmp_path / "seed=1").mkdir()
    (tmp_path / "seed=1" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="not empty and not a run directory"):
        run_experiment(SMALL, [1], tmp_path, device="cpu")
    assert [path.name for path in (tmp_path / "seed=1").iterdir()] == ["thesis.tex"]


# Divergence


def wild(first: int) -> Config:
    """Return a configuration whose training is finite before epoch `first`.

    In this epoch, the steps become so large that the next forward pass overflows.
    """
    steps = {0: 1e-3, first: 1e6} if first else {0: 1e6}
    return load_config(SMALL.as_dict(), {"optimiser.lr_steps": steps, "statenet.lr_high": 1e6})


@pytest.mark.parametrize("first", [0, 2])
def test_a_run_that_diverges_leaves_and_the_others_continue(first: int, tmp_path: Path, caplog: Any) -> None:
    train_runs([RunPlan(tmp_path / f"seed={s}", wild(first) if s == 2 else SMALL, s) for s in (1, 2, 3)], device="cpu")
    reason = load_run(tmp_path / "seed=2").stopped
    assert reason is not None
    assert f"not finite in epoch {first}, step " in reason
    assert "pathway" in reason
    assert reason in caplog.text
    if first:
        lost = load_run(tmp_path / "seed=2")
        assert list(lost.history["epoch"]) == list(range(first))
        assert lost.checkpoint().epoch == first - 1
        assert verify(lost).sound
    run_experiment(SMALL, [1, 3], tmp_path / "alone", device="cpu")
    for seed in (1, 3):
        ours, alone = (load_run(root / f"seed={seed}").history for root in (tmp_path, tmp_path / "alone"))
        assert len(ours) == 3
        assert (ours["train_loss"] - alone["train_loss"]).abs().max() < 1e-3
    if first:  # the same command does not try again
        before = (tmp_path / "seed=2" / "history.csv").read_bytes()
        train_runs([RunPlan(tmp_path / "seed=2", wild(first), 2)], device="cpu")
        assert (tmp_path / "seed=2" / "history.csv").read_bytes() == before


def test_a_diverged_run_ends_after_its_last_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The divergence is found while the library still writes the files of the last good epoch."""
    real = checkpoints.encoded

    def slow(*arguments: Any) -> bytes:
        time.sleep(0.1)
        return real(*arguments)

    monkeypatch.setattr(checkpoints, "encoded", slow)
    train_runs([RunPlan(tmp_path / f"seed={s}", wild(2) if s == 2 else SMALL, s) for s in (1, 2)], device="cpu")
    lost = load_run(tmp_path / "seed=2")
    state = lost.checkpoint().state
    assert state is not None
    assert (list(lost.history["epoch"]), state.next_epoch) == ([0, 1], 2)
    assert state.stopped == lost.stopped
    assert "diverged" in str(lost.stopped)
    assert verify(lost).sound
    assert len(load_run(tmp_path / "seed=1").history) == 3


def test_the_generator_raises_at_its_end_if_a_run_diverged() -> None:
    rows = train(wild(2), [5], device="cpu")
    assert [next(rows).epoch, next(rows).epoch] == [0, 1]
    with pytest.raises(DivergenceError, match=r"seed=5: diverged: .* not finite in epoch 2, step \d"):
        next(rows)


def test_the_command_line_reports_divergence_with_status_2(tmp_path: Path) -> None:
    (tmp_path / "wild.yaml").write_text(wild(1).as_yaml())
    command = [sys.executable, "-m", "ternary_lab", "train", "wild.yaml", "--seeds", "5", "--run-dir", "runs"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "diverged" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


# Ctrl-C


def test_ctrl_c_finishes_the_epoch_says_how_to_continue_and_exits_with_130(tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text(load_config(LONG.as_dict(), {"training.total_epochs": 400}).as_yaml())
    command = [sys.executable, "-m", "ternary_lab", "train", "long.yaml", "--seeds", "1", "--run-dir", "runs"]
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a background job of a shell would ignore SIGINT
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=listens)
    latest = tmp_path / "runs" / "seed=1" / "checkpoints" / "latest.safetensors"
    deadline = time.monotonic() + 60
    while not latest.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from there" in stderr
    assert "Traceback" not in stderr
    run = load_run(tmp_path / "runs" / "seed=1")
    assert run.checkpoint().epoch == run.history["epoch"].iloc[-1]
    assert verify(run).sound


def test_the_stop_button_of_a_notebook_acts_like_ctrl_c(tmp_path: Path) -> None:
    from jupyter_client.manager import KernelManager

    endless = load_config(LONG.as_dict(), {"training.total_epochs": 4000})
    (tmp_path / "long.yaml").write_text(endless.as_yaml())
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(60)
        code = "from ternary_lab import *; run_experiment(load_config('long.yaml'), [1], 'runs', device='cpu')"
        asked = client.execute(code)
        latest = tmp_path / "runs" / "seed=1" / "checkpoints" / "latest.safetensors"
        deadline = time.monotonic() + 60
        while not latest.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        manager.interrupt_kernel()
        # A slow kernel may first answer earlier requests of `wait_for_ready`.
        answers = iter(lambda: client.get_shell_msg(timeout=30), None)
        reply = next(answer for answer in answers if answer["parent_header"]["msg_id"] == asked)["content"]
        assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
        assert "the same call goes on" in reply["evalue"]
        assert verify(load_run(tmp_path / "runs" / "seed=1")).sound
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# Reproducibility


def test_the_number_of_threads_makes_no_difference(tmp_path: Path) -> None:
    import torch

    for threads in (1, 2, 4):  # with 4 threads, a step of three runs uses 2
        torch.set_num_threads(threads)
        run_experiment(SMALL, SEEDS, tmp_path / str(threads), device="cpu")
    torch.set_num_threads(1)
    assert results(tmp_path / "1") == results(tmp_path / "2") == results(tmp_path / "4")


# Disk


def _limited(root: str, limit: int) -> None:
    """Train while no file may exceed `limit` bytes, as under a quota."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        _train(root, (1,))
    except RunError as error:
        Path(root + ".error").write_text(str(error)[:limit])


@pytest.mark.parametrize("limit", [3000, *(pytest.param(limit, marks=pytest.mark.slow) for limit in (500, 9000))])
def test_a_quota_is_reported_and_the_run_resumes_with_more_space(processes: Any, limit: int, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    process = processes.Process(target=_limited, args=(str(root), limit))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    message = Path(f"{root}.error").read_text()
    assert "File too large" in message
    assert "free space" in message
    _train(str(root), (1,))
    run_experiment(LONG, [1], tmp_path / "whole", device="cpu")
    assert results(root) == results(tmp_path / "whole")
    assert not list(root.rglob("*.tmp"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 128 kB and yield its path."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_and_a_read_only_one(small_disk: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No space left on device"):
        run_experiment(LONG, [1], small_disk / "runs", device="cpu")
    latest = small_disk / "runs" / "seed=1" / "checkpoints" / "latest.safetensors"
    if latest.exists():
        assert checkpoints.load(latest).state is not None
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(RunError, match="Read-only file system"):
        run_experiment(LONG, [1], small_disk / "runs", device="cpu")
    subprocess.run(["mount", "-o", "remount,rw,size=64m", str(small_disk)], check=True)
    run_experiment(LONG, [1], small_disk / "runs", device="cpu")
    run_experiment(LONG, [1], tmp_path / "whole", device="cpu")
    assert results(small_disk / "runs") == results(tmp_path / "whole")


# Untrusted files


def test_a_history_that_unpacks_to_a_huge_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lzma

    from ternary_lab.runs import load

    monkeypatch.setattr(load, "LARGEST", 2**20)
    path = tmp_path / "history.csv.xz"
    path.write_bytes(lzma.compress(b"0" * 2**26))
    with pytest.raises(RunError, match="more than"):
        read_text(path)


# Servers


def test_the_server_of_the_makefile_listens_on_this_machine_only() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    (command,) = [line for line in makefile.splitlines() if "/jupyter lab" in line]
    assert ".ip=127.0.0.1" in command
    assert "token=" not in command  # JupyterLab still makes a new token at each start

"""Tests of training on unusual file systems: without flock, fsync of folders or hard links, and with unusual paths.

Training either ends with the same bytes as on a usual file system, or stops with one line that names a remedy. In the
second case, the same call then continues to the same bytes.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import multiprocessing
import os
import resource
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import SMALL

from ternary_lab import RunError, branch, load_config, run_experiment
from ternary_lab.runs import locks
from ternary_lab.runs.directory import check_place
from ternary_lab.runs.files import append, write_atomically
from ternary_lab.runs.locks import SOFT_LOCK, is_locked, locked
from ternary_lab.runs.verify import verify

TINY = load_config(SMALL.as_dict(), {"training.total_epochs": 2})
REFUSALS = ("EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS")
"""Errors by which a file system refuses an operation that it does not have."""
FAULTS = (*REFUSALS, "EACCES", "EPERM", "EBADF", "ENOLCK", "EMFILE", "EIO")
HARMLESS = {
    "fsync of a folder": {*REFUSALS, "EACCES", "EPERM", "EBADF"},
    "open of a folder": {*REFUSALS, "EACCES", "EPERM", "EBADF"},
    "fsync of a file": {*REFUSALS},
    "flock": {*REFUSALS, "ENOLCK"},
    "link": {*FAULTS},
    "replace": set[str](),
}
"""For each operation, the errors in spite of which training goes on."""


@pytest.fixture(autouse=True, scope="module")
def _small(one_thread: None) -> None:
    """Compute on one thread."""


@pytest.fixture(autouse=True)
def _warn_again() -> None:
    locks._warn_of_soft_locks.cache_clear()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("usual")
    run_experiment(TINY, [1], root, device="cpu")
    return _weights(root)


def _weights(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.safetensors")}


def _break(operation: str, number: int, patch: pytest.MonkeyPatch) -> None:
    """Let an operation of the operating system fail with an error number."""
    module: Any = fcntl if operation == "flock" else os
    name = operation.split()[0]
    real: Callable[..., Any] = getattr(module, name)

    def broken(target: Any, *args: Any, **keywords: Any) -> Any:
        is_folder = stat.S_ISDIR((os.fstat if isinstance(target, int) else os.stat)(target).st_mode) if (
            operation.endswith(("folder", "file"))
        ) else False
        if operation.endswith("folder") == is_folder:
            raise OSError(number, os.strerror(number))
        return real(target, *args, **keywords)

    patch.setattr(module, name, broken)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("operation", HARMLESS)
def test_a_refused_operation_changes_nothing_or_is_named(
    operation: str, fault: str, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _break(operation, getattr(errno, fault), patch)
        if fault in HARMLESS[operation]:
            run_experiment(TINY, [1], tmp_path, device="cpu")
        else:
            with pytest.raises(RunError) as error:
                run_experiment(TINY, [1], tmp_path, device="cpu")
            said = str(error.value)
            assert "\n" not in said
            assert str(tmp_path) in said or "open files" in said
            assert ("ulimit -n" in said) == (fault == "EMFILE")
            assert ("flock" in said) == (operation == "flock" and fault == "EACCES")
    run_experiment(TINY, [1], tmp_path, device="cpu")
    assert _weights(tmp_path) == expected
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".lock"]


# Locks


@pytest.fixture
def _no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    _break("flock", errno.ENOLCK, monkeypatch)


@pytest.mark.usefixtures("_no_flock")
def test_without_flock_a_file_is_the_lock(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tmp_path / "seed=1"
    with locked(run):
        assert is_locked(run)
        with pytest.raises(RunError, match=rf"process {os.getpid()} on .*If no such .* delete {SOFT_LOCK} there"):
            run_experiment(TINY, [1], tmp_path, device="cpu")
    assert not is_locked(run)
    assert not (run / SOFT_LOCK).exists()
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == [f"{tmp_path}: its file system has no locks (flock): a file {SOFT_LOCK} in each run is the lock"]


def _die_with_lock(path: Path) -> None:
    with locked(path):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("_no_flock")
def test_the_lock_of_a_killed_process_does_not_stay(tmp_path: Path) -> None:
    killed = multiprocessing.get_context("fork").Process(target=_die_with_lock, args=(tmp_path,))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert (tmp_path / SOFT_LOCK).exists()
    with locked(tmp_path):
        assert (tmp_path / SOFT_LOCK).exists()
    assert not (tmp_path / SOFT_LOCK).exists()


# Open files


@pytest.fixture
def few_files() -> Iterator[int]:
    """Limit the number of open files of this process, softly, and return the old limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 10, hard))
    yield soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_soft_limit_of_open_files_is_raised(few_files: int, tmp_path: Path) -> None:
    assert len(run_experiment(load_config(TINY.as_dict(), {"training.total_epochs": 1}), range(12), tmp_path)) == 12


def test_a_hard_limit_of_open_files_is_named_before_a_folder_is_made(
    few_files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refused)
    with pytest.raises(RunError, match=r"12 runs: they need 44 open files, .* `ulimit -n"):
        run_experiment(TINY, range(12), tmp_path / "runs", device="cpu")
    monkeypatch.undo()
    assert not (tmp_path / "runs").exists()


# Paths

NAMES = ("a b", "naïve-é-名前-🙂", "it's \"%s\" {} [*] $", "two\nlines", "x\u2028y\x85z", os.fsdecode(b"\xff\xfe"),
         "long" * 60)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_may_have_any_name(name: str, expected: dict[str, bytes], tmp_path: Path) -> None:
    run = run_experiment(TINY, [1], tmp_path / name / name, device="cpu")[1]
    assert _weights(tmp_path / name / name) == expected
    for _ in range(2):  # the second call reads the files of the first
        twin = branch(run, 0, {}, run_dir=tmp_path / "branches" / name, device="cpu")
        assert len(twin.history) == 1
        assert verify(twin).sound


def test_links_may_lead_to_the_folders_of_a_run(expected: dict[str, bytes], tmp_path: Path) -> None:
    for folder in ("disk", "scratch/run", "scratch/weights"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "runs").symlink_to("disk")
    (tmp_path / "disk" / "seed=1").symlink_to("../scratch/run")
    (tmp_path / "scratch" / "run" / "checkpoints").symlink_to(tmp_path / "scratch" / "weights")
    for fresh in (False, True):
        run_experiment(TINY, [1], tmp_path / "runs", device="cpu", fresh=fresh)
        found = _weights(tmp_path / "scratch")
        assert found == {name.replace("seed=1/checkpoints", "weights"): data for name, data in expected.items()}


@pytest.mark.parametrize("mask", [0o077, 0o000])
def test_the_umask_decides_who_may_read(mask: int, expected: dict[str, bytes], tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        run_experiment(TINY, [1], tmp_path / "runs", device="cpu")
    finally:
        os.umask(before)
    assert _weights(tmp_path / "runs") == expected
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert modes <= {0o666 & ~mask, 0o644 & ~mask}  # filelock gives 644


def test_a_place_that_cannot_be_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to("missing")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "seed=2").symlink_to("seed=1")
    for name, reason in (
        ("file", "file: is a file: choose"), ("file/deep/er", "file: is a file: choose"),
        ("nowhere", "nowhere: is a link to missing, which is no folder"),
        ("loop", "loop: is a link to loop, which is no folder"),
    ):
        with pytest.raises(RunError, match=reason):
            run_experiment(TINY, [1], tmp_path / name, device="cpu")
    (tmp_path / "two" / "seed=1").mkdir()
    with pytest.raises(RunError, match=r"seed=2: is the same directory as .*seed=1"):
        run_experiment(TINY, [1, 2], tmp_path / "two", device="cpu")


DROPPINGS = (".DS_Store", "._config.yaml", "Thumbs.db", ".ipynb_checkpoints", ".nfs00000001", ".history.csv.77.tmp",
             "desktop.ini", "lost+found", "config.yaml~")


@given(st.sets(st.sampled_from(DROPPINGS)), st.sets(st.sampled_from(["thesis.tex", "history.csv", "epoch_0001.pt"])))
def test_what_systems_drop_leaves_a_folder_empty(dropped: set[str], own: set[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "iterdir", lambda path: (path / name for name in dropped | own))
        patch.setattr(os.path, "isdir", lambda path: True)
        patch.setattr(os.path, "lexists", lambda path: True)
        if not own:
            check_place(Path("seed=1"))
            return
        with pytest.raises(RunError, match="not empty and not a run directory") as error:
            check_place(Path("seed=1"), fresh=True)
        assert all(name in str(error.value) for name in own)
        assert not any(name in str(error.value) for name in dropped)


def test_a_run_is_trained_beside_what_systems_drop(expected: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "seed=1" / ".ipynb_checkpoints").mkdir(parents=True)
    for name in (".DS_Store", "._history.csv", "Thumbs.db"):
        (tmp_path / "seed=1" / name).write_bytes(b"\x00\x05")
    run_experiment(TINY, [1], tmp_path, device="cpu")
    assert _weights(tmp_path) == expected
    assert (tmp_path / "seed=1" / "Thumbs.db").read_bytes() == b"\x00\x05"


@pytest.mark.parametrize(("number", "remedy"), [
    (errno.ENOSPC, "free space or choose another directory"), (errno.EDQUOT, "free space or"),
    (errno.EACCES, "make it writable, close the programs that use it, or"), (errno.EMFILE, "raise the limit of open"),
    (errno.ENAMETOOLONG, "choose a shorter path"), (errno.ESTALE, "choose another directory"),
])
def test_an_error_of_writing_names_its_remedy(
    number: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _break("fsync of a file", number, monkeypatch)
    for write in (lambda path: write_atomically(path, b"x"), lambda path: append(path, "x")):
        with pytest.raises(RunError, match=f"{os.strerror(number)}: {remedy}"):
            write(tmp_path / "file")
    with suppress(FileNotFoundError):
        assert (tmp_path / "file").read_text() in ("", "x")
    assert not list(tmp_path.glob(".*"))

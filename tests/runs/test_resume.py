"""Tests of resuming.

A run that is killed at any point and started again ends with the same bytes as an undisturbed run.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small import SMALL

from ternary_lab import ConfigError, RunError, branch, load_config, load_run, load_runs, run_experiment
from ternary_lab.config import Config
from ternary_lab.config_files import config_files
from ternary_lab.history import TIMING_COLUMNS, EpochRecord
from ternary_lab.runs import checkpoint, epoch_files, resume
from ternary_lab.runs.checksums import json_with_checksum
from ternary_lab.runs.directory import RunPlan
from ternary_lab.runs.epoch_files import RunFiles
from ternary_lab.runs.train import train_runs
from ternary_lab.runs.verify import verify
from ternary_lab.schedules import Rho
from ternary_lab.training.cohort import Cohort, Epoch

NEVER = load_config(SMALL.as_dict(), {"early_stopping.patience": 0, "training.total_epochs": 4})
# The validation loss rises with β from the start, so that the run stops after its second epoch.
EARLY = load_config(NEVER.as_dict(), {
    "early_stopping.patience": 1, "beta.A.start": 500.0, "optimiser.lr_steps": {0: 1e-6},
})


@pytest.fixture(autouse=True, scope="module")
def _no_fsync(one_thread: None) -> Iterator[None]:
    """Replace fsync by a function that does nothing.

    fsync protects from power cuts, which these tests do not simulate.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def _results(root: Path) -> dict[str, Any]:
    """Return the results of the runs in a directory, by file name.

    The results are the configurations, the rows of the histories without times, and the bytes of every checkpoint.
    """
    results: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        assert not name.endswith(".tmp"), name
        if path.suffix == ".safetensors":
            results[name] = path.read_bytes()
        elif path.name == "history.csv":
            results[name] = load_run(path.parent).history.drop(columns=list(TIMING_COLUMNS)).to_csv()
        elif path.name == "config.yaml":
            results[name] = path.read_text()
    return results


def _same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name] == b[name], f"{name} differs"


class Killed(BaseException):
    """An exception that simulates SIGKILL. No code in the library may catch it."""


class _Trap:
    """Raises an error at the n-th call of one of the functions `names` of `os`."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, n: int, error: Callable[[], BaseException],
        names: Sequence[str] = ("fsync", "replace", "link"),
    ) -> None:
        self.count = 0
        lock = threading.Lock()
        for name in names:
            real = getattr(os, name)

            def trapped(*args: Any, real: Callable[..., Any] = real) -> Any:
                with lock:  # several threads write files
                    self.count += 1
                    now = self.count
                if now == n:
                    raise error()
                return real(*args)

            monkeypatch.setattr(os, name, trapped)


def _runs(root: Path, configs: Sequence[Config]) -> list[RunPlan]:
    return [RunPlan(root / f"seed={seed}", config, seed) for seed, config in enumerate(configs, 1)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int]:
    """Return the results of an undisturbed cohort, and the number of its file operations.

    The cohort has three runs. One of them stops early.
    """
    root = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        trap = _Trap(patch, -1, Killed)
        train_runs(_runs(root, [NEVER, EARLY, NEVER]), device="cpu")
    rows = [len(load_run(root / f"seed={seed}").history) for seed in (1, 2, 3)]
    assert rows == [4, 2, 4]
    return _results(root), trap.count


def _interrupted(
    root: Path, monkeypatch: pytest.MonkeyPatch, n: int, error: Callable[[], BaseException], caught: type[BaseException]
) -> None:
    with monkeypatch.context() as patch:
        _Trap(patch, n, error)
        with pytest.raises(caught):
            train_runs(_runs(root, [NEVER, EARLY, NEVER]), device="cpu")


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_a_cohort_killed_twice_at_any_file_operation_ends_the_same(
    step: int, undisturbed: tuple[dict[str, Any], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, places = undisturbed
    assert places > 100
    for n in range(1, places + 1, step):
        root = tmp_path / str(n)
        _interrupted(root, monkeypatch, n, Killed, Killed)
        with contextlib.suppress(AssertionError, pytest.fail.Exception):  # the run may have ended before
            _interrupted(root, monkeypatch, 1 + 11 * n % 40, Killed, Killed)
        train_runs(_runs(root, [NEVER, EARLY, NEVER]), device="cpu")
        _same(_results(root), expected)
        shutil.rmtree(root)


def test_a_full_disk_is_reported_and_the_run_can_be_resumed(
    undisturbed: tuple[dict[str, Any], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, places = undisturbed

    def full() -> OSError:
        return OSError(28, "No space left on device")

    for n in range(1, places * 9 // 10, 29):  # `places` includes the calls of os.link
        root = tmp_path / str(n)
        with monkeypatch.context() as patch:
            _Trap(patch, n, full, ("fsync", "replace"))
            with pytest.raises(RunError, match="No space left on device: free space"):
                train_runs(_runs(root, [NEVER, EARLY, NEVER]), device="cpu")
        for latest in root.glob("*/checkpoints/latest.safetensors"):
            load_run(latest.parents[1]).model()
        train_runs(_runs(root, [NEVER, EARLY, NEVER]), device="cpu")
        _same(_results(root), expected)
        shutil.rmtree(root)


def test_an_incomplete_last_row_is_dropped(tmp_path: Path) -> None:
    run_experiment(SMALL, [1], tmp_path / "a", device="cpu")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    # Simulate a kill in the last epoch: the row is incomplete and the checkpoint does not exist yet.
    run = tmp_path / "b" / "seed=1"
    text = (run / "history.csv").read_text()
    (run / "history.csv").write_text(text[: len(text) - 20])
    os.replace(run / "checkpoints" / "previous.safetensors", run / "checkpoints" / "latest.safetensors")
    run_experiment(SMALL, [1], tmp_path / "b", device="cpu")
    found, expected = _results(tmp_path / "b"), _results(tmp_path / "a")
    _same(found, expected)


def test_a_reader_always_finds_the_latest_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latest = tmp_path / "seed=1" / "checkpoints" / "latest.safetensors"
    seen = []
    real = os.replace

    def watched(source: Any, target: Any) -> None:
        seen.append(latest.exists())
        real(source, target)
        seen.append(latest.exists())

    monkeypatch.setattr(os, "replace", watched)
    run_experiment(SMALL, [1], tmp_path, device="cpu")
    assert seen[seen.index(True) :].count(False) == 0


def test_without_hard_links_the_bytes_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    run_experiment(SMALL, [1, 2], tmp_path / "a", device="cpu")
    monkeypatch.setattr(os, "link", refused)
    run_experiment(SMALL, [1, 2], tmp_path / "b", device="cpu")
    _same(_results(tmp_path / "b"), _results(tmp_path / "a"))


def _contents(root: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    run_experiment(SMALL, [1, 2], tmp_path, device="cpu")
    before = _contents(tmp_path)
    runs = run_experiment(SMALL, [1, 2], tmp_path, device="cpu")
    assert _contents(tmp_path) == before
    assert runs[1].stopped == "complete: 3 epochs"


def test_an_added_seed_is_trained_alone(tmp_path: Path) -> None:
    run_experiment(SMALL, [1], tmp_path, device="cpu")
    before = _contents(tmp_path)
    runs = run_experiment(SMALL, [1, 2], tmp_path, device="cpu")
    after = _contents(tmp_path)
    assert {path: after[path] for path in before} == before
    assert (len(runs[2].history), runs[2].checkpoint().cohort) == (3, ("seed=2",))


def test_a_run_that_stops_leaves_its_cohort(tmp_path: Path) -> None:
    train_runs(_runs(tmp_path, [NEVER, EARLY]), device="cpu")
    stayed, stopped = load_run(tmp_path / "seed=1"), load_run(tmp_path / "seed=2")
    assert stopped.stopped is not None
    assert stopped.stopped.startswith("early stop: val_loss has not improved since epoch")
    assert stopped.checkpoint().cohort == ("seed=1", "seed=2")
    assert stayed.checkpoint().cohort == ("seed=1",)


def test_runs_of_different_cohorts_continue_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs that are at the same epoch by chance do not become a cohort.

    If they did, a kill would change the bits of the results.
    """
    for name in ("a", "b"):
        with monkeypatch.context() as patch:
            _Trap(patch, 30, Killed)
            with pytest.raises(Killed):
                run_experiment(SMALL, [1], tmp_path / name, device="cpu")
    run_experiment(SMALL, [1, 2], tmp_path / "a", device="cpu")  # first seed 2 from its start, then seed 1
    with monkeypatch.context() as patch:
        _Trap(patch, 30, Killed)
        with pytest.raises(Killed):
            run_experiment(SMALL, [1, 2], tmp_path / "b", device="cpu")
    assert load_run(tmp_path / "b/seed=1").checkpoint().epoch == load_run(tmp_path / "b/seed=2").checkpoint().epoch
    run_experiment(SMALL, [1, 2], tmp_path / "b", device="cpu")
    _same(_results(tmp_path / "b"), _results(tmp_path / "a"))


def test_a_run_set_back_by_one_epoch_sets_back_its_cohort(tmp_path: Path) -> None:
    run_experiment(SMALL, [1, 2], tmp_path, device="cpu")
    expected = _results(tmp_path)
    (tmp_path / "seed=2" / "checkpoints" / "latest.safetensors").unlink()
    run_experiment(SMALL, [1, 2], tmp_path, device="cpu")
    _same(_results(tmp_path), expected)


def test_fresh_starts_again_even_after_a_kill_while_deleting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_experiment(SMALL, [1], tmp_path, device="cpu")
    expected = _results(tmp_path)
    other = load_config(SMALL.as_dict(), {"kl.free_bits": 0.1})
    run_experiment(other, [1], tmp_path, device="cpu", fresh=True)
    assert _results(tmp_path) != expected
    real, removed = os.unlink, []

    def some(path: Any, **keywords: Any) -> None:
        removed.append(path)
        if len(removed) == 3:
            raise Killed
        real(path, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", some)
        with pytest.raises(Killed):
            run_experiment(SMALL, [1], tmp_path, device="cpu", fresh=True)
    run_experiment(SMALL, [1], tmp_path, device="cpu", fresh=True)
    _same(_results(tmp_path), expected)


def test_a_missing_provenance_is_restored(tmp_path: Path) -> None:
    run_experiment(SMALL, [1], tmp_path, device="cpu")
    (tmp_path / "seed=1" / "provenance.json").unlink()
    assert run_experiment(SMALL, [1], tmp_path, device="cpu")[1].seed == 1


@pytest.mark.parametrize(("damage", "part"), [
    (lambda run: (run / "history.csv").unlink(), "has intact rows of 0 of the 2 epochs, and no earlier"),
    (lambda run: (run / "history.csv").write_bytes(b"\xff\n" * 9), "history.csv: damaged: it is not text"),
    (lambda run: (run / "config.yaml").unlink(), "has files of a run .history.csv, log.jsonl., but no"),
    (lambda run: (run / "provenance.json").write_text("[]"), "damaged"),
])
def test_a_damaged_run_is_reported_and_unchanged(damage: Callable[[Path], object], part: str, tmp_path: Path) -> None:
    from ternary_lab import TernaryLabError

    run_experiment(SMALL, [1], tmp_path, device="cpu")
    run = tmp_path / "seed=1"
    os.replace(run / "checkpoints" / "previous.safetensors", run / "checkpoints" / "latest.safetensors")
    damage(run)
    before = _contents(tmp_path)
    with pytest.raises(TernaryLabError, match=part):
        run_experiment(SMALL, [1], tmp_path, device="cpu")
    assert _contents(tmp_path) == before


# --- files that do not belong together


def _edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def _without_last_rows(count: int) -> Callable[[bytes], bytes]:
    return lambda data: b"".join(data.splitlines(keepends=True)[:-count])


HISTORY_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "copied an epoch early": _without_last_rows(1),
    "two rows are missing": _without_last_rows(2),
    "the last row is torn": lambda data: data[:-20],
    "NULs after a power cut": lambda data: data[:-20] + bytes(20),
    "a flipped bit in the third row": lambda data: data[:-700] + bytes([data[-700] ^ 1]) + data[-699:],
    "a row is missing, the others as an editor on Windows writes them": lambda data: (
        b"\xef\xbb\xbf" + b"\r\n".join(data.splitlines()[:-1]) + b"\r\n"
    ),
}


@pytest.mark.parametrize("seeds", [(1,), (1, 2)], ids=["one run", "a cohort"])
@pytest.mark.parametrize("damage", HISTORY_DAMAGE)
def test_a_damaged_history_is_set_back_to_the_newest_checkpoint_that_it_covers(
    damage: str, seeds: tuple[int, ...], finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = _results(finished / str(len(seeds)))
    shutil.copytree(finished / str(len(seeds)), tmp_path / "runs")
    _edit(tmp_path / "runs" / "seed=1" / "history.csv", HISTORY_DAMAGE[damage])
    run_experiment(NEVER, seeds, tmp_path / "runs", device="cpu")
    _same(_results(tmp_path / "runs"), expected)
    assert "intact rows of" in caplog.text
    assert all(verify(run).sound for run in load_runs(tmp_path / "runs").values())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with finished experiments of one and of two seeds, and one of two seeds at other settings."""
    root = tmp_path_factory.mktemp("finished")
    for name, seeds, config in (("1", [1], NEVER), ("2", [1, 2], NEVER), ("other", [1, 2], OTHER)):
        run_experiment(config, seeds, root / name, device="cpu")
    return root


OTHER = load_config(NEVER.as_dict(), {"kl.free_bits": 0.1})


@pytest.mark.parametrize(("source", "files", "reason"), [
    ("2/seed=2", ("latest", "previous"), r"previous.safetensors: belongs to seed 2: restore"),
    ("other/seed=1", ("latest",), r"latest.safetensors: belongs to another .*kl.free_bits is 0.1 there, 0.5 here"),
    ("2/seed=2", ("history",), r"history.csv: is not the history of latest.safetensors: restore both"),
    ("other/seed=1", ("history",), r"history.csv: is not the history of latest.safetensors: restore both"),
])
def test_files_of_another_run_are_refused_and_nothing_changes(
    source: str, files: Sequence[str], reason: str, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished / "1", tmp_path / "runs")
    for name in files:
        file = "history.csv" if name == "history" else f"checkpoints/{name}.safetensors"
        shutil.copy(finished / source / file, tmp_path / "runs" / "seed=1" / file)
    before = _contents(tmp_path)
    with pytest.raises(RunError, match=reason):
        run_experiment(NEVER, [1], tmp_path / "runs", device="cpu")
    assert _contents(tmp_path) == before


def test_a_run_without_checkpoints_says_that_it_starts_again(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(finished / "1", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "seed=1" / "checkpoints")
    run_experiment(NEVER, [1], tmp_path / "runs", device="cpu")
    assert "has a history of 4 epochs, but no checkpoint is left; training starts again from epoch 0" in caplog.text
    _same(_results(tmp_path / "runs"), _results(finished / "1"))


FOLDERS = ("history.csv", "log.jsonl", "provenance.json", "config.yaml", "checkpoints/latest.safetensors", ".lock")


@pytest.mark.parametrize("name", [*FOLDERS, "checkpoints"])
def test_a_folder_in_the_place_of_a_file_is_named(name: str, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "1", tmp_path / "runs")
    path = tmp_path / "runs" / "seed=1" / name
    if name == "checkpoints":
        shutil.rmtree(path)
        path.touch()
    else:
        path.unlink()
        path.mkdir()
    with pytest.raises(RunError, match=Path(name).name if name != ".lock" else "cannot be locked: Is a directory"):
        run_experiment(NEVER, [1], tmp_path / "runs", device="cpu")


def test_fresh_deletes_only_the_files_of_the_run(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(finished / "other", tmp_path / "runs")
    run = tmp_path / "runs" / "seed=1"
    own = {run / name for name in ("notes.md", "checkpoints/kept.safetensors", "branches/a/config.yaml", ".DS_Store")}
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    for name in ("probes.csv", "history.csv.xz", "checkpoints/best_val_elbo.safetensors"):  # files of an earlier run
        (run / name).write_text("old")
    run_experiment(NEVER, [1, 2], tmp_path / "runs", device="cpu", fresh=True)
    assert all(path.read_text() == "mine" for path in own)
    assert "stays: branches, checkpoints/kept.safetensors, notes.md" in caplog.text
    for path in own:
        path.unlink()
    shutil.rmtree(run / "branches")
    _same(_results(tmp_path / "runs"), _results(finished / "2"))
    assert not (run / "probes.csv").exists()


@pytest.mark.parametrize(("cut", "kept"), [(5, ["started"]), (1, ["started", "stopped"])], ids=["half", "no newline"])
def test_half_a_line_at_the_end_of_the_log_is_removed(
    cut: int, kept: list[str], finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished / "1", tmp_path / "runs")
    run = tmp_path / "runs" / "seed=1"
    _edit(run / "log.jsonl", lambda data: data[:-cut])
    _edit(run / "history.csv", _without_last_rows(1))
    run_experiment(NEVER, [1], tmp_path / "runs", device="cpu")
    events = [json.loads(line)["event"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert events == [*kept, "resumed", "stopped"]
    assert verify(load_run(run)).sound


def test_a_resumed_run_names_the_code_of_each_part(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(finished / "1", tmp_path / "runs")
    run = tmp_path / "runs" / "seed=1"
    now = epoch_files._code()
    first = json.loads((run / "provenance.json").read_text())
    newer = {"source_sha256": "1" * 64, "versions": {**now["versions"], "torch": "9.9"}}
    for code, expected in (
        (now, None), (newer, [{"first_epoch": 3, **newer}]), (newer, [{"first_epoch": 3, **newer}]),
    ):
        caplog.clear()
        monkeypatch.setattr(epoch_files, "_code", lambda code=code: code)
        _edit(run / "history.csv", _without_last_rows(1))
        run_experiment(NEVER, [1], tmp_path / "runs", device="cpu")
        found = json.loads((run / "provenance.json").read_text())
        assert found.get("resumed_with") == expected
        assert {key: found[key] for key in now} == {key: first[key] for key in now}
        resumed = json.loads((run / "log.jsonl").read_text().splitlines()[-2])
        assert {key: resumed[key] for key in now} == code
        torch_now = f"torch 9.9 (before: {now['versions']['torch']})"
        assert (torch_now in caplog.text) == (expected is not None)
        assert verify(load_run(run)).sound


class _Swinging(Config):
    def betas(self, e: int) -> tuple[float, float]:
        return 0.1 * e, 0.1


class _HalfRho(Rho):
    def value_at(self, e: int, balanced: bool, phases: Any) -> float:
        return 0.5


@pytest.mark.parametrize(("config", "part"), [
    (_Swinging.model_validate(NEVER.model_dump()), "configuration: config.yaml cannot hold the class _Swinging"),
    (NEVER.model_copy(update={"rho": _HalfRho()}), "rho: config.yaml cannot hold the class _HalfRho"),
], ids=["a configuration", "a part"])
def test_a_configuration_that_the_files_cannot_hold_is_refused(config: Config, part: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=part):
        run_experiment(config, [1], tmp_path / "runs", device="cpu")
    assert not (tmp_path / "runs").exists()


# --- more epochs


def _longer(config: Config) -> Config:
    return load_config(config.as_dict(), {"training.total_epochs": 6})


COHORT = (NEVER, EARLY, NEVER)
# A moving average and the chosen epoch are in the state, too.
INFORMED = load_config(NEVER.as_dict(), {
    "information": {"noise_weight": 0.1, "start_epoch": 0, "latents": 16}, "select_by": "coverage",
})


@pytest.fixture(scope="module")
def six_epochs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("six")
    train_runs(_runs(root, [_longer(config) for config in COHORT]), device="cpu")
    return _results(root)


@pytest.fixture(scope="module")
def four_epochs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("four")
    train_runs(_runs(root, COHORT), device="cpu")
    return root


def test_a_finished_cohort_with_more_epochs_ends_as_one_that_had_them_from_the_start(
    four_epochs: Path, six_epochs: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(four_epochs, tmp_path / "runs")
    train_runs(_runs(tmp_path / "runs", [_longer(config) for config in COHORT]), device="cpu")
    _same(_results(tmp_path / "runs"), six_epochs)
    run = load_run(tmp_path / "runs" / "seed=1")
    assert run.stopped == "complete: 6 epochs"
    events = [json.loads(line)["event"] for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert events == ["started", "stopped", "extended", "resumed", "stopped"]
    assert all(verify(run).sound for run in load_runs(tmp_path / "runs").values())


@pytest.mark.parametrize("step", [31, pytest.param(1, marks=pytest.mark.slow)])
def test_more_epochs_survive_a_kill_at_any_file_operation(
    step: int, four_epochs: Path, six_epochs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [_longer(config) for config in COHORT]
    shutil.copytree(four_epochs, tmp_path / "counted")
    with monkeypatch.context() as patch:
        trap = _Trap(patch, -1, Killed)
        train_runs(_runs(tmp_path / "counted", configs), device="cpu")
    for n in range(1, trap.count + 1, step):
        root = tmp_path / str(n)
        shutil.copytree(four_epochs, root)
        with monkeypatch.context() as patch:
            _Trap(patch, n, Killed)
            with pytest.raises(Killed):
                train_runs(_runs(root, configs), device="cpu")
        train_runs(_runs(root, configs), device="cpu")
        _same(_results(root), six_epochs)


def test_an_unfinished_run_and_the_state_of_information_terms_get_more_epochs(tmp_path: Path) -> None:
    run_experiment(_longer(INFORMED), [1], tmp_path / "whole", device="cpu")
    asked = iter((False, True))
    run_experiment(INFORMED, [1], tmp_path / "cut", device="cpu", stop=lambda: next(asked))
    run_experiment(_longer(INFORMED), [1], tmp_path / "cut", device="cpu")
    _same(_results(tmp_path / "cut"), _results(tmp_path / "whole"))


def test_a_run_with_more_epochs_is_not_called_finished_before_they_are_trained(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise Killed

    shutil.copytree(finished / "1", tmp_path / "runs")
    assert load_run(tmp_path / "runs" / "seed=1").stopped == "complete: 4 epochs"
    monkeypatch.setattr(RunFiles, "commit", killed)
    with pytest.raises(Killed):
        run_experiment(_longer(NEVER), [1], tmp_path / "runs", device="cpu")
    run = load_run(tmp_path / "runs" / "seed=1")
    assert (run.stopped, run.config.training.total_epochs, run.checkpoint().config) == (None, 6, run.config)


@pytest.mark.parametrize(("changes", "reason"), [
    ({"training.total_epochs": 3}, "belongs to another configuration .training.total_epochs is 4 there, 3 here"),
    ({"training.total_epochs": 6, "schedule.horizon": 6},
     "cannot get more epochs .schedule.horizon is 400 there, 6 here, which changes τ_A of the epochs that are trained"),
    ({"training.total_epochs": 6, "optimiser.lr_steps": {0: 1e-3, 3: 1e-4}},
     "lr_steps is .* which changes the learning rate of the"),
    ({"kl.free_bits": 0.1}, "belongs to another configuration .kl.free_bits is 0.5 there, 0.1 here.: choose"),
])
def test_the_message_names_the_schedule_that_forbids_more_epochs(
    changes: dict[str, Any], reason: str, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished / "1", tmp_path / "runs")
    before = _contents(tmp_path)
    with pytest.raises(RunError, match=reason):
        run_experiment(load_config(NEVER.as_dict(), changes), [1], tmp_path / "runs", device="cpu")
    assert _contents(tmp_path) == before


def test_no_shipped_schedule_depends_on_the_number_of_epochs() -> None:
    for name in config_files():
        config = load_config(name)
        longer = load_config(config.as_dict(), {"training.total_epochs": 99_999})
        assert resume._changed_schedules(config, longer, 450) == []
        assert resume._changed_schedules(config, load_config(config.as_dict(), {"schedule.horizon": 7}), 450) != []


# --- writing in threads


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("writer")] == []


def _in_writer() -> bool:
    return threading.current_thread().name.startswith("writer")


def test_an_epoch_is_written_while_a_later_one_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of the first epoch are written while the second epoch trains.

    Here the write waits until the third epoch begins.
    """
    third, real, real_sync, met = threading.Event(), Cohort.train_next, os.fsync, []

    def train_next(self: Cohort) -> Epoch | None:
        if self.epoch == 2:
            third.set()
        return real(self)

    def sync(file: int) -> None:
        if _in_writer():
            met.append(third.wait(60))
        real_sync(file)

    monkeypatch.setattr(Cohort, "train_next", train_next)
    monkeypatch.setattr(os, "fsync", sync)
    run_experiment(SMALL, [1, 2], tmp_path, device="cpu")
    assert len(met) > 1
    assert all(met)


def test_epochs_are_written_in_order_on_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance, real, lock = random.Random(0), RunFiles.commit, threading.Lock()
    committed: list[tuple[int, str, set[str]]] = []

    def commit(self: RunFiles, row: EpochRecord, *rest: Any) -> None:
        time.sleep(chance.uniform(0, 0.05))
        real(self, row, *rest)
        names = {path.stem for path in (self.plan.path / "checkpoints").iterdir()}
        with lock:
            committed.append((row.epoch, row.run, names))

    monkeypatch.setattr(RunFiles, "commit", commit)
    seeds = list(range(1, 13))  # more runs than threads
    run_experiment(SMALL, seeds, tmp_path, device="cpu")
    assert [epoch for epoch, _, _ in committed] == sorted(epoch for epoch, _, _ in committed)
    names = [f"seed={seed}" for seed in seeds]
    for epoch in range(3):
        assert sorted(run for e, run, _ in committed if e == epoch) == sorted(names)
    for epoch, _, found in committed:
        assert {f"epoch_{e:04d}" for e in range(0, epoch + 1, 2)} <= found
        assert ("previous" in found) == (epoch > 0)
    for seed in seeds:
        assert list(load_run(tmp_path / f"seed={seed}").history["epoch"]) == [0, 1, 2]


def test_latest_is_renamed_after_all_other_files_of_its_epoch_are_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real_replace, real_sync = os.replace, os.fsync

    def replace_(source: Any, target: Any) -> None:
        done.append(Path(target).stem if _in_writer() else "")
        real_replace(source, target)

    def sync(file: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{file}')).name}" if _in_writer() else "")
        real_sync(file)

    monkeypatch.setattr(os, "replace", replace_)
    monkeypatch.setattr(os, "fsync", sync)
    run_experiment(SMALL, [1], tmp_path, device="cpu")
    done = [step for step in done if step]
    ends = [i for i, step in enumerate(done) if step == "latest"]
    assert len(ends) == 3
    for epoch, (start, end) in enumerate(zip([0, *(i + 1 for i in ends)], ends, strict=False)):
        steps = done[start:end]
        content = next(i for i, step in enumerate(steps) if step.startswith("sync .latest"))
        if epoch % 2 == 0:
            kept = steps.index(f"epoch_{epoch:04d}")
            assert content < kept < steps.index("sync checkpoints", kept)
        assert "sync history.csv" in steps
        assert done[end + 1] == "sync checkpoints"


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_write_error_in_a_thread_is_raised_before_another_epoch_is_written(
    epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, here = RunFiles.commit, threading.local()
    begun: list[int] = []

    def commit(self: RunFiles, row: EpochRecord, *rest: Any) -> None:
        begun.append(row.epoch)
        here.full = (row.epoch, row.run) == (epoch, "seed=2")
        real(self, row, *rest)

    def sync(_: int) -> None:
        if getattr(here, "full", False):
            assert _in_writer()
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RunFiles, "commit", commit)
        patch.setattr(os, "fsync", sync)
        with pytest.raises(RunError, match=r"seed=2/.*: No space left on device: free space .* intact"):
            run_experiment(SMALL, [1, 2, 3], tmp_path / "full", device="cpu")
    assert max(begun) == epoch
    latest = tmp_path / "full" / "seed=2" / "checkpoints" / "latest.safetensors"
    assert latest.exists() == (epoch > 0)
    if epoch:
        assert checkpoint.load(latest).epoch == epoch - 1
    run_experiment(SMALL, [1, 2, 3], tmp_path / "full", device="cpu")
    run_experiment(SMALL, [1, 2, 3], tmp_path / "whole", device="cpu")
    _same(_results(tmp_path / "full"), _results(tmp_path / "whole"))


def _slow_commits(monkeypatch: pytest.MonkeyPatch, then: Callable[[EpochRecord], None] = lambda _: None) -> None:
    real = RunFiles.commit

    def commit(self: RunFiles, row: EpochRecord, *rest: Any) -> None:
        time.sleep(0.1)
        real(self, row, *rest)
        then(row)

    monkeypatch.setattr(RunFiles, "commit", commit)


def test_stop_is_called_when_the_epoch_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []

    def stop() -> bool:
        seen.append([load_run(tmp_path / f"seed={seed}").checkpoint().epoch for seed in (1, 2)])
        return len(seen) == 2

    _slow_commits(monkeypatch)
    run_experiment(NEVER, [1, 2], tmp_path, device="cpu", stop=stop)
    assert seen == [[0, 0], [1, 1]]


def test_an_interrupt_waits_for_the_files_of_the_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(row: EpochRecord) -> None:
        if row.epoch == 0 and row.run == "seed=1":
            os.kill(os.getpid(), signal.SIGINT)

    _slow_commits(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        run_experiment(NEVER, [1, 2], tmp_path, device="cpu")
    epochs = [load_run(tmp_path / f"seed={seed}").checkpoint().epoch for seed in (1, 2)]
    assert epochs in ([0, 0], [1, 1])
    assert all(verify(run).sound for run in load_runs(tmp_path).values())


def test_a_kill_in_the_middle_of_a_write_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    """The thread that writes files sends SIGKILL to its process while the main thread trains."""
    run_experiment(NEVER, [1, 2], tmp_path / "whole", device="cpu")
    (tmp_path / "never.yaml").write_text(NEVER.as_yaml())
    script = textwrap.dedent("""
        import os, signal, sys, threading
        import torch
        from ternary_lab import load_config, run_experiment
        torch.set_num_threads(1)
        real, left = os.replace, [int(sys.argv[1])]
        def replace(source, target):
            if threading.current_thread().name.startswith("writer"):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
            real(source, target)
        os.replace = replace
        run_experiment(load_config("never.yaml"), [1, 2], "killed", device="cpu")
    """)
    done = subprocess.run([sys.executable, "-c", script, "11"], cwd=tmp_path, check=False)
    assert done.returncode == -signal.SIGKILL
    assert any(tmp_path.rglob(".*.tmp"))
    run_experiment(NEVER, [1, 2], tmp_path / "killed", device="cpu")
    _same(_results(tmp_path / "killed"), _results(tmp_path / "whole"))


def test_wall_seconds_are_the_seconds_of_training(tmp_path: Path) -> None:
    started = time.perf_counter()
    run = run_experiment(NEVER, [1], tmp_path, device="cpu")[1]
    wall = time.perf_counter() - started
    epochs = run.history[list(TIMING_COLUMNS)].sum().sum()
    assert 0.5 * epochs <= run.provenance["wall_seconds"] <= wall


def test_a_checkpoint_has_the_moving_average_of_its_own_epoch(tmp_path: Path) -> None:
    """The checkpoint is written while the next epoch trains, which must not change the moving average."""
    informed = load_config(SMALL.as_dict(), {
        "information": {"noise_weight": 0.1, "start_epoch": 0, "latents": 16}, "training.total_epochs": 4,
    })
    run_experiment(informed, [1, 2], tmp_path / "whole", device="cpu")
    asked = iter((False, True))
    run_experiment(informed, [1, 2], tmp_path / "cut", device="cpu", stop=lambda: next(asked))
    run_experiment(informed, [1, 2], tmp_path / "cut", device="cpu")
    _same(_results(tmp_path / "cut"), _results(tmp_path / "whole"))


# --- branches


def test_a_branch_under_the_same_settings_repeats_the_run(tmp_path: Path) -> None:
    run = run_experiment(SMALL, [1], tmp_path, device="cpu")[1]
    twin = branch(run, 0, {}, device="cpu")
    columns = [c for c in run.history if c not in (*TIMING_COLUMNS, "run")]
    assert twin.history[columns].equals(run.history[columns].iloc[1:].reset_index(drop=True))
    # A branch has the same seed as the run. `load_runs` must not confuse the branch with the run.
    assert load_runs(tmp_path)[1].path == run.path
    assert twin.path.is_relative_to(run.path)


def test_a_branch_differs_by_its_setting_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_experiment(SMALL, [1], tmp_path, device="cpu")[1]
    changed = branch(run, 0, {"kl.free_bits": 0.0}, run_dir=tmp_path / "changed", device="cpu")
    assert list(changed.history["epoch"]) == [1, 2]
    assert (changed.history["kl_A"] < run.history["kl_A"].iloc[1:].to_numpy()).all()
    with monkeypatch.context() as patch:
        _Trap(patch, 20, Killed)
        with pytest.raises(Killed):
            branch(run, 0, {"kl.free_bits": 0.0}, run_dir=tmp_path / "again" / "changed", device="cpu")
    branch(run, 0, {"kl.free_bits": 0.0}, run_dir=tmp_path / "again" / "changed", device="cpu")
    _same(_results(tmp_path / "again" / "changed"), _results(tmp_path / "changed"))


def test_a_branch_with_another_criterion_forgets_the_best_by_the_old_one(tmp_path: Path) -> None:
    run = run_experiment(SMALL, [1], tmp_path, device="cpu")[1]
    settings = {"early_stopping.metric": "informative_coverage", "select_by": "coverage"}
    state = branch(run, 0, settings, run_dir=tmp_path / "other", device="cpu").checkpoint().state
    assert state is not None
    assert (state.best.value < 0, state.selected.value < 0) == (True, True)
    assert min(state.best.epoch, state.selected.epoch) > 0


def test_an_impossible_branch_is_refused(tmp_path: Path) -> None:
    run = run_experiment(SMALL, [1], tmp_path, device="cpu")[1]
    for epoch, overrides, error, part in (
        (1, {}, RunError, "there are those of epochs 0, 2"),
        (0, {"model.latent_dim": 3}, ConfigError, "cannot change"),
        (0, {"data.batch_size": 3}, ConfigError, "cannot change"),
        (0, {"kl.bits": 3}, ConfigError, "unknown key kl.bits"),
        (2, {}, ConfigError, "training.total_epochs: must exceed 3"),
    ):
        with pytest.raises(error, match=part):
            branch(run, epoch, overrides, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["seed=1"]


# --- the real signal


@pytest.mark.parametrize(("seeds", "instants"), [
    pytest.param([1], [8], id="one run"),
    pytest.param([1, 2], [1, 8], id="a cohort of two", marks=pytest.mark.slow),  # also in `test_safety`
])
def test_sigkill(seeds: list[int], instants: list[int], tmp_path: Path) -> None:
    config = load_config(SMALL.as_dict(), {"training.total_epochs": 20})
    file = tmp_path / "small.yaml"
    file.write_text(config.as_yaml())
    run_experiment(config, seeds, tmp_path / "whole", device="cpu")

    command = [sys.executable, "-m", "ternary_lab", "train", str(file), "--seeds", *map(str, seeds), "--device", "cpu",
               "--run-dir", str(tmp_path / "killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    history = tmp_path / "killed" / f"seed={seeds[-1]}" / "history.csv"
    for rows in instants:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        give_up = time.monotonic() + 60
        while not (history.exists() and history.read_bytes().count(b"\n") > rows):
            assert process.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    subprocess.run(command, env=environment, check=True, capture_output=True)
    _same(_results(tmp_path / "killed"), _results(tmp_path / "whole"))
    events = [json.loads(line)["event"] for line in history.with_name("log.jsonl").read_text().splitlines()]
    assert (events[0], events[-2:], len(events)) == ("started", ["resumed", "stopped"], len(instants) + 2)


def test_a_weights_only_run_is_finished_or_cannot_continue(tmp_path: Path) -> None:
    run = run_experiment(NEVER, [1], tmp_path, device="cpu")[1]
    expected, latest = run.history, run.path / "checkpoints" / "latest.safetensors"
    point = checkpoint.load(latest)
    checkpoint.save(latest, replace(point, state=None))
    weights = latest.read_bytes()
    again = run_experiment(NEVER, [1, 2], tmp_path, device="cpu")
    pd.testing.assert_frame_equal(again[1].history, expected)
    assert latest.read_bytes() == weights
    assert len(again[2].history) == len(expected)
    provenance = json.loads((run.path / "provenance.json").read_text())
    del provenance["sha256"]
    (run.path / "provenance.json").write_bytes(json_with_checksum({**provenance, "stopped": None}))
    with pytest.raises(RunError, match=r"latest.safetensors: holds weights only and cannot be continued"):
        run_experiment(NEVER, [1], tmp_path, device="cpu")

"""Tests of reading and verifying runs that systems, editors and people have touched.

Whatever lies in a run's directory, a reader gets the run or one line that names the file and the way out.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from small import SMALL

import ternary_lab
from ternary_lab import RunError, config_files, load_run, load_runs, run_experiment
from ternary_lab.cli import main
from ternary_lab.errors import TernaryLabError
from ternary_lab.runs import checkpoint
from ternary_lab.runs.checksums import json_with_checksum, text_with_checksum
from ternary_lab.runs.load import read_table
from ternary_lab.runs.locks import OWNER
from ternary_lab.runs.verify import NO_CHECKSUM, verify, verify_all
from ternary_lab.studies.probes import write_probes
from ternary_lab.sweeps.plan import Plan

ROOT = Path(ternary_lab.__file__).parent.parent
TEXTS = ("config.yaml", "provenance.json", "history.csv", "probes.csv", "log.jsonl")


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Limit torch to one thread, because more threads slow small computations down."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """Train a run to its end and return its directory, which has every kind of file."""
    run = run_experiment(SMALL, [1], tmp_path_factory.mktemp("written"), device="cpu")[1]
    write_probes(run)
    return run.path


@pytest.fixture
def run(written: Path, tmp_path: Path) -> Path:
    """Return the directory of a copy of the run."""
    return Path(shutil.copytree(written, tmp_path / "runs" / "seed=1"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# What systems and editors leave behind


STRAY = (
    ".DS_Store", "._config.yaml", "._latest.safetensors", "Thumbs.db", "desktop.ini", "Desktop.ini", ".nfs000000012",
    ".fuse_hidden0001", "config.yaml~", ".config.yaml.swp", "#history.csv#", ".#history.csv", "~$history.csv",
    ".~lock.history.csv#", ".latest.safetensors.1234.tmp", "Icon\r", ".directory", ".gitignore",
)
STRAY_FOLDERS = (".ipynb_checkpoints", "__MACOSX", "lost+found", "@eaDir", "$RECYCLE.BIN", ".Trash-1000")


def test_what_systems_and_editors_leave_behind_is_noted_at_most(run: Path) -> None:
    for folder in (run, run / "checkpoints"):
        for name in STRAY:
            (folder / name).write_bytes(b"\0\r\n\xff")
        for name in STRAY_FOLDERS:
            shutil.copytree(run / "checkpoints", folder / name, ignore=lambda *_: [*STRAY, *STRAY_FOLDERS])
            (folder / name / "config-checkpoint.yaml").write_bytes(b"\0")
    shutil.copytree(run.parent / "seed=1", run.parent / ".ipynb_checkpoints" / "seed=1")
    (run.parent / ".DS_Store").write_bytes(b"\0")
    (found,) = verify_all(run.parent)
    assert found.sound
    assert "damaged" not in found.describe()
    assert {*STRAY, *STRAY_FOLDERS} <= found.notes.keys()
    assert ".lock" not in found.notes
    assert list(load_runs(run.parent)) == [1]
    assert run_experiment(SMALL, [1], run.parent, device="cpu")[1].checkpoint().epoch == 2


def test_files_that_macos_and_jupyter_leave_are_no_configurations_notebooks_and_cohorts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ternary_lab.notebooks import find_notebooks
    from ternary_lab.sweeps import design

    for name in ("x.yaml", "._x.yaml", ".ipynb_checkpoints/x-checkpoint.yaml", "cohorts/._0001.json", "._b.ipynb",
                 "b.ipynb", "counterfactuals/._y.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\x05\x16\x07")
    monkeypatch.setattr(config_files, "shipped_folders", lambda _: [tmp_path])
    assert list(config_files.config_files()) == list(design.sweep_files()) == ["x"]
    assert config_files.shipped_configs("counterfactuals") == []
    assert find_notebooks([tmp_path]) == [tmp_path / "b.ipynb"]
    monkeypatch.undo()
    assert Plan.read(design.load_sweep("warmup_rho"), tmp_path).cohorts == {}


# Line endings


def crlf(data: bytes) -> bytes:
    return data.replace(b"\n", b"\r\n")


CONVERSIONS: dict[str, Callable[[bytes], bytes]] = {
    "crlf": crlf, "crlf twice": lambda data: data.replace(b"\n", b"\r\r\n"),
    "byte order mark": lambda data: codecs.BOM_UTF8 + crlf(data),
    "half": lambda data: crlf(data[: len(data) // 2]) + data[len(data) // 2:],
    "no newline at the end": lambda data: crlf(data).rstrip(),
}


@pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS)
def test_converted_line_endings_change_nothing(convert: Callable[[bytes], bytes], run: Path) -> None:
    before = load_run(run)
    history, probes, told = before.history, before.probes, before.provenance
    for name in TEXTS:
        (run / name).write_bytes(convert((run / name).read_bytes()))
    after = load_run(run)
    assert after.history.equals(history)
    assert probes is not None
    assert probes.equals(after.probes)
    assert (after.config, after.provenance) == (SMALL, told)
    found = verify(after)
    assert found.sound
    assert found.epoch == 2
    assert set(TEXTS) <= {name for name, note in found.notes.items() if "line endings were converted" in note}
    assert run_experiment(SMALL, [1], run.parent, device="cpu")[1].stopped == before.stopped


@pytest.mark.parametrize("name", TEXTS)
def test_a_converted_file_is_still_checked(name: str, run: Path) -> None:
    text = (run / name).read_text()
    at = text.index("0")
    (run / name).write_bytes(crlf(f"{text[:at]}1{text[at + 1:]}".encode()))
    found = verify(load_run(run))
    assert found.files[name].startswith(f"{run / name}: damaged: ")
    assert [problem for problem in found.files.values() if problem] == [found.files[name]]


def test_a_run_with_converted_files_is_trained_on(tmp_path: Path) -> None:
    run_experiment(SMALL, [1], tmp_path / "whole", device="cpu")
    run_experiment(SMALL, [1], tmp_path / "runs", device="cpu", stop=lambda: True)
    for name in set(TEXTS) - {"probes.csv"}:
        path = tmp_path / "runs" / "seed=1" / name
        path.write_bytes(crlf(path.read_bytes()))
    run = run_experiment(SMALL, [1], tmp_path / "runs", device="cpu")[1]
    assert verify(run).sound
    latest = Path("seed=1", "checkpoints", "latest.safetensors")
    assert (tmp_path / "runs" / latest).read_bytes() == (tmp_path / "whole" / latest).read_bytes()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
def test_git_for_windows_leaves_every_text_as_it_is(tmp_path: Path) -> None:
    """Files are checked out as with `core.autocrlf=true`, the default of git for Windows."""
    git = ["git", "-C", str(ROOT), "-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    names = subprocess.run([*git, "ls-files"], capture_output=True, text=True, check=True).stdout.splitlines()
    some = [name for name in names if "published/v5_5/seed=42/" in name or name.endswith((".csv", ".sh", "Makefile"))]
    subprocess.run([*git, "checkout-index", f"--prefix={tmp_path}/", "--", *some], check=True)
    assert len(some) > 50
    for name in some:
        if (tmp_path / name).suffix not in (".safetensors", ".xz"):
            assert b"\r" not in (tmp_path / name).read_bytes(), name
    (found,) = verify_all(tmp_path)
    assert found.sound
    assert set(found.notes.values()) == {NO_CHECKSUM}


def test_a_file_without_a_checksum_is_named(run: Path) -> None:
    point = checkpoint.load(run / "checkpoints" / "latest.safetensors")
    assert verify(load_run(run)).notes == {}
    without: dict[str, Callable[[str], str]] = {
        "config.yaml": lambda text: text.rpartition("# sha256")[0],
        "provenance.json": lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "sha256"}),
        **dict.fromkeys(("history.csv", "probes.csv"), lambda text: re.sub(r",\w+$", "", text, flags=re.MULTILINE)),
        "log.jsonl": lambda text: re.sub(r', "crc32": "\w+"', "", text),
    }
    assert set(without) == set(TEXTS)
    for name, change in without.items():
        (run / name).write_text(change((run / name).read_text()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "SHA256", "another")
        checkpoint.save(run / "checkpoints" / "latest.safetensors", point)
    found = verify(load_run(run))
    assert found.sound
    assert found.notes == dict.fromkeys((*without, "checkpoints/latest.safetensors"), NO_CHECKSUM)


# Every run is looked at


def test_every_run_is_verified_whatever_its_seed_its_links_and_its_state(run: Path, tmp_path: Path) -> None:
    root = run.parent
    shutil.copytree(run, root / "copy")
    flip(root / "copy" / "checkpoints" / "latest.safetensors")
    shutil.copytree(run, root / "linked")
    shutil.move(root / "linked" / "checkpoints", tmp_path / "elsewhere")
    (root / "linked" / "checkpoints").symlink_to(tmp_path / "elsewhere")
    flip(tmp_path / "elsewhere" / "epoch_0000.safetensors")
    for name in ("config.yaml", "provenance.json", "history.csv"):
        shutil.copytree(run, root / f"without {name}")
        (root / f"without {name}" / name).unlink()
    shutil.copytree(run, root / "deep" / "er" / "seed=1")
    shutil.copytree(run, run / "branches" / "one")
    flip(run / "branches" / "one" / "history.csv")
    (root / "round").symlink_to(root)
    (root / "nothing").mkdir()
    shutil.copytree(run.parent / "copy", tmp_path / "dangling")
    (root / "dangling").symlink_to(tmp_path / "dangling")
    (tmp_path / "dangling" / "checkpoints" / "latest.safetensors").unlink()
    (tmp_path / "dangling" / "checkpoints" / "latest.safetensors").symlink_to("nowhere")
    found = {one.path.relative_to(root).as_posix(): one for one in verify_all(root)}
    bad = {name: [file for file, problem in one.files.items() if problem] for name, one in found.items()}
    assert bad == {
        "copy": ["checkpoints/latest.safetensors"], "dangling": ["checkpoints/latest.safetensors"],
        "deep/er/seed=1": [], "linked": ["checkpoints/epoch_0000.safetensors"],
        "seed=1": [], "seed=1/branches/one": ["history.csv"],
        "without config.yaml": ["config.yaml"], "without history.csv": ["history.csv"],
        "without provenance.json": ["provenance.json"],
    }
    assert found["seed=1"].epoch == found["deep/er/seed=1"].epoch == 2
    for one in found.values():
        for problem in filter(None, one.files.values()):
            assert ": restore it" in problem or ": cannot be read: " in problem or "the same command" in problem


def test_what_this_user_may_not_read_is_named(written: Path) -> None:
    """Another user owns the runs. Some of their files and folders are closed."""
    root = Path(tempfile.mkdtemp())
    closed = ("a/checkpoints", "b/history.csv", "b/provenance.json", "b/checkpoints/latest.safetensors", "c", "d")
    try:
        root.chmod(0o755)
        for name in "abce":
            shutil.copytree(written, root / name)
        (root / "d").mkdir()
        for name in closed:
            (root / name).chmod(0)
        if os.geteuid() == 0:
            os.seteuid(65534)  # the superuser may read everything
        found = {one.path.name: one for one in verify_all(root)}
        bad = [f"{name}/{file}" for name, one in found.items() for file, problem in one.files.items() if problem]
        assert sorted(bad) == sorted([*closed[:4], "c/.", "d/."])
        for one in found.values():
            assert all(": cannot be read: Permission denied" in problem for problem in one.files.values() if problem)
        for name in ("", "a", "b", "c"):
            with pytest.raises(TernaryLabError, match="cannot be read: Permission denied"):
                _ = [(run.seed, run.history, run.checkpoint()) for run in load_runs(root / name).values()]
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        for name in closed:
            (root / name).chmod(0o700)
        shutil.rmtree(root)


def test_a_link_to_itself_is_no_run(run: Path) -> None:
    (run.parent / "loop").symlink_to("loop")
    assert list(load_runs(run.parent)) == [1]
    assert [found.sound for found in verify_all(run.parent)] == [True]


def test_runs_of_one_seed_are_refused_by_name_instead_of_dropped(run: Path) -> None:
    shutil.copytree(run, run.parent / "copy")
    with pytest.raises(RunError, match=r"seed=1 and .*copy: have the same seed 1: "):
        load_runs(run.parent)
    (run / "config.yaml").unlink()
    with pytest.raises(RunError, match=r"seed=1.config\.yaml: missing: restore it"):
        load_runs(run.parent)


def test_the_command_goes_on_after_a_run_that_cannot_be_read(run: Path) -> None:
    shutil.copytree(run, run.parent / "copy")
    (run / "provenance.json").write_text("{}")
    done = CliRunner().invoke(main, ["verify", "nowhere", str(run.parent)])
    assert done.exit_code == 2
    assert "error: nowhere: no such run directory" in done.stderr
    assert "copy: 10 files, all intact; 13 metrics of epoch 2" in done.stdout
    assert "provenance.json: damaged: it names no seed" in done.stdout
    done = CliRunner().invoke(main, ["verify", str(run.parent), "--json"])
    assert done.exit_code == 1
    assert [one["sound"] for one in json.loads(done.stdout)] == [True, False]


# Files of one run belong together


def test_a_checkpoint_of_another_seed_epoch_or_configuration_is_reported(run: Path) -> None:
    point = checkpoint.load(run / "checkpoints" / "epoch_0000.safetensors")
    other = SMALL.model_copy(update={"kl": SMALL.kl.model_copy(update={"free_bits": 3.0})})
    longer = SMALL.model_copy(update={"training": SMALL.training.model_copy(update={"total_epochs": 2})})
    for name, changed, word in (
        ("epoch_0000", replace(point, seed=7), "is of seed 7"),
        ("epoch_0001", point, "is of epoch 0, not of the epoch in its name"),
        ("latest", replace(point, config=other), "is of another configuration: kl.free_bits is 3.0 there"),
        ("best_val_elbo", replace(point, config=longer), ""),
    ):
        path = run / "checkpoints" / f"{name}.safetensors"
        before = path.read_bytes() if path.exists() else None
        checkpoint.save(path, changed)
        problem = verify(load_run(run)).files[f"checkpoints/{name}.safetensors"]
        assert (word in problem) if word else problem == ""
        path.unlink() if before is None else path.write_bytes(before)
    assert verify(load_run(run)).sound


@pytest.mark.parametrize(("change", "part"), [
    (lambda rows: rows[:1] + rows[2:], "row 2 is not of the epoch after that of the row above it"),
    (lambda rows: rows[:2] + rows[1:], "row 3 is not of the epoch"),
    (lambda rows: rows[::-1], "row 2 is not of the epoch"),
    (lambda rows: rows[:-1], "has no row of epoch 2, which the checkpoint latest is of"),
], ids=["deleted", "twice", "reversed", "last"])
def test_rows_that_were_deleted_repeated_or_moved_are_reported(
    change: Callable[[list[str]], list[str]], part: str, run: Path
) -> None:
    path = run / "history.csv"
    head, *rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join([head, *change(rows)]))
    assert part in verify(load_run(run)).files["history.csv"]


def test_a_text_in_place_of_a_number_is_reported(run: Path) -> None:
    """The file has no checksums, as after editing in a spreadsheet that dropped their column."""
    table = read_table(run / "history.csv").astype({"val_loss": object})
    table.loc[1, "val_loss"] = "n. a. of course"
    (run / "history.csv").write_text(table.to_csv(index=False))
    with pytest.raises(RunError, match=r"history\.csv: damaged: it has a text where a number belongs"):
        _ = load_run(run).history


# Damaged files are named alike by every reader


def _row_changed(text: str) -> str:
    return text.replace(",1,", ",2,", 1)


DAMAGE: dict[str, tuple[str, Callable[[str], str], str]] = {
    "comment in config": ("config.yaml", lambda text: f"# mine\n{text}", "undo the edit or restore it from a copy"),
    "setting in config": ("config.yaml", lambda text: text.replace("free_bits: ", "free_bits: 1"), "with --set"),
    "empty config": ("config.yaml", lambda _: "", "undo the edit or restore it"),
    "empty provenance": ("provenance.json", lambda _: "", "damaged: it is empty: restore it from a copy, or delete it"),
    "no seed": ("provenance.json", lambda _: "{}", "it names no seed: restore it from a copy, or delete it"),
    "edited provenance": ("provenance.json", lambda text: text.replace('"seed": 1', '"seed": 2'), "or delete it"),
    "deep provenance": ("provenance.json", lambda _: "[" * 100_000, "or delete it"),
    "edited history": ("history.csv", _row_changed, "the checksum of row 1 differs, so it was edited"),
    "empty history": ("history.csv", lambda _: "", "it is empty: restore it"),
    "semicolons": ("history.csv", lambda text: text.replace(",", ";"), "its columns are not those"),
}


@pytest.mark.parametrize(("name", "change", "part"), DAMAGE.values(), ids=DAMAGE)
def test_every_reader_names_a_damaged_file_and_the_way_out(
    name: str, change: Callable[[str], str], part: str, run: Path
) -> None:
    from ternary_lab.explorer.dashboard import Dashboard
    from ternary_lab.explorer.explorer import Explorer

    (run / name).write_text(change((run / name).read_text()))
    said = {"verify": verify(load_run(run)).files[name]}
    readers: dict[str, Callable[[], object]] = {
        "train": lambda: run_experiment(SMALL, [1], run.parent, device="cpu")[1].history,
        "load_run": lambda: [getattr(load_run(run), kind) for kind in ("config", "provenance", "history")],
    }
    for reader, read in readers.items():
        with pytest.raises(TernaryLabError) as caught:
            read()
        said[reader] = str(caught.value)
    dashboard = Dashboard(run.parent)
    dashboard.end()
    dashboard.update()
    said["dashboard"] = dashboard.alert.value
    if name != "provenance.json":  # the explorer shows nothing of it
        explorer = Explorer(run)
        explorer.wait()
        said["explorer"] = explorer.alert.value
    for reader, message in said.items():
        assert name in message, reader
        assert part in message, reader
        assert "\n" not in message, reader


VALUES = st.one_of(st.none(), st.booleans(), st.integers(-2, 2**70), st.floats(), st.text(max_size=5), st.just([]))
MEMBERS = st.dictionaries(st.sampled_from([
    "seed", "devices", "device", "versions", "wall_seconds", "stopped", "first_epoch", "card", "torch_version", "tf32",
]), st.recursive(VALUES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
    st.sampled_from(["torch", "first_epoch", "device"]), inner, max_size=3), max_leaves=4))


@given(MEMBERS)
def test_any_provenance_is_read_or_refused(written: Path, members: dict[str, Any]) -> None:
    path = written.parent / "wild" / "provenance.json"
    path.parent.mkdir(exist_ok=True)
    shutil.copy(written / "config.yaml", path.parent)
    told = {**json.loads((written / "provenance.json").read_text()), **members}
    path.write_bytes(json_with_checksum(told))
    run = load_run(path.parent)
    try:
        problem = ""
        told = run.provenance
        assert isinstance(run.seed, int)
        assert isinstance(told.get("wall_seconds", 0.0), int | float)
        assert isinstance(run.stopped, str | None)
        assert isinstance(run.trained_on(1).first_epoch, int)
    except RunError as error:
        problem = str(error)
    assert problem == "" or f"{path}: damaged: " in problem


def test_a_restored_provenance_keeps_the_end_of_the_run(run: Path) -> None:
    ended = load_run(run).stopped
    (run / "provenance.json").unlink()
    assert run_experiment(SMALL, [1], run.parent, device="cpu")[1].stopped == ended == "complete: 3 epochs"


def test_an_intact_run_with_a_setting_of_a_notebook_is_not_damaged(run: Path) -> None:
    """This process does not know the setting. It checks what it can, and says what it did not check."""
    text = f"{SMALL.as_yaml()}future_setting: 3\n"
    (run / "config.yaml").write_text(text_with_checksum(text))
    latest = run / "checkpoints" / "latest.safetensors"
    latest.write_bytes(checkpoint.encoded(checkpoint.load(latest), text))
    found = verify(load_run(run))
    assert found.sound
    assert not found.metrics
    assert "no metrics were computed" in found.describe()
    assert {"config.yaml", "checkpoints/latest.safetensors"} <= found.notes.keys()
    with pytest.raises(TernaryLabError, match=r"unknown key future_setting.*the file is intact: first import the code"):
        _ = load_run(run).config
    flip(latest)
    assert verify(load_run(run)).files["checkpoints/latest.safetensors"]


# While a run trains


def test_an_epoch_is_found_although_training_goes_on_to_the_next_one(run: Path) -> None:
    record = load_run(run)
    assert (record.epochs, record.checkpoint(2).epoch) == ([0, 2], 2)
    with pytest.raises(RunError, match="no checkpoint epoch_0001"):
        record.checkpoint(1)
    (run / OWNER).write_text("{}")
    assert record.checkpoint(1).epoch == 1  # it is in `previous`
    with pytest.raises(RunError, match="no checkpoint epoch_0005"):
        record.checkpoint(5)


def test_the_checkpoint_of_the_last_row_is_waited_for(run: Path) -> None:
    """Training has written the row of epoch 2, and is just writing its checkpoint."""
    folder = run / "checkpoints"
    (folder / "epoch_0002.safetensors").unlink()
    (folder / "latest.safetensors").replace(folder / "later")
    (folder / "previous.safetensors").replace(folder / "latest.safetensors")
    (folder / "best_val_loss.safetensors").unlink()
    (run / OWNER).write_text("{}")
    timer = threading.Timer(0.2, lambda: (folder / "later").replace(folder / "latest.safetensors"))
    timer.start()
    record = load_run(run)
    assert record.model(int(record.history["epoch"].iloc[-1])) is not None
    timer.join()


def test_verify_measures_the_checkpoint_that_it_has_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on right after `latest` is read: the file is then of another epoch."""
    folder, load = run / "checkpoints", checkpoint.load
    (folder / "epoch_0002.safetensors").unlink()

    def load_and_go_on(path: Path) -> checkpoint.Checkpoint:
        point = load(path)
        if path.name == "latest.safetensors":
            shutil.copy(folder / "epoch_0000.safetensors", path)
        return point

    monkeypatch.setattr(checkpoint, "load", load_and_go_on)
    found = verify(load_run(run))
    assert (found.sound, found.epoch, found.largest_difference) == (True, 2, 0)


def test_a_dashboard_shows_the_other_runs_and_two_of_one_seed(run: Path) -> None:
    from ternary_lab.explorer.dashboard import Dashboard

    for name in ("copy", "broken"):
        shutil.copytree(run, run.parent / name)
    flip(run.parent / "broken" / "provenance.json")
    dashboard = Dashboard(run.parent)
    dashboard.end()
    assert dashboard.update() is False
    assert "seed=1: 3 epochs" in dashboard.line.value
    assert "copy: 3 epochs" in dashboard.line.value
    assert "broken" not in dashboard.line.value
    assert "broken/provenance.json: damaged" in dashboard.alert.value
    shutil.rmtree(run.parent / "broken")
    assert dashboard.update() is True
    assert dashboard.alert.value == ""

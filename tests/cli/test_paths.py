"""Every command takes any path: long, with spaces, quotes, a newline, other scripts, and with a link inside."""

from __future__ import annotations

import functools
import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from small import SMALL, write_book

import ternary_lab
from ternary_lab.cli import main
from ternary_lab.figures import draw_history
from ternary_lab.figures.save import Gallery
from ternary_lab.metrics import evaluate
from ternary_lab.runs.verify import verify
from ternary_lab.sweeps.run import load_results

EPOCH_60 = Path(__file__).parents[1] / "data" / "epoch_60.pt"
NAMES = (
    "spaces, 'quotes' and \"more\"",
    "a\nnewline\tand tab",
    "100 % [*] {x} #1 & ; = @ ( )",
    unicodedata.normalize("NFC", "größe β 操作 😀"),
    unicodedata.normalize("NFD", "größe β"),
    "long " * 40,
    "back\\slash and !",
)
"""Names of folders. Together they are one path of over 300 characters."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with such a path, a link in its middle and the files that commands read."""
    root = tmp_path_factory.mktemp("paths")
    real = root.joinpath("real", *NAMES[:4])
    real.mkdir(parents=True)
    (root / "link").symlink_to("real")
    folder = root.joinpath("link", *NAMES)
    folder.mkdir(parents=True)
    (folder / "my small.yaml").write_text(SMALL.as_yaml())
    (folder / "my sweep.yaml").write_text(json.dumps({
        "base": "my small.yaml", "seeds": [1], "budget": {"runs": 2},
        "design": {"kind": "grid", "keys": {"rho.isolated": {"values": [0.0, 0.5]}}},
    }))
    (folder / "my question.yaml").write_text(json.dumps({"title": "?", "after": 0, "set": {"kl.free_bits": 0.1}}))
    write_book(folder)
    return folder


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "evaluate", functools.partial(evaluate.evaluate, iwae_samples=1))


def _call(*words: str | Path) -> str:
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def runs(folder: Path, one_thread: None) -> Path:
    said = _call("train", folder / "my small.yaml", "--run-dir", folder / "runs", "--seeds", "1", "2")
    assert f"{folder / 'runs' / 'seed=1'}: complete: 3 epochs" in said
    return folder / "runs"


def _claims(folder: Path, runs: Path) -> None:
    _call("claims", runs, "--page", folder / "claims.html")
    assert (folder / "claims.html").stat().st_size > 1000


def _branch(folder: Path, runs: Path) -> None:
    _call("branch", runs, folder / "my question.yaml", "--seeds", "1", "--run-dir", folder / "branches")
    assert len(ternary_lab.load_runs(folder / "branches" / "my question")) == 1


def _sweep(folder: Path, runs: Path) -> None:
    words = ("sweep", folder / "my sweep.yaml", "--run-dir", folder / "sweep", "--device", "cpu")
    assert "2 of 2 runs done" in _call(*words)
    assert json.loads(_call(*words, "--status", "--json"))["run_dir"] == str(folder / "sweep")
    assert len(load_results(folder / "sweep" / "results.csv")) == 2


def _import(folder: Path, runs: Path) -> None:
    (folder / "epoch 60.pt").write_bytes(EPOCH_60.read_bytes())
    _call("import-v55", folder / "epoch 60.pt", folder / "epoch 60.safetensors")
    for name in ("epoch 60.pt", "epoch 60.safetensors"):
        words = ("--latents", "64", "--samples", "100", "--json")
        assert json.loads(_call("evaluate", folder / name, *words))["checkpoint"] == str(folder / name)


def _run(folder: Path, runs: Path) -> None:
    output = folder / "executed here" / "book.ipynb"
    assert _call("run", folder / "book.ipynb", "-o", output, "-p", "config", runs, "--html") == (
        f"{output}\n{output.with_suffix('.html')}\n"
    )
    text = json.loads(output.read_text())["cells"][-1]["outputs"][0]["text"]
    assert text == [f"1 {line}" if not i else line for i, line in enumerate(f"{runs} [1, 2]\n".splitlines(True))]


def _check(folder: Path, runs: Path) -> None:
    result = CliRunner().invoke(main, ["check-notebooks", str(folder / "book.ipynb"), "--json"])
    assert [found["notebook"] for found in json.loads(result.stdout)] == [str(folder / "book.ipynb")]


CALLS: dict[str, Callable[[Path, Path], None]] = {
    "train": lambda folder, runs: _call("train", folder / "my small.yaml", "--run-dir", runs, "--seeds", "1"),
    "verify": lambda folder, runs: _call("verify", runs),
    "explore": lambda folder, runs: _call("explore", runs / "seed=1", "-o", folder / "my page.html", "--no-prior"),
    "compare": lambda folder, runs: _call("compare", runs / "seed=1", runs / "seed=2"),
    "evaluate": lambda folder, runs: _call("evaluate", runs / "seed=1", "--latents", "64", "--samples", "100"),
    "probe": lambda folder, runs: _call("probe", runs / "seed=1"),
    "claims": _claims,
    "branch": _branch,
    "sweep": _sweep,
    "import-v55": _import,
    "run": _run,
    "check-notebooks": _check,
}

@pytest.mark.parametrize("name", CALLS)
def test_a_command_takes_any_path(name: str, folder: Path, runs: Path) -> None:
    CALLS[name](folder, runs)


def test_python_takes_any_path(folder: Path, runs: Path) -> None:
    config = ternary_lab.load_config(folder / "my small.yaml")
    ternary_lab.run_experiment(config, [1], runs, device="cpu")
    assert all(verify(run).sound for run in ternary_lab.load_runs(runs).values())
    figure = draw_history("kl", ternary_lab.load_run(runs / "seed=1"))
    saved = Gallery(folder / "figures", "book.ipynb").save("kl", figure)
    assert all(path.is_file() for path in saved)


@pytest.mark.parametrize("mask", [0o077, 0o000])
def test_the_files_of_a_run_have_the_permissions_that_the_mask_leaves(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        ternary_lab.run_experiment(SMALL, [1], tmp_path / "runs", device="cpu")
    finally:
        os.umask(before)
    for path in (tmp_path / "runs").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask, path


def test_every_command_is_here() -> None:
    """Other tests try the paths of the commands that train for minutes."""
    assert {*main.commands} - {*CALLS} == {"list", "score", "reproduce", "recipes", "alternatives"}

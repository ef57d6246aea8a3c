"""The command line: its help, JSON of a fixed shape, and one clear line for every error of a user."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner, Result
from small import SMALL

from ternary_lab import load_config, load_counterfactual, load_run, load_sweep, run_experiment
from ternary_lab.cli import main
from ternary_lab.cli.options import SUMMARY, SectionedGroup, join_seeds
from ternary_lab.config_files import settings
from ternary_lab.history import COLUMNS
from ternary_lab.metrics import evaluate

EPOCH_60 = Path(__file__).parents[1] / "data" / "epoch_60.pt"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """An empty working directory that holds small.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL.as_yaml())
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # nbval imports it, which silences progress


def _call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def _files() -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in Path.cwd().rglob("*")}


def _refused(*words: str) -> str:
    """The one line that is printed for an error of the user, after a check that nothing was written."""
    before = _files()
    result = _call(*words)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert _files() == before
    return lines[0]


# --- help


def test_help_names_every_command_and_shows_the_first_steps() -> None:
    text = _call("--help").stdout
    for name in main.commands:
        assert name in text
    for example in ("ternary-lab train quick", "--seeds 42 43", "ternary-lab evaluate", "ternary-lab reproduce"):
        assert example in text


def test_help_lists_the_commands_in_sections_with_whole_summaries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = _call("--help").stdout.splitlines()
    assert isinstance(main, SectionedGroup)
    assert 3 <= len(main.sections) <= 4
    for title, commands in main.sections.items():
        start = lines.index(f"{title}:") + 1
        for line, command in zip(lines[start:], commands, strict=False):
            name, summary = line.split(maxsplit=1)
            first = (command.help or "").splitlines()[0].removesuffix(".")
            assert (name, summary.removesuffix(".")) == (command.name, first)
            assert len(summary) <= SUMMARY == 60
            assert "…" not in summary
            assert "..." not in summary
        assert lines[start + len(commands) :][:1] in ([""], [])


@pytest.mark.parametrize("command", main.commands.values(), ids=main.commands)
def test_every_command_and_option_is_explained(command: click.Command) -> None:
    text = _call(str(command.name), "--help").stdout
    assert len((command.help or "").split()) > 5
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{command.name} {parameter.name} has no help"
            assert parameter.opts[0] in text


@pytest.mark.parametrize("command", ["train", "run", "evaluate"])
def test_the_main_commands_show_examples(command: str) -> None:
    assert f"Examples:\n    ternary-lab {command} " in _call(command, "--help").stdout


# --- list


@pytest.mark.parametrize("what", ["runs", "configs", "recipes", "counterfactuals", "sweeps", "notebooks", "settings"])
def test_list_prints_each_name_once(what: str) -> None:
    names = _call("list", what).stdout.splitlines()
    assert len(set(names)) == len(names) > 1


def test_what_list_prints_is_taken_where_names_are_asked_for() -> None:
    def listed(what: str) -> list[str]:
        return _call("list", what).stdout.splitlines()

    for name in listed("runs"):
        load_run(name)
    for name in listed("configs") + listed("recipes"):
        load_config(name)
    for name in listed("counterfactuals"):
        assert load_counterfactual(name).name == name
    for name in listed("sweeps"):
        assert load_sweep(name).name == name
    for name in listed("notebooks"):
        assert Path(name).is_file()
    assert settings().keys() == set(listed("settings"))


@pytest.mark.parametrize(("words", "near"), [
    (["evaluate", "nothing"], "counterfactuals/nothing_at_50"), (["claims", "v55"], "v5_5"),
    (["train", "ablations/repaired"], "ablations/all_repaired"),
    (["recipes", "ablations/repaired"], "ablations/all_repaired"),
    (["branch", "v5_5", "lr_stay"], "lr_stays"),
    (["run", str(Path(__file__).parents[2] / "notebooks" / "02_trian.ipynb")], "02_train.ipynb"),
    (["train", "quick", "--set", "modle=3"], "model"),
])
def test_an_unknown_name_gets_the_nearest_and_how_to_list_all(words: list[str], near: str) -> None:
    line = _refused(*words)
    assert near in line
    assert re.search(r"`ternary-lab list \w+`$", line)
    assert line.count(",") < 4


# --- train


def test_train_says_what_came_out_and_writes_the_run() -> None:
    result = _call("train", "small.yaml", "--seeds", "42", "43", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == [f"runs/small/seed={s}" for s in (42, 43)]
    assert "complete: 3 epochs; epoch 2: loss " in result.stdout
    assert result.stderr.splitlines()[0] == "small, 2 runs: starts at epoch 0 of 3"
    run = load_run("runs/small/seed=43")
    assert tuple(run.history.columns) == COLUMNS
    assert {path.name for path in run.path.iterdir()} == {
        ".lock",
        "config.yaml", "provenance.json", "history.csv", "log.jsonl", "checkpoints",
    }
    assert {path.name for path in (run.path / "checkpoints").iterdir()} == {
        f"{name}.safetensors" for name in ("latest", "previous", "best_val_loss", "epoch_0000", "epoch_0002")
    }
    said = run.provenance
    assert {"seed", "devices", "dtype", "threads", "source_sha256", "versions", "wall_seconds"} <= said.keys()


@pytest.mark.parametrize(("words", "seeds"), [
    ((), [42]), (("--seeds", "7"), [7]), (("--seeds", "1", "2", "3"), [1, 2, 3]), (("--seeds", "1,2"), [1, 2]),
    (("--seeds=1", "2"), [1, 2]), (("--seeds", "1 2"), [1, 2]), (("--seeds", "3..5"), [3, 4, 5]),
    (("--seeds", "7", "1..2,9"), [7, 1, 2, 9]), (("--seeds", "1", "--seeds", "2", "3"), [2, 3]),
])
def test_seeds_take_every_number_that_follows(
    words: tuple[str, ...], seeds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []

    class Stopped(BaseException):
        pass

    def caught(_: object, given: list[int], *__: object, **___: object) -> None:
        seen.append(given)
        raise Stopped

    monkeypatch.setattr("ternary_lab.run_experiment", caught)
    for order in (("train", "small.yaml", *words, "--fresh"), ("train", *words, "--json", "small.yaml")):
        with pytest.raises(Stopped):
            _call(*order)
    assert seen == [seeds, seeds]


def test_train_again_repeats_nothing_and_fresh_does() -> None:
    words = ("train", "small.yaml", "--device=cpu", "--json", "--set", "training.total_epochs=2", "--run-dir", "mine")
    first = json.loads(_call(*words).stdout)
    assert [row["path"] for row in first] == ["mine/seed=42"]
    assert first[0].keys() == {"path", *COLUMNS}
    assert json.loads(_call(*words).stdout) == first
    log = Path("mine/seed=42/log.jsonl")
    assert [json.loads(line)["event"] for line in log.read_text().splitlines()] == ["started", "stopped"]
    again = json.loads(_call(*words, "--fresh").stdout)[0]
    assert {k: v for k, v in again.items() if k[:7] != "seconds"} == {
        k: v for k, v in first[0].items() if k[:7] != "seconds"
    }


def test_a_full_disk_in_the_middle_is_one_line_and_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == 20:
            raise OSError(28, "No space left on device")
        real(descriptor)

    words = ("train", "small.yaml", "--device", "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        result = _call(*words)
    assert result.exit_code == 2
    *progress, error = result.stderr.splitlines()
    assert progress == ["small, 1 run: starts at epoch 0 of 3"]
    assert error.startswith("error: runs/small/seed=42/")
    assert "No space left on device: free space" in error
    assert "resumes" in error
    load_run("runs/small/seed=42").model()
    assert _call(*words).exit_code == 0
    assert list(load_run("runs/small/seed=42").history["epoch"]) == [0, 1, 2]


@pytest.mark.parametrize(("words", "parts"), [
    (["--set", "training.total_epoch=3"], ["unknown key training.total_epoch", "did you mean training.total_epochs?"]),
    (["--set", "training.total_epochs=many"], ["training.total_epochs", "integer", "'many'"]),
    (["--set", "training.total_epochs=0"], ["training.total_epochs", "greater than or equal to 1"]),
    (["--set", "training.total_epochs"], ["write key=value"]),
    (["--set", "kl.free_bits=[1"], ["not valid YAML"]),
    (["--set", "a\nb=1"], ["unknown key"]),
    (["--seeds", ""], ["none given"]),
    (["--seeds", "1", "1"], ["1 is given twice"]),
    (["--seeds", "-3"], ["-3"]),
    (["--seeds", str(2**32)], ["4294967296"]),
    (["--device", "tpu"], ["tpu", "use auto, cpu or cuda"]),
    (["--device", "meta"], ["meta", "use auto, cpu or cuda"]),
    (["--run-dir", "small.yaml"], ["small.yaml", "choose another --run-dir"]),
    (["--run-dir", "/proc/nowhere"], ["/proc/nowhere", "choose another --run-dir"]),
    (["--run-dir", "x" * 300], ["x" * 300]),
], ids=lambda value: " ".join(value)[:40])
def test_what_is_wrong_with_train_is_named(words: list[str], parts: list[str]) -> None:
    line = _refused("train", "small.yaml", *words)
    assert all(part in line for part in parts), line


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA GPU is present")
def test_a_missing_gpu_is_named_with_the_remedy() -> None:
    line = _refused("train", "small.yaml", "--device", "cuda")
    assert "no CUDA GPU" in line
    assert "use --device cpu" in line


@pytest.mark.parametrize(("text", "part"), [
    (None, "no such file"), ("{", "not YAML"), ("- 1", "must be a mapping"), ("", "must be a mapping"),
    ("nome: x", "did you mean name"), ("name: a\nname: b", "given twice"),
    ("name: !!python/name:os.system x", "not YAML"),
])
def test_a_file_that_is_no_configuration_is_named(text: str | None, part: str) -> None:
    if text is not None:
        Path("bad.yaml").write_text(text)
    line = _refused("train", "bad.yaml")
    assert part in line
    assert "bad.yaml" in line


def test_directories_that_are_not_this_runs_are_left_alone() -> None:
    run_experiment(SMALL, [42], "runs/small", device="cpu")
    line = _refused("train", "small.yaml", "--set", "kl.free_bits=0.25")
    assert "belongs to another configuration (kl.free_bits is 0.5 there, 0.25 here)" in line
    assert "--fresh" in line
    os.rename("runs/small/seed=42", "runs/small/seed=43")
    assert "belongs to seed 42" in _refused("train", "small.yaml", "--seeds", "43")
    Path("other/seed=42").mkdir(parents=True)
    Path("other/seed=42/thesis.tex").write_text("years of work")
    for more in ([], ["--fresh"]):
        assert "not a run directory" in _refused("train", "small.yaml", "--run-dir", "other", *more)
    Path("file/").mkdir()
    Path("file/seed=42").write_text("")
    for more in ([], ["--fresh"]):
        assert "is a file" in _refused("train", "small.yaml", "--run-dir", "file", *more)


def test_usage_errors_are_clicks_own() -> None:
    for words in (["train"], ["train", "small.yaml", "--seeds", "x"], ["train", "small.yaml", "--seed", "1"], ["trian"],
                  ["evaluate", "a.pt", "--quick", "--latents", "64"], ["evaluate", "a.pt", "--rho", "2"]):
        result = _call(*words)
        assert result.exit_code == 2
        assert result.stderr.startswith("Usage: ")
        assert "Error: " in result.stderr


def test_in_a_process_of_its_own_too() -> None:
    """The line is alone also at the exit of a process: no warning, no traceback."""
    words = [sys.executable, "-m", "ternary_lab", "evaluate", "missing.safetensors"]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: missing.safetensors: cannot be read: No such file or directory\n"


# --- evaluate, import-v55, compare


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Options and a number of importance samples that make an evaluation quick rather than precise."""
    monkeypatch.setattr(evaluate, "evaluate", functools.partial(evaluate.evaluate, iwae_samples=1))
    return "--latents", "64", "--samples", "100", "--json"


@pytest.fixture
def two_runs() -> tuple[str, str]:
    run_experiment(SMALL, [1], "a", device="cpu")
    run_experiment(load_config(SMALL.as_dict(), {"kl.free_bits": 0.1, "name": "b"}), [1], "b", device="cpu")
    return "a/seed=1", "b/seed=1"


def test_evaluate_takes_a_run_an_epoch_or_a_checkpoint(two_runs: tuple[str, str], few: tuple[str, ...]) -> None:
    run = two_runs[0]
    last, first, file = (
        json.loads(_call("evaluate", *words, *few).stdout)
        for words in ([run], [run, "--epoch", "0"], [f"{run}/checkpoints/epoch_0000.safetensors"])
    )
    assert [(e["epoch"], e["seed"]) for e in (last, first, file)] == [(2, 1), (0, 1), (0, 1)]
    assert {**first, "checkpoint": None} == {**file, "checkpoint": None}
    assert last["A"] != first["A"]
    assert last["rho"] == pytest.approx(load_run(run).history["rho"].iloc[-1])
    # The split is the run's own, not that of v5.5.
    part = last["reconstruction"]["A"]
    own = (393 * part["train"] + part["validation"] * 196 + part["test"] * (19_683 - 589)) / 19_683
    assert part["all"] == pytest.approx(own, abs=1e-4)
    assert "sampled coverage, %" in _call("evaluate", run, *few[:-1]).stdout


def test_what_is_wrong_with_evaluate_is_named(two_runs: tuple[str, str]) -> None:
    latest = Path(two_runs[0], "checkpoints", "latest.safetensors")
    Path("cut.safetensors").write_bytes(latest.read_bytes()[:5000])
    Path("cut.pt").write_bytes(EPOCH_60.read_bytes()[:5000])
    Path("text.txt").write_text("hello")
    for words, part in (
        (["nowhere"], f"no such run directory ({Path.cwd() / 'nowhere'})"),
        (["a"], "choose one of seed=1"),
        (["."], "not a run directory"),
        ([two_runs[0], "--epoch", "1"], "there are those of epochs 0, 2"),
        ([str(latest), "--epoch", "1"], "--epoch goes with a run directory"),
        (["cut.safetensors"], "truncated"),
        (["cut.pt"], "refused"),
        (["text.txt"], "not a safetensors file"),
        (["missing.pt"], "No such file"),
        ([str(EPOCH_60), "--latents", str(2**40)], "latents must be a whole number"),
    ):
        assert part in _refused("evaluate", *words)


def test_import_v55_writes_a_checkpoint_that_can_be_evaluated(few: tuple[str, ...]) -> None:
    result = _call("import-v55", str(EPOCH_60), "out.safetensors")
    assert (result.exit_code, result.stdout) == (0, "out.safetensors: weights of epoch 60\n")
    sources = ("out.safetensors", str(EPOCH_60))
    ours, theirs = (json.loads(_call("evaluate", source, *few).stdout) for source in sources)
    assert {**ours, "checkpoint": None} == {**theirs, "checkpoint": None}


def test_what_is_wrong_with_import_v55_is_named() -> None:
    Path("text.pt").write_text("hello")
    for words, part in (
        (["text.pt", "out.safetensors"], "not a torch checkpoint"),
        (["missing.pt", "out.safetensors"], "No such file"),
        ([str(EPOCH_60), "out.pt"], "must end in .safetensors"),
        ([str(EPOCH_60), "none/out.safetensors"], "cannot be written: No such file"),
        ([str(EPOCH_60), "small.yaml/out.safetensors"], "cannot be written: Not a directory"),
    ):
        assert part in _refused("import-v55", *words)


def test_compare_shows_settings_and_final_metrics(two_runs: tuple[str, str]) -> None:
    data = json.loads(_call("compare", *two_runs, "--json").stdout)
    assert data.keys() == {"settings", "final"}
    assert data["settings"]["kl.free_bits"] == {"a": 0.5, "b": 0.1}
    assert data["final"].keys() == {*COLUMNS} - {"run"}
    kl = load_run(two_runs[0]).history["kl_A"].iloc[-1]
    assert data["final"]["kl_A"]["a"] == pytest.approx(kl)
    table = _call("compare", *two_runs, "--csv").stdout.splitlines()
    assert table[0] == "metric,a,b"
    assert len(table) == len(COLUMNS)
    latex = _call("compare", *two_runs, "--latex").stdout
    assert latex.startswith("\\begin{tabular}{lrr}")
    assert "kl\\_A & " in latex
    assert "no setting differs" in _call("compare", two_runs[0], two_runs[0]).stdout
    assert "no such run directory" in _refused("compare", two_runs[0], "nowhere")


def test_a_run_in_its_first_epoch_cannot_be_compared(two_runs: tuple[str, str]) -> None:
    shutil.copytree(two_runs[0], "young")
    history = Path("young/history.csv")
    history.write_text(history.read_text().splitlines(keepends=True)[0])
    assert "young: has no epoch yet" in _refused("compare", two_runs[1], "young")


def test_what_was_not_measured_is_null_in_json() -> None:
    words = ("train", "small.yaml", "--device", "cpu", "--json", "--set", "evaluation.coverage_at=when_read")
    found = _call(*words, "--set", "loss_weights={initial: 1, low: 1, high: 1}").stdout
    (row,) = json.loads(found, parse_constant=pytest.fail)
    assert row["coverage_A"] is None
    assert row["informative_coverage_A"] > 0


def test_a_seed_that_is_no_number_is_named() -> None:
    for wrong in ("--5", "²", "x", "4..1", "1..x"):
        assert f"{wrong!r} is not a whole number" in _call("train", "small.yaml", f"--seeds={wrong}").stderr


def test_words_after_two_dashes_are_no_seeds() -> None:
    assert join_seeds(["--seeds", "1", "2", "--", "--seeds", "3", "4"]) == ["--seeds=1 2", "--", "--seeds", "3", "4"]
    assert join_seeds(["quick", "--seeds"]) == ["quick", "--seeds"]


# --- notebooks


def test_a_misspelt_notebook_or_parameter_is_named_before_anything_runs() -> None:
    import nbformat

    book = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell("epochs = 3", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("print(epochs)"),
    ])
    nbformat.write(book, "book.ipynb")
    line = _refused("run", "book.ipynb", "-p", "epoch", "4")
    assert "epoch" in line
    assert "epochs" in line
    assert "epochs" in _refused("run", "book.ipynb", "-p", "epochs", "many")
    assert "nobook.ipynb" in _refused("run", "nobook.ipynb")

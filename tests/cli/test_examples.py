"""Every example in the help of a command and in the documentation is a command line that the program takes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from ternary_lab import load_config, load_counterfactual, load_run, load_runs
from ternary_lab.cli import main
from ternary_lab.cli import reproduce as reproduction
from ternary_lab.cli.reading import _imported
from ternary_lab.config_files import parse_override
from ternary_lab.notebooks import check_parameters, parse_parameters
from ternary_lab.notebooks.run import parameter_sets
from ternary_lab.studies.beyond_v55.tables import RECIPES
from ternary_lab.sweeps.design import load_sweep, points

ROOT = Path(__file__).parents[2]
OF_THE_USER = (
    "mine.yaml", "epoch_60.pt", "my.ipynb", "coverage.ipynb", "my_model", "sweeps/mine.yaml", "runs/quick/seed=7",
)
"""Files and runs that the examples suppose."""


def _examples() -> Iterator[str]:
    pages = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    helps = (command.help or "" for command in (main, *main.commands.values()))
    for text in (*helps, *(page.read_text(encoding="utf-8") for page in pages)):
        for line in text.splitlines():
            if re.match(r"ternary-lab \w", line.strip()):
                yield re.split(r"\s{2,}", line.strip())[0]


EXAMPLES = list(_examples())


def _published(source: object) -> str:
    """Return the name of the published runs in place of runs that the user would have trained."""
    return str(source).removeprefix("../").removeprefix("runs/")


def _take(name: str, given: dict[str, Any]) -> None:
    """Read what the command reads before it trains, measures or executes anything."""
    match name:
        case "train":
            load_config(given["config"], dict(map(parse_override, given["overrides"])))
        case "branch":
            found = load_runs(_published(given["runs"]))
            assert all(seed in found for seed in given["seeds"])
            assert all(load_counterfactual(file) for file in given["files"])
        case "sweep" if given["file"] not in OF_THE_USER:
            assert points(load_sweep(given["file"]))
        case "recipes":
            assert set(given["names"]) <= RECIPES.keys()
        case "evaluate" if str(given["source"]) not in OF_THE_USER:
            assert load_run(_published(given["source"])).checkpoint(given["epoch"])
        case "explore" if str(given["source"]) not in OF_THE_USER:
            assert load_run(_published(given["source"])).epochs
        case "score":
            assert given["source"].split(":")[0] in OF_THE_USER or callable(_imported(given["source"]))
        case "probe" | "claims" | "verify":
            assert all(load_runs(_published(source)) for source in given["sources"])
        case "run" if given["each"]:
            assert parameter_sets(given["notebook"], dict(given["parameters"]), given["each"])
        case "run" if str(given["notebook"]) not in OF_THE_USER:
            parse_parameters(given["notebook"], dict(given["parameters"]))
        case "check-notebooks":
            assert all(path.exists() or str(path) in OF_THE_USER for path in given["paths"])
        case "run" | "sweep" | "evaluate" | "explore":
            pass
        case "alternatives" | "reproduce" | "import-v55" | "list" | "compare":
            pass
        case _:
            raise AssertionError(f"say here what `{name}` reads first")


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_of_a_help_text_is_taken(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    _, name, *words = shlex.split(line)
    command = main.commands[name]
    with command.make_context(name, words) as context:
        assert isinstance(command, click.Command)
        _take(name, context.params)


def test_the_examples_are_found() -> None:
    assert len(EXAMPLES) > 20
    assert {line.split()[1] for line in EXAMPLES} >= {"train", "branch", "sweep", "run", "evaluate", "verify"}


# --- cheap refusals come before torch is imported, which takes seconds

CHEAP = [
    ("train quick --seeds 42 42", "seeds: 42 is given twice"), ("train quick --seeds -1", "-1 is not"),
    ("train quick --seeds 4294967296", "4294967296 is not"), ("train quick --device gpu", "unknown device 'gpu'"),
    ("reproduce --device tpu", "unknown device 'tpu'"), ("sweep warmup_rho --device cuda:x", "unknown device 'cuda:x'"),
    ("evaluate v5_5/seed=42 --device cpu:x", "unknown device 'cpu:x'"), ("branch v5_5 --seeds 1 1", "given twice"),
    ("train quick --run-dir $TL_UNSET/x", "TL_UNSET is not set"),
    ("train quick --set kl.free_bits=-1", "--set: kl.free"),
    ("score mine", "'mine' names no function"), ("score no_module:sample", "'no_module' cannot be imported"),
    ("alternatives --device mps", "unknown device 'mps'"), ("recipes --device mps", "unknown device 'mps'"),
]


def test_cheap_refusals_import_no_torch(tmp_path: Path) -> None:
    """One process refuses all of these lines. Each has one line on stderr and the exit status 2."""
    script = "\n".join((
        "import sys", "from ternary_lab.cli import main", "for line in sys.stdin.read().splitlines():",
        "    try: main(line.split())", "    except SystemExit as end: print(f'exit {end.code}', file=sys.stderr)",
        "assert 'torch' not in sys.modules",
    ))
    lines = "\n".join(line for line, _ in CHEAP)
    done = subprocess.run(
        [sys.executable, "-c", script], input=lines, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert said[1::2] == ["exit 2"] * len(CHEAP)
    for message, (line, words) in zip(said[::2], CHEAP, strict=True):
        assert message.startswith("error: "), line
        assert words in message, line
    assert not list(tmp_path.iterdir())


def test_paths_of_options_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--run-dir=~/x` is the home folder, although a shell expands no `~` behind `=`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with main.commands["train"].make_context("train", ["quick", "--run-dir=~/tl"]) as context:
        assert context.params["run_dir"] == tmp_path / "tl"
    for command in main.commands.values():
        for parameter in command.params:
            if isinstance(parameter.type, click.Path):
                assert type(parameter.type).__name__ == "_UserPath", f"{command.name}: {parameter.name}"


def test_a_wrong_value_of_set_names_set_and_no_shipped_file() -> None:
    result = CliRunner().invoke(main, ["train", "quick", "--set", "training.total_epochs=010"])
    assert result.stderr == "error: --set: training.total_epochs: must be a valid integer, got '010': write 10\n"


def test_reproduce_hands_a_device_to_the_notebook_that_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduction, "run_experiment", lambda *_, **__: {})
    given: dict[str, Any] = {}

    def run_notebook(path: Path, output: Path, values: dict[str, Any]) -> Path:
        given.update(check_parameters(path, values))
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduction.notebooks, "run_notebook", run_notebook)
    for device, kind in (("cpu:0", "cpu"), ("cuda:1", "cuda"), ("auto", "auto")):
        with pytest.raises(KeyboardInterrupt):
            list(reproduction.reproduce(quick=True, device=device))
        assert given["device"] == kind

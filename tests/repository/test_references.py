"""The reference pages agree with the program: ranges, defaults, changes of a base, options, columns and names."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import references
import yaml

import ternary_lab
from ternary_lab import run_experiment
from ternary_lab.cli import main
from ternary_lab.config import Config
from ternary_lab.config_files import config_files, load_config, settings
from ternary_lab.errors import ConfigError
from ternary_lab.history import COLUMNS, MEANINGS
from ternary_lab.metrics.quantities import QUANTITIES
from ternary_lab.runs.load import FILES, PACKED_HISTORY, PROBES
from ternary_lab.settings import Section

PAGES: dict[str, str] = {name: made() for name, made in references.PAGES.items()}


def _rows(text: str) -> list[list[str]]:
    """Return the cells of all rows of the tables in a text, without the marks of code and escapes."""
    rows = [re.split(r"(?<!\\) *\| *", line)[1:-1] for line in text.splitlines() if line.startswith("| ")]
    cleaned = [[html.unescape(re.sub(r"</?(code|wbr)>|\\", "", cell.strip())) for cell in row] for row in rows]
    return [row for row in cleaned if row[0] not in ("key", "---")]


def test_the_page_of_settings_has_every_key_with_its_default() -> None:
    rows = {key: default for key, _, default, _ in _rows(PAGES["configuration"])}
    modes = set()
    for key, field in settings().items():
        group, _, name = key.rpartition(".")
        if isinstance(field.default, Section) or name == "mode":
            continue
        if group in ("beta.A", "beta.B"):
            modes.add(name)
        else:
            assert yaml.safe_load(rows.pop(key)) == yaml.safe_load(references.as_yaml(field.default)), key
    assert rows.keys() == modes


def _ends(words: str) -> Iterator[tuple[float, bool, float]]:
    """Yield each end of a range in the words of the page: its value, whether it is allowed, and a value outside."""
    number = r"(-?[0-9][0-9,]*(?:\.[0-9]+)?)"
    if found := re.search(f", {number} to {number}$", words):
        low, high = (float(end.replace(",", "")) for end in found.groups())
        step = 1 if words.startswith("whole") else 1e-3
        yield low, True, low - step
        yield high, True, high + step
    for sign, end in re.findall(f"([<>≤≥]) {number}", words):
        value = float(end.replace(",", ""))
        yield value, sign in "≤≥", value + (1e-3 if sign in "<≤" else -1e-3)


def _refused(key: str, value: float) -> bool:
    """Return whether the program refuses a value because it is out of the range of its key."""
    try:
        load_config("v5_5", {key: value})
    except ConfigError as error:  # or because another setting does not go with it
        return re.search(rf"{re.escape(key)}: must be (less|greater) than", str(error)) is not None
    return False


def test_the_ranges_are_those_of_the_program() -> None:
    tried = 0
    for key, words, _, _ in _rows(PAGES["configuration"]):
        if not words.startswith(("number", "whole number")) or "->" in words or "." not in key:
            continue
        for end, allowed, outside in _ends(words):
            tried += 1
            assert _refused(key, outside), f"{key}: {outside}"
            assert _refused(key, end) is not allowed, f"{key}: {end}"
    assert tried > 120


@pytest.mark.parametrize("name", config_files())
def test_the_listed_changes_of_a_base_give_the_configuration(name: str) -> None:
    part = re.search(rf"^## {re.escape(name)}\n(.*?)(?=^## )", PAGES["configurations"], re.MULTILINE | re.DOTALL)
    assert part is not None
    found = re.search(r"Its base is `(.*)`\.", part[1])
    base = load_config(found[1]) if found else Config()
    changes = {key: yaml.safe_load(here) for key, _, here in _rows(part[1]) if here}
    data = load_config(name).model_dump()
    assert load_config(base.model_dump(), changes).model_dump() == {**data, "name": base.name}


def test_every_option_of_every_command_is_listed() -> None:
    for name, command in main.commands.items():
        part = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", PAGES["commands"], re.MULTILINE | re.DOTALL)
        assert part is not None, name
        listed = " ".join(option for option, _ in _rows(part[1]))
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                assert option in listed, f"{name} {option}"


def test_every_column_of_a_history_has_one_meaning_and_the_unit_of_its_quantity() -> None:
    described = {column for name in MEANINGS for column in (name, f"{name}_A", f"{name}_B")}
    assert set(COLUMNS) <= described
    assert all({name, f"{name}_A"} & set(COLUMNS) for name in MEANINGS)
    for name in MEANINGS.keys() & QUANTITIES.keys():
        assert MEANINGS[name][0] == QUANTITIES[name].unit, name
    rows = {column for names, *_ in _rows(PAGES["runs"]) for column in names.split(", ")}
    assert set(COLUMNS) <= rows


def test_a_run_has_exactly_the_listed_files(tmp_path: Path) -> None:
    changes = {
        "training.total_epochs": 2, "checkpoints.windows": [[1, 1]], "evaluation.latents": 64,
        "data.epoch_operations": 64,
    }
    run = run_experiment(load_config("quick", changes), [42], tmp_path)[42]
    made = {file.relative_to(run.path).as_posix() for file in run.path.rglob("*") if file.is_file()}
    listed = {name.replace("0050", "0001") for name in FILES} - {PACKED_HISTORY, PROBES}
    assert {name for name in made if "epoch_0000" not in name and "/." not in f"/{name}"} == listed


def test_every_public_name_has_a_task() -> None:
    names = {name for names in references.TASKS.values() for name in names.split()}
    assert set(ternary_lab.__all__) <= names


def test_every_figure_has_its_code() -> None:
    for name in json.loads((references.ROOT / "figures" / "manifest.json").read_text(encoding="utf-8")):
        part = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", PAGES["gallery"], re.MULTILINE | re.DOTALL)
        assert part is not None
        code = part[1].split("```python")[1]
        assert f'"{name}"' in code
        assert "notebooks/" not in part[1] or f'gallery.show("{name}"' in code

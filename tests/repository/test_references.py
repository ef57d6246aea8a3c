"""The reference pages agree with the program: ranges refuse, changes reproduce a configuration, no option is missing."""

from __future__ import annotations

import html
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from ternary_lab.cli import main
from ternary_lab.config import Config
from ternary_lab.config_files import config_files, load_config, settings
from ternary_lab.errors import ConfigError
from ternary_lab.settings import Section

FILE = Path(__file__).parents[2] / "docs" / "references.py"


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location(FILE.stem, FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES: dict[str, str] = {name: made() for name, made in _module().PAGES.items()}


def _rows(text: str) -> list[list[str]]:
    """Return the cells of all rows of the tables in a text, without the marks of code and escapes."""
    rows = [re.split(r"(?<!\\) *\| *", line)[1:-1] for line in text.splitlines() if line.startswith("| ")]
    cleaned = [[html.unescape(cell.strip().strip("`")).replace("\\", "") for cell in row] for row in rows]
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
            assert yaml.safe_load(rows.pop(key)) == yaml.safe_load(_module().as_yaml(field.default)), key
    assert rows.keys() == modes


def _outside(words: str) -> list[Any]:
    """Return values just outside a range in the words of the page."""
    if found := re.fullmatch(r"(whole )?number, (\S+) to (\S+)", words):
        low, high = (float(end.replace(",", "")) for end in found.groups()[1:])
        return [int(low) - 1, int(high) + 1] if found[1] else [low - 1e-6, high * (1 + 1e-6)]
    ends = {sign: float(end.replace(",", "")) for sign, end in re.findall(r"([<>≤≥]) ([-0-9,.e]*[0-9])", words)}
    step = {"<": 0.0, ">": 0.0, "≤": 1e-3, "≥": -1e-3}
    return [end + step[sign] for sign, end in ends.items()]


def test_values_outside_a_range_are_refused() -> None:
    tried = 0
    for key, words, _, _ in _rows(PAGES["configuration"]):
        if not words.startswith(("number", "whole number")) or "." not in key:
            continue
        for value in _outside(words):
            tried += 1
            with pytest.raises(ConfigError, match=re.escape(key)):
                load_config("v5_5", {key: value})
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

"""The data card, the model card and the page on reproducibility: their tables, numbers and references to tests."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import cards
import pytest
import yaml

from ternary_lab import load_config, load_runs
from ternary_lab.config import flatten
from ternary_lab.runs.load import PUBLISHED, published

ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("data_card", "model_card", "reproducibility")}


def _rows(table: str) -> list[list[str]]:
    """Return the cells of a table in Markdown without its heads."""
    lines = [
        re.split(r" \| ", re.sub(r"</?(?:code|wbr)>|\\(?!\|)", "", line).removeprefix("| ").removesuffix(" |"))
        for line in table.splitlines()
    ]
    assert {len(line) for line in lines} == {len(lines[0])}
    return lines[2:]


@pytest.mark.parametrize("page", PAGES)
def test_every_comment_of_a_page_becomes_a_table(page: str) -> None:
    assert "<!--" not in cards.with_tables(PAGES[page])


def test_every_table_is_on_a_page() -> None:
    assert set(cards.TABLES) == set(re.findall("<!-- (.+?) -->", "".join(PAGES.values())))


def test_the_experiments_are_those_of_the_published_runs() -> None:
    rows = _rows(cards.experiments())
    assert [row[0] for row in rows] == sorted({name.rpartition("/")[0] for name in published()})
    assert all(all(row) for row in rows)


def test_every_published_file_is_of_one_kind() -> None:
    *kinds, total = _rows(cards.kinds())
    assert sum(int(number) for *_, number, _ in kinds) == int(total[-2]) == len(cards.files())


def test_every_published_table_and_its_loader_are_known() -> None:
    assert set(cards.LOADERS) == {path.name for path in PUBLISHED.glob("*.csv")}
    for name, loader in cards.LOADERS.items():
        assert loader is None or len(loader()) == len((PUBLISHED / name).read_text().splitlines()) - 1
    assert len(_rows(cards.published_tables())) == len(cards.LOADERS)


def test_every_run_was_trained_on_a_machine_of_the_table() -> None:
    assert sum(int(row[-1]) for row in _rows(cards.machines())) == len(published())


def test_the_checksums_are_those_of_the_files() -> None:
    sums = dict(reversed(line.split("  ")) for line in cards.checksums().splitlines())
    assert sums.keys() == {path.relative_to(PUBLISHED).as_posix() for path in PUBLISHED.rglob("*") if path.is_file()}
    name = "v5_5/seed=42/config.yaml"
    assert sums[name] == hashlib.sha256((PUBLISHED / name).read_bytes()).hexdigest()


def test_the_weights_of_the_networks_add_up() -> None:
    *networks, total = (int(row[-1].replace(",", "")) for row in _rows(cards.networks()))
    assert sum(networks) == total


def test_the_settings_of_beyond_are_those_of_its_configuration() -> None:
    rows = _rows(cards.settings_of_beyond())
    beyond = flatten(load_config("beyond").as_dict())
    for key, _, new in rows:
        assert (json.dumps(beyond[key]) == json.dumps(yaml.safe_load(new))) if key in beyond else new == "absent", key
    assert "training.posterior_samples" in {key for key, *_ in rows}


def test_seed_42_has_the_highest_informative_coverage_of_v5_5() -> None:
    """As the data card says."""
    assert "Seed 42 has the highest informative coverage of the eight" in PAGES["data_card"]
    table = load_runs("v5_5").history.query("epoch == 100").set_index("seed")
    assert len(table) == 8
    assert all(table[f"informative_coverage_{pathway}"].idxmax() == 42 for pathway in "AB")


def test_every_test_that_a_page_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGES["reproducibility"])
    assert len(named) > 15
    assert [(file, name) for file, name in named if f"def {name}(" not in (ROOT / file).read_text()] == []

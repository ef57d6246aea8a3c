"""Tests of columns and criteria that have other names in older files."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
import torch

import ternary_lab
from ternary_lab import load_config, load_run
from ternary_lab.history import COLUMNS, FILE_COLUMNS, OLD_NAMES, name_in_files
from ternary_lab.runs.files import read_csv


def test_names_in_files_and_present_names_are_each_others_inverse() -> None:
    assert [OLD_NAMES.get(name, name) for name in FILE_COLUMNS] == list(COLUMNS)
    assert [name_in_files(name) for name in COLUMNS] == list(FILE_COLUMNS)


def test_a_history_of_old_column_names_is_read_under_the_present_ones() -> None:
    history = load_run("v5_5/seed=42").history
    assert isinstance(history, pd.DataFrame)
    assert list(history.columns) == list(COLUMNS)


@pytest.mark.parametrize("key", ["early_stopping.metric", "select_by"])
def test_an_old_criterion_is_read_as_the_present_one(key: str) -> None:
    old, new = (load_config("quick", {key: name}) for name in ("info_coverage", "informative_coverage"))
    assert old == new
    assert load_config(old.as_dict()) == new


def test_floats_are_read_exactly_by_every_version_of_pandas() -> None:
    written = torch.rand(1000, dtype=torch.float64).tolist()
    assert read_csv(io.StringIO("x\n" + "\n".join(map(repr, written))))["x"].tolist() == written


def test_every_table_is_read_with_exact_floats() -> None:
    """Only `runs.files` calls pandas directly, so no table is read with the wrong last digits of an older pandas."""
    files = Path(ternary_lab.__file__).parent.rglob("*.py")
    assert [file.name for file in files if "pd.read_csv(" in file.read_text(encoding="utf-8")] == ["files.py"]

"""Tests of error messages about unknown names.

A message is short for any number of names and suggests the most similar name.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ternary_lab.errors import FEW, RunError, nearest
from ternary_lab.runs.load import RunRecord, nearest_epochs

NAMES = st.lists(st.text("abcde_/", min_size=1, max_size=12), min_size=1, max_size=60, unique=True)


@given(NAMES, st.text(max_size=300))
def test_the_end_of_the_message_is_short_and_names_what_there_is(names: list[str], name: str) -> None:
    said = nearest(name, names, "HERE")
    assert any(one in said for one in names)
    assert said.count(",") < FEW
    assert ("HERE" in said) == (len(names) > FEW)


@given(NAMES, st.data())
def test_a_name_with_one_letter_too_many_is_found(names: list[str], data: st.DataObject) -> None:
    meant = data.draw(st.sampled_from(names))
    assert nearest(f"{meant}x", [meant, "0", "1"]) == f": did you mean {meant}?"


@pytest.mark.parametrize(("known", "said"), [
    ([], "; known here: none"), (["b", "c"], "; known here: b, c"),
    (["ab", "ax"], ": did you mean ax or ab?"), (["ab", "ac", "ad", "ae"], ": did you mean ae, ad or ac?"),
    (list("bcdefghij"), "; the nearest names are j, i, h. All names: `x`"),
])
def test_what_is_said(known: list[str], said: str) -> None:
    assert nearest("a", known, "`x`") == said


@given(st.lists(st.integers(0, 10**6), unique=True).map(sorted), st.integers(0, 10**6))
def test_of_many_epochs_the_nearest_are_said(known: list[int], epoch: int) -> None:
    said = nearest_epochs(epoch, known)
    assert said.count(",") < FEW
    if "nearest" in said:
        first = min(known, key=lambda one: abs(one - epoch))
        assert any(low <= first <= high for low, high in _ranges(said))
        assert said.endswith("All epochs: `RunRecord.epochs`")
    else:
        assert {number for low, high in _ranges(said) for number in range(low, high + 1)} == set(known)


def _ranges(said: str) -> list[tuple[int, int]]:
    return [(int(low), int(high or low)) for low, high in re.findall(r"(\d+)(?:-(\d+))?", said)]


def test_an_unknown_checkpoint_gets_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    (tmp_path / "checkpoints").mkdir()
    files = [tmp_path / "checkpoints" / f"epoch_{epoch:04d}.safetensors" for epoch in range(0, 400, 10)]
    for file in files:
        file.touch()
    with pytest.raises(RunError, match=r"; the nearest are those of epochs 90, 100, 110\. All epochs: "):
        RunRecord(tmp_path).checkpoint(101)
    files[0].rename(files[0].with_stem("best_val_loss"))
    with pytest.raises(RunError, match="no checkpoint best_val_los: did you mean best_val_loss"):
        RunRecord(tmp_path).checkpoint("best_val_los")

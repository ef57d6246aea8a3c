"""Tests of error messages about unknown names.

A message is short for any number of names and suggests the most similar name.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ternary_lab.errors import FEW, nearest

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

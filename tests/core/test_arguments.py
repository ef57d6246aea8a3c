"""Readers of a user's arguments: the same number in any spelling, paths that mean what a shell means."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from ternary_lab import ConfigError, InputError
from ternary_lab.arguments import MOST_SEEDS, fraction, read_path, read_seeds, short_path, whole_number
from ternary_lab.settings import read_yaml

SPELLINGS = (
    int, float, np.int64, np.int32, np.uint32, np.float64, np.array, torch.tensor, lambda n: pd.Series([n]).iloc[0],
    lambda n: torch.tensor(float(n), dtype=torch.float64),
)
NO_WHOLE_NUMBERS = (
    50.5, np.float32(0.1), float("inf"), float("nan"), True, np.True_, torch.tensor(True), "50", b"5", None, [50],
    np.arange(2), torch.zeros(2, dtype=torch.int64), 1j, {}, object,
)


@given(st.integers(0, 2**31 - 1), st.sampled_from(SPELLINGS))
def test_a_whole_number_is_the_same_in_every_spelling(n: int, spelled: Any) -> None:
    read = whole_number(spelled(n), "n")
    assert read == n
    assert type(read) is int
    assert read_seeds([spelled(n)]) == [n]


@pytest.mark.parametrize("value", NO_WHOLE_NUMBERS, ids=repr)
def test_anything_else_is_refused_in_one_sentence_that_names_it(value: Any) -> None:
    with pytest.raises(InputError, match=r"^epoch must be a whole number of at least 0, got \S.*$") as caught:
        whole_number(value, "epoch")
    assert "\n" not in str(caught.value)
    assert "np." not in str(caught.value)


def test_a_whole_number_has_a_range() -> None:
    assert whole_number(-3, "n", -3) == -3
    for n in (-1, 8, 1e300, np.int64(-5)):
        with pytest.raises(InputError, match=r"^n must be a whole number in 0\.\.7, got"):
            whole_number(n, "n", 0, 7)


@given(st.floats(0, 1) | st.integers(0, 1), st.sampled_from([float, np.float64, torch.tensor]))
def test_a_fraction_is_a_number_from_0_to_1(x: float, spelled: Any) -> None:
    assert fraction(spelled(x), "rho") == pytest.approx(float(x))


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), True, "0.5", None, [0.5]])
def test_no_fraction(value: Any) -> None:
    with pytest.raises(InputError, match=r"rho must be a number in \[0, 1\], got"):
        fraction(value, "rho")


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=9, unique=True))
def test_seeds_are_read_from_any_iterable(seeds: list[int]) -> None:
    for given_seeds in (seeds, tuple(seeds), iter(seeds), (s for s in seeds), np.array(seeds), pd.Series(seeds),
                        dict.fromkeys(seeds), torch.tensor(seeds), [float(s) for s in seeds]):
        assert read_seeds(given_seeds) == seeds


@pytest.mark.parametrize(("seeds", "words"), [
    (42, "42 is not a list of seeds: write one seed as [42]"), ("42", "'42' is not a list"),
    (None, "None is not a list"), (np.int64(42), "42 is not a list"), (np.array(42), "42 is not a list"),
    ([], "none given"), (iter(()), "none given"),
    ([3, 3.0], "3 is given twice"), ([np.int64(3), 3], "3 is given twice"), ([1.5], "1.5 is not an integer in 0..4294"),
    ([-1], "-1 is not an integer"), ([2**32], "4294967296 is not"), (["1"], "'1' is not"), ([True], "True is not"),
    (itertools.count(), f"more than {MOST_SEEDS} given"),
])
def test_wrong_seeds_are_named(seeds: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_seeds(seeds)
    assert str(caught.value).startswith("seeds: ")
    assert words in str(caught.value)


# --- paths


@pytest.fixture
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNS", "mine/runs")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NO_SUCH", raising=False)
    (tmp_path / "work" / "a$NO_SUCH").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")


@pytest.mark.usefixtures("_home")
@pytest.mark.parametrize(("written", "meant"), [
    ("runs/x", "runs/x"), ("~/tl", "../home/tl"), ("~", "../home"), ("$RUNS/x", "mine/runs/x"),
    ("${RUNS}2", "mine/runs2"),
    ("$HOME/$RUNS", "../home/mine/runs"), ("runs/~", "runs/~"), ("a$NO_SUCH/new", "a$NO_SUCH/new"), ("./~/x", "~/x"),
    ("5$", "5$"), ("c$/x", "c$/x"), ("${}", "${}"), ("$1", "$1"), (".", "."),
])
def test_a_path_means_what_a_shell_means(written: str, meant: str) -> None:
    for path in (written, *([] if written.startswith("./") else [Path(written)])):  # Path("./~") is Path("~")
        assert os.path.abspath(read_path(path)) == os.path.abspath(meant)
        assert read_path(read_path(path)) == read_path(path)


@pytest.mark.usefixtures("_home")
@pytest.mark.parametrize(("written", "words"), [
    ("$NO_SUCH/x", "variable NO_SUCH is not set"), ("$EMPTY/x", "variable EMPTY is not set"),
    ("x/${NO_SUCH}", "variable NO_SUCH is not set"),
    ("~no-such-user/x", "home folder ~no-such-user is not known"), ("", "empty"), ("a\0b", "null character"),
    (3, "got 3"), (None, "got None"),
])
def test_a_path_that_means_nothing_is_named(written: Any, words: str) -> None:
    with pytest.raises(InputError, match="path") as caught:
        read_path(written)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(st.characters(exclude_characters="$~\0", exclude_categories=["Cs"]), min_size=1))
def test_other_paths_stay_as_they_are(text: str) -> None:
    assert read_path(text) == Path(text)


@given(st.text(st.sampled_from("$~{}/.aB_1 "), max_size=12))
def test_any_path_is_read_once_and_for_all_or_refused(text: str) -> None:
    try:
        path = read_path(text)
    except InputError:
        return
    if "$" not in os.environ.get("HOME", ""):
        assert read_path(path) == path


@pytest.mark.usefixtures("_home")
def test_results_show_a_path_below_the_working_directory_as_relative() -> None:
    assert short_path(Path.cwd() / "runs" / "x") == "runs/x"
    assert short_path(Path("/elsewhere/x")) == "/elsewhere/x"


# --- numbers and words of YAML


@given(st.from_regex(r"[-+]?[0-9._:eExXbo,+-]{1,8}|[A-Za-z~<=]{1,5}|[0-9]{4}-[0-9]{2}-[0-9]{2}", fullmatch=True))
@example("1_")
@example("1__0")
@example("1_.5")
@example("0x_")
def test_yaml_reads_a_number_as_python_does_or_not_at_all(text: str) -> None:
    """There are no octal numbers, no numbers to base 60 and no dates."""
    try:
        value = read_yaml(text)
    except (yaml.YAMLError, ValueError):
        return
    if isinstance(value, bool):
        assert text.lower() == str(value).lower()
    elif isinstance(value, int):
        assert value == int(text, 0 if text.lstrip("+-")[:2].lower() in ("0x", "0b") else 10)
        assert text.lstrip("+-") == "0" or not text.lstrip("+-").startswith(("00", *(f"0{i}" for i in range(1, 10))))
    elif isinstance(value, float):
        assert text.lower().lstrip("+-") in (".inf", ".nan") or value == float(text)


@pytest.mark.parametrize("text", [
    "010", "1:30", "09", "0:03", "1:30.5", "off", "yes", "No", "2026-11-27", "=", "<<", "0o10",
])
def test_what_yaml_1_1_reads_as_something_else_is_a_text(text: str) -> None:
    assert read_yaml(text) == text
    assert read_yaml(f"{text}: 1") == {text: 1}

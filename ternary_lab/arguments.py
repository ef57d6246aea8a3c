"""Reading of the arguments that users hand over: whole numbers, seeds, paths and objects of the library.

Notebooks hand over numpy integers and whole floats. Users write `~` and `$NAME` in paths. Each function here returns a
plain value, or raises an error of one line that names the argument and the remedy.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ternary_lab.errors import ConfigError, InputError, TernaryLabError

LARGEST_SEED = 2**32 - 1
MOST_SEEDS = 100_000
"""Largest number of seeds in one call. The reader stops there, because an iterable may never end."""
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([^{}]+)\})", re.ASCII)


def plain(value: Any) -> Any:
    """Return the Python value of a number or an array of numpy, torch or pandas. Return other values unchanged."""
    return value.tolist() if callable(getattr(value, "tolist", None)) else value


def shown(value: Any) -> str:
    """Return an argument as a message shows it: without the name of a numpy type, and short."""
    text = repr(plain(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


def whole_number(
    value: Any, name: str, low: int = 0, high: int | None = None, error: type[TernaryLabError] = InputError
) -> int:
    """Return a whole number in `low`..`high` as an int.

    The value may be an int, an integer of numpy or torch, or a float without a fraction, such as 50.0. A bool or a text
    is not a whole number.

    Args:
        value: the argument.
        name: name of the argument in the message.
        low: smallest allowed number.
        high: largest allowed number; None: there is no largest number.
        error: class of the exception.

    Raises `error` for any other value.
    """
    number = as_whole(value)
    if number is None or number < low or (high is not None and number > high):
        span = f"of at least {low}" if high is None else f"in {low}..{high}"
        raise error(f"{name} must be a whole number {span}, got {shown(value)}")
    return number


def as_whole(value: Any) -> int | None:
    """Return the whole number that `value` stands for, or None if it stands for none (see `whole_number`)."""
    number = plain(value)
    if isinstance(number, bool):
        return None
    if isinstance(number, float):
        return int(number) if number.is_integer() else None
    try:
        return operator.index(number)
    except TypeError:
        return None


def spelling(text: str) -> str:
    """Return the end of a message about a number that is written in a way that people read differently.

    For example, some programs read 010 as 8 and 1:30 as 90. The result is ": write 10", or an empty text if nothing
    better than `text` is known.
    """
    if match := re.fullmatch(r"([-+]?)0[0_]*([0-9][0-9_]*)", text):
        return f": write {match[1]}{match[2]}"
    if re.fullmatch(r"[-+]?[0-9]+(:[0-9]+)+(\.[0-9]*)?", text):
        return ": write one number without a colon, such as 90"
    if re.fullmatch(r"[-+]?[0-9]*,[0-9]+", text):
        return f": write {text.replace(',', '.')}, with a point"
    return ""


def fraction(value: Any, name: str) -> float:
    """Return a number in [0, 1] as a float. Raises InputError for any other value, and for a bool."""
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1:
        raise InputError(f"{name} must be a number in [0, 1], got {shown(value)}")
    return float(number)


def read_seeds(seeds: Iterable[int]) -> list[int]:
    """Return the seeds of an iterable, for example of a list, a range, a numpy array or a generator.

    Raises ConfigError unless there is at least one seed, all are whole numbers in 0..2^32 - 1, and no seed is given
    twice.
    """
    if isinstance(seeds, str | bytes) or not isinstance(seeds, Iterable) or getattr(seeds, "ndim", 1) == 0:
        raise ConfigError(f"seeds: {shown(seeds)} is not a list of seeds: write one seed as [42]")
    given = list(islice(seeds, MOST_SEEDS + 1))
    if not given:
        raise ConfigError("seeds: none given: give at least one, for example 42")
    if len(given) > MOST_SEEDS:
        raise ConfigError(f"seeds: more than {MOST_SEEDS} given: train them in parts")
    found: dict[int, None] = {}
    for value in given:
        seed = as_whole(value)
        if seed is None or not 0 <= seed <= LARGEST_SEED:
            raise ConfigError(f"seeds: {shown(value)} is not an integer in 0..{LARGEST_SEED}")
        if seed in found:
            raise ConfigError(f"seeds: {seed} is given twice: a seed makes one run")
        found[seed] = None
    return list(found)


def read_path(path: str | os.PathLike[str]) -> Path:
    """Return a path of a user, in which `~`, `~USER`, `$NAME` and `${NAME}` are replaced.

    `~` stands for the user's home folder, and `$NAME` for the environment variable NAME. A `$NAME` is kept if a file or
    folder of exactly this name exists. Raises InputError if the path is empty, if a variable is not set or
    empty, or if a home folder is not known.
    """
    try:
        text = os.fsdecode(path)
    except TypeError:
        raise InputError(f"a path must be a text or a Path, got {shown(path)}") from None
    if not text:
        raise InputError("a path is empty: write . for the working directory")
    if "\0" in text:
        raise InputError(f"path {text!r}: a path cannot hold a null character: delete it")
    found = _expand_variables(text)
    if found.startswith("~"):
        home = os.path.expanduser(found)
        if home == found and not os.path.lexists(found):
            user = found.split(os.sep)[0]
            raise InputError(f"path {text!r}: the home folder {user} is not known: write the path without ~")
        found = home
    read = Path(found)
    # A path that still begins with ~, for example from ./~x, must not be replaced if it is read again.
    return read.absolute() if str(read).startswith("~") else read


def short_path(path: Path) -> str:
    """Return a path as results show it: relative to the working directory if it is inside it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _expand_variables(text: str) -> str:
    expanded, at = "", 0
    for match in _VARIABLE.finditer(text):
        expanded += text[at : match.start()]
        at = match.end()
        end = text.find(os.sep, at)
        name = match[1] or match[2]
        if os.path.lexists(expanded + text[match.start() : end if end >= 0 else len(text)]):
            expanded += match[0]
        elif value := os.environ.get(name):  # an empty variable would turn $NAME/x into /x
            expanded += value
        else:
            raise InputError(f"path {text!r}: the environment variable {name} is not set: set it or write the path out")
    return expanded + text[at:]


def named_values(value: Any, name: str) -> dict[str, Any]:
    """Return a mapping from texts to values as a dictionary. None is an empty mapping.

    Raises InputError for another argument, whose message holds `name`.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{name} must be a dictionary with texts as keys, got {shown(value)}: write {{'name': value}}")
    return dict(value)


def require(value: object, kind: type, name: str, remedy: str) -> None:
    """Raise InputError unless `value` is an instance of the class `kind`. The message holds `name` and `remedy`."""
    if not isinstance(value, kind):
        raise InputError(f"{name} must be a {kind.__name__}, got {shown(value)}: {remedy}")

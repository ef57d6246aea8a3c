"""The library's exceptions, one class per kind of mistake, and the names that their messages suggest.

Every message is one line: it names the faulty value and a remedy. The command line prints it and exits with status 2;
a programme catches `TernaryLabError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib.util import find_spec

FEW = 8
"""A message lists all known names if there are at most this many."""


class TernaryLabError(Exception):
    """Base class of all errors that this library raises on purpose."""


class ConfigError(TernaryLabError, ValueError):
    """A setting that is unknown, of the wrong type or out of range, or a file that is not a configuration."""


class InputError(TernaryLabError, ValueError):
    """An argument whose shape, type, device or values do not fit the operation."""


class DeviceError(TernaryLabError, RuntimeError):
    """A device that is missing, busy or full, or that has failed."""


class CheckpointError(TernaryLabError):
    """A checkpoint that is missing, truncated, of another format or of other shapes, or that contains code."""


class DivergenceError(TernaryLabError, ArithmeticError):
    """A loss or a gradient that is no longer finite."""


class RunError(TernaryLabError):
    """A run directory that cannot be read, written or continued."""


class EngineError(TernaryLabError, RuntimeError):
    """An engine for sweeps that is not installed, cannot be reached, or lacks resources."""


class NotebookError(TernaryLabError):
    """A notebook that lacks its parameters, or a parameter that a notebook does not accept."""


EXTRAS = {
    "notebooks": (
        "IPython", "PIL", "ipywidgets", "jupyter_client", "matplotlib", "nbclient", "nbconvert", "nbformat",
        "papermill", "seaborn",
    ),
    "explorer": ("anywidget", "jscatter", "traitlets", "umap"),
    "cluster": ("ray",),
}
"""Extra of pyproject.toml -> the packages that it installs, by the names under which they are imported."""


class MissingPackageError(TernaryLabError, ImportError):
    """A package of an extra that is not installed."""


def missing(package: str) -> str:
    """Message that a package is not installed, with the command that installs it."""
    (extra,) = [extra for extra, packages in EXTRAS.items() if package in packages]
    return f"{package} is missing: pip install 'ternary-lab[{extra}]'"


def need(*packages: str) -> None:
    """Raise MissingPackageError for the first package that is not installed. Imports none of them."""
    for package in packages:
        if find_spec(package) is None:
            raise MissingPackageError(missing(package))


def nearest(name: str, known: Iterable[str], lists: str = "", prefix: str = "") -> str:
    """The end of a message about an unknown name: up to three similar known names.

    If no name is similar, it lists all names where they are few, else the three nearest.

    Args:
        lists: a command that prints all names; mentioned where the names are many.
        prefix: stands before each similar name.
    """
    names = list(known)
    name = name[:200]  # the time of a comparison grows with the square of the length
    if close := [f"{prefix}{one}" for one in difflib.get_close_matches(name, names, n=3, cutoff=0.5)]:
        said = f": did you mean {' or '.join(filter(None, (', '.join(close[:-1]), close[-1])))}?"
    elif len(names) <= FEW:
        return f"; known here: {', '.join(names) or 'none'}"
    else:
        said = f"; the nearest names are {', '.join(difflib.get_close_matches(name, names, n=3, cutoff=0))}."
    return f"{said} All names: {lists}" if lists and len(names) > FEW else said.removesuffix(".")

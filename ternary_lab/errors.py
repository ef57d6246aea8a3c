"""What a user can get wrong, one class per kind of thing.

Every message is one line that names the offender and says what to do about it. The command line
prints it and exits with status 2; a programme catches `TernaryLabError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib.util import find_spec

FEW = 8
"""So many names at most are all named in a message."""


class TernaryLabError(Exception):
    """Base of every error that this library raises on purpose."""


class ConfigError(TernaryLabError, ValueError):
    """A setting that is unknown, of the wrong type or out of range, or a file that is no configuration."""


class InputError(TernaryLabError, ValueError):
    """A tensor or argument whose shape, type, device or values do not fit the operation."""


class DeviceError(TernaryLabError, RuntimeError):
    """A device that was asked for and is not there, is busy or full, or has failed."""


class CheckpointError(TernaryLabError):
    """A checkpoint that is missing, truncated, foreign, of other shapes, or that carries code."""


class DivergenceError(TernaryLabError, ArithmeticError):
    """A loss or a gradient that is no longer finite."""


class RunError(TernaryLabError):
    """A run directory that cannot be read, written or continued as asked."""


class EngineError(TernaryLabError, RuntimeError):
    """An engine that is not installed, cannot be reached, or lacks what it is asked for."""


class NotebookError(TernaryLabError):
    """A notebook, or a parameter for one, that breaks the contract between caller and notebook."""


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
    """The end of a message on an unknown name: up to three known names that are like it.

    Where none is like it, all are named if they are few, else the three nearest. `lists` says where all of them are
    to be found, such as a command; it is named where they are many. `prefix` stands before each name.
    """
    names = list(known)
    asked = name[:200]  # the time to compare grows with the square of the length
    if close := [f"{prefix}{one}" for one in difflib.get_close_matches(asked, names, n=3, cutoff=0.5)]:
        said = f": did you mean {' or '.join(filter(None, (', '.join(close[:-1]), close[-1])))}?"
    elif len(names) <= FEW:
        return f"; known here: {', '.join(names) or 'none'}"
    else:
        said = f"; the nearest names are {', '.join(difflib.get_close_matches(asked, names, n=3, cutoff=0))}."
    return f"{said} All names: {lists}" if lists and len(names) > FEW else said.removesuffix(".")

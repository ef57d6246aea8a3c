"""The library's exceptions, and suggestions of known names for their messages.

Each kind of mistake has its own class. A message is one line, which names the faulty value and a remedy. The command
line prints the message and exits with status 2. A programme can catch `TernaryLabError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

FEW = 8
"""Largest number of known names that a message lists completely."""


class TernaryLabError(Exception):
    """Base class of the errors that this library raises on purpose."""


class ConfigError(TernaryLabError, ValueError):
    """Error for an invalid setting or an invalid configuration file.

    A setting is invalid if it is unknown, has the wrong type or is out of range.
    """


class InputError(TernaryLabError, ValueError):
    """Error for an argument of wrong shape, type, device or value."""


class DeviceError(TernaryLabError, RuntimeError):
    """Error for a device that is missing, busy or full, or that has failed."""


class CheckpointError(TernaryLabError):
    """Error for a checkpoint that cannot be loaded.

    The checkpoint is missing or truncated, has another format or other shapes, or contains code.
    """


class DivergenceError(TernaryLabError, ArithmeticError):
    """Error for a loss or a gradient that is no longer finite."""


class RunError(TernaryLabError):
    """Error for a run directory that cannot be read, written or continued."""


class EngineError(TernaryLabError, RuntimeError):
    """Error for an engine of sweeps that is not installed, cannot be reached, or lacks resources."""


class NotebookError(TernaryLabError):
    """Error for a notebook that lacks parameters, or for a parameter that a notebook does not accept."""


EXTRAS = {
    "notebooks": (
        "IPython", "PIL", "ipywidgets", "jupyter_client", "matplotlib", "nbclient", "nbconvert", "nbformat",
        "papermill", "seaborn",
    ),
    "explorer": ("anywidget", "traitlets"),
    "cluster": ("ray",),
}
"""The packages that each extra of pyproject.toml installs. A package has the name under which it is imported."""


class MissingPackageError(TernaryLabError, ImportError):
    """Error for a package that belongs to an extra and is not installed."""


def missing(package: str) -> str:
    """Return a message that a package is not installed, with the command that installs the package."""
    (extra,) = [extra for extra, packages in EXTRAS.items() if package in packages]
    return f"{package} is missing: pip install 'ternary-lab[{extra}]'"


def need(*packages: str) -> None:
    """Raise MissingPackageError for the first package that is not installed. No package is imported."""
    for package in packages:
        if find_spec(package) is None:
            raise MissingPackageError(missing(package))


def nearest(name: str, known: Iterable[str], lists: str = "", prefix: str = "") -> str:
    """Return the end of a message about an unknown name, with up to three similar known names.

    If no known name is similar, the text lists all known names if there are at most `FEW`, or else the three most
    similar names.

    Args:
        lists: a command that prints all names. The text mentions this command if there are more than `FEW` names.
        prefix: text in front of each similar name.
    """
    from difflib import get_close_matches  # slow to import for `ternary-lab --help`

    names = list(known)
    name = name[:200]  # The time of a comparison grows with the square of the length.
    if close := [f"{prefix}{one}" for one in get_close_matches(name, names, n=3, cutoff=0.5)]:
        said = f": did you mean {' or '.join(filter(None, (', '.join(close[:-1]), close[-1])))}?"
    elif len(names) <= FEW:
        return f"; known here: {', '.join(names) or 'none'}"
    else:
        said = f"; the nearest names are {', '.join(get_close_matches(name, names, n=3, cutoff=0))}."
    return f"{said} All names: {lists}" if lists and len(names) > FEW else said.removesuffix(".")


def first_names(names: Iterable[object]) -> str:
    """Return the first `FEW` names, each with at most 60 characters, and the number of the others."""
    known = [f"{name!s:.60}" for name in names]
    shown = ", ".join(name if name.isprintable() else repr(name) for name in known[:FEW]) or "none"
    return f"{shown} and {len(known) - FEW} more" if len(known) > FEW else shown

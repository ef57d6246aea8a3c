"""What a user can get wrong, one class per kind of thing.

Every message is one line that names the offender and says what to do about it. The command line
prints it and exits with status 2; a programme catches `TernaryLabError`.
"""

from __future__ import annotations


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

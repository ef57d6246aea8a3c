"""Output that never stops the work.

The reader of a pipe may have ended, a disk may be full, a stream may be closed, and an encoding may lack a letter. Then
a line about progress is left out, and the work goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")


class SteadyStream:
    """A text stream that leaves out what it cannot write. It raises no error of the stream below it.

    `stream` is the stream below, such as sys.stderr, or None if the process has no such stream.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.error: Exception | None = None
        """The first error of the stream below, or None."""

    def write(self, text: str) -> int:
        self._call("write", text)
        return len(text)

    def flush(self) -> None:
        self._call("flush")

    def isatty(self) -> bool:
        return bool(self._call("isatty"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _call(self, method: str, *arguments: Any) -> Any:
        if self.stream is None:
            return None
        try:
            return getattr(self.stream, method)(*arguments)
        # ValueError: the stream is closed, or its encoding lacks a letter. RuntimeError: the handler of a signal writes
        # while the interrupted code writes to the same stream.
        except (OSError, ValueError, RuntimeError) as error:
            self.error = self.error or error
            return None


def say(text: str) -> None:
    """Print a line on stderr. Raises no error if the line cannot be printed."""
    print(text, file=SteadyStream(sys.stderr), flush=True)


def on_terminal() -> bool:
    """Return whether stderr is a terminal."""
    return SteadyStream(sys.stderr).isatty()


@overload
def bar(items: Iterable[T], *, show: bool, **options: Any) -> tqdm[T]: ...


@overload
def bar(*, show: bool, **options: Any) -> tqdm[Any]: ...


def bar(items: Any = None, *, show: bool, **options: Any) -> tqdm[Any]:
    """Return a progress bar on stderr, or a hidden one if `show` is false. Raises no error if it cannot be printed.

    `items` and `options` are those of `tqdm.tqdm`.
    """
    from tqdm import tqdm  # not installed where `make gpu` runs

    return tqdm(items, disable=not show, file=SteadyStream(sys.stderr), dynamic_ncols=True, **options)

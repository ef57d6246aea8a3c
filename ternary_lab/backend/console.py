"""Output that never stops the work.

The reader of a pipe may have ended, a disk may be full, a stream may be closed, and an encoding may lack a letter. Then
a line about progress is left out, and the work goes on.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypeVar, cast, overload

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")
FAILED, READER_ENDED = 2, 141
"""Exit status of a command whose result could not be written to stdout: because of an error, or because the reader of
stdout had ended, as in `ternary-lab train quick | head -1`."""


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

    def discard(self) -> None:
        """Let what the stream still holds go to /dev/null. Otherwise Python would try again to write it at its end."""
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            self.flush()


def say(text: str) -> None:
    """Print a line on stderr. Raises no error if the line cannot be printed."""
    print(text, file=SteadyStream(sys.stderr), flush=True)


def time_to_go(seconds: float) -> str:
    """Return the words for a remaining time: "about 3 min to go", in the unit that keeps the number small."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"about {seconds / length:.0f} {unit} to go"
    return f"about {seconds:.0f} s to go"


def on_terminal(name: Literal["stdout", "stderr"] = "stderr") -> bool:
    """Return whether a standard stream of the process is a terminal."""
    return SteadyStream(getattr(sys, name)).isatty()


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


@contextlib.contextmanager
def steady_output() -> Iterator[None]:
    """Let no failure of stdout or stderr stop the work of a command, which is the `with` block.

    If the block ends in `sys.exit` with status 0 and stdout has failed, the status becomes `READER_ENDED` or `FAILED`.
    A letter that the encoding of a stream lacks is written as an escape such as \\u03b2.
    """
    _open_missing_streams()
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            ascii_only = codecs.lookup(stream.encoding).name == "ascii"  # click would open such a stream a second time
            stream.reconfigure(encoding="utf-8" if ascii_only else None, errors="backslashreplace")
    out, err = SteadyStream(sys.stdout), SteadyStream(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield
    except SystemExit as end:
        out.flush()
        if out.error is None or end.code:
            raise
        if isinstance(out.error, BrokenPipeError):
            raise SystemExit(READER_ENDED) from None
        reason = getattr(out.error, "strerror", None) or out.error
        say(f"error: standard output cannot be written: {reason}: free space, then repeat the command")
        raise SystemExit(FAILED) from None
    finally:
        sys.stdout, sys.stderr = before
        for steady in (out, err):
            steady.flush()
            if steady.error is not None:
                steady.discard()


def _open_missing_streams() -> None:
    """Open /dev/null in place of the standard streams that the process lacks (`2>&-`).

    Otherwise the next file that is opened, such as a run's history, would become the standard stream of every library
    and child process.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number is `descriptor`
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w", closefd=False))

"""Output streams and exit status of a command.

    0    the work is done
    1    the work is done, and found a difference, a failed run or a problem
    2    an error, which one line on stderr names; or the result cannot be written to stdout
    128 + n    signal n has stopped the command: 130 after Ctrl-C, 143 after SIGTERM
    141  the work is done, but the reader of stdout had ended (`ternary-lab train quick | head -1`)
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO, cast

from ternary_lab.backend.console import SteadyStream

PIPE_CLOSED = 141


@contextlib.contextmanager
def steady_output() -> Iterator[None]:
    """Let no failure of stdout or stderr stop the work inside the `with` block.

    If the block ends with status 0, the status becomes 141 if the reader of stdout had ended, and 2 if stdout could not
    be written for another reason. A letter that the encoding of a stream lacks is written as an escape such as \\u03b2.
    """
    _open_missing_streams()
    before = sys.stdout, sys.stderr
    out, err = SteadyStream(sys.stdout), SteadyStream(sys.stderr)
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            ascii_only = codecs.lookup(stream.encoding).name == "ascii"  # click would open such a stream a second time
            stream.reconfigure(encoding="utf-8" if ascii_only else None, errors="backslashreplace")
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield
    except SystemExit as end:
        out.flush()
        if out.error is None or end.code:
            raise
        if isinstance(out.error, BrokenPipeError):
            raise SystemExit(PIPE_CLOSED) from None
        reason = getattr(out.error, "strerror", None) or out.error
        print(f"error: standard output cannot be written: {reason}: free space, then repeat the command", file=err)
        raise SystemExit(2) from None
    finally:
        sys.stdout, sys.stderr = before
        for steady in (out, err):
            steady.flush()
            if steady.error is not None:
                _discard(steady)


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


def _discard(steady: SteadyStream) -> None:
    """Let what a stream still holds go to /dev/null. Otherwise Python would try again at its end, and exit with 120."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, steady.fileno())
        os.close(null)
        steady.flush()

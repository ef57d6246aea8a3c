"""Progress of training on stderr: a bar on a terminal, or lines in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from ternary_lab.backend.console import bar, on_terminal, say
from ternary_lab.history import EpochRecord

SECONDS = 30.0
"""Smallest number of seconds between two lines."""


@contextlib.contextmanager
def progress_bar(
    label: str, start: int, total: int, show: bool
) -> Iterator[Callable[[Sequence[EpochRecord]], None]]:
    """Show the progress of training if `show` is true: by a bar on a terminal, or by lines in a log.

    A line is printed at the start, about every `SECONDS` seconds, and at the end. In a notebook nothing is shown.
    Yields a function that the caller calls with the records of each epoch. The numbers shown are those of the first
    record.
    """
    terminal = on_terminal()
    in_log = show and not terminal and "ipykernel" not in sys.modules
    began = last_line = time.monotonic()

    def print_line(text: str) -> None:
        if in_log:
            say(f"{label}: {text}")

    def update(records: Sequence[EpochRecord]) -> None:
        nonlocal last_line
        row = records[0]
        coverage = f"informative coverage {row.informative_coverage_A:.2f}/{row.informative_coverage_B:.2f} %"
        figures = f"{f'seed {row.seed}: ' if len(records) > 1 else ''}loss {row.train_loss:.3f}, {coverage}"
        shown.update(1)
        shown.set_postfix_str(figures)
        if time.monotonic() - last_line > SECONDS:
            last_line = time.monotonic()
            print_line(f"epoch {row.epoch}, {figures}")

    with bar(show=show and terminal, total=total, initial=start, desc=label, unit="epoch") as shown:
        print_line(f"starts at epoch {start} of {total}")
        yield update
        print_line(f"done in {time.monotonic() - began:.0f} s")

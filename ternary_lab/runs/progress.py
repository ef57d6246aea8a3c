"""Progress of a training on stderr: a bar on a terminal, lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from ternary_lab.history import EpochRecord

SECONDS = 30.0
"""Seconds between two lines."""


class Progress:
    """A bar on a terminal; elsewhere a line at the start, every `SECONDS` and at the end."""

    def __init__(self, label: str, start: int, total: int, show: bool) -> None:
        terminal = sys.stderr.isatty()
        self._label = label
        self._lines = show and not terminal and "ipykernel" not in sys.modules
        self._bar: Any = tqdm(
            total=total, initial=start, desc=label, unit="epoch", disable=not (show and terminal), dynamic_ncols=True
        )
        self._began = self._last_line = time.monotonic()
        self._print(f"from epoch {start}")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._bar.close()
        if error is None:
            self._print(f"done in {time.monotonic() - self._began:.0f} s")

    def update(self, records: Sequence[EpochRecord]) -> None:
        """Show an epoch by the figures of the first run."""
        row = records[0]
        coverage = f"informative coverage {row.informative_coverage_A:.2f}/{row.informative_coverage_B:.2f} %"
        figures = f"loss {row.train_loss:.3f}, {coverage}"
        self._bar.update(1)
        self._bar.set_postfix_str(figures)
        if time.monotonic() - self._last_line > SECONDS:
            self._last_line = time.monotonic()
            self._print(f"epoch {row.epoch}, {figures}")

    def _print(self, text: str) -> None:
        if self._lines:
            print(f"{self._label}: {text}", file=sys.stderr, flush=True)

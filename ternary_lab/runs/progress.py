"""Progress bar and Ctrl-C of a training."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from ternary_lab.history import EpochRecord
from ternary_lab.runs.directory import Planned


class Interrupt:
    """Ctrl-C, or the notebook's stop button, ends a training after the epoch under way; a second one at once.

    Nothing between two epochs can be gone on with, so what a step would save is less than it would cost.
    """

    def __init__(self) -> None:
        self._asked = False
        # Elsewhere than in the main thread, or where somebody else handles it, it is not ours to change.
        self._ours = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )

    def __enter__(self) -> Interrupt:
        if self._ours:
            signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _ask(self, *_: object) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nthis epoch is finished and kept; once more to stop at once", file=sys.stderr, flush=True)

    def check(self) -> None:
        """Raises KeyboardInterrupt when it was asked for."""
        if self._asked:
            raise KeyboardInterrupt("stopped after an epoch: the same call goes on from there")


class Progress:
    """A bar on a terminal; in a log a line at the start, one every half minute, one at the end."""

    def __init__(self, planned: Sequence[Planned], start: int, total: int, show: bool) -> None:
        terminal = sys.stderr.isatty()
        self.lines = show and not terminal and "ipykernel" not in sys.modules
        label = f"{planned[0].config.name}, {len(planned)} run{'s' if len(planned) > 1 else ''}"
        self.label = label
        self.bar: Any = tqdm(
            total=total, initial=start, desc=label, unit="epoch", disable=not (show and terminal), dynamic_ncols=True
        )
        self.last = self.began = time.monotonic()
        self._say(f"from epoch {start}")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.bar.close()
        if error is None:
            self._say(f"done in {time.monotonic() - self.began:.0f} s")

    def update(self, records: Sequence[EpochRecord]) -> None:
        row = records[0]
        coverage = f"informative coverage {row.informative_coverage_A:.2f}/{row.informative_coverage_B:.2f} %"
        figures = f"loss {row.train_loss:.3f}, {coverage}"
        self.bar.update(1)
        self.bar.set_postfix_str(figures)
        if time.monotonic() - self.last > 30:
            self.last = time.monotonic()
            self._say(f"epoch {row.epoch}, {figures}")

    def _say(self, text: str) -> None:
        if self.lines:
            print(f"{self.label}: {text}", file=sys.stderr, flush=True)

"""The page of a run as a widget, and the still picture of its map.

The widget shows the JavaScript module of `ternary_lab.page`. The module needs the kernel for nothing but the synced
state: after the kernel has ended, the page goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import anywidget
import traitlets
from torch import Tensor

from ternary_lab import space
from ternary_lab.arguments import as_whole, shown, whole_number
from ternary_lab.errors import InputError, RunError
from ternary_lab.figures.codes import CodeMap
from ternary_lab.metrics.codes import all_codes
from ternary_lab.metrics.entry_effects import entry_effects
from ternary_lab.model import PATHWAYS, Pathway
from ternary_lab.page.build import FOLDER
from ternary_lab.page.data import Bundle, kept_epochs, longest_steps
from ternary_lab.runs.load import RunRecord

HEIGHT = 640
"""Height of a page in pixels."""


class Page(anywidget.AnyWidget):
    """The page of one run, or of two runs side by side. `ternary_lab.page.data` describes header and parts."""

    _esm = FOLDER / "explorer.js"
    _css = FOLDER / "explorer.css"
    header = traitlets.Dict().tag(sync=True)
    parts = traitlets.Dict().tag(sync=True)
    second_header = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    """Header of the second run, or None if the page shows one run."""
    second_parts = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    height = traitlets.Int(HEIGHT).tag(sync=True)
    epoch = traitlets.Int().tag(sync=True)
    """The shown epoch of the first run."""
    pathway = traitlets.Enum(PATHWAYS, default_value="B").tag(sync=True)
    chosen = traitlets.List(traitlets.Int()).tag(sync=True)
    """Indices of the chosen operations, in the order of choosing."""

    def __init__(self, first: Bundle, second: Bundle | None = None, **state: Any) -> None:
        other = {} if second is None else {"second_header": second.header, "second_parts": second.parts}
        super().__init__(header=first.header, parts=first.parts, **other, **state)


@dataclass(frozen=True)
class StillMap:
    """Maps of a run for pictures, in the plane of the two entries with the longest steps at the last epoch."""

    run: RunRecord

    @cached_property
    def epochs(self) -> list[int]:
        """The epochs with saved weights, in rising order. Raises RunError for a run without weights."""
        return kept_epochs(self.run)

    @cached_property
    def entries(self) -> tuple[int, int]:
        across, up = longest_steps(entry_effects(self.codes(self.epochs[-1])))
        return across, up

    def codes(self, epoch: int) -> Tensor:
        """Return the means of all codes (2, N, L) at an epoch, of pathway A and of pathway B."""
        return all_codes(self.run.model(epoch).core)[0][:, 0]

    def at(
        self, epoch: int, pathways: Sequence[Pathway] = PATHWAYS, name: str = "", entries: tuple[int, int] | None = None
    ) -> list[CodeMap]:
        """Return the maps at an epoch. Their titles begin with `name`, and `entries` may give another plane."""
        epoch = whole_number(epoch, "epoch", error=RunError)
        mu = self.codes(epoch)
        return [
            CodeMap(f"{name}pathway {pathway}, epoch {epoch}", mu[PATHWAYS.index(pathway)], entries or self.entries)
            for pathway in pathways
        ]


def chosen_operations(values: Sequence[object]) -> list[int]:
    """Return indices of operations, each once, in their order. Raises InputError for values that are no indices."""
    indices = [as_whole(value) for value in values]
    if any(i is None or not 0 <= i < space.SIZE for i in indices):
        raise InputError(f"chosen operations must be whole numbers in 0..{space.SIZE - 1}, got {shown(values)}")
    return list(dict.fromkeys(i for i in indices if i is not None))

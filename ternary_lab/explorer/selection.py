"""What the parts of the explorer look at together: a run, an epoch, a pathway and the chosen operations."""

from __future__ import annotations

from pathlib import Path

import traitlets

from ternary_lab import space
from ternary_lab.explorer.codes_by_epoch import Atlas, Snapshot
from ternary_lab.model import PATHWAYS
from ternary_lab.runs.load import RunRecord, load_run


class View(traitlets.HasTraits):
    """Shared state; each part observes what it shows. `View.of(run)` makes one for a part that stands alone."""

    epoch = traitlets.Int()
    pathway = traitlets.Enum(PATHWAYS, default_value="B")
    selection = traitlets.Tuple(default_value=())
    """Indices of the chosen operations, in rising order."""

    def __init__(self, run: RunRecord) -> None:
        self.atlas = Atlas(run)
        super().__init__(epoch=self.atlas.epochs[-1])

    @staticmethod
    def of(source: View | RunRecord | str | Path) -> View:
        """The view itself, or a new one on a run: its directory, or a published one's name. Raises RunError."""
        if isinstance(source, View):
            return source
        return View(source if isinstance(source, RunRecord) else load_run(source))

    @traitlets.validate("epoch")
    def _known(self, proposal: traitlets.Bunch) -> int:
        """The kept epoch nearest to the one asked for."""
        return min(self.atlas.epochs, key=lambda epoch: abs(epoch - proposal["value"]))

    @traitlets.validate("selection")
    def _within(self, proposal: traitlets.Bunch) -> tuple[int, ...]:
        return tuple(sorted({int(i) for i in proposal["value"] if 0 <= int(i) < space.SIZE}))

    @property
    def snapshot(self) -> Snapshot:
        """The weights of the epoch looked at. Raises CheckpointError for damaged ones."""
        return self.atlas[self.epoch]

    @property
    def side(self) -> int:
        """Place of the pathway in a snapshot's tensors."""
        return PATHWAYS.index(self.pathway)

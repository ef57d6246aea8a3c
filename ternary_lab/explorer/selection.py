"""The state that the views share, `Selection`: a run, an epoch, a pathway and the chosen operations."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import traitlets
from torch import Tensor

from ternary_lab import space
from ternary_lab.explorer.codes_by_epoch import CodesByEpoch, Snapshot
from ternary_lab.model import PATHWAYS
from ternary_lab.runs.load import RunRecord, load_run


class Selection(traitlets.HasTraits):
    """Views that show the same `Selection` change together. `Selection.of(run)` makes one for a single view."""

    epoch = traitlets.Int()
    pathway = traitlets.Enum(PATHWAYS, default_value="B")
    operations = traitlets.Tuple(default_value=())
    """Indices of the chosen operations, in rising order."""

    def __init__(self, run: RunRecord) -> None:
        self.codes = CodesByEpoch(run)
        super().__init__(epoch=self.codes.epochs[-1])

    @staticmethod
    def of(source: Source) -> Selection:
        """The selection itself, or a new one for a run, its directory or a published run's name. Raises RunError."""
        if isinstance(source, Selection):
            return source
        return Selection(source if isinstance(source, RunRecord) else load_run(source))

    @traitlets.validate("epoch")
    def _nearest_epoch(self, proposal: traitlets.Bunch) -> int:
        return min(self.codes.epochs, key=lambda epoch: abs(epoch - proposal["value"]))

    @traitlets.validate("operations")
    def _valid_operations(self, proposal: traitlets.Bunch) -> tuple[int, ...]:
        return tuple(sorted({int(i) for i in proposal["value"] if 0 <= int(i) < space.SIZE}))

    @property
    def snapshot(self) -> Snapshot:
        """Model and codes at the epoch. Raises CheckpointError when its checkpoint is damaged."""
        return self.codes[self.epoch]

    @property
    def mu(self) -> Tensor:
        """(N, L): means of all operations' codes at the epoch, in the pathway."""
        return self.snapshot.mu[PATHWAYS.index(self.pathway)]


Source: TypeAlias = Selection | RunRecord | str | Path
"""What a view is made for: an existing selection, a run, a run's directory or a published run's name."""

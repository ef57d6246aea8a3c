"""The state that the views share: a run, an epoch, a pathway and the chosen operations."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import traitlets
from torch import Tensor

from ternary_lab import space
from ternary_lab.arguments import as_whole, shown
from ternary_lab.errors import InputError
from ternary_lab.explorer.codes_by_epoch import CodesByEpoch, Snapshot
from ternary_lab.model import PATHWAYS
from ternary_lab.runs.load import RunRecord, load_run


class Selection(traitlets.HasTraits):
    """A run, an epoch, a pathway and the chosen operations.

    Views that share a `Selection` change together.
    """

    epoch = traitlets.CInt()
    pathway = traitlets.Enum(PATHWAYS, default_value="B")
    operations = traitlets.Tuple(default_value=())
    """Indices of the chosen operations, in rising order. Indices outside of 0..N - 1 are dropped."""

    def __init__(self, run: RunRecord) -> None:
        self.codes = CodesByEpoch(run)
        super().__init__(epoch=self.codes.epochs[-1])

    @staticmethod
    def of(source: Source) -> Selection:
        """Return `source` if it is a selection; otherwise return a new selection.

        A run, a run's directory or the name of a published run gives a new selection. Raises RunError if the run does
        not exist or has no weights.
        """
        if isinstance(source, Selection):
            return source
        return Selection(source if isinstance(source, RunRecord) else load_run(source))

    @traitlets.validate("epoch")
    def _nearest_epoch(self, proposal: traitlets.Bunch) -> int:
        return min(self.codes.epochs, key=lambda epoch: abs(epoch - proposal["value"]))

    @traitlets.validate("operations")
    def _valid_operations(self, proposal: traitlets.Bunch) -> tuple[int, ...]:
        indices = {as_whole(i) for i in proposal["value"]}
        if None in indices:
            raise InputError(f"operations must be whole numbers, got {shown(proposal['value'])}")
        return tuple(sorted(i for i in indices if i is not None and 0 <= i < space.SIZE))

    @property
    def snapshot(self) -> Snapshot:
        """Model and codes at the chosen epoch. Raises CheckpointError if the checkpoint of the epoch is damaged."""
        return self.codes[self.epoch]

    @property
    def mu(self) -> Tensor:
        """(N, L): the means of the codes of all operations, at the chosen epoch and in the chosen pathway."""
        return self.snapshot.mu[PATHWAYS.index(self.pathway)]


Source: TypeAlias = Selection | RunRecord | str | Path
"""Types from which a view can be made: a selection, a run, a run's directory or the name of a published run."""

"""The state of a run between two epochs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ternary_lab import space
from ternary_lab.config import Config
from ternary_lab.controllers import Controllers
from ternary_lab.history import Criterion, cost
from ternary_lab.model import Architecture
from ternary_lab.networks import Blocks


@dataclass(frozen=True)
class Best:
    """The best epoch so far under a criterion. A smaller `value` is better."""

    value: float = float("inf")
    epoch: int = -1

    def or_better(self, row: Mapping[str, Any], criterion: Criterion) -> Best:
        """Return the epoch of `row`, a row of the history, if it is better than this epoch, or else this epoch."""
        value = cost(row, criterion)
        return Best(value, row["epoch"]) if value < self.value else self


@dataclass
class RunState:
    """State of one run between two epochs.

    It contains no state of random generators, because seed and epoch determine all random streams.
    """

    next_epoch: int
    steps: int
    blocks: Blocks
    first_moments: Blocks
    second_moments: Blocks
    controllers: Controllers
    best: Best
    """The best epoch under the early-stopping metric."""
    selected: Best = Best()
    """The best epoch under the criterion that chooses the run's model."""
    stopped: str | None = None
    """Reason why the run has ended, or None if it has not ended."""
    output: Tensor | None = None
    """(2, 1, N): moving averages of the output distributions of A and B, or None without information terms."""

    @staticmethod
    def initial(config: Config, seed: int) -> RunState:
        """Return the state of a run before its first epoch."""
        architecture = Architecture(config.model)
        return RunState(
            0, 0, architecture.initialise(seed), architecture.empty(), architecture.empty(),
            Controllers.initial(config), Best(),
            output=torch.zeros(2, 1, space.SIZE) if config.information.enabled else None,
        )


def reason_to_stop(config: Config, epoch: int, best: Best) -> str | None:
    """Return the reason why a run ends after this epoch, or None if the run continues.

    `best` is the best epoch under the early-stopping metric.
    """
    patience, metric = config.early_stopping.patience, config.early_stopping.metric
    if patience and epoch - best.epoch >= patience:
        return f"early stop: {metric} has not improved since epoch {best.epoch}"
    total = config.training.total_epochs
    return f"complete: {total} epochs" if epoch + 1 >= total else None

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
    """The best epoch so far by a criterion; `value` counts as smaller is better."""

    value: float = float("inf")
    epoch: int = -1

    def or_better(self, row: Mapping[str, Any], criterion: Criterion) -> Best:
        """This epoch, or that of a row of the history if it is better."""
        value = cost(row, criterion)
        return Best(value, row["epoch"]) if value < self.value else self


@dataclass
class RunState:
    """Everything that one run carries from epoch to epoch. Random streams are named by seed and epoch."""

    next_epoch: int
    steps: int
    blocks: Blocks
    first_moments: Blocks
    second_moments: Blocks
    controllers: Controllers
    best: Best
    """By the early-stopping metric."""
    selected: Best = Best()
    """By the criterion that the run's model is chosen by."""
    stopped: str | None = None
    """Why the run has ended, or None."""
    output: Tensor | None = None
    """(2, 1, N): moving average of the output distributions, where the loss has information terms."""

    @staticmethod
    def initial(config: Config, seed: int) -> RunState:
        """The state before the first epoch."""
        architecture = Architecture(config.model)
        return RunState(
            0, 0, architecture.initialise(seed), architecture.empty(), architecture.empty(),
            Controllers.initial(config), Best(),
            output=torch.zeros(2, 1, space.SIZE) if config.information.enabled else None,
        )


def reason_to_stop(config: Config, epoch: int, best: Best) -> str | None:
    """Why a run ends after an epoch, or None while it goes on. `best` is by the early-stopping metric."""
    patience, metric = config.early_stopping.patience, config.early_stopping.metric
    if patience and epoch - best.epoch >= patience:
        return f"early stop: {metric} has not improved since epoch {best.epoch}"
    total = config.training.total_epochs
    return f"complete: {total} epochs" if epoch + 1 >= total else None

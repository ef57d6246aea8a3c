"""The generator `train`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import torch

from ternary_lab.arguments import read_seeds, require
from ternary_lab.backend.devices import gpu_errors, resolve_device
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.config import Config
from ternary_lab.history import EpochRecord
from ternary_lab.training.cohort import Cohort
from ternary_lab.training.memory import room


@with_fixed_arithmetic
def train(
    config: Config, seeds: Iterable[int] = (42,), *, device: str | torch.device = "auto"
) -> Iterator[EpochRecord]:
    """Train one run per seed side by side, and yield one record per run and epoch, epoch by epoch.

    Nothing is written to disk. It is safe to leave the loop early. Raises ConfigError if there are no seeds, if a seed
    is given twice, or if a seed is not in 0..2^32 - 1. Raises DeviceError if the device does not exist. Raises
    DivergenceError at the end if a loss or gradient of a run was not finite; the other runs are trained to their end
    first.
    """
    require(config, Config, "config", "read a file with load_config")
    seeds = read_seeds(seeds)
    place = resolve_device(device)
    with gpu_errors(partial(room, config, len(seeds), str(place))):
        cohort = Cohort([config] * len(seeds), seeds, place)
        for epoch in cohort.epochs():
            yield from (record for record, _ in epoch.finish())
    if cohort.diverged:
        raise cohort.divergence()



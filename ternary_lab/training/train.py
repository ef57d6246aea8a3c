"""The generator `train`, which yields a record per run and epoch and writes nothing; checks of seeds and cohorts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from ternary_lab.backend.devices import gpu_errors, resolve_device
from ternary_lab.backend.numerics import fenced
from ternary_lab.config import Config
from ternary_lab.errors import ConfigError
from ternary_lab.history import EpochRecord
from ternary_lab.training.cohort import Cohort
from ternary_lab.training.memory import room


@fenced
def train(
    config: Config, seeds: Sequence[int] = (42,), *, device: str | torch.device = "auto"
) -> Iterator[EpochRecord]:
    """Train one run per seed side by side and yield a record per run and epoch, epoch by epoch.

    Nothing is written. Leaving the loop early is safe. Raises ConfigError for no seeds, a seed given twice or one that
    is not in 0..2^32 - 1; DeviceError for a device that is not there; and, at the end, DivergenceError when a loss or
    gradient of a run was not finite. The other runs are trained to their end before.
    """
    check_seeds(seeds)
    place = resolve_device(device)
    with gpu_errors(partial(room, config, len(seeds), str(place))):
        cohort = Cohort([config] * len(seeds), seeds, place)
        for epoch in cohort.epochs():
            yield from (record for record, _ in epoch.finish())
    if cohort.diverged:
        raise cohort.divergence()


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises ConfigError unless seeds are distinct integers in 0..2^32 - 1, at least one."""
    if len(seeds) == 0:
        raise ConfigError("seeds: none given: give at least one, for example 42")
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ConfigError(f"seeds: {seed!r} is not an integer in 0..{2**32 - 1}")
        if list(seeds).count(seed) > 1:
            raise ConfigError(f"seeds: {seed} is given twice: a seed makes one run")

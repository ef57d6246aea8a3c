"""The epochs at which the schedules of a configuration change."""

from __future__ import annotations

from collections.abc import Iterator

from ternary_lab.config import Config
from ternary_lab.schedules import step_value


def events(config: Config, last: int) -> list[tuple[int, str]]:
    """Return the epochs 1..`last` at which a schedule changes, in rising order, each with words for all its changes."""
    found = ((epoch, "; ".join(_changes(config, epoch))) for epoch in range(1, last + 1))
    return [(epoch, text) for epoch, text in found if text]


def _changes(config: Config, epoch: int) -> Iterator[str]:
    """Yield words for each schedule that changes its course at an epoch."""
    for name, before, now in zip("AB", config.betas(epoch - 1), config.betas(epoch), strict=True):
        # A rise that starts at epoch 0, with the value 0, is no change.
        if before == 0 < now and epoch > 1:
            yield f"β_{name} leaves 0"
        elif now == 0 < before:
            yield f"β_{name} becomes 0"
    rates = [step_value(e, config.optimiser.lr_steps) for e in (epoch - 1, epoch)]
    if rates[0] != rates[1]:
        yield f"learning rate {rates[0]:g} to {rates[1]:g}"
    if config.information.enabled and epoch == config.information.start_epoch:
        yield "information terms start"
    phases, rho = config.phases, config.rho
    if epoch == phases.consolidation and rho.consolidated != rho.isolated:
        yield f"ρ starts to {'rise' if rho.consolidated > rho.isolated else 'fall'}"
    if epoch == phases.final and rho.coupled != rho.consolidated:
        yield f"ρ becomes {rho.coupled:g}"

"""Schedules: pure functions epoch -> value, with the epoch e counted from 0.

    β_A   staged warm-up                     β_B   zero, then a lagged copy of β_A (a jump)
    τ_A   linear decay with a cyclic swing   τ_B   linear decay after a delay
    ρ     permeability of the two pathways   λ₃    cyclic weight of the entropy alignment
    lr    steps, and a cosine if wanted

All but the cosine and a plain warm-up are those of v5.5; the classes in `config` choose between them and carry their
numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping


def staged(e: int, start: float, end: float, warmup: int, horizon: int) -> float:
    """start·e/warmup for e < warmup, then linearly from start to end, reached at `horizon`."""
    if e < warmup:
        return start * e / warmup
    return start + (end - start) * (min((e - warmup) / (horizon - warmup), 1.0) if horizon > warmup else 1.0)


def linear_warmup(e: int, end: float, warmup: int) -> float:
    """end·min(e / warmup, 1)."""
    return end * min(e / warmup, 1.0) if warmup > 0 else end


def jump(e: int, end: float, at: int, ramp: int) -> float:
    """0 before epoch `at`; then `end`, at once or reached linearly `ramp` epochs later."""
    if e < at:
        return 0.0
    return end * min((e - at) / ramp, 1.0) if ramp > 0 else end


def lagged(e: int, leader: float, start: float, warmup: int, lag: float, ramp: int) -> float:
    """start·e/warmup for e < warmup, then leader·|sin lag| (optionally ramped in over `ramp` epochs).

    With v5.5's start = 0 this is 0 until `warmup` and jumps to 0.707 of the leading β there.
    """
    if e < warmup:
        return start * e / warmup
    return jump(e, leader * abs(math.sin(lag)), warmup, ramp)


def decay(e: int, start: float, end: float, delay: int, horizon: int) -> float:
    """Linear from start to end over `horizon` epochs, counted from `delay`; constant afterwards."""
    return start + (end - start) * min(max(e - delay, 0) / horizon, 1.0)


def cycle(e: int, period: int, phase: float = 0.0) -> float:
    """cos(2π (e mod period)/period + phase)."""
    return math.cos(2 * math.pi * (e % period) / period + phase)


def step_value(e: int, steps: Mapping[int, float]) -> float:
    """The value of the last step at or before e; `steps` maps first epoch -> value and contains 0."""
    return steps[max(first for first in steps if first <= e)]


def cosine_decay(e: int, horizon: int) -> float:
    """(1 + cos(π e/horizon))/2: from 1 to 0 at `horizon`, and 0 beyond (Loshchilov & Hutter 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * min(e / horizon, 1.0)))


def permeability(
    e: int,
    balanced: bool,
    isolated: float,
    consolidated: float,
    coupled: float,
    consolidation: int,
    convergence: int,
    convergence_end: int,
    final: int,
) -> float:
    """ρ: isolated, linear to consolidated, to coupled only while gradients are balanced, coupled at last."""
    if e < consolidation:
        return isolated
    if e < convergence:
        share = (e - consolidation) / (convergence - consolidation)
        return isolated + (consolidated - isolated) * share
    if e >= final:
        return coupled
    if not balanced:
        return consolidated
    share = min((e - convergence) / (convergence_end - convergence), 1.0)
    return consolidated + (coupled - consolidated) * share


def phase(e: int, previous: int, balanced: bool, consolidation: int, convergence: int, final: int) -> int:
    """Training phase 1..4. Phase 3 needs balanced gradients to begin and, once reached, stays until 4."""
    if e < consolidation:
        return 1
    if e < convergence:
        return 2
    if e >= final:
        return 4
    return 3 if balanced or previous == 3 else 2

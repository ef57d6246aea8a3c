"""Schedules: settings that know their value at an epoch. The epoch e counts from 0.

    β_A, β_B   weights of the KL terms: a `Schedule` each    Betas
    τ_A, τ_B   temperatures of the posterior noise           Temperatures
    ρ          permeability between the pathways             Rho
    1..4       training phase                                Phases

The defaults are those of v5.5. A new shape of β is one class: see `Schedule`. The learning rate and λ₃ are computed by
their sections in `config`, from the functions `step_value`, `cosine_decay` and `cycle`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, SerializeAsAny, model_validator

from ternary_lab.settings import Choice, Epoch, Fraction, Period, Positive, Section, Weight


def jump(e: int, end: float, at: int, ramp: int) -> float:
    """0 before epoch `at`, then `end`: at once if `ramp` is 0, else end·min((e - at)/ramp, 1)."""
    if e < at:
        return 0.0
    return end * min((e - at) / ramp, 1.0) if ramp > 0 else end


def decay(e: int, start: float, end: float, delay: int, horizon: int) -> float:
    """Linear from `start` at epoch `delay` to `end`, reached `horizon` epochs later; constant before and after."""
    return start + (end - start) * min(max(e - delay, 0) / horizon, 1.0)


def cycle(e: int, period: int, phase: float = 0.0) -> float:
    """cos(2π (e mod period)/period + phase)."""
    return math.cos(2 * math.pi * (e % period) / period + phase)


def step_value(e: int, steps: Mapping[int, float]) -> float:
    """The value of the last step at or before e; `steps` maps first epoch -> value and contains 0."""
    return steps[max(first for first in steps if first <= e)]


def cosine_decay(e: int, horizon: int) -> float:
    """(1 + cos(π e/horizon))/2: from 1 to 0 at `horizon`, then 0 (Loshchilov & Hutter 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * min(e / horizon, 1.0)))


class Schedule(Choice):
    """Base class of the schedules of β.

    A new schedule is a subclass with a `mode` that no other schedule has, its settings, and `value_at`. It can be
    defined anywhere. Define or import it before you load a configuration or a run that uses it.

        class Exponential(Schedule):
            mode: Literal["exponential"] = "exponential"
            end: Weight = Field(0.5, description="value that is approached")
            epochs: Period = Field(50, description="epochs in which the distance to `end` falls by a factor e")

            def value_at(self, e: int, horizon: int, leader: float) -> float:
                return self.end * (1 - math.exp(-e / self.epochs))
    """

    follows: ClassVar[bool] = False
    """Whether the value depends on β of the other pathway."""

    @abstractmethod
    def value_at(self, e: int, horizon: int, leader: float) -> float:
        """β at epoch e.

        Args:
            horizon: the setting schedule.horizon, in epochs.
            leader: β of the other pathway at epoch e; defined only if this schedule `follows` it.
        """


class Staged(Schedule):
    """v5.5's β_A: start·e/warmup during the warm-up, then linear from `start` to `end` at the horizon."""

    mode: Literal["staged"] = "staged"
    start: Weight = Field(0.3, description="value at the end of the warm-up")
    end: Weight = Field(0.8, description="value at schedule.horizon")
    warmup_epochs: Period = Field(50, description="epochs from 0 to start")

    def value_at(self, e: int, horizon: int, leader: float) -> float:
        start, end, warmup = self.start, self.end, self.warmup_epochs
        if e < warmup:
            return start * e / warmup
        return start + (end - start) * (min((e - warmup) / (horizon - warmup), 1.0) if horizon > warmup else 1.0)


class Lagged(Schedule):
    """v5.5's β_B: start·e/warmup during the warm-up, then leader·|sin lag|.

    With start = 0, as in v5.5, it is 0 during the warm-up and then jumps to 0.707 of the leading β.
    """

    mode: Literal["lagged_after_warmup"] = "lagged_after_warmup"
    start: Weight = Field(0.0, description="value that the warm-up leads to")
    warmup_epochs: Period = Field(50, description="epochs before the lagged copy takes over")
    lag: float = Field(0.785, ge=-7, le=7, description="phase lag in radians; the factor is |sin lag|")
    ramp_epochs: Epoch = Field(0, description="epochs over which the lagged copy is faded in; 0 is the jump")
    follows: ClassVar[bool] = True

    def value_at(self, e: int, horizon: int, leader: float) -> float:
        if e < self.warmup_epochs:
            return self.start * e / self.warmup_epochs
        return jump(e, leader * abs(math.sin(self.lag)), self.warmup_epochs, self.ramp_epochs)


class LinearWarmup(Schedule):
    """end·min(e/warmup, 1): the report describes β_B like this."""

    mode: Literal["linear_warmup"] = "linear_warmup"
    end: Weight = Field(0.5, description="value after the warm-up")
    warmup_epochs: Period = Field(50, description="epochs from 0 to end")

    def value_at(self, e: int, horizon: int, leader: float) -> float:
        return self.end * min(e / self.warmup_epochs, 1.0)


class Jump(Schedule):
    """0, then `end`: see `jump`."""

    mode: Literal["jump"] = "jump"
    end: Weight = Field(0.5, description="value after the jump")
    at_epoch: Epoch = Field(50, description="first epoch at which it is no longer 0")
    ramp_epochs: Epoch = Field(0, description="epochs over which the value is reached; 0 is a jump")

    def value_at(self, e: int, horizon: int, leader: float) -> float:
        return jump(e, self.end, self.at_epoch, self.ramp_epochs)


class Constant(Schedule):
    """The same value at every epoch."""

    mode: Literal["constant"] = "constant"
    value: Weight = Field(1.0, description="the value at every epoch")

    def value_at(self, e: int, horizon: int, leader: float) -> float:
        return self.value


class Off(Schedule):
    """0 at every epoch."""

    mode: Literal["off"] = "off"

    def value_at(self, e: int, horizon: int, leader: float) -> float:
        return 0.0


class Betas(Section):
    """Weights of the KL terms. At most one of them follows the other."""

    A: SerializeAsAny[Schedule] = Staged()
    B: SerializeAsAny[Schedule] = Lagged()

    @model_validator(mode="after")
    def _one_leader(self) -> Betas:
        if self.A.follows and self.B.follows:
            modes = ", ".join(dict.fromkeys((self.A.mode, self.B.mode)))
            raise ValueError(f"beta.A and beta.B cannot follow each other ({modes}): one of them must lead")
        return self

    def values_at(self, e: int, horizon: int) -> tuple[float, float]:
        """(β_A, β_B) at epoch e."""
        if self.A.follows:
            b = self.B.value_at(e, horizon, 0.0)
            return self.A.value_at(e, horizon, b), b
        a = self.A.value_at(e, horizon, 0.0)
        return a, self.B.value_at(e, horizon, a)


class TemperatureA(Section):
    """τ_A = max(base + amplitude·cos(2π (e mod period)/period), floor).

    base falls linearly from `start` to `end`. The amplitude is cyclic_amplitude·base; in phase 4 it is
    temp_boost_amplitude.
    """

    start: Positive = Field(1.0, description="base at epoch 0")
    end: Positive = Field(0.3, description="base at schedule.horizon")
    temp_cyclic: bool = Field(True, description="whether the base swings")
    cyclic_amplitude: Fraction = Field(0.1, description="amplitude of the swing as a share of the base")
    period: Period = Field(30, description="epochs per swing")
    temp_boost_amplitude: Weight = Field(0.5, description="absolute amplitude of the swing from phase 4 on")
    floor: Weight = Field(0.1, description="the temperature is at least this")

    def value_at(self, e: int, horizon: int, final: int) -> float:
        """τ_A at epoch e; phase 4 begins at epoch `final`."""
        base = decay(e, self.start, self.end, 0, horizon)
        amplitude = self.temp_boost_amplitude if e >= final else self.cyclic_amplitude * base
        return max(base + (amplitude * cycle(e, self.period) if self.temp_cyclic else 0.0), self.floor)


class TemperatureB(Section):
    """τ_B: linear from `start` to `end` after a delay; another constant in phase 4."""

    start: Positive = Field(0.9, description="value until delay_epochs")
    end: Positive = Field(0.2, description="value `horizon` epochs after the delay")
    delay_epochs: Epoch = Field(30, description="epochs before the decay begins")
    temp_phase4: Positive = Field(0.3, description="value in phase 4")

    def value_at(self, e: int, horizon: int, final: int) -> float:
        """τ_B at epoch e; phase 4 begins at epoch `final`."""
        return self.temp_phase4 if e >= final else decay(e, self.start, self.end, self.delay_epochs, horizon)


class Temperatures(Section):
    """τ scales the posterior noise in training, z = μ + τ σ ε."""

    A: TemperatureA = TemperatureA()
    B: TemperatureB = TemperatureB()


class Phases(Section):
    """First epoch of each phase; phase 3 waits for balanced gradients."""

    consolidation: Epoch = Field(40, description="first epoch of phase 2: ρ starts to rise")
    convergence: Epoch = Field(120, description="first epoch at which phase 3 can begin")
    convergence_end: Epoch = Field(200, description="epoch at which ρ of phase 3 would reach rho.coupled")
    final: Epoch = Field(250, description="first epoch of phase 4")

    @model_validator(mode="after")
    def _in_order(self) -> Phases:
        if not self.consolidation < self.convergence < self.convergence_end <= self.final:
            raise ValueError("phases must be in order: consolidation < convergence < convergence_end <= final")
        return self

    def phase_at(self, e: int, previous: int, balanced: bool) -> int:
        """Training phase 1..4. Phase 3 begins only while gradients are balanced; then it lasts until phase 4."""
        if e < self.consolidation:
            return 1
        if e < self.convergence:
            return 2
        if e >= self.final:
            return 4
        return 3 if balanced or previous == 3 else 2


class Rho(Section):
    """Permeability ρ: the share of the other pathway's (stopped) latent that a decoder reads."""

    isolated: Fraction = Field(0.1, description="ρ in phase 1")
    consolidated: Fraction = Field(0.3, description="ρ at the end of phase 2")
    coupled: Fraction = Field(0.7, description="ρ in phase 4")

    def value_at(self, e: int, balanced: bool, phases: Phases) -> float:
        """ρ at epoch e.

        `isolated` in phase 1, linear to `consolidated` in phase 2, `coupled` in phase 4. Between phases 2 and 4 it is
        linear from `consolidated` to `coupled` while gradients are balanced, else `consolidated`.
        """
        if e < phases.consolidation:
            return self.isolated
        if e < phases.convergence:
            share = (e - phases.consolidation) / (phases.convergence - phases.consolidation)
            return self.isolated + (self.consolidated - self.isolated) * share
        if e >= phases.final:
            return self.coupled
        if not balanced:
            return self.consolidated
        share = min((e - phases.convergence) / (phases.convergence_end - phases.convergence), 1.0)
        return self.consolidated + (self.coupled - self.consolidated) * share

"""Schedules: settings whose value depends on the epoch e, which counts from 0.

    β_A, β_B   weights of the KL terms                       Betas
    τ_A, τ_B   temperatures of the posterior noise           Temperatures
    ρ          permeability between the pathways             Rho
    1..4       training phase                                Phases

The right column names the group of settings. The default values are the values of v5.5. β_A and β_B are schedules of
the class `Schedule`, and a subclass of `Schedule` defines a new shape of β. The learning rate and λ₃ are computed in
`config`, with the functions `step_value`, `cosine_decay` and `cycle` of this module.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, SerializeAsAny, model_validator

from ternary_lab.settings import Choice, Epoch, Fraction, Period, Positive, Section, Weight


def jump(e: int, end: float, at: int, ramp: int) -> float:
    """Return 0 before epoch `at`. From epoch `at` on, return `end` if `ramp` is 0, else end·min((e - at)/ramp, 1)."""
    if e < at:
        return 0.0
    return end * min((e - at) / ramp, 1.0) if ramp > 0 else end


def decay(e: int, start: float, end: float, delay: int, horizon: int) -> float:
    """Return a value that changes linearly from `start` to `end`.

    The value is `start` until epoch `delay`. It reaches `end` `horizon` epochs later and then stays constant.
    """
    return start + (end - start) * min(max(e - delay, 0) / horizon, 1.0)


def cycle(e: int, period: int, phase: float = 0.0) -> float:
    """Return cos(2π (e mod period)/period + phase)."""
    return math.cos(2 * math.pi * (e % period) / period + phase)


def step_value(e: int, steps: Mapping[int, float]) -> float:
    """Return the value of the step that contains epoch e.

    `steps` is a dictionary from the first epoch of each step to its value. It must contain epoch 0.
    """
    return steps[max(first for first in steps if first <= e)]


def cosine_decay(e: int, horizon: int) -> float:
    """Return (1 + cos(π e/horizon))/2 until epoch `horizon`, and 0 afterwards.

    The value falls from 1 at epoch 0 to 0 at epoch `horizon` (Loshchilov & Hutter 2017, without restarts).
    """
    return 0.5 * (1 + math.cos(math.pi * min(e / horizon, 1.0)))


class Schedule(Choice):
    """Base class of the schedules of β.

    To add a schedule, write a subclass with a `mode` that no other schedule has, with the settings of the schedule, and
    with `value_at`. The subclass may be defined in any file. Define or import it before you load a configuration or a
    run that uses it.

        class Exponential(Schedule):
            mode: Literal["exponential"] = "exponential"
            end: Weight = Field(0.5, description="value that is approached")
            epochs: Period = Field(50, description="epochs in which the distance to `end` falls by a factor e")

            def value_at(self, e: int, horizon: int, leader: float) -> float:
                return self.end * (1 - math.exp(-e / self.epochs))
    """

    follows: ClassVar[bool] = False
    """Whether this schedule follows the other pathway, so that its value depends on β of the other pathway."""

    @abstractmethod
    def value_at(self, e: int, horizon: int, leader: float) -> float:
        """Return β at epoch e.

        Args:
            horizon: the setting schedule.horizon, in epochs.
            leader: β of the other pathway at epoch e if this schedule `follows` it; otherwise without a meaning.
        """


class Staged(Schedule):
    """The schedule of β_A in v5.5.

    During the warm-up, the value is start·e/warmup. Then the value changes linearly from `start` to `end`, which it
    reaches at the horizon.
    """

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
    """The schedule of β_B in v5.5.

    During the warm-up, the value is start·e/warmup. Then the value is leader·|sin lag|, where the leader is β of the
    other pathway. With start = 0, as in v5.5, the value is 0 during the warm-up and then jumps to 0.707 of the leader.
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
    """A linear rise to a constant: end·min(e/warmup, 1).

    The report on v5.5 describes β_B with this formula.
    """

    mode: Literal["linear_warmup"] = "linear_warmup"
    end: Weight = Field(0.5, description="value after the warm-up")
    warmup_epochs: Period = Field(50, description="epochs from 0 to end")

    def value_at(self, e: int, horizon: int, leader: float) -> float:
        return self.end * min(e / self.warmup_epochs, 1.0)


class Jump(Schedule):
    """A jump from 0 to `end`, or a linear rise.

    The function `jump` gives the formula.
    """

    mode: Literal["jump"] = "jump"
    end: Weight = Field(0.5, description="value after the jump")
    at_epoch: Epoch = Field(50, description="first epoch at which it is no longer 0")
    ramp_epochs: Epoch = Field(0, description="epochs over which the value is reached; 0 is a jump")

    def value_at(self, e: int, horizon: int, leader: float) -> float:
        return jump(e, self.end, self.at_epoch, self.ramp_epochs)


class Constant(Schedule):
    """A schedule with the same value at every epoch."""

    mode: Literal["constant"] = "constant"
    value: Weight = Field(1.0, description="the value at every epoch")

    def value_at(self, e: int, horizon: int, leader: float) -> float:
        return self.value


class Off(Schedule):
    """A schedule that is 0 at every epoch."""

    mode: Literal["off"] = "off"

    def value_at(self, e: int, horizon: int, leader: float) -> float:
        return 0.0


class Betas(Section):
    """Schedules of β_A and β_B, the weights of the KL terms.

    At most one of the two may depend on the other.
    """

    A: SerializeAsAny[Schedule] = Staged()
    B: SerializeAsAny[Schedule] = Lagged()

    @model_validator(mode="after")
    def _one_leader(self) -> Betas:
        if self.A.follows and self.B.follows:
            modes = ", ".join(dict.fromkeys((self.A.mode, self.B.mode)))
            raise ValueError(f"beta.A and beta.B cannot follow each other ({modes}): one of them must lead")
        return self

    def values_at(self, e: int, horizon: int) -> tuple[float, float]:
        """Return (β_A, β_B) at epoch e."""
        if self.A.follows:
            b = self.B.value_at(e, horizon, 0.0)
            return self.A.value_at(e, horizon, b), b
        a = self.A.value_at(e, horizon, 0.0)
        return a, self.B.value_at(e, horizon, a)


class TemperatureA(Section):
    """The temperature τ_A = max(base + amplitude·cos(2π (e mod period)/period), floor).

    The base changes linearly from `start` to `end`, which it reaches at schedule.horizon. The amplitude is
    cyclic_amplitude·base. In phase 4 the amplitude is temp_boost_amplitude. Without temp_cyclic the amplitude is 0.
    """

    start: Positive = Field(1.0, description="base at epoch 0")
    end: Positive = Field(0.3, description="base at schedule.horizon")
    temp_cyclic: bool = Field(True, description="whether the base swings")
    cyclic_amplitude: Fraction = Field(0.1, description="amplitude of the swing as a share of the base")
    period: Period = Field(30, description="epochs per swing")
    temp_boost_amplitude: Weight = Field(0.5, description="absolute amplitude of the swing from phase 4 on")
    floor: Weight = Field(0.1, description="the temperature is at least this")

    def value_at(self, e: int, horizon: int, final: int) -> float:
        """Return τ_A at epoch e. Phase 4 begins at epoch `final`."""
        base = decay(e, self.start, self.end, 0, horizon)
        amplitude = self.temp_boost_amplitude if e >= final else self.cyclic_amplitude * base
        return max(base + (amplitude * cycle(e, self.period) if self.temp_cyclic else 0.0), self.floor)


class TemperatureB(Section):
    """The temperature τ_B.

    After a delay, τ_B changes linearly from `start` to `end`. In phase 4 it has another constant value.
    """

    start: Positive = Field(0.9, description="value until delay_epochs")
    end: Positive = Field(0.2, description="value `horizon` epochs after the delay")
    delay_epochs: Epoch = Field(30, description="epochs before the decay begins")
    temp_phase4: Positive = Field(0.3, description="value in phase 4")

    def value_at(self, e: int, horizon: int, final: int) -> float:
        """Return τ_B at epoch e. Phase 4 begins at epoch `final`."""
        return self.temp_phase4 if e >= final else decay(e, self.start, self.end, self.delay_epochs, horizon)


class Temperatures(Section):
    """The temperatures τ_A and τ_B, which scale the posterior noise in training: z = μ + τ σ ε."""

    A: TemperatureA = TemperatureA()
    B: TemperatureB = TemperatureB()


class Phases(Section):
    """The first epochs of the training phases 2, 3 and 4.

    The epoch of phase 3 is the earliest possible one: phase 3 begins later if the gradients are not balanced then.
    """

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
        """Return the training phase 1..4 at epoch e; `previous` is the phase of the previous epoch.

        Phase 3 begins only in an epoch with balanced gradients. Once it has begun, phase 3 lasts until phase 4.
        """
        if e < self.consolidation:
            return 1
        if e < self.convergence:
            return 2
        if e >= self.final:
            return 4
        return 3 if balanced or previous == 3 else 2


class Rho(Section):
    """The permeability ρ.

    ρ is the share of the other pathway's latent in the input of a decoder. This latent receives no gradient.
    """

    isolated: Fraction = Field(0.1, description="ρ in phase 1")
    consolidated: Fraction = Field(0.3, description="ρ at the end of phase 2")
    coupled: Fraction = Field(0.7, description="ρ in phase 4")

    def value_at(self, e: int, balanced: bool, phases: Phases) -> float:
        """Return ρ at epoch e.

        Before epoch `phases.convergence`, ρ is `isolated` in phase 1 and rises linearly to `consolidated` in phase 2.
        In phase 4, ρ is `coupled`. In between, ρ depends on whether the gradients are balanced in epoch e. If they are
        balanced, ρ lies on a line from `consolidated` to `coupled`, which ends at `phases.convergence_end`. Otherwise ρ
        is `consolidated`.
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

"""Controllers between epochs: gradient balance, loss weights λ, phase, and StateNet's corrections.

At the start of an epoch, with n the moving averages of the pathways' gradient norms:

    r = n_B / n_A          balanced: 0.8 < r < 1.2          momentum m: 0.95 if balanced, else 0.5
    λ₁, λ₂ move by ±0.02 towards the weaker pathway, or by ±5 % by the coverage ratio of the previous epoch

In the first batch of the epoch StateNet reads [H_A, H_B, KL_A, KL_B, r, ρ, λ₁, λ₂, λ₃]. It corrects lr for the epoch
and the λ from the second batch on. Its corrections are plain numbers in the loss, so in v5.5 StateNet never receives a
gradient. `training.statenet_learning` can give it one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ternary_lab.config import Config, LossWeights

TINY = 1e-8
"""Keeps a ratio of gradient norms finite when a pathway's gradient has vanished."""


@dataclass(frozen=True)
class Controllers:
    """One run's controllers between two epochs."""

    lambda1: float
    lambda2: float
    norm_A: float = 1.0
    norm_B: float = 1.0
    phase: int = 1
    coverage_ratio: float | None = None
    """Unique operations of B over those of A after the previous epoch; None before the first, or undrawn."""

    @staticmethod
    def initial(config: Config) -> Controllers:
        return Controllers(config.loss_weights.initial, config.loss_weights.initial)


@dataclass(frozen=True)
class Plan:
    """Every scheduled or controlled value of one run in one epoch, before StateNet's correction."""

    epoch: int
    phase: int
    lr: float
    lambda1: float
    lambda2: float
    lambda3: float
    beta_A: float
    beta_B: float
    temperature_A: float
    temperature_B: float
    rho: float
    grad_ratio: float
    grad_momentum: float


def gradient_ratio(controllers: Controllers) -> float:
    """r = n_B / n_A."""
    return controllers.norm_B / (controllers.norm_A + TINY)


def reads_coverage(config: Config, controllers: Controllers) -> bool:
    """Whether the next epoch's plan depends on the coverage of the previous epoch.

    It does where the pathways are balanced and the coverage rule can move λ₁ or λ₂.
    """
    w = config.loss_weights
    moves = w.low < w.high and {w.coverage_factor, w.coverage_factor_down} != {1.0}
    return moves and w.ratio_low <= gradient_ratio(controllers) <= w.ratio_high


def plan_epoch(config: Config, epoch: int, controllers: Controllers) -> Plan:
    """The plan of an epoch, counted from 0, from the controllers after the previous epoch."""
    weights, balance = config.loss_weights, config.gradient_balance
    ratio = gradient_ratio(controllers) if epoch > 0 else 1.0
    balanced = weights.ratio_low < ratio < weights.ratio_high
    lambda1, lambda2 = controllers.lambda1, controllers.lambda2
    if epoch > 0:
        lambda1, lambda2 = adapted(weights, lambda1, lambda2, ratio, controllers.coverage_ratio)
    beta_a, beta_b = config.betas(epoch)
    temperature_a, temperature_b = config.temperatures(epoch)
    return Plan(
        epoch=epoch,
        phase=config.phase(epoch, controllers.phase, balanced),
        beta_A=beta_a,
        beta_B=beta_b,
        temperature_A=temperature_a,
        temperature_B=temperature_b,
        rho=config.permeability(epoch, balanced),
        lambda1=lambda1,
        lambda2=lambda2,
        lambda3=config.lambda3(epoch),
        lr=config.lr(epoch),
        grad_ratio=ratio,
        grad_momentum=balance.momentum_balanced if balanced else balance.momentum_unbalanced,
    )


def adapted(
    weights: LossWeights, lambda1: float, lambda2: float, ratio: float, coverage_ratio: float | None
) -> tuple[float, float]:
    """λ₁ and λ₂, moved towards the pathway with the weaker gradients or, when balanced, the lower coverage."""
    if ratio < weights.ratio_low:
        lambda1, lambda2 = lambda1 + weights.step, lambda2 - weights.step
    elif ratio > weights.ratio_high:
        lambda1, lambda2 = lambda1 - weights.step, lambda2 + weights.step
    elif coverage_ratio is not None and coverage_ratio > weights.coverage_ratio_high:
        lambda1, lambda2 = lambda1 * weights.coverage_factor, lambda2 * weights.coverage_factor_down
    elif coverage_ratio is not None and coverage_ratio < weights.coverage_ratio_low:
        lambda1, lambda2 = lambda1 * weights.coverage_factor_down, lambda2 * weights.coverage_factor
    return clamp(lambda1, weights.low, weights.high), clamp(lambda2, weights.low, weights.high)


def clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


@dataclass(frozen=True)
class Correction:
    """StateNet's outputs for one run's epoch, and the corrected lr and λ."""

    delta_lr: float
    delta_lambda1: float
    delta_lambda2: float
    delta_lambda3: float
    lr: float
    lambda1: float
    lambda2: float
    lambda3: float

    @staticmethod
    def none(plan: Plan) -> Correction:
        return Correction(0.0, 0.0, 0.0, 0.0, plan.lr, plan.lambda1, plan.lambda2, plan.lambda3)


def correct(config: Config, plan: Plan, outputs: tuple[float, float, float, float]) -> Correction:
    """The plan's lr and λ corrected by StateNet's four outputs in (-1, 1)."""
    net, weights = config.statenet, config.loss_weights
    d_lr, d1, d2, d3 = outputs
    return Correction(
        *outputs,
        lr=clamp(plan.lr * (1 + net.lr_scale * d_lr), net.lr_low, net.lr_high),
        lambda1=clamp(plan.lambda1 + net.lambda_scale * d1, weights.low, weights.high),
        lambda2=clamp(plan.lambda2 + net.lambda_scale * d2, weights.low, weights.high),
        lambda3=clamp(plan.lambda3 + net.lambda_scale * d3, weights.lambda3_low, weights.lambda3_high),
    )


def correction_slopes(config: Config, plan: Plan, correction: Correction) -> tuple[float, float, float, float]:
    """Derivatives of lr, λ₁, λ₂ and λ₃ in StateNet's four outputs; 0 where a value is at a bound."""
    net, weights = config.statenet, config.loss_weights
    return (
        plan.lr * net.lr_scale * (net.lr_low < correction.lr < net.lr_high),
        net.lambda_scale * (weights.low < correction.lambda1 < weights.high),
        net.lambda_scale * (weights.low < correction.lambda2 < weights.high),
        net.lambda_scale * (weights.lambda3_low < correction.lambda3 < weights.lambda3_high),
    )


def after_epoch(
    controllers: Controllers, plan: Plan, correction: Correction, norms: tuple[float, float]
) -> Controllers:
    """The controllers after an epoch, without its coverage, which `after_counting` adds."""
    return replace(
        controllers,
        lambda1=correction.lambda1,
        lambda2=correction.lambda2,
        norm_A=norms[0],
        norm_B=norms[1],
        phase=plan.phase,
        coverage_ratio=None,
    )


def after_counting(controllers: Controllers, unique: tuple[int, int] | None) -> Controllers:
    """The controllers with the numbers of distinct operations drawn after the epoch, of A and B; None: not drawn."""
    return replace(controllers, coverage_ratio=unique[1] / unique[0] if unique and unique[0] else None)

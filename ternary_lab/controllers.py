"""Controllers between epochs: gradient balance, loss weights λ, phase, and StateNet's corrections.

Let n_A and n_B be the moving averages of the gradient norms of the pathways. At the start of an epoch,

    r = n_B / n_A          balanced: 0.8 < r < 1.2          momentum m: 0.95 if balanced, else 0.5

If r is below or above this range, λ₁ and λ₂ change by ±0.02 in favour of the pathway with the stronger gradients.
Otherwise, they can change by ±5 % in favour of the pathway with the lower coverage after the previous epoch.

In the first batch of an epoch, StateNet reads [H_A, H_B, KL_A, KL_B, r, ρ, λ₁, λ₂, λ₃]. StateNet corrects the learning
rate lr for the epoch, and the λ from the second batch on. The corrections are plain numbers in the loss, so StateNet
receives no gradient in v5.5. `training.statenet_learning` can give StateNet a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ternary_lab.config import Config, LossWeights

TINY = 1e-8
"""Added to the denominator of a ratio of gradient norms, so that the ratio stays finite if the denominator is 0."""


@dataclass(frozen=True)
class Controllers:
    """State of the controllers of one run between two epochs."""

    lambda1: float
    lambda2: float
    norm_A: float = 1.0
    norm_B: float = 1.0
    phase: int = 1
    coverage_ratio: float | None = None
    """Number of distinct operations drawn by B after the previous epoch, divided by the number of A.

    None before the first epoch, and if no operations were drawn.
    """

    @staticmethod
    def initial(config: Config) -> Controllers:
        return Controllers(config.loss_weights.initial, config.loss_weights.initial)


@dataclass(frozen=True)
class Plan:
    """The scheduled and controlled values of one run in one epoch, before StateNet's correction."""

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
    """Return the gradient ratio r = n_B / n_A."""
    return controllers.norm_B / (controllers.norm_A + TINY)


def reads_coverage(config: Config, controllers: Controllers) -> bool:
    """Return whether the plan of the next epoch depends on the coverage after the previous epoch.

    The plan depends on it if the gradient ratio is inside its bounds and the coverage can change λ₁ or λ₂.
    """
    w = config.loss_weights
    moves = w.low < w.high and {w.coverage_factor, w.coverage_factor_down} != {1.0}
    return moves and w.ratio_low <= gradient_ratio(controllers) <= w.ratio_high


def plan_epoch(config: Config, epoch: int, controllers: Controllers) -> Plan:
    """Return the plan of an epoch, counted from 0. `controllers` is the state after the previous epoch."""
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
    """Return λ₁ and λ₂ of the next epoch.

    The pathway with the stronger gradients gains weight. If the gradients are balanced, the pathway with the lower
    coverage gains weight.
    """
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
    """StateNet's outputs in one epoch of one run, with the corrected lr and λ."""

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
    """Return lr and the λ of a plan, corrected by the four outputs of StateNet, which are in (-1, 1)."""
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
    """Return the derivatives of lr, λ₁, λ₂ and λ₃, each with respect to its own output of StateNet.

    The derivative of a value that is at a bound is 0.
    """
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
    """Return the controllers after an epoch. They lack the coverage of this epoch, which `after_counting` adds."""
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
    """Return the controllers with the coverage ratio after an epoch.

    `unique` holds the numbers of distinct operations that A and B drew. It is None if no operations were drawn.
    """
    return replace(controllers, coverage_ratio=unique[1] / unique[0] if unique and unique[0] else None)

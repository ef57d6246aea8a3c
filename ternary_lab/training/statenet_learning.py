"""Training of StateNet by hypergradients of lr, λ₁, λ₂ and λ₃.

A hypergradient is the derivative of an objective V after one AdamW step with respect to the settings of this step. Let
θ' = θ - lr (m̂/(√v̂ + ε) + w θ) be the step, where m̂ and v̂ are the bias-corrected moments, ε is the setting `eps`, and
w is the weight decay. Let g be the gradient after balancing, weighting by λ and clipping. Then (Bengio 2000; Baydin et
al. 2018)

    dV/dlr = ∇V(θ') · ∂θ'/∂lr             dV/dλ = ∇V(θ') · ∂θ'/∂g · ∂g/∂λ

AdamW computes each weight separately, so ∂θ'/∂g is a vector. The moments before the step are constants. The method
looks one step ahead and misses later effects (the short-horizon bias of Wu et al. 2018).

The objective is the -ELBO of some validation operations. If `statenet.information_weight` is not 0, this weight times
the information I(X;Z) is subtracted. StateNet learns from a few steps of each epoch, which are called lessons. There
are R runs. The weights of a pathway are the rows (R, ·) of its encoder and the rows (R, ·) of its decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ternary_lab import controllers as control
from ternary_lab import space
from ternary_lab.backend.random_streams import Purpose, Streams
from ternary_lab.config import Config
from ternary_lab.controllers import Correction, Plan
from ternary_lab.losses import InformationWeights, TermNumbers
from ternary_lab.model import statenet
from ternary_lab.networks import Blocks
from ternary_lab.training.step import RATES, Pass, Stepper, StepRecord, StepSettings


def lesson_steps(config: Config, steps: int) -> list[int]:
    """Return the indices of the lessons in an epoch of `steps` steps.

    The first step is never a lesson, because StateNet does not correct its λ.
    """
    net = config.statenet
    if net.training == "none":
        return []
    lessons = min(net.lessons, steps - 1)
    return [1 + k * (steps - 1) // lessons for k in range(lessons)]


class StateNetLearning:
    """The lessons of the StateNets of a cohort.

    Args:
        stepper: the stepper of the cohort.
        x: (V, 9): validation operations.
        streams: function that returns the random streams of the cohort for a purpose and a number.
    """

    def __init__(self, stepper: Stepper, x: Tensor, streams: Callable[[Purpose, int], Streams]) -> None:
        self._step, self._x, self._streams = stepper, x, streams
        self._slope: Tensor | None = None

    def begin_epoch(self, epoch: int, steps: int) -> None:
        """Choose the lessons of an epoch of `steps` steps."""
        self._epoch, self._lessons = epoch, lesson_steps(self._step.config, steps)

    def before_update(self, i: int, forward: Pass) -> None:
        """Keep the gradient of |H_A - H_B| with respect to the encoders' weights, if step i is a lesson.

        If the alignment has no gradient, nothing is kept. This method must be called before the optimiser step, because
        the step changes the weights.
        """
        self._slope = None
        if i in self._lessons and forward.alignment is not None:
            nothing = torch.zeros_like(forward.first_samples)
            self._step.differentiate_encoders(forward, forward.alignment.z, nothing, nothing)
            self._slope = self._step.gradients.encoders.clone()

    def after_update(
        self, i: int, record: StepRecord, settings: StepSettings, plans: Sequence[Plan],
        corrections: Sequence[Correction], inputs: Tensor,
    ) -> None:
        """Train StateNet by one AdamW step along the hypergradient, if step i is a lesson.

        This method must be called after the optimiser step.

        Args:
            i: index of the step in the epoch.
            record: record of the optimiser step.
            settings: settings of the optimiser step.
            plans: plan of each run.
            corrections: correction of each plan.
            inputs: (R, 9): inputs of StateNet from which it computed the corrections.
        """
        if i not in self._lessons:
            return
        step, number = self._step, self._epoch * self._step.config.statenet.lessons + self._lessons.index(i)
        # `step.gradients` holds the gradients that AdamW used. The gradients of the objective will overwrite them.
        gradients = Blocks(*(block.clone() for block in vars(step.gradients).values()))
        taken = TakenStep(
            step.blocks, gradients, step.first_moments, step.second_moments, settings.lambdas, record.clip,
            step.config.optimiser.clip_per == "pathway", self._slope,
        )
        self._differentiate_objective(settings, self._streams("lesson", number))
        slopes = control_gradients(taken, step.gradients, self._optimisers(settings))
        slopes = slopes * step.values([
            control.correction_slopes(*of) for of in zip(step.configs, plans, corrections, strict=True)
        ])
        weights = step.blocks.statenet.detach().requires_grad_()
        with torch.enable_grad():
            outputs = statenet(replace(step.blocks, statenet=weights), inputs)
            gradient, = torch.autograd.grad(outputs, weights, slopes)
        count = torch.tensor(float(number + 1), device=step.device)
        for run, config in enumerate(step.configs):
            weight, first, second = (b.statenet[run] for b in (step.blocks, step.first_moments, step.second_moments))
            torch._fused_adamw_(
                [weight], [gradient[run].contiguous()], [first], [second], [], [count],
                lr=config.statenet.learning_rate, beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8, amsgrad=False,
                maximize=False,
            )

    def _optimisers(self, settings: StepSettings) -> list[list[AdamW]]:
        """Return AdamW of the encoder and of the decoder of pathway A, then of pathway B."""
        step, (encoders, *decoders) = self._step, settings.rates
        scales = step.values([
            [x for pathway in c.optimiser.lr_scale.by_pathway() for x in pathway] for c in step.configs
        ])
        found = []
        for p, networks in enumerate(zip(encoders.view(RATES, 2, -1).unbind(1), decoders, strict=True)):
            of_networks = scales[:, 2 * p, None], scales[:, 2 * p + 1, None]
            found.append([
                AdamW(step.steps, scale, *rates.unsqueeze(2))
                for rates, scale in zip(networks, of_networks, strict=True)
            ])
        return found

    def _differentiate_objective(self, settings: StepSettings, streams: Streams) -> None:
        """Write the gradients of the objective into the stepper's gradient blocks."""
        step, config = self._step, self._step.config
        n = min(config.statenet.lesson_operations, len(self._x))
        chosen = streams.permutations(len(self._x))[:, :n].to(step.device)
        noise = streams.normal(2, n, step.noise_width).to(step.device)
        x = self._x[chosen]
        one, none = torch.ones(2, step.runs, device=step.device), torch.zeros(step.runs, device=step.device)
        weight = step.values([c.statenet.information_weight for c in step.configs])
        judged = replace(
            settings, terms=_elbo_numbers(settings), free_bits_per="sample", lambdas=torch.cat((one, none[None])),
            temperature=one[:, :, None, None], rho=none[:, None, None], kept=one[0, :, None, None],
            information=InformationWeights(weight, weight, none) if bool(weight.any()) else None,
        )
        average = step.outputs.clone()
        forward = step.forward(
            x.repeat(2, 1, 1), space.one_hot(x), noise.transpose(0, 1), judged,
            step.prior_latents(streams) if judged.information is not None else None,
        )
        step.outputs.copy_(average)  # Only the latents of training steps may change the moving average.
        step.differentiate(forward, judged, one)


def _elbo_numbers(settings: StepSettings) -> dict[str, TermNumbers]:
    """Return numbers of the loss terms with which the loss equals the -ELBO.

    The cross-entropy and the KL term have weight 1, the other terms have weight 0, and the KL term has no lower bound.
    """
    found = {}
    for name, numbers in settings.terms.items():
        weight = torch.full_like(numbers.weight, float(name in ("ce", "kl")))
        settings_of = [torch.zeros_like(setting) for setting in numbers.settings] if name == "kl" else numbers.settings
        found[name] = TermNumbers(weight, settings_of)
    return found


@dataclass(frozen=True)
class AdamW:
    """AdamW at its last step.

    `step` is the number of this step, counted from 1. The other attributes are settings with one value per run, (R, 1).
    """

    step: int
    lr_scale: Tensor
    """∂lr/∂(learning rate of the schedule): the setting `optimiser.lr_scale` of this network."""
    lr: Tensor
    beta1: Tensor
    beta2: Tensor
    eps: Tensor
    weight_decay: Tensor

    def sensitivity(self, weights: Tensor, first: Tensor, second: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return ∂θ'/∂(learning rate of the schedule) and ∂θ'/∂g for each weight.

        `weights` holds θ', `first` and `second` hold both moments after the step, and `gradient` holds the gradient g
        of the step.
        """
        unbiased = 1 - self.beta1**self.step, 1 - self.beta2**self.step
        mean, root = first / unbiased[0], (second / unbiased[1]).sqrt_()
        below = root + self.eps
        direction = mean / below
        before = (weights + self.lr * direction) / (1 - self.lr * self.weight_decay)
        of_mean = (1 - self.beta1) / unbiased[0] / below
        # A weight that has never had a gradient has root 0. The lower bound on the root prevents a division by 0.
        of_root = (1 - self.beta2) / unbiased[1] * gradient / root.clamp_min(torch.finfo(root.dtype).tiny)
        by_lr = -self.lr_scale * (direction + self.weight_decay * before)
        return by_lr, -self.lr * (of_mean - direction / below * of_root)


@dataclass(frozen=True)
class TakenStep:
    """An optimiser step that has just been taken.

    `gradients` holds the gradients that AdamW used, after balancing, weighting by λ and clipping.
    """

    weights: Blocks
    gradients: Blocks
    first_moments: Blocks
    second_moments: Blocks
    lambdas: Tensor
    """(3, R): λ₁, λ₂, λ₃."""
    clip: Tensor
    """(2, R): factor of the clipping. It is 1 if the gradient was not clipped."""
    apart: bool
    """Whether each pathway was clipped by the norm of its own gradient."""
    alignment: Tensor | None
    """(2, R, ·): gradient of |H_A - H_B| with respect to the encoders' weights, or None if there is no gradient."""


def control_gradients(step: TakenStep, objective: Blocks, optimisers: Sequence[Sequence[AdamW]]) -> Tensor:
    """Return the derivatives (R, 4) of the objective V with respect to lr, λ₁, λ₂ and λ₃.

    `objective` holds the gradient of V with respect to the weights after the step. `optimisers` holds AdamW of the
    encoder and of the decoder of pathway A, then of pathway B.
    """
    runs = step.clip.shape[1]
    of_lr = step.clip.new_zeros(runs)
    # Let e = ∇V ∂θ'/∂g, and let a be the gradient of the alignment. These are the inner products e·g, e·a, g·g and g·a
    # in each pathway.
    e_g, e_a, g_g, g_a = step.clip.new_zeros(4, 2, runs)
    for p in range(2):
        parts = zip(*(_parts(b, p) for b in (
            step.weights, step.first_moments, step.second_moments, step.gradients, objective
        )), strict=True)
        for i, (weights, first, second, gradient, slope) in enumerate(parts):
            by_lr, by_gradient = optimisers[p][i].sensitivity(weights, first, second, gradient)
            of_lr += (slope * by_lr).sum(-1)
            e = by_gradient.mul_(slope)
            e_g[p] += (e * gradient).sum(-1)
            g_g[p] += gradient.square().sum(-1)
            if i == 0 and step.alignment is not None:
                e_a[p] += (e * step.alignment[p]).sum(-1)
                g_a[p] += (gradient * step.alignment[p]).sum(-1)
    # Clipping by a factor c removes the component along g. A change dg becomes c (dg - g (g·dg)/‖g‖²).
    clipped_by = [e_g, g_g] if step.apart else [x.sum(0, keepdim=True).expand_as(x) for x in (e_g, g_g)]
    # One part of g comes from λ₁ L_A and λ₂ L_B. The other part is `due` times a, and comes from the alignment.
    due = step.clip * step.lambdas[2]
    e_p, g_p = e_g - due * e_a, g_g - due * g_a
    along = torch.where(step.clip < 1, clipped_by[0] / clipped_by[1].clamp_min(torch.finfo(g_g.dtype).tiny), 0)
    of_lambdas = (e_p - along * g_p) / step.lambdas[:2].clamp_min(torch.finfo(g_g.dtype).tiny)
    of_alignment = (step.clip * (e_a - along * g_a)).sum(0)
    return torch.stack((of_lr, *of_lambdas, of_alignment), 1)


def _parts(blocks: Blocks, pathway: int) -> Sequence[Tensor]:
    return blocks.encoders[pathway], (blocks.decoder_B if pathway else blocks.decoder_A)

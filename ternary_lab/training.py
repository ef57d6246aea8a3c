"""Training a cohort: one step, one epoch, and the generator over epochs.

R runs are trained side by side by one programme; each has its own weights, random streams, schedules
and controllers, so that its company changes no more than float rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ternary_lab import controllers as control
from ternary_lab import hypergradient, losses, prior, space, splits
from ternary_lab.config import Config, differences, is_structural
from ternary_lab.controllers import Controllers, Correction, Plan
from ternary_lab.errors import ConfigError, DivergenceError
from ternary_lab.measurement import Group, Measurement, Source
from ternary_lab.metrics.entropy import batch_entropy
from ternary_lab.model import Architecture, Blocks, Bound, DualVAE, inject, statenet
from ternary_lab.numerics import fenced
from ternary_lab.runtime import Purpose, at_most_threads, helping_threads, resolve_device
from ternary_lab.selection import cost

Measures = Literal["all", "coverage"]
"""Every metric of a row, or the sampled coverage alone, which is what the original measures."""

SHARED_FROM = 3
"""Runs from which on a training step is worth several CPU threads: half of them, the others measure."""


@dataclass(frozen=True)
class EpochRecord:
    """One run's epoch: a row of `history.csv`.

    Losses, entropies and KL are in nats, coverages and reconstruction in percent. Loss terms, H and λ are
    means over the epoch's batches; λ₁₋₃ therefore mix the value before and after StateNet's correction.
    Sampled coverage is missing, its counts None, where `evaluation.coverage_at` has left it out.
    `loss_*` are the terms as they enter the training loss, with λ, gradient scale and weight: their
    sum is `train_loss`. `grad_norm_*` are of λ g ∇L before clipping.
    `loss_information_*`, which older histories lack, are 0 where nothing asks for information.
    `val_elbo` is the mean ELBO of both pathways on the validation split (higher is better); `delta_*` are
    StateNet's outputs in (-1, 1).

    Seconds are the whole cohort's: `seconds_train` for training and validation, beside which the epoch
    before is measured; `seconds_eval` for what this epoch's measurement took beyond that.
    """

    run: str
    seed: int
    epoch: int
    phase: int
    train_loss: float
    val_loss: float
    val_elbo: float
    ce_A: float
    ce_B: float
    kl_A: float
    kl_B: float
    H_A: float
    H_B: float
    entropy_B: float
    repulsion_B: float
    loss_ce_A: float
    loss_kl_A: float
    loss_ce_B: float
    loss_kl_B: float
    loss_entropy_B: float
    loss_repulsion_B: float
    loss_alignment: float
    beta_A: float
    beta_B: float
    temperature_A: float
    temperature_B: float
    rho: float
    lambda1: float
    lambda2: float
    lambda3: float
    lr_scheduled: float
    lr: float
    delta_lr: float
    delta_lambda1: float
    delta_lambda2: float
    delta_lambda3: float
    grad_ratio: float
    grad_momentum: float
    grad_norm_A: float
    grad_norm_B: float
    unique_ops_A: int | None
    unique_ops_B: int | None
    coverage_A: float
    coverage_B: float
    info_coverage_A: float
    info_coverage_B: float
    effective_coverage_A: float
    effective_coverage_B: float
    neg_elbo_A: float
    neg_elbo_B: float
    reconstruction_A: float
    reconstruction_B: float
    seconds_train: float
    seconds_eval: float
    loss_information_A: float = 0.0
    loss_information_B: float = 0.0


BLAME = {
    "ce_A": "the cross-entropy", "ce_B": "the cross-entropy", "kl_A": "the KL term", "kl_B": "the KL term",
    "entropy_B": "the output entropy", "repulsion_B": "the repulsion", "H_A": "the latent entropy",
    "H_B": "the latent entropy", "loss_information_A": "the information",
    "loss_information_B": "the information", "train_loss": "the training loss", "val_loss": "the validation loss",
    "grad_norm_A": "the gradient", "grad_norm_B": "the gradient",
}
BLAMED = tuple(term for term in BLAME if term != "val_loss")
"""Columns that are looked at in every step, in the order in which they are computed."""
COLUMNS = tuple(f.name for f in fields(EpochRecord))
LATER = {f.name: f.default for f in fields(EpochRecord) if f.default is not MISSING}
"""The last columns, which older histories lack, and what they would have held."""
TIMING_COLUMNS = ("seconds_train", "seconds_eval")


@dataclass(frozen=True)
class Best:
    """The best epoch so far by a criterion; `value` counts as smaller is better."""

    value: float = float("inf")
    epoch: int = -1


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
    """(2, 1, N): moving average of the output distributions, where the loss asks for information."""

    @staticmethod
    def initial(config: Config, seed: int) -> RunState:
        architecture = Architecture(config.model)
        return RunState(
            0, 0, architecture.initialise(seed), architecture.empty(), architecture.empty(),
            Controllers.initial(config), Best(),
            output=torch.zeros(2, 1, space.SIZE) if config.information.enabled else None,
        )


@dataclass(frozen=True)
class StepSettings:
    """What a training step reads, one value per run: tensors (R,) unless said otherwise."""

    weights: losses.Weights
    temperature: Tensor
    """(2, R, 1, 1)"""
    rho: Tensor
    """(R, 1, 1)"""
    kept: Tensor
    """(R, 1, 1): 1 - ρ."""
    forgetting: Tensor
    """1 - m, of the moving averages of the gradient norms."""
    scale_low: Tensor
    scale_high: Tensor
    grad_clip: Tensor
    lr: Sequence[float]
    balance: bool
    raw_norms: bool
    clip_apart: bool
    prior: prior.PriorWeights | None
    """None where no run's loss has the terms of `prior` in this epoch."""


@dataclass(frozen=True)
class Alignment:
    """|H_A - H_B| of a batch by an H that has a gradient."""

    entropy: Tensor
    """(2, R): H_A and H_B."""
    z: Tensor
    """(2, R, B, L): gradient of |H_A - H_B| in the latents, before λ₃."""


@dataclass(frozen=True)
class Pass:
    """A batch on its way through the model: what the backward pass needs."""

    terms: losses.LossTerms
    gradients: losses.LossGradients
    z: Tensor
    """(2, R, B, L): sampled latents, before injection."""
    noise: Tensor
    """(2, R, B, L): z - μ."""
    activations: tuple[list[Tensor], list[Tensor], list[Tensor]]
    """Of the encoders, decoder A and decoder B."""
    alignment: Alignment | None
    """None where the alignment has no gradient."""
    prior: prior.PriorTerms | None
    decoded: Tensor
    """(2, R, B + M, 27): gradients in the decoders' logits, those of M prior latents behind the batch's."""


@dataclass(frozen=True)
class StepRecord:
    """What an optimiser step did; tensors (2, R)."""

    scale: Tensor
    """g, the gradient balance."""
    norm: Tensor
    """Pathways' gradient norms before clipping."""
    clip: Tensor
    """Factor of the clipping, at most 1."""


class Cohort:
    """R runs trained side by side, advanced one epoch at a time.

    Configurations may differ from run to run in values, not in `config.STRUCTURAL` settings. Raises
    ConfigError when they do.
    """

    def __init__(
        self,
        configs: Sequence[Config],
        seeds: Sequence[int],
        device: torch.device,
        states: Sequence[RunState] | None = None,
        names: Sequence[str] | None = None,
        *,
        measures: Measures = "all",
    ) -> None:
        check_cohort(configs)
        self.configs, self.seeds, self.device = list(configs), list(seeds), device
        self.names = list(names) if names is not None else [f"seed={seed}" for seed in seeds]
        self.config = self.configs[0]
        self.architecture = Architecture(self.config.model)
        if states is None:
            states = [RunState.initial(c, s) for c, s in zip(self.configs, self.seeds, strict=True)]
        self._load(states)
        split = splits.split(self.config.data)
        self.x_train = space.operations(split.train).to(device)
        self.x_validation = space.operations(split.validation).to(device)
        self._aligns = self.config.entropy_alignment.gradient == "differentiable"
        self._place = device if self.config.runtime.streams == "device" else torch.device("cpu")
        self._source = Source(self.config.evaluation, self.x_validation, self._place)
        self._measures = measures
        threads = torch.get_num_threads()
        self._threads = 1 if self.runs < SHARED_FROM else max(1, threads // 2)
        self._helpers = helping_threads(threads - self._threads if device.type == "cpu" else 0)
        self.diverged: dict[str, str] = {}
        """Runs that have left because a loss or gradient was not finite: name -> which, and where."""
        self._unsettled: tuple[Measurement, list[int]] | None = None
        """The measurement whose counts the controllers have not read yet, and where each run stands in it."""

    def _load(self, states: Sequence[RunState]) -> None:
        epochs = {(state.next_epoch, state.steps) for state in states}
        if len(epochs) != 1:
            raise ConfigError("runs of one cohort must stand at the same epoch: train them apart, then together")
        self.epoch, self.steps = epochs.pop()
        self.blocks = Blocks.join([state.blocks for state in states]).to(self.device)
        self.first_moments = Blocks.join([state.first_moments for state in states]).to(self.device)
        self.second_moments = Blocks.join([state.second_moments for state in states]).to(self.device)
        self.gradients = Blocks(*(torch.zeros_like(block) for block in vars(self.blocks).values()))
        parts = (self.blocks, self.gradients, self.first_moments, self.second_moments)
        self._rows = [
            [[_rows(blocks, run, pathway) for blocks in parts] for pathway in range(2)] for run in range(len(states))
        ]
        encoders = self.blocks.encoders.flatten(0, 1), self.gradients.encoders.flatten(0, 1)
        self._encoders = Bound(self.architecture.encoder, *encoders)
        self._decoder_A = Bound(self.architecture.decoder_A, self.blocks.decoder_A, self.gradients.decoder_A)
        self._decoder_B = Bound(self.architecture.decoder_B, self.blocks.decoder_B, self.gradients.decoder_B)
        self.controllers = [state.controllers for state in states]
        self.best = [state.best for state in states]
        self.selected = [state.selected for state in states]
        outputs = [torch.zeros(2, 1, space.SIZE) if s.output is None else s.output for s in states]
        self.outputs = torch.cat(outputs, 1).to(self.device)
        self._part_norms = torch.empty(2, 2, self.runs, device=self.device)
        self.norms = self._runs([(c.norm_A, c.norm_B) for c in self.controllers]).t().contiguous()
        self.stopped: list[str | None] = [state.stopped for state in states]

    @property
    def model(self) -> DualVAE:
        return DualVAE(self.architecture, self.blocks)

    @property
    def runs(self) -> int:
        return len(self.seeds)

    def state(self, index: int) -> RunState:
        """A copy of one run's state, on the CPU: the other runs and later epochs leave it as it is."""
        self._settle()
        return self._state(index)

    def _state(self, index: int) -> RunState:
        cpu = torch.device("cpu")

        def one(blocks: Blocks) -> Blocks:
            with torch.no_grad():
                return blocks.select([index]).to(cpu)

        return RunState(
            self.epoch, self.steps, one(self.blocks), one(self.first_moments), one(self.second_moments),
            self.controllers[index], self.best[index], self.selected[index], self.stopped[index],
            self.outputs[:, index : index + 1].cpu() if self.configs[index].information.enabled else None,
        )

    def keep(self, indices: Sequence[int]) -> None:
        """Go on with some of the runs only."""
        states = [self._state(i) for i in indices]
        if self._unsettled is not None:
            measurement, places = self._unsettled
            self._unsettled = measurement, [places[i] for i in indices]
        self.configs = [self.configs[i] for i in indices]
        self.seeds = [self.seeds[i] for i in indices]
        self.names = [self.names[i] for i in indices]
        self._load(states)

    def drop_stopped(self) -> bool:
        """Go on with the runs that have not stopped; False when there is none."""
        going = [i for i, stopped in enumerate(self.stopped) if stopped is None]
        if going and len(going) < self.runs:
            self.keep(going)
        return bool(going)

    def streams(self, purpose: Purpose, epoch: int = 0) -> list[torch.Generator]:
        """One stream per run, on the device where this experiment draws its random numbers."""
        return self._source.streams(self.seeds, purpose, epoch)

    def advance(self) -> list[EpochRecord]:
        """Train and measure one epoch; the records come in the order of the runs."""
        epoch = self.train_next()
        if epoch is None:
            raise self.divergence()
        return [record for record, _ in epoch.finish()]

    def epochs(self) -> Iterator[Epoch]:
        """Train every run to its end. An epoch is measured while the next is trained, and comes after it."""
        before: Epoch | None = None
        try:
            while True:
                epoch = self.train_next()
                if before is not None:
                    yield before
                before = epoch
                if epoch is None:
                    return
                if not self.drop_stopped():
                    yield epoch
                    return
        finally:
            if before is not None:
                before.measurement.cancel()

    def train_next(self) -> Epoch | None:
        """Train one epoch and begin to measure it; None when every run has diverged in it."""
        if self._unsettled is not None:
            self._unsettled[0].begin()
        if any(map(control.reads_coverage, self.configs, self.controllers)):
            self._settle()
        started = time.perf_counter()
        plans = [
            control.plan_epoch(c, self.epoch, state) for c, state in zip(self.configs, self.controllers, strict=True)
        ]
        figures, corrections = self.train_planned(plans)
        val_loss = self.validate(plans, corrections)
        good = self._finite(figures, val_loss)
        if not good:
            return None
        if len(good) < self.runs:
            # What is not finite stays in its run: the others go on as if it had never been there.
            norms_now = self.norms[:, good].contiguous()
            self.keep(good)
            self.norms = norms_now  # the controllers do not know this epoch's yet
            figures = {name: [values[i] for i in good] for name, values in figures.items()}
            plans, corrections = [plans[i] for i in good], [corrections[i] for i in good]
            val_loss = [val_loss[i] for i in good]
        norms = self.norms.tolist()
        rows = []
        for i, (plan, correction) in enumerate(zip(plans, corrections, strict=True)):
            row: dict[str, Any] = {name: values[i] for name, values in figures.items()}
            row |= {k: v for k, v in asdict(correction).items() if k.startswith("delta_")}
            row |= {k: v for k, v in asdict(plan).items() if k not in ("lr", "lambda1", "lambda2", "lambda3")}
            row |= {"val_loss": val_loss[i], "lr_scheduled": plan.lr, "lr": correction.lr}
            row |= {"run": self.names[i], "seed": self.seeds[i], "seconds_train": time.perf_counter() - started}
            rows.append(row)
            self.controllers[i] = control.after_epoch(
                self.controllers[i], plan, correction, (norms[0][i], norms[1][i])
            )
        measurement = self.measurement()
        self._unsettled = measurement, list(range(self.runs))
        self.epoch += 1
        for i, row in enumerate(rows):
            self._judge(i, row, measurement)
        return Epoch(rows, [self._state(i) for i in range(self.runs)], tuple(self.names), measurement)

    def _finite(self, figures: Mapping[str, Sequence[float]], val_loss: Sequence[float]) -> list[int]:
        """The runs whose losses and gradients were all finite; `diverged` names what was not in the others."""
        good = []
        for i, name in enumerate(self.names):
            if not all(math.isfinite(figures[term][i]) for term in BLAMED):
                # The first step at which anything was not finite, and what came first in it.
                values = self._per_step[:, :, i]
                step = int((~values.isfinite()).any(0).nonzero()[0])
                term = BLAMED[int((~values[:, step].isfinite()).nonzero()[0])]
                self.diverged[name] = _divergence(term, self.epoch, step + 1)
            elif not math.isfinite(val_loss[i]):
                self.diverged[name] = _divergence("val_loss", self.epoch, None)
            else:
                good.append(i)
        return good

    def divergence(self) -> DivergenceError:
        """What `diverged` holds, as an error."""
        return DivergenceError("; ".join(f"{name}: {reason}" for name, reason in self.diverged.items()))

    def measurement(self) -> Measurement:
        """What measures the weights as they are now: beside the next epoch, or when its figures are asked for."""
        always = self.config.evaluation.coverage_at == "every_epoch" or self._measures == "coverage"
        read = [always or control.reads_coverage(*of) for of in zip(self.configs, self.controllers, strict=True)]
        groups: list[Group]
        if self.device.type == "cpu":  # run by run, so that the activations stay in a core's cache
            groups = [Group(self.model.run(i), (seed,), read[i]) for i, seed in enumerate(self.seeds)]
        else:
            groups = [Group(self.model.copy(), tuple(self.seeds), any(read))]
        return Measurement(self._source, groups, self.epoch, self._helpers, coverage_only=self._measures == "coverage")

    def _settle(self) -> None:
        """Let the controllers know the last epoch's counts."""
        if self._unsettled is not None:
            measurement, places = self._unsettled
            counts = measurement.unique_operations
            self.controllers = [
                control.after_counting(c, counts[place]) for c, place in zip(self.controllers, places, strict=True)
            ]
            self._unsettled = None

    def train_planned(self, plans: Sequence[Plan]) -> tuple[dict[str, list[float]], list[Correction]]:
        """One pass over the training split, order and noise from each run's own streams: see `train_epoch`."""
        with at_most_threads(self._threads):
            return self.train_epoch(plans, *self._data())

    def _data(self) -> tuple[Tensor, Tensor]:
        """The epoch's operations (R, n, 9) in their order, and its noise (2, R, n, L)."""
        n = self.config.data.epoch_operations or len(self.x_train)
        order = torch.stack([
            torch.cat([
                torch.randperm(len(self.x_train), generator=g, device=g.device)
                for _ in range(-(-n // len(self.x_train)))
            ])[:n].to(self.device)
            for g in self.streams("order", self.epoch)
        ])
        shape = (2, n, self.config.model.latent_dim)
        noise = torch.stack([
            torch.empty(shape, device=g.device).normal_(generator=g).to(self.device)
            for g in self.streams("noise", self.epoch)
        ])
        return self.x_train[order], noise.transpose(0, 1)

    @torch.no_grad()
    def train_epoch(
        self, plans: Sequence[Plan], x: Tensor, noise: Tensor
    ) -> tuple[dict[str, list[float]], list[Correction]]:
        """One pass over x (R, n, 9) in the order given, with noise (2, R, n, L).

        Returns the batch means of every recorded figure, one per run, and StateNet's corrections.
        """
        batch, n = self.config.data.batch_size, x.shape[1]
        both, target = x.repeat(2, 1, 1), losses.one_hot(x)
        latents = torch.full((-(-n // batch), 2, self.runs, batch, noise.shape[-1]), float("nan"), device=self.device)
        corrections = [Correction.none(plan) for plan in plans]
        settings = self.settings(plans, corrections)
        lambdas: list[Tensor] = []
        passes: list[losses.LossTerms] = []
        updates: list[StepRecord] = []
        informed: list[Tensor] = []
        aligned: list[Tensor] = []
        drawn = self.streams("prior", self.epoch) if settings.prior is not None else []
        starts = range(0, n, batch)
        lessons = self._lessons(len(starts))
        for i, start in enumerate(starts):
            part = slice(start, start + batch)
            forward = self.forward(
                both[:, part], target[:, part], noise[:, :, part], settings, self._prior_latents(drawn)
            )
            if forward.prior is not None and settings.prior is not None:
                informed.append(forward.prior.pathway(settings.prior))
            if forward.alignment is not None:
                aligned.append(forward.alignment.entropy)
            lambdas.append(settings.weights.lambdas)
            if i == 0:
                inputs = self._statenet_inputs(plans, forward)
                corrections = self.correct(plans, inputs)
                # lr is corrected at once; λ only from the second batch on.
                settings = replace(settings, lr=[c.lr for c in corrections])
            slope = self._alignment_slope(forward) if i in lessons else None
            updates.append(self.update(forward, settings))
            if i in lessons:
                taken = self._taken(updates[-1], settings, slope)
                self._teach(taken, plans, corrections, inputs, settings, lessons.index(i))
            if i == 0:
                settings = self.settings(plans, corrections)
            passes.append(forward.terms)
            latents[i, :, :, : forward.z.shape[2]] = forward.z
        entropy = torch.cat([batch_entropy(part) for part in torch.split(latents, 64)])
        compared = torch.stack(aligned) if aligned else entropy
        weights = torch.stack(lambdas)
        norms = torch.stack([update.norm for update in updates])
        terms = {f.name: torch.stack([getattr(t, f.name) for t in passes]) for f in fields(losses.LossTerms)}
        ce, kl, beta = terms["ce"], terms["kl"], settings.weights.beta
        scaled = weights[:, :2] * torch.stack([update.scale for update in updates])
        loss = {
            "loss_ce_A": scaled[:, 0] * ce[:, 0],
            "loss_kl_A": scaled[:, 0] * beta[0] * kl[:, 0],
            "loss_ce_B": scaled[:, 1] * ce[:, 1],
            "loss_kl_B": scaled[:, 1] * beta[1] * kl[:, 1],
            "loss_entropy_B": -scaled[:, 1] * settings.weights.entropy * terms["entropy_B"],
            "loss_repulsion_B": scaled[:, 1] * settings.weights.repulsion * terms["repulsion_B"],
            "loss_alignment": weights[:, 2] * (compared[:, 0] - compared[:, 1]).abs(),
        }
        information = scaled * torch.stack(informed) if informed else torch.zeros_like(scaled)
        loss |= {"loss_information_A": information[:, 0], "loss_information_B": information[:, 1]}
        per_step = loss | {
            "train_loss": torch.stack(list(loss.values())).sum(0),
            "entropy_B": terms["entropy_B"], "repulsion_B": terms["repulsion_B"],
            "ce_A": ce[:, 0], "ce_B": ce[:, 1], "kl_A": kl[:, 0], "kl_B": kl[:, 1],
            "H_A": entropy[:, 0], "H_B": entropy[:, 1],
            "lambda1": weights[:, 0], "lambda2": weights[:, 1], "lambda3": weights[:, 2],
            "grad_norm_A": norms[:, 0], "grad_norm_B": norms[:, 1],
        }
        self._per_step = torch.stack([per_step[term] for term in BLAMED])
        means = torch.stack([values.double().mean(0) for values in per_step.values()]).tolist()
        return dict(zip(per_step, means, strict=True)), corrections

    def settings(self, plans: Sequence[Plan], corrections: Sequence[Correction]) -> StepSettings:
        """The plans and corrections as tensors over runs."""
        c = self.configs
        weights = losses.Weights(
            beta=self._runs([(p.beta_A, p.beta_B) for p in plans]).t(),
            lambdas=self._runs([(k.lambda1, k.lambda2, k.lambda3) for k in corrections]).t(),
            free_bits=self._runs([k.kl.free_bits for k in c]),
            entropy=self._runs([k.loss.entropy_weight for k in c]),
            repulsion=self._runs([k.loss.repulsion_weight for k in c]),
            repulsion_sigma=self._runs([k.loss.repulsion_sigma for k in c]),
            free_bits_per=self.config.kl.free_bits_per,
        )
        return StepSettings(
            weights=weights,
            temperature=self._runs([(p.temperature_A, p.temperature_B) for p in plans]).t()[:, :, None, None],
            rho=self._runs([p.rho for p in plans])[:, None, None],
            kept=self._runs([1 - p.rho for p in plans])[:, None, None],
            forgetting=self._runs([1 - p.grad_momentum for p in plans]),
            scale_low=self._runs([k.gradient_balance.low for k in c]),
            scale_high=self._runs([k.gradient_balance.high for k in c]),
            grad_clip=self._runs([k.optimiser.grad_clip for k in c]),
            lr=[k.lr for k in corrections],
            balance=self.config.gradient_balance.enabled,
            raw_norms=self.config.gradient_balance.norm == "raw",
            clip_apart=self.config.optimiser.clip_per == "pathway",
            prior=self._prior_weights(plans),
        )

    def _prior_weights(self, plans: Sequence[Plan]) -> prior.PriorWeights | None:
        weights = [c.information.weights(p.epoch) for c, p in zip(self.configs, plans, strict=True)]
        return prior.PriorWeights(*self._runs(weights).t()) if any(map(any, weights)) else None

    def _prior_latents(self, streams: Sequence[torch.Generator]) -> Tensor | None:
        """Latents (R, M, L) from the prior for one step, or None without streams to draw them from."""
        if not streams:
            return None
        shape = self.config.information.latents, self.config.model.latent_dim
        return torch.stack([torch.empty(shape, device=g.device).normal_(generator=g) for g in streams]).to(self.device)

    def forward(
        self, x: Tensor, target: Tensor, eps: Tensor, s: StepSettings, latents: Tensor | None = None
    ) -> Pass:
        """Operations x (2R, B, 9), once for each encoder, with noise ε (2, R, B, L), up to the loss terms.

        Latents (R, M, L) drawn from the prior, the same for both pathways, add the terms of `prior`.
        """
        runs, batch = target.shape[:2]
        encoded = self._encoders.forward(x)
        mu, log_variance = encoded[-1].view(2, runs, batch, -1).chunk(2, -1)
        noise = (0.5 * log_variance).exp_().mul_(eps).mul_(s.temperature)
        z = mu + noise
        injected = inject(z, s.rho)
        if latents is not None:
            injected = torch.cat((injected, latents.expand(2, -1, -1, -1)), 2)
        decoded = self._decoder_A.forward(injected[0]), self._decoder_B.forward(injected[1])
        every = torch.stack((decoded[0][-1], decoded[1][-1]))
        terms, gradients = losses.loss_terms(
            target, mu, log_variance, z, every[:, :, :batch].view(2, *target.shape), s.weights
        )
        d_logits, informed = gradients.logits.flatten(3), None
        if latents is not None and s.prior is not None:
            settings = self.config.information
            informed, d_informed = prior.prior_terms(
                every[:, :, batch:], self.outputs, settings.decay, settings.margin, s.prior
            )
            d_logits = torch.cat((d_logits, d_informed), 2)
        return Pass(terms, gradients, z, noise, (encoded, *decoded), self._alignment(z), informed, d_logits)

    def _alignment(self, z: Tensor) -> Alignment | None:
        if not self._aligns:
            return None
        entropy, slope = losses.soft_entropy(z)
        towards = (entropy[0] - entropy[1]).sign()
        return Alignment(entropy, slope * torch.stack((towards, -towards))[:, :, None, None])

    def update(self, forward: Pass, s: StepSettings) -> StepRecord:
        """One optimiser step from a forward pass: differentiate, balance, clip, AdamW, moving averages."""
        scale = torch.ones_like(self.norms)
        if s.balance:
            ratio = self.norms.flip(0) / (self.norms + control.TINY)
            scale = torch.minimum(torch.maximum(ratio, s.scale_low), s.scale_high)
        # The gradients are those of L_A and L_B; λ g and the clipping are one factor per pathway.
        factor = s.weights.lambdas[:2] * scale
        self._differentiate(forward, s, factor)
        g, parts = self.gradients, self._part_norms
        torch.linalg.vector_norm(g.encoders, dim=-1, out=parts[0])
        torch.linalg.vector_norm(g.decoder_A, dim=-1, out=parts[1, 0])
        torch.linalg.vector_norm(g.decoder_B, dim=-1, out=parts[1, 1])
        norm = torch.linalg.vector_norm(parts, dim=0).mul_(factor)
        whole = norm if s.clip_apart else torch.linalg.vector_norm(norm, dim=0, keepdim=True).expand_as(norm)
        clip = (s.grad_clip / (whole + 1e-6)).clamp_(max=1)
        self.steps += 1
        self._adamw(factor.mul_(clip).reciprocal_(), s.lr)
        self.norms.lerp_(norm if s.raw_norms else norm * clip, s.forgetting)
        return StepRecord(scale, norm, clip)

    def _differentiate(self, forward: Pass, s: StepSettings, factor: Tensor) -> None:
        """Gradients of L_A with respect to pathway A and of L_B with respect to pathway B, into their blocks.

        They are multiplied by `factor` (2, R) afterwards, which the alignment's, being of neither, is divided by.
        """
        _, decoded_a, decoded_b = forward.activations
        d_a = self._decoder_A.backward(decoded_a, forward.decoded[0], to_input=True)
        d_b = self._decoder_B.backward(decoded_b, forward.decoded[1], to_input=True)
        assert d_a is not None
        assert d_b is not None
        batch = forward.z.shape[2]  # what follows it are prior latents, which come from no encoder
        d_z = torch.stack((d_a[:, :batch], d_b[:, :batch])).mul_(s.kept)
        d_z[1].add_(forward.gradients.z_B)
        if forward.alignment is not None:
            share = s.weights.lambdas[2] / factor.clamp_min(control.TINY)
            d_z.addcmul_(forward.alignment.z, share[:, :, None, None])
        self._differentiate_encoders(forward, d_z, forward.gradients.mu, forward.gradients.log_variance)

    def _differentiate_encoders(self, forward: Pass, d_z: Tensor, mu: Tensor, log_variance: Tensor) -> None:
        """Gradients of the encoders from those in z, and from those in μ and s that do not come through z."""
        # z = μ + τ σ ε, and so ∂z/∂s = (z - μ)/2.
        d_head = d_z.new_empty(*d_z.shape[:-1], 2 * d_z.shape[-1])
        d_mu, d_log_variance = d_head.chunk(2, -1)
        torch.add(d_z, mu, out=d_mu)
        torch.addcmul(log_variance, d_z, forward.noise, value=0.5, out=d_log_variance)
        self._encoders.backward(forward.activations[0], d_head.flatten(0, 1), to_input=False)

    def _adamw(self, divisor: Tensor, lr: Sequence[float]) -> None:
        """AdamW (Loshchilov & Hutter 2019); each run has its learning rate, each pathway its gradients' divisor."""
        step = torch.tensor(float(self.steps), device=self.device)
        for i, (config, rate) in enumerate(zip(self.configs, lr, strict=True)):
            o = config.optimiser
            for pathway, (weights, gradients, first, second) in enumerate(self._rows[i]):
                # The kernel behind torch.optim.AdamW(fused=True), without that class's bookkeeping per step.
                torch._fused_adamw_(
                    weights, gradients, first, second, [], [step] * len(weights), lr=rate, beta1=o.beta1,
                    beta2=o.beta2, weight_decay=o.weight_decay, eps=o.eps, amsgrad=False, maximize=False,
                    grad_scale=divisor[pathway, i],
                )

    def _statenet_inputs(self, plans: Sequence[Plan], forward: Pass) -> Tensor:
        """(R, 9), from the epoch's first forward pass."""
        scheduled = self._runs([(p.grad_ratio, p.rho, p.lambda1, p.lambda2, p.lambda3) for p in plans])
        return torch.cat((batch_entropy(forward.z).t(), forward.terms.kl.t(), scheduled), 1)

    def correct(self, plans: Sequence[Plan], inputs: Tensor) -> list[Correction]:
        """StateNet's corrections of every run."""
        if not self.config.model.use_statenet:
            return [Correction.none(plan) for plan in plans]
        outputs = statenet(self.blocks, inputs).tolist()
        return [
            control.correct(config, plan, tuple(output))
            for config, plan, output in zip(self.configs, plans, outputs, strict=True)
        ]

    def _lessons(self, steps: int) -> list[int]:
        """The steps of an epoch from which StateNet learns. The first is none: its λ are not corrected yet."""
        net = self.config.statenet
        if net.training == "none":
            return []
        lessons = min(net.lessons, steps - 1)
        return [1 + k * (steps - 1) // lessons for k in range(lessons)]

    def _alignment_slope(self, forward: Pass) -> Tensor | None:
        """(2, R, ·): gradient of |H_A - H_B| in the encoders; those of the loss are overwritten."""
        if forward.alignment is None:
            return None
        nothing = torch.zeros_like(forward.z)
        self._differentiate_encoders(forward, forward.alignment.z, nothing, nothing)
        return self.gradients.encoders.clone()

    def _taken(self, update: StepRecord, s: StepSettings, slope: Tensor | None) -> hypergradient.Step:
        """The step just taken. AdamW has left the gradients as it had them, and they are copied."""
        gradients = Blocks(*(block.clone() for block in vars(self.gradients).values()))
        return hypergradient.Step(
            self.blocks, gradients, self.first_moments, self.second_moments, s.weights.lambdas, update.clip,
            s.clip_apart, slope,
        )

    def _teach(
        self, taken: hypergradient.Step, plans: Sequence[Plan], corrections: Sequence[Correction], inputs: Tensor,
        s: StepSettings, lesson: int,
    ) -> None:
        """One step of StateNet's AdamW along the hypergradient of the validation objective."""
        self._differentiate_objective(s, lesson)
        o = [c.optimiser for c in self.configs]
        settings = [(lr, k.beta1, k.beta2, k.eps, k.weight_decay) for lr, k in zip(s.lr, o, strict=True)]
        optimiser = hypergradient.AdamW(self.steps, *self._runs(settings).t()[:, :, None])
        slopes = hypergradient.control_gradients(taken, self.gradients, optimiser)
        slopes = slopes * self._runs([
            control.correction_slopes(*of) for of in zip(self.configs, plans, corrections, strict=True)
        ])
        weights = self.blocks.statenet.detach().requires_grad_()
        with torch.enable_grad():
            outputs = statenet(replace(self.blocks, statenet=weights), inputs)
            gradient, = torch.autograd.grad(outputs, weights, slopes)
        step = torch.tensor(float(self.epoch * self.config.statenet.lessons + lesson + 1), device=self.device)
        for i, config in enumerate(self.configs):
            rows = (b.statenet[i] for b in (self.blocks, self.first_moments, self.second_moments))
            weight, first, second = rows
            torch._fused_adamw_(
                [weight], [gradient[i].contiguous()], [first], [second], [], [step],
                lr=config.statenet.learning_rate, beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8, amsgrad=False,
                maximize=False,
            )

    def _differentiate_objective(self, s: StepSettings, lesson: int) -> None:
        """Gradients of the validation objective into the gradient blocks: -ELBO, less w I(X;Z) where it is asked."""
        net, runs = self.config.statenet, self.runs
        streams = self.streams("lesson", self.epoch * net.lessons + lesson)
        n, latent = min(net.lesson_operations, len(self.x_validation)), self.config.model.latent_dim
        chosen = torch.stack([
            torch.randperm(len(self.x_validation), generator=g, device=g.device)[:n].to(self.device) for g in streams
        ])
        noise = torch.stack([
            torch.empty(2, n, latent, device=g.device).normal_(generator=g).to(self.device) for g in streams
        ])
        x = self.x_validation[chosen]
        one, none = torch.ones(2, runs, device=self.device), torch.zeros(runs, device=self.device)
        weight = self._runs([c.statenet.information_weight for c in self.configs])
        lambdas = torch.cat((one, none[None]))
        judged = replace(
            s, weights=losses.Weights(one, lambdas, none, none, none, s.weights.repulsion_sigma),
            temperature=one[:, :, None, None], rho=none[:, None, None], kept=one[0, :, None, None],
            prior=prior.PriorWeights(weight, weight, none) if bool(weight.any()) else None,
        )
        average = self.outputs.clone()
        forward = self.forward(
            x.repeat(2, 1, 1), losses.one_hot(x), noise.transpose(0, 1), judged,
            self._prior_latents(streams) if judged.prior is not None else None,
        )
        self.outputs.copy_(average)  # these latents are not of the training
        self._differentiate(forward, judged, one)

    @torch.no_grad()
    def validate(self, plans: Sequence[Plan], corrections: Sequence[Correction]) -> list[float]:
        """Validation loss of every run with the epoch's β and λ: z = μ, gradient scales 1, mean over batches."""
        with at_most_threads(self._threads):
            return self._validate(self.settings(plans, corrections))

    def _validate(self, s: StepSettings) -> list[float]:
        totals = []
        for x in torch.split(self.x_validation, self.config.data.batch_size):
            mu, log_variance = self.model.encode(x.expand(self.runs, -1, -1))
            logits = self.model.decode(inject(mu, s.rho))
            target = losses.one_hot(x.expand(self.runs, -1, -1))
            terms, _ = losses.loss_terms(target, mu, log_variance, mu, logits, s.weights)
            entropy = losses.soft_entropy(mu)[0] if self._aligns else batch_entropy(mu)
            lambdas = s.weights.lambdas
            pathway = terms.pathway(s.weights)
            totals.append((lambdas[:2] * pathway).sum(0) + lambdas[2] * (entropy[0] - entropy[1]).abs())
        values: list[float] = torch.stack(totals).mean(0).tolist()
        return values

    def _runs(self, values: Sequence[float] | Sequence[tuple[float, ...]]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    def _judge(self, index: int, row: dict[str, Any], measurement: Measurement) -> None:
        """Keep the best epochs; stop the run when it has not improved for `patience` epochs, or is complete."""
        config, epoch = self.configs[index], row["epoch"]
        stopping, total = config.early_stopping, config.training.total_epochs
        values = row
        if {stopping.metric, config.criterion} != {"val_loss"}:  # which is known without waiting for the rest
            values = row | {name: values[index] for name, values in measurement.metrics.items()}
        for kept, criterion in ((self.best, stopping.metric), (self.selected, config.criterion)):
            value = cost(values, criterion)
            if value < kept[index].value:
                kept[index] = Best(value, epoch)
        if stopping.patience and epoch - self.best[index].epoch >= stopping.patience:
            self.stopped[index] = (
                f"early stop: {stopping.metric} has not improved since epoch {self.best[index].epoch}"
            )
        elif epoch + 1 >= total:
            self.stopped[index] = f"complete: {total} epochs"


@dataclass(frozen=True)
class Epoch:
    """One trained epoch of a cohort; its measurement may still be under way."""

    rows: Sequence[Mapping[str, Any]]
    """Of each run, what training itself tells of the `EpochRecord`."""
    states: Sequence[RunState]
    company: tuple[str, ...]
    """Names of the runs."""
    measurement: Measurement

    def finish(self) -> list[tuple[EpochRecord, RunState]]:
        """Wait for the measurement: each run's record, and the state that the next epoch starts from."""
        metrics = self.measurement.metrics
        finished = []
        for i, (row, state) in enumerate(zip(self.rows, self.states, strict=True)):
            values = {**row, **{name: values[i] for name, values in metrics.items()}}
            record = EpochRecord(**values, seconds_eval=self.measurement.waited)
            controllers = control.after_counting(state.controllers, self.measurement.unique_operations[i])
            finished.append((record, replace(state, controllers=controllers)))
        return finished


@fenced
def train(
    config: Config, seeds: Sequence[int] = (42,), *, device: str | torch.device = "auto"
) -> Iterator[EpochRecord]:
    """Train one run per seed side by side and yield a record per run and epoch, epoch by epoch.

    Nothing is written. Stopping early, by leaving the loop, is safe. Raises ConfigError for no seeds,
    a seed given twice or one that is not in 0..2^32 - 1, DeviceError for a device that is not there, and
    at the end DivergenceError when a run's loss or gradient was not finite; the others go on till then.
    """
    check_seeds(seeds)
    cohort = Cohort([config] * len(seeds), seeds, resolve_device(device))
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


def check_cohort(configs: Sequence[Config]) -> None:
    """Raises ConfigError unless the configurations can be trained side by side."""
    for other in configs[1:]:
        for key in differences(configs[0], other):
            if is_structural(key):
                raise ConfigError(f"{key} differs between runs of one cohort: train these runs apart")


def _divergence(term: str, epoch: int, step: int | None) -> str:
    """What ended a run, and what to do."""
    where = f"epoch {epoch}" + (f", step {step}" if step is not None else "")
    pathway = f" of pathway {term[-1]}" if term[-2:] in ("_A", "_B") else ""
    return (
        f"diverged: {BLAME[term]}{pathway} was not finite in {where}: "
        "lower optimiser.lr_steps or optimiser.grad_clip"
    )


def _rows(blocks: Blocks, run: int, pathway: int) -> list[Tensor]:
    """One run's contiguous rows of one pathway: its encoder's and its decoder's."""
    return [blocks.encoders[pathway, run], (blocks.decoder_B if pathway else blocks.decoder_A)[run]]

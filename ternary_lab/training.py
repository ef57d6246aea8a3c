"""Training a cohort: one step, one epoch, and the generator over epochs.

R runs are trained side by side by one programme; each has its own weights, random streams, schedules
and controllers, so that its company changes no more than float rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ternary_lab import controllers as control
from ternary_lab import information_loss, losses, space, splits, statenet_learning
from ternary_lab.backend.devices import gpu_errors, resolve_device
from ternary_lab.backend.numerics import fenced
from ternary_lab.backend.random_streams import Purpose, Streams
from ternary_lab.backend.threads import at_most_threads, helping_threads
from ternary_lab.config import Config, differences, is_structural
from ternary_lab.controllers import Controllers, Correction, Plan
from ternary_lab.errors import ConfigError, DivergenceError
from ternary_lab.history import BLAME, BLAMED, EpochRecord, cost
from ternary_lab.memory import room
from ternary_lab.metrics import latent_entropy
from ternary_lab.metrics.latent_entropy import batch_entropy
from ternary_lab.metrics.per_epoch import Group, Measurement, Source
from ternary_lab.model import Architecture, DualVAE, inject, statenet
from ternary_lab.networks import Blocks
from ternary_lab.step import Figures, Pass, Stepper, StepRecord, StepSettings

Measures = Literal["all", "coverage"]
"""Every metric of a row, or the sampled coverage alone, which is what the original measures."""
SHARED_FROM = 3
"""Runs from which on a training step is worth several CPU threads: half of them, the others measure."""


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
        self.epoch, steps = epochs.pop()
        blocks, first_moments, second_moments = (
            Blocks.join([getattr(state, name) for state in states]).to(self.device)
            for name in ("blocks", "first_moments", "second_moments")
        )
        outputs = [torch.zeros(2, 1, space.SIZE) if s.output is None else s.output for s in states]
        self.controllers = [state.controllers for state in states]
        norms = torch.tensor([(c.norm_A, c.norm_B) for c in self.controllers], device=self.device).t().contiguous()
        self.step = Stepper(
            self.configs, blocks, first_moments, second_moments, torch.cat(outputs, 1).to(self.device), norms, steps
        )
        self.best = [state.best for state in states]
        self.selected = [state.selected for state in states]
        self.stopped: list[str | None] = [state.stopped for state in states]

    @property
    def blocks(self) -> Blocks:
        return self.step.blocks

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
        return self._states()[index]

    def _states(self) -> list[RunState]:
        """Copies of all runs' states, on the CPU. From a GPU they come in one transfer."""
        step = self.step
        tensors = [*(b for part in (step.blocks, step.first_moments, step.second_moments) for b in vars(part).values())]
        *blocks, outputs = _on_cpu([*tensors, step.outputs])
        weights, first, second = (Blocks(*blocks[i : i + 4]) for i in (0, 4, 8))
        return [
            RunState(
                self.epoch, step.steps, weights.one(i), first.one(i), second.one(i), self.controllers[i], self.best[i],
                self.selected[i], self.stopped[i], outputs[:, i : i + 1] if config.information.enabled else None,
            )
            for i, config in enumerate(self.configs)
        ]

    def keep(self, indices: Sequence[int]) -> None:
        """Go on with some of the runs only."""
        every = self._states()
        states = [every[i] for i in indices]
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

    def streams(self, purpose: Purpose, epoch: int = 0) -> Streams:
        """The runs' streams, on the device where this experiment draws its random numbers."""
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
        if self._unsettled is not None and self.device.type == "cpu":
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
            norms_now = self.step.norms[:, good].contiguous()
            self.keep(good)
            self.step.norms.copy_(norms_now)  # the controllers do not know this epoch's yet
            figures = {name: [values[i] for i in good] for name, values in figures.items()}
            plans, corrections = [plans[i] for i in good], [corrections[i] for i in good]
            val_loss = [val_loss[i] for i in good]
        norms = self.step.norms.tolist()
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
        return Epoch(rows, self._states(), tuple(self.names), measurement)

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
            groups = [Group(self.model.run(i), (seed,), (read[i],)) for i, seed in enumerate(self.seeds)]
        else:
            groups = [Group(self.model.copy(), tuple(self.seeds), tuple(read))]
        return Measurement(self._source, groups, self.epoch, self._helpers, coverage_only=self._measures == "coverage")

    def _settle(self) -> None:
        """Let the controllers know the last epoch's counts."""
        if self._unsettled is not None:
            measurement, places = self._unsettled
            counts = measurement.result(counts_only=True).unique_operations
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
        held = len(self.x_train)
        n = self.config.data.epoch_operations or held
        order = self.streams("order", self.epoch)
        passes = [order.permutations(held) for _ in range(-(-n // held))]
        chosen = torch.cat(passes, 1)[:, :n].to(self.device)
        noise = self.streams("noise", self.epoch).normal(2, n, self.config.model.latent_dim).to(self.device)
        return self.x_train[chosen], noise.transpose(0, 1)

    @torch.no_grad()
    def train_epoch(
        self, plans: Sequence[Plan], x: Tensor, noise: Tensor
    ) -> tuple[dict[str, list[float]], list[Correction]]:
        """One pass over x (R, n, 9) in the order given, with noise (2, R, n, L).

        Returns the batch means of every recorded figure, one per run, and StateNet's corrections.
        """
        step = self.step
        steps = step.epoch(x, noise, self.streams("prior", self.epoch))
        lessons = self._lessons(len(steps))
        corrections = [Correction.none(plan) for plan in plans]
        settings = step.settings(plans, corrections)
        steps.use(settings)
        for i in range(len(steps)):
            forward = steps.forward()
            if i == 0:
                inputs = self._statenet_inputs(plans, forward)
                corrections = self.correct(plans, inputs)
                # lr is corrected at once; λ only from the second batch on.
                steps.use(step.settings(plans, [
                    replace(Correction.none(plan), lr=c.lr) for plan, c in zip(plans, corrections, strict=True)
                ]))
            slope = self._alignment_slope(forward) if i in lessons else None
            update = steps.update()
            if i in lessons:
                taken = self._taken(update, settings, slope)
                self._teach(taken, plans, corrections, inputs, settings, lessons.index(i))
            if i == 0:
                settings = step.settings(plans, corrections)
                steps.use(settings)
        if self._unsettled is not None:
            self._unsettled[0].begin()  # a GPU measures while it trains what it has been given by now
        return self._columns(steps.figures(), settings), corrections

    def _columns(self, found: Figures, settings: StepSettings) -> dict[str, list[float]]:
        """The batch means of every recorded figure, one per run."""
        entropy = torch.cat([batch_entropy(part) for part in torch.split(found.z, 64)])
        compared = entropy if found.aligned is None else found.aligned
        weights, norms, ce, kl, beta = found.lambdas, found.norm, found.ce, found.kl, settings.weights.beta
        scaled = weights[:, :2] * found.scale
        loss = {
            "loss_ce_A": scaled[:, 0] * ce[:, 0],
            "loss_kl_A": scaled[:, 0] * beta[0] * kl[:, 0],
            "loss_ce_B": scaled[:, 1] * ce[:, 1],
            "loss_kl_B": scaled[:, 1] * beta[1] * kl[:, 1],
            "loss_entropy_B": -scaled[:, 1] * settings.weights.entropy * found.entropy_B,
            "loss_repulsion_B": scaled[:, 1] * settings.weights.repulsion * found.repulsion_B,
            "loss_alignment": weights[:, 2] * (compared[:, 0] - compared[:, 1]).abs(),
        }
        information = scaled * found.information
        loss |= {"loss_information_A": information[:, 0], "loss_information_B": information[:, 1]}
        per_step = loss | {
            "train_loss": torch.stack(list(loss.values())).sum(0),
            "entropy_B": found.entropy_B, "repulsion_B": found.repulsion_B,
            "ce_A": ce[:, 0], "ce_B": ce[:, 1], "kl_A": kl[:, 0], "kl_B": kl[:, 1],
            "H_A": entropy[:, 0], "H_B": entropy[:, 1],
            "lambda1": weights[:, 0], "lambda2": weights[:, 1], "lambda3": weights[:, 2],
            "grad_norm_A": norms[:, 0], "grad_norm_B": norms[:, 1],
        }
        self._per_step = torch.stack([per_step[term] for term in BLAMED])
        means = torch.stack([values.double().mean(0) for values in per_step.values()]).tolist()
        return dict(zip(per_step, means, strict=True))

    def _statenet_inputs(self, plans: Sequence[Plan], forward: Pass) -> Tensor:
        """(R, 9), from the epoch's first forward pass."""
        scheduled = self.step.values([(p.grad_ratio, p.rho, p.lambda1, p.lambda2, p.lambda3) for p in plans])
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
        self.step.differentiate_encoders(forward, forward.alignment.z, nothing, nothing)
        return self.step.gradients.encoders.clone()

    def _taken(self, update: StepRecord, s: StepSettings, slope: Tensor | None) -> statenet_learning.Step:
        """The step just taken. AdamW has left the gradients as it had them, and they are copied."""
        gradients = Blocks(*(block.clone() for block in vars(self.step.gradients).values()))
        return statenet_learning.Step(
            self.blocks, gradients, self.step.first_moments, self.step.second_moments, s.weights.lambdas, update.clip,
            self.config.optimiser.clip_per == "pathway", slope,
        )

    def _teach(
        self, taken: statenet_learning.Step, plans: Sequence[Plan], corrections: Sequence[Correction], inputs: Tensor,
        s: StepSettings, lesson: int,
    ) -> None:
        """One step of StateNet's AdamW along the hypergradient of the validation objective."""
        self._differentiate_objective(s, lesson)
        optimiser = statenet_learning.AdamW(self.step.steps, *s.rates[:, :, None])
        slopes = statenet_learning.control_gradients(taken, self.step.gradients, optimiser)
        slopes = slopes * self.step.values([
            control.correction_slopes(*of) for of in zip(self.configs, plans, corrections, strict=True)
        ])
        weights = self.blocks.statenet.detach().requires_grad_()
        with torch.enable_grad():
            outputs = statenet(replace(self.blocks, statenet=weights), inputs)
            gradient, = torch.autograd.grad(outputs, weights, slopes)
        step = torch.tensor(float(self.epoch * self.config.statenet.lessons + lesson + 1), device=self.device)
        for i, config in enumerate(self.configs):
            rows = (b.statenet[i] for b in (self.blocks, self.step.first_moments, self.step.second_moments))
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
        chosen = streams.permutations(len(self.x_validation))[:, :n].to(self.device)
        noise = streams.normal(2, n, latent).to(self.device)
        x = self.x_validation[chosen]
        one, none = torch.ones(2, runs, device=self.device), torch.zeros(runs, device=self.device)
        weight = self.step.values([c.statenet.information_weight for c in self.configs])
        lambdas = torch.cat((one, none[None]))
        judged = replace(
            s, weights=losses.Weights(one, lambdas, none, none, none, s.weights.repulsion_sigma),
            temperature=one[:, :, None, None], rho=none[:, None, None], kept=one[0, :, None, None],
            prior=information_loss.PriorWeights(weight, weight, none) if bool(weight.any()) else None,
        )
        average = self.step.outputs.clone()
        forward = self.step.forward(
            x.repeat(2, 1, 1), space.one_hot(x), noise.transpose(0, 1), judged,
            self.step.prior_latents(streams) if judged.prior is not None else None,
        )
        self.step.outputs.copy_(average)  # these latents are not of the training
        self.step.differentiate(forward, judged, one)

    @torch.no_grad()
    def validate(self, plans: Sequence[Plan], corrections: Sequence[Correction]) -> list[float]:
        """Validation loss of every run with the epoch's β and λ: z = μ, gradient scales 1, mean over batches."""
        with at_most_threads(self._threads):
            return self._validate(self.step.settings(plans, corrections))

    def _validate(self, s: StepSettings) -> list[float]:
        rows, batch = len(self.x_validation), self.config.data.batch_size
        if self.device.type == "cpu":  # batch by batch, which a core's cache holds
            spans = [(start, min(start + batch, rows), 1) for start in range(0, rows, batch)]
        else:  # all full batches at once, as if they were of so many more runs
            full = rows // batch * batch
            spans = [(0, full, rows // batch)] * (full > 0) + [(full, rows, 1)] * (full < rows)
        losses_of = [self._validation_losses(s, self.x_validation[a:b], batches) for a, b, batches in spans]
        values: list[float] = torch.cat(losses_of).mean(0).tolist()
        return values

    def _validation_losses(self, s: StepSettings, x: Tensor, batches: int) -> Tensor:
        """The loss of every batch and run, (batches, R), of operations x (B batches, 9)."""
        x = x.expand(self.runs, -1, -1)
        mu, log_variance = self.model.encode(x)
        logits, target = self.model.decode(inject(mu, s.rho)), space.one_hot(x)
        weights = s.weights
        if batches > 1:
            each, latent = (self.runs * batches, len(x[0]) // batches), mu.shape[-1]
            mu, log_variance = (v.reshape(2, *each, latent) for v in (mu, log_variance))
            logits, target = logits.reshape(2, *each, *logits.shape[3:]), target.reshape(*each, *target.shape[2:])
            weights = weights.repeated(batches)
        terms, _ = losses.loss_terms(target, mu, log_variance, mu, logits, weights)
        entropy = latent_entropy.soft_entropy(mu)[0] if self.step.aligns else batch_entropy(mu)
        lambdas = weights.lambdas
        value = (lambdas[:2] * terms.pathway(weights)).sum(0) + lambdas[2] * (entropy[0] - entropy[1]).abs()
        return value.view(self.runs, batches).t()

    def _judge(self, index: int, row: dict[str, Any], measurement: Measurement) -> None:
        """Keep the best epochs; stop the run when it has not improved for `patience` epochs, or is complete."""
        config, epoch = self.configs[index], row["epoch"]
        stopping, total = config.early_stopping, config.training.total_epochs
        values = row
        if {stopping.metric, config.criterion} != {"val_loss"}:  # which is known without waiting for the rest
            values = row | {name: values[index] for name, values in measurement.result().metrics.items()}
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
        measured = self.measurement.result()
        finished = []
        for i, (row, state) in enumerate(zip(self.rows, self.states, strict=True)):
            values = {**row, **{name: values[i] for name, values in measured.metrics.items()}}
            record = EpochRecord(**values, seconds_eval=measured.seconds)
            controllers = control.after_counting(state.controllers, measured.unique_operations[i])
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


def check_cohort(configs: Sequence[Config]) -> None:
    """Raises ConfigError unless the configurations can be trained side by side."""
    for other in configs[1:]:
        for key in differences(configs[0], other):
            if is_structural(key):
                raise ConfigError(f"{key} differs between runs of one cohort: train these runs apart")


def _on_cpu(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies of the tensors on the CPU, from a GPU by one transfer."""
    if tensors[0].device.type == "cpu":
        return [tensor.clone() for tensor in tensors]
    whole = torch.cat([tensor.flatten() for tensor in tensors])
    host = torch.empty(whole.shape, dtype=whole.dtype, pin_memory=whole.device.type == "cuda").copy_(whole)
    parts = torch.split(host, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _divergence(term: str, epoch: int, step: int | None) -> str:
    """What ended a run, and what to do."""
    where = f"epoch {epoch}" + (f", step {step}" if step is not None else "")
    pathway = f" of pathway {term[-1]}" if term[-2:] in ("_A", "_B") else ""
    return (
        f"diverged: {BLAME[term]}{pathway} was not finite in {where}: "
        "lower optimiser.lr_steps or optimiser.grad_clip"
    )

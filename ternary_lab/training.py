"""Training: a cohort of runs, its epochs, validation, early stopping, and the generator `train`.

The R runs of a cohort are computed together. Each has its own weights, random streams, schedules and controllers, so
the other runs change its numbers by float rounding at most.
"""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial, reduce
from typing import Any, Literal

import torch
from torch import Tensor

from ternary_lab import controllers as control
from ternary_lab import losses, space, splits
from ternary_lab.backend.devices import gpu_errors, resolve_device
from ternary_lab.backend.numerics import fenced
from ternary_lab.backend.random_streams import Purpose, Streams
from ternary_lab.backend.threads import at_most_threads, helping_threads
from ternary_lab.config import Config, differences, is_structural
from ternary_lab.controllers import Controllers, Correction, Plan
from ternary_lab.errors import ConfigError, DivergenceError
from ternary_lab.history import EpochRecord, cost
from ternary_lab.memory import room
from ternary_lab.metrics.latent_entropy import batch_entropy, soft_entropy
from ternary_lab.metrics.per_epoch import Group, Measurement, Source
from ternary_lab.model import Architecture, DualVAE, inject, statenet
from ternary_lab.networks import Blocks
from ternary_lab.statenet_learning import StateNetLearning
from ternary_lab.step import Figures, Pass, Stepper, StepSettings

Measures = Literal["all", "coverage"]
"""Every metric of a row, or only the sampled coverage, which is all that the original measures."""

SHARED_FROM = 3
"""From so many runs on a training step uses several CPU threads: half of them, the others measure."""


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
    """(2, 1, N): moving average of the output distributions, where the loss has information terms."""

    @staticmethod
    def initial(config: Config, seed: int) -> RunState:
        """The state before the first epoch."""
        architecture = Architecture(config.model)
        return RunState(
            0, 0, architecture.initialise(seed), architecture.empty(), architecture.empty(),
            Controllers.initial(config), Best(),
            output=torch.zeros(2, 1, space.SIZE) if config.information.enabled else None,
        )


class Cohort:
    """R runs trained side by side, advanced one epoch at a time.

    Configurations may differ from run to run in values, not in `config.STRUCTURAL` settings. Raises ConfigError when
    they do.
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
        split = splits.split(self.config.data)
        self.x_train = space.operations(split.train).to(device)
        self.x_validation = space.operations(split.validation).to(device)
        place = device if self.config.runtime.streams == "device" else torch.device("cpu")
        self._source = Source(self.config.evaluation, self.x_validation, place)
        self._measures = measures
        threads = torch.get_num_threads()
        self._threads = 1 if self.runs < SHARED_FROM else max(1, threads // 2)
        self._helpers = helping_threads(threads - self._threads if device.type == "cpu" else 0)
        self.diverged: dict[str, str] = {}
        """Runs that have left because a loss or gradient was not finite: name -> the term and the place."""
        self._uncounted: tuple[Measurement, list[int]] | None = None
        """A measurement whose counts the controllers have not read yet, and the place of each run in it."""
        if states is None:
            states = [RunState.initial(c, s) for c, s in zip(self.configs, self.seeds, strict=True)]
        self._load(states)

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
        self._learning: StateNetLearning | None = None
        if self.config.statenet.training != "none":
            self._learning = StateNetLearning(self.step, self.x_validation, self.streams)
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

    def streams(self, purpose: Purpose, epoch: int = 0) -> Streams:
        """The runs' random streams, on the device where this experiment draws its random numbers."""
        return self._source.streams(self.seeds, purpose, epoch)

    # States

    def state(self, index: int) -> RunState:
        """A copy of one run's state on the CPU. Later epochs do not change it."""
        self._count()
        return self._states()[index]

    def _states(self) -> list[RunState]:
        """Copies of all runs' states on the CPU. From a GPU they come in one transfer."""
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
        if self._uncounted is not None:
            measurement, places = self._uncounted
            self._uncounted = measurement, [places[i] for i in indices]
        self.configs, self.seeds, self.names = (
            [values[i] for i in indices] for values in (self.configs, self.seeds, self.names)
        )
        self._load([every[i] for i in indices])

    def drop_stopped(self) -> bool:
        """Go on with the runs that have not stopped; False when there is none."""
        going = [i for i, stopped in enumerate(self.stopped) if stopped is None]
        if going and len(going) < self.runs:
            self.keep(going)
        return bool(going)

    # Epochs

    def advance(self) -> list[EpochRecord]:
        """Train and measure one epoch; the records come in the order of the runs."""
        epoch = self.train_next()
        if epoch is None:
            raise self.divergence()
        return [record for record, _ in epoch.finish()]

    def epochs(self) -> Iterator[Epoch]:
        """Train every run to its end. An epoch is measured while the next one is trained, and yielded after it."""
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
        if self._uncounted is not None and self.device.type == "cpu":
            self._uncounted[0].begin()
        if any(map(control.reads_coverage, self.configs, self.controllers)):
            self._count()
        started = time.perf_counter()
        plans = [
            control.plan_epoch(c, self.epoch, state) for c, state in zip(self.configs, self.controllers, strict=True)
        ]
        figures, corrections = self.train_planned(plans)
        val_loss = self.validate(plans, corrections)
        finite = self._finite(figures, val_loss)
        if not finite:
            return None
        if len(finite) < self.runs:
            # The other runs go on as if a diverged one had never been among them.
            norms = self.step.norms[:, finite].contiguous()
            self.keep(finite)
            self.step.norms.copy_(norms)  # `keep` has taken those of the controllers, an epoch old
            figures = {name: [values[i] for i in finite] for name, values in figures.items()}
            plans, corrections = [plans[i] for i in finite], [corrections[i] for i in finite]
            val_loss = [val_loss[i] for i in finite]
        norms_A, norms_B = self.step.norms.tolist()
        self.controllers = [
            control.after_epoch(*of) for of in zip(
                self.controllers, plans, corrections, zip(norms_A, norms_B, strict=True), strict=True
            )
        ]
        seconds = time.perf_counter() - started
        rows = [
            {
                "run": name, "seed": seed, "seconds_train": seconds, **_of_plan(plan, correction),
                **{column: values[i] for column, values in figures.items()}, "val_loss": loss,
            }
            for i, (name, seed, plan, correction, loss) in enumerate(
                zip(self.names, self.seeds, plans, corrections, val_loss, strict=True)
            )
        ]
        measurement = self.measurement()
        self._uncounted = measurement, list(range(self.runs))
        self.epoch += 1
        self._judge(rows, measurement)
        return Epoch(rows, self._states(), tuple(self.names), measurement, self.config.added_columns)

    def train_planned(self, plans: Sequence[Plan]) -> tuple[dict[str, list[float]], list[Correction]]:
        """One pass over the training split, order and noise from each run's own streams: see `train_epoch`."""
        held = len(self.x_train)
        n = self.config.data.epoch_operations or held
        with at_most_threads(self._threads):
            order = self.streams("order", self.epoch)
            passes = [order.permutations(held) for _ in range(-(-n // held))]
            chosen = torch.cat(passes, 1)[:, :n].to(self.device)
            noise = self.streams("noise", self.epoch).normal(2, n, self.config.model.latent_dim).to(self.device)
            return self.train_epoch(plans, self.x_train[chosen], noise.transpose(0, 1))

    @torch.no_grad()
    def train_epoch(
        self, plans: Sequence[Plan], x: Tensor, noise: Tensor
    ) -> tuple[dict[str, list[float]], list[Correction]]:
        """One pass over x (R, n, 9) in the order given, with noise (2, R, n, L).

        Returns the batch means of every recorded figure, one per run, and StateNet's corrections.
        """
        steps = self.step.epoch(x, noise, self.streams("prior", self.epoch))
        if self._learning is not None:
            self._learning.begin_epoch(self.epoch, len(steps))
        corrections = [Correction.none(plan) for plan in plans]
        settings = self.step.settings(plans, corrections)
        steps.use(settings)
        for i in range(len(steps)):
            forward = steps.forward()
            if i == 0:
                inputs = self._statenet_inputs(plans, forward)
                corrections = self.correct(plans, inputs)
                # lr is corrected at once, the λ from the second batch on.
                steps.use(self.step.settings(plans, [
                    replace(Correction.none(plan), lr=c.lr) for plan, c in zip(plans, corrections, strict=True)
                ]))
            if self._learning is not None:
                self._learning.before_update(i, forward)
            record = steps.update()
            if self._learning is not None:
                self._learning.after_update(i, record, settings, plans, corrections, inputs)
            if i == 0:
                settings = self.step.settings(plans, corrections)
                steps.use(settings)
        if self._uncounted is not None:
            self._uncounted[0].begin()  # a GPU measures while it computes the steps that are queued by now
        return self._means(epoch_columns(self.step, steps.figures(), settings)), corrections

    def _means(self, per_step: Mapping[str, Tensor]) -> dict[str, list[float]]:
        """The means over steps of columns (S, R), one value per run; `_finite` may read the steps."""
        self._per_step = per_step
        means = torch.stack([values.double().mean(0) for values in per_step.values()]).tolist()
        return dict(zip(per_step, means, strict=True))

    # StateNet

    def _statenet_inputs(self, plans: Sequence[Plan], forward: Pass) -> Tensor:
        """(R, 9), from the epoch's first forward pass."""
        scheduled = self.step.values([(p.grad_ratio, p.rho, p.lambda1, p.lambda2, p.lambda3) for p in plans])
        kl = torch.stack((forward.values["kl_A"], forward.values["kl_B"]), 1)
        return torch.cat((batch_entropy(forward.z).t(), kl, scheduled), 1)

    def correct(self, plans: Sequence[Plan], inputs: Tensor) -> list[Correction]:
        """StateNet's corrections of every run."""
        if not self.config.model.use_statenet:
            return [Correction.none(plan) for plan in plans]
        outputs = statenet(self.blocks, inputs).tolist()
        return [
            control.correct(config, plan, tuple(output))
            for config, plan, output in zip(self.configs, plans, outputs, strict=True)
        ]

    # Measuring, validation, stopping, divergence

    def measurement(self) -> Measurement:
        """The measurement of the present weights, to be begun beside the next epoch or when its result is read."""
        always = self.config.evaluation.coverage_at == "every_epoch" or self._measures == "coverage"
        read = [always or control.reads_coverage(*of) for of in zip(self.configs, self.controllers, strict=True)]
        groups: list[Group]
        if self.device.type == "cpu":  # run by run, so that the activations stay in a core's cache
            groups = [Group(self.model.run(i), (seed,), (read[i],)) for i, seed in enumerate(self.seeds)]
        else:
            groups = [Group(self.model.copy(), tuple(self.seeds), tuple(read))]
        return Measurement(self._source, groups, self.epoch, self._helpers, coverage_only=self._measures == "coverage")

    def _count(self) -> None:
        """Give the controllers the counts of the last measurement."""
        if self._uncounted is not None:
            measurement, places = self._uncounted
            counts = measurement.unique_operations
            self.controllers = [
                control.after_counting(c, counts[place]) for c, place in zip(self.controllers, places, strict=True)
            ]
            self._uncounted = None

    @torch.no_grad()
    def validate(self, plans: Sequence[Plan], corrections: Sequence[Correction]) -> list[float]:
        """Validation loss of every run with the epoch's β and λ: z = μ, gradient scales 1, mean over batches."""
        with at_most_threads(self._threads):
            settings = self.step.settings(plans, corrections)
            return validation_losses(self.step, self.model, self.x_validation, settings)

    def _judge(self, rows: Sequence[Mapping[str, Any]], measurement: Measurement) -> None:
        """Keep each run's best epochs; end a run that has not improved for `patience` epochs, or is complete."""
        for i, (config, row) in enumerate(zip(self.configs, rows, strict=True)):
            stopping, epoch = config.early_stopping, row["epoch"]
            if {stopping.metric, config.criterion} != {"val_loss"}:  # which is known before the measurement
                row = {**row, **{name: values[i] for name, values in measurement.metrics.items()}}
            for kept, criterion in ((self.best, stopping.metric), (self.selected, config.criterion)):
                value = cost(row, criterion)
                if value < kept[i].value:
                    kept[i] = Best(value, epoch)
            best = self.best[i].epoch
            if stopping.patience and epoch - best >= stopping.patience:
                self.stopped[i] = f"early stop: {stopping.metric} has not improved since epoch {best}"
            elif epoch + 1 >= config.training.total_epochs:
                self.stopped[i] = f"complete: {config.training.total_epochs} epochs"

    def _finite(self, figures: Mapping[str, Sequence[float]], val_loss: Sequence[float]) -> list[int]:
        """The runs whose losses and gradients were all finite; the others enter `diverged`."""
        finite, words = [], _words(self.step.terms)
        for i, name in enumerate(self.names):
            if not all(math.isfinite(figures[column][i]) for column in words):
                # The first step in which a value was not finite, and the first such value in it.
                values = torch.stack([self._per_step[column][:, i] for column in words])
                step = int((~values.isfinite()).any(0).nonzero()[0])
                column = list(words)[int((~values[:, step].isfinite()).nonzero()[0])]
                pathway = f" of pathway {column[-1]}" if column[-2:] in ("_A", "_B") else ""
                self.diverged[name] = _divergence(f"{words[column]}{pathway}", f"epoch {self.epoch}, step {step + 1}")
            elif not math.isfinite(val_loss[i]):
                self.diverged[name] = _divergence("the validation loss", f"epoch {self.epoch}")
            else:
                finite.append(i)
        return finite

    def divergence(self) -> DivergenceError:
        """The error that names the runs in `diverged`."""
        return DivergenceError("; ".join(f"{name}: {reason}" for name, reason in self.diverged.items()))


@dataclass(frozen=True)
class Epoch:
    """One trained epoch of a cohort; its measurement may still be under way."""

    rows: Sequence[Mapping[str, Any]]
    """The columns of each run's `EpochRecord` that training itself knows."""
    states: Sequence[RunState]
    company: tuple[str, ...]
    """Names of the runs."""
    measurement: Measurement
    added_columns: Sequence[str] = ()
    """Columns of the loss terms that the configuration adds."""

    def finish(self) -> list[tuple[EpochRecord, RunState]]:
        """Wait for the measurement: each run's record, and the state that the next epoch starts from."""
        metrics = self.measurement.metrics
        finished = []
        for i, (row, state) in enumerate(zip(self.rows, self.states, strict=True)):
            values = {**row, **{name: values[i] for name, values in metrics.items()}}
            added = {column: values.pop(column) for column in self.added_columns}
            record = EpochRecord(**values, seconds_eval=self.measurement.waited, added=added)
            controllers = control.after_counting(state.controllers, self.measurement.unique_operations[i])
            finished.append((record, replace(state, controllers=controllers)))
        return finished


def epoch_columns(step: Stepper, found: Figures, settings: StepSettings) -> dict[str, Tensor]:
    """Column of the history -> (S, R): its value in each of S steps."""
    log = found.log
    entropy = torch.cat([batch_entropy(part) for part in torch.split(found.z, 64)]).unbind(1)
    compared = (log["aligned_A"], log["aligned_B"]) if step.aligns else entropy
    factors = {p: log[name] * log[f"scale_{p}"] for p, name in (("A", "lambda1"), ("B", "lambda2"))}
    loss = {
        f"loss_{column}": factors[column[-1]] * value
        for column, value in losses.weighted(step.terms, log, settings.terms).items()
    }
    loss["loss_alignment"] = log["lambda3"] * (compared[0] - compared[1]).abs()
    loss |= {f"loss_information_{p}": factor * log[f"information_{p}"] for p, factor in factors.items()}
    terms = {column: log[column] for term in step.terms for column in term.columns}
    return {
        **terms, **loss, "train_loss": torch.stack(list(loss.values())).sum(0), "H_A": entropy[0], "H_B": entropy[1],
        **{name: log[name] for name in ("lambda1", "lambda2", "lambda3")},
        "grad_norm_A": log["norm_A"], "grad_norm_B": log["norm_B"],
    }


def validation_losses(step: Stepper, model: DualVAE, x: Tensor, s: StepSettings) -> list[float]:
    """The loss of operations x (V, 9) for every run, mean over batches: z = μ, and gradient scales 1."""
    rows, batch = len(x), step.config.data.batch_size
    if x.device.type == "cpu":  # batch by batch, which a core's cache holds
        spans = [(start, min(start + batch, rows), 1) for start in range(0, rows, batch)]
    else:  # all full batches at once, as if they belonged to as many more runs
        full = rows // batch * batch
        spans = [(0, full, rows // batch)] * (full > 0) + [(full, rows, 1)] * (full < rows)
    found = [_batch_losses(step, model, x[a:b], s, batches) for a, b, batches in spans]
    means: list[float] = torch.cat(found).mean(0).tolist()
    return means


def _batch_losses(step: Stepper, model: DualVAE, x: Tensor, s: StepSettings, batches: int) -> Tensor:
    """The loss of every batch and run, (batches, R), of operations x (B batches, 9)."""
    x = x.expand(step.runs, -1, -1)
    mu, log_variance = model.encode(x)
    logits, target, numbers, lambdas = model.decode(inject(mu, s.rho)), space.one_hot(x), s.terms, s.lambdas
    if batches > 1:
        each, latent = (step.runs * batches, len(x[0]) // batches), mu.shape[-1]
        mu, log_variance = (v.reshape(2, *each, latent) for v in (mu, log_variance))
        logits, target = logits.reshape(2, *each, *logits.shape[3:]), target.reshape(*each, *target.shape[2:])
        numbers, lambdas = losses.repeated(numbers, batches), lambdas.repeat_interleave(batches, -1)
    batch = losses.Batch(mu, log_variance, mu, s.free_bits_per, target, logits)
    values = losses.weighted(step.terms, losses.compute_terms(step.terms, batch, numbers, losses.Gradients()), numbers)
    pathway = {p: reduce(operator.add, (v for column, v in values.items() if column[-1] == p)) for p in "AB"}
    entropy = soft_entropy(mu)[0] if step.aligns else batch_entropy(mu)
    value = lambdas[0] * pathway["A"] + lambdas[1] * pathway["B"] + lambdas[2] * (entropy[0] - entropy[1]).abs()
    return value.view(step.runs, batches).t()


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


def check_cohort(configs: Sequence[Config]) -> None:
    """Raises ConfigError unless the configurations can be trained side by side."""
    for other in configs[1:]:
        for key in differences(configs[0], other):
            if is_structural(key):
                raise ConfigError(f"{key} differs between runs of one cohort: train these runs apart")


def _of_plan(plan: Plan, correction: Correction) -> dict[str, Any]:
    """The columns that come from a run's plan and StateNet's correction of it."""
    kept = {k: v for k, v in asdict(plan).items() if k not in ("lr", "lambda1", "lambda2", "lambda3")}
    deltas = {k: v for k, v in asdict(correction).items() if k.startswith("delta_")}
    return {**kept, **deltas, "lr_scheduled": plan.lr, "lr": correction.lr}


def _on_cpu(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies of the tensors on the CPU, from a GPU by one transfer."""
    if tensors[0].device.type == "cpu":
        return [tensor.clone() for tensor in tensors]
    whole = torch.cat([tensor.flatten() for tensor in tensors])
    host = torch.empty(whole.shape, dtype=whole.dtype, pin_memory=whole.device.type == "cuda").copy_(whole)
    parts = torch.split(host, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _words(terms: Sequence[losses.Term]) -> dict[str, str]:
    """Columns that must be finite, in the order in which a step computes them -> their words."""
    return {
        **{column: term.words for term in terms for column in term.columns},
        "H_A": "the latent entropy", "H_B": "the latent entropy",
        "loss_information_A": "the information", "loss_information_B": "the information",
        "train_loss": "the training loss", "grad_norm_A": "the gradient", "grad_norm_B": "the gradient",
    }


def _divergence(value: str, place: str) -> str:
    """The reason why a run has ended, with the remedy."""
    return f"diverged: {value} was not finite in {place}: lower optimiser.lr_steps or optimiser.grad_clip"

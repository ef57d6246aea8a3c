"""A cohort of runs: its epochs, their measurement, and early stopping.

The R runs of a cohort are computed together. Each run has its own weights, random streams, schedules and controllers.
So the other runs of the cohort change the numbers of a run by float rounding at most.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ternary_lab import controllers as control
from ternary_lab import space, splits
from ternary_lab.backend.random_streams import Purpose, Streams
from ternary_lab.backend.threads import at_most_threads, helping_threads
from ternary_lab.config import Config, differences, is_structural
from ternary_lab.controllers import Correction, Plan
from ternary_lab.errors import ConfigError, DivergenceError
from ternary_lab.history import EpochRecord
from ternary_lab.metrics.per_epoch import Group, Measurement, Source
from ternary_lab.model import Architecture, DualVAE
from ternary_lab.networks import Blocks
from ternary_lab.training.epoch_figures import divergences, epoch_columns, validation_losses
from ternary_lab.training.epoch_steps import Steps, begin_epoch
from ternary_lab.training.run_state import RunState, reason_to_stop
from ternary_lab.training.statenet_learning import StateNetLearning
from ternary_lab.training.step import Stepper, statenet_corrections, statenet_inputs

Measures = Literal["all", "coverage"]
"""The metrics that are measured after an epoch.

`all` stands for every metric of a row of the history. `coverage` stands for the sampled coverage alone, which is the
only metric that the original implementation measures.
"""
SHARED_FROM = 3
"""Smallest number of runs with which a training step uses several CPU threads.

The step then uses half of the CPU threads, and the other threads measure the previous epoch.
"""


class Cohort:
    """R runs that are trained side by side, one epoch at a time.

    Raises ConfigError if the configurations differ in a setting that `config.STRUCTURAL` lists.
    """

    def __init__(
        self, configs: Sequence[Config], seeds: Sequence[int], device: torch.device,
        states: Sequence[RunState] | None = None, names: Sequence[str] | None = None, *, measures: Measures = "all",
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
        """Name of each run that left because a value was not finite, with a message that names the value."""
        self._uncounted: tuple[Measurement, list[int]] | None = None
        """A measurement whose counts the controllers have not read yet, and the index of each run in it."""
        if states is None:
            states = [RunState.initial(c, s) for c, s in zip(self.configs, self.seeds, strict=True)]
        self._load(states)

    def _load(self, states: Sequence[RunState]) -> None:
        epochs = {(state.next_epoch, state.steps) for state in states}
        if len(epochs) != 1:
            raise ConfigError("runs of one cohort must stand at the same epoch: train them apart, then together")
        self.epoch, _ = epochs.pop()
        self.controllers = [state.controllers for state in states]
        self.step = Stepper.of(self.configs, states, self.device)
        self._steps: Steps | None = None  # These are the steps of the previous epoch.
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
        """Return the random streams of the runs, on the device on which this experiment draws random numbers."""
        return self._source.streams(self.seeds, purpose, epoch)

    def state(self, index: int) -> RunState:
        """Return a copy of the state of one run on the CPU. Later epochs do not change the copy."""
        self._count()
        return self._states()[index]

    def _states(self) -> list[RunState]:
        """Return copies of the states of all runs on the CPU. One transfer copies all states from a GPU."""
        return [
            RunState(
                self.epoch, self.step.steps, weights, first, second, self.controllers[i], self.best[i],
                self.selected[i], self.stopped[i], output if self.configs[i].information.enabled else None,
            )
            for i, (weights, first, second, output) in enumerate(self.step.copies())
        ]

    def keep(self, indices: Sequence[int]) -> None:
        """Keep only the runs with these indices in the cohort."""
        every = self._states()
        if self._uncounted is not None:
            measurement, places = self._uncounted
            self._uncounted = measurement, [places[i] for i in indices]
        self.configs = [self.configs[i] for i in indices]
        self.seeds, self.names = [self.seeds[i] for i in indices], [self.names[i] for i in indices]
        self._load([every[i] for i in indices])

    def drop_stopped(self) -> bool:
        """Remove the runs that have stopped. Return False, and remove none, if all have stopped."""
        going = [i for i, stopped in enumerate(self.stopped) if stopped is None]
        if going and len(going) < self.runs:
            self.keep(going)
        return bool(going)

    def advance(self) -> list[EpochRecord]:
        """Train and measure one epoch and return the runs' records. Raises DivergenceError if all runs diverge."""
        epoch = self.train_next()
        if epoch is None:
            raise self.divergence()
        return [record for record, _ in epoch.finish()]

    def epochs(self) -> Iterator[Epoch]:
        """Train every run to its end and yield the epochs.

        If no criterion or controller needs the result earlier, an epoch is measured while the next epoch is trained. An
        epoch is yielded after the training of the next epoch, and the last epoch is yielded at the end.
        """
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
        """Train one epoch and prepare its measurement. Return None if every run has diverged in this epoch."""
        if self._uncounted is not None and self.device.type == "cpu":
            self._uncounted[0].begin()
        if any(map(control.reads_coverage, self.configs, self.controllers)):
            self._count()
        started = time.perf_counter()
        plans = [control.plan_epoch(c, self.epoch, of) for c, of in zip(self.configs, self.controllers, strict=True)]
        figures, corrections = self.train_planned(plans)
        with at_most_threads(self._threads), torch.no_grad():
            settings = self.step.settings(plans, corrections)
            val_loss = validation_losses(self.step, self.model, self.x_validation, settings)
        found = divergences(self.step.terms, figures, self._per_step, val_loss, self.epoch)
        self.diverged |= {self.names[i]: reason for i, reason in found.items()}
        finite = [i for i in range(self.runs) if i not in found]
        if not finite:
            return None
        if found:
            # The other runs continue as if a diverged run had never been in the cohort.
            norms = self.step.norms[:, finite].contiguous()
            self.keep(finite)
            self.step.norms.copy_(norms)  # `keep` has restored the norms of the controllers, which are an epoch old.
            figures = {name: [values[i] for i in finite] for name, values in figures.items()}
            plans, corrections = [plans[i] for i in finite], [corrections[i] for i in finite]
            val_loss = [val_loss[i] for i in finite]
        norms_A, norms_B = self.step.norms.tolist()
        norms_now = zip(norms_A, norms_B, strict=True)
        self.controllers = list(map(control.after_epoch, self.controllers, plans, corrections, norms_now))
        figures |= {"run": self.names, "seed": self.seeds, "val_loss": val_loss}
        rows = [
            {column: values[i] for column, values in figures.items()} | _of_plan(*of)
            | {"seconds_train": time.perf_counter() - started}
            for i, of in enumerate(zip(plans, corrections, strict=True))
        ]
        measurement = self.measurement()
        self._uncounted = measurement, list(range(self.runs))
        self.epoch += 1
        self._judge(rows, measurement)
        return Epoch(rows, self._states(), tuple(self.names), measurement, self.config.added_columns)

    def train_planned(self, plans: Sequence[Plan]) -> tuple[dict[str, list[Any]], list[Correction]]:
        """Train one pass over the training split and return the results of `train_epoch`.

        The random streams of each run give the order of the operations and the noise.
        """
        held = len(self.x_train)
        n = self.config.data.epoch_operations or held
        with at_most_threads(self._threads):
            order = self.streams("order", self.epoch)
            passes = [order.permutations(held) for _ in range(-(-n // held))]
            chosen = torch.cat(passes, 1)[:, :n].to(self.device)
            noise = self.streams("noise", self.epoch).normal(2, n, self.step.noise_width).to(self.device)
            return self.train_epoch(plans, self.x_train[chosen], noise.transpose(0, 1))

    @torch.no_grad()
    def train_epoch(
        self, plans: Sequence[Plan], x: Tensor, noise: Tensor
    ) -> tuple[dict[str, list[Any]], list[Correction]]:
        """Train one pass over operations x (R, n, 9) in this order, with noise (2, R, n, S L).

        Returns a dictionary from column of the history to one value per run, which is the mean over the steps, and
        StateNet's corrections.
        """
        steps = begin_epoch(self.step, x, noise, self.streams("prior", self.epoch), self._steps)
        self._steps = steps
        if self._learning is not None:
            self._learning.begin_epoch(self.epoch, len(steps))
        corrections = [Correction.none(plan) for plan in plans]
        settings = self.step.settings(plans, corrections)
        steps.use(settings)
        for i in range(len(steps)):
            forward = steps.forward()
            if i == 0:
                inputs = statenet_inputs(self.step, plans, forward)
                corrections = statenet_corrections(self.step, plans, inputs)
                # StateNet corrects lr at once, and the λ from the second batch on.
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
            self._uncounted[0].begin()  # A GPU measures while it computes the steps that are already queued.
        self._per_step = epoch_columns(self.step, steps.figures(), settings)
        means = torch.stack([values.double().mean(0) for values in self._per_step.values()]).tolist()
        return dict(zip(self._per_step, means, strict=True)), corrections

    def measurement(self) -> Measurement:
        """Return a measurement of the present weights. It begins beside the next epoch, or when its result is read."""
        always = self.config.evaluation.coverage_at == "every_epoch" or self._measures == "coverage"
        read = [always or control.reads_coverage(*of) for of in zip(self.configs, self.controllers, strict=True)]
        groups: list[Group]
        if self.device.type == "cpu":  # The runs are measured one by one, so that a core's cache holds the activations.
            groups = [Group(self.model.run(i), (seed,), (read[i],)) for i, seed in enumerate(self.seeds)]
        else:
            groups = [Group(self.model.copy(), tuple(self.seeds), tuple(read))]
        return Measurement(self._source, groups, self.epoch, self._helpers, coverage_only=self._measures == "coverage")

    def _count(self) -> None:
        """Update the controllers with the counts of the last measurement, unless they have read them."""
        if self._uncounted is not None:
            measurement, places = self._uncounted
            counts = measurement.result(counts_only=True).unique_operations
            self.controllers = [
                control.after_counting(c, counts[place]) for c, place in zip(self.controllers, places, strict=True)
            ]
            self._uncounted = None

    def _judge(self, rows: Sequence[Mapping[str, Any]], measurement: Measurement) -> None:
        """Update the best epochs of each run, and stop the runs that are complete or no longer improve."""
        for i, (config, row) in enumerate(zip(self.configs, rows, strict=True)):
            if {config.early_stopping.metric, config.criterion} != {"val_loss"}:  # val_loss needs no measurement.
                row = {**row, **{name: values[i] for name, values in measurement.result().metrics.items()}}
            self.best[i] = self.best[i].or_better(row, config.early_stopping.metric)
            self.selected[i] = self.selected[i].or_better(row, config.criterion)
            self.stopped[i] = reason_to_stop(config, row["epoch"], self.best[i])

    def divergence(self) -> DivergenceError:
        """Return the error that names the runs in `diverged`."""
        return DivergenceError("; ".join(f"{name}: {reason}" for name, reason in self.diverged.items()))


@dataclass(frozen=True)
class Epoch:
    """One trained epoch of a cohort.

    Its measurement may be incomplete.
    """

    rows: Sequence[Mapping[str, Any]]
    """For each run, the columns of its `EpochRecord` that are known without the measurement."""
    states: Sequence[RunState]
    company: tuple[str, ...]
    """Names of the runs, in the order of `rows`. Runs that diverged in this epoch are not included."""
    measurement: Measurement
    added_columns: Sequence[str] = ()
    """Columns of the loss terms that the configuration adds."""

    def finish(self) -> list[tuple[EpochRecord, RunState]]:
        """Wait until the measurement is complete. Return the record and the state of each run.

        The next epoch starts from this state.
        """
        measured = self.measurement.result()
        finished = []
        for i, (row, state) in enumerate(zip(self.rows, self.states, strict=True)):
            values = {**row, **{name: values[i] for name, values in measured.metrics.items()}}
            added = {column: values.pop(column) for column in self.added_columns}
            record = EpochRecord(**values, seconds_eval=measured.seconds, added=added)
            controllers = control.after_counting(state.controllers, measured.unique_operations[i])
            finished.append((record, replace(state, controllers=controllers)))
        return finished


def check_cohort(configs: Sequence[Config]) -> None:
    """Raise ConfigError unless the configurations can be trained side by side."""
    for other in configs[1:]:
        for key in differences(configs[0], other):
            if is_structural(key):
                raise ConfigError(f"{key} differs between runs of one cohort: train these runs apart")


def _of_plan(plan: Plan, correction: Correction) -> dict[str, Any]:
    """Return the columns of the history that come from the plan of a run and from StateNet's correction of the plan."""
    kept = {k: v for k, v in asdict(plan).items() if k not in ("lr", "lambda1", "lambda2", "lambda3")}
    deltas = {k: v for k, v in asdict(correction).items() if k.startswith("delta_")}
    return {**kept, **deltas, "lr_scheduled": plan.lr, "lr": correction.lr}

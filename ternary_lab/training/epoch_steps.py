"""The steps of an epoch, which a `Stepper` computes in one of two ways.

Both ways give the same values:

    PlainSteps      computes each step directly; used on a CPU
    ReplayedSteps   reads and writes at fixed addresses; on CUDA it captures a step once as a graph and replays it

A graph saves time, because a step has some 200 kernels of two microseconds. It takes ten times as long to launch these
kernels one by one as to compute them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ternary_lab import space
from ternary_lab.backend.random_streams import Streams
from ternary_lab.space import ENTRIES, VALUES
from ternary_lab.training.step import Figures, Pass, Stepper, StepRecord, StepSettings


class Steps(Protocol):
    """The steps of an epoch."""

    def __len__(self) -> int: ...
    def use(self, settings: StepSettings) -> None:
        """Set the settings for all following calls."""
    def forward(self) -> Pass:
        """Compute the forward pass of the next step. The following step overwrites the returned tensors."""
    def update(self) -> StepRecord:
        """Take the optimiser step that belongs to the last forward pass. The following step overwrites the tensors."""
    def figures(self) -> Figures:
        """Return the logged values of all steps."""


class PlainSteps:
    """The steps of an epoch without graphs.

    Each step is computed when it is requested.
    """

    def __init__(self, stepper: Stepper, x: Tensor, noise: Tensor, draws: Streams) -> None:
        self._stepper, self._draws = stepper, draws
        self._both, self._target, self._noise = x.repeat(2, 1, 1), space.one_hot(x), noise
        self._batch = stepper.config.data.batch_size
        self._count = -(-x.shape[1] // self._batch)
        self._log: list[Tensor] = []
        latent = stepper.config.model.latent_dim
        self._z = torch.full((self._count, *noise.shape[:2], self._batch, latent), float("nan"))

    def __len__(self) -> int:
        return self._count

    def use(self, settings: StepSettings) -> None:
        self._settings = settings

    def forward(self) -> Pass:
        s, step = self._settings, len(self._log)
        part = slice(step * self._batch, (step + 1) * self._batch)
        latents = self._stepper.prior_latents(self._draws) if s.information is not None else None
        self._pass = self._stepper.forward(
            self._both[:, part], self._target[:, part], self._noise[:, :, part], s, latents
        )
        z = self._pass.first_samples
        self._z[step, :, :, : z.shape[2]] = z
        return self._pass

    def update(self) -> StepRecord:
        record = self._stepper.update(self._pass, self._settings)
        self._log.append(self._stepper.row(self._pass, record, self._settings))
        return record

    def figures(self) -> Figures:
        return self._stepper.figures(torch.stack(self._log), self._z)


@dataclass(frozen=True)
class _Graphs:
    """The two graphs of a captured step, and the tensors at fixed addresses that a replay fills.

    A captured step serves all steps that have the same number of operations and both have or lack information terms.
    """

    forward: torch.cuda.CUDAGraph
    update: torch.cuda.CUDAGraph
    leaves: Pass
    record: StepRecord


class ReplayedSteps:
    """The steps of every epoch of a cohort, as CUDA graphs.

    A graph is captured once and then replayed. Without CUDA, each step is computed when it is requested.
    """

    def __init__(self, stepper: Stepper, operations: int) -> None:
        self._stepper, self.operations = stepper, operations
        config, device, runs = stepper.config, stepper.device, stepper.runs
        self._batch, latent = config.data.batch_size, config.model.latent_dim
        self._count = -(-operations // self._batch)

        def buffer(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self._x = buffer(runs, self._count, self._batch, ENTRIES)
        self._target = buffer(runs, self._count, self._batch, ENTRIES, VALUES)
        self._noise = buffer(2, runs, self._count, self._batch, stepper.noise_width)
        self._latents = buffer(runs, config.information.latents, latent) if config.information.enabled else None
        self._z = buffer(self._count, 2, runs, self._batch, latent)
        self._log = buffer(self._count, len(stepper.logged), runs)
        self._packed = buffer(stepper.numbers, runs)
        self._at = buffer(1, dtype=torch.int64)
        self._graphs: dict[tuple[int, bool], _Graphs] = {}
        self._pool: Any = None  # The graphs share this memory, because they never run at the same time.

    def begin(self, x: Tensor, noise: Tensor, draws: Streams) -> None:
        """Copy the operations, noise and streams of an epoch, and go to its first step."""
        self._draws, self._next = draws, 0
        self._settings: StepSettings | None = None
        self._x.flatten(1, 2)[:, : self.operations] = x
        self._target.flatten(1, 2)[:, : self.operations] = space.one_hot(x)
        self._noise.flatten(2, 3)[:, :, : self.operations] = noise
        self._z.fill_(float("nan"))
        self._log.zero_()
        self._at.zero_()

    def __len__(self) -> int:
        return self._count

    def use(self, settings: StepSettings) -> None:
        self._packed.copy_(settings.packed)
        stepper, informed = self._stepper, settings.information is not None
        self._settings = StepSettings.unpacked(self._packed, stepper.config, stepper.terms, informed, settings.lr)

    def forward(self) -> Pass:
        assert self._settings is not None
        batch = min(self._batch, self.operations - self._next * self._batch)
        self._kind = batch, self._settings.information is not None
        if self._latents is not None and self._settings.information is not None:
            self._latents.copy_(self._stepper.prior_latents(self._draws))
        if self._stepper.device.type != "cuda":  # Only CUDA has graphs.
            self._pass = self._forward(*self._kind)
            return self._pass
        with torch.cuda.device(self._stepper.device):  # A graph is captured and replayed on the current device.
            if self._kind not in self._graphs:
                self._graphs[self._kind] = self._capture(*self._kind)
            self._graphs[self._kind].forward.replay()
        return self._graphs[self._kind].leaves

    def update(self) -> StepRecord:
        self._next += 1
        if self._stepper.device.type != "cuda":
            return self._update(self._pass)
        with torch.cuda.device(self._stepper.device):
            self._graphs[self._kind].update.replay()
        self._stepper.steps += 1
        return self._graphs[self._kind].record

    def _forward(self, batch: int, informed: bool) -> Pass:
        """Compute the forward pass of a step. All inputs and outputs are at fixed addresses."""
        s = self._settings
        assert s is not None
        runs = self._stepper.runs
        x, target = (whole.index_select(1, self._at)[:, 0, :batch] for whole in (self._x, self._target))
        noise = self._noise.index_select(2, self._at)[:, :, 0, :batch]
        forward = self._stepper.forward(
            x.expand(2, runs, batch, ENTRIES).reshape(2 * runs, batch, ENTRIES), target, noise, s,
            self._latents if informed else None,
        )
        self._z[:, :, :, :batch].index_copy_(0, self._at, forward.first_samples.unsqueeze(0))
        return forward

    def _update(self, forward: Pass) -> StepRecord:
        s = self._settings
        assert s is not None
        record = self._stepper.update(forward, s)
        self._log.index_copy_(0, self._at, self._stepper.row(forward, record, s).unsqueeze(0))
        self._at.add_(1)
        return record

    def _capture(self, batch: int, informed: bool) -> _Graphs:
        """Capture the graphs of a step with `batch` operations.

        The capture itself computes nothing. Before the capture, one step is computed as a warm-up, and the tensors that
        it changed are restored.
        """
        stepper = self._stepper
        moving, steps = [*stepper.moving(), self._at], stepper.steps
        before = [tensor.clone() for tensor in moving]
        side = torch.cuda.Stream(stepper.device)  # type: ignore[no-untyped-call]
        main = torch.cuda.current_stream(stepper.device)
        side.wait_stream(main)
        with torch.cuda.stream(side):
            self._update(self._forward(batch, informed))
        main.wait_stream(side)
        for tensor, value in zip(moving, before, strict=True):
            tensor.copy_(value)
        forward, update = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(forward, pool=self._pool, capture_error_mode="thread_local"):
            leaves = self._forward(batch, informed)
        self._pool = forward.pool()
        with torch.cuda.graph(update, pool=self._pool, capture_error_mode="thread_local"):
            record = self._update(leaves)
        stepper.steps = steps
        return _Graphs(forward, update, leaves, record)

    def figures(self) -> Figures:
        return self._stepper.figures(self._log, self._z)


def begin_epoch(stepper: Stepper, x: Tensor, noise: Tensor, draws: Streams, before: Steps | None) -> Steps:
    """Return the steps of one pass over operations x (R, n, 9) with noise (2, R, n, S L).

    Args:
        stepper: the weights, and the computation of a step.
        x: operations in the order of the pass.
        noise: the noise ε of the posterior samples.
        draws: random streams of the prior latents.
        before: steps of the previous epoch. Their buffers and graphs are used again if the number of operations is n.
    """
    if stepper.device.type == "cpu":
        return PlainSteps(stepper, x, noise, draws)
    if not isinstance(before, ReplayedSteps) or before.operations != x.shape[1]:
        before = ReplayedSteps(stepper, x.shape[1])
    before.begin(x, noise, draws)
    return before

"""All metrics of an epoch's weights, measured while the next epoch is trained.

The work is divided into tasks of some tens of milliseconds. Helper threads on the CPU execute the tasks one by one.
When the caller waits for the result, the caller also executes tasks. Each task has its own random streams, and sums are
added in the order of the tasks. So the results do not depend on which thread executes a task.
"""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import Any, TypeVar

import torch
from torch import Tensor

from ternary_lab import config, space
from ternary_lab.backend.random_streams import Purpose, Streams, stream
from ternary_lab.backend.threads import Tasks
from ternary_lab.metrics.coverage import drawing_calls
from ternary_lab.metrics.information import Sums, sums
from ternary_lab.metrics.likelihood import negative_elbo, percent_exact, right_entries
from ternary_lab.metrics.sobol import part_groups, part_sizes, sobol_normal
from ternary_lab.model import PATHWAYS, DualVAE, Pathway

T = TypeVar("T")
Key = tuple[int, Pathway, int]
"""Group number, pathway and part number of a task."""
Counts = list[tuple[int, int] | None]
"""One item per run: the numbers of distinct operations among the prior draws of pathways A and B.

The item is None if no operations were counted for this run.
"""


@dataclass(frozen=True)
class Group:
    """The weights and seeds of the runs that are measured together."""

    model: DualVAE
    seeds: tuple[int, ...]
    read: tuple[bool, ...] = ()
    """For each run, true if the drawn operations are counted. If empty, this holds for every run."""

    @property
    def counted(self) -> bool:
        """True if operations are drawn. Operations are drawn for all runs if they are counted for at least one run."""
        return any(self.read) or not self.read


class Source:
    """Inputs of a cohort's measurements, except the weights: validation operations, latents and random numbers.

    Args:
        settings: numbers of draws, latents and posterior samples.
        x: validation operations (V, 9), on the device of the models.
        place: device on which random numbers are drawn.
    """

    def __init__(self, settings: config.Evaluation, x: Tensor, place: torch.device) -> None:
        self.settings, self.x, self.place = settings, x, place
        self._latents: dict[tuple[int, ...], list[Tensor]] = {}
        self.beside: Any = torch.cuda.Stream(x.device) if x.device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def streams(
        self, seeds: Sequence[int], purpose: Purpose, epoch: int, parts: str | Sequence[str] = ""
    ) -> Streams:
        """Return the random streams of the runs with these seeds."""
        return Streams(seeds, purpose, epoch, parts, device=self.place)

    def latents(self, seeds: tuple[int, ...], dimension: int) -> list[Tensor]:
        """Return a list of parts (R, L, M) of the Sobol latents of R runs, the same list at every epoch.

        On a GPU, an item of the list may combine k parts. Its shape is then (k R, L, M).
        """
        if seeds not in self._latents:
            if self.x.device.type != "cpu":  # on a GPU all runs are one group; drop an earlier group
                self._latents.clear()
            names = [stream(seed, "latents").initial_seed() for seed in seeds]
            each = [list(sobol_normal(dimension, self.settings.latents, name, self.x.device)) for name in names]
            self._latents[seeds] = [
                torch.stack([of_run[part] for part in group for of_run in each])
                for group in part_groups(part_sizes(self.settings.latents), len(seeds), self.x.device)
            ]
        return self._latents[seeds]


@dataclass(frozen=True)
class Result:
    """All values that were measured after one epoch."""

    unique_operations: Counts
    metrics: Mapping[str, list[Any]]
    """For each column of `history.csv`, one value per run. Empty if only the counts were requested."""
    seconds: float
    """Time in seconds that callers have waited for the result so far."""


class Measurement:
    """The measurement of R runs after one epoch.

    The caller calls `begin`, trains the next epoch, and then calls `result`.

    Args:
        source: the inputs besides the weights.
        groups: one group per run, or one group for all runs. The weights of a group must not change any more.
        epoch: number of the epoch, which is part of the names of the random streams.
        helpers: threads that execute tasks while the caller continues.
        coverage_only: measure only the sampled coverage.
    """

    def __init__(
        self, source: Source, groups: Sequence[Group], epoch: int, helpers: ThreadPoolExecutor | None, *,
        coverage_only: bool = False,
    ) -> None:
        draws: dict[Key, Callable[[], Tensor]] = {}
        latents: dict[Key, Callable[[], Sums]] = {}
        held_out: dict[int, Callable[[], tuple[Tensor, Tensor]]] = {}
        self._groups, self._coverage_only, self._waited = groups, coverage_only, 0.0
        self._beside, self._done = source.beside, None
        settings = source.settings
        for group, of in enumerate(groups):
            model, seeds = of.model, of.seeds
            streams = partial(source.streams, seeds, "coverage", epoch)
            for pathway in PATHWAYS if of.counted else ():
                calls = drawing_calls(model, pathway, settings.coverage_samples, settings.coverage_decoding, streams)
                draws |= {(group, pathway, part): call for part, call in calls.items()}
            if coverage_only:
                continue
            points = source.latents(seeds, model.architecture.settings.latent_dim)
            for pathway in PATHWAYS:
                for part, z in enumerate(points):
                    latents[group, pathway, part] = partial(sums, model, pathway, z)
            held_out[group] = partial(_held_out, source, model, seeds, epoch)
        if self._beside is not None:
            self._ready = torch.cuda.current_stream(source.x.device).record_event()
        # The counts are measured first, because the next epoch may need them.
        self._draws = Tasks(draws, helpers)
        self._latents = Tasks(latents, helpers)
        self._held_out = Tasks(held_out, helpers)

    def begin(self) -> None:
        """Start the measurement in the helpers, or on a GPU in a separate CUDA stream beside other work.

        The helpers use the caller's numerical settings. So call `begin` and `result` inside the same context
        `fixed_arithmetic`.
        """
        every = (self._draws, self._latents, self._held_out)
        if self._beside is None:
            for tasks in every:
                tasks.begin()
        elif self._done is None:
            self._beside.wait_event(self._ready)
            with torch.cuda.stream(self._beside):
                for tasks in every:
                    tasks.results()
            self._done = self._beside.record_event()

    def result(self, *, counts_only: bool = False) -> Result:
        """Wait for all metrics and return them.

        If `counts_only` is true, wait only for the counts of drawn operations, which are measured first.
        """
        counts = self._counts
        return Result(counts, {} if counts_only else self._metrics, self._waited)

    def cancel(self) -> None:
        """Cancel the tasks that have not started."""
        for tasks in (self._draws, self._latents, self._held_out):
            tasks.cancel()

    @cached_property
    def _counts(self) -> Counts:
        self.begin()
        with self._waiting():
            seen = _joined(self._draws.results(), operator.or_)
            each = [torch.cat(seen[p]).sum(1) for p in PATHWAYS if seen[p]]
            counts = iter(torch.stack(each, 1).tolist() if each else [])
        found: Counts = []
        for group in self._groups:
            drawn = [tuple(next(counts)) if group.counted else None for _ in group.seeds]
            # Counts of a run are left out if no controller reads them. Otherwise the history of the run would depend on
            # the other runs.
            found += [of if read else None for of, read in zip(drawn, group.read or (True,) * len(drawn), strict=True)]
        return found

    @cached_property
    def _metrics(self) -> dict[str, list[Any]]:
        measured = {} if self._coverage_only else self._of_weights()
        for i, pathway in enumerate(PATHWAYS):
            unique = [None if count is None else count[i] for count in self._counts]
            measured[f"unique_ops_{pathway}"] = unique
            measured[f"coverage_{pathway}"] = [math.nan if n is None else 100 * n / space.SIZE for n in unique]
        return measured

    def _of_weights(self) -> dict[str, list[Any]]:
        """Return the columns that do not need drawn operations, with one value per run."""
        values: dict[str, Tensor] = {}
        with self._waiting():
            information = _joined(self._latents.results(), operator.add)
            elbo, reconstruction = (torch.cat(part, 1) for part in zip(*self._held_out.results().values(), strict=True))
            for i, pathway in enumerate(PATHWAYS):
                found = [part.information() for part in information[pathway]]
                for name in ("informative_coverage", "effective_coverage"):
                    values[f"{name}_{pathway}"] = torch.cat([getattr(part, name) for part in found])
                values[f"neg_elbo_{pathway}"] = elbo[i]
                values[f"reconstruction_{pathway}"] = reconstruction[i]
            values["val_elbo"] = -elbo.mean(0)
            table = torch.stack([value.double() for value in values.values()])
            return dict(zip(values, table.tolist(), strict=True))

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        started = time.perf_counter()
        if self._done is not None:
            torch.cuda.current_stream(self._groups[0].model.device).wait_event(self._done)
        yield
        self._waited += time.perf_counter() - started


@torch.no_grad()
def _held_out(source: Source, model: DualVAE, seeds: Sequence[int], epoch: int) -> tuple[Tensor, Tensor]:
    """Return -ELBO and reconstruction, each (2, R), of the validation operations."""
    x = source.x.expand(len(seeds), -1, -1)
    shape = (source.settings.elbo_samples, 2, len(source.x), model.architecture.settings.latent_dim)
    noise = source.streams(seeds, "evaluation", epoch).normal(*shape).to(x.device)
    right = right_entries(model, model.encode(x)[0], x)
    return negative_elbo(model, x, noise.permute(1, 2, 0, 3, 4)), percent_exact(right)


def _joined(results: Mapping[Key, T], join: Callable[[T, T], T]) -> dict[Pathway, list[T]]:
    """Join the parts of each pathway and group.

    Return a dictionary from each pathway to a list with one value per group.
    """
    found: dict[tuple[Pathway, int], list[T]] = {}
    for (group, pathway, _), result in results.items():
        found.setdefault((pathway, group), []).append(result)
    return {
        pathway: [reduce(join, values) for (of, _), values in found.items() if of == pathway] for pathway in PATHWAYS
    }

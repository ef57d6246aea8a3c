"""Every metric of an epoch's weights, measured while the next epoch is trained.

The work is cut into tasks of some tens of milliseconds, which helping CPU threads take in turn, and the
caller with them once it waits. Each task has random streams of its own, and sums are put together in
the order of the tasks: the figures do not depend on which thread did what.
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
from ternary_lab.metrics.coverage import drawn_operations
from ternary_lab.metrics.information import Sums, sums
from ternary_lab.metrics.likelihood import exact_reconstruction, negative_elbo
from ternary_lab.metrics.sobol import parts, side_by_side, sobol_normal
from ternary_lab.model import PATHWAYS, DualVAE, Pathway

T = TypeVar("T")

@dataclass(frozen=True)
class Group:
    """Weights of some runs, and the runs' seeds."""

    model: DualVAE
    seeds: tuple[int, ...]
    read: tuple[bool, ...] = ()
    """Of each run whether its drawn operations are counted; empty: of every run."""

    @property
    def counted(self) -> bool:
        """Whether operations are drawn: from all of the runs, where any is to be counted."""
        return any(self.read) or not self.read


Key = tuple[int, Pathway, int]
"""Group, pathway and part of a task."""


class Source:
    """What the measurements of a cohort read besides weights: held-out operations, latents and noise.

    Args:
        settings: how much is measured.
        x: validation operations (V, 9), on the device of the models to come.
        place: the device where random numbers are drawn.
    """

    def __init__(self, settings: config.Evaluation, x: Tensor, place: torch.device) -> None:
        self.settings, self.x, self.place = settings, x, place
        self._latents: dict[tuple[int, ...], list[Tensor]] = {}
        self.beside: Any = torch.cuda.Stream(x.device) if x.device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def streams(
        self, seeds: Sequence[int], purpose: Purpose, epoch: int, parts: str | Sequence[str] = ""
    ) -> Streams:
        """The runs' streams."""
        return Streams(seeds, purpose, epoch, parts, device=self.place)

    def latents(self, seeds: tuple[int, ...], dimension: int) -> list[Tensor]:
        """Each run's own Sobol latents, the same at every epoch, in parts (R, L, M); on a GPU some together."""
        if seeds not in self._latents:
            if self.x.device.type != "cpu":  # where all runs are one group: those before were another company
                self._latents.clear()
            names = [stream(seed, "latents").initial_seed() for seed in seeds]
            each = [list(sobol_normal(dimension, self.settings.latents, name, self.x.device)) for name in names]
            self._latents[seeds] = [
                torch.stack([of_run[part] for part in group for of_run in each])
                for group in side_by_side(parts(self.settings.latents), len(seeds), self.x.device)
            ]
        return self._latents[seeds]


class Measurement:
    """The metrics of R runs after one epoch, in the making.

    Args:
        groups: weights as they are to be measured, which nobody may change any more, one run in each or
            all in one.
        helpers: threads that work beside the caller.
        coverage_only: measure the sampled coverage and nothing else.
    """

    def __init__(
        self, source: Source, groups: Sequence[Group], epoch: int, helpers: ThreadPoolExecutor | None, *,
        coverage_only: bool = False,
    ) -> None:
        self.waited = 0.0
        """Seconds that callers have spent on the results."""
        draws: dict[Key, Callable[[], Tensor]] = {}
        latents: dict[Key, Callable[[], Sums]] = {}
        held_out: dict[int, Callable[[], tuple[Tensor, Tensor]]] = {}
        self._groups = groups
        self._beside, self._done = source.beside, None
        sizes = parts(source.settings.coverage_samples)
        for group, of in enumerate(groups):
            model, seeds = of.model, of.seeds
            for pathway in PATHWAYS if of.counted else ():
                for some in side_by_side(sizes, len(seeds), source.x.device):
                    draws[group, pathway, some[0]] = partial(
                        _draw, source, model, seeds, pathway, epoch, some, sizes[some[0]]
                    )
            if coverage_only:
                continue
            points = source.latents(seeds, model.architecture.settings.latent_dim)
            for pathway in PATHWAYS:
                for part, z in enumerate(points):
                    latents[group, pathway, part] = partial(sums, model, pathway, z)
            held_out[group] = partial(_held_out, source, model, seeds, epoch)
        if self._beside is not None:
            self._ready = torch.cuda.current_stream(source.x.device).record_event()
        # The counts come first: the next epoch may have to know them.
        self._draws = Tasks(draws, helpers)
        self._latents = Tasks(latents, helpers)
        self._held_out = Tasks(held_out, helpers)

    @cached_property
    def unique_operations(self) -> list[tuple[int, int] | None]:
        """Number of distinct operations among the prior draws of pathways A and B, for every run; None: not drawn."""
        self.begin()
        with self._waiting():
            seen = _joined(self._draws.results(), operator.or_)
            each = [torch.cat(seen[p]).sum(1) for p in PATHWAYS if seen[p]]
            counts = iter(torch.stack(each, 1).tolist() if each else [])
        found: list[tuple[int, int] | None] = []
        for group in self._groups:
            drawn = [tuple(next(counts)) if group.counted else None for _ in group.seeds]
            # What a run tells does not depend on its company.
            found += [of if read else None for of, read in zip(drawn, group.read or (True,) * len(drawn), strict=True)]
        return found

    @cached_property
    def metrics(self) -> dict[str, list[Any]]:
        """Column of `history.csv` -> one value per run, for every column that is measured after training."""
        values: dict[str, Tensor] = {}
        counts = self.unique_operations
        unique = {p: [None if count is None else count[i] for count in counts] for i, p in enumerate(PATHWAYS)}
        with self._waiting():
            information = _joined(self._latents.results(), operator.add)
            elbo, reconstruction = (torch.cat(part, 1) for part in zip(*self._held_out.results().values(), strict=True))
            for i, pathway in enumerate(PATHWAYS):
                found = [part.information() for part in information[pathway]]
                values[f"informative_coverage_{pathway}"] = torch.cat([part.informative_coverage for part in found])
                values[f"effective_coverage_{pathway}"] = torch.cat([part.effective_coverage for part in found])
                values[f"neg_elbo_{pathway}"] = elbo[i]
                values[f"reconstruction_{pathway}"] = reconstruction[i]
            values["val_elbo"] = -elbo.mean(0)
            table = torch.stack([value.double() for value in values.values()])
            measured = dict(zip(values, table.tolist(), strict=True))
        for pathway in PATHWAYS:
            measured[f"unique_ops_{pathway}"] = unique[pathway]
            measured[f"coverage_{pathway}"] = [
                math.nan if n is None else 100 * n / space.SIZE for n in unique[pathway]
            ]
        return measured

    def begin(self) -> None:
        """Have the helpers begin, or a GPU: it measures on a stream of its own, beside what it does already.

        Helpers work under the caller's arithmetic, so nobody begins and then leaves `fence`.
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

    def wait(self) -> None:
        """Until everything is measured."""
        self.begin()
        with self._waiting():
            for tasks in (self._draws, self._latents, self._held_out):
                tasks.results()
            if self._done is not None:
                self._done.synchronize()

    def cancel(self) -> None:
        """Leave undone what has not been begun."""
        for tasks in (self._draws, self._latents, self._held_out):
            tasks.cancel()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        started = time.perf_counter()
        if self._done is not None:
            torch.cuda.current_stream(self._groups[0].model.device).wait_event(self._done)
        yield
        self.waited += time.perf_counter() - started


def _draw(
    source: Source, model: DualVAE, seeds: Sequence[int], pathway: Pathway, epoch: int, some: range, n: int
) -> Tensor:
    streams = source.streams(seeds, "coverage", epoch, [f"{pathway}{part}" for part in some])
    drawn = drawn_operations(model.repeated(len(some)), pathway, n, source.settings.coverage_decoding, streams)
    return drawn.view(len(some), len(seeds), -1).any(0) if len(some) > 1 else drawn


@torch.no_grad()
def _held_out(source: Source, model: DualVAE, seeds: Sequence[int], epoch: int) -> tuple[Tensor, Tensor]:
    """-ELBO and reconstruction, each (2, R), of the validation operations."""
    x = source.x.expand(len(seeds), -1, -1)
    shape = (source.settings.elbo_samples, 2, len(source.x), model.architecture.settings.latent_dim)
    noise = source.streams(seeds, "evaluation", epoch).normal(*shape).to(x.device)
    return negative_elbo(model, x, noise.permute(1, 2, 0, 3, 4)), exact_reconstruction(model, x)


def _joined(results: Mapping[Key, T], join: Callable[[T, T], T]) -> dict[Pathway, list[T]]:
    """The parts of each group and pathway as one, in the order of groups."""
    found: dict[tuple[Pathway, int], list[T]] = {}
    for (group, pathway, _), result in results.items():
        found.setdefault((pathway, group), []).append(result)
    return {
        pathway: [reduce(join, values) for (of, _), values in found.items() if of == pathway] for pathway in PATHWAYS
    }

"""All metrics of one model, as `ternary-lab evaluate` prints them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from ternary_lab import config, space, splits
from ternary_lab.arguments import LARGEST_SEED, fraction, require, whole_number
from ternary_lab.backend.console import bar
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.backend.random_streams import Streams, stream
from ternary_lab.backend.threads import in_order
from ternary_lab.errors import InputError
from ternary_lab.metrics import coverage, likelihood
from ternary_lab.metrics.information import sums
from ternary_lab.metrics.quantities import label
from ternary_lab.metrics.sobol import PART, part_groups, part_sizes, sobol_normal
from ternary_lab.model import PATHWAYS, DualVAE, Pathway, TernaryVAE

SAMPLES = 195_000
LATENTS = 2**22
QUICK_LATENTS = 262_144
ENOUGH_FOR_RARE = 2**20
"""With fewer latents, the measures that depend on rare operations (n₉₉, rarest, missing mass, C(n)) are left out."""


@dataclass(frozen=True)
class PathwayEvaluation:
    """Metrics of one pathway.

    Coverages are in percent, entropies and bounds in nats. A metric is None if it was left out.
    """

    sampled_coverage: float
    unique_operations: int
    uniform_baseline: float
    expected_coverage: float | None
    output_entropy: float
    decoder_noise: float
    information: float
    informative_coverage: float
    informative_coverage_raw: float
    effective_coverage: float
    missing_mass: float | None
    neg_elbo: float
    neg_iwae: float
    n99: float | None
    rarest: float | None
    active_units: int


@dataclass(frozen=True)
class Reconstruction:
    """Percentage of operations that argmax decoding reconstructs exactly from z = μ, for each split."""

    train: float
    validation: float
    test: float
    all: float


@dataclass(frozen=True)
class Evaluation:
    """All metrics of one model, and the settings of the measurement."""

    samples: int
    latents: int
    decoding: str
    rho: float
    A: PathwayEvaluation
    B: PathwayEvaluation
    reconstruction: dict[str, Reconstruction]
    """Keys: A and B for the own code, A_injected and B_injected for the code with a share ρ of the other pathway."""
    output: dict[str, Tensor]
    """Output distribution of each pathway, float64 (N,)."""

    def as_dict(self) -> dict[str, Any]:
        """Return the metrics and settings as plain values for JSON, without the output distributions.

        Values that are not finite become None.
        """
        return {
            "samples": self.samples,
            "latents": self.latents,
            "decoding": self.decoding,
            "A": _plain(vars(self.A)),
            "B": _plain(vars(self.B)),
            "reconstruction": {name: _plain(vars(value)) for name, value in self.reconstruction.items()},
            "rho": self.rho,
        }


@with_fixed_arithmetic
@torch.no_grad()
def evaluate(
    model: TernaryVAE,
    samples: int = SAMPLES,
    latents: int = LATENTS,
    *,
    rho: float = 0.1,
    decoding: coverage.Decoding = "categorical",
    split: space.Split | None = None,
    iwae_samples: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Compute all metrics of a model on the device of the model.

    Args:
        model: the model.
        samples: number of prior draws for sampled coverage.
        latents: number of scrambled Sobol latents for the output distribution. With fewer than 2^20 latents, the
            measures that depend on rare operations are None.
        rho: share of the other pathway's code in the injected reconstruction, in [0, 1].
        decoding: how a prior draw is decoded for sampled coverage.
        split: division of the operations; the default is v5.5's. -ELBO and -IWAE are measured on the test part.
        iwae_samples: number of importance samples K per operation.
        seed: seed of the evaluation's random streams.
        progress: show a progress bar.

    Raises InputError if an argument has a wrong type or is out of range, if the test part of `split` is empty, or if a
    weight of the model is not finite.
    """
    require(model, TernaryVAE, "model", "take the model of a run with run.model()")
    samples = whole_number(samples, "samples", 1, 10**9)
    latents = whole_number(latents, "latents", 64, 2**28)
    iwae_samples = whole_number(iwae_samples, "iwae_samples", 1, 4096)
    seed = whole_number(seed, "seed", 0, LARGEST_SEED)
    rho = fraction(rho, "rho")
    if decoding not in get_args(coverage.Decoding):
        raise InputError(f"decoding must be one of {', '.join(get_args(coverage.Decoding))}, got {decoding!r}")
    core, device = model.core, model.device
    if not all(bool(weights.isfinite().all()) for weights in vars(core.blocks).values()):
        raise InputError("model: a weight is not finite: take the weights of an earlier epoch")
    split = splits.split(config.Data()) if split is None else split
    if len(split.test) == 0:
        raise InputError("split: its test part is empty: -ELBO and -IWAE are measured on it")
    parts = {"train": split.train, "validation": split.validation, "test": split.test, "all": torch.arange(space.SIZE)}
    everything, tested = (space.operations(parts[name]).to(device).unsqueeze(0) for name in ("all", "test"))
    mu, _ = core.encode(everything)
    right = {
        suffix: likelihood.right_entries(core, mu, everything, share).all(-1)[:, 0].cpu()
        for suffix, share in (("", 0.0), ("_injected", rho))
    }
    reconstruction = {
        f"{pathway}{suffix}": Reconstruction(**{
            name: 100 * rows[i, indices].float().mean().item() for name, indices in parts.items()
        })
        for suffix, rows in right.items() for i, pathway in enumerate(PATHWAYS)
    }
    streams = Streams([seed], "evaluation", device=device)
    noise = streams.normal(iwae_samples, 2, 1, len(split.test), model.latent_dim)[0]
    coded = likelihood.coding(core, tested, noise)
    elbo, iwae = coded.neg_elbo.mean(2), coded.neg_iwae.mean(2)
    active = likelihood.active_units(mu)

    evaluations: dict[str, PathwayEvaluation] = {}
    output: dict[str, Tensor] = {}
    with _counting(2 * latents, progress) as count:
        points: Iterable[Tensor] = []
        for i, pathway in enumerate(PATHWAYS):
            if not i or device.type == "cpu":  # both pathways use the same points; a GPU keeps them
                points = sobol_normal(model.latent_dim, latents, stream(seed, "latents").initial_seed(), device)
                points = points if device.type == "cpu" else list(points)
            evaluations[pathway], output[pathway] = _evaluate_pathway(
                core, pathway, samples, latents, decoding, seed, _counted(iter(points), count),
                elbo[i, 0].item(), iwae[i, 0].item(), int(active[i, 0]),
            )
    return Evaluation(
        samples, latents, decoding, rho, evaluations["A"], evaluations["B"], reconstruction, output
    )


def _evaluate_pathway(
    core: DualVAE, pathway: Pathway, samples: int, latents: int, decoding: coverage.Decoding, seed: int,
    points: Iterator[Tensor], elbo: float, iwae: float, active: int,
) -> tuple[PathwayEvaluation, Tensor]:
    streams = partial(Streams, [seed], "coverage", 0, device=core.device)
    calls = coverage.drawing_calls(core, pathway, samples, decoding, streams).values()
    unique = int(reduce(operator.or_, in_order(calls, core.device)).sum())
    # The points are divided into parts. A GPU measures several parts at once.
    groups = part_groups(part_sizes(latents), 1, core.device)
    rounds = (torch.stack([next(points) for _ in group]) for group in groups)
    info = reduce(operator.add, in_order((partial(sums, core, pathway, z) for z in rounds), core.device)).information()
    p = info.p[0].cpu()  # on a GPU, the search for n99 would wait about forty times for a value
    rare = coverage.rare_figures(p) | {"expected_coverage": float(coverage.expected_coverage(p, samples))}
    return PathwayEvaluation(
        sampled_coverage=100 * unique / space.SIZE, unique_operations=unique,
        uniform_baseline=coverage.uniform_coverage(samples), neg_elbo=elbo, neg_iwae=iwae, active_units=active,
        **info.figures(), **(rare if latents >= ENOUGH_FOR_RARE else dict.fromkeys(rare)),
    ), p


@contextmanager
def _counting(total: int, shown: bool) -> Iterator[Callable[[int], object]]:
    """Yield a function that advances the progress bar by a number of measured latents.

    If no progress bar is shown, the function does nothing.
    """
    if not shown:
        yield lambda _: None
        return
    with bar(show=True, total=total, unit="latent", unit_scale=True, desc="evaluate") as counter:
        yield counter.update


def _counted(chunks: Iterator[Tensor], count: Callable[[int], object]) -> Iterator[Tensor]:
    for chunk in chunks:
        yield chunk
        count(chunk.shape[-1])


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


ROWS = {
    "sampled_coverage": (label("coverage"), ".3f"), "expected_coverage": (label("expected_coverage"), ".3f"),
    "output_entropy": (label("output_entropy"), ".4f"), "decoder_noise": (label("decoder_noise"), ".4f"),
    "information": (label("information"), ".4f"), "informative_coverage": (label("informative_coverage"), ".3f"),
    "informative_coverage_raw": (label("informative_coverage_raw"), ".3f"),
    "effective_coverage": (label("effective_coverage"), ".2f"),
    "missing_mass": (label("missing_mass"), ".4f"), "n99": (label("n99"), ",.0f"), "rarest": (label("rarest"), ".2e"),
    "neg_elbo": (label("neg_elbo", "test"), ".3f"), "neg_iwae": (label("neg_iwae", "test"), ".3f"),
    "active_units": (label("active_units"), "d"),
}
"""Rows of the table: the label and the number format of each field of a `PathwayEvaluation`."""


def describe(evaluation: Evaluation, title: str) -> str:
    """Return the evaluation as a table of text with the heading `title`.

    The lines above the table explain the settings, the correction and the codes of the reconstruction. Metrics that
    were left out have no row. No line of the explanation or the table has more than 100 characters.
    """
    e = evaluation
    rows = [
        (row, *(format(getattr(its, name), form) for its in (e.A, e.B)))
        for name, (row, form) in ROWS.items() if getattr(e.A, name) is not None
    ]
    for part in ("train", "validation", "test", "all"):
        for suffix, code in (("", "own code"), ("_injected", "injected")):
            a, b = (getattr(e.reconstruction[f"{p}{suffix}"], part) for p in PATHWAYS)
            rows.append((label("reconstruction", f"{part}, {code}"), f"{a:.2f}", f"{b:.2f}"))
    width = max(len(row) for row, _, _ in rows)
    lines = [
        title,
        f"sampled coverage: n = {e.samples:,} {e.decoding} draws; uniform baseline {e.A.uniform_baseline:.3f} %",
        f"output distribution: exact over operations, from M = {e.latents:,} Sobol latents",
        "uncorrected: without the correction of H(X) for the finite M",
        f"injected: the decoder reads its own code with a share ρ = {e.rho:g} of the other pathway's code",
    ]
    if e.A.n99 is None:
        lines.append(f"left out, because they need at least {ENOUGH_FOR_RARE:,} latents: expected coverage, KL(U‖p), "
                     "n₉₉, rarest")
    lines += ["", f"{'':<{width}}{'A':>14}{'B':>14}", *(f"{row:<{width}}{a:>14}{b:>14}" for row, a, b in rows)]
    return "\n".join(lines)


def default_title(source: str | Path, epoch: int, seed: int | None) -> str:
    return f"{source}: epoch {epoch}" + ("" if seed is None else f", seed {seed}")


assert QUICK_LATENTS % PART == 0

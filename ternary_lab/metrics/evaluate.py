"""Every metric of one model: what `ternary-lab evaluate` prints."""

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
from ternary_lab.backend.numerics import fenced
from ternary_lab.backend.random_streams import Streams, stream
from ternary_lab.backend.threads import in_order
from ternary_lab.errors import InputError
from ternary_lab.metrics import coverage, likelihood
from ternary_lab.metrics.information import sums
from ternary_lab.metrics.sobol import PART, parts, side_by_side, sobol_normal
from ternary_lab.model import PATHWAYS, DualVAE, Pathway, TernaryVAE

SAMPLES = 195_000
LATENTS = 2**22
QUICK_LATENTS = 262_144
ENOUGH_FOR_RARE = 2**20
"""Below this many latents, figures that hang on rare operations (n₉₉, rarest, missing mass, C(n)) are left out."""


@dataclass(frozen=True)
class PathwayEvaluation:
    """One pathway. Coverages and reconstruction in percent, entropies and bounds in nats; None where left out."""

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
    """Percent of operations reconstructed exactly by argmax from z = μ."""

    train: float
    validation: float
    test: float
    all: float


@dataclass(frozen=True)
class Evaluation:
    """Every metric of one model, with what it depends on."""

    samples: int
    latents: int
    decoding: str
    rho: float
    A: PathwayEvaluation
    B: PathwayEvaluation
    reconstruction: dict[str, Reconstruction]
    """Keys A, B (own code), A_injected, B_injected (code injected by ρ)."""
    output: dict[str, Tensor]
    """Output distribution (N,) of each pathway, float64."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON: everything but the output distributions. Infinities become None."""
        return {
            "samples": self.samples,
            "latents": self.latents,
            "decoding": self.decoding,
            "A": _plain(vars(self.A)),
            "B": _plain(vars(self.B)),
            "reconstruction": {name: _plain(vars(value)) for name, value in self.reconstruction.items()},
            "rho": self.rho,
        }


@fenced
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
    """Measure a model on the device where it lives.

    Args:
        samples: prior draws for sampled coverage.
        latents: scrambled Sobol latents for the exact output distribution; with fewer than 2^20 the
            figures that hang on rare operations are None.
        rho: permeability for the injected reconstruction rows, in [0, 1].
        decoding: how a prior draw is decoded for sampled coverage.
        split: whose test part -ELBO and -IWAE are measured on; default v5.5's.
        iwae_samples: importance samples K per operation.
        seed: of the evaluation's own random streams.
        progress: show a progress bar.

    Raises InputError for an argument out of range.
    """
    for name, value, low, high in (
        ("samples", samples, 1, 10**9), ("latents", latents, 64, 2**28), ("iwae_samples", iwae_samples, 1, 4096),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InputError(f"{name} must be a whole number in {low}..{high}, got {value!r}")
    if isinstance(rho, bool) or not isinstance(rho, int | float) or not 0 <= rho <= 1:
        raise InputError(f"rho must be a number in [0, 1], got {rho!r}")
    if decoding not in get_args(coverage.Decoding):
        raise InputError(f"decoding must be one of {', '.join(get_args(coverage.Decoding))}, got {decoding!r}")
    core, device = model.core, model.device
    split = splits.split(config.Data()) if split is None else split
    parts = {"train": split.train, "validation": split.validation, "test": split.test, "all": torch.arange(space.SIZE)}
    everything, tested = (space.operations(parts[name]).to(device).unsqueeze(0) for name in ("all", "test"))
    right = {
        suffix: likelihood.exactly_reconstructed(core, everything, share)[:, 0].cpu()
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
    elbo, iwae = (coded.rate + coded.distortion).mean(2), -coded.log_likelihood_bound.mean(2)
    active = likelihood.active_units(core, everything)

    evaluations: dict[str, PathwayEvaluation] = {}
    output: dict[str, Tensor] = {}
    with _counting(2 * latents, progress) as count:
        points: Iterable[Tensor] = []
        for i, pathway in enumerate(PATHWAYS):
            if not i or device.type == "cpu":  # a GPU holds the points of both pathways, which are the same
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
    sizes = parts(samples)
    drawn = [
        partial(coverage.drawn_operations, core.repeated(len(some)), pathway, sizes[some[0]], decoding,
                Streams([seed], "coverage", 0, [f"{pathway}{part}" for part in some], device=core.device))
        for some in side_by_side(sizes, 1, core.device)
    ]
    unique = int(reduce(operator.or_, (seen.any(0) for seen in in_order(drawn, core.device))).sum())
    # Points come in parts; some of them are measured side by side.
    groups = side_by_side(parts(latents), 1, core.device)
    rounds = (torch.stack([next(points) for _ in group]) for group in groups)
    summed = in_order((partial(sums, core, pathway, z) for z in rounds), core.device)
    info = reduce(operator.add, summed).information()
    p = info.p[0].cpu()  # on a GPU the search for n99 would wait some forty times
    enough = latents >= ENOUGH_FOR_RARE
    return PathwayEvaluation(
        sampled_coverage=100 * unique / space.SIZE,
        unique_operations=unique,
        uniform_baseline=coverage.uniform_coverage(samples),
        expected_coverage=float(coverage.expected_coverage(p, samples)) if enough else None,
        output_entropy=float(info.output_entropy),
        decoder_noise=float(info.decoder_noise),
        information=float(info.information),
        informative_coverage=float(info.informative_coverage),
        informative_coverage_raw=float(info.informative_coverage_raw),
        effective_coverage=float(info.effective_coverage),
        missing_mass=float(info.missing_mass) if enough else None,
        neg_elbo=elbo,
        neg_iwae=iwae,
        n99=coverage.draws_needed(p) if enough else None,
        rarest=float(info.rarest) if enough else None,
        active_units=active,
    ), p


@contextmanager
def _counting(total: int, shown: bool) -> Iterator[Callable[[int], object]]:
    """What is called with a number of latents when they are done, and moves a bar if it is shown."""
    if not shown:
        yield lambda _: None
        return
    from tqdm import tqdm  # not needed, and perhaps not there, where only `make gpu` runs

    with tqdm(total=total, unit="latent", unit_scale=True, desc="evaluate") as bar:
        yield bar.update


def _counted(chunks: Iterator[Tensor], count: Callable[[int], object]) -> Iterator[Tensor]:
    for chunk in chunks:
        yield chunk
        count(chunk.shape[-1])


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def describe(evaluation: Evaluation, title: str) -> str:
    """The evaluation as a table for people."""
    e = evaluation
    lines = [
        title,
        f"sampled coverage from n = {e.samples:,} {e.decoding} draws (uniform baseline {e.A.uniform_baseline:.3f} %); "
        f"output distribution exact over operations, from M = {e.latents:,} Sobol latents; "
        f"injected rows at ρ = {e.rho:g}",
        "",
        f"{'':<34}{'A':>14}{'B':>14}",
    ]
    rows: tuple[tuple[str, str, str], ...] = (
        ("sampled coverage, %", "sampled_coverage", ".3f"),
        ("expected coverage at n, %", "expected_coverage", ".3f"),
        ("output entropy H(X), nats", "output_entropy", ".4f"),
        ("decoder noise H(X|Z), nats", "decoder_noise", ".4f"),
        ("information I(X;Z), nats", "information", ".4f"),
        ("informative coverage, %", "informative_coverage", ".3f"),
        ("  uncorrected, %", "informative_coverage_raw", ".3f"),
        ("effective coverage (argmax), %", "effective_coverage", ".2f"),
        ("missing mass KL(U‖p), nats", "missing_mass", ".4f"),
        ("draws to expect 99 %", "n99", ",.0f"),
        ("rarest operation, N min p", "rarest", ".2e"),
        ("-ELBO on the test split, nats", "neg_elbo", ".3f"),
        ("-IWAE on the test split, nats", "neg_iwae", ".3f"),
        ("active units", "active_units", "d"),
    )
    for label, name, form in rows:
        values = (getattr(e.A, name), getattr(e.B, name))
        cells = "".join(f"{'-' if value is None else format(value, form):>14}" for value in values)
        lines.append(f"{label:<34}{cells}")
    for part in ("train", "validation", "test", "all"):
        for suffix, label in (("", "own code"), ("_injected", "injected")):
            a, b = (getattr(e.reconstruction[f"{p}{suffix}"], part) for p in PATHWAYS)
            lines.append(f"{f'reconstruction {part}, {label}, %':<34}{a:>14.2f}{b:>14.2f}")
    return "\n".join(lines)


def default_title(source: str | Path, epoch: int, seed: int | None) -> str:
    return f"{source}: epoch {epoch}" + ("" if seed is None else f", seed {seed}")


assert QUICK_LATENTS % PART == 0

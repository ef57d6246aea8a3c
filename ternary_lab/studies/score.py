"""The score of any generator of operations: the measures that `evaluate` has for our models, and baselines beside them.

A generator is given in one of two ways:

    log_prob    ln p(x) of all N operations, or a function that returns it. All measures are exact.
    sample      draws, or a function that returns n draws. The measures are estimates with 95 % intervals, or bounds, or
                they are left out. See `ternary_lab.metrics.from_draws` for the methods.

    measure                      with log_prob    with n draws
    sampled coverage             -                share of operations among the n draws; its interval is that of C(n)
    expected coverage C(m)       exact            estimate if m ≤ n
    unseen mass                  -                estimate
    output entropy H(X)          exact            estimate; the interval is narrow from about 100,000 draws
    effective share exp(H(X))/N  exact            estimate, from H(X)
    KL(p‖U) = ln N - H(X)        exact            estimate, from H(X)
    n₉₉                          exact            estimate if n draws reach 99 %
    KL(U‖p)                      exact            lower bound only
    TV(p, U), JSD(p, U)          exact            bounds only
    rarest operations            exact            -

U is the uniform distribution. The JSD is that of Lin (1991), at most ln 2. The effective share is the Hill number of
order 1 (Hill 1973) as a share of all operations. `evaluate` calls it effective coverage if the draws are decoded by
argmax.

Informative coverage is not here. It needs to know what the generator knew before it drew: the latent z and p(x|z). A
sampler or a probability does not tell. A generator that has a decoder is measured with
`ternary_lab.metrics.information.decoder_sums`. Reconstruction, -ELBO and -IWAE need an encoder as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ternary_lab import space
from ternary_lab.arguments import shown, whole_number
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.errors import InputError
from ternary_lab.metrics import baselines
from ternary_lab.metrics.coverage import expected_coverage, rare_figures, uniform_coverage
from ternary_lab.metrics.evaluate import SAMPLES
from ternary_lab.metrics.from_draws import Draws, Estimate
from ternary_lab.metrics.information import information
from ternary_lab.metrics.quantities import label
from ternary_lab.metrics.sobol import sobol_normal
from ternary_lab.model import PATHWAYS
from ternary_lab.space import SIZE
from ternary_lab.studies.beyond_v55.tables import BEYOND, V5_5, load_recipes

Generator = Callable[..., Any] | Tensor | np.ndarray[Any, Any]

COUNTS = (10_000, 50_000, SAMPLES)
"""Numbers of draws for which the expected coverage is computed."""
FEWEST = 1000
"""Least number of draws. Even of uniform noise, fewer draws show less than 5 % of the operations."""
TOLERANCE, ROUNDING = 1e-4, 1e-6
"""Largest distance of a sum of probabilities from 1, and largest ln p(x). Errors of float32 are smaller.

The second is smaller than the mean probability 1/N. So probabilities are not taken for their logarithms.
"""
LEAST = 5
"""Number of least probable operations in a score."""
UNTRAINED_SEED, UNTRAINED_LATENTS = 42, 65_536
"""Seed of the untrained network of the baselines, and number of latents. Its output distribution is smooth."""
ROWS = {
    "sampled_coverage": (label("coverage"), ".3f"),
    **{f"expected_coverage_{m}": (label("expected_coverage", f"{m:,} draws"), ".3f") for m in COUNTS},
    "unseen_mass": (label("unseen_mass"), ".4f"),
    "output_entropy": (label("output_entropy"), ".4f"), "effective_share": (label("effective_share"), ".2f"),
    "entropy_deficit": (label("entropy_deficit"), ".4f"), "missing_mass": (label("missing_mass"), ".4f"),
    "total_variation": (label("total_variation"), ".4f"), "jensen_shannon": (label("jensen_shannon"), ".4f"),
    "n99": (label("n99"), ",.0f"), "rarest": (label("rarest"), ".2e"),
}
"""Rows of the table: the label and the number format of each measure."""


@dataclass(frozen=True)
class Score:
    """The measures of one generator."""

    draws: int | None
    """Number of draws, or None if the measures are exact."""
    unique_operations: int | None
    """Number of different operations among the draws, or None if the measures are exact."""
    measures: dict[str, Estimate]
    """Measures by name, in the order of `ROWS`.

    Coverages and masses are in percent, entropies and divergences in nats. TV has no unit.
    """
    least_probable: dict[int, float]
    """The least probable operations: index and probability, the smallest first. Empty if there are only draws."""

    def as_dict(self) -> dict[str, Any]:
        """Return the score as plain values for JSON.

        A value or an end of an interval is None if it is not known or infinite.
        """
        return {
            "exact": self.draws is None, "draws": self.draws, "unique_operations": self.unique_operations,
            **{
                name: {key: None if value is None or math.isinf(value) else value for key, value in vars(its).items()}
                for name, its in self.measures.items()
            },
            "least_probable": [{"operation": index, "p": p} for index, p in self.least_probable.items()],
        }


@with_fixed_arithmetic
@torch.no_grad()
def score(
    sample: Generator | None = None, log_prob: Generator | None = None, *, draws: int = SAMPLES
) -> Score:
    """Measure any generator of operations by its draws or by its probabilities.

    Exactly one of `sample` and `log_prob` is given.

    Args:
        sample: independent draws, or a function of n that returns n of them. It is called once. Draws are truth tables
            (n, 9) with values -1, 0 and +1, or operation indices (n,). An array or a tensor holds them.
        log_prob: ln p(x) of all operations in the order of their indices (19683,), or a function that returns it for
            the truth tables, float32 tensor (19683, 9). It is -inf for an operation that is never generated. The
            probabilities must sum to 1 up to 0.0001; the rest of the error is divided out.
        draws: number of draws that the function `sample` is asked for.

    Raises InputError if both or none of `sample` and `log_prob` are given, if one has a wrong type, shape or value, if
    the probabilities do not sum to 1, or if there are fewer than 1,000 draws.
    """
    draws = whole_number(draws, "draws", FEWEST, 10**9)
    if (sample is None) == (log_prob is None):
        given = "neither is" if sample is None else "both are"
        raise InputError(f"sample or log_prob must be given, but {given}: give one (log_prob gives exact measures)")
    if log_prob is not None:
        p = _probabilities(log_prob(space.operations()) if callable(log_prob) else log_prob)
        least = torch.argsort(p, stable=True)[:LEAST].tolist()
        exact = {name: Estimate.exact(value) for name, value in _exact(p).items()}
        return Score(None, None, exact, {index: float(p[index]) for index in least})
    found = _counts(sample(draws) if callable(sample) else sample, draws if callable(sample) else None)
    return Score(found.n, found.unique, _estimated(found), {})


def _exact(p: Tensor) -> dict[str, float]:
    """Return the measures of an output distribution p (N,)."""
    entropy = 0.0 - float(torch.xlogy(p, p).sum())  # 0 and not -0 for one operation
    mean = (p + 1 / SIZE) / 2
    mixed = -float(torch.xlogy(mean, mean).sum())
    values = rare_figures(p) | _from_entropy(entropy) | {
        "total_variation": float((p - 1 / SIZE).abs().sum()) / 2,
        "jensen_shannon": max(0.0, mixed - (entropy + math.log(SIZE)) / 2),
        **{f"expected_coverage_{m}": float(expected_coverage(p, m)) for m in COUNTS},
    }
    return {name: values[name] for name in ROWS if name in values}


def _from_entropy(entropy: float) -> dict[str, float]:
    """Return the measures that depend on the output entropy (nats) only."""
    return {
        "output_entropy": entropy, "effective_share": min(100.0, 100 * math.exp(entropy) / SIZE),
        "entropy_deficit": max(0.0, math.log(SIZE) - entropy),
    }


def _estimated(found: Draws) -> dict[str, Estimate]:
    """Return the measures that draws can tell."""
    h = found.entropy
    assert h.value is not None
    value, low, high = (_from_entropy(entropy) for entropy in (h.value, h.low, h.high))
    deficit = Estimate(value["entropy_deficit"], high["entropy_deficit"], low["entropy_deficit"])
    values = {
        "sampled_coverage": found.coverage(found.n), "unseen_mass": found.unseen_mass,
        **{f"expected_coverage_{m}": found.coverage(m) for m in COUNTS if m <= found.n},
        **{name: Estimate(value[name], low[name], high[name]) for name in ("output_entropy", "effective_share")},
        "entropy_deficit": deficit, "missing_mass": found.missing_mass, "total_variation": found.total_variation,
        "jensen_shannon": found.jensen_shannon, "n99": found.draws_needed(),
    }
    return {name: values[name] for name in ROWS if name in values}


def _tensor(given: Any, name: str) -> Tensor:
    """Return an array, a tensor or a list of numbers as a dense tensor on the CPU."""
    if isinstance(given, Tensor):
        space.check_dense(given, name)
        return given.detach().cpu()
    try:
        return torch.as_tensor(np.asarray(given))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name} must be an array of numbers, got {shown(given)}: give a tensor or an array") from None


def _probabilities(given: Any) -> Tensor:
    """Return the probabilities (N,), float64, from their logarithms. Raises InputError if they are none."""
    log_p = _tensor(given, "log_prob")
    if log_p.shape != (SIZE,) or not log_p.is_floating_point():
        raise InputError(f"log_prob must hold ln p(x) of each operation, ({SIZE},) floats, got {tuple(log_p.shape)} of "
                         f"type {log_p.dtype}")
    log_p = log_p.double()
    if (wrong := log_p.isnan()).any():
        raise InputError(f"log_prob: it is NaN for {int(wrong.sum())} operations, first for operation "
                         f"{int(wrong.nonzero()[0])}: give -inf if an operation is never generated")
    if float(log_p.max()) > ROUNDING:
        raise InputError(f"log_prob: ln p(x) is {float(log_p.max()):.6g} for operation {int(log_p.argmax())}, but it "
                         "must be at most 0: take the logarithm of p(x), and subtract torch.logsumexp from energies")
    p = log_p.exp()
    total = float(p.sum())
    if abs(total - 1) > TOLERANCE:
        raise InputError(f"log_prob: the probabilities sum to {total:.6g}, not to 1: take "
                         "log_prob - torch.logsumexp(log_prob, 0)")
    return p / total


def _counts(given: Any, asked: int | None) -> Draws:
    """Return the counts of draws. `asked` is the number of draws that a function was asked for."""
    drawn = _tensor(given, "sample")
    if drawn.ndim not in (1, 2) or (drawn.ndim == 2 and drawn.shape[1] != space.ENTRIES):
        raise InputError(f"sample must give truth tables (n, 9) or operation indices (n,), got {tuple(drawn.shape)}")
    if asked is not None and len(drawn) != asked:
        raise InputError(f"sample: it was asked for {asked:,} draws and gave {len(drawn):,}: give as many as asked")
    if len(drawn) < FEWEST:
        raise InputError(f"sample: {len(drawn):,} draws say too little about {SIZE:,} operations: "
                         f"give at least {FEWEST:,}, better {SAMPLES:,}")
    counts = torch.zeros(SIZE, dtype=torch.int64)
    try:
        for some in torch.split(drawn, 2**14):  # small parts stay in the cache of a core
            indices = space.index_of(some if some.ndim == 2 else space.operations(some))
            counts += torch.bincount(indices, minlength=SIZE)
    except InputError as error:
        raise InputError(f"sample: {error}") from None
    return Draws(counts.numpy())


@cache
def _known_outputs() -> dict[str, list[Tensor]]:
    """Return the output distributions of the baselines that are computed: uniform noise and the untrained network."""
    model = baselines.untrained(UNTRAINED_SEED)
    points = [z.unsqueeze(0) for z in sobol_normal(model.latent_dim, UNTRAINED_LATENTS, 0, model.device)]
    return {
        "uniform": [baselines.uniform(SIZE)],
        "untrained": [information(model.core, pathway, points).p[0] for pathway in PATHWAYS],
    }


@with_fixed_arithmetic
def baseline_measures(draws: int | None = None) -> dict[str, dict[str, float]]:
    """Return the measures of uniform noise, an untrained v5.5, v5.5 and beyond, by the name of the baseline.

    The measures of v5.5 and beyond come from the published table of recipes. They are medians over its seeds and both
    pathways. Their expected coverage is the median of one count of draws per seed and pathway. The table has no TV and
    no JSD. The other two baselines are computed; the untrained network is that of one seed, and its measures are means
    of both pathways.

    Args:
        draws: number of draws for the baselines of sampled coverage and unseen mass. None: leave these two out.
    """
    measures: dict[str, dict[str, float]] = {}
    for name, outputs in _known_outputs().items():
        rows = [_exact(p) | ({} if draws is None else _among(p, draws)) for p in outputs]
        measures[name] = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
    recipes = load_recipes()
    for recipe, title in ((V5_5, "v5.5"), (BEYOND, "beyond")):
        its = recipes[recipes["recipe"] == recipe]
        values = {name: float(median(its[name])) for name in ("missing_mass", "n99", "rarest")}
        values[f"expected_coverage_{SAMPLES}"] = float(median(its["sampled_coverage"]))
        if draws == SAMPLES:
            values["sampled_coverage"] = values[f"expected_coverage_{SAMPLES}"]
        measures[title] = values | _from_entropy(float(median(its["output_entropy"])))
    return measures


def _among(p: Tensor, draws: int) -> dict[str, float]:
    """Return the expected coverage and the expected unseen mass of some draws from p (N,), in percent."""
    return {
        "sampled_coverage": float(expected_coverage(p, draws)),
        "unseen_mass": 100 * float((p * (draws * torch.log1p(-p)).exp()).sum()),
    }


def describe(found: Score, title: str, beside: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """Return a score as a table of text with the heading `title`, with the baselines beside it.

    The lines above the table explain the measures. `beside` has the measures of other generators by name; by default
    they are those of `baseline_measures`. No line has more than 110 characters.
    """
    beside = baseline_measures(found.draws) if beside is None else beside
    if found.draws is None:
        how = ["exact: computed from the probabilities of all operations"]
        rarest = (f"{index} ({p * SIZE:.2g})" for index, p in found.least_probable.items())
        how.append(f"least probable operations, with N p(x): {', '.join(rarest)}")
    else:
        how = [
            f"estimated from {found.draws:,} draws with {found.unique_operations:,} different operations; "
            f"uniform baseline {uniform_coverage(found.draws):.3f} %",
            "in brackets: 95 % intervals, or bounds where draws do not suffice; draws cannot show the rarest operation",
        ]
    how.append(f"untrained: v5.5 before training, seed {UNTRAINED_SEED}")
    how.append("v5.5, beyond: published medians over seeds and both pathways, for 195,000 draws; - : not published")
    header = ("", "score", *([""] if found.draws else []), *beside)
    rows = [header]
    for name, its in found.measures.items():
        words, form = ROWS[name]
        numbers = [format(row[name], form) if name in row else "-" for row in beside.values()]
        value = "-" if its.value is None else format(its.value, form)
        rows.append((words, value, *([_range(its, form)] if found.draws else []), *numbers))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = (
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )
    return "\n".join([title, *how, "", *table])


def _range(its: Estimate, form: str) -> str:
    """Return an interval as a text. An end that is not known, or that holds for every generator, is left out."""
    if math.isinf(its.high):
        return f"at least {its.low:{form}}"
    if its.value is None and its.low == 0:
        return f"at most {its.high:{form}}"
    return f"[{its.low:{form}}, {its.high:{form}}]"

"""Latent entropy in nats: the report's batch entropy H, its bias, and the codes of the whole space.

H of a batch is the mean over latent dimensions of -Σ p ln p, where p are the shares of 50 equal bins over [-3, 3] and
values outside are dropped. It is a plug-in estimate from as many values as the batch has, and therefore biased low:
N(0, 1) gives 3.523 with infinitely many values and 3.165 with 64. H is at most ln 50 = 3.912, and at most ln n for n
values.

    H      = -Σ_b p_b ln p_b               plug-in, p_b the share of the values inside
    H_MM   = H + (bins occupied - 1)/(2n)  corrected, n values inside (Miller 1955)
    q(z_k) = mean over x of N(μ_k(x), σ_k(x)²)           aggregate posterior of dimension k
    KL     = ∫ q ln(q / N(0, 1)) dz        its distance from the prior, differential
    mean over x of KL(q(z_k|x) ‖ p) = I(x; z_k) + KL     (Hoffman & Johnson 2016)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ternary_lab.errors import InputError

BINS = 50
LIMIT = 3.0
CEILING = math.log(BINS)
"""ln 50: the entropy of equally filled bins, in nats."""
ACTIVE = 0.01
"""A dimension is active if Var_x(μ) is larger (Burda, Grosse, Salakhutdinov 2016)."""
STEP = 0.01
"""Spacing of the grid for aggregate posteriors, in standard deviations of the prior."""
LARGEST_GRID = 2**16
WIDTHS = 1.1
"""Ratio of neighbouring widths σ into which the components of a mixture are sorted."""


def batch_entropy(z: Tensor) -> Tensor:
    """H (...) of latents z (..., B, L): mean over L of the histogram entropy over B. NaN values are dropped."""
    return histogram_entropy(histogram(z)).mean(-1)


def histogram(z: Tensor) -> Tensor:
    """Counts (..., L, bins) of latents z (..., B, L) inside [-3, 3]; 3.0 belongs to the last bin, NaN to none."""
    lead, (batch, latent) = z.shape[:-2], z.shape[-2:]
    values = z.detach().reshape(-1, batch, latent)
    inside = (values >= -LIMIT) & (values <= LIMIT)
    bins = ((values + LIMIT) * (BINS / (2 * LIMIT))).nan_to_num(0.0).clamp(0, BINS - 1).long()
    cells = torch.arange(len(values) * latent, device=z.device).view(-1, 1, latent) * BINS
    counts = torch.zeros(len(values) * latent * BINS, device=z.device)
    counts.index_add_(0, (cells + bins).flatten(), inside.float().flatten())
    return counts.view(*lead, latent, BINS)


def histogram_entropy(counts: Tensor) -> Tensor:
    """Plug-in entropy (...) in nats of histograms (..., bins); 0 for an empty one."""
    p = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    return -torch.xlogy(p, p).sum(-1)


def corrected_entropy(counts: Tensor) -> Tensor:
    """Entropy (...) in nats of histograms (..., bins), its bias corrected to first order; 0 for an empty one.

    Plug-in + (bins occupied - 1)/(2n) for n counted values (Miller, "Note on the bias of information estimates",
    1955). n should be well above the number of bins. The result may exceed ln(bins) by chance.
    """
    occupied, n = (counts > 0).sum(-1), counts.sum(-1)
    return histogram_entropy(counts) + (occupied - 1).clamp(min=0) / (2 * n.clamp(min=1))


def expected_entropy(samples: int, *, repeats: int = 4000, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation of one dimension's H over batches of N(0, 1) draws.

    A code that is distributed exactly like the prior has this value at this sample size.
    """
    generator = torch.Generator().manual_seed(seed)
    h = batch_entropy(torch.randn(repeats, samples, 1, generator=generator))
    return h.mean().item(), h.std().item()


def expected_epoch_entropy(
    operations: int, batch: int, dimensions: int, *, repeats: int = 4000, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of an epoch's H when every latent is N(0, 1).

    An epoch's H is the mean over `dimensions` and over its batches of `batch` operations; the smaller last batch has
    the same weight as the others. Raises InputError for an argument below 1.
    """
    for name, value in (("operations", operations), ("batch", batch), ("dimensions", dimensions)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    full, rest = divmod(operations, batch)
    batches = [(full, batch)] * (full > 0) + [(1, rest)] * (rest > 0)
    each = [(count, *expected_entropy(size, repeats=repeats, seed=seed)) for count, size in batches]
    total = sum(count for count, _ in batches)
    mean = sum(count * h for count, h, _ in each) / total
    variance = sum(count * deviation**2 for count, _, deviation in each) / (total**2 * dimensions)
    return mean, math.sqrt(variance)


def normal_entropy(mean: float = 0.0, std: float = 1.0) -> float:
    """H in nats of N(mean, std²) with infinitely many values: from exact probabilities of the bins within [-3, 3].

    Raises InputError if std is not positive or no probability lies inside.
    """
    if not std > 0:
        raise InputError(f"std must be positive, got {std}")
    edges = torch.linspace(-LIMIT, LIMIT, BINS + 1, dtype=torch.float64)
    p = torch.special.ndtr((edges - mean) / std).diff()
    if not float(p.sum()) > 0:
        raise InputError(f"N({mean:g}, {std:g}²) has no mass inside [-{LIMIT:g}, {LIMIT:g}]")
    return histogram_entropy(p / p.sum()).item()


@dataclass(frozen=True)
class SampledCode:
    """Entropy of samples z of many operations, per dimension: every tensor (..., L), entropies in nats."""

    entropy: Tensor
    """Corrected entropy of the 50-bin histogram of all samples."""
    batch_entropy: Tensor
    """The report's H of this dimension: plug-in, mean over batches."""
    inside: Tensor
    """Share of the samples inside the histogram, in [0, 1]."""


def sampled_code(z: Tensor, batch: int = 64) -> SampledCode:
    """Entropies of latents z (..., N, L), one sample for each of N operations in random order.

    A batch is `batch` successive operations; an incomplete last batch is left out. Raises InputError if there is not
    one whole batch.
    """
    count, latent = z.shape[-2:]
    if not 1 <= batch <= count:
        raise InputError(f"batch must lie in 1..{count}, the number of operations, got {batch}")
    counts = histogram(z)
    batches = histogram(z[..., : count - count % batch, :].reshape(*z.shape[:-2], -1, batch, latent))
    return SampledCode(
        corrected_entropy(counts), histogram_entropy(batches).mean(-2), counts.sum(-1) / count
    )


@dataclass(frozen=True)
class PosteriorCode:
    """The posteriors of many operations, per dimension: every tensor (..., L)."""

    mean: Tensor
    """Mean over x of μ, which is also the mean of q(z_k)."""
    variance: Tensor
    """Var_x(μ): how much the dimension depends on the operation."""
    prior_kl: Tensor
    """KL of the aggregate posterior q(z_k) from N(0, 1), nats."""

    @property
    def active(self) -> Tensor:
        """Whether Var_x(μ) > 0.01 (Burda, Grosse, Salakhutdinov 2016)."""
        return self.variance > ACTIVE


@torch.no_grad()
def posterior_code(mean: Tensor, std: Tensor) -> PosteriorCode:
    """Statistics of the posteriors N(mean, std²) of N operations, both (..., N, L)."""
    columns = (values.transpose(-1, -2).reshape(-1, mean.shape[-2]) for values in (mean, std))
    kl = torch.tensor([prior_kl(m, s) for m, s in zip(*columns, strict=True)], device=mean.device)
    average = mean.mean(-2)
    return PosteriorCode(average, mean.var(-2), kl.view_as(average))


@torch.no_grad()
def aggregate_posterior(mean: Tensor, std: Tensor, step: float = STEP) -> tuple[Tensor, Tensor]:
    """Grid z (G,) and density q(z) (G,), float64, of one dimension's mixture of N(mean, std²), each (N,).

    The spacing is `step`, or more if the grid would exceed 2^16 points. Narrower components are widened to it. Each
    mean is divided between two grid points and each width between two of a ladder of widths; the masses of one width
    are then convolved by FFT.

    Raises InputError if a value is not finite, a std is negative, or the shapes differ or are empty.
    """
    if mean.shape != std.shape or mean.ndim != 1 or not len(mean):
        raise InputError(f"mean and std must both have shape (N,), got {tuple(mean.shape)} and {tuple(std.shape)}")
    mean, std = mean.double(), std.double()
    if not bool(torch.isfinite(mean).all() & torch.isfinite(std).all() & (std >= 0).all()):
        raise InputError("mean and std must be finite, and std not negative")
    reach = 8 * std.clamp(min=step)
    low, high = float((mean - reach).min()), float((mean + reach).max())
    step = max(step, (high - low) / (LARGEST_GRID // 2))
    size = 2 ** math.ceil(math.log2((high - low) / step + 16))  # room for a spacing that was widened
    low -= 8 * step

    widest = max(float(std.max()), step)
    rungs = math.ceil(math.log(widest / step) / math.log(WIDTHS)) + 2
    variances = (step * WIDTHS ** torch.arange(rungs, dtype=torch.float64, device=mean.device)).square()
    variance = std.square().clamp(min=step**2)
    rung = (torch.searchsorted(variances, variance, right=True) - 1).clamp(0, rungs - 2)
    upper = (variance - variances[rung]) / (variances[rung + 1] - variances[rung])
    place = (mean - low) / step
    cell = place.floor().long()
    right = place - cell

    # Added on the CPU in the order of the components: on a GPU the order varies, and with it the last digits.
    mass = torch.zeros(rungs * size, dtype=torch.float64)
    for in_rung, rung_share in ((rung, 1 - upper), (rung + 1, upper)):
        for in_cell, cell_share in ((cell, 1 - right), (cell + 1, right)):
            mass.index_add_(0, (in_rung * size + in_cell).cpu(), (rung_share * cell_share).cpu())
    mass = mass.to(mean.device)
    frequency = 2 * math.pi * torch.fft.rfftfreq(size, step, dtype=torch.float64, device=mean.device)
    kernels = torch.exp(-0.5 * variances.unsqueeze(1) * frequency.square())
    q = torch.fft.irfft((torch.fft.rfft(mass.view(rungs, size)) * kernels).sum(0), size).clamp(min=0)
    z = low + step * torch.arange(size, dtype=torch.float64, device=mean.device)
    return z, q / (q.sum() * step)


def prior_kl(mean: Tensor, std: Tensor, step: float = STEP) -> float:
    """KL(q ‖ N(0, 1)) in nats of one dimension's `aggregate_posterior` of N(mean, std²), each (N,).

    For one component it is (μ² + σ² - 1)/2 - ln σ. For many it is at most their mean, because the KL is convex.
    """
    z, q = aggregate_posterior(mean, std, step)
    log_ratio = torch.xlogy(q, q) + q * 0.5 * (z.square() + math.log(2 * math.pi))
    return float(log_ratio.sum() * (z[1] - z[0]))


def soft_entropy(z: Tensor) -> tuple[Tensor, Tensor]:
    """A differentiable H (...) of latents z (..., B, L), and its gradient in z.

    It is `batch_entropy`, but with linear binning (Jones & Lotwick 1984): a value is divided between the two bins whose
    centres it lies between, so that H is continuous in it. Beyond the outermost centres it belongs to the outer bin
    alone, beyond ±3 to none, and has no gradient there.
    """
    width = 2 * LIMIT / BINS
    place = (z + LIMIT).div_(width).sub_(0.5)
    inside = (z.abs() <= LIMIT).to(z)
    between = (place > 0) & (place < BINS - 1)
    place = place.nan_to_num(0.0).clamp_(0, BINS - 1)
    lower = place.floor().clamp_(max=BINS - 2)
    bins = lower.long()
    if z.device.type == "cpu":
        share = (place - lower).mul_(inside)
        counts = z.new_zeros(*z.shape[:-2], BINS, z.shape[-1])
        counts.scatter_add_(-2, bins, inside - share).scatter_add_(-2, bins + 1, share)
    else:
        counts = _soft_counts(place, inside)
    total = inside.sum(-2, keepdim=True).clamp_(min=1)
    p = counts.div_(total)
    log_p = p.clamp_min(torch.finfo(p.dtype).tiny).log_()
    value = (p * log_p).sum(-2).neg_().mean(-1)
    slope = log_p.gather(-2, bins).sub_(log_p.gather(-2, bins + 1)).div_(total * (width * z.shape[-1]))
    return value, slope.mul_(between)


def _soft_counts(place: Tensor, inside: Tensor) -> Tensor:
    """Counts (..., BINS, L) of values at `place` (..., B, L), in units of bins, that are `inside` (1, else 0).

    Every value is added to all bins, with weight 0 to most. Adding it to two bins only, as on a CPU, has no fixed order
    on a GPU, so that the last digits of the sums would vary.
    """
    bins = torch.arange(BINS, device=place.device).unsqueeze(-1)
    nearness = 1 - (place.unsqueeze(-2) - bins).abs_()
    return nearness.clamp_(min=0).mul_(inside.unsqueeze(-2)).sum(-3)

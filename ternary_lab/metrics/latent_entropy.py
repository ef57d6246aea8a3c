"""Latent entropy: the report's batch entropy H, the bias of H, and the codes of all operations.

A histogram has 50 equal bins over [-3, 3]. Let p be the shares of the bins; values outside [-3, 3] are dropped. H of a
batch is the mean over latent dimensions of -Σ p ln p, in nats. H is a plug-in estimate from the values of one batch, so
H is biased low. For N(0, 1), H is 3.524 with infinitely many values and 3.165 with 64 values. H is at most
ln 50 = 3.912, and at most ln n for n values.

    H      = -Σ_b p_b ln p_b               plug-in estimate; p_b is the share of bin b among the values inside
    H_MM   = H + (bins occupied - 1)/(2n)  corrected estimate; n is the number of values inside (Miller 1955)
    q(z_k) = mean over x of N(μ_k(x), σ_k(x)²)           aggregate posterior of dimension k
    KL     = ∫ q ln(q / N(0, 1)) dz        divergence of the aggregate posterior from the prior
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
"""A latent dimension is active if Var_x(μ) is larger than this value (Burda, Grosse, Salakhutdinov 2016)."""
STEP = 0.01
"""Spacing of the grid for aggregate posteriors, in standard deviations of the prior."""
LARGEST_GRID = 2**16
WIDTHS = 1.1
"""Ratio of neighbouring widths σ for which `aggregate_posterior` convolves masses."""


def batch_entropy(z: Tensor) -> Tensor:
    """Return H (...) of latents z (..., B, L): the mean over L of the histogram entropy over B. NaN is dropped."""
    return histogram_entropy(histogram(z)).mean(-1)


def histogram(z: Tensor) -> Tensor:
    """Return the counts (..., L, bins) of latents z (..., B, L) inside [-3, 3].

    The value 3.0 belongs to the last bin. NaN belongs to no bin.
    """
    lead, (batch, latent) = z.shape[:-2], z.shape[-2:]
    values = z.detach().reshape(-1, batch, latent)
    inside = (values >= -LIMIT) & (values <= LIMIT)
    bins = ((values + LIMIT) * (BINS / (2 * LIMIT))).nan_to_num(0.0).clamp(0, BINS - 1).long()
    cells = torch.arange(len(values) * latent, device=z.device).view(-1, 1, latent) * BINS
    counts = torch.zeros(len(values) * latent * BINS, device=z.device)
    counts.index_add_(0, (cells + bins).flatten(), inside.float().flatten())
    return counts.view(*lead, latent, BINS)


def histogram_entropy(counts: Tensor) -> Tensor:
    """Return the plug-in entropy (...) of histograms (..., bins), in nats. An empty histogram has entropy 0."""
    p = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    return -torch.xlogy(p, p).sum(-1)


def corrected_entropy(counts: Tensor) -> Tensor:
    """Return the entropy (...) of histograms (..., bins), in nats, with a first-order correction of the bias.

    For n counted values, the result is the plug-in entropy plus (bins occupied - 1)/(2n) (Miller, "Note on the bias of
    information estimates", 1955). n should be well above the number of bins. The result may exceed ln(bins) by chance.
    An empty histogram has entropy 0.
    """
    occupied, n = (counts > 0).sum(-1), counts.sum(-1)
    return histogram_entropy(counts) + (occupied - 1).clamp(min=0) / (2 * n.clamp(min=1))


def expected_entropy(samples: int, *, repeats: int = 4000, seed: int = 0) -> tuple[float, float]:
    """Return the mean and the standard deviation of H of one dimension over batches of `samples` N(0, 1) draws.

    A code with exactly the distribution of the prior has this mean H in batches of this size.
    """
    generator = torch.Generator().manual_seed(seed)
    h = batch_entropy(torch.randn(repeats, samples, 1, generator=generator))
    return h.mean().item(), h.std().item()


def expected_epoch_entropy(
    operations: int, batch: int, dimensions: int, *, repeats: int = 4000, seed: int = 0
) -> tuple[float, float]:
    """Return the mean and the standard deviation of an epoch's H when every latent is N(0, 1).

    H of an epoch is the mean over `dimensions` and over batches of `batch` operations. The last batch may be smaller
    and has the same weight as the other batches. Raises InputError if an argument is below 1.
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
    """Return H of N(mean, std²), in nats, for infinitely many values. The probabilities of the bins are exact.

    Raises InputError if std is not positive or no probability lies inside [-3, 3].
    """
    if not std > 0:
        raise InputError(f"std must be positive, got {std}")
    edges = torch.linspace(-LIMIT, LIMIT, BINS + 1, dtype=torch.float64)
    p = torch.special.ndtr((edges - mean) / std).diff()
    if not float(p.sum()) > 0:
        raise InputError(
            f"mean {mean:g} with std {std:g}: the normal distribution has no mass inside [-{LIMIT:g}, {LIMIT:g}]: "
            "choose a mean nearer to 0"
        )
    return histogram_entropy(p / p.sum()).item()


@dataclass(frozen=True)
class SampledCode:
    """Entropies of latents z of many operations, for each latent dimension.

    Every tensor has shape (..., L). Entropies are in nats.
    """

    entropy: Tensor
    """Entropy of the 50-bin histogram of all latents, with a correction of the bias."""
    batch_entropy: Tensor
    """The report's H of this dimension: the plug-in entropy, averaged over batches."""
    inside: Tensor
    """Share of the latents inside the histogram, in [0, 1]."""


def sampled_code(z: Tensor, batch: int = 64) -> SampledCode:
    """Return the entropies of latents z (..., N, L) of N operations in random order.

    z contains one posterior sample of each operation. A batch contains `batch` successive operations. An incomplete
    last batch is left out. Raises InputError if there is no complete batch.
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
    """Statistics of the posteriors of many operations, for each latent dimension. Every tensor has shape (..., L)."""

    mean: Tensor
    """Mean of μ over operations, which is also the mean of q(z_k)."""
    variance: Tensor
    """Var_x(μ): variance of μ over operations. It is 0 if the dimension does not depend on the operation."""
    prior_kl: Tensor
    """KL(q(z_k) ‖ N(0, 1)) of the aggregate posterior q(z_k), in nats."""

    @property
    def active(self) -> Tensor:
        """Bool (..., L), true where Var_x(μ) > 0.01 (Burda, Grosse, Salakhutdinov 2016)."""
        return self.variance > ACTIVE


@torch.no_grad()
def posterior_code(mean: Tensor, std: Tensor) -> PosteriorCode:
    """Return statistics of the posteriors N(mean, std²) of N operations. mean and std have shape (..., N, L)."""
    columns = (values.transpose(-1, -2).reshape(-1, mean.shape[-2]) for values in (mean, std))
    kl = torch.tensor([prior_kl(m, s) for m, s in zip(*columns, strict=True)], device=mean.device)
    average = mean.mean(-2)
    return PosteriorCode(average, mean.var(-2), kl.view_as(average))


@torch.no_grad()
def aggregate_posterior(mean: Tensor, std: Tensor, step: float = STEP) -> tuple[Tensor, Tensor]:
    """Return a grid z (G,) and the density q(z) (G,), float64, of the mixture of N normal distributions.

    mean (N,) and std (N,) belong to the posteriors of N operations in one latent dimension. The spacing of the grid is
    `step`, or wider if the grid would exceed 2^16 points. Components that are narrower than the spacing are widened to
    the spacing.

    The mass of each component is divided between the two nearest grid points and the two nearest widths of a geometric
    sequence with ratio `WIDTHS`. Then the masses of each width are convolved with a normal distribution of this width.
    The convolution uses the FFT.

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
    size = 2 ** math.ceil(math.log2((high - low) / step + 16))  # leaves room if the spacing was widened
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

    # The CPU adds the masses in the order of the components. On a GPU the order varies, and so do the last digits.
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
    """Return KL(q ‖ N(0, 1)) in nats, where q is the `aggregate_posterior` of mean (N,) and std (N,).

    For a single component, this KL is (μ² + σ² - 1)/2 - ln σ. For several components, this KL is at most the mean of
    the KLs of the components, because the KL is convex.
    """
    z, q = aggregate_posterior(mean, std, step)
    log_ratio = torch.xlogy(q, q) + q * 0.5 * (z.square() + math.log(2 * math.pi))
    return float(log_ratio.sum() * (z[1] - z[0]))


def soft_entropy(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return a differentiable H (...) of latents z (..., B, L), and the gradient of H with respect to z.

    H is `batch_entropy` with linear binning (Jones & Lotwick 1984). A value between the centres of two bins is divided
    between these two bins, so H is continuous in the value. A value beyond the outermost centres belongs to the outer
    bin alone. A value beyond ±3 belongs to no bin. In both cases, the gradient with respect to this value is 0.
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
    """Return the counts (..., BINS, L) of the values at `place` (..., B, L), in units of bins.

    `inside` is 1 for values that are counted, and 0 for other values. Every value is added to all bins, to most of them
    with weight 0. A CPU adds each value to two bins only. On a GPU such additions have no fixed order, so the last
    digits of the sums would vary.
    """
    bins = torch.arange(BINS, device=place.device).unsqueeze(-1)
    nearness = 1 - (place.unsqueeze(-2) - bins).abs_()
    return nearness.clamp_(min=0).mul_(inside.unsqueeze(-2)).sum(-3)

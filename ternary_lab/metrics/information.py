"""The output distribution of a decoder, and the mutual information of output and latent.

Given a latent z, the nine entries are independent, so p(x|z) is a product. Let u(z) be the outer product of the
probabilities of the first five entries (243 values). Let v(z) be the outer product of the probabilities of the last
four entries (81 values). Then one matrix product gives the mean output distribution of M latents:

    p̂(x) = (1/M) Σ_z v(z) u(z)ᵀ          operation index = 243 · (index in v) + (index in u)

Only latents are sampled. The sum over operations is exact.

    H(X)      entropy of p̂, at most ln N = 9.8875
    H(X|Z)    mean over z of the sum of the nine entries' entropies
    I(X;Z)    H(X) - H(X|Z)
    informative coverage             exp(I)/N
    effective coverage (argmax)      exp(entropy of the argmax operation)/N

The entropy H(X) of p̂ from M latents is too small. To first order, the bias is (1/2M)(Σ_x E[p(x|z)²]/p(x) - 1), where E
is the mean over z. This is the correction of Miller (1955) for a mixture. For argmax decoding, the sum Σ_x is the
number of operations that occur.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial, reduce

import torch
from torch import Tensor

from ternary_lab.metrics.coverage import best_classes, class_index
from ternary_lab.metrics.sobol import Decoder, chunk_size
from ternary_lab.model import DualVAE, Pathway
from ternary_lab.space import ENTRIES, SIZE, VALUES

LOW = 5
"""Number of entries in the first factor u. The other four entries form v."""
SCALE = 2.0**27
"""Factor by which u and v are multiplied. The sums are divided by the factor afterwards.

Without the factor, products of probabilities can be smaller than 1e-38, the smallest normal float32. Some processors
need a hundred times as long for such products, and others treat them as zero. With the factor, u and v are exact
down to 1e-46, and products of u and v down to 1e-54. A power of two causes no rounding. Products of squares reach
2^108. So float32 can hold the sum over 2^19 latents.
"""


_FIGURES = (
    "output_entropy", "decoder_noise", "information", "informative_coverage", "informative_coverage_raw",
    "effective_coverage",
)


@dataclass(frozen=True)
class Information:
    """Entropies (R,) in nats and coverages (R,) in percent of R runs.

    The values are corrected for bias unless their name ends in raw.
    """

    latents: int
    p: Tensor
    """(R, N), float64: output distribution."""
    output_entropy_raw: Tensor
    output_entropy: Tensor
    decoder_noise: Tensor
    argmax_entropy: Tensor

    @property
    def information(self) -> Tensor:
        return self.output_entropy - self.decoder_noise

    @property
    def informative_coverage(self) -> Tensor:
        return _share(self.information)

    @property
    def informative_coverage_raw(self) -> Tensor:
        return _share(self.output_entropy_raw - self.decoder_noise)

    @property
    def effective_coverage(self) -> Tensor:
        return _share(self.argmax_entropy)

    def figures(self) -> dict[str, float]:
        """Return the entropies and coverages of the first run in a dictionary. Its keys are in `metrics.quantities`."""
        return {name: float(getattr(self, name)[0]) for name in _FIGURES}


@dataclass(frozen=True)
class Sums:
    """Sums over latents, float64, which give an `Information`. Sums over different latents can be added."""

    latents: int
    p: Tensor
    """(R, N): Σ p(x|z)."""
    p_squared: Tensor
    """(R, N): Σ p(x|z)²."""
    noise: Tensor
    """(R,): Σ H(X|z)."""
    counts: Tensor
    """(R, N): number of latents whose most probable operation is x."""

    def __add__(self, other: Sums) -> Sums:
        return Sums(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def joined(self, times: int) -> Sums:
        """Return the sums of R runs from sums with `times` · R rows.

        Each block of R rows belongs to the same R runs and to different latents.
        """
        p, p_squared, noise, counts = (
            x.view(times, -1, *x.shape[1:]).sum(0) for x in (self.p, self.p_squared, self.noise, self.counts)
        )
        return Sums(self.latents * times, p, p_squared, noise, counts)

    def information(self, *, exact: bool = False) -> Information:
        """Return the entropies and coverages that follow from the sums.

        Set `exact` if the sums are over all possible latents. Then the bias is zero, and no correction is made.
        """
        p, total = self.p / self.latents, self.latents
        raw = -torch.xlogy(p, p).sum(1)
        frequency = self.counts / total
        argmax_raw = -torch.xlogy(frequency, frequency).sum(1)
        if exact:
            return Information(total, p, raw, raw, self.noise / total, argmax_raw)
        correction = (torch.where(p > 0, self.p_squared / total / p, 0).sum(1) - 1) / (2 * total)
        argmax = argmax_raw + ((self.counts > 0).sum(1) - 1) / (2 * total)
        return Information(total, p, raw, raw + correction, self.noise / total, argmax)


@torch.no_grad()
def sums(model: DualVAE, pathway: Pathway, z: Tensor) -> Sums:
    """Return the sums of R runs over latents z (R or 1, L, M).

    The sums are computed in float32, so M should not be much larger than 10,000. z may also have k R rows. Then the
    first R rows are the first part of the latents, the next R rows are the second part, and so on. All k parts are
    measured at once.
    """
    times = max(1, len(z) // model.runs)
    found = decoder_sums(
        partial(model.repeated(times).decode_features, pathway=pathway), z.expand(times * model.runs, -1, -1)
    )
    return found.joined(times) if times > 1 else found


@torch.no_grad()
def decoder_sums(decode: Decoder, z: Tensor) -> Sums:
    """Return the sums over latents z (R, L, M) of the outputs of any decoder. See `sums`."""
    runs, device = len(z), z.device
    p = torch.zeros(runs, VALUES ** (ENTRIES - LOW), VALUES**LOW, dtype=torch.float32, device=device)
    p_squared, counts = torch.zeros_like(p), p.new_zeros(runs, SIZE)
    noise = torch.zeros(runs, dtype=torch.float64, device=device)
    one = p.new_ones(1, 1)
    for chunk in torch.split(z, chunk_size(device), -1):
        logits = decode(chunk)
        log_q = torch.log_softmax(logits, 2)
        q = log_q.exp()
        noise -= (q * log_q).sum((1, 2, 3))
        q[:, 0].mul_(SCALE)
        q[:, LOW].mul_(SCALE)
        entries = q.unbind(1)
        u, v = outer_probabilities(entries[:LOW]), outer_probabilities(entries[LOW:])
        p.baddbmm_(v, u.transpose(1, 2))
        p_squared.baddbmm_(v.square_(), u.square_().transpose(1, 2))
        best = class_index(best_classes(logits))
        counts.scatter_add_(1, best, one.expand_as(best))
    p, p_squared = p.double().div_(SCALE**2), p_squared.double().div_(SCALE**4)
    return Sums(z.shape[-1], p.flatten(1), p_squared.flatten(1), noise, counts.double())


def information(model: DualVAE, pathway: Pathway, latents: Iterable[Tensor]) -> Information:
    """Return the output distribution and the information of R runs.

    Each item of `latents` is a part of the latents and has shape (R or 1, L, M).
    """
    return reduce(operator.add, (sums(model, pathway, z) for z in latents)).information()


@torch.no_grad()
def log_probability(model: DualVAE, pathway: Pathway, latents: Iterable[Tensor]) -> Tensor:
    """Return ln p(x) (N,) of all operations x under the prior, float64, in nats, for a model of one run.

    Each item of `latents` (L, M) is a part of the latents. The probability of an operation that no latent gives counts
    as the smallest normal number. Without the other sums of `sums`, this takes half the time.
    """
    total, count = torch.zeros(VALUES ** (ENTRIES - LOW), VALUES**LOW, dtype=torch.float64, device=model.device), 0
    for z in latents:
        p = torch.zeros_like(total, dtype=torch.float32)
        for chunk in torch.split(z, chunk_size(model.device), -1):
            q = torch.softmax(model.decode_features(chunk.unsqueeze(0), pathway), 2)
            q[:, 0].mul_(SCALE)
            q[:, LOW].mul_(SCALE)
            entries = q.unbind(1)
            p.addmm_(outer_probabilities(entries[LOW:])[0], outer_probabilities(entries[:LOW])[0].T)
        total += p.double().div_(SCALE**2)
        count += z.shape[-1]
    return total.flatten().div_(count).clamp_min_(torch.finfo(torch.float64).tiny).log_()


@dataclass(frozen=True)
class InformationTerms:
    """Differentiable output entropies (R,), in nats, for given latents, without correction of the bias."""

    output_entropy: Tensor
    """H(X): entropy of the mean output distribution of these latents."""
    decoder_noise: Tensor
    """H(X|Z): mean over the latents of the output entropy given the latent."""

    @property
    def information(self) -> Tensor:
        """Mutual information I(X;Z) = H(X) - H(X|Z)."""
        return self.output_entropy - self.decoder_noise


def information_terms(decode: Decoder, z: Tensor) -> InformationTerms:
    """Return H(X) and H(X|Z) for latents z (R, L, M). The result is differentiable if `decode` is differentiable.

    `decode` returns logits (R, 9, 3, M). The entropies are exact for these latents. The memory grows as R · 324 · M
    numbers. A loss that uses H(X) of fewer latents than operations also needs a moving average of the output
    distribution: see `ternary_lab.losses.information_loss`.
    """
    log_q = torch.log_softmax(decode(z), 2)
    q = log_q.exp()
    entries = q.unbind(1)
    u, v = outer_probabilities(entries[:LOW]), outer_probabilities(entries[LOW:])
    p = torch.bmm(v, u.transpose(1, 2)) / z.shape[-1]
    noise = -(q * log_q).sum((1, 2)).mean(-1)
    return InformationTerms(-torch.xlogy(p, p).sum((1, 2)), noise)


def outer_probabilities(entries: Sequence[Tensor]) -> Tensor:
    """Return the joint probabilities (R, 3^n, M) of n entries, each (R, 3, M). The class of entry 0 varies fastest."""
    product, *others = entries
    for entry in others:
        product = (entry.unsqueeze(2) * product.unsqueeze(1)).flatten(1, 2)
    return product


def _share(entropy: Tensor) -> Tensor:
    return torch.mul(entropy.exp(), 100 / SIZE)


assert VALUES**LOW * VALUES ** (ENTRIES - LOW) == SIZE

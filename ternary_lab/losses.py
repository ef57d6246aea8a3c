"""The terms of the loss, each with its value and its gradient. In nats.

    CE    Σ_k -ln p(x_k|z̃), mean over the batch
    KL    Σ_d max(-½(1 + s - μ² - e^s), free bits), mean over the batch
    S     -Σ p̄ ln p̄ over B's 27 batch-mean softmax outputs
    rep   mean over ordered pairs i ≠ j of exp(-‖z_i - z_j‖²/σ²) on z_B

    L_A = CE_A + β_A KL_A
    L_B = CE_B + β_B KL_B - w_S S + w_rep rep
    L   = λ₁ g_A L_A + λ₂ g_B L_B + λ₃ |H_A - H_B|

A term is declared once, in `TERMS`: its name, its words, its pathways, its weight, and the function that computes it.
Its columns in the history, its share of the training loss and the message on divergence follow from the declaration. A
configuration can add terms that are declared elsewhere: see `config.LossTerm`.

Two parts of the loss are not such terms. The entropy alignment |H_A - H_B| belongs to both pathways. In v5.5 its H is a
histogram without gradient, so it moves the reported loss and no parameter; `metrics.latent_entropy.soft_entropy` has a
gradient. The information terms read latents drawn from the prior: see `information_loss`.

Cross-injection stops the gradient, so L_A moves pathway A alone and L_B pathway B alone. The factors λ g are applied to
the whole gradient of a pathway at the end. Shapes are those of `model`.

Gradients are written beside their terms. Autograd's bookkeeping would cost several times the arithmetic at this size;
the tests differentiate every value and compare.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ternary_lab import space
from ternary_lab.backend import kernels
from ternary_lab.config import Config, LossTerm, PathwayBatch, TermGradients
from ternary_lab.controllers import Plan
from ternary_lab.metrics.information import LOW, outer_probabilities
from ternary_lab.metrics.latent_entropy import soft_entropy
from ternary_lab.space import ENTRIES, VALUES, one_hot

FreeBits = Literal["sample", "dimension_mean"]


@dataclass(frozen=True)
class Batch:
    """The tensors that a loss term may read. R runs, B operations, L latent dimensions, 2 pathways."""

    mu: Tensor
    """(2, R, B, L): posterior means."""
    log_variance: Tensor
    """(2, R, B, L)"""
    z: Tensor
    """(2, R, B, L): sampled latents."""
    free_bits_per: FreeBits = "sample"
    target: Tensor | None = None
    """(R, B, 9, 3): one-hot operations; only for terms of the output."""
    logits: Tensor | None = None
    """(2, R, B, 9, 3): decoder outputs; only for terms of the output."""

    def decoded(self, target: Tensor, logits: Tensor) -> Batch:
        """The same batch with its one-hot operations and the decoder outputs."""
        return replace(self, target=target, logits=logits)


@dataclass
class Gradients:
    """Gradients of L_A and L_B, each in its own pathway's tensors. Terms add to them."""

    logits: Tensor | None = None
    """(2, R, B, 9, 3)"""
    mu: Tensor | None = None
    """(2, R, B, L): without the part that reaches μ through z."""
    log_variance: Tensor | None = None
    """(2, R, B, L): likewise."""
    z: dict[int, Tensor] = field(default_factory=dict)
    """Pathway (0 or 1) -> (R, B, L), without the part that comes from the decoder."""
    probabilities: Tensor | None = None
    """(2, R, B, 9, 3): the softmax of the logits, which the cross-entropy leaves for later terms."""

    def add(self, pathway: int, weight: Tensor, of: TermGradients) -> None:
        """Add the gradients of one pathway's term (R, B, ...), times its weight (R,)."""
        for name in ("logits", "mu", "log_variance"):
            gradient, whole = getattr(of, name), getattr(self, name)
            if gradient is not None:
                whole[pathway].add_(gradient * weight.view(-1, *[1] * (gradient.dim() - 1)))
        if of.z is not None:
            gradient = of.z * weight[:, None, None]
            self.z[pathway] = self.z[pathway] + gradient if pathway in self.z else gradient


@dataclass(frozen=True)
class TermNumbers:
    """The numbers of one term in one epoch, a value per run."""

    weight: Tensor
    """(P, R): the weight in each of the term's pathways."""
    settings: Tensor
    """(K, R): whatever else the term reads."""


Numbers = Mapping[str, TermNumbers]
"""Name of a term -> its numbers."""


@dataclass(frozen=True)
class Term:
    """One term of L_A, of L_B or of both: sign · weight · value. See the module."""

    name: str
    """Columns: NAME_A for the value, loss_NAME_A for the share in the training loss; likewise for B."""
    words: str
    """Its words in messages."""
    pathways: Literal["AB", "A", "B"]
    of: Literal["code", "output"]
    """Terms of the code read μ, s and z alone; they are computed beside the decoders."""
    compute: Callable[[Batch, TermNumbers, Gradients], Tensor]
    """Adds the weighted gradient to the last argument and returns the value (P, R)."""
    weights: Callable[[Config, Plan], Sequence[float]]
    """The weight in each of its pathways."""
    settings: Callable[[Config], Sequence[float]] = lambda _: ()
    sign: int = 1

    @property
    def columns(self) -> tuple[str, ...]:
        """The value's columns, one for each pathway."""
        return tuple(f"{self.name}_{pathway}" for pathway in self.pathways)

    @property
    def indices(self) -> list[int]:
        """Its pathways as indices, 0 for A and 1 for B."""
        return ["AB".index(pathway) for pathway in self.pathways]


def _cross_entropy(batch: Batch, numbers: TermNumbers, into: Gradients) -> Tensor:
    assert batch.target is not None
    assert batch.logits is not None
    value, into.probabilities, into.logits = cross_entropy(batch.target, batch.logits)
    return value


def _kl(batch: Batch, numbers: TermNumbers, into: Gradients) -> Tensor:
    value, into.mu, into.log_variance = free_bits_kl(
        batch.mu, batch.log_variance, numbers.settings[0], batch.free_bits_per, numbers.weight
    )
    return value


def _output_entropy(batch: Batch, numbers: TermNumbers, into: Gradients) -> Tensor:
    assert into.probabilities is not None
    assert into.logits is not None
    value, gradient = mean_output_entropy(into.probabilities[1])
    into.logits[1].addcmul_(gradient, numbers.weight[0, :, None, None, None], value=-1)
    return value.unsqueeze(0)


def _repulsion(batch: Batch, numbers: TermNumbers, into: Gradients) -> Tensor:
    value, into.z[1] = repulsion(batch.z[1], numbers.settings[0], numbers.weight[0])
    return value.unsqueeze(0)


TERMS = (
    Term("ce", "the cross-entropy", "AB", "output", _cross_entropy, lambda config, plan: (1.0, 1.0)),
    Term(
        "kl", "the KL term", "AB", "code", _kl, lambda config, plan: (plan.beta_A, plan.beta_B),
        settings=lambda config: (config.kl.free_bits,),
    ),
    Term(
        "entropy", "the output entropy", "B", "output", _output_entropy,
        lambda config, plan: (config.loss.entropy_weight,), sign=-1,
    ),
    Term(
        "repulsion", "the repulsion", "B", "code", _repulsion, lambda config, plan: (config.loss.repulsion_weight,),
        settings=lambda config: (config.loss.repulsion_sigma,),
    ),
)
"""The terms of v5.5, in the order in which they are computed."""


def terms_of(config: Config) -> tuple[Term, ...]:
    """Every term of a configuration: those of v5.5, then those that it adds."""
    return (*TERMS, *(_added(name, term) for name, term in config.loss.added.items()))


def _added(name: str, term: LossTerm) -> Term:
    """A term that a configuration adds, as the step computes it."""

    def compute(batch: Batch, numbers: TermNumbers, into: Gradients) -> Tensor:
        assert batch.target is not None
        assert batch.logits is not None
        values = []
        for index, pathway in enumerate(declared.indices):
            rest = (part[pathway] for part in (batch.mu, batch.log_variance, batch.z, batch.logits))
            value, gradients = term.value(PathwayBatch(batch.target, *rest))
            into.add(pathway, numbers.weight[index], gradients)
            values.append(value)
        return torch.stack(values)

    declared = Term(
        name, term.words, term.pathways, "output", compute,
        lambda config, plan: (config.loss.added[name].weight_at(plan.epoch),) * len(term.pathways),
    )
    return declared


def compute_terms(terms: Iterable[Term], batch: Batch, numbers: Numbers, into: Gradients) -> dict[str, Tensor]:
    """Column -> value (R,) of every term, in order; the weighted gradients are added to `into`."""
    found: dict[str, Tensor] = {}
    left = list(terms)
    if batch.logits is not None and kernels.usable(batch.logits):
        # One kernel computes both; see `backend.kernels`.
        assert batch.target is not None
        ce, entropy, into.logits = kernels.output_terms(batch.target, batch.logits, numbers["entropy"].weight[0])
        found |= {"ce_A": ce[0], "ce_B": ce[1], "entropy_B": entropy}
        left = [term for term in left if term.name not in ("ce", "entropy")]
    for term in left:
        found |= zip(term.columns, term.compute(batch, numbers[term.name], into), strict=True)
    return found


def weighted(terms: Sequence[Term], values: Mapping[str, Tensor], numbers: Numbers) -> dict[str, Tensor]:
    """Column -> sign · weight · value of every term, pathway A first. Values may have more dimensions in front."""
    found = {}
    for pathway in "AB":
        for term in terms:
            if pathway in term.pathways:
                share = numbers[term.name].weight[term.pathways.index(pathway)] * values[f"{term.name}_{pathway}"]
                found[f"{term.name}_{pathway}"] = -share if term.sign < 0 else share
    return found


def repeated(numbers: Numbers, times: int) -> dict[str, TermNumbers]:
    """The numbers for `times` batches of each run, one after the other."""
    return {
        name: TermNumbers(*(part.repeat_interleave(times, -1) for part in (of.weight, of.settings)))
        for name, of in numbers.items()
    }


def cross_entropy(target: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """CE (2, R) of one-hot targets (R, B, 9, 3), the softmax p (2, R, B, 9, 3), and CE's gradient in the logits.

    Written out, because torch's softmax is slow over a dimension of three.
    """
    batch = target.shape[1]
    shifted = logits - logits.amax(-1, keepdim=True)
    weights = shifted.exp()
    first, second, third = weights.unbind(-1)
    total = (first + second).add_(third)
    p = weights.div_(total.unsqueeze(-1))
    value = total.log_().sum((2, 3)).sub_(shifted.mul_(target).sum((2, 3, 4))).div_(batch)
    return value, p, (p - target).div_(batch)


def free_bits_kl(
    mu: Tensor, log_variance: Tensor, free_bits: Tensor, per: FreeBits, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """KL (2, R) with a floor of `free_bits` (R,) nats, and its gradients in μ and s times `weight` (2, R).

    `sample` (v5.5) bounds every sample and dimension; `dimension_mean` the batch mean of each
    dimension, as the paper does. Below the floor there is no gradient (Kingma et al. 2016).
    """
    batch = mu.shape[2]
    variance = log_variance.exp()
    double = torch.addcmul(variance, mu, mu).sub_(log_variance).sub_(1)
    floor = 2 * free_bits[:, None, None]
    scale = 0.5 / batch
    if per == "dimension_mean":
        double = double.mean(2, keepdim=True)
        scale = 0.5
    value = torch.maximum(double, floor).sum((2, 3)).mul_(scale)
    above = (double > floor) * weight[:, :, None, None].div(batch)
    return value, above * mu, variance.sub_(1).mul_(above).mul_(0.5)


def mean_output_entropy(p: Tensor) -> tuple[Tensor, Tensor]:
    """S (R,) of probabilities (R, B, 9, 3), at most 9 ln 3 = 9.8875, and its gradient in the logits."""
    mean = p.mean(1, keepdim=True)
    positive = mean + 1e-10
    log_mean = positive.log()
    value = (mean * log_mean).sum((1, 2, 3)).neg_()
    weighted = p * log_mean.addcdiv(mean, positive)
    return value, torch.addcmul(weighted, p, weighted.sum(-1, keepdim=True), value=-1).div_(-p.shape[1])


def repulsion(z: Tensor, sigma: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """rep (R,) of latents z (R, B, L), and its gradient in z times `weight` (R,); 0 for a batch of one.

    The diagonal is masked: added and subtracted again, it would cancel the tiny rest in float32.
    """
    batch = z.shape[1]
    if batch < 2:
        return torch.zeros_like(sigma), torch.zeros_like(z)
    scaled = z / sigma[:, None, None]
    norms = scaled.square().sum(-1, keepdim=True)
    exponent = torch.baddbmm(norms.transpose(1, 2), scaled, scaled.transpose(1, 2), beta=-1, alpha=2).sub_(norms)
    # exp(-80) is 1e-35: what is below makes no difference, and denormal numbers cost 50 times as much.
    kernel = exponent.clamp_(-80, 0).exp_()
    kernel.diagonal(dim1=1, dim2=2).zero_()
    pairs = batch * (batch - 1)
    row = kernel.sum(-1, keepdim=True)
    towards = torch.baddbmm(row * scaled, kernel, scaled, alpha=-1)
    return row.sum((1, 2)).div_(pairs), towards.mul_((weight / sigma).mul_(-4 / pairs)[:, None, None])


FLOOR = 1e-12
"""Smallest average probability whose logarithm is taken: a perfect generator has 5e-5."""


@dataclass(frozen=True)
class InformationWeights:
    """Weights of the information terms, one value per run: (R,)."""

    noise: Tensor
    output_entropy: Tensor
    certainty: Tensor


@dataclass(frozen=True)
class InformationValues:
    """Values of the information terms over the prior latents of one step. All (2, R)."""

    noise: Tensor
    output_entropy: Tensor
    certainty: Tensor

    def weighted(self, w: InformationWeights) -> Tensor:
        """(2, R): their share in L_A and L_B. All may have more dimensions in front."""
        return w.noise * self.noise - w.output_entropy * self.output_entropy + w.certainty * self.certainty


def information_loss(
    logits: Tensor, average: Tensor, decay: float, margin: float, w: InformationWeights
) -> tuple[InformationValues, Tensor]:
    """Information terms from logits (2, R, M, 27) of M prior latents, and their gradient in the logits. v5.5 has none.

        N = H(X|Z)    mean entropy of the output given its latent: decoder noise, to be made small
        E = H(X)      entropy of the output distribution's moving average over steps, to be made large
        C             Σ e²/2m over values and entries; e is the excess of the log-odds over the margin m

    L_A and L_B each gain w_N N - w_E E + w_C C of their own decoder. With w_N = w_E that is -w I(X;Z), the information
    of the output about the latent. Large logits everywhere make N small, but then a posterior sample on the wrong side
    of a threshold costs hundreds of nats. C penalises confidence beyond what is needed to decode correctly. It is
    squared: a linear penalty only makes a decoder that is linear in z less steep, a growing one makes it bend.

    `average` (2, R, N) is the moving average of the output distribution over steps. It is brought up to date in place;
    where it is all zeros, it takes this step's distribution.

    The gradient is that of w_N H(X|Z) - w_E H(X) + w_C C for the output distribution of these M latents, with the
    moving average p̂ as the argument of the logarithm: ∂H(X)/∂p = -(ln p + 1) needs the frequency of an operation,
    which M latents alone do not show. With z given, and E the mean over x ~ p(x|z),

        ∂/∂ℓ_kc E[ln p̂(X)] = p_kc (E[ln p̂(X) | X_k = c] - E[ln p̂(X)])

    and p(x|z) = u v splits into five entries and four (`metrics.information`). Two products with the table ln p̂ (81,
    243) replace a sum over all N operations for each latent.
    """
    groups, latents = logits.shape[:2].numel(), logits.shape[2]
    entries = logits.view(groups, latents, ENTRIES, VALUES).permute(0, 2, 3, 1)
    shifted = entries - entries.amax(2, keepdim=True)
    certainty, d_certainty = _certainty(shifted, margin)
    log_total = shifted.exp().sum(2, keepdim=True).log_()
    log_p = shifted.sub_(log_total)
    p = log_p.exp()
    entropy = (p * log_p).sum(2, keepdim=True).neg_()

    u, v = outer_probabilities(p[:, :LOW].unbind(1)), outer_probabilities(p[:, LOW:].unbind(1))
    now = torch.bmm(v, u.transpose(1, 2)).div_(latents)
    table = average.view(groups, *now.shape[1:])
    seen = (table.sum((1, 2), keepdim=True) > 0).to(table).mul_(decay)
    table.lerp_(now, 1 - seen)
    log_table = table.clamp_min(FLOOR).log_()
    value = (table * log_table).sum((1, 2)).neg_()

    of_u = torch.matmul(_members(LOW, p.device), u * torch.bmm(log_table.transpose(1, 2), v))
    of_v = torch.matmul(_members(ENTRIES - LOW, p.device), v * torch.bmm(log_table, u))
    joint = torch.cat((of_u, of_v), 1).view_as(p)  # p_kc E[ln p̂(X) | X_k = c]
    weight_n, weight_e, weight_c = (
        x.repeat(2)[:, None, None, None].div(latents) for x in (w.noise, w.output_entropy, w.certainty)
    )
    gradient = (joint - p * joint.sum(2, keepdim=True)).mul_(weight_e)
    gradient.sub_((log_p + entropy).mul_(p).mul_(weight_n))
    gradient.addcmul_(d_certainty, weight_c)
    shape = logits.shape[:2]
    terms = InformationValues(entropy.sum((1, 2)).mean(1).view(shape), value.view(shape), certainty.view(shape))
    return terms, gradient.permute(0, 3, 1, 2).reshape(logits.shape)


def _certainty(shifted: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """C (G,) of logits less the largest of their entry (G, 9, 3, M); the gradient (G, 9, 3, M) of its sum over latents.
    """
    beyond = (shifted + margin).clamp_(max=0)
    value = beyond.square().sum((1, 2)).mean(1).div_(2 * margin)
    slope = beyond.div_(margin)
    # One of the largest is lowered for all that lie too far below it.
    slope.scatter_(2, shifted.argmax(2, keepdim=True), -slope.sum(2, keepdim=True))
    return value, slope


@dataclass(frozen=True)
class Alignment:
    """The entropy alignment |H_A - H_B| of a batch by an H that has a gradient."""

    entropy: Tensor
    """(2, R): H_A and H_B."""
    z: Tensor
    """(2, R, B, L): gradient of |H_A - H_B| in the latents, before λ₃."""


def alignment(z: Tensor) -> Alignment:
    """The alignment of latents z (2, R, B, L) by `soft_entropy`."""
    entropy, slope = soft_entropy(z)
    towards = (entropy[0] - entropy[1]).sign()
    return Alignment(entropy, slope * torch.stack((towards, -towards))[:, :, None, None])


@functools.cache
def _members(entries: int, device: torch.device) -> Tensor:
    """(3 entries, 3^entries): 1 where the joint value of the entries (the first lowest) has class c at entry k."""
    values = space.operations(torch.arange(VALUES**entries))[:, :entries]
    return one_hot(values).flatten(1).t().contiguous().to(device)

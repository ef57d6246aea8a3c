"""The terms of the loss, with their values and gradients. Cross-entropy, KL and entropies are in nats.

    CE    Σ_k -ln p(x_k|z̃), mean over the batch
    KL    Σ_d max(-½(1 + s - μ² - e^s), free bits), mean over the batch
    S     -Σ p̄ ln p̄ over B's 27 batch-mean softmax outputs
    rep   mean over ordered pairs i ≠ j of exp(-‖z_i - z_j‖²/σ²) on z_B

    L_A = CE_A + β_A KL_A
    L_B = CE_B + β_B KL_B - w_S S + w_rep rep
    L   = λ₁ g_A L_A + λ₂ g_B L_B + λ₃ |H_A - H_B|

Here g_A and g_B are the factors of the gradient balance (`training.step`), and H_A and H_B are latent entropies.

`TERMS` declares each term once. A declaration holds the name of the term, its words for messages, its pathways, its
weight, and the function that computes the term. The columns in the history, the share in the training loss and the
message on divergence are derived from this declaration. A configuration can add terms that are declared elsewhere;
`config.LossTerm` explains this.

Two parts of the loss are not declared as terms. The first part is the entropy alignment |H_A - H_B|, which belongs to
both pathways. In v5.5 the entropy H is computed from a histogram, which has no gradient, so the alignment changes the
reported loss but no weight. `metrics.latent_entropy.soft_entropy` has a gradient. The second part is the information
terms of `information_loss`, which read latents drawn from the prior.

Cross-injection stops the gradient, so L_A changes pathway A only, and L_B changes pathway B only. The factors λ g are
applied to the whole gradient of a pathway at the end. Shapes are those of `model`.

Each term computes its own gradient, because autograd's bookkeeping would cost several times as much as the arithmetic
at this size. The tests compare every gradient with the result of autograd.
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
    """Input tensors of the loss terms.

    The dimensions are 2 pathways, R runs, B operations and L latent dimensions. With S posterior samples of each
    operation, z, target and logits have B S rows instead of B.
    """

    mu: Tensor
    """(2, R, B, L): posterior means."""
    log_variance: Tensor
    """(2, R, B, L): logarithms of the posterior variances."""
    z: Tensor
    """(2, R, B, L): sampled latents."""
    free_bits_per: FreeBits = "sample"
    target: Tensor | None = None
    """(R, B, 9, 3): one-hot operations; only for terms of the output."""
    logits: Tensor | None = None
    """(2, R, B, 9, 3): decoder outputs; only for terms of the output."""

    def decoded(self, target: Tensor, logits: Tensor) -> Batch:
        """Return this batch with one-hot operations (R, B, 9, 3) and decoder outputs (2, R, B, 9, 3)."""
        return replace(self, target=target, logits=logits)


@dataclass
class Gradients:
    """Gradients of L_A with respect to tensors of pathway A, and of L_B with respect to tensors of pathway B.

    Every loss term adds its gradients to these tensors.
    """

    logits: Tensor | None = None
    """(2, R, B, 9, 3): gradients with respect to the decoder outputs."""
    mu: Tensor | None = None
    """(2, R, B, L): gradients with respect to μ, without the part that comes through z."""
    log_variance: Tensor | None = None
    """(2, R, B, L): gradients with respect to s, without the part that comes through z."""
    z: dict[int, Tensor] = field(default_factory=dict)
    """Gradients (R, B, L) with respect to z by pathway (0 or 1), without the part that comes from the decoder."""
    probabilities: Tensor | None = None
    """(2, R, B, 9, 3): softmax of the logits. The cross-entropy computes it, and later terms read it."""

    def add(self, pathway: int, weight: Tensor, of: TermGradients) -> None:
        """Add the gradients (R, B, ...) of a term for one pathway, multiplied by the weight (R,) of the term."""
        for name in ("logits", "mu", "log_variance"):
            gradient, whole = getattr(of, name), getattr(self, name)
            if gradient is not None:
                whole[pathway].add_(gradient * weight.view(-1, *[1] * (gradient.dim() - 1)))
        if of.z is not None:
            gradient = of.z * weight[:, None, None]
            self.z[pathway] = self.z[pathway] + gradient if pathway in self.z else gradient


@dataclass(frozen=True)
class TermNumbers:
    """The numbers that one term reads in one epoch, with one value per run."""

    weight: Tensor
    """(P, R): weights of the term in its P pathways, where P is 1 or 2."""
    settings: Sequence[Tensor]
    """The other settings that the term reads, (R,) each."""


Numbers = Mapping[str, TermNumbers]
"""The numbers of each term, by the name of the term."""


@dataclass(frozen=True)
class Term:
    """One term of L_A, of L_B or of both.

    The term adds sign · weight · value to the loss of a pathway.
    """

    name: str
    """Name of the term. The column NAME_A holds its value for pathway A, and loss_NAME_A its share in the loss."""
    words: str
    """Words that stand for the term in messages."""
    pathways: Literal["AB", "A", "B"]
    of: Literal["code", "output"]
    """Tensors that the term reads. A term of the code reads only μ, s and z, so it need not wait for the decoders."""
    compute: Callable[[Batch, TermNumbers, Gradients], Tensor]
    """Function that returns the value (P, R) and adds the weighted gradient to its last argument."""
    weights: Callable[[Config, Plan], Sequence[float]]
    """Function that returns the weight of the term in each of its pathways."""
    settings: Callable[[Config], Sequence[float]] = lambda _: ()
    sign: int = 1

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns of the value, one for each pathway of the term."""
        return tuple(f"{self.name}_{pathway}" for pathway in self.pathways)

    @property
    def indices(self) -> list[int]:
        """Return the indices of the term's pathways: 0 for A and 1 for B."""
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
    """Return all loss terms of a configuration: first the terms of v5.5, then the terms that the configuration adds."""
    return (*TERMS, *(_added(name, term) for name, term in config.loss.added.items()))


def _added(name: str, term: LossTerm) -> Term:
    """Return a declared `Term` for a `LossTerm` that a configuration adds."""

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
    """Compute all terms and add the weighted gradients to `into`.

    Returns a dictionary from the name of a term to its value (P, R) in each of its P pathways.
    """
    found: dict[str, Tensor] = {}
    left = list(terms)
    if batch.logits is not None and kernels.usable(batch.logits):
        # One kernel computes the cross-entropy and the output entropy; see `backend.kernels`.
        assert batch.target is not None
        ce, entropy, into.logits = kernels.output_terms(batch.target, batch.logits, numbers["entropy"].weight[0])
        found |= {"ce": ce, "entropy": entropy.unsqueeze(0)}
        left = [term for term in left if term.name not in ("ce", "entropy")]
    for term in left:
        found[term.name] = term.compute(batch, numbers[term.name], into)
    return found


def by_column(terms: Sequence[Term], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the values of `compute_terms` as a dictionary from column to value (R,)."""
    return {column: value for term in terms for column, value in zip(term.columns, values[term.name], strict=True)}


def weighted(terms: Sequence[Term], values: Mapping[str, Tensor], numbers: Numbers) -> dict[str, Tensor]:
    """Return a dictionary from column to sign · weight · value of each term, first for pathway A, then for B.

    Args:
        values: dictionary from column to value (..., R).
    """
    found = {}
    for pathway in "AB":
        for term in terms:
            if pathway in term.pathways:
                share = numbers[term.name].weight[term.pathways.index(pathway)] * values[f"{term.name}_{pathway}"]
                found[f"{term.name}_{pathway}"] = -share if term.sign < 0 else share
    return found


def repeated(numbers: Numbers, times: int) -> dict[str, TermNumbers]:
    """Return the numbers with each run repeated `times` times in succession, once for each of its batches."""
    return {
        name: TermNumbers(
            of.weight.repeat_interleave(times, -1), [setting.repeat_interleave(times) for setting in of.settings]
        )
        for name, of in numbers.items()
    }


def cross_entropy(target: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cross-entropy (2, R), the softmax p (2, R, B, 9, 3), and the gradient (2, R, B, 9, 3).

    The gradient of the cross-entropy is taken with respect to the logits (2, R, B, 9, 3). The targets are one-hot
    operations (R, B, 9, 3). This function computes the softmax itself, because torch's softmax is slow over a dimension
    of three.
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
    """Return the KL term (2, R) with a lower bound, and its gradients with respect to μ and s, multiplied by `weight`.

    The lower bound is `free_bits` (R,) nats, and `weight` has shape (2, R). If `per` is `sample`, as in v5.5, the bound
    holds for the KL of every sample and dimension. If `per` is `dimension_mean`, as in the paper, the bound holds for
    the batch mean of each dimension. Below the bound the gradient is 0 (Kingma et al. 2016).
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
    """Return the mean output entropy S (R,) of probabilities (R, B, 9, 3), and its gradient (R, B, 9, 3).

    The gradient is taken with respect to the logits. S is at most 9 ln 3 = 9.8875.
    """
    mean = p.mean(1, keepdim=True)
    positive = mean + 1e-10
    log_mean = positive.log()
    value = (mean * log_mean).sum((1, 2, 3)).neg_()
    weighted = p * log_mean.addcdiv(mean, positive)
    return value, torch.addcmul(weighted, p, weighted.sum(-1, keepdim=True), value=-1).div_(-p.shape[1])


def repulsion(z: Tensor, sigma: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the repulsion (R,) of latents z (R, B, L), and its gradient with respect to z.

    The gradient is multiplied by `weight` (R,). Both are 0 for a batch of one operation. The diagonal of the kernel is
    set to 0. If it were added and later subtracted, the rounding of float32 would erase the much smaller sum of the
    other entries.
    """
    batch = z.shape[1]
    if batch < 2:
        return torch.zeros_like(sigma), torch.zeros_like(z)
    scaled = z / sigma[:, None, None]
    norms = scaled.square().sum(-1, keepdim=True)
    exponent = torch.baddbmm(norms.transpose(1, 2), scaled, scaled.transpose(1, 2), beta=-1, alpha=2).sub_(norms)
    # exp(-80) is 1e-35. Smaller values make no difference, and denormal numbers cost 50 times as much time.
    kernel = exponent.clamp_(-80, 0).exp_()
    kernel.diagonal(dim1=1, dim2=2).zero_()
    pairs = batch * (batch - 1)
    row = kernel.sum(-1, keepdim=True)
    towards = torch.baddbmm(row * scaled, kernel, scaled, alpha=-1)
    return row.sum((1, 2)).div_(pairs), towards.mul_((weight / sigma).mul_(-4 / pairs)[:, None, None])


FLOOR = 1e-12
"""Lower bound of an average probability before its logarithm is taken. A perfect generator has 5e-5."""


@dataclass(frozen=True)
class InformationWeights:
    """Weights of the information terms. Each tensor has shape (R,)."""

    noise: Tensor
    output_entropy: Tensor
    certainty: Tensor


@dataclass(frozen=True)
class InformationValues:
    """Values of the information terms over the prior latents of one step.

    Each tensor has shape (2, R).
    """

    noise: Tensor
    output_entropy: Tensor
    certainty: Tensor

    def weighted(self, w: InformationWeights) -> Tensor:
        """Return the contribution (2, R) of the information terms to L_A and L_B.

        Values and weights may have more dimensions in front of these.
        """
        return w.noise * self.noise - w.output_entropy * self.output_entropy + w.certainty * self.certainty


def information_loss(
    logits: Tensor, average: Tensor, decay: float, margin: float, w: InformationWeights
) -> tuple[InformationValues, Tensor]:
    """Return the information terms, and their gradient with respect to the logits (2, R, M, 27) of M prior latents.

    v5.5 does not have these terms. X is the output of a decoder, and Z is a latent from the prior.

        H(X|Z)   mean entropy of the output given its latent; this is the noise of the decoder, to be minimised
        H(X)     entropy of the moving average of the output distribution over steps, to be maximised
        C        Σ d²/2m over values and entries, mean over latents; d is the excess of log-odds over the margin m

    To the loss of each pathway, the terms add w_noise H(X|Z) - w_entropy H(X) + w_certainty C of its own decoder. The
    weights are the three tensors of `w`. If w_noise and w_entropy are equal, the first two terms are this weight times
    -I(X;Z), where I(X;Z) is the mutual information between output and latent.

    Large logits everywhere make H(X|Z) small, but then a posterior sample on the wrong side of a threshold costs
    hundreds of nats. So C penalises more confidence than correct decoding needs. The penalty is quadratic. With a
    linear penalty, a decoder that is linear in z stays linear and only gets smaller slopes. A penalty whose slope grows
    makes the decoder nonlinear.

    `average` (2, R, N) is the moving average p̂ of the output distribution over steps. It is updated in place. If the
    moving average of a run is all zeros, it becomes the distribution of this step.

    The returned gradient is the gradient of the sum above for the output distribution p of these M latents, but p̂
    replaces p inside the logarithm. The reason is that ∂H(X)/∂p = -(ln p + 1) depends on the frequency of each
    operation, and M latents are too few to estimate this frequency. Let ⟨·⟩ be the mean over x ~ p(x|z) for a given z.
    Then, for class c of entry k with logit ℓ_kc and probability p_kc,

        ∂/∂ℓ_kc ⟨ln p̂(X)⟩ = p_kc (⟨ln p̂(X) | X_k = c⟩ - ⟨ln p̂(X)⟩)

    p(x|z) is a product u v, where u is the probability of the first five entries and v that of the last four
    (`metrics.information`). So two products with the table ln p̂ (81, 243) replace a sum over all N operations for each
    latent.
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
    joint = torch.cat((of_u, of_v), 1).view_as(p)  # p_kc ⟨ln p̂(X) | X_k = c⟩
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
    """Return C (G,), and the gradient (G, 9, 3, M) of M C with respect to the logits of M latents.

    `shifted` (G, 9, 3, M) holds the logits minus the largest logit of the same entry.
    """
    beyond = (shifted + margin).clamp_(max=0)
    value = beyond.square().sum((1, 2)).mean(1).div_(2 * margin)
    slope = beyond.div_(margin)
    # The largest logit of an entry gets the negative sum of the slopes, because it was subtracted from the others.
    slope.scatter_(2, shifted.argmax(2, keepdim=True), -slope.sum(2, keepdim=True))
    return value, slope


@dataclass(frozen=True)
class Alignment:
    """The entropy alignment |H_A - H_B| of a batch, with a differentiable entropy H."""

    entropy: Tensor
    """(2, R): H_A and H_B."""
    z: Tensor
    """(2, R, B, L): gradient of |H_A - H_B| with respect to the latents, not yet multiplied by λ₃."""


def alignment(z: Tensor) -> Alignment:
    """Compute the entropy alignment of latents z (2, R, B, L) with `soft_entropy`."""
    entropy, slope = soft_entropy(z)
    towards = (entropy[0] - entropy[1]).sign()
    return Alignment(entropy, slope * torch.stack((towards, -towards))[:, :, None, None])


@functools.cache
def _members(entries: int, device: torch.device) -> Tensor:
    """Return a matrix (3 entries, 3^entries) of zeros and ones.

    Row 3 k + c belongs to class c of entry k. A column belongs to a joint value of all entries, in the order of
    `space`. The element is 1 if the joint value has class c at entry k.
    """
    values = space.operations(torch.arange(VALUES**entries))[:, :entries]
    return one_hot(values).flatten(1).t().contiguous().to(device)

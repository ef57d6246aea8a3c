"""Ensembles: several checkpoints of a run, or its two pathways, combined into one model.

An ensemble decodes an operation from the codes of all its members. Let p_c(v) be the probability that member c gives to
the value v of an entry. The following rules choose the value of an entry:

    vote          the value that most members choose; if several values have equally many votes, the one of these with
                  the largest summed probability
    mean          the value with the largest mean probability
    confidence    the value v with the largest Σ_c max_u p_c(u) · p_c(v), so that confident members count more

With the rule `best of`, an operation is right if any member decodes it exactly. This rule is an upper limit, not a
model.

As a generator, an ensemble draws a member c with probability w_c, and then a latent z. The output distribution is
p = Σ_c w_c p_c, where p_c is now the output distribution of member c. The latent of the ensemble is the pair (c, z).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ternary_lab.errors import InputError
from ternary_lab.metrics.information import Information, Sums


def vote(p: Tensor) -> Tensor:
    """Return the classes (n, 9) that most members choose, from probabilities p (C, n, 9, 3) of C members."""
    named = torch.nn.functional.one_hot(p.argmax(-1), p.shape[-1]).sum(0)
    # Half of the mean is less than one vote, so it decides only between equal numbers of votes.
    return (named + p.mean(0) / 2).argmax(-1)


def mean(p: Tensor) -> Tensor:
    """Return the classes (n, 9) with the largest mean probability, from probabilities p (C, n, 9, 3) of C members."""
    return p.mean(0).argmax(-1)


def confidence(p: Tensor) -> Tensor:
    """Return the classes (n, 9) with the largest sum of probabilities weighted by confidence.

    `p` (C, n, 9, 3) holds the probabilities of C members. A member's confidence in an entry is its largest probability.
    """
    return (p.amax(-1, keepdim=True) * p).sum(0).argmax(-1)


COMBINATIONS = {"vote": vote, "mean": mean, "confidence": confidence}
"""Rules that combine the probabilities of several members into classes, by name."""


def reconstruction(p: Tensor, operations: Tensor) -> dict[str, float]:
    """Return the percentage of operations (n, 9) that C members decode exactly, for each rule.

    `p` (C, n, 9, 3) holds the probabilities of the members. The keys are those of `COMBINATIONS`, `best member` and
    `best of`.
    """
    target = (operations + 1).long().to(p.device)
    found = {name: (rule(p) == target).all(1) for name, rule in COMBINATIONS.items()}
    each = (p.argmax(-1) == target).all(2)
    found["best of"] = each.any(0)
    shares = {name: 100 * right.float().mean().item() for name, right in found.items()}
    return shares | {"best member": 100 * each.float().mean(1).max().item()}


def mixture_weights(log_p: Tensor, iterations: int = 2000, tolerance: float = 1e-10) -> Tensor:
    """Return the weights w (C,), float64, that maximise Σ_x ln Σ_c w_c p_c(x).

    `log_p` (C, n) holds ln p_c(x) of n operations x. The problem is concave. Expectation maximisation (Dempster, Laird,
    Rubin 1977) starts from equal weights, and each step raises the likelihood. Raises InputError if an operation has
    probability 0 under every member.
    """
    log_p = log_p.double()
    if not bool(log_p.amax(0).isfinite().all()):
        raise InputError("log_p: an operation has no probability under any member: choose other members")
    log_w = torch.full((len(log_p),), -torch.log(torch.tensor(float(len(log_p)))).item(), dtype=torch.float64)
    last = -torch.inf
    for _ in range(iterations):
        joint = log_w[:, None].to(log_p.device) + log_p
        total = joint.logsumexp(0)
        log_w = (joint - total).logsumexp(1).cpu() - torch.log(torch.tensor(float(log_p.shape[1]), dtype=torch.float64))
        if float(total.mean()) - last < tolerance:
            break
        last = float(total.mean())
    return log_w.exp()


def mixture(members: Sequence[Sums], weights: Sequence[float] | Tensor | None = None) -> Information:
    """Return the output distribution and the information of a mixture of generators.

    `members` holds the sums over latents of each generator, for one run. The mixture's latent is the pair of a member c
    and a latent of this member. Each member has its own M_c latents, so the bias correction is
    ½ Σ_x Σ_c w_c² (E_c[p²] - p_c²) / (M_c p). Here E_c[p²] is the mean of p(x|z)² over the latents z of member c. The
    weights are equal if `weights` is None. Raises InputError unless there is one weight per member, no weight is
    negative and the weights sum to 1.
    """
    share = torch.full((len(members),), 1 / max(len(members), 1)) if weights is None else torch.as_tensor(weights)
    share = share.double()
    if len(share) != len(members) or not members or bool((share < 0).any()) or abs(float(share.sum()) - 1) > 1e-6:
        raise InputError(
            f"weights: give a weight for each of {len(members)} members, none negative, with the sum 1, "
            f"got {share.tolist()}"
        )
    w = [float(value) for value in share]

    def mixed(values: Sequence[Tensor]) -> Tensor:
        return torch.stack([c * value for c, value in zip(w, values, strict=True)]).sum(0)

    p = mixed([m.p / m.latents for m in members])
    argmax = mixed([m.counts / m.latents for m in members])
    spread, seen = torch.zeros_like(p), torch.zeros_like(p)
    for c, m in zip(w, members, strict=True):
        spread += c**2 * (m.p_squared / m.latents - (m.p / m.latents).square()) / m.latents
        frequency = m.counts / m.latents
        seen += c**2 * frequency * (1 - frequency) / m.latents
    raw, raw_argmax = (-torch.xlogy(q, q).sum(1) for q in (p, argmax))
    correction, argmax_correction = (
        torch.where(q > 0, variance / q, 0).sum(1) / 2 for q, variance in ((p, spread), (argmax, seen))
    )
    noise = mixed([m.noise / m.latents for m in members])
    return Information(
        sum(m.latents for m in members), p, raw, raw + correction, noise, raw_argmax + argmax_correction
    )

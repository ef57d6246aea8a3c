"""Size, spread and similarity of the codes of both pathways over a set of operations."""

from __future__ import annotations

import torch
from torch import Tensor

from ternary_lab import space
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.metrics.sobol import chunk_size
from ternary_lab.model import DualVAE, gaussian_kl, inject
from ternary_lab.space import one_hot


@torch.no_grad()
def all_codes(model: DualVAE) -> tuple[Tensor, Tensor]:
    """Return μ and log σ² (2, R, N, L) of all operations, in the order of their indices."""
    # The operations are encoded in pieces, so that the activations stay in the cache of a processor core.
    pieces = torch.split(space.operations().to(model.device), chunk_size(model.device))
    codes = [model.encode(piece.expand(model.runs, -1, -1)) for piece in pieces]
    return torch.cat([mu for mu, _ in codes], 2), torch.cat([log_variance for _, log_variance in codes], 2)


@with_fixed_arithmetic
def principal_directions(mu: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the directions (count, L) in which codes (n, L) have the largest variance (Pearson 1901).

    There are L directions if `count` is larger. The second tensor (count,) contains the standard deviations of the
    codes along these directions. The sign of a direction is arbitrary.
    """
    centred = mu.double() - mu.double().mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(mu))
    return vectors.T.flip(0)[:count].to(mu), values.clamp_min(0).sqrt().flip(0)[:count].to(mu)


def linear_cka(a: Tensor, b: Tensor) -> Tensor:
    """Return the linear centred kernel alignment (...), 0..1, of codes a (..., n, p) and b (..., n, q) of n operations.

    The alignment is 1 for codes that differ only by a rotation, a scale and a shift (Kornblith, Norouzi, Lee, Hinton
    2019). The alignment is nan if a code is constant.
    """
    a, b = (x.double() - x.double().mean(-2, keepdim=True) for x in (a, b))
    across = (a.mT @ b).square().sum((-2, -1))
    return across / ((a.mT @ a).square().sum((-2, -1)) * (b.mT @ b).square().sum((-2, -1))).sqrt()


def code_sizes(mu: Tensor, log_variance: Tensor) -> dict[str, Tensor]:
    """Return a dictionary from name to a measure (2, R) of posterior means and log-variances (2, R, B, L).

    | name | meaning |
    |---|---|
    | kl | mean over operations of KL(q ‖ N(0, I)), nats, without free bits |
    | norm | root mean square of ‖μ‖ over operations; √L for codes with the spread of the prior |
    | sigma | mean of σ over operations and dimensions; 1 for the prior |
    | variance_min | smallest of the L variances of μ over operations |
    """
    return {
        "kl": gaussian_kl(mu, log_variance).sum(-1).mean(-1),
        "norm": mu.square().sum(-1).mean(-1).sqrt(),
        "sigma": (0.5 * log_variance).exp().mean((-2, -1)),
        "variance_min": mu.var(2).amin(-1),
    }


@torch.no_grad()
def code_cross_entropy(model: DualVAE, mu: Tensor, x: Tensor, rho: float) -> Tensor:
    """Decode the codes μ (2, R, B, L) of operations x (R, B, 9) and return the cross-entropy (2, R) with x, in nats.

    Before decoding, a share ρ of each code is replaced by the code of the other pathway (`model.inject`).
    """
    log_p = torch.log_softmax(model.decode(inject(mu, rho)), -1)
    return -(log_p * one_hot(x)).sum((2, 3, 4)) / x.shape[1]

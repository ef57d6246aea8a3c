"""Reconstruction of operations, -ELBO and the importance-weighted bound.

All values are measured at β = 1 and τ = 1, without free bits, output entropy and repulsion. So epochs, runs and
configurations can be compared. Likelihoods are in nats. Over all N operations, the mean of -ln p(x) is at least
ln N = 9.8875. -ELBO and, in expectation, -IWAE are upper bounds of -ln p(x).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ternary_lab.metrics.latent_entropy import ACTIVE
from ternary_lab.model import DualVAE, gaussian_kl, inject
from ternary_lab.space import one_hot


@torch.no_grad()
def right_entries(model: DualVAE, mu: Tensor, x: Tensor, rho: Tensor | float = 0.0) -> Tensor:
    """Return whether argmax decodes each entry of operations x (R, B, 9) correctly: bool (2, R, B, 9).

    The operations are decoded from their codes μ (2, R, B, L). Before decoding, a share ρ of each code is replaced by
    the code of the other pathway (`model.inject`).
    """
    return model.decode(inject(mu, rho)).argmax(-1) - 1 == x


def percent_exact(right: Tensor) -> Tensor:
    """Return the percentage (...) of operations whose nine entries are all right, from `right_entries` (..., B, 9)."""
    return 100 * right.all(-1).float().mean(-1)


@torch.no_grad()
def negative_elbo(model: DualVAE, x: Tensor, noise: Tensor) -> Tensor:
    """Return the mean -ELBO (2, R) over operations x (R, B, 9) (Kingma & Welling 2014).

    `noise` (K, 2, R, B, L) holds K standard normal samples per operation and pathway.
    """
    mu, log_variance = model.encode(x)
    std = (0.5 * log_variance).exp()
    kl = gaussian_kl(mu, log_variance).sum(-1).mean(2)
    target = one_hot(x)
    ce = torch.zeros_like(kl)
    for eps in noise:
        ce -= (torch.log_softmax(model.decode(mu + std * eps), -1) * target).sum((2, 3, 4)) / x.shape[1]
    return ce / len(noise) + kl


class Coding(NamedTuple):
    """Cost of coding each operation x (R, B, 9). Every tensor has shape (2, R, B) and is in nats."""

    rate: Tensor
    """KL(q(z|x) ‖ p(z)) (Alemi et al. 2018)."""
    distortion: Tensor
    """E[-ln p(x|z)] under q(z|x)."""
    log_likelihood_bound: Tensor
    """IWAE_K; the expectation of IWAE_K is a lower bound of ln p(x) (Burda, Grosse, Salakhutdinov 2016)."""

    @property
    def neg_elbo(self) -> Tensor:
        """-ELBO = rate + distortion."""
        return self.rate + self.distortion

    @property
    def neg_iwae(self) -> Tensor:
        """-IWAE_K; for K = 1, an estimate of -ELBO from one sample."""
        return -self.log_likelihood_bound


@torch.no_grad()
def coding(model: DualVAE, x: Tensor, noise: Tensor) -> Coding:
    """Return the rate, the distortion and the importance-weighted bound of operations x (R, B, 9).

    `noise` (K, 2, R, B, L) contains K standard normal samples per operation and pathway. Each sample is decoded once.
    The mean of rate + distortion over operations is `negative_elbo`. Over all N operations, the mean distortion is at
    least ln N minus the mean rate.
    """
    mu, log_variance = model.encode(x)
    std = (0.5 * log_variance).exp()
    classes = (x + 1).long().expand(2, *x.shape).unsqueeze(-1)
    distortion, log_weights = torch.zeros(mu.shape[:3], dtype=mu.dtype, device=mu.device), []
    at_once = 1 if mu.device.type == "cpu" else 16  # the cache of a CPU core can hold the activations of one sample
    for some in torch.split(noise, at_once):
        z = mu + std * some
        # The samples of one operation are decoded as if they were further operations.
        logits = model.decode(z[0] if len(some) == 1 else z.permute(1, 2, 0, 3, 4).flatten(2, 3))
        logits = logits.view(2, len(x), len(some), -1, *logits.shape[3:]).permute(2, 0, 1, 3, 4, 5)
        log_p = torch.log_softmax(logits, -1).gather(-1, classes.expand(len(some), -1, -1, -1, -1, -1)).sum((4, 5))
        # The normalising constants of prior and posterior are equal and cancel.
        log_prior = -0.5 * z.square().sum(-1)
        log_posterior = -0.5 * (some.square() + log_variance).sum(-1)
        distortion -= log_p.sum(0)
        log_weights.append(log_p + log_prior - log_posterior)
    bound = torch.logsumexp(torch.cat(log_weights), 0) - math.log(len(noise))
    return Coding(gaussian_kl(mu, log_variance).sum(-1), distortion / len(noise), bound)


def active_units(mu: Tensor) -> Tensor:
    """Return the number (2, R) of active latent dimensions of codes μ (2, R, B, L).

    A dimension is active if Var(μ) > 0.01 (Burda et al. 2016).
    """
    return (mu.var(2) > ACTIVE).sum(-1)

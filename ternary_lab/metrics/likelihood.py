"""How well operations are coded: reconstruction, -ELBO and the importance-weighted bound.

Everything is measured at β = 1, τ = 1 and without free bits, output entropy and repulsion, so that epochs, runs and
configurations can be compared. Likelihoods are in nats; over all N operations no mean is below ln N = 9.8875.
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
    """Whether each entry of operations x (R, B, 9) is decoded correctly by argmax: bool (2, R, B, 9).

    They are decoded from their codes μ (2, R, B, L), injected by ρ.
    """
    return model.decode(inject(mu, rho)).argmax(-1) - 1 == x


def percent_exact(right: Tensor) -> Tensor:
    """Percent (...) of operations whose nine entries are all right, from `right_entries` (..., B, 9)."""
    return 100 * right.all(-1).float().mean(-1)


@torch.no_grad()
def negative_elbo(model: DualVAE, x: Tensor, noise: Tensor) -> Tensor:
    """-ELBO (2, R) of operations x (R, B, 9), mean over operations (Kingma & Welling 2014).

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
    """The cost of coding each operation x (R, B, 9): every tensor (2, R, B), in nats."""

    rate: Tensor
    """KL(q(z|x) ‖ p(z)) (Alemi et al. 2018)."""
    distortion: Tensor
    """E[-ln p(x|z)] under q(z|x)."""
    log_likelihood_bound: Tensor
    """IWAE_K, in expectation a lower bound of ln p(x) (Burda, Grosse, Salakhutdinov 2016)."""

    @property
    def neg_elbo(self) -> Tensor:
        """-ELBO = rate + distortion."""
        return self.rate + self.distortion

    @property
    def neg_iwae(self) -> Tensor:
        """-IWAE_K; for K = 1 a one-sample -ELBO."""
        return -self.log_likelihood_bound


@torch.no_grad()
def coding(model: DualVAE, x: Tensor, noise: Tensor) -> Coding:
    """Rate, distortion and importance-weighted bound of operations x (R, B, 9); each sample is decoded once.

    `noise` (K, 2, R, B, L) as in `negative_elbo`, which is the mean of rate + distortion. Over all N operations the
    mean distortion is at least ln N minus the mean rate.
    """
    mu, log_variance = model.encode(x)
    std = (0.5 * log_variance).exp()
    classes = (x + 1).long().expand(2, *x.shape).unsqueeze(-1)
    distortion, log_weights = torch.zeros(mu.shape[:3], dtype=mu.dtype, device=mu.device), []
    at_once = 1 if mu.device.type == "cpu" else 16  # a core's cache holds one sample's activations
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
    """Number (2, R) of latent dimensions with Var(μ) > 0.01 over codes μ (2, R, B, L) (Burda et al. 2016)."""
    return (mu.var(2) > ACTIVE).sum(-1)

"""How well operations are coded: reconstruction, -ELBO and the importance-weighted bound.

All at β = 1, τ = 1, ρ = 0, without free bits and without the terms S and rep, so that epochs, runs
and recipes can be compared. In nats; over all N no model is below ln N = 9.8875.
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
def exact_reconstruction(model: DualVAE, x: Tensor, rho: Tensor | float = 0.0) -> Tensor:
    """Percent (2, R) of operations x (R, B, 9) whose nine argmax entries are right from z = μ, injected by ρ."""
    return 100 * exactly_reconstructed(model, x, rho).float().mean(2)


@torch.no_grad()
def exactly_reconstructed(model: DualVAE, x: Tensor, rho: Tensor | float = 0.0) -> Tensor:
    """Which operations x (R, B, 9) have all nine argmax entries right from z = μ, injected by ρ: bool (2, R, B)."""
    return _right_entries(model, x, rho).all(-1)


@torch.no_grad()
def entry_reconstruction(model: DualVAE, x: Tensor, rho: Tensor | float = 0.0) -> Tensor:
    """Percent (2, R) of the entries of operations x (R, B, 9) that argmax gets right from z = μ, injected by ρ."""
    return 100 * _right_entries(model, x, rho).float().mean((2, 3))


def _right_entries(model: DualVAE, x: Tensor, rho: Tensor | float) -> Tensor:
    mu, _ = model.encode(x)
    return model.decode(inject(mu, rho)).argmax(-1) - 1 == x


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
    """What every operation x (R, B, 9) costs, each (2, R, B), nats."""

    rate: Tensor
    """KL(q(z|x) ‖ p(z))."""
    distortion: Tensor
    """E[-ln p(x|z)] under q(z|x)."""
    log_likelihood_bound: Tensor
    """IWAE_K, in expectation a lower bound of ln p(x)."""


@torch.no_grad()
def coding(model: DualVAE, x: Tensor, noise: Tensor) -> Coding:
    """Both costs of operations x (R, B, 9), and the importance-weighted bound, by one decoding of each sample.

    `noise` (K, 2, R, B, L) as in `negative_elbo`, which is the mean of rate + distortion.
    """
    mu, log_variance = model.encode(x)
    std = (0.5 * log_variance).exp()
    classes = (x + 1).long().expand(2, *x.shape).unsqueeze(-1)
    distortion, log_weights = torch.zeros(mu.shape[:3], dtype=mu.dtype, device=mu.device), []
    at_once = 1 if mu.device.type == "cpu" else 16  # a core's cache holds one sample's activations
    for some in torch.split(noise, at_once):
        z = mu + std * some
        # Samples of one operation as if they were of so many more operations.
        logits = model.decode(z[0] if len(some) == 1 else z.permute(1, 2, 0, 3, 4).flatten(2, 3))
        logits = logits.view(2, len(x), len(some), -1, *logits.shape[3:]).permute(2, 0, 1, 3, 4, 5)
        log_p = torch.log_softmax(logits, -1).gather(-1, classes.expand(len(some), -1, -1, -1, -1, -1)).sum((4, 5))
        # The normalising constants of prior and posterior are the same and cancel.
        log_prior = -0.5 * z.square().sum(-1)
        log_posterior = -0.5 * (some.square() + log_variance).sum(-1)
        distortion -= log_p.sum(0)
        log_weights.append(log_p + log_prior - log_posterior)
    bound = torch.logsumexp(torch.cat(log_weights), 0) - math.log(len(noise))
    return Coding(gaussian_kl(mu, log_variance).sum(-1), distortion / len(noise), bound)


def rate_distortion(model: DualVAE, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """KL and CE of every operation x (R, B, 9), each (2, R, B), nats: rate and distortion (Alemi et al. 2018).

    `noise` as in `coding`. Over all N operations, equally likely, no model has a mean distortion below ln N minus its
    mean rate.
    """
    found = coding(model, x, noise)
    return found.rate, found.distortion


def negative_iwae(model: DualVAE, x: Tensor, noise: Tensor) -> Tensor:
    """-IWAE_K (2, R) of operations x (R, B, 9), mean over operations (Burda, Grosse, Salakhutdinov 2016).

    `noise` (K, 2, R, B, L) as in `coding`; K = 1 is a one-sample -ELBO.
    """
    return -log_likelihood_bound(model, x, noise).mean(2)


def log_likelihood_bound(model: DualVAE, x: Tensor, noise: Tensor) -> Tensor:
    """IWAE_K, a lower bound of ln p(x) in expectation, of every operation x (R, B, 9): (2, R, B)."""
    return coding(model, x, noise).log_likelihood_bound


@torch.no_grad()
def active_units(model: DualVAE, x: Tensor) -> Tensor:
    """Number (2, R) of latent dimensions whose posterior mean varies over x: Var(μ) > 0.01 (Burda et al. 2016)."""
    mu, _ = model.encode(x)
    return (mu.var(2) > ACTIVE).sum(-1)

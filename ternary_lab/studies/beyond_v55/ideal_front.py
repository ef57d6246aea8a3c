"""The front between coverage and -ELBO of an ideal decoder with one latent dimension per entry.

An entry takes three equally frequent values. It has its own latent dimension with prior N(0, 1). Its code is N(0, σ₀²)
for the middle value and N(±m, σ₁²) for the other two values. Between neighbouring values the decoder's log-odds rise
from -a to b around a threshold ±t, with any slope s. If d is the distance beyond the threshold, and negative before the
threshold, the log-odds are

    odds(d) = b tanh(s d / b) for d > 0, a tanh(s d / a) below

A point of the front has the parameters that minimise -ELBO - w I(X;Z) for a weight w. I(X;Z) is the information of the
output about the latent. Trained models use nine such dimensions and leave the other dimensions at the prior. The front
is not a bound, because a code of another kind may be better. Integrals are computed as sums over a grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import pandas as pd
import torch
from torch import Tensor

from ternary_lab.model import gaussian_kl
from ternary_lab.space import ENTRIES, SIZE
from ternary_lab.studies.beyond_v55.set_by_hand import Parameters

GRID = 4001
LIMIT = 5.0
START = (1.15, 0.17, 0.3, 0.43, 30.0, 5.0, 8.0)
"""Initial values of m, σ₀, σ₁, t, s, a, b."""
PARAMETER_NAMES = tuple(field.name for field in fields(Parameters))
STEEP = 5000.0
"""A second initial value of s, for which the log-odds are a step on this grid.

There is a minimum near each initial value of s, with a barrier between the two minima.
"""
STEPS = 200


def ideal_front(weights: Sequence[float]) -> pd.DataFrame:
    """Return the front, with a row per weight w of the information.

    The columns are weight, informative_coverage (%), neg_elbo (nats) and decoder_noise (nats), and the parameters m,
    σ₀, σ₁, t, s, a and b of this module with the names of `set_by_hand.Parameters`.
    """
    starts = [torch.tensor((*START[:4], s, *START[5:]), dtype=torch.float64).log() for s in (START[4], STEEP)]
    rows, before = [], starts[0]
    for weight in weights:
        ends = [_best(start, weight) for start in (before, *starts)]
        before = min(ends, key=lambda end: float(_loss(_entry(end), weight)))
        bound, output, noise = _entry(before)
        rows.append({
            "weight": weight, "informative_coverage": 100 * math.exp(ENTRIES * float(output - noise)) / SIZE,
            "neg_elbo": ENTRIES * float(bound), "decoder_noise": ENTRIES * float(noise),
            **dict(zip(PARAMETER_NAMES, before.exp().tolist(), strict=True)),
        })
    return pd.DataFrame(rows)


def _best(start: Tensor, weight: float) -> Tensor:
    """Return the logarithms of the parameters at the minimum that is reached from `start`."""
    log_parameters = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([log_parameters], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = _loss(_entry(log_parameters), weight)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return log_parameters.detach()


def _loss(entry: tuple[Tensor, Tensor, Tensor], weight: float) -> Tensor:
    bound, output, noise = entry
    return bound - weight * (output - noise)


def _entry(log_parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return -ELBO, H(X) and H(X|Z) of one entry, in nats."""
    mean, inner, outer, threshold, slope, below, above = log_parameters.exp()
    z = torch.linspace(-LIMIT, LIMIT, GRID, dtype=torch.float64)
    logits = torch.stack([_odds(-z - threshold, slope, below, above), torch.zeros_like(z),
                          _odds(z - threshold, slope, below, above)])
    log_p = torch.log_softmax(logits, 0)
    middle = torch.softmax(-0.5 * (z / inner).square(), 0)
    side = torch.softmax(-0.5 * ((z - mean) / outer).square(), 0)
    distortion = -((middle * log_p[1]).sum() + 2 * (side * log_p[2]).sum()) / 3
    rate = (gaussian_kl(torch.zeros_like(mean), 2 * inner.log()) + 2 * gaussian_kl(mean, 2 * outer.log())) / 3
    prior = torch.softmax(-0.5 * z.square(), 0)
    p = log_p.exp()
    output = (prior * p).sum(1)
    return distortion + rate, -(output * output.log()).sum(), -(prior * p * log_p).sum()


def _odds(distance: Tensor, slope: Tensor, below: Tensor, above: Tensor) -> Tensor:
    rise = slope * distance
    return torch.where(distance > 0, above * torch.tanh(rise / above), below * torch.tanh(rise / below))

"""A model whose weights are set by hand, to see what v5.5's networks can represent.

Each entry x_k of an operation has its own latent dimension z_k. The other dimensions carry nothing.

    code      z_k ~ N(a x_k, σ²), with σ = s₀ if x_k = 0 and σ = s₁ otherwise; other dimensions are N(0, 1)
    logits    ℓ₋ = clip(-c (z_k + t), -l, h),   ℓ₀ = 0,   ℓ₊ = clip(c (z_k - t), -l, h)

The decoder is a threshold at -t and one at t. The prior N(0, 1) has a third of its mass between them if t = 0.431. Both
thresholds are steep, so almost every latent of the prior selects one operation. Away from a threshold the log-odds stay
at -l or h, so a posterior sample on the wrong side of a threshold costs a bounded number of nats.

The parameters of `PARAMETERS` were chosen by a search by hand: informative coverage should exceed 95 % at an -ELBO of
less than 13 nats. No training is involved, so the model has no seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ternary_lab import config
from ternary_lab.errors import InputError
from ternary_lab.model import Architecture, TernaryVAE
from ternary_lab.space import ENTRIES, VALUES

LIFT = 8.0
"""Added to a latent before the first ReLU of a decoder. The layer is linear for all latents above -8."""
KINKS = 4
"""Hidden units per entry in a decoder: each clipped log-odds is a difference of two ReLUs."""


@dataclass(frozen=True)
class Parameters:
    """Parameters of the code and of the decoder, in the notation of this module. All are positive."""

    mean: float
    """a: distance of the codes of -1 and +1 from 0."""
    std_zero: float
    """s₀: standard deviation of the code of a 0."""
    std_one: float
    """s₁: standard deviation of the codes of -1 and +1."""
    threshold: float
    """t: latent at which two neighbouring values are equally probable."""
    slope: float
    """c: slope of the log-odds at a threshold, in nats per unit of the latent."""
    below: float
    """l: the lowest log-odds are -l, in nats."""
    above: float
    """h: the highest log-odds, in nats."""


PARAMETERS = Parameters(mean=1.170, std_zero=0.181, std_one=0.365, threshold=0.429, slope=892.0, below=8.92, above=8.92)


def set_by_hand(settings: config.Model | None = None, parameters: Parameters = PARAMETERS) -> TernaryVAE:
    """Return a model whose two pathways have the code and the decoder of this module, in the given networks.

    Args:
        settings: sizes of the networks, v5.5's by default. Unused weights are 0, and no weight is added.
        parameters: parameters of the code and of the decoder.

    Raises InputError if a network is too narrow: an encoder needs widths of at least 18, decoder A two hidden layers of
    at least 9 and 36 units, decoder B a block and 45 units.
    """
    settings = settings if settings is not None else config.Model()
    _check(settings)
    architecture = Architecture(settings)
    blocks = architecture.empty()
    weights = architecture.named(blocks)
    for pathway in ("A", "B"):
        _set_encoder(weights, f"encoder_{pathway}", len(settings.encoder_hidden), parameters)
    _set_decoder_a(weights, len(settings.decoder_A_hidden), parameters)
    _set_decoder_b(weights, parameters)
    return TernaryVAE(settings, blocks)


def _check(settings: config.Model) -> None:
    first, second = (*settings.decoder_A_hidden, 0)[:2]
    for name, value, least in (
        ("latent_dim", settings.latent_dim, ENTRIES),
        ("encoder_hidden", min(settings.encoder_hidden), 2 * ENTRIES),
        ("decoder_A_hidden", first, ENTRIES),
        ("decoder_A_hidden", min((second, *settings.decoder_A_hidden[2:])), KINKS * ENTRIES),
        ("decoder_B_hidden", settings.decoder_B_hidden, (KINKS + 1) * ENTRIES),
        ("decoder_B_blocks", settings.decoder_B_blocks, 1),
    ):
        if value < least:
            raise InputError(f"{name}: weights set by hand need at least {least}, got {value}")


def _set_encoder(weights: dict[str, Tensor], name: str, hidden: int, parameters: Parameters) -> None:
    """Set μ = a x and ln σ² of the first nine dimensions. Unit k is relu(x_k), and unit 9 + k is relu(-x_k)."""
    first = weights[f"{name}.encoder.0.weight"]
    mean, spread = weights[f"{name}.fc_mu.weight"], weights[f"{name}.fc_logvar.weight"]
    for k in range(ENTRIES):
        first[k, k], first[ENTRIES + k, k] = 1, -1
        mean[k, k], mean[k, ENTRIES + k] = parameters.mean, -parameters.mean
        spread[k, [k, ENTRIES + k]] = 2 * math.log(parameters.std_one / parameters.std_zero)
    for layer in range(1, hidden):
        weights[f"{name}.encoder.{2 * layer}.weight"].diagonal()[: 2 * ENTRIES] = 1
    weights[f"{name}.fc_logvar.bias"][:ENTRIES] = 2 * math.log(parameters.std_zero)


def _set_decoder_a(weights: dict[str, Tensor], hidden: int, parameters: Parameters) -> None:
    _set_lift(weights, "decoder_A.decoder.0")
    _set_kinks(weights, "decoder_A.decoder.2", 0, parameters)
    for layer in range(2, hidden):
        weights[f"decoder_A.decoder.{2 * layer}.weight"].diagonal()[: KINKS * ENTRIES] = 1
    _set_logits(weights, f"decoder_A.decoder.{2 * hidden}", 0, parameters)


def _set_decoder_b(weights: dict[str, Tensor], parameters: Parameters) -> None:
    """Set decoder B. Its first block adds the kinks to units 9 to 44, which are 0 before; the other blocks add 0."""
    _set_lift(weights, "decoder_B.fc_in")
    _set_kinks(weights, "decoder_B.residual1.block.0", 0, parameters)
    added = weights["decoder_B.residual1.block.2.weight"]
    added[ENTRIES:, :].diagonal()[: KINKS * ENTRIES] = 1
    _set_logits(weights, "decoder_B.fc_out", ENTRIES, parameters)


def _set_lift(weights: dict[str, Tensor], layer: str) -> None:
    """Set unit k to relu(z_k + 8)."""
    weights[f"{layer}.weight"].diagonal()[:ENTRIES] = 1
    weights[f"{layer}.bias"][:ENTRIES] = LIFT


def _set_kinks(weights: dict[str, Tensor], layer: str, start: int, parameters: Parameters) -> None:
    """Set the four units of entry k to relu(z_k - q), where q are the ends of the two rises of the log-odds."""
    t, low, high = parameters.threshold, parameters.below / parameters.slope, parameters.above / parameters.slope
    for k in range(ENTRIES):
        units = slice(start + KINKS * k, start + KINKS * (k + 1))
        weights[f"{layer}.weight"][units, k] = 1
        for unit, kink in zip(range(units.start, units.stop), (-t - high, -t + low, t - low, t + high), strict=True):
            weights[f"{layer}.bias"][unit] = -LIFT - kink


def _set_logits(weights: dict[str, Tensor], layer: str, start: int, parameters: Parameters) -> None:
    """Set the logits from the kinks, which begin at unit `start`: clip(y, -l, h) = relu(y + l) - relu(y - h) - l."""
    weight, bias, slope = weights[f"{layer}.weight"], weights[f"{layer}.bias"], parameters.slope
    for k in range(ENTRIES):
        kinks = start + KINKS * k
        minus, plus = VALUES * k, VALUES * k + 2
        weight[minus, kinks], weight[minus, kinks + 1] = -slope, slope
        weight[plus, kinks + 2], weight[plus, kinks + 3] = slope, -slope
        bias[minus], bias[plus] = parameters.above, -parameters.below

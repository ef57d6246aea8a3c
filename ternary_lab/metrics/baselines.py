"""Baseline models that know nothing about operations and still score well in some metric.

    untrained     a network with its initial weights: sampled coverage and H(X) near their best values
    scaled        a trained model with multiplied logits: more informative coverage without new knowledge
    random_map    a random sharp linear decoder: high effective coverage
    collapsed     an empty code and a uniform decoder: -ELBO near ln N, perfect sampled coverage
"""

from __future__ import annotations

import torch

from ternary_lab import config
from ternary_lab.backend.random_streams import stream
from ternary_lab.errors import InputError
from ternary_lab.model import Architecture, TernaryVAE


def untrained(seed: int = 0, settings: config.Model | None = None) -> TernaryVAE:
    """A network with its initial weights; by default v5.5's."""
    settings = settings if settings is not None else config.Model()
    return TernaryVAE(settings, Architecture(settings).initialise(seed))


def scaled(model: TernaryVAE, factor: float) -> TernaryVAE:
    """A copy of the model with the logits of both decoders multiplied by a factor.

    Raises InputError for a factor that is not positive and finite.
    """
    if not 0 < factor < float("inf"):
        raise InputError(f"factor must be a positive number, got {factor!r}")
    blocks, architecture = model.core.blocks.one(0).copy(), model.core.architecture
    for network, block in ((architecture.decoder_A, blocks.decoder_A), (architecture.decoder_B, blocks.decoder_B)):
        for values in network.views(block)[-1]:
            values.mul_(factor)
    return TernaryVAE(model.settings, blocks)


def random_map(seed: int = 0, scale: float = 1000.0) -> TernaryVAE:
    """A model whose decoder A is a random linear map to logits so large that each entry is almost certain.

    The encoders are untrained: a code says nothing about its operation. Decoder B is not the map.
    """
    latent = config.Model().latent_dim
    settings = config.Model(decoder_A_hidden=(2 * latent,))
    architecture = Architecture(settings)
    blocks = architecture.initialise(seed)
    (first, first_bias), (last, last_bias) = architecture.decoder_A.views(blocks.decoder_A)
    # relu(z) - relu(-z) = z makes the two layers one linear map.
    identity = torch.eye(latent)
    first[0] = torch.cat((identity, -identity))
    weight = torch.empty(last.shape[1], latent).normal_(generator=stream(seed, "sample", part="map")).mul_(scale)
    last[0] = torch.cat((weight, -weight), 1)
    first_bias.zero_()
    last_bias.zero_()
    return TernaryVAE(settings, blocks)


def collapsed(settings: config.Model | None = None) -> TernaryVAE:
    """A model with all weights 0: the posterior is the prior and every value of an entry has probability 1/3."""
    settings = settings if settings is not None else config.Model()
    return TernaryVAE(settings, Architecture(settings).empty())


def uniform(size: int) -> torch.Tensor:
    """The uniform distribution (size,) in float64."""
    return torch.full((size,), 1 / size, dtype=torch.float64)

"""Models that have learnt nothing, or gained nothing, and still score: what each metric can be gamed with.

    untrained          noise: sampled coverage and H(X) near their best
    scaled             a trained model with its logits multiplied: informative coverage and certainty, no new knowledge
    random_map         a random sharp linear decoder: effective coverage
    collapsed          the empty code and the uniform decoder: -ELBO near ln N, sampled coverage perfect
"""

from __future__ import annotations

import torch

from ternary_lab import config
from ternary_lab.backend.random_streams import stream
from ternary_lab.errors import InputError
from ternary_lab.model import Architecture, TernaryVAE


def untrained(seed: int = 0, settings: config.Model | None = None) -> TernaryVAE:
    """A network as it is initialised, v5.5's if no other is given."""
    settings = settings if settings is not None else config.Model()
    return TernaryVAE(settings, Architecture(settings).initialise(seed))


def scaled(model: TernaryVAE, factor: float) -> TernaryVAE:
    """The model with the logits of both decoders multiplied by a positive factor. Raises InputError for another."""
    if not 0 < factor < float("inf"):
        raise InputError(f"factor must be a positive number, got {factor!r}")
    blocks, architecture = model.core.blocks.one(0).copy(), model.core.architecture
    for network, block in ((architecture.decoder_A, blocks.decoder_A), (architecture.decoder_B, blocks.decoder_B)):
        for values in network.views(block)[-1]:
            values.mul_(factor)
    return TernaryVAE(model.settings, blocks)


def random_map(seed: int = 0, scale: float = 1000.0) -> TernaryVAE:
    """A decoder that maps a latent linearly, by random weights, to logits so large that each entry is all but certain.

    The encoders are untrained, so that a code says nothing about its operation. Of the decoders only A is the map.
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
    """Posterior = prior for every operation, every entry a third: all weights 0. The uniform sampler, too."""
    settings = settings if settings is not None else config.Model()
    return TernaryVAE(settings, Architecture(settings).empty())


def uniform(size: int) -> torch.Tensor:
    """The uniform distribution (size,) in float64."""
    return torch.full((size,), 1 / size, dtype=torch.float64)

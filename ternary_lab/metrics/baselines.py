"""Baseline models that score well in some metric without knowledge about operations.

    untrained     has its initial weights. Sampled coverage and H(X) are near their best values.
    scaled        is a trained model with multiplied logits. Informative coverage rises without new knowledge.
    random_map    decodes by a random linear map with large logits. Effective coverage is high.
    collapsed     has an empty code and a uniform decoder. -ELBO is near ln N, and sampled coverage is perfect.
"""

from __future__ import annotations

import torch

from ternary_lab import config
from ternary_lab.arguments import LARGEST_SEED, whole_number
from ternary_lab.backend.random_streams import stream
from ternary_lab.errors import InputError
from ternary_lab.model import Architecture, TernaryVAE
from ternary_lab.space import SIZE


def untrained(seed: int = 0, settings: config.Model | None = None) -> TernaryVAE:
    """Return a network with its initial weights. By default the network is that of v5.5.

    Raises InputError if `seed` is not a whole number in 0..2^32 - 1.
    """
    seed = whole_number(seed, "seed", 0, LARGEST_SEED)
    settings = settings if settings is not None else config.Model()
    return TernaryVAE(settings, Architecture(settings).initialise(seed))


def scaled(model: TernaryVAE, factor: float) -> TernaryVAE:
    """Return a copy of the model in which the logits of both decoders are multiplied by a factor.

    Raises InputError if the factor is not positive and finite.
    """
    if not 0 < factor < float("inf"):
        raise InputError(f"factor must be a positive number, got {factor!r}")
    blocks, architecture = model.core.blocks.one(0).copy(), model.core.architecture
    for network, block in ((architecture.decoder_A, blocks.decoder_A), (architecture.decoder_B, blocks.decoder_B)):
        for values in network.views(block)[-1]:
            values.mul_(factor)
    return TernaryVAE(model.settings, blocks)


def random_map(seed: int = 0, scale: float = 1000.0) -> TernaryVAE:
    """Return a model whose decoder A is a random linear map to logits. Large logits make each entry almost certain.

    The encoders are untrained, so decoder A does not reproduce the encoded operation. Decoder B is not replaced by the
    random map; decoder B keeps its initial weights. Raises InputError if `seed` is not a whole number in 0..2^32 - 1.
    """
    seed = whole_number(seed, "seed", 0, LARGEST_SEED)
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
    """Return a model whose weights are all 0.

    The posterior equals the prior, and each of the three values of an entry has probability 1/3.
    """
    settings = settings if settings is not None else config.Model()
    return TernaryVAE(settings, Architecture(settings).empty())


def uniform(size: int) -> torch.Tensor:
    """Return the uniform distribution over `size` outcomes, float64 (size,).

    Raises InputError if `size` is not a whole number of at least 1.
    """
    size = whole_number(size, "size", 1)
    return torch.full((size,), 1 / size, dtype=torch.float64)


def uniform_draws(n: int, seed: int = 0) -> torch.Tensor:
    """Return the indices of n operations that are drawn uniformly, int64 (n,).

    Raises InputError if `n` is not a whole number of at least 1, or `seed` is not a whole number in 0..2^32 - 1.
    """
    n, seed = whole_number(n, "n", 1), whole_number(seed, "seed", 0, LARGEST_SEED)
    return torch.randint(SIZE, (n,), generator=stream(seed, "sample", part="uniform"), device="cpu")

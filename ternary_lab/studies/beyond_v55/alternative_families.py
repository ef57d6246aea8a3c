"""Families of simpler generators, each with about as many parameters as v5.5.

A family is a kind of model. CE is the cross-entropy of the entries, and KL is the divergence of the code from the
prior. x_k is entry k of an operation x, and x_<k are the entries before entry k.

    beta_vae_A, beta_vae_B   one Gaussian VAE with decoder A's or B's architecture and a larger encoder; the loss is
                             CE + β KL (Kingma & Welling 2014; β: Higgins et al. 2017)
    categorical_vae          nine latents of three classes, relaxed by Gumbel-softmax (Jang, Gu & Poole 2017; Maddison,
                             Mnih & Teh 2017); the loss is CE + β KL; metrics are computed over all 19,683 codes
    autoregressive           p(x) = Π_k p(x_k | x_<k), with one network for all k (Larochelle & Murray 2011); metrics
                             are computed over all 19,683 operations

Every family is measured by the same metrics. A metric is None where it has no meaning. The metrics are most fields of
`evaluate.PathwayEvaluation` and these:

    neg_log_p                                 -ln p(x) from the output distribution, mean over the test split
    reconstruction_{train,validation,test}    percent of operations that are reconstructed exactly

`neg_iwae` is exact for categorical_vae and autoregressive. For the Gaussian VAEs it is a bound from 64 samples.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache

import torch
from torch import Tensor

from ternary_lab import config, space, splits
from ternary_lab.backend.random_streams import stream
from ternary_lab.metrics import coverage
from ternary_lab.metrics.evaluate import SAMPLES, Evaluation, evaluate
from ternary_lab.metrics.information import Information, decoder_sums
from ternary_lab.metrics.latent_entropy import ACTIVE
from ternary_lab.model import LOGITS, Architecture, Pathway, TernaryVAE, gaussian_kl
from ternary_lab.networks import Blocks, Bound, Layer, Network
from ternary_lab.space import one_hot

BETAS = (0.1, 0.3, 1.0)
CODES = space.ENTRIES * space.VALUES
"""Width of nine one-hot latents."""
COOLEST = 0.3
"""Gumbel-softmax temperature at the end of training. The temperature falls linearly from 1."""
PARTS = ("train", "validation", "test")


class Family(ABC):
    """A kind of model.

    Each network has a block of weights. The rows of the block are runs that are trained side by side.
    """

    networks: tuple[Network, ...]
    betas: tuple[float | None, ...]

    @property
    def parameters(self) -> int:
        return sum(network.size for network in self.networks)

    @abstractmethod
    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Return the random numbers (n, width) for the losses of n operations."""

    @abstractmethod
    def loss(self, blocks: Sequence[Tensor], x: Tensor, noise: Tensor, beta: Tensor, progress: float) -> Tensor:
        """Return the losses (R,) of operations x (R, B, 9) with noise (R, B, width), for R runs.

        `beta` (R,) contains the β of each run. `progress` rises from 0 to 1 in training.
        """

    @abstractmethod
    def measure(self, blocks: Sequence[Tensor], seed: int, latents: int) -> dict[str, float | None]:
        """Return a dictionary of the metrics of the first run in the blocks."""


class BetaVAE(Family):
    """A Gaussian VAE with one of v5.5's decoders."""

    betas = BETAS

    def __init__(self, pathway: Pathway) -> None:
        self.pathway = pathway
        self.settings = config.Model(encoder_hidden=_encoder_widths(pathway))
        architecture = Architecture(self.settings)
        self.networks = (architecture.encoder, {"A": architecture.decoder_A, "B": architecture.decoder_B}[pathway])

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.empty(n, self.settings.latent_dim, device=generator.device).normal_(generator=generator)

    def loss(self, blocks: Sequence[Tensor], x: Tensor, noise: Tensor, beta: Tensor, progress: float) -> Tensor:
        encoder, decoder = self.networks
        mu, log_variance = encoder(blocks[0], x).chunk(2, -1)
        logits = decoder(blocks[1], mu + (0.5 * log_variance).exp() * noise)
        return _cross_entropy(logits, x) + beta * gaussian_kl(mu, log_variance).sum(-1).mean(1)

    def model(self, blocks: Sequence[Tensor]) -> TernaryVAE:
        """Return the first run as one pathway of a two-pathway model, whose other decoder has weights 0."""
        encoder, decoder = (block.detach()[:1] for block in blocks)
        empty = Architecture(self.settings).empty()
        decoders = {"A": empty.decoder_A.to(decoder), "B": empty.decoder_B.to(decoder), self.pathway: decoder}
        return TernaryVAE(
            self.settings,
            Blocks(torch.stack((encoder, encoder)), decoders["A"], decoders["B"], empty.statenet.to(decoder)),
        )

    def measure(self, blocks: Sequence[Tensor], seed: int, latents: int) -> dict[str, float | None]:
        return pathway_metrics(evaluate(self.model(blocks), latents=latents, seed=seed), self.pathway)


class CategoricalVAE(Family):
    """A VAE with nine latents of three classes, a uniform prior and a decoder like B."""

    betas = BETAS

    def __init__(self) -> None:
        settings = config.Model(latent_dim=CODES)
        decoder = Architecture(settings).decoder_B
        target = Architecture(config.Model()).parameters - decoder.size
        widths = _nearest_widths(target, lambda widths: _encoder(widths, CODES))
        self.networks = (_encoder(widths, CODES), decoder)

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.empty(n, CODES, device=generator.device).uniform_(1e-7, 1 - 1e-7, generator=generator)

    def loss(self, blocks: Sequence[Tensor], x: Tensor, noise: Tensor, beta: Tensor, progress: float) -> Tensor:
        encoder, decoder = self.networks
        log_q = _entries(encoder(blocks[0], x)).log_softmax(-1)
        gumbel = -(-_entries(noise).log()).log()
        temperature = 1 + progress * (COOLEST - 1)
        relaxed = torch.softmax((log_q + gumbel) / temperature, -1)
        kl = (log_q.exp() * (log_q + math.log(space.VALUES))).sum((2, 3)).mean(1)
        return _cross_entropy(decoder(blocks[1], relaxed.flatten(2)), x) + beta * kl

    @torch.no_grad()
    def measure(self, blocks: Sequence[Tensor], seed: int, latents: int) -> dict[str, float | None]:
        """Return the metrics, computed over all 19,683 codes. Only the sampled coverage is an estimate from draws."""
        encoder, decoder = self.networks
        bound, device = Bound(decoder, blocks[1][:1]), blocks[1].device

        def decode(z: Tensor) -> Tensor:
            return bound.infer(z).view(len(z), space.ENTRIES, space.VALUES, z.shape[2])

        tables = space.operations().to(device)
        codes = one_hot(tables).flatten(1)
        info = decoder_sums(decode, codes.t().unsqueeze(0)).information(exact=True)
        log_q = _entries(encoder(blocks[0][:1], tables.unsqueeze(0))).log_softmax(-1)[0]
        log_p = torch.log_softmax(decode(codes.t().unsqueeze(0))[0], 1).permute(2, 0, 1)
        test = _split().test.to(device)
        likelihood = codes[test] @ log_p.flatten(1).t()  # ln p(x|z): (test, codes)
        posterior = (log_q[test].flatten(1) @ codes.t()).exp()  # q(z|x): (test, codes)
        distortion = -(posterior * likelihood).sum(1)
        rate = (log_q.exp() * (log_q + math.log(space.VALUES))).sum((1, 2))[test]
        best = space.index_of(log_q.argmax(-1).float() - 1)
        decoded = log_p[best].argmax(-1) - 1
        generator = stream(seed, "coverage")
        drawn = torch.randint(space.SIZE, (SAMPLES,), generator=generator).to(device)
        uniform = torch.empty(1, space.ENTRIES, SAMPLES).uniform_(generator=generator).to(device)
        seen = coverage.decoded_operations(decode, codes[drawn].t().unsqueeze(0), uniform, "categorical")
        return _output_metrics(info, int(seen.sum())) | _reconstruction((decoded == tables).all(1)) | {
            "neg_elbo": float((distortion + rate).mean()),
            "neg_iwae": _neg_log_p(info.p[0]),
            "active_units": float((log_q.exp().var(0).sum(-1) > ACTIVE).sum()),
        }


class Autoregressive(Family):
    """A model that predicts each entry k from the entries before k.

    The inputs of the network are these entries one-hot, zeros for all other entries, and k one-hot.
    """

    betas = (None,)

    def __init__(self) -> None:
        target = Architecture(config.Model()).parameters
        self.networks = (min(map(self._network, range(16, 1024)), key=lambda network: abs(network.size - target)),)

    @staticmethod
    def _network(width: int) -> Network:
        sizes = (CODES + space.ENTRIES, width, width, width)
        hidden = [Layer((f"hidden.{i}",), sizes[i], sizes[i + 1], relu=True) for i in range(3)]
        return Network((*hidden, Layer(("logits",), width, space.VALUES)))

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.empty(n, 0, device=generator.device)

    def _log_p(self, block: Tensor, x: Tensor) -> Tensor:
        """Return ln p(x_k = v | x_<k), of shape (R, B, 9, 3), for operations x (R, B, 9)."""
        runs, batch, entries = x.shape
        known = torch.ones(entries, entries, device=x.device).tril(-1).repeat_interleave(space.VALUES, 1)
        seen = one_hot(x).flatten(2).unsqueeze(2) * known
        asked = torch.eye(entries, device=x.device).expand(runs, batch, -1, -1)
        inputs = torch.cat((seen, asked), -1).flatten(1, 2)
        return self.networks[0](block, inputs).view(runs, batch, entries, space.VALUES).log_softmax(-1)

    def loss(self, blocks: Sequence[Tensor], x: Tensor, noise: Tensor, beta: Tensor, progress: float) -> Tensor:
        return -(self._log_p(blocks[0], x) * one_hot(x)).sum((2, 3)).mean(1)

    @torch.no_grad()
    def measure(self, blocks: Sequence[Tensor], seed: int, latents: int) -> dict[str, float | None]:
        """Return the metrics, computed from p(x), which is a product of nine outputs.

        The model has no latent. Metrics that need a latent are therefore None.
        """
        tables = space.operations().to(blocks[0].device)
        log_p = (self._log_p(blocks[0][:1], tables.unsqueeze(0))[0] * one_hot(tables)).sum((1, 2)).double()
        p = log_p.exp()
        # The draws are made on the CPU. On a GPU, the cumulative sums for the draws vary in their last digits.
        drawn = torch.multinomial(p.cpu(), SAMPLES, replacement=True, generator=stream(seed, "coverage"))
        output = Information(0, p.unsqueeze(0), *[torch.full((1,), float("nan"))] * 4)
        entropy = float(-(p * log_p).sum())
        values = _output_metrics(output, len(torch.unique(drawn)))
        values |= dict.fromkeys(
            ("decoder_noise", "information", "informative_coverage", "effective_coverage", "active_units")
        )
        values |= {f"reconstruction_{part}": None for part in PARTS}
        exact = _neg_log_p(p)
        return values | {"output_entropy": entropy, "neg_elbo": exact, "neg_iwae": exact}


@cache
def families() -> dict[str, Family]:
    """Return all families of alternative models, by name."""
    return {
        "beta_vae_A": BetaVAE("A"), "beta_vae_B": BetaVAE("B"), "categorical_vae": CategoricalVAE(),
        "autoregressive": Autoregressive(),
    }


def pathway_metrics(evaluation: Evaluation, pathway: Pathway) -> dict[str, float | None]:
    """Return a dictionary of the metrics of one pathway of an evaluated model."""
    values: dict[str, float | None] = asdict(evaluation.A if pathway == "A" else evaluation.B)
    for name in ("unique_operations", "uniform_baseline", "expected_coverage", "informative_coverage_raw"):
        del values[name]
    shares, p = evaluation.reconstruction[pathway], evaluation.output[pathway]
    values |= {f"reconstruction_{part}": getattr(shares, part) for part in PARTS}
    return values | {"neg_log_p": _neg_log_p(p)} | coverage.rare_figures(p)


def _output_metrics(info: Information, unique: int) -> dict[str, float | None]:
    p, figures = info.p[0], info.figures()
    del figures["informative_coverage_raw"]
    return {
        "sampled_coverage": 100 * unique / space.SIZE, **figures, **coverage.rare_figures(p),
        "neg_log_p": _neg_log_p(p),
    }


def _split() -> space.Split:
    """Return the split that all families use."""
    return splits.split(config.Data())


def _reconstruction(right: Tensor) -> dict[str, float | None]:
    whole = _split()
    return {f"reconstruction_{part}": 100 * right[getattr(whole, part)].float().mean().item() for part in PARTS}


def _neg_log_p(p: Tensor) -> float:
    return float(-p[_split().test].log().mean())


def _cross_entropy(logits: Tensor, x: Tensor) -> Tensor:
    """Return the cross-entropy (R,) of logits (R, B, 27) for operations x (R, B, 9)."""
    return -(_entries(logits).log_softmax(-1) * one_hot(x)).sum((2, 3)).mean(1)


def _entries(flat: Tensor) -> Tensor:
    """Return a tensor (R, B, 27) in the shape (R, B, 9, 3)."""
    return flat.view(*flat.shape[:-1], space.ENTRIES, space.VALUES)


def _encoder(widths: tuple[int, ...], outputs: int) -> Network:
    sizes = (space.ENTRIES, *widths)
    hidden = [Layer((f"encoder.{i}",), sizes[i], sizes[i + 1], relu=True) for i in range(len(widths))]
    return Network((*hidden, Layer(("code",), sizes[-1], outputs)))


def _encoder_widths(pathway: Pathway) -> tuple[int, ...]:
    """Return widths of an encoder that, together with its decoder, has about as many parameters as v5.5.

    The widths have v5.5's proportions 4 : 2 : 1.
    """
    architecture = Architecture(config.Model())
    decoder = {"A": architecture.decoder_A, "B": architecture.decoder_B}[pathway]
    heads = 2 * architecture.settings.latent_dim
    return _nearest_widths(architecture.parameters - decoder.size, lambda widths: _encoder(widths, heads))


def _nearest_widths(target: int, network: Callable[[tuple[int, ...]], Network]) -> tuple[int, ...]:
    candidates = [(4 * k, 2 * k, k) for k in range(8, 256)]
    return min(candidates, key=lambda widths: abs(network(widths).size - target))


assert LOGITS == CODES

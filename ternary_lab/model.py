"""The dual-pathway VAE of v5.5 for several runs at once. Every weight has a leading run axis.

The following notation also holds in `losses` and `training`:

    R   number of runs             x     operations        (R, B, 9)      entries -1, 0, +1
    B   operations of a batch      μ, s  posterior mean and log-variance  (2, R, B, L)
    L   latent dimensions          z     latents           (2, R, B, L)
    2   pathways, A then B         ℓ     logits            (2, R, B, 9, 3)

    z  = μ + τ σ ε                              posterior sample (z = μ in evaluation)
    z̃_A = (1-ρ) z_A + ρ sg(z_B)                 cross-injection; sg stops the gradient; for z̃_B exchange A and B
    ℓ  = decoder(z̃)                             each pathway has its own decoder

The weights are stored in four contiguous tensors, which are called blocks. So an optimiser step, a norm or a copy is
one operation per block. Both encoders have the same shape, so one batched product computes a layer of both.

    encoders (2, R, ·)    decoder_A (R, ·)    decoder_B (R, ·)    statenet (R, ·)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from ternary_lab import config, space
from ternary_lab.arguments import fraction, whole_number
from ternary_lab.backend.devices import resolve_device
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.errors import CheckpointError, InputError, first_names
from ternary_lab.networks import Blocks, Bound, Layer, Network

Pathway = Literal["A", "B"]
PATHWAYS: tuple[Pathway, Pathway] = ("A", "B")
LOGITS = space.ENTRIES * space.VALUES


class Architecture:
    """The networks of a `config.Model`, with their shapes and their names in a checkpoint."""

    def __init__(self, settings: config.Model) -> None:
        self.settings = settings
        latent = settings.latent_dim
        widths = (space.ENTRIES, *settings.encoder_hidden)
        encoder = [
            Layer((f"encoder.{2 * i}",), widths[i], widths[i + 1], relu=True) for i in range(len(widths) - 1)
        ]
        head = Layer(("fc_mu", "fc_logvar"), widths[-1], 2 * latent)
        self.encoder = Network((*encoder, head))

        widths = (latent, *settings.decoder_A_hidden, LOGITS)
        last = len(widths) - 2
        self.decoder_A = Network(tuple(
            Layer((f"decoder.{2 * i}",), widths[i], widths[i + 1], relu=i < last) for i in range(last + 1)
        ))

        width, blocks = settings.decoder_B_hidden, settings.decoder_B_blocks
        layers = [Layer(("fc_in",), latent, width, relu=True)]
        for i in range(blocks):
            layers.append(Layer((f"residual{i + 1}.block.0",), width, width, relu=True))
            # There is a ReLU between two blocks, but not after the last one.
            layers.append(
                Layer((f"residual{i + 1}.block.2",), width, width, relu=i < blocks - 1, skip=2 * i + 1)
            )
        layers.append(Layer(("fc_out",), width, LOGITS))
        self.decoder_B = Network(tuple(layers))

    @cached_property
    def parameters(self) -> int:
        """Return the number of weights, including StateNet."""
        return 2 * self.encoder.size + self.decoder_A.size + self.decoder_B.size + STATENET_SIZE

    def initialise(self, seed: int) -> Blocks:
        """Draw the initial weights of one run on the CPU.

        The original implementation draws the same numbers for this seed.
        """
        generator = torch.Generator().manual_seed(seed)
        blocks = self.empty()
        for network, row in (
            (self.encoder, blocks.encoders[0, 0]), (self.decoder_A, blocks.decoder_A[0]),
            (self.encoder, blocks.encoders[1, 0]), (self.decoder_B, blocks.decoder_B[0]),
        ):
            network.initialise(row, generator)
        _initialise_statenet(blocks.statenet[0], generator)
        return blocks

    def empty(self, runs: int = 1) -> Blocks:
        """Return blocks of zeros for `runs` runs, on the CPU."""
        return Blocks(
            torch.zeros(2, runs, self.encoder.size),
            torch.zeros(runs, self.decoder_A.size),
            torch.zeros(runs, self.decoder_B.size),
            torch.zeros(runs, STATENET_SIZE),
        )

    def named(self, blocks: Blocks, run: int = 0) -> dict[str, Tensor]:
        """Return a dictionary from the name of a weight in a v5.5 checkpoint to a view of this weight of one run."""
        named: dict[str, Tensor] = {}
        for prefix, network, row in (
            ("encoder_A", self.encoder, blocks.encoders[0, run]),
            ("decoder_A", self.decoder_A, blocks.decoder_A[run]),
            ("encoder_B", self.encoder, blocks.encoders[1, run]),
            ("decoder_B", self.decoder_B, blocks.decoder_B[run]),
        ):
            named |= {f"{prefix}.{name}": view for name, view in network.parts(row)}
        return named | dict(statenet_parts(blocks.statenet[run]))

    def from_named(self, named: dict[str, Tensor], origin: str) -> Blocks:
        """Return the blocks of one run, copied from a dictionary from name to weight.

        Raises CheckpointError if a weight is missing, has another shape, or is not a dense tensor of finite
        floating-point numbers. `origin` names the checkpoint in the error.
        """
        blocks = self.empty()
        places = self.named(blocks)
        missing = [name for name in places if name not in named]
        if missing:
            raise CheckpointError(
                f"{origin}: not a v5.5 checkpoint: weight {missing[0]} is missing; there are {first_names(named)}"
            )
        for name, place in places.items():
            value = named[name]
            if not _is_dense(value):
                raise CheckpointError(f"{origin}: weight {name} is not a dense tensor of floating-point numbers")
            if value.shape != place.shape:
                raise CheckpointError(
                    f"{origin}: weight {name} has shape {tuple(value.shape)}, this model needs {tuple(place.shape)}"
                )
            place.copy_(value.detach())
            if not bool(torch.isfinite(place).all()):
                raise CheckpointError(f"{origin}: weight {name} holds values that are not finite in float32")
        return blocks


def _is_dense(value: object) -> bool:
    """Return whether a value is a dense tensor of floating-point numbers on the CPU."""
    return isinstance(value, Tensor) and not value.is_nested and value.is_floating_point() and (
        value.layout, value.device.type
    ) == (torch.strided, "cpu")


_STATENET: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("encoder.0.weight", (32, 9)), ("encoder.0.bias", (32,)),
    ("encoder.1.weight", (32,)), ("encoder.1.bias", (32,)),
    ("encoder.3.weight", (8, 32)), ("encoder.3.bias", (8,)),
    ("decoder.0.weight", (32, 8)), ("decoder.0.bias", (32,)),
    ("decoder.2.weight", (4, 32)), ("decoder.2.bias", (4,)),
)
STATENET_SIZE = sum(math.prod(shape) for _, shape in _STATENET)
STATENET_WIDTHS = (9, *(shape[0] for name, shape in _STATENET if len(shape) == 2 and name.endswith("weight")))
"""Number of inputs of StateNet, and of the outputs of each of its linear layers."""


def statenet_parts(row: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, view) for each weight of StateNet.

    `row` (..., size) holds the weights of one run, or of all runs if it has a leading run axis.
    """
    at = 0
    for name, shape in _STATENET:
        size = math.prod(shape)
        yield f"state_net.{name}", row[..., at : at + size].view(*row.shape[:-1], *shape)
        at += size


def _initialise_statenet(row: Tensor, generator: torch.Generator) -> None:
    bound = 0.0
    for name, values in statenet_parts(row):
        if name.startswith("state_net.encoder.1"):  # LayerNorm starts as the identity
            values.fill_(1.0 if name.endswith("weight") else 0.0)
        elif name.endswith("weight"):
            torch.nn.init.kaiming_uniform_(values, a=math.sqrt(5), generator=generator)
            bound = 1 / math.sqrt(values.shape[1])
        else:
            torch.nn.init.uniform_(values, -bound, bound, generator=generator)


class DualVAE:
    """Forward passes of R runs.

    The weights are the only state of this object.
    """

    def __init__(self, architecture: Architecture, blocks: Blocks) -> None:
        self.architecture = architecture
        self.blocks = blocks

    @property
    def runs(self) -> int:
        return self.blocks.decoder_A.shape[0]

    @property
    def device(self) -> torch.device:
        return self.blocks.decoder_A.device

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Encode operations x (R, B, 9) with both encoders. Return μ and log σ², both (2, R, B, L)."""
        runs, batch, entries = x.shape
        both = x.expand(2, runs, batch, entries).reshape(2 * runs, batch, entries)
        heads = self.architecture.encoder(self.blocks.encoders.flatten(0, 1), both)
        # All sizes are given, because `view` cannot infer a size if there are no operations.
        mu, log_variance = heads.view(2, runs, batch, heads.shape[-1]).chunk(2, -1)
        return mu, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """Return the logits (2, R, B, 9, 3) of latents z (2, R, B, L). Each pathway uses its own decoder."""
        logits = torch.stack((
            self.architecture.decoder_A(self.blocks.decoder_A, z[0]),
            self.architecture.decoder_B(self.blocks.decoder_B, z[1]),
        ))
        return logits.view(*logits.shape[:-1], space.ENTRIES, space.VALUES)

    def decode_features(self, z: Tensor, pathway: Pathway) -> Tensor:
        """Return the logits (R, 9, 3, M) of latents (R, L, M) of one pathway, without a gradient.

        Here the latent dimension comes before the M latents.
        """
        return self._decoders[pathway].infer(z).view(z.shape[0], space.ENTRIES, space.VALUES, z.shape[2])

    @cached_property
    def _decoders(self) -> dict[Pathway, Bound]:
        a, b = self.architecture, self.blocks
        return {"A": Bound(a.decoder_A, b.decoder_A), "B": Bound(a.decoder_B, b.decoder_B)}

    def run(self, index: int) -> DualVAE:
        """Return a model of one run, with a copy of its weights."""
        return DualVAE(self.architecture, self.blocks.one(index).copy())

    def repeated(self, times: int) -> DualVAE:
        """Return a model in which the whole sequence of runs is repeated `times` times."""
        if times == 1:
            return self
        b = self.blocks
        return DualVAE(self.architecture, Blocks(
            b.encoders.repeat(1, times, 1), *(x.repeat(times, 1) for x in (b.decoder_A, b.decoder_B, b.statenet))
        ))

    def copy(self) -> DualVAE:
        """Return a copy of this model, with the weights of all its runs."""
        return DualVAE(self.architecture, self.blocks.copy())


def inject(z: Tensor, rho: Tensor | float) -> Tensor:
    """Return the latents z̃ (2, R, B, L) after cross-injection: (1-ρ) own latent + ρ latent of the other pathway.

    The latent of the other pathway receives no gradient.
    """
    return torch.lerp(z, z.detach().flip(0), rho)


def statenet(blocks: Blocks, inputs: Tensor) -> Tensor:
    """Return StateNet's outputs (R, 4) in (-1, 1), which correct lr, λ₁, λ₂ and λ₃. `inputs` has shape (R, 9)."""
    w = dict(statenet_parts(blocks.statenet))

    def linear(name: str, x: Tensor) -> Tensor:
        weight, bias = w[f"state_net.{name}.weight"], w[f"state_net.{name}.bias"]
        return torch.baddbmm(bias.unsqueeze(1), x.unsqueeze(1), weight.transpose(1, 2)).squeeze(1)

    h = torch.nn.functional.layer_norm(linear("encoder.0", inputs), (32,))
    h = torch.tanh(h * w["state_net.encoder.1.weight"] + w["state_net.encoder.1.bias"])
    h = torch.relu(linear("decoder.0", linear("encoder.3", h)))
    return torch.tanh(linear("decoder.2", h))


@dataclass(frozen=True)
class GaussianPosterior:
    """The Gaussian posterior q(z|x) = N(mean, diag exp(log_variance)).

    Both tensors have shape (..., L).
    """

    mean: Tensor
    log_variance: Tensor

    @property
    def std(self) -> Tensor:
        return (0.5 * self.log_variance).exp()

    def sample(self, temperature: float = 1.0, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw a sample μ + τ σ ε (..., L) with ε ~ N(0, I). The numbers ε are drawn on the generator's device."""
        place = self.mean.device if generator is None else generator.device
        noise = torch.empty_like(self.mean, device=place).normal_(generator=generator).to(self.mean.device)
        return self.mean + temperature * self.std * noise

    def kl(self) -> Tensor:
        """Return KL(q ‖ N(0, I)) in nats, summed over the latent dimensions; shape (...) (Kingma & Welling 2014)."""
        return gaussian_kl(self.mean, self.log_variance).sum(-1)


class TernaryVAE:
    """One trained dual-pathway VAE with methods on plain tensors.

    The argument `pathway` is "A" or "B" and chooses the encoder and the decoder. Methods accept tensors on any device
    and return tensors on the model's device. Methods never change the model. They raise InputError if an argument has a
    wrong type, shape or value.
    """

    def __init__(self, settings: config.Model, blocks: Blocks) -> None:
        self.settings = settings
        self.core = DualVAE(Architecture(settings), blocks)

    @property
    def device(self) -> torch.device:
        return self.core.device

    @property
    def latent_dim(self) -> int:
        return self.settings.latent_dim

    def to(self, device: str | torch.device) -> TernaryVAE:
        """Return this model on another device."""
        return TernaryVAE(self.settings, self.core.blocks.to(resolve_device(device)))

    @with_fixed_arithmetic
    @torch.no_grad()
    def encode(self, operations: Tensor, pathway: Pathway = "B") -> GaussianPosterior:
        """Return the posterior of operations (..., 9) with entries -1, 0, +1. Its tensors have shape (..., L)."""
        index = _pathway(pathway)
        x = space.check_operations(operations).to(self.device)
        mu, log_variance = self.core.encode(x.reshape(1, x.shape[:-1].numel(), space.ENTRIES))
        shape = (*x.shape[:-1], self.latent_dim)
        return GaussianPosterior(mu[index, 0].reshape(shape), log_variance[index, 0].reshape(shape))

    @with_fixed_arithmetic
    @torch.no_grad()
    def decode(self, z: Tensor, pathway: Pathway = "B") -> Tensor:
        """Return the logits (..., 9, 3) of latents z (..., L). The classes have the order -1, 0, +1."""
        _pathway(pathway)
        if not isinstance(z, Tensor) or not z.is_floating_point():
            raise InputError(f"latents must be a floating-point tensor (..., {self.latent_dim}), got {_kind(z)}")
        space.check_dense(z, "latents")
        if z.ndim == 0 or z.shape[-1] != self.latent_dim:
            raise InputError(f"latents must have shape (..., {self.latent_dim}), got {tuple(z.shape)}")
        if not bool(torch.isfinite(z).all()):
            raise InputError("latents must be finite, got nan or inf")
        flat = z.to(self.device, torch.float32).reshape(-1, self.latent_dim)
        logits = self.core.decode_features(flat.t().unsqueeze(0), pathway)
        return logits[0].permute(2, 0, 1).reshape(*z.shape[:-1], space.ENTRIES, space.VALUES)

    @with_fixed_arithmetic
    @torch.no_grad()
    def sample(
        self, n: int, pathway: Pathway = "B", argmax: bool = False, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Sample n operations (n, 9) from the prior.

        First z ~ N(0, I) is drawn. Then each entry is drawn from its probabilities or, if `argmax` is true, set to its
        most probable value. Random numbers are drawn on the generator's device. A CPU generator gives the same
        operations on every device.
        """
        n = whole_number(n, "n")
        place = self.device if generator is None else generator.device
        z = torch.empty(n, self.latent_dim, device=place).normal_(generator=generator)
        logits = self.decode(z, pathway)
        if argmax:
            return logits.argmax(-1).float() - 1
        uniform = torch.empty_like(logits, device=place).uniform_(1e-20, 1, generator=generator).to(self.device)
        return (logits - (-uniform.log()).log()).argmax(-1).float() - 1

    @with_fixed_arithmetic
    @torch.no_grad()
    def reconstruct(self, operations: Tensor, rho: float = 0.0, pathway: Pathway = "B") -> Tensor:
        """Encode operations (..., 9) and decode them by argmax. Return the decoded operations (..., 9).

        The decoder reads the mixture (1-ρ) own posterior mean + ρ posterior mean of the other pathway.
        """
        rho = fraction(rho, "rho")
        index = _pathway(pathway)
        x = space.check_operations(operations).to(self.device)
        mu, _ = self.core.encode(x.reshape(1, x.shape[:-1].numel(), space.ENTRIES))
        logits = self.decode(inject(mu, rho)[index, 0], pathway)
        return (logits.argmax(-1).float() - 1).reshape(x.shape)


def _pathway(name: str) -> int:
    if name not in PATHWAYS:
        raise InputError(f"pathway must be 'A' or 'B', got {name!r}")
    return PATHWAYS.index(name)


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def gaussian_kl(mu: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(μ, e^s) ‖ N(0, 1)) of every sample and dimension, in nats (Kingma & Welling 2014)."""
    return -0.5 * (1 + log_variance - mu.square() - log_variance.exp())

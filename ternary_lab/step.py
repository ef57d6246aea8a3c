"""One optimiser step of R runs side by side: settings, forward pass, losses, gradients, clipping, AdamW.

`Stepper` computes a step. Two classes take an epoch's steps with it, and give the same figures:

    PlainSteps      computes each as it comes, which is the way of a CPU
    ReplayedSteps   reads and writes at fixed addresses, so that on CUDA a step is captured once as a graph and
                    then replayed: a step has some 200 kernels of two microseconds, and launching them one by one
                    takes ten times as long as computing them

Shapes and symbols are those of `model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from ternary_lab import controllers as control
from ternary_lab import information_loss, losses, space
from ternary_lab.backend import kernels
from ternary_lab.backend.devices import on_device
from ternary_lab.backend.random_streams import Streams
from ternary_lab.backend.threads import Lanes
from ternary_lab.config import Config
from ternary_lab.controllers import Correction, Plan
from ternary_lab.metrics import latent_entropy
from ternary_lab.model import Architecture, inject
from ternary_lab.networks import Blocks, Bound
from ternary_lab.space import ENTRIES, VALUES


@dataclass(frozen=True)
class StepSettings:
    """What a training step reads besides its batch: views of one tensor with a value per run, (R,) unless said.

    One tensor, because a transfer to a GPU costs the same for one number as for all of them.
    """

    packed: Tensor
    """(25, R): all of them, in the order of `Stepper.settings`."""
    weights: losses.Weights
    temperature: Tensor
    """(2, R, 1, 1)"""
    rho: Tensor
    """(R, 1, 1)"""
    kept: Tensor
    """(R, 1, 1): 1 - ρ."""
    forgetting: Tensor
    """1 - m, of the moving averages of the gradient norms."""
    scale_low: Tensor
    scale_high: Tensor
    grad_clip: Tensor
    rates: Tensor
    """(5, R): learning rate, β₁, β₂, ε, weight decay of AdamW."""
    prior: information_loss.PriorWeights | None
    """None where no run's loss has the terms of `prior` in this epoch."""
    lr: Sequence[float]
    """The learning rates once more, as Python numbers of full precision."""

    @staticmethod
    def of(packed: Tensor, free_bits_per: losses.FreeBits, informed: bool, lr: Sequence[float]) -> StepSettings:
        """The settings in a packed tensor (25, R)."""
        weights = losses.Weights(
            beta=packed[0:2], lambdas=packed[2:5], free_bits=packed[5], entropy=packed[6], repulsion=packed[7],
            repulsion_sigma=packed[8], free_bits_per=free_bits_per,
        )
        return StepSettings(
            packed, weights, temperature=packed[9:11, :, None, None], rho=packed[11, :, None, None],
            kept=packed[12, :, None, None], forgetting=packed[13], scale_low=packed[14], scale_high=packed[15],
            grad_clip=packed[16], rates=packed[17:22],
            prior=information_loss.PriorWeights(*packed[22:25]) if informed else None, lr=lr,
        )


@dataclass(frozen=True)
class Alignment:
    """|H_A - H_B| of a batch by an H that has a gradient."""

    entropy: Tensor
    """(2, R): H_A and H_B."""
    z: Tensor
    """(2, R, B, L): gradient of |H_A - H_B| in the latents, before λ₃."""


@dataclass(frozen=True)
class Pass:
    """A batch on its way through the model: what the backward pass needs."""

    terms: losses.LossTerms
    gradients: losses.LossGradients
    z: Tensor
    """(2, R, B, L): sampled latents, before injection."""
    noise: Tensor
    """(2, R, B, L): z - μ."""
    activations: tuple[list[Tensor], list[Tensor], list[Tensor]]
    """Of the encoders, decoder A and decoder B."""
    alignment: Alignment | None
    """None where the alignment has no gradient."""
    prior: information_loss.PriorTerms | None
    decoded: Tensor
    """(2, R, B + M, 27): gradients in the decoders' logits, those of M prior latents behind the batch's."""


@dataclass(frozen=True)
class StepRecord:
    """What an optimiser step did; tensors (2, R)."""

    scale: Tensor
    """g, the gradient balance."""
    norm: Tensor
    """Pathways' gradient norms before clipping."""
    clip: Tensor
    """Factor of the clipping, at most 1."""


@dataclass(frozen=True)
class Figures:
    """What S steps tell: tensors (S, ..., R)."""

    ce: Tensor
    """(S, 2, R)"""
    kl: Tensor
    """(S, 2, R)"""
    entropy_B: Tensor
    """(S, R)"""
    repulsion_B: Tensor
    """(S, R)"""
    scale: Tensor
    """(S, 2, R): g."""
    norm: Tensor
    """(S, 2, R): gradient norms before clipping."""
    lambdas: Tensor
    """(S, 3, R)"""
    information: Tensor
    """(S, 2, R): the terms of `prior` with their weights; 0 where nothing asks for them."""
    aligned: Tensor | None
    """(S, 2, R): H_A and H_B with a gradient, or None."""
    z: Tensor
    """(S, 2, R, B, L): latents; NaN behind a batch that is not full."""


class Steps(Protocol):
    """The steps of an epoch."""

    def __len__(self) -> int: ...
    def use(self, settings: StepSettings) -> None:
        """The settings of the calls to come."""
    def forward(self) -> Pass:
        """The next step's forward pass. What it holds is overwritten by that of the step after."""
    def update(self) -> StepRecord:
        """The optimiser step that belongs to it, likewise."""
    def figures(self) -> Figures:
        """What all steps told."""


class Stepper:
    """The weights of R runs in training, and the step that changes them.

    Args:
        configs: of the runs; they may differ in values only.
        blocks, first_moments, second_moments: weights and AdamW's moments of all runs, on the device.
        outputs: (2, R, N): moving averages of the output distributions.
        norms: (2, R): moving averages of the gradient norms.
        steps: steps taken so far.
    """

    def __init__(
        self, configs: Sequence[Config], blocks: Blocks, first_moments: Blocks, second_moments: Blocks,
        outputs: Tensor, norms: Tensor, steps: int,
    ) -> None:
        self.configs, self.config = list(configs), configs[0]
        self.architecture = Architecture(self.config.model)
        self.blocks, self.first_moments, self.second_moments = blocks, first_moments, second_moments
        self.outputs, self.norms, self.steps = outputs, norms, steps
        self.device, self.runs = norms.device, len(self.configs)
        self.gradients = Blocks(*(torch.zeros_like(block) for block in vars(blocks).values()))
        self.aligns = self.config.entropy_alignment.gradient == "differentiable"
        self._taken = torch.tensor(float(steps), dtype=torch.float32, device=self.device)
        encoders = blocks.encoders.flatten(0, 1), self.gradients.encoders.flatten(0, 1)
        self._encoders = Bound(self.architecture.encoder, *encoders)
        self._decoder_A = Bound(self.architecture.decoder_A, blocks.decoder_A, self.gradients.decoder_A)
        self._decoder_B = Bound(self.architecture.decoder_B, blocks.decoder_B, self.gradients.decoder_B)
        self._part_norms = torch.empty(2, 2, self.runs, device=self.device)
        self._lanes = Lanes(self.device)
        parts = (blocks, self.gradients, first_moments, second_moments)
        self._rows = [
            [[_rows(part, run, pathway) for part in parts] for pathway in range(2)] for run in range(self.runs)
        ]
        self._replayed: ReplayedSteps | None = None

    def values(self, rows: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
        """One value, or several, of every run: (R,) or (R, K) float32 on the device."""
        return on_device(rows, torch.float32, self.device)

    def settings(self, plans: Sequence[Plan], corrections: Sequence[Correction]) -> StepSettings:
        """The plans and corrections as tensors over runs."""
        rows, informed = [], False
        for c, p, k in zip(self.configs, plans, corrections, strict=True):
            o, information = c.optimiser, c.information.weights(p.epoch)
            informed |= any(information)
            rows.append((
                p.beta_A, p.beta_B, k.lambda1, k.lambda2, k.lambda3, c.kl.free_bits, c.loss.entropy_weight,
                c.loss.repulsion_weight, c.loss.repulsion_sigma, p.temperature_A, p.temperature_B, p.rho, 1 - p.rho,
                1 - p.grad_momentum, c.gradient_balance.low, c.gradient_balance.high, o.grad_clip,
                k.lr, o.beta1, o.beta2, o.eps, o.weight_decay, *information,
            ))
        packed = self.values(rows).t().contiguous()
        return StepSettings.of(packed, self.config.kl.free_bits_per, informed, [k.lr for k in corrections])

    def epoch(self, x: Tensor, noise: Tensor, draws: Streams) -> Steps:
        """The steps of one pass over operations x (R, n, 9) with noise (2, R, n, L), and prior latents from `draws`."""
        if self.device.type == "cpu":
            return PlainSteps(self, x, noise, draws)
        if self._replayed is None or not self._replayed.fits(x):
            self._replayed = ReplayedSteps(self, x.shape[1])
        self._replayed.begin(x, noise, draws)
        return self._replayed

    def prior_latents(self, draws: Streams) -> Tensor:
        """Latents (R, M, L) of one step, from the prior."""
        return draws.normal(self.config.information.latents, self.config.model.latent_dim).to(self.device)

    def forward(
        self, x: Tensor, target: Tensor, eps: Tensor, s: StepSettings, latents: Tensor | None = None
    ) -> Pass:
        """Operations x (2R, B, 9), once for each encoder, with noise ε (2, R, B, L), up to the loss terms.

        Latents (R, M, L) drawn from the prior, the same for both pathways, add the terms of `prior`.
        """
        runs, batch = target.shape[:2]
        encoded = self._encoders.forward(x)
        mu, log_variance = encoded[-1].view(2, runs, batch, -1).chunk(2, -1)
        noise = (0.5 * log_variance).exp_().mul_(eps).mul_(s.temperature)
        z = mu + noise
        injected = inject(z, s.rho)
        if latents is not None:
            injected = torch.cat((injected, latents.expand(2, -1, -1, -1)), 2)
        decoded_b, decoded_a, code, alignment = self._lanes.together(
            lambda: self._decoder_B.forward(injected[1]), lambda: self._decoder_A.forward(injected[0]),
            lambda: losses.code_terms(mu, log_variance, z, s.weights), lambda: self._alignment(z),
        )
        every = torch.stack((decoded_a[-1], decoded_b[-1]))
        terms, gradients = losses.joined(
            code, losses.output_terms(target, every[:, :, :batch].view(2, *target.shape), s.weights)
        )
        d_logits, informed = gradients.logits.flatten(3), None
        if latents is not None and s.prior is not None:
            settings = self.config.information
            informed, d_informed = information_loss.prior_terms(
                every[:, :, batch:], self.outputs, settings.decay, settings.margin, s.prior
            )
            d_logits = torch.cat((d_logits, d_informed), 2)
        return Pass(terms, gradients, z, noise, (encoded, decoded_a, decoded_b), alignment, informed, d_logits)

    def _alignment(self, z: Tensor) -> Alignment | None:
        if not self.aligns:
            return None
        entropy, slope = latent_entropy.soft_entropy(z)
        towards = (entropy[0] - entropy[1]).sign()
        return Alignment(entropy, slope * torch.stack((towards, -towards))[:, :, None, None])

    def update(self, forward: Pass, s: StepSettings) -> StepRecord:
        """One optimiser step from a forward pass: differentiate, balance, clip, AdamW, moving averages."""
        scale = torch.ones_like(self.norms)
        if self.config.gradient_balance.enabled:
            ratio = self.norms.flip(0) / (self.norms + control.TINY)
            scale = torch.minimum(torch.maximum(ratio, s.scale_low), s.scale_high)
        # The gradients are those of L_A and L_B; λ g and the clipping are one factor per pathway.
        factor = s.weights.lambdas[:2] * scale
        self.differentiate(forward, s, factor)
        g, parts = self.gradients, self._part_norms
        self._lanes.together(
            partial(torch.linalg.vector_norm, g.decoder_B, dim=-1, out=parts[1, 1]),
            partial(torch.linalg.vector_norm, g.encoders, dim=-1, out=parts[0]),
            partial(torch.linalg.vector_norm, g.decoder_A, dim=-1, out=parts[1, 0]),
        )
        norm = torch.linalg.vector_norm(parts, dim=0).mul_(factor)
        apart = self.config.optimiser.clip_per == "pathway"
        whole = norm if apart else torch.linalg.vector_norm(norm, dim=0, keepdim=True).expand_as(norm)
        clip = (s.grad_clip / (whole + 1e-6)).clamp_(max=1)
        self.steps += 1
        self._adamw(factor.mul_(clip).reciprocal_(), s)
        raw = self.config.gradient_balance.norm == "raw"
        self.norms.lerp_(norm if raw else norm * clip, s.forgetting)
        return StepRecord(scale, norm, clip)

    def differentiate(self, forward: Pass, s: StepSettings, factor: Tensor) -> None:
        """Gradients of L_A with respect to pathway A and of L_B with respect to pathway B, into their blocks.

        They are multiplied by `factor` (2, R) afterwards, which the alignment's, being of neither, is divided by.
        """
        _, decoded_a, decoded_b = forward.activations
        d_b, d_a = self._lanes.together(
            lambda: self._decoder_B.backward(decoded_b, forward.decoded[1], to_input=True),
            lambda: self._decoder_A.backward(decoded_a, forward.decoded[0], to_input=True),
        )
        assert d_a is not None
        assert d_b is not None
        batch = forward.z.shape[2]  # what follows it are prior latents, which come from no encoder
        d_z = torch.stack((d_a[:, :batch], d_b[:, :batch])).mul_(s.kept)
        d_z[1].add_(forward.gradients.z_B)
        if forward.alignment is not None:
            share = s.weights.lambdas[2] / factor.clamp_min(control.TINY)
            d_z.addcmul_(forward.alignment.z, share[:, :, None, None])
        self.differentiate_encoders(forward, d_z, forward.gradients.mu, forward.gradients.log_variance)

    def differentiate_encoders(self, forward: Pass, d_z: Tensor, mu: Tensor, log_variance: Tensor) -> None:
        """Gradients of the encoders from those in z, and from those in μ and s that do not come through z."""
        # z = μ + τ σ ε, and so ∂z/∂s = (z - μ)/2.
        d_head = d_z.new_empty(*d_z.shape[:-1], 2 * d_z.shape[-1])
        d_mu, d_log_variance = d_head.chunk(2, -1)
        torch.add(d_z, mu, out=d_mu)
        torch.addcmul(log_variance, d_z, forward.noise, value=0.5, out=d_log_variance)
        self._encoders.backward(forward.activations[0], d_head.flatten(0, 1), to_input=False)

    def _adamw(self, divisor: Tensor, s: StepSettings) -> None:
        """AdamW (Loshchilov & Hutter 2019); each run has its learning rate, each pathway its gradients' divisor."""
        if self.device.type == "cpu":
            step = torch.tensor(float(self.steps))
            for i, (config, rate) in enumerate(zip(self.configs, s.lr, strict=True)):
                o = config.optimiser
                for pathway, (weights, gradients, first, second) in enumerate(self._rows[i]):
                    # The kernel behind torch.optim.AdamW(fused=True), without that class's bookkeeping per step.
                    torch._fused_adamw_(
                        weights, gradients, first, second, [], [step] * len(weights), lr=rate, beta1=o.beta1,
                        beta2=o.beta2, weight_decay=o.weight_decay, eps=o.eps, amsgrad=False, maximize=False,
                        grad_scale=divisor[pathway, i],
                    )
            return
        self._taken.add_(1)
        parts = self.blocks, self.gradients, self.first_moments, self.second_moments
        learns = self.config.statenet.training != "none"  # from the gradients as they were taken

        def update(name: str, divisor: Tensor, rates: Tensor) -> None:
            weights, gradients, first, second = (getattr(part, name).flatten(0, -2) for part in parts)
            kernels.adamw(weights, gradients, first, second, divisor, rates, self._taken, learns)

        self._lanes.together(
            partial(update, "decoder_B", divisor[1], s.rates),
            lambda: update("encoders", divisor.flatten(), s.rates.repeat(1, 2)),
            partial(update, "decoder_A", divisor[0], s.rates),
        )

    def moving(self) -> list[Tensor]:
        """Every tensor that a step changes and the next one reads."""
        blocks = [b for part in (self.blocks, self.first_moments, self.second_moments) for b in part.trained()]
        return [*blocks, self.outputs, self.norms, self._taken]


class PlainSteps:
    """See the module."""

    def __init__(self, stepper: Stepper, x: Tensor, noise: Tensor, draws: Streams) -> None:
        self._stepper, self._draws = stepper, draws
        self._both, self._target, self._noise = x.repeat(2, 1, 1), space.one_hot(x), noise
        self._batch = stepper.config.data.batch_size
        self._count = -(-x.shape[1] // self._batch)
        self._settings: StepSettings | None = None
        self._pass: Pass | None = None
        self._passes: list[tuple[losses.LossTerms, Tensor, Tensor | None, Tensor | None]] = []
        self._updates: list[StepRecord] = []

    def __len__(self) -> int:
        return self._count

    def use(self, settings: StepSettings) -> None:
        self._settings = settings

    def forward(self) -> Pass:
        s = self._settings
        assert s is not None
        part = slice(len(self._passes) * self._batch, (len(self._passes) + 1) * self._batch)
        latents = self._stepper.prior_latents(self._draws) if s.prior is not None else None
        forward = self._stepper.forward(
            self._both[:, part], self._target[:, part], self._noise[:, :, part], s, latents
        )
        informed = forward.prior.pathway(s.prior) if forward.prior is not None and s.prior is not None else None
        aligned = forward.alignment.entropy if forward.alignment is not None else None
        self._passes.append((forward.terms, s.weights.lambdas, informed, aligned))
        self._pass = forward
        self._keep(forward.z)
        return forward

    def _keep(self, z: Tensor) -> None:
        if len(self._passes) == 1:
            shape = (self._count, 2, z.shape[1], self._batch, z.shape[3])
            self._z = torch.full(shape, float("nan"), device=z.device)
        self._z[len(self._passes) - 1, :, :, : z.shape[2]] = z

    def update(self) -> StepRecord:
        assert self._pass is not None
        assert self._settings is not None
        self._updates.append(self._stepper.update(self._pass, self._settings))
        return self._updates[-1]

    def figures(self) -> Figures:
        terms, lambdas, informed, aligned = zip(*self._passes, strict=True)
        norm = torch.stack([update.norm for update in self._updates])
        return Figures(
            **{f.name: torch.stack([getattr(t, f.name) for t in terms]) for f in fields(losses.LossTerms)},
            scale=torch.stack([update.scale for update in self._updates]), norm=norm, lambdas=torch.stack(lambdas),
            information=torch.zeros_like(norm) if None in informed else torch.stack(informed),
            aligned=None if None in aligned else torch.stack(aligned), z=self._z,
        )


@dataclass(frozen=True)
class _Graphs:
    """A captured step of one kind: its two graphs, and what their replay leaves at fixed addresses."""

    forward: torch.cuda.CUDAGraph
    update: torch.cuda.CUDAGraph
    leaves: Pass
    record: StepRecord


class ReplayedSteps:
    """See the module. One object serves every epoch of a cohort.

    Args:
        n: operations of an epoch.
    """

    def __init__(self, stepper: Stepper, n: int) -> None:
        self._stepper = stepper
        config, device, runs = stepper.config, stepper.device, stepper.runs
        self._n, self._batch, latent = n, config.data.batch_size, config.model.latent_dim
        self._count = -(-n // self._batch)
        # Rows of the log: CE, KL, S, rep, g, norms, λ, information and, where it has a gradient, H.
        self._widths = [2, 2, 1, 1, 2, 2, 3, 2] + [2] * stepper.aligns

        def buffer(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self._x = buffer(runs, self._count, self._batch, ENTRIES)
        self._target = buffer(runs, self._count, self._batch, ENTRIES, VALUES)
        self._noise = buffer(2, runs, self._count, self._batch, latent)
        self._latents = buffer(runs, config.information.latents, latent) if config.information.enabled else None
        self._z = buffer(self._count, 2, runs, self._batch, latent)
        self._log = buffer(self._count, sum(self._widths), runs)
        self._packed = buffer(25, runs)
        self._at = buffer(1, dtype=torch.int64)
        self._graphs: dict[tuple[int, bool], _Graphs] = {}
        self._pool: Any = None  # memory that the graphs share, as they never run side by side

    def fits(self, x: Tensor) -> bool:
        """Whether an epoch of operations x (R, n, 9) can be taken."""
        return x.shape[1] == self._n

    def begin(self, x: Tensor, noise: Tensor, draws: Streams) -> None:
        """Go to the first step of an epoch."""
        self._draws, self._next = draws, 0
        self._settings: StepSettings | None = None
        self._x.flatten(1, 2)[:, : self._n] = x
        self._target.flatten(1, 2)[:, : self._n] = space.one_hot(x)
        self._noise.flatten(2, 3)[:, :, : self._n] = noise
        self._z.fill_(float("nan"))
        self._log.zero_()
        self._at.zero_()

    def __len__(self) -> int:
        return self._count

    def use(self, settings: StepSettings) -> None:
        self._packed.copy_(settings.packed)
        self._settings = StepSettings.of(
            self._packed, settings.weights.free_bits_per, settings.prior is not None, settings.lr
        )

    def forward(self) -> Pass:
        assert self._settings is not None
        batch = min(self._batch, self._n - self._next * self._batch)
        self._kind = batch, self._settings.prior is not None
        if self._latents is not None and self._settings.prior is not None:
            self._latents.copy_(self._stepper.prior_latents(self._draws))
        if self._stepper.device.type != "cuda":  # nothing to capture with
            self._pass = self._forward(*self._kind)
            return self._pass
        with torch.cuda.device(self._stepper.device):  # graphs are captured and replayed on the current one
            if self._kind not in self._graphs:
                self._graphs[self._kind] = self._capture(*self._kind)
            self._graphs[self._kind].forward.replay()
        return self._graphs[self._kind].leaves

    def update(self) -> StepRecord:
        self._next += 1
        if self._stepper.device.type != "cuda":
            return self._update(self._pass)
        with torch.cuda.device(self._stepper.device):
            self._graphs[self._kind].update.replay()
        self._stepper.steps += 1
        return self._graphs[self._kind].record

    def _forward(self, batch: int, informed: bool) -> Pass:
        """The step's forward pass, all at fixed addresses."""
        s = self._settings
        assert s is not None
        runs = self._stepper.runs
        x, target = (whole.index_select(1, self._at)[:, 0, :batch] for whole in (self._x, self._target))
        noise = self._noise.index_select(2, self._at)[:, :, 0, :batch]
        forward = self._stepper.forward(
            x.expand(2, runs, batch, ENTRIES).reshape(2 * runs, batch, ENTRIES), target, noise, s,
            self._latents if informed else None,
        )
        self._z[:, :, :, :batch].index_copy_(0, self._at, forward.z.unsqueeze(0))
        return forward

    def _update(self, forward: Pass) -> StepRecord:
        s = self._settings
        assert s is not None
        record = self._stepper.update(forward, s)
        terms = forward.terms
        informed = torch.zeros_like(record.norm)
        if forward.prior is not None and s.prior is not None:
            informed = forward.prior.pathway(s.prior)
        aligned = [] if forward.alignment is None else [forward.alignment.entropy]
        row = torch.cat((
            terms.ce, terms.kl, terms.entropy_B.unsqueeze(0), terms.repulsion_B.unsqueeze(0), record.scale,
            record.norm, s.weights.lambdas, informed, *aligned,
        ))
        self._log.index_copy_(0, self._at, row.unsqueeze(0))
        self._at.add_(1)
        return record

    def _capture(self, batch: int, informed: bool) -> _Graphs:
        """The step's graphs. Capturing computes nothing; what has to be made ready first, a step that is undone does.
        """
        stepper = self._stepper
        moving, steps = [*stepper.moving(), self._at], stepper.steps
        before = [tensor.clone() for tensor in moving]
        side = torch.cuda.Stream(stepper.device)  # type: ignore[no-untyped-call]
        main = torch.cuda.current_stream(stepper.device)
        side.wait_stream(main)
        with torch.cuda.stream(side):
            self._update(self._forward(batch, informed))
        main.wait_stream(side)
        for tensor, value in zip(moving, before, strict=True):
            tensor.copy_(value)
        forward, update = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(forward, pool=self._pool, capture_error_mode="thread_local"):
            leaves = self._forward(batch, informed)
        self._pool = forward.pool()
        with torch.cuda.graph(update, pool=self._pool, capture_error_mode="thread_local"):
            record = self._update(leaves)
        stepper.steps = steps
        return _Graphs(forward, update, leaves, record)

    def figures(self) -> Figures:
        ce, kl, entropy, repulsion, scale, norm, lambdas, informed, *aligned = torch.split(self._log, self._widths, 1)
        return Figures(
            ce, kl, entropy[:, 0], repulsion[:, 0], scale, norm, lambdas, informed, aligned[0] if aligned else None,
            self._z,
        )


def _rows(blocks: Blocks, run: int, pathway: int) -> list[Tensor]:
    """One run's contiguous rows of one pathway: its encoder's and its decoder's."""
    return [blocks.encoders[pathway, run], (blocks.decoder_B if pathway else blocks.decoder_A)[run]]

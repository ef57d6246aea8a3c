"""One optimiser step of R runs side by side.

A step consists of forward pass, losses, gradients, gradient balance, clipping and AdamW. Shapes and symbols are those
of `model`. `epoch_steps` takes the steps of an epoch.

A step draws S posterior samples of each operation, where S is the setting `training.posterior_samples`, 1 in v5.5. The
samples of an operation are neighbours in every tensor. The encoders compute each operation once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ternary_lab import controllers as control
from ternary_lab import losses, space
from ternary_lab.backend import kernels
from ternary_lab.backend.devices import on_device
from ternary_lab.backend.random_streams import Streams
from ternary_lab.backend.threads import SideStreams
from ternary_lab.config import Config
from ternary_lab.controllers import Correction, Plan
from ternary_lab.losses import InformationWeights, TermNumbers
from ternary_lab.metrics.latent_entropy import batch_entropy
from ternary_lab.model import Architecture, inject, statenet
from ternary_lab.networks import Blocks, Bound
from ternary_lab.training.run_state import RunState

FIXED = 34
"""Number of rows of `StepSettings.packed` in front of the rows for the loss terms."""
RATES = 5
"""Number of settings of AdamW: learning rate, β₁, β₂, ε, weight decay."""


@dataclass(frozen=True)
class StepSettings:
    """Settings of a training step.

    They are the numbers that a step reads in addition to its batch. All are views of one tensor, which has one row per
    number and one column per run. A transfer of this tensor to a GPU takes no longer than a transfer of one number. The
    shape of a view is (R,) unless another shape is given.
    """

    packed: Tensor
    """(FIXED + numbers of the loss terms, R): all numbers, in the order of `Stepper.settings`."""
    terms: losses.Numbers
    """Weights and settings of the loss terms."""
    free_bits_per: losses.FreeBits
    lambdas: Tensor
    """(3, R): λ₁, λ₂, λ₃."""
    temperature: Tensor
    """(2, R, 1, 1): τ_A and τ_B."""
    rho: Tensor
    """(R, 1, 1): ρ."""
    kept: Tensor
    """(R, 1, 1): 1 - ρ."""
    forgetting: Tensor
    """1 - m, where m is the momentum of the moving averages of the gradient norms."""
    scale_low: Tensor
    scale_high: Tensor
    grad_clip: Tensor
    rates: tuple[Tensor, Tensor, Tensor]
    """Learning rate, β₁, β₂, ε and weight decay of AdamW: of the encoders (5, 2R), of decoder A (5, R) and of B."""
    information: InformationWeights | None
    """Weights of the information terms, or None if no run has information terms in this epoch."""
    lr: Sequence[float]
    """The learning rate of each run, before `optimiser.lr_scale`, as a Python number of full precision."""

    @staticmethod
    def unpacked(
        packed: Tensor, config: Config, terms: Sequence[losses.Term], informed: bool, lr: Sequence[float]
    ) -> StepSettings:
        """Return the settings that a packed tensor holds.

        `informed` is true if a run has information terms in this epoch. `lr` holds the exact learning rates.
        """
        numbers, row, first = {}, FIXED, FIXED - 4 * RATES
        for term in terms:
            middle = row + len(term.pathways)
            end = middle + len(term.settings(config))
            numbers[term.name] = TermNumbers(packed[row:middle], packed[middle:end].unbind())
            row = end
        return StepSettings(
            packed, numbers, config.kl.free_bits_per, lambdas=packed[0:3], temperature=packed[3:5, :, None, None],
            rho=packed[5, :, None, None], kept=packed[6, :, None, None], forgetting=packed[7], scale_low=packed[8],
            scale_high=packed[9], grad_clip=packed[10],
            information=InformationWeights(*packed[11:14]) if informed else None, lr=lr,
            rates=(
                packed[first : first + 2 * RATES].view(RATES, -1), packed[first + 2 * RATES : FIXED - RATES],
                packed[FIXED - RATES : FIXED],
            ),
        )


@dataclass(frozen=True)
class Pass:
    """Results of the forward pass of a batch, and the tensors that the backward pass needs."""

    values: Mapping[str, Tensor]
    """Name of a loss term, with its value (P, R) in each of its P pathways."""
    gradients: losses.Gradients
    z: Tensor
    """(2, R, B S, L): sampled latents, before injection."""
    noise: Tensor
    """(2, R, B S, L): z - μ."""
    first_samples: Tensor
    """(2, R, B, L): the first sampled latent of each operation."""
    activations: tuple[list[Tensor], list[Tensor], list[Tensor]]
    """Activations of the encoders, of decoder A and of decoder B."""
    alignment: losses.Alignment | None
    """The entropy alignment, or None if the alignment has no gradient."""
    information: losses.InformationValues | None
    d_logits: Tensor
    """(2, R, B S + M, 27): gradients with respect to the logits, first of posterior samples, then of prior latents."""


@dataclass(frozen=True)
class StepRecord:
    """Gradient balance and clipping of an optimiser step.

    Each tensor has shape (2, R).
    """

    scale: Tensor
    """Factors g of the gradient balance."""
    norm: Tensor
    """Gradient norms of the pathways before clipping."""
    clip: Tensor
    """Factors of the clipping, at most 1."""


@dataclass(frozen=True)
class Figures:
    """Logged values and latents of S steps."""

    log: Mapping[str, Tensor]
    """Values (S, R) by name. The names are those in `Stepper.logged`."""
    z: Tensor
    """(S, 2, R, B, L): latents. A batch with fewer than B operations is filled up with NaN."""


class Stepper:
    """The weights of R runs in training, and the step that changes the weights.

    Args:
        configs: configurations of the runs. They must agree in the settings in `config.STRUCTURAL`.
        blocks: weights of all runs, on the device.
        first_moments: AdamW's moving averages of the gradients.
        second_moments: AdamW's moving averages of the squared gradients.
        outputs: (2, R, N): moving averages of the output distributions.
        norms: (2, R): moving averages of the gradient norms.
        steps: number of steps taken so far.
    """

    def __init__(
        self, configs: Sequence[Config], blocks: Blocks, first_moments: Blocks, second_moments: Blocks,
        outputs: Tensor, norms: Tensor, steps: int,
    ) -> None:
        self.configs, self.config = list(configs), configs[0]
        self.samples = self.config.training.posterior_samples
        self.noise_width = self.samples * self.config.model.latent_dim
        self.architecture = Architecture(self.config.model)
        self.blocks, self.first_moments, self.second_moments = blocks, first_moments, second_moments
        self.outputs, self.norms, self.steps = outputs, norms, steps
        self.device, self.runs = norms.device, len(self.configs)
        self.gradients = Blocks(*(torch.zeros_like(block) for block in vars(blocks).values()))
        self.aligns = self.config.entropy_alignment.gradient == "differentiable"
        self.terms = losses.terms_of(self.config)
        self._code_terms = [term for term in self.terms if term.of == "code"]
        self._output_terms = [term for term in self.terms if term.of == "output"]
        self.numbers = FIXED + sum(len(t.pathways) + len(t.settings(self.config)) for t in self.terms)
        self.logged = (
            *(column for term in self.terms for column in term.columns), "scale_A", "scale_B", "norm_A", "norm_B",
            "lambda1", "lambda2", "lambda3", "information_A", "information_B",
            *(("aligned_A", "aligned_B") if self.aligns else ()),
        )
        self._taken = torch.tensor(float(steps), dtype=torch.float32, device=self.device)
        encoders = blocks.encoders.flatten(0, 1), self.gradients.encoders.flatten(0, 1)
        self._encoders = Bound(self.architecture.encoder, *encoders)
        self._decoder_A = Bound(self.architecture.decoder_A, blocks.decoder_A, self.gradients.decoder_A)
        self._decoder_B = Bound(self.architecture.decoder_B, blocks.decoder_B, self.gradients.decoder_B)
        self._part_norms = torch.empty(2, 2, self.runs, device=self.device)
        self._side_streams = SideStreams(self.device)
        parts = (blocks, self.gradients, first_moments, second_moments)
        # _rows[run][pathway] lists the contiguous rows of the encoder and of the decoder, each of all four parts.
        self._rows = [
            [([p.encoders[i, run] for p in parts], [(p.decoder_A, p.decoder_B)[i][run] for p in parts]) for i in (0, 1)]
            for run in range(self.runs)
        ]

    @staticmethod
    def of(configs: Sequence[Config], states: Sequence[RunState], device: torch.device) -> Stepper:
        """Return the stepper of runs in these states. All states must have the same number of steps."""
        blocks, first_moments, second_moments = (
            Blocks.join([getattr(state, name) for state in states]).to(device)
            for name in ("blocks", "first_moments", "second_moments")
        )
        outputs = [torch.zeros(2, 1, space.SIZE) if s.output is None else s.output for s in states]
        norms = torch.tensor([(s.controllers.norm_A, s.controllers.norm_B) for s in states], device=device)
        return Stepper(
            configs, blocks, first_moments, second_moments, torch.cat(outputs, 1).to(device),
            norms.t().contiguous(), states[0].steps,
        )

    def copies(self) -> Iterator[tuple[Blocks, Blocks, Blocks, Tensor]]:
        """Yield CPU copies of each run's weights, first moments, second moments, and moving averages of the outputs.

        One transfer copies all tensors from a GPU.
        """
        every = (self.blocks, self.first_moments, self.second_moments)
        *blocks, outputs = _on_cpu([*(block for part in every for block in vars(part).values()), self.outputs])
        weights, first, second = (Blocks(*blocks[i : i + 4]) for i in (0, 4, 8))
        for i in range(self.runs):
            yield weights.one(i), first.one(i), second.one(i), outputs[:, i : i + 1]

    def values(self, rows: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
        """Return one value, or K values, of every run as a float32 tensor (R,) or (R, K) on the device."""
        return on_device(rows, torch.float32, self.device)

    def settings(self, plans: Sequence[Plan], corrections: Sequence[Correction]) -> StepSettings:
        """Return the settings of a step, from the plan and the correction of each run."""
        rows, informed = [], False
        for c, p, k in zip(self.configs, plans, corrections, strict=True):
            o, information = c.optimiser, c.information.weights(p.epoch)
            informed |= any(information)
            (encoder_a, decoder_a), (encoder_b, decoder_b) = o.lr_scale.by_pathway()
            same = o.beta1, o.beta2, o.eps, o.weight_decay
            rates = [k.lr * encoder_a, k.lr * encoder_b, *(x for x in same for _ in range(2))]
            rates += [k.lr * decoder_a, *same, k.lr * decoder_b, *same]
            numbers = [number for t in self.terms for number in (*t.weights(c, p), *t.settings(c))]
            rows.append((
                k.lambda1, k.lambda2, k.lambda3, p.temperature_A, p.temperature_B, p.rho, 1 - p.rho,
                1 - p.grad_momentum, c.gradient_balance.low, c.gradient_balance.high, o.grad_clip,
                *information, *rates, *numbers,
            ))
        packed = self.values(rows).t().contiguous()
        return StepSettings.unpacked(packed, self.config, self.terms, informed, [k.lr for k in corrections])

    def prior_latents(self, draws: Streams) -> Tensor:
        """Draw the M prior latents (R, M, L) of one step."""
        return draws.normal(self.config.information.latents, self.config.model.latent_dim).to(self.device)

    def forward(
        self, x: Tensor, target: Tensor, eps: Tensor, s: StepSettings, latents: Tensor | None = None
    ) -> Pass:
        """Compute the forward pass of a batch, including the values and gradients of the loss terms.

        Args:
            x: (2R, B, 9): operations, first of all runs for encoder A, then of all runs for encoder B.
            target: (R, B, 9, 3): the same operations as one-hot classes.
            eps: (2, R, B, S L): noise ε of the S posterior samples of each operation.
            s: settings of the step.
            latents: (R, M, L): latents from the prior for the information terms. Both pathways read the same latents.
        """
        runs, batch = target.shape[:2]
        encoded = self._encoders.forward(x)
        mu, log_variance = encoded[-1].view(2, runs, batch, -1).chunk(2, -1)
        spread = (0.5 * log_variance).exp_().unsqueeze(3)
        noise = (spread * eps.reshape(2, runs, batch, self.samples, -1)).mul_(s.temperature.unsqueeze(-1))
        sampled = mu.unsqueeze(3) + noise
        z, target = sampled.flatten(2, 3), target.unsqueeze(2).expand(-1, -1, self.samples, -1, -1).flatten(1, 2)
        injected = inject(z, s.rho)
        if latents is not None:
            injected = torch.cat((injected, latents.expand(2, -1, -1, -1)), 2)
        code, gradients = losses.Batch(mu, log_variance, z, s.free_bits_per), losses.Gradients()
        decoded_b, decoded_a, values, alignment = self._side_streams.together(
            lambda: self._decoder_B.forward(injected[1]), lambda: self._decoder_A.forward(injected[0]),
            lambda: losses.compute_terms(self._code_terms, code, s.terms, gradients),
            lambda: losses.alignment(z) if self.aligns else None,
        )
        every = torch.stack((decoded_a[-1], decoded_b[-1]))
        whole = code.decoded(target, every[:, :, : z.shape[2]].view(2, *target.shape))
        values |= losses.compute_terms(self._output_terms, whole, s.terms, gradients)
        assert gradients.logits is not None
        d_logits, informed = gradients.logits.flatten(3), None
        if latents is not None and s.information is not None:
            settings = self.config.information
            informed, d_informed = losses.information_loss(
                every[:, :, z.shape[2] :], self.outputs, settings.decay, settings.margin, s.information
            )
            d_logits = torch.cat((d_logits, d_informed), 2)
        activations = encoded, decoded_a, decoded_b
        return Pass(
            values, gradients, z, noise.flatten(2, 3), sampled[:, :, :, 0], activations, alignment, informed, d_logits
        )

    def update(self, forward: Pass, s: StepSettings) -> StepRecord:
        """Take one optimiser step from a forward pass.

        The step computes the gradients, balances and clips them, applies AdamW, and updates the moving averages of the
        gradient norms.
        """
        scale = torch.ones_like(self.norms)
        if self.config.gradient_balance.enabled:
            ratio = self.norms.flip(0) / (self.norms + control.TINY)
            scale = torch.minimum(torch.maximum(ratio, s.scale_low), s.scale_high)
        # `differentiate` computes the gradients of L_A and L_B. λ, g and the clipping form one factor per pathway.
        factor = s.lambdas[:2] * scale
        self.differentiate(forward, s, factor)
        g, parts = self.gradients, self._part_norms
        self._side_streams.together(
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
        """Write the gradients of L_A (for pathway A) and of L_B (for pathway B) into the gradient blocks.

        The caller multiplies the gradients by `factor` (2, R) afterwards. This factor must not change the gradient of
        the alignment, which belongs to no single pathway. So this method divides the alignment's gradient by `factor`.
        """
        _, decoded_a, decoded_b = forward.activations
        d_b, d_a = self._side_streams.together(
            lambda: self._decoder_B.backward(decoded_b, forward.d_logits[1], to_input=True),
            lambda: self._decoder_A.backward(decoded_a, forward.d_logits[0], to_input=True),
        )
        sampled = forward.z.shape[2]  # The rest are prior latents, which come from no encoder.
        d_z = torch.stack((d_a[:, :sampled], d_b[:, :sampled])).mul_(s.kept)
        for pathway, gradient in forward.gradients.z.items():
            d_z[pathway].add_(gradient)
        if forward.alignment is not None:
            share = s.lambdas[2] / factor.clamp_min(control.TINY)
            d_z.addcmul_(forward.alignment.z, share[:, :, None, None])
        assert forward.gradients.mu is not None
        assert forward.gradients.log_variance is not None
        self.differentiate_encoders(forward, d_z, forward.gradients.mu, forward.gradients.log_variance)

    def differentiate_encoders(self, forward: Pass, d_z: Tensor, mu: Tensor, log_variance: Tensor) -> None:
        """Write the gradients of the encoders' weights into the gradient block.

        `d_z` is the gradient with respect to z. `mu` and `log_variance` are the gradients with respect to μ and s,
        without the part that comes through z.
        """
        # z = μ + τ σ ε, and so ∂z/∂s = (z - μ)/2.
        d_head = d_z.new_empty(*mu.shape[:-1], 2 * mu.shape[-1])
        d_mu, d_log_variance = d_head.chunk(2, -1)
        if self.samples == 1:
            torch.add(d_z, mu, out=d_mu)
            torch.addcmul(log_variance, d_z, forward.noise, value=0.5, out=d_log_variance)
        else:
            samples = *mu.shape[:3], self.samples, mu.shape[3]
            torch.add(d_z.reshape(samples).sum(3), mu, out=d_mu)
            through_z = (d_z * forward.noise).reshape(samples).sum(3)
            torch.add(log_variance, through_z, alpha=0.5, out=d_log_variance)
        self._encoders.backward(forward.activations[0], d_head.flatten(0, 1), to_input=False)

    def _adamw(self, divisor: Tensor, s: StepSettings) -> None:
        """Apply AdamW (Loshchilov & Hutter 2019) with the learning rate of each run.

        The gradients are first divided by `divisor` (2, R), which has one value per pathway and run.
        """
        if self.device.type == "cpu":
            step = torch.tensor(float(self.steps))
            for i, (config, rate) in enumerate(zip(self.configs, s.lr, strict=True)):
                o = config.optimiser
                scales = o.lr_scale.by_pathway()
                for pathway, network in ((0, 0), (0, 1), (1, 0), (1, 1)):
                    # torch.optim.AdamW(fused=True) calls this kernel, but it adds bookkeeping in every step.
                    weights, gradients, first, second = self._rows[i][pathway][network]
                    torch._fused_adamw_(
                        [weights], [gradients], [first], [second], [], [step],
                        lr=rate * scales[pathway][network], beta1=o.beta1, beta2=o.beta2,
                        weight_decay=o.weight_decay, eps=o.eps, amsgrad=False, maximize=False,
                        grad_scale=divisor[pathway, i],
                    )
            return
        self._taken.add_(1)
        parts = self.blocks, self.gradients, self.first_moments, self.second_moments
        learns = self.config.statenet.training != "none"  # StateNet learns from the gradients that AdamW used.

        def update(name: str, divisor: Tensor, rates: Tensor) -> None:
            weights, gradients, first, second = (getattr(part, name).flatten(0, -2) for part in parts)
            kernels.adamw(weights, gradients, first, second, divisor, rates, self._taken, learns)

        self._side_streams.together(
            partial(update, "decoder_B", divisor[1], s.rates[2]),
            partial(update, "encoders", divisor.flatten(), s.rates[0]),
            partial(update, "decoder_A", divisor[0], s.rates[1]),
        )

    def row(self, forward: Pass, record: StepRecord, s: StepSettings) -> Tensor:
        """Return the values (len(logged), R) of a step that are logged, in the order of `logged`."""
        informed = torch.zeros_like(record.norm)
        if forward.information is not None and s.information is not None:
            informed = forward.information.weighted(s.information)
        parts = [forward.values[term.name] for term in self.terms]
        parts += [record.scale, record.norm, s.lambdas, informed]
        return torch.cat(parts if forward.alignment is None else [*parts, forward.alignment.entropy])

    def figures(self, log: Tensor, z: Tensor) -> Figures:
        """Split the log (S, len(logged), R) of S steps by name. Return the values (S, R) and the latents z."""
        return Figures(dict(zip(self.logged, log.unbind(1), strict=True)), z)

    def moving(self) -> list[Tensor]:
        """Return every tensor that a step changes and the next step reads."""
        blocks = [b for part in (self.blocks, self.first_moments, self.second_moments) for b in part.trained()]
        return [*blocks, self.outputs, self.norms, self._taken]


def statenet_inputs(step: Stepper, plans: Sequence[Plan], forward: Pass) -> Tensor:
    """Return the nine inputs of StateNet for every run, (R, 9), from the first forward pass of an epoch."""
    scheduled = step.values([(p.grad_ratio, p.rho, p.lambda1, p.lambda2, p.lambda3) for p in plans])
    return torch.cat((batch_entropy(forward.z).t(), forward.values["kl"].t(), scheduled), 1)


def statenet_corrections(step: Stepper, plans: Sequence[Plan], inputs: Tensor) -> list[Correction]:
    """Return StateNet's correction of the plan of every run, from its inputs (R, 9)."""
    if not step.config.model.use_statenet:
        return [Correction.none(plan) for plan in plans]
    outputs = statenet(step.blocks, inputs).tolist()
    return [
        control.correct(config, plan, tuple(output))
        for config, plan, output in zip(step.configs, plans, outputs, strict=True)
    ]


def _on_cpu(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return copies of the tensors on the CPU. One transfer copies all tensors from a GPU."""
    if tensors[0].device.type == "cpu":
        return [tensor.clone() for tensor in tensors]
    whole = torch.cat([tensor.flatten() for tensor in tensors])
    host = torch.empty(whole.shape, dtype=whole.dtype, pin_memory=whole.device.type == "cuda").copy_(whole)
    parts = torch.split(host, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

"""The slow reference: v5.5 for one run, in plain torch, with autograd and torch.optim.AdamW.

The library trains several runs side by side. Tests check the library against this reference, and they check this
reference against the numbers that the original printed. All printed digits agree on machines that round products as the
machine of the original did. Training amplifies rounding differences. Here, the order of factors and the precision of
intermediate numbers are therefore the same as in the original. This module imports nothing from the library.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

SIZE = 3**9
OPERATIONS = torch.tensor([[i // 3**k % 3 - 1 for k in range(9)] for i in range(SIZE)], dtype=torch.float32)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(9, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()
        )
        self.fc_mu = nn.Linear(64, 16)
        self.fc_logvar = nn.Linear(64, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x)
        return self.fc_mu(h), self.fc_logvar(h)


class DecoderA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(
            nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 27)
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.decoder(z).view(-1, 9, 3)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.block(h)


class DecoderB(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc_in = nn.Linear(16, 128)
        self.residual1 = Residual()
        self.residual2 = Residual()
        self.fc_out = nn.Linear(128, 27)

    def forward(self, z: Tensor) -> Tensor:
        h = F.relu(self.residual1(F.relu(self.fc_in(z))))
        return self.fc_out(self.residual2(h)).view(-1, 9, 3)


class StateNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(9, 32), nn.LayerNorm(32), nn.Tanh(), nn.Linear(32, 8))
        self.decoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4), nn.Tanh())

    def forward(self, inputs: Tensor) -> Tensor:
        return self.decoder(self.encoder(inputs))


class ReferenceVAE(nn.Module):
    """The model. Its modules are in the order in which the original draws their initial weights."""

    grad_norm_A_ema: Tensor
    grad_norm_B_ema: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.encoder_A = Encoder()
        self.decoder_A = DecoderA()
        self.encoder_B = Encoder()
        self.decoder_B = DecoderB()
        self.state_net = StateNet()
        self.register_buffer("grad_norm_A_ema", torch.tensor(1.0))
        self.register_buffer("grad_norm_B_ema", torch.tensor(1.0))

    def pathway(self, name: str) -> list[nn.Parameter]:
        return [p for n, p in self.named_parameters() if n.startswith((f"encoder_{name}", f"decoder_{name}"))]


@dataclass
class Settings:
    """The settings of one step. The defaults are the settings of v5.5 in epoch 0."""

    rho: float = 0.1
    lambda1: float = 0.7
    lambda2: float = 0.7
    lambda3: float = 0.3
    temperature_A: float = 1.1
    temperature_B: float = 0.9
    beta_A: float = 0.0
    beta_B: float = 0.0
    grad_ratio: float = 1.0
    grad_ema_momentum: float = 0.95
    lr: float = 1e-3
    free_bits: float = 0.5
    entropy_weight: float = 0.05
    repulsion_weight: float = 0.01
    grad_clip: float = 1.0


@dataclass
class State:
    """The state of a run between two epochs."""

    model: ReferenceVAE
    validation: Tensor = field(default_factory=lambda: torch.arange(0))
    settings: Settings = field(default_factory=Settings)
    epoch: int = 0
    phase: int = 1
    coverage_ratio: float = 1.0
    best: float = math.inf
    best_epoch: int = 0
    optimiser: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=self.settings.lr, weight_decay=1e-4)


@dataclass(frozen=True)
class Epoch:
    """Means over batches, values of every batch, and corrections (Δlr, Δλ₁, Δλ₂, Δλ₃) of StateNet."""

    means: dict[str, float]
    records: list[dict[str, float]]
    corrections: list[float]


# --- Loss -----------------------------------------------------------------------------------------

Terms = dict[str, Tensor]


def latent_entropy(z: Tensor) -> Tensor:
    """Return H, the mean over latent dimensions of the entropy of a histogram with 50 bins over [-3, 3]."""
    entropies = []
    for column in z.detach().T:
        counts = torch.histc(column, bins=50, min=-3, max=3)
        p = counts / counts.sum()
        p = p[p > 0]
        entropies.append(-(p * p.log()).sum())
    return torch.stack(entropies).mean()


def cross_entropy(logits: Tensor, x: Tensor) -> Tensor:
    return F.cross_entropy(logits.reshape(-1, 3), (x + 1).long().flatten(), reduction="sum") / len(x)


def gaussian_kl(mu: Tensor, log_variance: Tensor, free_bits: float) -> Tensor:
    kl = -0.5 * (1 + log_variance - mu.pow(2) - log_variance.exp())
    return kl.clamp(min=free_bits).sum() / len(mu)


def output_entropy(logits: Tensor) -> Tensor:
    mean = torch.softmax(logits, -1).mean(0)
    return -(mean * (mean + 1e-10).log()).sum()


def repulsion(z: Tensor) -> Tensor:
    if len(z) < 2:
        return torch.zeros(())
    # Explicit differences would round differently, because cdist multiplies matrices above 25 rows.
    affinity = torch.exp(-torch.cdist(z, z).pow(2) / 0.25)
    return affinity[~torch.eye(len(z), dtype=torch.bool)].mean()


def loss_terms(
    model: ReferenceVAE, x: Tensor, eps_A: Tensor | None, eps_B: Tensor | None, settings: Settings
) -> Terms:
    """Return every term of the loss for one batch x (B, 9).

    Without noise (`eps_A` or `eps_B` is None), z = μ and the gradient scales are 1, as in evaluation.
    """
    s = settings
    mu_A, log_variance_A = model.encoder_A(x)
    mu_B, log_variance_B = model.encoder_B(x)
    z_A, z_B = mu_A, mu_B
    scale_A = scale_B = torch.ones(())
    if eps_A is not None and eps_B is not None:
        z_A = mu_A + eps_A * (0.5 * log_variance_A).exp() * s.temperature_A
        z_B = mu_B + eps_B * (0.5 * log_variance_B).exp() * s.temperature_B
        scale_A = (model.grad_norm_B_ema / (model.grad_norm_A_ema + 1e-8)).clamp(0.5, 2.0)
        scale_B = (model.grad_norm_A_ema / (model.grad_norm_B_ema + 1e-8)).clamp(0.5, 2.0)
    logits_A = model.decoder_A((1 - s.rho) * z_A + s.rho * z_B.detach())
    logits_B = model.decoder_B((1 - s.rho) * z_B + s.rho * z_A.detach())
    ce_A, ce_B = cross_entropy(logits_A, x), cross_entropy(logits_B, x)
    kl_A, kl_B = gaussian_kl(mu_A, log_variance_A, s.free_bits), gaussian_kl(mu_B, log_variance_B, s.free_bits)
    entropy_B, repulsion_B = output_entropy(logits_B), repulsion(z_B)
    loss_A = ce_A + s.beta_A * kl_A
    loss_B = ce_B + s.beta_B * kl_B - s.entropy_weight * entropy_B + s.repulsion_weight * repulsion_B
    H_A, H_B = latent_entropy(z_A), latent_entropy(z_B)
    entropy_align = (H_A - H_B).abs()
    loss = s.lambda1 * scale_A * loss_A + s.lambda2 * scale_B * loss_B + s.lambda3 * entropy_align
    return {
        "loss": loss, "ce_A": ce_A, "ce_B": ce_B, "kl_A": kl_A, "kl_B": kl_B, "loss_A": loss_A, "loss_B": loss_B,
        "entropy_B": entropy_B, "repulsion_B": repulsion_B, "entropy_align": entropy_align,
        "H_A": H_A, "H_B": H_B, "grad_scale_A": scale_A, "grad_scale_B": scale_B,
    }


# --- Step -----------------------------------------------------------------------------------------


def gradient_norm(model: ReferenceVAE, name: str) -> float:
    return math.sqrt(sum(p.grad.norm().item() ** 2 for p in model.pathway(name) if p.grad is not None))


def update(model: ReferenceVAE, optimiser: torch.optim.AdamW, loss: Tensor, settings: Settings) -> None:
    """Compute and clip the gradients, update the moving averages of the clipped norms, and take an AdamW step."""
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
    m = settings.grad_ema_momentum
    model.grad_norm_A_ema = m * model.grad_norm_A_ema + (1 - m) * gradient_norm(model, "A")
    model.grad_norm_B_ema = m * model.grad_norm_B_ema + (1 - m) * gradient_norm(model, "B")
    for group in optimiser.param_groups:
        group["lr"] = settings.lr
    optimiser.step()


def train_step(
    model: ReferenceVAE, optimiser: torch.optim.AdamW, x: Tensor, eps_A: Tensor, eps_B: Tensor, settings: Settings
) -> Terms:
    """Take one optimiser step and return the terms of the loss before the step."""
    terms = loss_terms(model, x, eps_A, eps_B, settings)
    update(model, optimiser, terms["loss"], settings)
    return terms


def statenet_corrections(model: ReferenceVAE, terms: Terms, settings: Settings) -> list[float]:
    """Return the corrections Δlr, Δλ₁, Δλ₂, Δλ₃ of StateNet, each in (-1, 1)."""
    s = settings
    inputs = [terms[name].item() for name in ("H_A", "H_B", "kl_A", "kl_B")]
    inputs += [s.grad_ratio, s.rho, s.lambda1, s.lambda2, s.lambda3]
    with torch.no_grad():
        corrections: list[float] = model.state_net(torch.tensor([inputs]))[0].tolist()
    return corrections


def corrected_lambda(value: float, correction: float, low: float, high: float) -> float:
    """Return λ + 0.01 Δ, clamped to the bounds.

    The computation is in float32 as in the original, because the last bit of λ changes the loss.
    """
    return (torch.tensor(value) + 0.01 * torch.tensor(correction)).clamp(low, high).item()


# --- Schedules by epoch ----------------------------------------------------------------------------


def clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def learning_rate(epoch: int) -> float:
    steps = {0: 1e-3, 50: 5e-4, 120: 3e-4, 180: 1e-4, 220: 5e-5, 250: 2e-5, 300: 1e-5, 350: 5e-6}
    return next(lr for start, lr in reversed(steps.items()) if epoch >= start)


def beta_A(epoch: int) -> float:
    return 0.3 * epoch / 50 if epoch < 50 else 0.3 + 0.5 * min((epoch - 50) / 350, 1)


def beta_B(epoch: int) -> float:
    return 0.0 if epoch < 50 else beta_A(epoch) * abs(math.sin(0.785))


def temperature_A(epoch: int) -> float:
    base = 1.0 - 0.7 * min(epoch / 400, 1)
    amplitude = 0.5 if epoch >= 250 else 0.1 * base
    return max(base + amplitude * math.cos(2 * math.pi * (epoch % 30) / 30), 0.1)


def temperature_B(epoch: int) -> float:
    return 0.3 if epoch >= 250 else 0.9 - 0.7 * min(max(0, epoch - 30) / 400, 1)


def lambda3(epoch: int) -> float:
    return 0.3 + 0.15 * math.cos(2 * math.pi * (epoch % 30) / 30 + math.pi / 2)


def rho(epoch: int, balanced: bool) -> float:
    if epoch >= 250:
        return 0.7
    if epoch < 40:
        return 0.1
    if epoch < 120:
        return 0.1 + 0.2 * (epoch - 40) / 80
    return 0.3 + 0.4 * min((epoch - 120) / 80, 1) if balanced else 0.3


def next_phase(epoch: int, balanced: bool, phase: int) -> int:
    """Return the phase of an epoch.

    From epoch 120 on, phase 3 begins when the gradients are balanced. Phase 3 then continues until phase 4.
    """
    if epoch >= 250:
        return 4
    if epoch < 40:
        return 1
    return 3 if epoch >= 120 and (balanced or phase == 3) else 2


# --- Epoch ----------------------------------------------------------------------------------------


def begin_epoch(state: State) -> None:
    """Set the gradient ratio r, the phase, ρ, the schedules and λ for the epoch `state.epoch`."""
    s, e, model = state.settings, state.epoch, state.model
    r = (model.grad_norm_B_ema / (model.grad_norm_A_ema + 1e-8)).item()
    balanced = 0.8 < r < 1.2
    s.grad_ratio, s.grad_ema_momentum = r, 0.95 if balanced else 0.5
    state.phase = next_phase(e, balanced, state.phase)
    s.rho, s.lr, s.lambda3 = rho(e, balanced), learning_rate(e), lambda3(e)
    s.beta_A, s.beta_B, s.temperature_A, s.temperature_B = beta_A(e), beta_B(e), temperature_A(e), temperature_B(e)
    if e == 0:
        return
    if r < 0.8:
        s.lambda1, s.lambda2 = s.lambda1 + 0.02, s.lambda2 - 0.02
    elif r > 1.2:
        s.lambda1, s.lambda2 = s.lambda1 - 0.02, s.lambda2 + 0.02
    elif balanced and state.coverage_ratio > 1.5:
        s.lambda1, s.lambda2 = s.lambda1 * 1.05, s.lambda2 * 0.95
    elif balanced and state.coverage_ratio < 0.67:
        s.lambda1, s.lambda2 = s.lambda1 * 0.95, s.lambda2 * 1.05
    s.lambda1, s.lambda2 = clamp(s.lambda1, 0.5, 0.95), clamp(s.lambda2, 0.5, 0.95)


def train_epoch(state: State, batches: Iterable[Tensor], noise: Iterable[tuple[Tensor, Tensor]]) -> Epoch:
    """Train one epoch over batches of operation indices. Each batch has a pair of noise tensors (ε_A, ε_B).

    Call `begin_epoch` before.
    """
    s = state.settings
    records: list[dict[str, float]] = []
    corrections: list[float] = []
    for batch, (eps_A, eps_B) in zip(batches, noise, strict=True):
        terms = loss_terms(state.model, OPERATIONS[batch], eps_A, eps_B, s)
        record = {"lambda1": s.lambda1, "lambda2": s.lambda2, "lambda3": s.lambda3}
        first = not records
        if first:  # The correction of lr is applied before this step, the correction of λ after it.
            corrections = statenet_corrections(state.model, terms, s)
            s.lr = clamp(s.lr * (1 + 0.05 * corrections[0]), 1e-6, 0.01)
        update(state.model, state.optimiser, terms["loss"], s)
        if first:
            s.lambda1 = corrected_lambda(s.lambda1, corrections[1], 0.5, 0.95)
            s.lambda2 = corrected_lambda(s.lambda2, corrections[2], 0.5, 0.95)
            s.lambda3 = corrected_lambda(s.lambda3, corrections[3], 0.15, 0.75)
        records.append({name: value.item() for name, value in terms.items()} | record)
    means = {name: sum(record[name] for record in records) / len(records) for name in records[0]}
    return Epoch(means, records, corrections)


def validate(state: State, batches: Iterable[Tensor] | None = None) -> float:
    """Return the validation loss, the mean over batches of 64 operations, with β and λ of the epoch."""
    with torch.no_grad():
        losses = [
            loss_terms(state.model, OPERATIONS[batch], None, None, state.settings)["loss"].item()
            for batch in (state.validation.split(64) if batches is None else batches)
        ]
    return sum(losses) / len(losses)


def end_epoch(state: State, validation_loss: float, unique_A: int, unique_B: int) -> bool:
    """Move to the next epoch and return whether the run stops early."""
    state.coverage_ratio = unique_B / max(unique_A, 1)
    if validation_loss < state.best:
        state.best, state.best_epoch = validation_loss, state.epoch
    stops = state.epoch - state.best_epoch >= 100
    state.epoch += 1
    return stops


# --- Runs of the original, with random numbers in its order ----------------------------------------


def sampled_coverage(model: ReferenceVAE, name: str, draws: int = 195_000) -> int:
    """Return the number of different operations among categorical draws.

    The global generator draws a thousand latents at a time.
    """
    decoder = model.decoder_A if name == "A" else model.decoder_B
    seen: set[int] = set()
    with torch.no_grad():
        for _ in range(draws // 1000):
            entries = torch.distributions.Categorical(logits=decoder(torch.randn(1000, 16))).sample()
            seen.update((entries * 3 ** torch.arange(9)).sum(-1).tolist())
    return len(seen)


def shuffled(indices: Tensor, shuffle: bool) -> Sequence[Tensor]:
    """Return the batches of a DataLoader.

    Even without shuffling, a DataLoader draws a base seed from the global generator.
    """
    return [batch for (batch,) in DataLoader(TensorDataset(indices), batch_size=64, shuffle=shuffle)]


def original_epochs(seed: int) -> Iterator[tuple[dict[str, float], list[dict[str, float]]]]:
    """Yield the row that the original prints after each epoch, and the values of every batch of the epoch.

    As in the original, the seed of the run also determines the split.
    """
    torch.manual_seed(seed)
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(seed))
    train, validation = order[:15_746], order[15_746:17_714]
    state = State(ReferenceVAE(), validation)
    while True:
        epoch = state.epoch
        begin_epoch(state)
        batches = shuffled(train, shuffle=True)
        noise = ((torch.randn(len(b), 16), torch.randn(len(b), 16)) for b in batches)
        trained = train_epoch(state, batches, noise)
        validation_loss = validate(state, shuffled(validation, shuffle=False))
        unique_A, unique_B = sampled_coverage(state.model, "A"), sampled_coverage(state.model, "B")
        s, m, deltas = state.settings, trained.means, trained.corrections
        row = {
            "epoch": epoch, "train_loss": m["loss"], "val_loss": validation_loss,
            **{name: m[name] for name in ("ce_A", "kl_A", "H_A", "ce_B", "kl_B", "H_B")},
            **{name: m[name] for name in ("lambda1", "lambda2", "lambda3")},
            "phase": state.phase, "rho": s.rho, "grad_ratio": s.grad_ratio, "grad_momentum": s.grad_ema_momentum,
            "temperature_A": s.temperature_A, "temperature_B": s.temperature_B,
            "beta_A": s.beta_A, "beta_B": s.beta_B, "lr_scheduled": learning_rate(epoch), "lr": s.lr,
            **dict(zip(("delta_lr", "delta_lambda1", "delta_lambda2", "delta_lambda3"), deltas, strict=True)),
            "unique_ops_A": unique_A, "coverage_A": 100 * unique_A / SIZE,
            "unique_ops_B": unique_B, "coverage_B": 100 * unique_B / SIZE,
        }
        yield row, trained.records
        if end_epoch(state, validation_loss, unique_A, unique_B):
            return

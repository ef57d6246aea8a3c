"""The slow, obvious reference: v5.5 for one run, in plain torch, with autograd and torch.optim.AdamW.

The fast, run-batched implementation is checked against this one, and this one against what the
original printed. It imports nothing from the library.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

SIZE = 3**9
OPERATIONS = torch.tensor([[(i // 3**k) % 3 - 1 for k in range(9)] for i in range(SIZE)], dtype=torch.float32)


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
        self.decoder = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 27))

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
    """Modules in the order in which the original draws their initial weights."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder_A = Encoder()
        self.decoder_A = DecoderA()
        self.encoder_B = Encoder()
        self.decoder_B = DecoderB()
        self.state_net = StateNet()

    def pathway(self, name: str) -> list[nn.Parameter]:
        return [p for n, p in self.named_parameters() if n.startswith((f"encoder_{name}", f"decoder_{name}"))]


@dataclass
class Settings:
    """What one batch's loss reads; the defaults are those of v5.5's epoch 0."""

    rho: float = 0.1
    lambda1: float = 0.7
    lambda2: float = 0.7
    lambda3: float = 0.3
    temperature_A: float = 1.1
    temperature_B: float = 0.9
    beta_A: float = 0.0
    beta_B: float = 0.0
    momentum: float = 0.95
    lr: float = 1e-3
    grad_ratio: float = 1.0


@dataclass
class State:
    """A run between two steps."""

    model: ReferenceVAE
    settings: Settings = field(default_factory=Settings)
    norm_A: Tensor = field(default_factory=lambda: torch.ones(()))
    norm_B: Tensor = field(default_factory=lambda: torch.ones(()))
    optimiser: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=self.settings.lr, weight_decay=1e-4)


def histogram_entropy(z: Tensor) -> float:
    """H: mean over dimensions of the 50-bin entropy over [-3, 3]."""
    total = 0.0
    for column in z.detach().T:
        counts = torch.histc(column, bins=50, min=-3, max=3)
        p = counts / counts.sum()
        p = p[p > 0]
        total += -(p * p.log()).sum().item()
    return total / z.shape[1]


def gaussian_kl(mu: Tensor, log_variance: Tensor, free_bits: float = 0.5) -> Tensor:
    kl = -0.5 * (1 + log_variance - mu.pow(2) - log_variance.exp())
    return kl.clamp(min=free_bits).sum() / len(mu)


def cross_entropy(logits: Tensor, x: Tensor) -> Tensor:
    return F.cross_entropy(logits.reshape(-1, 3), (x + 1).long().flatten(), reduction="sum") / len(x)


def output_entropy(logits: Tensor) -> Tensor:
    mean = torch.softmax(logits, -1).mean(0)
    return -(mean * (mean + 1e-10).log()).sum()


def repulsion(z: Tensor) -> Tensor:
    if len(z) < 2:
        return torch.zeros(())
    squared = (z.unsqueeze(0) - z.unsqueeze(1)).pow(2).sum(-1)
    return torch.exp(-squared / 0.25)[~torch.eye(len(z), dtype=torch.bool)].mean()


Terms = dict[str, Tensor | float]


def number(value: Tensor | float) -> float:
    return value.item() if isinstance(value, Tensor) else value


def loss_terms(state: State, x: Tensor, eps_A: Tensor | None, eps_B: Tensor | None, free_bits: float = 0.5) -> Terms:
    """Every term for one batch x (B, 9). No noise: evaluation, z = μ and gradient scales 1."""
    s, model = state.settings, state.model
    mu_A, log_variance_A = model.encoder_A(x)
    mu_B, log_variance_B = model.encoder_B(x)
    z_A, z_B = mu_A, mu_B
    scale_A = scale_B = torch.ones(())
    if eps_A is not None and eps_B is not None:
        # In this order of the factors: the original's last bits depend on it.
        z_A = mu_A + eps_A * (0.5 * log_variance_A).exp() * s.temperature_A
        z_B = mu_B + eps_B * (0.5 * log_variance_B).exp() * s.temperature_B
        scale_A = (state.norm_B / (state.norm_A + 1e-8)).clamp(0.5, 2.0)
        scale_B = (state.norm_A / (state.norm_B + 1e-8)).clamp(0.5, 2.0)
    logits_A = model.decoder_A((1 - s.rho) * z_A + s.rho * z_B.detach())
    logits_B = model.decoder_B((1 - s.rho) * z_B + s.rho * z_A.detach())
    ce_A, ce_B = cross_entropy(logits_A, x), cross_entropy(logits_B, x)
    kl_A, kl_B = gaussian_kl(mu_A, log_variance_A, free_bits), gaussian_kl(mu_B, log_variance_B, free_bits)
    entropy_B, repulsion_B = output_entropy(logits_B), repulsion(z_B)
    loss_A = ce_A + s.beta_A * kl_A
    loss_B = ce_B + s.beta_B * kl_B - 0.05 * entropy_B + 0.01 * repulsion_B
    h_A, h_B = histogram_entropy(z_A), histogram_entropy(z_B)
    loss = s.lambda1 * scale_A * loss_A + s.lambda2 * scale_B * loss_B + s.lambda3 * abs(h_A - h_B)
    return {
        "loss": loss, "ce_A": ce_A, "ce_B": ce_B, "kl_A": kl_A, "kl_B": kl_B, "loss_A": loss_A, "loss_B": loss_B,
        "entropy_B": entropy_B, "repulsion_B": repulsion_B, "H_A": h_A, "H_B": h_B,
        "entropy_align": abs(h_A - h_B), "grad_scale_A": scale_A, "grad_scale_B": scale_B,
    }


def update(state: State, loss: Tensor) -> None:
    """Differentiate, clip, take an AdamW step, and move the averages of the gradient norms."""
    state.optimiser.zero_grad()
    loss.backward()
    trained = state.model.pathway("A") + state.model.pathway("B")
    nn.utils.clip_grad_norm_(trained, 1.0)
    m = state.settings.momentum
    norms = [
        math.sqrt(sum(p.grad.norm().item() ** 2 for p in state.model.pathway(name) if p.grad is not None))
        for name in "AB"
    ]
    state.norm_A = m * state.norm_A + (1 - m) * norms[0]
    state.norm_B = m * state.norm_B + (1 - m) * norms[1]
    for group in state.optimiser.param_groups:
        group["lr"] = state.settings.lr
    state.optimiser.step()


def correct(state: State, terms: Terms) -> list[float]:
    """StateNet's corrections from the epoch's first batch: lr at once, λ for the caller to put in force."""
    s = state.settings
    inputs = [number(terms[name]) for name in ("H_A", "H_B", "kl_A", "kl_B")]
    inputs += [s.grad_ratio, s.rho, s.lambda1, s.lambda2, s.lambda3]
    with torch.no_grad():
        deltas: list[float] = state.model.state_net(torch.tensor([inputs]))[0].tolist()
    s.lr = min(max(s.lr * (1 + 0.05 * deltas[0]), 1e-6), 0.01)
    return deltas


def train_epoch(state: State, batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> dict[str, float]:
    """An epoch over (x, ε_A, ε_B), corrections of StateNet included; returns the means over batches."""
    s = state.settings
    rows: list[dict[str, float]] = []
    deltas: list[float] = []
    for x, eps_A, eps_B in batches:
        terms = loss_terms(state, x, eps_A, eps_B)
        lambdas = {"lambda1": s.lambda1, "lambda2": s.lambda2, "lambda3": s.lambda3}
        if not rows:
            deltas = correct(state, terms)
        loss = terms["loss"]
        assert isinstance(loss, Tensor)
        update(state, loss)
        if not rows:
            s.lambda1 = min(max(s.lambda1 + 0.01 * deltas[1], 0.5), 0.95)
            s.lambda2 = min(max(s.lambda2 + 0.01 * deltas[2], 0.5), 0.95)
            s.lambda3 = min(max(s.lambda3 + 0.01 * deltas[3], 0.15), 0.75)
        rows.append({name: number(value) for name, value in terms.items()} | lambdas)
    means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    names = ("delta_lr", "delta_lambda1", "delta_lambda2", "delta_lambda3")
    return means | dict(zip(names, deltas, strict=True)) | {"lr": s.lr}


def validate(state: State, batches: Iterable[Tensor]) -> float:
    """Validation loss: mean over batches."""
    with torch.no_grad():
        losses = [number(loss_terms(state, x, None, None)["loss"]) for x in batches]
    return sum(losses) / len(losses)


def sampled_coverage(model: ReferenceVAE, name: str, draws: int = 195_000) -> int:
    """Distinct operations among categorical draws from the global generator, a thousand at a time."""
    seen: set[tuple[int, ...]] = set()
    decoder = getattr(model, f"decoder_{name}")
    with torch.no_grad():
        for _ in range(draws // 1000):
            drawn = torch.distributions.Categorical(logits=decoder(torch.randn(1000, 16))).sample()
            seen.update(map(tuple, drawn.tolist()))
    return len(seen)


def original_epoch_zero(seed: int) -> dict[str, float]:
    """Epoch 0 as the original runs it, every random number in its order."""
    torch.manual_seed(seed)
    state = State(ReferenceVAE())
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(seed))
    train, validation = OPERATIONS[order[:15_746]], OPERATIONS[order[15_746:17_714]]

    def noisy(loader: Iterable[Tensor]) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        for x in loader:
            yield x, torch.randn(len(x), 16), torch.randn(len(x), 16)

    row = train_epoch(state, noisy(DataLoader(train, batch_size=64, shuffle=True)))  # type: ignore[arg-type]
    row["train_loss"] = row.pop("loss")
    row["val_loss"] = validate(state, DataLoader(validation, batch_size=64))  # type: ignore[arg-type]
    for name in "AB":
        row[f"unique_ops_{name}"] = sampled_coverage(state.model, name)
        row[f"coverage_{name}"] = 100 * row[f"unique_ops_{name}"] / SIZE
    return row

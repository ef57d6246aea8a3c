"""Would something simpler do? Other generators with v5.5's number of parameters, batches and epochs.

    beta_vae_A, beta_vae_B   one Gaussian VAE with decoder A's or B's architecture and a larger encoder, loss CE + β KL
                             (Kingma & Welling 2014; β: Higgins et al. 2017)
    categorical_vae          nine latents of three classes, relaxed by Gumbel-softmax (Jang, Gu & Poole 2017;
                             Maddison, Mnih & Teh 2017), loss CE + β KL; its 19,683 codes are enumerated
    autoregressive           p(x) = Π_k p(x_k | x_<k), one network for all k (Larochelle & Murray 2011); enumerated
    random_map, uniform      floors: a random sharp decoder, and noise

No β is chosen: each of `BETAS` is a row. All runs of a family are trained side by side, each from its own streams, with
v5.5's optimiser. The table has a row per model and seed; None where a metric has no meaning:

    parameters, seconds      weights; training time of a run, as its share of those beside it
    those of `evaluation.PathwayEvaluation`, where neg_iwae is exact for enumerated models and a 64-sample bound else
    neg_log_p                -ln p(x), mean over the test split, from the output distribution
    reconstruction_{train,validation,test}
"""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor
from tqdm import tqdm

from ternary_lab import config, config_files, space, splits
from ternary_lab.backend.devices import resolve_device
from ternary_lab.backend.numerics import fenced
from ternary_lab.backend.random_streams import stream
from ternary_lab.errors import CheckpointError, ConfigError, DivergenceError
from ternary_lab.metrics import baselines, coverage
from ternary_lab.metrics.evaluate import SAMPLES, Evaluation, evaluate
from ternary_lab.metrics.information import Information, decoder_sums
from ternary_lab.metrics.latent_entropy import ACTIVE
from ternary_lab.model import LOGITS, PATHWAYS, Architecture, Pathway, TernaryVAE, gaussian_kl
from ternary_lab.networks import Blocks, Bound, Layer, Network
from ternary_lab.runs.files import write_atomically
from ternary_lab.runs.load import RunSet
from ternary_lab.space import one_hot
from ternary_lab.training.train import check_seeds

BETAS = (0.1, 0.3, 1.0)
EPOCHS = 104
EPOCH = 100
"""Of v5.5: the last that every run kept. Its runs end on their own after 103 to 107."""
LATENTS = 2**20
CODES = space.ENTRIES * space.VALUES
"""Width of nine one-hot latents."""
ABOUT = "ternary-lab-alternative"
"""The header's only key."""
COOLEST = 0.3
"""Gumbel-softmax temperature at the end; 1 at the start, linear in between."""


class Family(ABC):
    """A kind of model; the runs trained side by side are rows of its networks' blocks."""

    networks: tuple[Network, ...]
    betas: tuple[float | None, ...]

    @property
    def parameters(self) -> int:
        return sum(network.size for network in self.networks)

    @abstractmethod
    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """What the losses of n operations read besides them: (n, width)."""

    @abstractmethod
    def loss(self, blocks: Sequence[Tensor], x: Tensor, noise: Tensor, beta: Tensor, progress: float) -> Tensor:
        """(R,) of operations x (R, B, 9) with noise (R, B, width); `progress` goes from 0 to 1 over the training."""

    @abstractmethod
    def measure(self, blocks: Sequence[Tensor], seed: int, latents: int) -> dict[str, float | None]:
        """The metrics of the first run of the blocks."""


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
        """As the pathway of a dual model whose other decoder is empty."""
        encoder, decoder = (block.detach()[:1] for block in blocks)
        empty = Architecture(self.settings).empty()
        decoders = {"A": empty.decoder_A.to(decoder), "B": empty.decoder_B.to(decoder), self.pathway: decoder}
        return TernaryVAE(
            self.settings,
            Blocks(torch.stack((encoder, encoder)), decoders["A"], decoders["B"], empty.statenet.to(decoder)),
        )

    def measure(self, blocks: Sequence[Tensor], seed: int, latents: int) -> dict[str, float | None]:
        return row(evaluate(self.model(blocks), latents=latents, seed=seed), self.pathway)


class CategoricalVAE(Family):
    """Nine latents of three classes, uniform prior, and a decoder of B's kind."""

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
        """All 19,683 codes are enumerated: nothing is sampled but the sampled coverage."""
        encoder, decoder = self.networks
        bound, device = Bound(decoder, blocks[1][:1]), blocks[1].device

        def decode(z: Tensor) -> Tensor:
            return bound.infer(z).view(len(z), space.ENTRIES, space.VALUES, z.shape[2])

        tables = space.operations().to(device)
        codes = one_hot(tables).flatten(1)
        info = decoder_sums(decode, codes.t().unsqueeze(0)).information(exact=True)
        log_q = _entries(encoder(blocks[0][:1], tables.unsqueeze(0))).log_softmax(-1)[0]
        log_p = torch.log_softmax(decode(codes.t().unsqueeze(0))[0], 1).permute(2, 0, 1)
        test = _parts().test.to(device)
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
        return _figures(info, int(seen.sum())) | _reconstruction((decoded == tables).all(1)) | {
            "neg_elbo": float((distortion + rate).mean()),
            "neg_iwae": _neg_log_p(info.p[0]),
            "active_units": float((log_q.exp().var(0).sum(-1) > ACTIVE).sum()),
        }


class Autoregressive(Family):
    """Each entry from those before it: a network that sees them one-hot, zeros for the rest, and which one is asked."""

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
        """ln p(x_k = v | x_<k): (R, B, 9, 3) of operations x (R, B, 9)."""
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
        """p(x) of every operation is a product of nine outputs; there is no latent to be informed about."""
        tables = space.operations().to(blocks[0].device)
        log_p = (self._log_p(blocks[0][:1], tables.unsqueeze(0))[0] * one_hot(tables)).sum((1, 2)).double()
        p = log_p.exp()
        # On the CPU: on a GPU the running sums that it draws by differ in their last digits from one time to the next.
        drawn = torch.multinomial(p.cpu(), SAMPLES, replacement=True, generator=stream(seed, "coverage"))
        output = Information(0, p.unsqueeze(0), *[torch.full((1,), float("nan"))] * 4)
        entropy = float(-(p * log_p).sum())
        values = _figures(output, len(torch.unique(drawn)))
        values |= dict.fromkeys(
            ("decoder_noise", "information", "informative_coverage", "effective_coverage", "active_units")
        )
        values |= {f"reconstruction_{part}": None for part in ("train", "validation", "test")}
        exact = _neg_log_p(p)
        return values | {"output_entropy": entropy, "neg_elbo": exact, "neg_iwae": exact}


@cache
def families() -> dict[str, Family]:
    """Every family by name."""
    return {
        "beta_vae_A": BetaVAE("A"), "beta_vae_B": BetaVAE("B"), "categorical_vae": CategoricalVAE(),
        "autoregressive": Autoregressive(),
    }


@dataclass(frozen=True)
class Trained:
    """The weights of several runs of one family, and which run each row is."""

    blocks: list[Tensor]
    betas: list[float | None]
    seeds: list[int]
    epochs: int
    seconds: float
    """Training time of one run: its share."""

    def to(self, device: torch.device) -> Trained:
        return replace(self, blocks=[block.to(device) for block in self.blocks])


@fenced
def train_family(
    family: Family,
    seeds: Sequence[int],
    epochs: int = EPOCHS,
    *,
    device: str | torch.device = "cpu",
    progress: bool = False,
    name: str = "",
) -> Trained:
    """Train every β of a family from every seed, side by side, on v5.5's split, batches and learning rates.

    Raises ConfigError for bad seeds or no epochs, DivergenceError for a loss that is not finite.
    """
    check_seeds(seeds)
    if epochs < 1:
        raise ConfigError(f"epochs must be at least 1, got {epochs}")
    settings, place = config_files.load_config("v5_5"), resolve_device(device)
    o, batch = settings.optimiser, settings.data.batch_size
    runs = [(beta, seed) for beta in family.betas for seed in seeds]
    beta = torch.tensor([1.0 if beta is None else beta for beta, _ in runs], device=place)
    blocks = [torch.zeros(len(runs), network.size) for network in family.networks]
    for i, (_, seed) in enumerate(runs):
        generator = torch.Generator().manual_seed(seed)
        for network, block in zip(family.networks, blocks, strict=True):
            network.initialise(block[i], generator)
    blocks = [block.to(place).requires_grad_() for block in blocks]
    optimiser = torch.optim.AdamW(
        blocks, lr=o.lr_steps[0], betas=(o.beta1, o.beta2), eps=o.eps, weight_decay=o.weight_decay, fused=True
    )
    tables = space.operations(space.split(settings.data.split_seed).train).to(place)
    started = time.perf_counter()
    for epoch in tqdm(range(epochs), desc=name, unit="epoch", disable=not progress):
        optimiser.param_groups[0]["lr"] = settings.lr(epoch)
        # Drawn on the CPU: the same numbers on every device.
        x = torch.stack([tables[_order(len(tables), seed, epoch)] for _, seed in runs])
        noise = torch.stack([family.noise(len(tables), stream(seed, "noise", epoch)) for _, seed in runs]).to(place)
        for start in range(0, len(tables), batch):
            part = slice(start, start + batch)
            loss = family.loss(blocks, x[:, part], noise[:, part], beta, epoch / max(epochs - 1, 1))
            loss.sum().backward()  # type: ignore[no-untyped-call]
            _clip(blocks, o.grad_clip)
            optimiser.step()
            optimiser.zero_grad()
        if not bool(loss.isfinite().all()):
            raise DivergenceError(f"{name or 'alternative'}: the loss was not finite in epoch {epoch}")
    seconds = (time.perf_counter() - started) / len(runs)
    return Trained([block.detach() for block in blocks], [b for b, _ in runs], [s for _, s in runs], epochs, seconds)


def save_trained(path: Path, trained: Trained) -> None:
    """Write weights and what they are as safetensors, atomically. Raises RunError when the disk refuses."""
    about = {name: getattr(trained, name) for name in ("betas", "seeds", "epochs", "seconds")}
    tensors = {f"block.{i}": block.cpu().contiguous() for i, block in enumerate(trained.blocks)}
    write_atomically(path, save_tensors(tensors, {ABOUT: json.dumps(about)}))


def load_trained(path: Path) -> Trained:
    """Read what `save_trained` wrote. Raises CheckpointError for anything else."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()[ABOUT])
            blocks = [file.get_tensor(f"block.{i}") for i in range(len(file.keys()))]
        return Trained(blocks, about["betas"], about["seeds"], about["epochs"], about["seconds"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not weights of an alternative: {error}: delete it to train again") from None


@fenced
def benchmark(
    seeds: Sequence[int],
    run_dir: str | Path = "runs/alternatives",
    *,
    runs: RunSet | None = None,
    epochs: int = EPOCHS,
    latents: int = LATENTS,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> pd.DataFrame:
    """Train and measure every family and the floors: the table, a row per model and seed, after those of `runs`.

    Weights are kept in `run_dir`; families that it holds for the same seeds and epochs are not trained again.
    Raises what `train_family` and `load_trained` raise.
    """
    folder, place = Path(run_dir), resolve_device(device)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    if runs is not None:
        chosen = RunSet({seed: runs[seed] for seed in seeds})
        rows += rows_of(chosen, latents=latents, device=place, progress=progress)
    for name, family in families().items():
        path = folder / f"{name}.safetensors"
        trained = load_trained(path) if path.exists() else None
        if trained is None or trained.epochs != epochs or set(trained.seeds) != set(seeds):
            trained = train_family(family, seeds, epochs, device=place, progress=progress, name=name)
            save_trained(path, trained)
        rows += measured(name, trained.to(place), latents, progress=progress)
    rows += floors(seeds, latents, device=place)
    return pd.DataFrame(rows)


@fenced
def measured(
    name: str, trained: Trained, latents: int = LATENTS, *, progress: bool = False
) -> Iterator[dict[str, Any]]:
    """A row of the table for every run."""
    family = families()[name]
    runs = list(zip(trained.betas, trained.seeds, strict=True))
    for i, (beta, seed) in enumerate(tqdm(runs, desc=f"measure {name}", unit="run", disable=not progress)):
        values = family.measure([block[i : i + 1] for block in trained.blocks], seed, latents)
        yield {"model": name, "beta": beta, "seed": seed, "parameters": family.parameters,
               "seconds": trained.seconds, **values}


@fenced
def rows_of(
    runs: RunSet, epoch: int = EPOCH, latents: int = LATENTS, *, device: str | torch.device = "cpu",
    progress: bool = False,
) -> Iterator[dict[str, Any]]:
    """Rows of both pathways of trained runs of v5.5: models `v5_5_A` and `v5_5_B`, the parameters those of both."""
    for seed, run in tqdm(runs.items(), desc="measure v5.5", unit="run", disable=not progress):
        point, history = run.checkpoint(epoch), run.history
        found = evaluate(point.model().to(device), latents=latents, seed=seed)
        beside = max(len(point.cohort), 1)
        seconds = float(history.loc[history["epoch"] <= epoch, "seconds_train"].sum()) / beside
        for pathway in PATHWAYS:
            yield {"model": f"v5_5_{pathway}", "beta": None, "seed": seed,
                   "parameters": Architecture(run.config.model).parameters, "seconds": seconds, **row(found, pathway)}


@fenced
def floors(
    seeds: Sequence[int], latents: int = LATENTS, *, device: str | torch.device = "cpu"
) -> Iterator[dict[str, Any]]:
    """Rows of the models that learn nothing."""
    for seed in seeds:
        model, collapsed = baselines.random_map(seed).to(device), baselines.collapsed().to(device)
        size = model.core.architecture.decoder_A.size
        yield {"model": "random_map", "beta": None, "seed": seed, "parameters": size, "seconds": 0.0,
               **row(evaluate(model, latents=latents, seed=seed), "A")}
        yield {"model": "uniform", "beta": None, "seed": seed, "parameters": 0, "seconds": 0.0,
               **row(evaluate(collapsed, latents=64, seed=seed), "A")}


def row(evaluation: Evaluation, pathway: Pathway) -> dict[str, float | None]:
    """The metrics of one pathway of a model that was evaluated."""
    values: dict[str, float | None] = asdict(evaluation.A if pathway == "A" else evaluation.B)
    for name in ("unique_operations", "uniform_baseline", "expected_coverage", "informative_coverage_raw"):
        del values[name]
    parts = evaluation.reconstruction[pathway]
    values |= {f"reconstruction_{part}": getattr(parts, part) for part in ("train", "validation", "test")}
    p = evaluation.output[pathway]
    return values | {"neg_log_p": _neg_log_p(p), "missing_mass": _missing(p), "n99": _draws(p),
                     "rarest": float(p.min()) * space.SIZE}


def _figures(info: Information, unique: int) -> dict[str, float | None]:
    p = info.p[0]
    return {
        "sampled_coverage": 100 * unique / space.SIZE,
        **{name: float(getattr(info, name)[0]) for name in (
            "output_entropy", "decoder_noise", "information", "informative_coverage", "effective_coverage",
        )},
        "missing_mass": _missing(p), "n99": _draws(p), "rarest": float(p.min()) * space.SIZE,
        "neg_log_p": _neg_log_p(p),
    }


def _parts() -> space.Split:
    """The split that all families are trained and tested on."""
    return splits.split(config.Data())


def _reconstruction(right: Tensor) -> dict[str, float | None]:
    parts = _parts()
    return {
        f"reconstruction_{name}": 100 * right[getattr(parts, name)].float().mean().item()
        for name in ("train", "validation", "test")
    }


def _neg_log_p(p: Tensor) -> float:
    return float(-p[_parts().test].log().mean())


def _missing(p: Tensor) -> float:
    return float(-p.log().mean()) - math.log(space.SIZE)


def _draws(p: Tensor) -> float:
    return coverage.draws_needed(p)


def _cross_entropy(logits: Tensor, x: Tensor) -> Tensor:
    """(R,) of logits (R, B, 27) and operations x (R, B, 9)."""
    return -(_entries(logits).log_softmax(-1) * one_hot(x)).sum((2, 3)).mean(1)


def _entries(flat: Tensor) -> Tensor:
    """(R, B, 27) as (R, B, 9, 3)."""
    return flat.view(*flat.shape[:-1], space.ENTRIES, space.VALUES)


def _order(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=stream(seed, "order", epoch))


@torch.no_grad()
def _clip(blocks: Sequence[Tensor], limit: float) -> None:
    """Bound the norm of each run's whole gradient."""
    gradients = [block.grad for block in blocks if block.grad is not None]
    norm = torch.stack([gradient.norm(dim=1) for gradient in gradients]).norm(dim=0)
    factor = (limit / (norm + 1e-6)).clamp(max=1).unsqueeze(1)
    for gradient in gradients:
        gradient.mul_(factor)


def _encoder(widths: tuple[int, ...], outputs: int) -> Network:
    sizes = (space.ENTRIES, *widths)
    hidden = [Layer((f"encoder.{i}",), sizes[i], sizes[i + 1], relu=True) for i in range(len(widths))]
    return Network((*hidden, Layer(("code",), sizes[-1], outputs)))


def _encoder_widths(pathway: Pathway) -> tuple[int, ...]:
    """Widths in v5.5's proportions 4 : 2 : 1 that bring encoder and decoder to v5.5's whole number of parameters."""
    architecture = Architecture(config.Model())
    decoder = {"A": architecture.decoder_A, "B": architecture.decoder_B}[pathway]
    heads = 2 * architecture.settings.latent_dim
    return _nearest_widths(architecture.parameters - decoder.size, lambda widths: _encoder(widths, heads))


def _nearest_widths(target: int, network: Callable[[tuple[int, ...]], Network]) -> tuple[int, ...]:
    candidates = [(4 * k, 2 * k, k) for k in range(8, 256)]
    return min(candidates, key=lambda widths: abs(network(widths).size - target))


assert LOGITS == CODES

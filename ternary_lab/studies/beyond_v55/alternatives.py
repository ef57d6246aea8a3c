"""Training and measurement of simpler generators, for a comparison with v5.5.

The generators are the families of models in `alternative_families`, which have about as many parameters as v5.5 and are
trained with v5.5's batches and epochs. Two generators are not trained: `random_map` is a random sharp decoder, and
`uniform` is noise. Each β has rows of its own in the table; no β is chosen. All runs of a family are trained side by
side with v5.5's optimiser. Each run has its own random streams. The table has a row per model, β and seed. The columns
include the metrics of `alternative_families` and these:

    parameters      number of weights
    seconds         training time of all runs that were trained side by side, divided by their number
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from ternary_lab import config_files, space
from ternary_lab.arguments import read_path, read_seeds, whole_number
from ternary_lab.backend.console import bar
from ternary_lab.backend.devices import resolve_device
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.backend.random_streams import stream
from ternary_lab.errors import CheckpointError, ConfigError, DivergenceError
from ternary_lab.metrics import baselines
from ternary_lab.metrics.evaluate import evaluate
from ternary_lab.model import PATHWAYS, Architecture
from ternary_lab.runs.files import require_writable, write_atomically
from ternary_lab.runs.load import RunSet
from ternary_lab.studies.beyond_v55.alternative_families import Family, families, pathway_metrics

EPOCHS = 104
EPOCH = 100
"""Epoch at which v5.5 is measured: the last epoch whose weights every run kept.

Early stopping ended the runs of v5.5 at epoch 103 or later.
"""
LATENTS = 2**20
ABOUT = "ternary-lab-alternative"
"""The only key in the header of a weight file."""


@dataclass(frozen=True)
class Trained:
    """Weights of several runs of one family, with the β and the seed of each run."""

    blocks: list[Tensor]
    betas: list[float | None]
    seeds: list[int]
    epochs: int
    seconds: float
    """Training time of all runs, divided by their number."""

    def to(self, device: torch.device) -> Trained:
        return replace(self, blocks=[block.to(device) for block in self.blocks])


@with_fixed_arithmetic
def train_family(
    family: Family,
    seeds: Iterable[int],
    epochs: int = EPOCHS,
    *,
    device: str | torch.device = "cpu",
    progress: bool = False,
    name: str = "",
) -> Trained:
    """Train runs of a family with every β and every seed side by side, on v5.5's split, batches and learning rates.

    Raises ConfigError for bad seeds or no epochs, and DivergenceError for a loss that is not finite.
    """
    seeds, epochs = read_seeds(seeds), whole_number(epochs, "epochs", 1, error=ConfigError)
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
    for epoch in bar(range(epochs), desc=name, unit="epoch", show=progress):
        optimiser.param_groups[0]["lr"] = settings.lr(epoch)
        # The numbers are drawn on the CPU, so that they are the same for every device.
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
            where = f"{name or 'alternative'}, epoch {epoch}"
            raise DivergenceError(f"{where}: the loss was not finite: train with other seeds")
    seconds = (time.perf_counter() - started) / len(runs)
    return Trained([block.detach() for block in blocks], [b for b, _ in runs], [s for _, s in runs], epochs, seconds)


def save_trained(path: Path, trained: Trained) -> None:
    """Write weights and their description atomically as safetensors. Raises RunError if the file cannot be written."""
    about = {name: getattr(trained, name) for name in ("betas", "seeds", "epochs", "seconds")}
    tensors = {f"block.{i}": block.cpu().contiguous() for i, block in enumerate(trained.blocks)}
    write_atomically(path, save_tensors(tensors, {ABOUT: json.dumps(about)}))


def load_trained(path: Path) -> Trained:
    """Return the runs in a file of `save_trained`. Raises CheckpointError for any other file."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()[ABOUT])
            blocks = [file.get_tensor(f"block.{i}") for i in range(len(file.keys()))]
        return Trained(blocks, about["betas"], about["seeds"], about["epochs"], about["seconds"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not weights of an alternative: {error}: delete it to train again") from None


@with_fixed_arithmetic
def benchmark(
    seeds: Iterable[int],
    run_dir: str | Path = "runs/alternatives",
    *,
    runs: RunSet | None = None,
    epochs: int = EPOCHS,
    latents: int = LATENTS,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> pd.DataFrame:
    """Train every family, measure all generators and return the table.

    The table also has rows of v5.5's `runs` if they are given. Weights are kept in `run_dir`. A family is not trained
    again if `run_dir` contains its weights for the same seeds and epochs. Raises the errors of `train_family` and
    `load_trained`.
    """
    folder, place, seeds = read_path(run_dir), resolve_device(device), read_seeds(seeds)
    require_writable(folder / "table.csv")
    rows: list[dict[str, Any]] = []
    if runs is not None:
        some = RunSet({seed: runs[seed] for seed in seeds})
        rows += v5_5_rows(some, latents=latents, device=place, progress=progress)
    for name, family in families().items():
        path = folder / f"{name}.safetensors"
        trained = load_trained(path) if path.exists() else None
        if trained is None or trained.epochs != epochs or set(trained.seeds) != set(seeds):
            trained = train_family(family, seeds, epochs, device=place, progress=progress, name=name)
            save_trained(path, trained)
        rows += family_rows(name, trained.to(place), latents, progress=progress)
    rows += floor_rows(seeds, latents, device=place)
    return pd.DataFrame(rows)


@with_fixed_arithmetic
def family_rows(
    name: str, trained: Trained, latents: int = LATENTS, *, progress: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table for every run of a family."""
    family = families()[name]
    runs = list(zip(trained.betas, trained.seeds, strict=True))
    for i, (beta, seed) in enumerate(bar(runs, desc=f"measure {name}", unit="run", show=progress)):
        values = family.measure([block[i : i + 1] for block in trained.blocks], seed, latents)
        yield {"model": name, "beta": beta, "seed": seed, "parameters": family.parameters,
               "seconds": trained.seconds, **values}


@with_fixed_arithmetic
def v5_5_rows(
    runs: RunSet, epoch: int = EPOCH, latents: int = LATENTS, *, device: str | torch.device = "cpu",
    progress: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table for both pathways of v5.5's runs, as models `v5_5_A` and `v5_5_B`.

    `parameters` counts the weights of both pathways.
    """
    for seed, run in bar(runs.items(), desc="measure v5.5", unit="run", show=progress):
        point, history = run.checkpoint(epoch), run.history
        found = evaluate(point.model().to(device), latents=latents, seed=seed)
        beside = max(len(point.cohort), 1)
        seconds = float(history.loc[history["epoch"] <= epoch, "seconds_train"].sum()) / beside
        for pathway in PATHWAYS:
            yield {"model": f"v5_5_{pathway}", "beta": None, "seed": seed,
                   "parameters": Architecture(run.config.model).parameters, "seconds": seconds,
                   **pathway_metrics(found, pathway)}


@with_fixed_arithmetic
def floor_rows(
    seeds: Iterable[int], latents: int = LATENTS, *, device: str | torch.device = "cpu"
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table for the two generators that are not trained."""
    for seed in seeds:
        model, collapsed = baselines.random_map(seed).to(device), baselines.collapsed().to(device)
        size = model.core.architecture.decoder_A.size
        yield {"model": "random_map", "beta": None, "seed": seed, "parameters": size, "seconds": 0.0,
               **pathway_metrics(evaluate(model, latents=latents, seed=seed), "A")}
        yield {"model": "uniform", "beta": None, "seed": seed, "parameters": 0, "seconds": 0.0,
               **pathway_metrics(evaluate(collapsed, latents=64, seed=seed), "A")}


def _order(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=stream(seed, "order", epoch))


@torch.no_grad()
def _clip(blocks: Sequence[Tensor], limit: float) -> None:
    """Scale each run's gradient so that the norm of the whole gradient is at most `limit`."""
    gradients = [block.grad for block in blocks if block.grad is not None]
    norm = torch.stack([gradient.norm(dim=1) for gradient in gradients]).norm(dim=0)
    factor = (limit / (norm + 1e-6)).clamp(max=1).unsqueeze(1)
    for gradient in gradients:
        gradient.mul_(factor)

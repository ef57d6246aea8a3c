"""What a history does not tell: measures of the weights that a run kept, a row per checkpoint.

    PROBE = what           | columns
    reconstruction         | own_{train,validation,test}_{A,B}, injected_{A,B}: percent, argmax from μ, own code (ρ = 0)
                           | or injected with the checkpoint's ρ (over all N); own_left_out_* where a structure is;
                           | entries_*: likewise, percent of single entries
    test split, nats       | rate_*, distortion_* (their sum is -ELBO), iwae_* (-IWAE, 64 samples)
    test split, calibration| calibration_error_*, calibration_bias_*: of entries decoded from one posterior sample
    codes                  | ce_own_*, ce_injected_*, kl_*, norm_*, sigma_*, variance_min_*, active_*, cka
    coverage, percent      | coverage_10000_*, coverage_50000_*, coverage_195000_*: categorical draws;
                           | coverage_argmax_*: 50,000 decoded by argmax; union, jaccard of the 195,000 draws of A and B
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial, reduce
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from ternary_lab import space, splits
from ternary_lab.backend.numerics import fenced
from ternary_lab.backend.random_streams import Streams, stream
from ternary_lab.backend.threads import in_order
from ternary_lab.errors import RunError
from ternary_lab.metrics import codes, coverage, likelihood
from ternary_lab.metrics.evaluate import SAMPLES
from ternary_lab.model import PATHWAYS, DualVAE, Pathway, TernaryVAE
from ternary_lab.runs.checkpoint import Checkpoint
from ternary_lab.runs.checksums import csv_with_checksums
from ternary_lab.runs.files import write_atomically
from ternary_lab.runs.load import PROBES, RunRecord
from ternary_lab.studies.checkpoints_and_ensembles import calibration

DRAWS = (10_000, 50_000, SAMPLES)
ARGMAX_DRAWS = 50_000
POSTERIOR_SAMPLES, IMPORTANCE_SAMPLES = 16, 64
JUDGED = 1969
"""Test operations that bounds and calibration are taken of: all of v5.5's, the first of a larger test split."""


@fenced
@torch.no_grad()
def probe(model: DualVAE, rho: float, split: space.Split, seed: int = 0, epoch: int = 0) -> dict[str, float]:
    """The columns above for one model of one run; seed and epoch name its random streams."""
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    if len(split.left_out):
        parts["left_out"] = split.left_out
    everything = space.operations().to(model.device).unsqueeze(0)
    values: dict[str, Tensor] = {}
    for name, part in parts.items():
        x = space.operations(part).to(model.device).unsqueeze(0)
        values[f"own_{name}"] = likelihood.exact_reconstruction(model, x)
        values[f"entries_{name}"] = likelihood.entry_reconstruction(model, x)
    values["injected"] = likelihood.exact_reconstruction(model, everything, rho)
    values["ce_own"] = codes.code_cross_entropy(model, everything, 0.0)
    values["ce_injected"] = codes.code_cross_entropy(model, everything, rho)
    values |= codes.code_sizes(model, everything)
    values["active"] = likelihood.active_units(model, everything)
    values |= _likelihoods(model, split, seed, epoch) | _calibrations(model, split, seed, epoch)
    row = {f"{name}_{p}": float(value[i, 0]) for name, value in values.items() for i, p in enumerate(PATHWAYS)}
    mu, _ = model.encode(everything)
    row["cka"] = float(codes.linear_cka(mu[0, 0], mu[1, 0]))
    return row | _coverages(model, seed, epoch)


def _likelihoods(model: DualVAE, split: space.Split, seed: int, epoch: int) -> dict[str, Tensor]:
    """Bounds on the test split, each (2, 1), nats."""
    x = space.operations(split.test[:JUDGED]).to(model.device).unsqueeze(0)
    streams = Streams([seed], "evaluation", epoch, "likelihood", device=model.device)
    noise = streams.normal(IMPORTANCE_SAMPLES, 2, 1, x.shape[1], model.architecture.settings.latent_dim)[0]
    rate, distortion = likelihood.rate_distortion(model, x, noise[:POSTERIOR_SAMPLES])
    return {"rate": rate.mean(2), "distortion": distortion.mean(2), "iwae": likelihood.negative_iwae(model, x, noise)}


def _calibrations(model: DualVAE, split: space.Split, seed: int, epoch: int) -> dict[str, Tensor]:
    """Of the entries of the test split, each (2, 1)."""
    whole, operations = TernaryVAE(model.architecture.settings, model.blocks), space.operations(split.test[:JUDGED])
    found = []
    for pathway in PATHWAYS:
        noise = stream(seed, "evaluation", epoch, f"calibration {pathway}", device=model.device)
        predictions = calibration.entry_predictions(whole, pathway, operations, generator=noise)
        found.append(calibration.reliability(*predictions))
    return {
        "calibration_error": torch.tensor([[f.error] for f in found]),
        "calibration_bias": torch.tensor([[f.bias] for f in found]),
    }


def _coverages(model: DualVAE, seed: int, epoch: int) -> dict[str, float]:
    """Draws are nested: the first 10,000 are among the first 50,000, and those among all 195,000."""
    steps = [b - a for a, b in zip((0, *DRAWS), DRAWS, strict=False)]
    row: dict[str, float] = {}
    seen: dict[Pathway, Tensor] = {}
    for pathway in PATHWAYS:
        draw = partial(coverage.drawn_operations, model, pathway)
        name = partial(Streams, [seed], "evaluation", epoch, device=model.device)
        calls = [partial(draw, n, "categorical", name(f"{pathway}{n}")) for n in steps]
        argmax = partial(draw, ARGMAX_DRAWS, "argmax", name(f"{pathway}argmax"))
        *drawn, best = in_order([*calls, argmax], model.device)
        found = torch.zeros(space.SIZE, dtype=torch.bool, device=model.device)
        for n, more in zip(DRAWS, drawn, strict=True):
            found = found | more[0]
            row[f"coverage_{n}_{pathway}"] = 100 * found.float().mean().item()
        row[f"coverage_argmax_{pathway}"] = 100 * best[0].float().mean().item()
        seen[pathway] = found
    either, both = (reduce(fold, seen.values()) for fold in (torch.logical_or, torch.logical_and))
    row["union"] = 100 * either.float().mean().item()
    row["jaccard"] = (both.sum() / either.sum()).item()
    return row


@fenced
def probe_run(run: RunRecord, *, every: int = 1, progress: bool = False) -> pd.DataFrame:
    """A row per epoch whose weights the run kept, in order; columns seed, epoch and those of `probe`.

    With `every`, only epochs that it divides. Raises RunError when none is left.
    """
    split = splits.split(run.config.data)
    kept = [epoch for epoch in run.epochs if epoch % every == 0]
    epochs: Iterable[int] = tqdm(kept, desc=f"probe {run.name}", unit="epoch", disable=not progress)
    rows = []
    for epoch in epochs:
        point: Checkpoint = run.checkpoint(epoch)
        rows.append({"seed": run.seed, "epoch": epoch, **probe(point.model().core, point.rho, split, run.seed, epoch)})
    if not rows:
        raise RunError(f"{run.path}: keeps the weights of no epoch: set checkpoints.every and train it again")
    return pd.DataFrame(rows)


@fenced
def write_probes(run: RunRecord, *, every: int = 1, progress: bool = False) -> Path:
    """`probe_run`, the rows kept in the run's directory, to seven digits. Returns the file."""
    path = run.path / PROBES
    text = probe_run(run, every=every, progress=progress).to_csv(index=False, float_format="%.7g", lineterminator="\n")
    write_atomically(path, csv_with_checksums(text).encode())
    return path

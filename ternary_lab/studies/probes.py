"""Probes: measures of the weights in a run's checkpoints that are not in the run's history.

The table of probes has a row per checkpoint. In the names of its columns, * stands for the pathway A or B.

    group                   | columns
    reconstruction, percent | own_train_*, own_validation_*, own_test_*: operations that are right in all entries;
                            | own_left_out_*: the same for a left-out structure, if the data leave out a structure;
                            | entries_train_* and so on: single entries that are right in the same parts;
                            | injected_*: operations that are right, of all N, from codes injected with the checkpoint's
                            | ρ. All others come from the pathway's own code (ρ = 0). All use argmax and z = μ
    test split, nats        | rate_*, distortion_* (their sum is -ELBO), iwae_* (-IWAE, 64 samples)
    test split, calibration | calibration_error_*, calibration_bias_*: of entries decoded from one posterior sample
    codes                   | ce_own_*, ce_injected_*: cross-entropy; kl_*, norm_*, sigma_*, variance_min_*: as in
                            | `codes.code_sizes`; active_*: number of active units; cka: linear CKA of A's and B's code
    coverage, percent       | coverage_10000_*, coverage_50000_*, coverage_195000_*: categorical draws;
                            | coverage_argmax_*: 50,000 latents decoded by argmax; union: 195,000 draws of A or of B
    overlap, 0..1           | jaccard: Jaccard index of the operations in the 195,000 draws of A and in those of B
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from ternary_lab import space, splits
from ternary_lab.backend.console import bar
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.backend.random_streams import Streams, stream
from ternary_lab.backend.threads import in_order
from ternary_lab.errors import RunError
from ternary_lab.metrics import codes, coverage, likelihood
from ternary_lab.metrics.evaluate import SAMPLES
from ternary_lab.model import PATHWAYS, DualVAE, Pathway, TernaryVAE
from ternary_lab.runs.checksums import csv_with_checksums
from ternary_lab.runs.files import require_writable, write_atomically
from ternary_lab.runs.load import PROBES, RunRecord
from ternary_lab.studies.checkpoints_and_ensembles import calibration

DRAWS = (10_000, 50_000, SAMPLES)
ARGMAX_DRAWS = 50_000
POSTERIOR_SAMPLES, IMPORTANCE_SAMPLES = 16, 64
JUDGED = 1969
"""Number of test operations for bounds and calibration.

v5.5's test split has this size. If the test split is larger, its first operations are used.
"""


@with_fixed_arithmetic
@torch.no_grad()
def probe(model: DualVAE, rho: float, split: space.Split, seed: int = 0, epoch: int = 0) -> dict[str, float]:
    """Return a dictionary from each column of the module's table to its value, for a model of one run.

    `seed` and `epoch` select the random streams.
    """
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    if len(split.left_out):
        parts["left_out"] = split.left_out
    everything = space.operations().to(model.device).unsqueeze(0)
    mu, log_variance = model.encode(everything)
    own = likelihood.right_entries(model, mu, everything)
    values: dict[str, Tensor] = {}
    for name, part in parts.items():
        right = own[:, :, part.to(own.device)]
        values[f"own_{name}"] = likelihood.percent_exact(right)
        values[f"entries_{name}"] = 100 * right.float().mean((2, 3))
    values["injected"] = likelihood.percent_exact(likelihood.right_entries(model, mu, everything, rho))
    values["ce_own"] = codes.code_cross_entropy(model, mu, everything, 0.0)
    values["ce_injected"] = codes.code_cross_entropy(model, mu, everything, rho)
    values |= codes.code_sizes(mu, log_variance)
    values["active"] = likelihood.active_units(mu)
    values |= _likelihoods(model, split, seed, epoch) | _calibrations(model, split, seed, epoch)
    row = {f"{name}_{p}": float(value[i, 0]) for name, value in values.items() for i, p in enumerate(PATHWAYS)}
    row["cka"] = float(codes.linear_cka(mu[0, 0], mu[1, 0]))
    return row | _coverages(model, seed, epoch)


def _likelihoods(model: DualVAE, split: space.Split, seed: int, epoch: int) -> dict[str, Tensor]:
    """Return rate, distortion and -IWAE of the first `JUDGED` test operations, each (2, 1), in nats."""
    x = space.operations(split.test[:JUDGED]).to(model.device).unsqueeze(0)
    streams = Streams([seed], "evaluation", epoch, "likelihood", device=model.device)
    noise = streams.normal(IMPORTANCE_SAMPLES, 2, 1, x.shape[1], model.architecture.settings.latent_dim)[0]
    few, many = (likelihood.coding(model, x, some) for some in (noise[:POSTERIOR_SAMPLES], noise))
    return {"rate": few.rate.mean(2), "distortion": few.distortion.mean(2), "iwae": many.neg_iwae.mean(2)}


def _calibrations(model: DualVAE, split: space.Split, seed: int, epoch: int) -> dict[str, Tensor]:
    """Return the calibration error and bias of the entries of the first `JUDGED` test operations, each (2, 1)."""
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
    """Return the sampled coverages of both pathways, their union and their Jaccard index.

    The draws are nested: the first 10,000 draws belong to the first 50,000 draws, which belong to all draws.
    """
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
    either, both = seen["A"] | seen["B"], seen["A"] & seen["B"]
    return row | {"union": 100 * either.float().mean().item(), "jaccard": (both.sum() / either.sum()).item()}


@with_fixed_arithmetic
def probe_run(run: RunRecord, *, every: int = 1, progress: bool = False) -> pd.DataFrame:
    """Return a table of probes with a row per epoch that has a checkpoint, in the order of the epochs.

    The columns are seed, epoch and those of `probe`. Only epochs that are multiples of `every` are included. Raises
    RunError if no epoch is left.
    """
    split = splits.split(run.config.data)
    rows = []
    kept = [epoch for epoch in run.epochs if epoch % every == 0]
    for epoch in bar(kept, desc=f"probe {run.name}", unit="epoch", show=progress):
        point = run.checkpoint(epoch)
        rows.append({"seed": run.seed, "epoch": epoch, **probe(point.model().core, point.rho, split, run.seed, epoch)})
    if not rows:
        raise RunError(f"{run.path}: keeps the weights of no epoch: set checkpoints.every and train it again")
    return pd.DataFrame(rows)


@with_fixed_arithmetic
def write_probes(run: RunRecord, *, every: int = 1, progress: bool = False) -> Path:
    """Write the table of `probe_run` into the run's directory, with seven digits, and return the path of the file.

    Raises RunError before measuring if the file cannot be written.
    """
    path = run.path / PROBES
    require_writable(path)
    text = probe_run(run, every=every, progress=progress).to_csv(index=False, float_format="%.7g", lineterminator="\n")
    write_atomically(path, csv_with_checksums(text).encode())
    return path


def all_probes(runs: Mapping[int, RunRecord]) -> pd.DataFrame:
    """Return the stored probes of several runs in one table. Raises RunError for a run without probes."""
    return pd.concat([run.probed() for run in runs.values()], ignore_index=True)

"""Tables of the latent code of a run's checkpoints over all 19,683 operations: entropies, aggregate posteriors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from ternary_lab import space
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.backend.random_streams import stream
from ternary_lab.errors import RunError
from ternary_lab.metrics.latent_entropy import aggregate_posterior, posterior_code, sampled_code
from ternary_lab.model import PATHWAYS
from ternary_lab.runs.load import RunRecord
from ternary_lab.space import SIZE

POINTS = 400
"""Largest number of points of a density in a table."""


@with_fixed_arithmetic
def code_history(run: RunRecord, epochs: Sequence[int] | None = None, *, temperature: float = 1.0) -> pd.DataFrame:
    """Return measures of the code of all 19,683 operations, with a row per epoch, pathway and dimension.

    Some columns are the fields of `metrics.latent_entropy.SampledCode` at τ = `temperature` and of `PosteriorCode`. The
    column `active` is true for an active dimension, `tau` is the τ of the epoch, and `H` is the batch entropy at that
    τ.

    Args:
        epochs: epochs that have checkpoints; by default all of them.

    Raises RunError if a checkpoint is missing, or if the run has no checkpoints.
    """
    epochs = run.epochs if epochs is None else epochs
    if not epochs:
        raise RunError(f"{run.path}: keeps the weights of no epoch: set checkpoints.every when training")
    history, batch, frames = run.history.set_index("epoch"), min(run.config.data.batch_size, SIZE), []
    for epoch in epochs:
        random = stream(run.seed, "evaluation", epoch)
        x = space.operations(torch.randperm(SIZE, generator=random))
        for pathway in PATHWAYS:
            tau = float(history[f"temperature_{pathway}"].loc[epoch])
            posterior = run.model(epoch).encode(x, pathway)
            noise = posterior.std * torch.empty_like(posterior.mean).normal_(generator=random)
            sampled = sampled_code(posterior.mean + temperature * noise, batch)
            trained = sampled_code(posterior.mean + tau * noise, batch)
            code = posterior_code(posterior.mean, posterior.std)
            columns = {**vars(sampled), **vars(code), "active": code.active, "H": trained.batch_entropy}
            frames.append(pd.DataFrame({
                "epoch": epoch, "pathway": pathway, "dimension": range(noise.shape[-1]), "tau": tau,
                **{name: values.numpy() for name, values in columns.items()},
            }))
    return pd.concat(frames, ignore_index=True)


def estimates(run: RunRecord, code: pd.DataFrame) -> pd.DataFrame:
    """Return the entropies of a run's code as means over the dimensions, with a row per pathway and epoch.

    `code` is the table of `code_history` for the run. The entropies are in nats. The columns are pathway, epoch and

        tau        the τ of the epoch
        printed    H in the history: the mean over the epoch, in which the code moves
        batch      H of batches of samples at τ = `tau`, after the epoch
        at_one     H of the same batches at the τ for which `code` was computed
        whole      entropy of one histogram of all samples at that τ, with the Miller-Madow correction
        inside     percentage of those samples that lie within the histogram
        kl         KL of the aggregate posteriors from N(0, 1), the sum over the dimensions
    """
    history = run.history[["epoch", "H_A", "H_B"]].rename(columns={"H_A": "A", "H_B": "B"})
    found = code.groupby(["pathway", "epoch"], as_index=False).agg(
        tau=("tau", "mean"), batch=("H", "mean"), at_one=("batch_entropy", "mean"), whole=("entropy", "mean"),
        inside=("inside", "mean"), kl=("prior_kl", "sum"),
    )
    printed = history.melt("epoch", var_name="pathway", value_name="printed")
    return found.assign(inside=100 * found["inside"]).merge(printed, on=["pathway", "epoch"])


@with_fixed_arithmetic
def posteriors(run: RunRecord, epochs: Sequence[int]) -> pd.DataFrame:
    """Return the densities of the aggregate posteriors q(z_k) over all operations.

    The columns are epoch, pathway, dimension, z and density. Raises RunError if a checkpoint is missing.
    """
    frames = []
    for epoch in epochs:
        for pathway in PATHWAYS:
            posterior = run.model(epoch).encode(space.operations(), pathway)
            for dimension, (mean, std) in enumerate(zip(posterior.mean.t(), posterior.std.t(), strict=True)):
                z, q = _thinned(*aggregate_posterior(mean, std))
                frames.append(pd.DataFrame({
                    "epoch": epoch, "pathway": pathway, "dimension": dimension, "z": z, "density": q,
                }))
    return pd.concat(frames, ignore_index=True)


def _thinned(z: torch.Tensor, q: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return grid and density, averaged over neighbouring points, where the density exceeds 1e-9 of its maximum."""
    seen = (q > q.max() * 1e-9).nonzero().flatten()
    shown = slice(int(seen[0]), int(seen[-1]) + 1)
    starts = np.arange(0, len(z[shown]), math.ceil(len(z[shown]) / POINTS))
    counts = np.diff([*starts, len(z[shown])])
    grid, density = (np.add.reduceat(values[shown].numpy(), starts) / counts for values in (z, q))
    return grid, density

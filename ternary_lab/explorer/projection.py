"""Projections of latent codes to a plane: principal directions, two latent dimensions, or UMAP.

Points are centred and divided by a scale, so that most of them lie in [-1, 1]. The axes of PCA and UMAP are arbitrary
up to rotation and reflection. To compare epochs, their points are rotated to match those of one epoch by orthogonal
Procrustes (Schönemann 1966).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from ternary_lab.backend.numerics import fenced
from ternary_lab.errors import InputError

ROTATED = ("first axis of the plane", "second axis of the plane")
COVERED = 0.995
"""Share of the coordinates within [-1, 1]. It is below 1 so that a few distant points do not shrink the others."""


@dataclass(frozen=True)
class Projection:
    """N points in a plane."""

    points: Tensor
    """(N, 2): centred, in units of `scale`."""
    scale: float
    """Length of one unit of `points` in latent space."""
    axes: tuple[str, str]
    """Names of the two coordinates."""
    note: str = ""
    """A remark for the legend."""

    def table(self) -> pd.DataFrame:
        """The points as columns `x` and `y`, a row for each operation."""
        return pd.DataFrame(self.points.numpy(), columns=["x", "y"])

    def rotated_to(self, reference: Projection) -> Projection:
        """The projection rotated and reflected to match the reference's points best; distances do not change."""
        u, _, vh = torch.linalg.svd(self.points.double().T @ reference.points.double())
        axes = self.axes if torch.allclose((u @ vh).abs().diagonal(), torch.ones(2).double()) else ROTATED
        return Projection((self.points.double() @ (u @ vh)).float(), self.scale, axes, self.note)


@fenced
def principal_directions(mu: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Directions (count, L) of largest variance of codes (N, L), and standard deviations (count,) along them."""
    centred = mu.double() - mu.double().mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(mu))
    return vectors.T.flip(0)[:count].to(mu), values.clamp_min(0).sqrt().flip(0)[:count].to(mu)


@fenced
def pca(mu: Tensor) -> Projection:
    """Codes (N, L) along their two directions of largest variance (Pearson 1901)."""
    if mu.shape[1] < 2:
        raise InputError(f"a plane needs at least 2 latent dimensions, got {mu.shape[1]}")
    directions, deviations = principal_directions(mu, 2)
    total = float(mu.double().var(0, correction=0).sum())
    shares = [100 * float(d) ** 2 / total if total > 0 else 0.0 for d in deviations]
    note = f"principal directions 1 and 2 hold {shares[0]:.0f} % and {shares[1]:.0f} % of the variance"
    return _scaled(mu @ directions.T, ("principal direction 1", "principal direction 2"), note)


def dimensions(mu: Tensor, first: int, second: int) -> Projection:
    """Codes (N, L) along two latent dimensions, counted from 0. Raises InputError when one does not exist."""
    for dimension in (first, second):
        if not 0 <= dimension < mu.shape[1]:
            raise InputError(f"latent dimension must be in 0..{mu.shape[1] - 1}, got {dimension}")
    return _scaled(mu[:, [first, second]], (f"μ_{first}", f"μ_{second}"))


@fenced
def umap(mu: Tensor, neighbours: int = 15) -> Projection:
    """UMAP of codes (N, L) (McInnes, Healy, Melville 2018), reproducible: it starts at the principal directions.

    It takes up to a minute for all operations. Distances between separate clusters have no meaning.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a seed makes UMAP serial; its imports are deprecated
        from umap import UMAP

        start = pca(mu).points.numpy()
        found = UMAP(n_neighbors=neighbours, init=10 * start, random_state=0, n_jobs=1).fit_transform(mu.numpy())
    return _scaled(torch.from_numpy(found), ("UMAP 1", "UMAP 2"))


def _scaled(points: Tensor, axes: tuple[str, str], note: str = "") -> Projection:
    centred = points - points.mean(0)
    scale = float(centred.abs().flatten().quantile(COVERED))
    return Projection(centred / scale if scale > 0 else centred, scale, axes, note)

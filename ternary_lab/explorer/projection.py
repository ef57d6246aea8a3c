"""Latent codes as points in a plane: principal directions, two of the dimensions, or UMAP.

Points are centred and scaled so that most of them lie in [-1, 1]; the scale comes with them. A plane's axes are
arbitrary up to rotation and reflection (principal directions change sign, UMAP turns at will), so those of
several epochs are turned onto one of them, by orthogonal Procrustes (Schönemann 1966), before they are compared.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ternary_lab.backend.numerics import fenced
from ternary_lab.errors import InputError

TURNED = ("first axis of the plane", "second axis of the plane")
COVERED = 0.995
"""Share of the points whose coordinates lie within [-1, 1]; a few far ones must not shrink the rest."""


@dataclass(frozen=True)
class Projection:
    """N points in a plane."""

    points: Tensor
    """(N, 2): centred, in units of `scale`."""
    scale: float
    """Length, in the latents' own units, of 1."""
    axes: tuple[str, str]
    """What the two coordinates are."""
    note: str = ""
    """What else a reader must know of them."""

    def onto(self, reference: Projection) -> Projection:
        """Turned and mirrored to lie as near the reference's points as it can; distances stay."""
        u, _, vh = torch.linalg.svd(self.points.double().T @ reference.points.double())
        axes = self.axes if torch.allclose((u @ vh).abs().diagonal(), torch.ones(2).double()) else TURNED
        return Projection((self.points.double() @ (u @ vh)).float(), self.scale, axes, self.note)


@fenced
def principal_directions(mu: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of codes (N, L): the `count` directions (count, L) of largest variance, and the standard deviations (count,)."""
    centred = mu.double() - mu.double().mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(mu))
    return vectors.T.flip(0)[:count].to(mu), values.clamp_min(0).sqrt().flip(0)[:count].to(mu)


@fenced
def pca(mu: Tensor) -> Projection:
    """The codes (N, L) along their two directions of largest variance (Pearson 1901)."""
    if mu.shape[1] < 2:
        raise InputError(f"a plane needs at least 2 latent dimensions, got {mu.shape[1]}")
    directions, deviations = principal_directions(mu, 2)
    total = float(mu.double().var(0, correction=0).sum())
    shares = [100 * float(d) ** 2 / total if total > 0 else 0.0 for d in deviations]
    note = f"principal directions 1 and 2 hold {shares[0]:.0f} % and {shares[1]:.0f} % of the variance"
    return _scaled(mu @ directions.T, ("principal direction 1", "principal direction 2"), note)


def dimensions(mu: Tensor, first: int, second: int) -> Projection:
    """Two of the latent dimensions of the codes (N, L), counted from 0. Raises InputError for one that is not there."""
    for dimension in (first, second):
        if not 0 <= dimension < mu.shape[1]:
            raise InputError(f"latent dimension must be in 0..{mu.shape[1] - 1}, got {dimension}")
    return _scaled(mu[:, [first, second]], (f"μ_{first}", f"μ_{second}"))


@fenced
def umap(mu: Tensor, neighbours: int = 15) -> Projection:
    """UMAP of the codes (N, L) (McInnes, Healy, Melville 2018), from their principal directions; the same each time.

    Takes some tens of seconds for all operations. Distances between far clusters mean nothing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed costs it its parallelism, and deprecations of its own imports
        from umap import UMAP

        start = pca(mu).points.numpy()
        found = UMAP(n_neighbors=neighbours, init=10 * start, random_state=0, n_jobs=1).fit_transform(mu.numpy())
    return _scaled(torch.from_numpy(found), ("UMAP 1", "UMAP 2"))


def _scaled(points: Tensor, axes: tuple[str, str], note: str = "") -> Projection:
    centred = points - points.mean(0)
    # A quantile of 2 N values is beyond torch.quantile's limit for larger spaces, not for this one.
    scale = float(centred.abs().flatten().quantile(COVERED))
    return Projection(centred / scale if scale > 0 else centred, scale, axes, note)

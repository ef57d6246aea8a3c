"""Projections of latent codes to a plane: principal directions, two latent dimensions, or UMAP.

The points are centred and divided by a scale, so that most coordinates lie in [-1, 1]. The axes of PCA and UMAP are
arbitrary up to rotation and reflection. Orthogonal Procrustes (Schönemann 1966) rotates and reflects the points of an
epoch to match the points of another epoch, so that the two epochs can be compared.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from ternary_lab.backend.kernels import compile_into_temporary_folder
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.errors import InputError
from ternary_lab.metrics.codes import principal_directions

ROTATED = ("first axis of the plane", "second axis of the plane")
COVERED = 0.995
"""Share of the coordinates in [-1, 1]. With a share of 1, a few distant points would compress all other points."""


@dataclass(frozen=True)
class Projection:
    """N points in a plane, one for each code."""

    points: Tensor
    """(N, 2): the centred coordinates in units of `scale`."""
    scale: float
    """Length of one unit of `points` in latent space."""
    axes: tuple[str, str]
    """Names of the two coordinates."""
    note: str = ""
    """A remark for the legend."""

    def table(self) -> pd.DataFrame:
        """Return a table with the columns `x` and `y` and one row for each operation."""
        return pd.DataFrame(self.points.numpy(), columns=["x", "y"])

    def rotated_to(self, reference: Projection) -> Projection:
        """Return this projection, rotated and reflected so that its points are nearest to the points of `reference`.

        Distances between the points do not change.
        """
        u, _, vh = torch.linalg.svd(self.points.double().T @ reference.points.double())
        axes = self.axes if torch.allclose((u @ vh).abs().diagonal(), torch.ones(2).double()) else ROTATED
        return Projection((self.points.double() @ (u @ vh)).float(), self.scale, axes, self.note)


@with_fixed_arithmetic
def pca(mu: Tensor) -> Projection:
    """Project codes (N, L) to the two directions in which they have the largest variance (Pearson 1901).

    Raises InputError if L is less than 2.
    """
    if mu.shape[1] < 2:
        raise InputError(f"a plane needs at least 2 latent dimensions, got {mu.shape[1]}")
    directions, deviations = principal_directions(mu, 2)
    total = float(mu.double().var(0, correction=0).sum())
    shares = [100 * float(d) ** 2 / total if total > 0 else 0.0 for d in deviations]
    note = f"principal directions 1 and 2 hold {shares[0]:.0f} % and {shares[1]:.0f} % of the variance"
    return _scaled(mu @ directions.T, ("principal direction 1", "principal direction 2"), note)


def dimensions(mu: Tensor, first: int, second: int) -> Projection:
    """Project codes (N, L) to two latent dimensions, which are counted from 0.

    Raises InputError if one of the dimensions does not exist.
    """
    for dimension in (first, second):
        if not 0 <= dimension < mu.shape[1]:
            raise InputError(f"latent dimension must be in 0..{mu.shape[1] - 1}, got {dimension}")
    return _scaled(mu[:, [first, second]], (f"μ_{first}", f"μ_{second}"))


@with_fixed_arithmetic
def umap(mu: Tensor, neighbours: int = 15) -> Projection:
    """Project codes (N, L) to a plane with UMAP (McInnes, Healy, Melville 2018).

    UMAP starts from the two principal directions with a fixed seed, so that the result is reproducible. It takes up to
    a minute for all operations. Distances between separate clusters have no meaning.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a seed makes UMAP serial; its imports are deprecated
        try:
            from umap import UMAP
        except RuntimeError:  # its compiled functions cannot be kept: the installation and the home are read-only
            import numba

            compile_into_temporary_folder("NUMBA_CACHE_DIR")
            numba.config.reload_config()  # type: ignore[no-untyped-call]
            from umap import UMAP

        start = pca(mu).points.numpy()
        found = UMAP(n_neighbors=neighbours, init=10 * start, random_state=0, n_jobs=1).fit_transform(mu.numpy())
    return _scaled(torch.from_numpy(found), ("UMAP 1", "UMAP 2"))


def _scaled(points: Tensor, axes: tuple[str, str], note: str = "") -> Projection:
    centred = points - points.mean(0)
    scale = float(centred.abs().flatten().quantile(COVERED))
    return Projection(centred / scale if scale > 0 else centred, scale, axes, note)

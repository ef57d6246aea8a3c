"""Latent codes and probabilities of all operations at each epoch of a run.

The codes and the probabilities are computed when they are first needed.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from threading import Lock

import pandas as pd
import torch
from torch import Tensor

from ternary_lab import space, splits, symmetry
from ternary_lab.arguments import whole_number
from ternary_lab.backend.random_streams import stream
from ternary_lab.errors import InputError, RunError
from ternary_lab.explorer import projection
from ternary_lab.explorer.projection import Projection
from ternary_lab.metrics.codes import all_codes
from ternary_lab.metrics.coverage import best_classes, class_index
from ternary_lab.metrics.information import LOW, log_probability, outer_probabilities
from ternary_lab.metrics.sobol import chunk_size, sobol_normal
from ternary_lab.model import PATHWAYS, Pathway, TernaryVAE
from ternary_lab.runs.load import RunRecord, nearest_epochs

LATENTS = 65_536
"""Number of Sobol points in the integral that gives the probability of an operation under the prior."""
SAMPLES = 64
"""Number of posterior samples of an operation in `Snapshot.confused_with`."""
KEPT = 64
"""Number of snapshots that stay in memory. A snapshot takes about 6 MB."""


class Snapshot:
    """The model at one epoch with the codes of all N = 19,683 operations.

    The first axis of a tensor (2, N, ...) is the pathway: index 0 is A and index 1 is B.
    """

    def __init__(self, epoch: int, model: TernaryVAE) -> None:
        self.epoch, self.model = epoch, model
        mu, log_variance = all_codes(model.core)
        self.mu, self.sigma = mu[:, 0], (0.5 * log_variance[:, 0]).exp()
        self._log_p: dict[Pathway, Tensor] = {}
        self._planes: dict[tuple[object, ...], Projection] = {}

    @cached_property
    def _decoded(self) -> tuple[Tensor, Tensor]:
        """Return `reconstructed` and `own_log_probability`."""
        chunk, core = chunk_size(self.model.device), self.model.core
        operations = torch.arange(space.SIZE, device=self.model.device)
        wanted = (space.operations(operations).T + 1).long().unsqueeze(1)
        best, log_p = torch.empty_like(self.mu[..., 0], dtype=torch.int64), torch.empty_like(self.mu[..., 0])
        for i, pathway in enumerate(PATHWAYS):
            for part in torch.split(operations, chunk):
                logits = core.decode_features(self.mu[i, part].T.unsqueeze(0), pathway)
                best[i, part] = class_index(best_classes(logits))[0]
                log_p[i, part] = torch.log_softmax(logits[0], 1).gather(1, wanted[..., part]).sum((0, 1))
        return best == operations, log_p

    @property
    def reconstructed(self) -> Tensor:
        """(2, N) bool: true where argmax decoding of z = μ(x) returns the operation x itself."""
        return self._decoded[0]

    @property
    def own_log_probability(self) -> Tensor:
        """(2, N): ln p(x | z = μ(x)) of each operation x, in nats."""
        return self._decoded[1]

    def entry_probabilities(self, z: Tensor, pathway: Pathway) -> Tensor:
        """Return the probabilities (9, 3) of the three values of each entry, decoded from a latent z (L,)."""
        return torch.softmax(self.model.decode(z, pathway), -1).cpu()

    def log_probability(self, pathway: Pathway) -> Tensor:
        """Return ln p(x) (N,) of all operations x under the prior N(0, I), in nats.

        The first call for a pathway takes about half a second.
        """
        if pathway not in self._log_p:
            latents = sobol_normal(self.model.latent_dim, LATENTS, 0, self.model.device)
            self._log_p[pathway] = log_probability(self.model.core, pathway, latents).float()
        return self._log_p[pathway]

    def has_log_probability(self, pathway: Pathway) -> bool:
        """Return whether `log_probability` would return at once, without computation."""
        return pathway in self._log_p

    def plane(self, pathway: Pathway, kind: str, first: int = 0, second: int = 1) -> Projection:
        """Return the projection of the codes to a plane.

        `kind` is "pca", "umap" or "dimensions". For "dimensions", the axes of the plane are the latent dimensions
        `first` and `second`. Raises InputError for an unknown kind or for a dimension that does not exist.
        """
        most = self.model.latent_dim - 1
        first, second = whole_number(first, "first", 0, most), whole_number(second, "second", 0, most)
        key = (pathway, kind, first, second) if kind == "dimensions" else (pathway, kind)
        if key not in self._planes:
            mu = self.mu[PATHWAYS.index(pathway)].cpu()
            if kind == "dimensions":
                self._planes[key] = projection.dimensions(mu, first, second)
            elif kind in ("pca", "umap"):
                self._planes[key] = projection.pca(mu) if kind == "pca" else projection.umap(mu)
            else:
                raise InputError(f"kind must be pca, dimensions or umap, got {kind!r}")
        return self._planes[key]

    def has_plane(self, pathway: Pathway, kind: str) -> bool:
        """Return whether `plane` would return at once. Only UMAP takes long."""
        return kind != "umap" or (pathway, kind) in self._planes

    def neighbours(self, pathway: Pathway, operation: int, count: int = 8) -> list[tuple[int, float]]:
        """Return the `count` operations whose codes are nearest to the code of `operation`.

        Each item is a pair (operation, Euclidean distance of the two codes).
        """
        mu = self.mu[PATHWAYS.index(pathway)]
        distance = (mu - mu[operation]).norm(dim=1)
        distance[operation] = torch.inf
        found = distance.topk(count, largest=False)
        return list(zip(found.indices.tolist(), found.values.tolist(), strict=True))

    def confused_with(self, pathway: Pathway, operation: int, count: int) -> list[tuple[int, float]]:
        """Return the `count` other operations that are decoded most often from the posterior of `operation`.

        Each item is a pair (operation, p). The probability p is a mean over `SAMPLES` posterior samples, which are the
        same in each call. Entries are sampled from their probabilities; argmax is not used.
        """
        noise = stream(operation, "sample", part="confusion")
        epsilon = torch.randn(SAMPLES, self.model.latent_dim, generator=noise).to(self.model.device)
        posterior = self.model.encode(space.operations(torch.tensor([operation])), pathway)
        p = self.output_distribution(posterior.mean + posterior.std * epsilon, pathway)
        p[operation] = -1
        found = p.topk(count)
        return list(zip(found.indices.tolist(), found.values.tolist(), strict=True))

    def output_distribution(self, z: Tensor, pathway: Pathway) -> Tensor:
        """Return the mean over latents z (M, L) of p(x|z), for every operation x: (N,) float64."""
        q = torch.softmax(self.model.decode(z, pathway).double(), -1).permute(1, 2, 0).unsqueeze(1).unbind(0)
        low, high = outer_probabilities(q[:LOW]), outer_probabilities(q[LOW:])
        return (high[0] @ low[0].T).flatten() / len(z)


class CodesByEpoch:
    """A `Snapshot` for every epoch with saved weights.

    `codes[50]` is the snapshot of epoch 50. Raises RunError for a run without weights.
    """

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.epochs = run.epochs or [run.checkpoint().epoch]
        """Epochs with saved weights, in rising order."""
        self._snapshot = lru_cache(KEPT)(lambda epoch: Snapshot(epoch, run.model(epoch)))
        self._lock = Lock()

    @cached_property
    def history(self) -> pd.DataFrame:
        return self.run.history

    @cached_property
    def properties(self) -> pd.DataFrame:
        """Table of `symmetry.properties`, with one row for each operation and a further column `split`.

        `split` is "train", "validation", "test" or "left out": the subset of the run's data with the operation.
        """
        split = splits.split(self.run.config.data)
        facts = symmetry.properties()
        facts["split"] = "train"
        for name, part in (("validation", split.validation), ("test", split.test), ("left out", split.left_out)):
            facts.loc[part.tolist(), "split"] = name
        return facts

    def __getitem__(self, epoch: int) -> Snapshot:
        epoch = whole_number(epoch, "epoch", error=RunError)
        if epoch not in self.epochs:
            raise RunError(f"{self.run.path}: no weights of epoch {epoch}{nearest_epochs(epoch, self.epochs)}")
        with self._lock:
            return self._snapshot(epoch)

    def plane(self, epoch: int, pathway: Pathway, kind: str, first: int = 0, second: int = 1) -> Projection:
        """Return the projection of `Snapshot.plane`, rotated so that epochs can be compared.

        A PCA is rotated to match the PCA of the last epoch. A UMAP is rotated to match the rotated PCA of the same
        epoch, so that the UMAP of another epoch is not needed. The kind "dimensions" is not rotated.
        """
        plane = self[epoch].plane(pathway, kind, first, second)
        if kind == "dimensions":
            return plane
        reference = self[self.epochs[-1]].plane(pathway, "pca")
        if kind == "umap":
            reference = self[epoch].plane(pathway, "pca").rotated_to(reference)
        return plane.rotated_to(reference)

"""A run to look at: every operation as the weights of each kept epoch see it, computed when asked for."""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property
from threading import Lock

import pandas as pd
import torch
from torch import Tensor

from ternary_lab import space, splits, symmetry
from ternary_lab.errors import InputError, RunError
from ternary_lab.explorer import projection
from ternary_lab.explorer.projection import Projection
from ternary_lab.metrics.coverage import best_classes, class_index
from ternary_lab.metrics.information import information
from ternary_lab.metrics.sobol import chunk_size, sobol_normal
from ternary_lab.model import PATHWAYS, Pathway, TernaryVAE
from ternary_lab.runs.load import RunRecord, number_ranges

LATENTS = 65_536
"""Sobol points that an operation's probability under the prior is integrated over."""
KEPT = 64
"""Snapshots kept in memory, some 6 MB each: more than a run of v5.5 has."""


class Snapshot:
    """The weights of one epoch, and all N operations as they see them. Tensors are (2, N, ...), pathway A first."""

    def __init__(self, epoch: int, model: TernaryVAE) -> None:
        self.epoch, self.model = epoch, model
        # In pieces, so that what lies between two layers stays in a core's cache.
        pieces = torch.split(space.operations().to(model.device), chunk_size(model.device))
        with torch.no_grad():
            codes = [model.core.encode(piece.unsqueeze(0)) for piece in pieces]
        self.mu = torch.cat([mu[:, 0] for mu, _ in codes], 1)
        self.sigma = torch.cat([(0.5 * log_variance[:, 0]).exp() for _, log_variance in codes], 1)
        self._log_p: dict[Pathway, Tensor] = {}
        self._planes: dict[tuple[object, ...], Projection] = {}

    @cached_property
    def _decoded(self) -> tuple[Tensor, Tensor]:
        """Of each operation from z = μ, own code: whether argmax gives it back, and ln p(x|μ(x))."""
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
        """(2, N) bool: the argmax from z = μ, own code, is the operation itself."""
        return self._decoded[0]

    @property
    def own_log_probability(self) -> Tensor:
        """(2, N): ln p(x|z = μ(x)), nats."""
        return self._decoded[1]

    def log_probability(self, pathway: Pathway) -> Tensor:
        """(N,): ln p(x) under the prior N(0, I), nats, from `LATENTS` Sobol points. Half a second, then kept."""
        if pathway not in self._log_p:
            latents = sobol_normal(self.model.latent_dim, LATENTS, 0, self.model.device)
            found = information(self.model.core, pathway, (z.unsqueeze(0) for z in latents))
            self._log_p[pathway] = found.p[0].clamp_min(torch.finfo(torch.float64).tiny).log().float()
        return self._log_p[pathway]

    def knows_log_probability(self, pathway: Pathway) -> bool:
        """Whether it can be had without waiting."""
        return pathway in self._log_p

    def plane(self, pathway: Pathway, kind: str, first: int = 0, second: int = 1) -> Projection:
        """Codes in a plane: kind "pca", "dimensions" (first, second) or "umap". Kept, once computed."""
        key = (pathway, kind, first, second) if kind == "dimensions" else (pathway, kind)
        if key not in self._planes:
            mu = self.mu[PATHWAYS.index(pathway)].cpu()
            if kind == "dimensions":
                self._planes[key] = projection.dimensions(mu, first, second)
            elif kind in ("pca", "umap"):
                self._planes[key] = projection.pca(mu) if kind == "pca" else projection.umap(mu)
            else:
                raise InputError(f"a plane is pca, dimensions or umap, got {kind!r}")
        return self._planes[key]

    def has_plane(self, pathway: Pathway, kind: str) -> bool:
        """Whether it can be had without waiting."""
        return kind != "umap" or (pathway, kind) in self._planes

    def neighbours(self, pathway: Pathway, operation: int, count: int = 8) -> list[tuple[int, float]]:
        """The operations whose codes are nearest to an operation's, with their Euclidean distances."""
        mu = self.mu[PATHWAYS.index(pathway)]
        distance = (mu - mu[operation]).norm(dim=1)
        distance[operation] = torch.inf
        found = distance.topk(count, largest=False)
        return [(int(i), float(d)) for i, d in zip(found.indices, found.values, strict=True)]


class Atlas:
    """A run's epochs as `Snapshot`s: `atlas[50]`. Raises RunError for a run without weights."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.epochs = run.epochs or [run.checkpoint().epoch]
        """Epochs whose weights the run kept, in order."""
        self._snapshots: OrderedDict[int, Snapshot] = OrderedDict()
        self._lock = Lock()

    @cached_property
    def history(self) -> pd.DataFrame:
        return self.run.history

    @cached_property
    def properties(self) -> pd.DataFrame:
        """What each operation is (`symmetry.properties`), and its part of the run's split in the column `split`."""
        split = splits.split(self.run.config.data)
        facts = symmetry.properties()
        facts["split"] = "train"
        for name, part in (("validation", split.validation), ("test", split.test), ("left out", split.left_out)):
            facts.loc[part.tolist(), "split"] = name
        return facts

    def __getitem__(self, epoch: int) -> Snapshot:
        if epoch not in self.epochs:
            kept = number_ranges(self.epochs)
            raise RunError(f"{self.run.path}: no weights of epoch {epoch}; there are those of {kept}")
        with self._lock:
            if epoch not in self._snapshots:
                self._snapshots[epoch] = Snapshot(epoch, self.run.model(epoch))
                while len(self._snapshots) > KEPT:
                    self._snapshots.popitem(last=False)
            self._snapshots.move_to_end(epoch)
            return self._snapshots[epoch]

    def plane(self, epoch: int, pathway: Pathway, kind: str, first: int = 0, second: int = 1) -> Projection:
        """`Snapshot.plane`, turned so that it can be compared with other epochs: onto the last one's, for PCA and UMAP.

        UMAP is turned onto the same epoch's principal directions, so that no other epoch's is needed.
        """
        plane = self[epoch].plane(pathway, kind, first, second)
        if kind == "dimensions":
            return plane
        reference = self[self.epochs[-1]].plane(pathway, "pca")
        return plane.onto(reference) if kind == "pca" else plane.onto(self[epoch].plane(pathway, "pca").onto(reference))

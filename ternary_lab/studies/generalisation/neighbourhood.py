"""Preservation of neighbourhoods: whether operations that differ in few entries have nearby codes, and vice versa.

For an operation i take its k nearest neighbours in one space that are not among its k nearest in the other. Each counts
by how far it exceeds rank k in the other space (Venna & Kaski 2001). With n anchors i among N points:

    trustworthiness  1 - 2/(n k (2N - 3k - 1)) Σ_i Σ_{j near i in the code} max(0, rank in the space of operations - k)
    continuity       the same with the two spaces exchanged
    1 is perfect

Hamming distances are often equal. A rank is the number of points that are strictly nearer, plus one: all points at
distance one have rank 1, and k = 18 is exactly the operations that differ in one entry. A random map therefore has a
continuity of 1/2 and a trustworthiness of 0.59.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ternary_lab import space
from ternary_lab.errors import InputError

NEAREST = space.ENTRIES * (space.VALUES - 1)
"""Operations at Hamming distance one: 18."""
PIECE = 512


@dataclass(frozen=True)
class Preservation:
    """How well a map preserves neighbourhoods; every value in [0, 1]."""

    trustworthiness: float
    continuity: float
    shared: float
    """Share of the k nearest in one space that are among the k nearest in the other."""


@torch.no_grad()
def preservation(codes: Tensor, anchors: Tensor, k: int = NEAREST) -> Preservation:
    """Preservation by the codes (N, L) of all operations in index order, around the operations `anchors` (n,).

    Distances are Hamming distances between operations and Euclidean distances between codes. Raises InputError for k
    outside 1..N/2 - 1.
    """
    n = len(codes)
    if not 1 <= k < n // 2:
        raise InputError(f"k must be a number in 1..{n // 2 - 1}, got {k}")
    one_hot = torch.nn.functional.one_hot((space.operations(torch.arange(n)) + 1).long(), space.VALUES).flatten(1)
    tables = one_hot.to(codes)
    lost, missed, shared = 0.0, 0.0, 0.0
    for part in torch.split(anchors, PIECE):
        apart = space.ENTRIES - tables[part] @ tables.T
        away = torch.cdist(codes[part], codes)
        for distance in (apart, away):
            distance[torch.arange(len(part)), part] = torch.inf
        lost += intrusion(apart, away, k)
        missed += intrusion(away, apart, k)
        shared += float((nearest_points(apart, k) & nearest_points(away, k)).sum())
    worst = len(anchors) * k * (2 * n - 3 * k - 1) / 2
    return Preservation(1 - lost / worst, 1 - missed / worst, shared / (len(anchors) * k))


def nearest_points(distance: Tensor, k: int) -> Tensor:
    """Whether each point is among the k nearest, bool (n, N), by distances (n, N); of equal ones the lowest indices.

    `topk` alone takes any of the equal ones, and different ones on another device.
    """
    farthest = distance.topk(k, largest=False).values[:, -1:]
    nearer, level = distance < farthest, distance == farthest
    return nearer | (level & (level.cumsum(1) <= k - nearer.sum(1, keepdim=True)))


def intrusion(truth: Tensor, found: Tensor, k: int) -> float:
    """Σ max(0, rank in `truth` - k) over the k nearest in `found`; distances (n, N), inf from a point to itself."""
    near = truth[nearest_points(found, k)].view(len(truth), k)
    rank = torch.searchsorted(truth.sort(1).values, near) + 1
    return float((rank - k).clamp(min=0).sum())

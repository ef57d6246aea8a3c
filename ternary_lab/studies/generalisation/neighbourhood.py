"""Preservation of neighbourhoods between operations and codes.

Neighbourhoods are preserved if operations that differ in few entries have nearby codes, and if nearby codes belong to
such operations. For an operation i, take the k nearest neighbours in one space that are not among the k nearest in the
other space. Each such neighbour adds a penalty: its rank in the other space minus k (Venna & Kaski 2001). An
operation i for which this is measured is called an anchor. With n anchors among N points:

    trustworthiness  1 - 2/(n k (2N - 3k - 1)) Σ_i Σ_{j near i in the code} max(0, rank in the space of operations - k)
    continuity       the same with the two spaces exchanged

The best value of both measures is 1.

Hamming distances are often equal. The rank of a point is therefore the number of points that are strictly nearer, plus
one. All points at distance one have rank 1. For k = 18, the k nearest operations are exactly those that differ in one
entry. A random map therefore has a continuity of 1/2 and a trustworthiness of 0.59.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ternary_lab import space
from ternary_lab.errors import InputError

NEAREST = space.ENTRIES * (space.VALUES - 1)
"""Number of operations at Hamming distance one from an operation: 18."""
PIECE = 512


@dataclass(frozen=True)
class Preservation:
    """Measures of how well a map preserves neighbourhoods. Every value lies in [0, 1]."""

    trustworthiness: float
    continuity: float
    shared: float
    """Share of the k nearest points in one space that are also among the k nearest in the other space."""


@torch.no_grad()
def preservation(codes: Tensor, anchors: Tensor, k: int = NEAREST) -> Preservation:
    """Return how well the codes (N, L) of all operations preserve neighbourhoods around the operations `anchors` (n,).

    The codes are in the order of the operations' indices. Distances are Hamming distances between operations and
    Euclidean distances between codes. Raises InputError for k outside 1..N/2 - 1.
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
    """Return whether each point is among the k nearest points, bool (n, N), by distances (n, N).

    Of points at equal distances, those with the lowest indices are chosen. `topk` alone chooses any of these points,
    and the choice varies between devices.
    """
    farthest = distance.topk(k, largest=False).values[:, -1:]
    nearer, level = distance < farthest, distance == farthest
    return nearer | (level & (level.cumsum(1) <= k - nearer.sum(1, keepdim=True)))


def intrusion(truth: Tensor, found: Tensor, k: int) -> float:
    """Return Σ max(0, rank in `truth` - k) over the k nearest points in `found`.

    `truth` and `found` are distances (n, N). The distance from a point to itself must be inf.
    """
    near = truth[nearest_points(found, k)].view(len(truth), k)
    rank = torch.searchsorted(truth.sort(1).values, near) + 1
    return float((rank - k).clamp(min=0).sum())

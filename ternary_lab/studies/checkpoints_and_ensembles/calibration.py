"""Calibration of a decoder's probabilities: confidence against accuracy.

    ECE = Σ_bins (n_b / n) |accuracy_b - confidence_b|      (Naeini, Cooper, Hauskrecht 2015; Guo et al. 2017)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ternary_lab import space
from ternary_lab.errors import InputError
from ternary_lab.metrics.decoding import entry_probabilities
from ternary_lab.model import Pathway, TernaryVAE

BINS = 20


@dataclass(frozen=True)
class Reliability:
    """Predictions in bins of equal width by confidence; every tensor (bins,), on the CPU, nan in an empty bin."""

    confidence: Tensor
    """Mean confidence."""
    accuracy: Tensor
    """Share of right predictions."""
    count: Tensor
    """Number of predictions, int64."""

    @property
    def error(self) -> float:
        """Expected calibration error, in [0, 1]."""
        gap = (self.accuracy - self.confidence).abs().nan_to_num(0.0)
        return float((gap * self.count).sum() / self.count.sum())

    @property
    def bias(self) -> float:
        """Mean confidence minus accuracy over all predictions; positive if the decoder is overconfident."""
        gap = (self.confidence - self.accuracy).nan_to_num(0.0)
        return float((gap * self.count).sum() / self.count.sum())


def reliability(confidence: Tensor, right: Tensor, bins: int = BINS) -> Reliability:
    """Predictions in bins of equal width, from their confidence in [0, 1] and whether they were right (same shape).

    Raises InputError for different shapes, no predictions, or a confidence outside [0, 1].
    """
    if confidence.shape != right.shape or confidence.numel() == 0:
        raise InputError(f"confidence and right must have one shape and values, got {confidence.shape}, {right.shape}")
    # On a GPU the order of a sum varies, and with it the last digits: add on the CPU.
    values, hits = confidence.cpu().double().flatten(), right.cpu().double().flatten()
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise InputError("confidence must lie in [0, 1]")
    place = (values * bins).long().clamp_(max=bins - 1)
    count = torch.bincount(place, minlength=bins)
    means = [torch.bincount(place, weights=w, minlength=bins) / count for w in (values, hits)]
    return Reliability(means[0], means[1], count)


def entry_predictions(
    model: TernaryVAE, pathway: Pathway, operations: Tensor, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Confidence (n, 9) of each entry's most probable value, and whether it is right, for operations (n, 9).

    Decoded from one posterior sample if a generator is given, as in training; else from μ.
    """
    confidence, classes = entry_probabilities(model, pathway, operations, generator=generator).max(-1)
    return confidence, classes - 1 == space.check_operations(operations).to(classes.device)

"""Calibration of a decoder's probabilities: confidence against accuracy.

The expected calibration error (ECE) of n predictions, of which n_b lie in bin b, is

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
    """Predictions grouped by confidence into bins of equal width.

    Every tensor has shape (bins,) and lies on the CPU. The means are nan in an empty bin.
    """

    confidence: Tensor
    """Mean confidence of the predictions in each bin."""
    accuracy: Tensor
    """Share of right predictions in each bin."""
    count: Tensor
    """Number of predictions in each bin, int64."""

    @property
    def error(self) -> float:
        """Expected calibration error, in [0, 1]."""
        gap = (self.accuracy - self.confidence).abs().nan_to_num(0.0)
        return float((gap * self.count).sum() / self.count.sum())

    @property
    def bias(self) -> float:
        """Mean confidence minus accuracy over all predictions. It is positive for an overconfident decoder."""
        gap = (self.confidence - self.accuracy).nan_to_num(0.0)
        return float((gap * self.count).sum() / self.count.sum())


def reliability(confidence: Tensor, right: Tensor, bins: int = BINS) -> Reliability:
    """Group predictions by confidence into bins of equal width.

    `confidence` has values in [0, 1]. `right` has the same shape, and is true where a prediction is right. Raises
    InputError if the shapes differ, if there are no predictions, or if a confidence lies outside [0, 1].
    """
    if confidence.shape != right.shape or confidence.numel() == 0:
        raise InputError(
            "confidence and right must have the same shape and at least one value, got the shapes "
            f"{tuple(confidence.shape)} and {tuple(right.shape)}"
        )
    # On a GPU the order of additions varies, which changes the last digits. The sums are therefore made on the CPU.
    values, hits = confidence.cpu().double().flatten(), right.cpu().double().flatten()
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise InputError("confidence must have values in [0, 1]")
    place = (values * bins).long().clamp_(max=bins - 1)
    count = torch.bincount(place, minlength=bins)
    means = [torch.bincount(place, weights=w, minlength=bins) / count for w in (values, hits)]
    return Reliability(means[0], means[1], count)


def entry_predictions(
    model: TernaryVAE, pathway: Pathway, operations: Tensor, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Return the confidence (n, 9) of each entry's most probable value, and whether this value is right (n, 9).

    The operations (n, 9) are decoded from one posterior sample if a generator is given, as in training. Otherwise they
    are decoded from μ.
    """
    confidence, classes = entry_probabilities(model, pathway, operations, generator=generator).max(-1)
    return confidence, classes - 1 == space.check_operations(operations).to(classes.device)

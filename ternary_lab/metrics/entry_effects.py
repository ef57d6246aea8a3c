"""Main effects: the sum of one vector for each entry of the table that is nearest to the latent codes.

The nine entries of an operation are nine factors with the three levels -, 0 and +. The 19,683 operations are all
combinations of these levels, which is a full factorial design (Fisher, *The Design of Experiments*, 1935; Box, Hunter
and Hunter, *Statistics for Experimenters*, 1978). In such a design, differences of means solve the least-squares
problem exactly:

    c        mean of the code μ over all operations
    e_k(v)   mean of μ over the operations whose entry k has the value v, minus c: the main effect of the value
    R²       share of the variance of μ that the sum c + Σ_k e_k(x_k) explains
    step_k   e_k(+) - e_k(-): how far the code moves if entry k changes from - to +

The three main effects of an entry have the sum 0. They show curvature if e_k(0) is not 0: then the code of the value 0
is not in the middle between the codes of - and +. The sum includes the curvature. It does not include interactions, in
which the effect of one entry depends on other entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.errors import InputError
from ternary_lab.space import ENTRIES, SIZE, VALUES, check_dense


@dataclass(frozen=True)
class EntryEffects:
    """Main effects of the nine entries on codes (..., N, L)."""

    centre: Tensor
    """(..., L): the mean c of the codes."""
    effects: Tensor
    """(..., 9, 3, L): the main effects e_k(v), with the values v in the order -, 0, +. Their sum over v is 0."""
    explained: Tensor
    """(...): R², 0..1. It is nan if all codes are equal."""

    @property
    def steps(self) -> Tensor:
        """(..., 9, L): the change of the code if entry k changes from - to +."""
        return self.effects[..., 2, :] - self.effects[..., 0, :]

    @property
    def lengths(self) -> Tensor:
        """(..., 9): the Euclidean lengths of the steps."""
        return self.steps.square().sum(-1).sqrt()

    @property
    def directions(self) -> Tensor:
        """(..., 9, L): the steps, divided by their lengths. A step of length 0 gives nan."""
        return self.steps / self.lengths.unsqueeze(-1)

    @property
    def cosines(self) -> Tensor:
        """(..., 9, 9): the cosines between the steps of two entries."""
        return (self.directions.unsqueeze(-2) * self.directions.unsqueeze(-3)).sum(-1)

    @property
    def largest_cosine(self) -> Tensor:
        """(...): the largest |cos| between the steps of two entries, 0..1. It is 0 if all steps are orthogonal."""
        off_diagonal = ~torch.eye(ENTRIES, dtype=torch.bool, device=self.effects.device)
        return self.cosines.abs()[..., off_diagonal].amax(-1)

    def fitted(self) -> Tensor:
        """Return the sums c + Σ_k e_k(x_k) of all operations, (..., N, L), in the order of their indices."""
        sums = self.centre.unsqueeze(-2)
        # An operation index has the digit of entry 0 last. So each further entry becomes the slowest dimension.
        for effect in self.effects.unbind(-3):
            sums = (effect.unsqueeze(-2) + sums.unsqueeze(-3)).flatten(-3, -2)
        return sums


@with_fixed_arithmetic
def entry_effects(mu: Tensor) -> EntryEffects:
    """Return the main effects of the nine entries on the codes μ (..., N, L) of all operations, in index order.

    The means are computed in float64. The results have the type of μ. Raises InputError unless μ is a floating-point
    tensor with the codes of all 19,683 operations.
    """
    if not isinstance(mu, Tensor):
        raise InputError(f"codes must be a torch tensor (..., {SIZE}, L), got {type(mu).__name__}")
    check_dense(mu, "codes")
    if mu.ndim < 2 or mu.shape[-2] != SIZE or not mu.is_floating_point():
        raise InputError(f"codes must be floats (..., {SIZE}, L), got {mu.dtype} {tuple(mu.shape)}")
    exact = mu.double()
    centre = exact.mean(-2)
    lead, latent = exact.shape[:-2], exact.shape[-1]
    means = [exact.reshape(*lead, -1, VALUES, VALUES**k, latent).mean((-4, -2)) for k in range(ENTRIES)]
    effects = torch.stack(means, -3) - centre[..., None, None, :]
    # The effects of different entries are orthogonal over the design. So their variances add up.
    variance = (exact - centre.unsqueeze(-2)).square().sum(-1).mean(-1)
    explained = effects.square().sum(-1).mean(-1).sum(-1) / variance
    return EntryEffects(centre.to(mu), effects.to(mu), explained.to(mu))

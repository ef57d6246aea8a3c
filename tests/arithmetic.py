"""A fingerprint of the rounding of this machine.

Tests compare exact digits only on machines that round like the machine on which the digits were recorded. A matrix
product is a sum, and the kernel chooses the order of the sum. The last bit of the sum therefore depends on the
processor and on the library. The same is true for exponentials and normal draws. Training amplifies these differences.
If the fingerprint equals the recorded fingerprint, there are no differences to amplify.
"""

from __future__ import annotations

import hashlib

import torch
from torch.nn import functional as F

LAYERS = ((9, 256), (256, 128), (128, 64), (64, 16), (16, 32), (32, 64), (64, 27), (16, 128), (128, 128), (128, 27))
"""Numbers of inputs and outputs of every layer of v5.5 that receives a gradient of the loss."""
ROWS = (64, 2, 1000)
"""Numbers of rows: of a batch, of the last batch of an epoch, and of the latents that coverage decodes at once."""

RECORDED = "15088efcc3600a74"
"""Fingerprint of the machine on which the first epochs equal the original's to the last printed digit."""


def fingerprint() -> str:
    """Return sixteen hexadecimal digits that depend on the rounding of this machine.

    Two machines have the same digits if their float32 products at the sizes of training are equal, and if the other
    functions that training uses give equal results.
    """
    digest = hashlib.sha256()

    def add(*results: torch.Tensor) -> None:
        for result in results:
            digest.update(result.contiguous().numpy().tobytes())

    for inputs, outputs in LAYERS:
        weight, bias = _numbers(outputs, inputs), _numbers(outputs)
        for rows in ROWS:
            x, slope = _numbers(rows, inputs), _numbers(rows, outputs)
            add(F.linear(x, weight, bias), slope @ weight, slope.t() @ x, slope.sum(0), x.norm())
    x = _numbers(64, 27)
    add(x.exp(), x.abs().add(1).log(), x.abs().sqrt(), x.tanh(), F.softmax(x, 1), F.log_softmax(x, 1), x.mean())
    add(torch.cdist(x, x), torch.randn(64, 16, generator=torch.Generator().manual_seed(0)))
    return digest.hexdigest()[:16]


def _numbers(*shape: int) -> torch.Tensor:
    """Return fixed multiples of 2^-12 in ±1.3. float32 represents these numbers exactly, without rounding."""
    n = torch.arange(torch.Size(shape).numel())
    return ((n * 7919 % 10_007 - 5_003).float() / 4096).view(shape)

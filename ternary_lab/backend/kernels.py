"""What CUDA computes in kernels of its own, each beside the plain torch form that it is held against.

Written in Triton, which comes with torch's CUDA builds on Linux; where it is missing the plain forms are used.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

PHILOX_WORDS = 4
"""Numbers of 32 bits that one counter of Philox4x32 gives."""
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORD = 0xFFFFFFFF


@cache
def _triton() -> Any:
    """The module of Triton kernels, or None where Triton is not installed."""
    try:
        from ternary_lab.backend import triton_kernels
    except ImportError:
        return None
    return triton_kernels


def usable(tensor: Tensor) -> bool:
    """Whether kernels of our own compute with this tensor."""
    return tensor.device.type == "cuda" and _triton() is not None


def _own(where: Tensor, name: str, *of: Any) -> Any:
    """Call a kernel of our own on the GPU that holds a tensor: Triton takes the current one."""
    kernel = getattr(_triton(), name)
    if where.device.type != "cuda":
        return kernel(*of)
    with torch.cuda.device(where.device):
        return kernel(*of)


def philox_bits(keys: Tensor, first: int, count: int) -> Tensor:
    """(R, count) int64 in 0..2^32 - 1: Philox4x32-10 (Salmon et al. 2011) for keys (R,) from counter `first` on.

    Counter c gives the numbers 4 (c - first) to 4 (c - first) + 3 of a row; its upper 96 bits are 0.
    """
    counters = torch.arange(first, first - (-count // PHILOX_WORDS), dtype=torch.int64, device=keys.device)
    words = [counters.expand(len(keys), -1), *(torch.zeros_like(counters).expand(len(keys), -1) for _ in range(3))]
    key = [(keys & _WORD).unsqueeze(1), (keys >> 32 & _WORD).unsqueeze(1)]
    for turn in range(_ROUNDS):
        # Products wrap at 2^64, which leaves their lower and upper halves right.
        products = [words[0] * _MULTIPLIERS[0], words[2] * _MULTIPLIERS[1]]
        (high0, low0), (high1, low1) = ((p >> 32 & _WORD, p & _WORD) for p in products)
        now = [k + turn * step & _WORD for k, step in zip(key, _KEY_STEPS, strict=True)]
        words = [high1 ^ words[1] ^ now[0], low1, high0 ^ words[3] ^ now[1], low0]
    return torch.stack(words, -1).flatten(1)[:, :count]


def philox_uniform(keys: Tensor, first: int, count: int) -> Tensor:
    """(R, count) float32, uniform in [0, 1), 24 bits each: see `philox_bits`."""
    if usable(keys):
        return _own(keys, "philox", keys, first, count, False)  # type: ignore[no-any-return]
    return _unit(philox_bits(keys, first, count))


def philox_normal(keys: Tensor, first: int, count: int) -> Tensor:
    """(R, count) float32 from N(0, 1), at most 5.9 from 0: two from two by Box & Muller (1958); see `philox_bits`."""
    if usable(keys):
        return _own(keys, "philox", keys, first, count, True)  # type: ignore[no-any-return]
    even = -(-count // 2) * 2
    radius, angle = _unit(philox_bits(keys, first, even)).view(len(keys), -1, 2).unbind(2)
    radius, angle = radius.add(2.0**-25).log_().mul_(-2).sqrt_(), angle * (2 * math.pi)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), 2).flatten(1)[:, :count]


def _unit(bits: Tensor) -> Tensor:
    return (bits >> 8).float().mul_(2.0**-24)


def adamw(
    weights: Tensor, gradients: Tensor, first: Tensor, second: Tensor, divisor: Tensor, rates: Tensor, step: Tensor,
    divide: bool = True,
) -> None:
    """One step of AdamW (Loshchilov & Hutter 2019) for rows of weights, all (G, P), in place.

    Args:
        divisor: (G,): what each row's gradients are divided by first.
        divide: whether they are left divided; otherwise nobody may read them afterwards.
        rates: (5, G): learning rate, β₁, β₂, ε and weight decay of each row.
        step: 0-dim float32: the number of this step, from 1.
    """
    if usable(weights):
        _own(weights, "adamw", weights, gradients, first, second, divisor, rates, step, divide)
        return
    lr, beta1, beta2, eps, decay = rates.unsqueeze(2)
    unbiased = 1 - torch.stack((beta1, beta2)).double() ** step
    scale, root = (lr / unbiased[0]).float(), unbiased[1].sqrt().float()
    gradients.div_(divisor.unsqueeze(1))
    weights.mul_(1 - lr * decay)
    first.lerp_(gradients, 1 - beta1)
    second.mul_(beta2).addcmul_(gradients, gradients * (1 - beta2))
    weights.sub_(first.mul(scale).div_(second.sqrt().div_(root).add_(eps)))


def add_bias(y: Tensor, bias: Tensor, skip: Tensor | None, relu: bool) -> Tensor:
    """y + bias + skip, then ReLU if wanted, in place: y and skip (G, B, O) contiguous, bias (G, 1, O).

    One pass over y, where a bias in the matrix product is copied into y first and read again.
    """
    if usable(y):
        _own(y, "add_bias", y, bias, skip, relu)
        return y
    y += bias
    if skip is not None:
        y += skip
    return y.relu_() if relu else y


def linear(weight: Tensor, bias: Tensor, x: Tensor, skip: Tensor | None, relu: bool) -> Tensor:
    """weight x + bias + skip, then ReLU if wanted: (G, O, M) of weight (G, O, I), bias (G, O, 1), x (G, I, M) and skip
    (G, O, M), features first. The rows of a weight must be contiguous.
    """
    if usable(x):
        return _own(x, "linear", weight, bias, x, skip, relu)  # type: ignore[no-any-return]
    y = torch.baddbmm(bias, weight, x)
    if skip is not None:
        y += skip
    return y.relu_() if relu else y


def output_terms(target: Tensor, logits: Tensor, entropy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`losses.output_terms` in one kernel: CE (2, R), S (R,) and their gradient in the logits (2, R, B, 9, 3).

    Args:
        target: one-hot classes (R, B, 9, 3).
        logits: (2, R, B, 9, 3), contiguous.
        entropy: (R,): weight of S.
    """
    return _own(logits, "output_terms", target, logits, entropy)  # type: ignore[no-any-return]

"""Functions that have their own CUDA kernels.

The functions draw Philox random numbers, take AdamW steps, and compute biases, linear layers and output terms. On a GPU
they call the kernels in `triton_kernels`. Triton comes with torch's CUDA builds on Linux. On a CPU, or without Triton,
the functions compute the same values in plain torch; only `output_terms` needs Triton. The tests compare the kernels
with plain torch.
"""

from __future__ import annotations

import atexit
import math
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PHILOX_WORDS = 4
"""Number of 32-bit words that Philox4x32 computes from one counter."""
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORD = 0xFFFFFFFF


@cache
def _triton() -> Any:
    """Return the module `triton_kernels`, or None if Triton is not installed."""
    try:
        from ternary_lab.backend import triton_kernels
    except ImportError:
        return None
    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~")
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or Path(home, ".triton", "cache"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:  # a container may be read-only, and the first kernel would fail
        os.environ["TRITON_CACHE_DIR"] = temporary = tempfile.mkdtemp(prefix="ternary-lab-")
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return triton_kernels


def usable(tensor: Tensor) -> bool:
    """Return whether the Triton kernels can compute with this tensor."""
    return tensor.device.type == "cuda" and _triton() is not None


def _launch(device: torch.device, name: str, *arguments: Any) -> Any:
    """Call a function of `triton_kernels` with `device` as the current GPU, because Triton uses the current GPU."""
    kernel = getattr(_triton(), name)
    if device.type != "cuda":  # Triton's interpreter
        return kernel(*arguments)
    with torch.cuda.device(device):
        return kernel(*arguments)


def philox_bits(keys: Tensor, first: int, count: int) -> Tensor:
    """Return random numbers of Philox4x32-10 (Salmon et al. 2011), int64 (R, count) in 0..2^32 - 1.

    Args:
        keys: (R,), one key per row of the result.
        first: the first counter. Counter c gives columns 4 (c - first) to 4 (c - first) + 3. The upper 96 bits of each
            counter are 0.
        count: number of columns.
    """
    counters = torch.arange(first, first - (-count // PHILOX_WORDS), dtype=torch.int64, device=keys.device)
    words = [counters.expand(len(keys), -1), *(torch.zeros_like(counters).expand(len(keys), -1) for _ in range(3))]
    key = [(keys & _WORD).unsqueeze(1), (keys >> 32 & _WORD).unsqueeze(1)]
    for turn in range(_ROUNDS):
        # The products overflow int64, but both 32-bit halves of each product are correct.
        products = [words[0] * _MULTIPLIERS[0], words[2] * _MULTIPLIERS[1]]
        (high0, low0), (high1, low1) = ((p >> 32 & _WORD, p & _WORD) for p in products)
        now = [k + turn * step & _WORD for k, step in zip(key, _KEY_STEPS, strict=True)]
        words = [high1 ^ words[1] ^ now[0], low1, high0 ^ words[3] ^ now[1], low0]
    return torch.stack(words, -1).flatten(1)[:, :count]


def philox_uniform(keys: Tensor, first: int, count: int) -> Tensor:
    """Return uniform random numbers in [0, 1), float32 (R, count), with 24 random bits each.

    The arguments are those of `philox_bits`.
    """
    if usable(keys):
        return _launch(keys.device, "philox", keys, first, count, False)  # type: ignore[no-any-return]
    return _unit(philox_bits(keys, first, count))


def philox_normal(keys: Tensor, first: int, count: int) -> Tensor:
    """Return random numbers from N(0, 1), float32 (R, count), by the method of Box & Muller (1958).

    The numbers lie within ±5.9. The arguments are those of `philox_bits`.
    """
    if usable(keys):
        return _launch(keys.device, "philox", keys, first, count, True)  # type: ignore[no-any-return]
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
    """Take one step of AdamW (Loshchilov & Hutter 2019), in place, for G rows of P weights.

    Args:
        weights: (G, P)
        gradients: (G, P)
        first: (G, P): first moments.
        second: (G, P): second moments.
        divisor: (G,): before the step, the gradients of each row are divided by the divisor of that row.
        rates: (5, G): learning rate, β₁, β₂, ε and weight decay of each row.
        step: 0-dim float32: the number of this step, from 1.
        divide: whether `gradients` holds the divided gradients afterwards; if false, the values are undefined.
    """
    if usable(weights):
        _launch(weights.device, "adamw", weights, gradients, first, second, divisor, rates, step, divide)
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
    """Add bias and skip to y in place, apply ReLU if `relu` is true, and return y.

    y and skip are contiguous and have shape (G, B, O); bias has shape (G, 1, O). The kernel passes over y once. If the
    matrix product added the bias, the product would first write the bias to y and then read y again.
    """
    if usable(y):
        _launch(y.device, "add_bias", y, bias, skip, relu)
        return y
    y += bias
    if skip is not None:
        y += skip
    return y.relu_() if relu else y


def linear(weight: Tensor, bias: Tensor, x: Tensor, skip: Tensor | None, relu: bool) -> Tensor:
    """Return weight x + bias + skip, or its ReLU if `relu` is true; shape (G, O, M), features first.

    Args:
        weight: (G, O, I) with contiguous rows.
        bias: (G, O, 1).
        x: (G, I, M).
        skip: (G, O, M).
    """
    if usable(x):
        return _launch(x.device, "linear", weight, bias, x, skip, relu)  # type: ignore[no-any-return]
    y = torch.baddbmm(bias, weight, x)
    if skip is not None:
        y += skip
    return y.relu_() if relu else y


def output_terms(target: Tensor, logits: Tensor, entropy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cross-entropies CE (2, R), the output entropy S (R,) of pathway B, and the gradient of the loss.

    The gradient (2, R, B, 9, 3) is with respect to the logits: of CE for pathway A, and of CE - `entropy` · S for
    pathway B. One Triton kernel computes all three results, so call this function only for `usable` logits.

    Args:
        target: one-hot classes (R, B, 9, 3).
        logits: (2, R, B, 9, 3), contiguous.
        entropy: (R,): weight of S.
    """
    return _launch(logits.device, "output_terms", target, logits, entropy)  # type: ignore[no-any-return]

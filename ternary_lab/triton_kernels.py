"""The Triton kernels behind `kernels`, which says what each computes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit(do_not_specialize=["first", "count"])
def _philox_kernel(out, keys, first, count, NORMAL: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(keys + row)
    none = tl.zeros([BLOCK], tl.uint32)
    x0, x1, x2, x3 = tl.philox(key, (first + place).to(tl.uint32), none, none, none)
    a, b = (x0 >> 8).to(tl.float32) * 5.9604644775390625e-08, (x1 >> 8).to(tl.float32) * 5.9604644775390625e-08
    c, d = (x2 >> 8).to(tl.float32) * 5.9604644775390625e-08, (x3 >> 8).to(tl.float32) * 5.9604644775390625e-08
    if NORMAL:
        r, s = tl.sqrt(-2 * tl.log(a + 2.98023223876953125e-08)), tl.sqrt(-2 * tl.log(c + 2.98023223876953125e-08))
        b, d = b * 6.283185307179586, d * 6.283185307179586
        a, b = r * tl.cos(b), r * tl.sin(b)
        c, d = s * tl.cos(d), s * tl.sin(d)
    at, begin = 4 * place, out + row * count
    tl.store(begin + at, a, at < count)
    tl.store(begin + at + 1, b, at + 1 < count)
    tl.store(begin + at + 2, c, at + 2 < count)
    tl.store(begin + at + 3, d, at + 3 < count)


def philox(keys: Tensor, first: int, count: int, normal: bool) -> Tensor:
    out = torch.empty(len(keys), count, dtype=torch.float32, device=keys.device)
    if out.numel():
        counters = -(-count // 4)
        _philox_kernel[(triton.cdiv(counters, _BLOCK), len(keys))](
            out, keys, first, count, NORMAL=normal, BLOCK=_BLOCK
        )
    return out


@triton.jit
def _adamw_kernel(weights, gradients, first, second, divisor, rates, step, size, rows, BLOCK: tl.constexpr):
    row = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    at = row.to(tl.int64) * size + i
    lr, beta1, beta2 = tl.load(rates + row), tl.load(rates + rows + row), tl.load(rates + 2 * rows + row)
    eps, decay = tl.load(rates + 3 * rows + row), tl.load(rates + 4 * rows + row)
    # The powers in float64: in float32 they would be off by 1e-5 in the first steps.
    n = tl.load(step).to(tl.float64)
    scale = (lr.to(tl.float64) / (1 - tl.exp(n * tl.log(beta1.to(tl.float64))))).to(tl.float32)
    root = tl.sqrt(1 - tl.exp(n * tl.log(beta2.to(tl.float64)))).to(tl.float32)
    g = tl.load(gradients + at, inside) / tl.load(divisor + row)
    m, v, w = tl.load(first + at, inside), tl.load(second + at, inside), tl.load(weights + at, inside)
    m += (1 - beta1) * (g - m)
    v = beta2 * v + (1 - beta2) * g * g
    w = w * (1 - lr * decay) - scale * m / (tl.sqrt(v) / root + eps)
    tl.store(gradients + at, g, inside)
    tl.store(weights + at, w, inside)
    tl.store(first + at, m, inside)
    tl.store(second + at, v, inside)


def adamw(
    weights: Tensor, gradients: Tensor, first: Tensor, second: Tensor, divisor: Tensor, rates: Tensor, step: Tensor
) -> None:
    rows, size = weights.shape
    _adamw_kernel[(triton.cdiv(size, _BLOCK), rows)](
        weights, gradients, first, second, divisor, rates, step, size, rows, BLOCK=_BLOCK
    )

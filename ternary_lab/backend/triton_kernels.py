"""Triton kernels, and the functions that launch them.

`backend.kernels` documents these functions. The function `philox` computes `philox_uniform` and `philox_normal`.
"""

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
def _adamw_kernel(
    weights, gradients, first, second, divisor, rates, step, size, rows, DIVIDE: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    at = row.to(tl.int64) * size + i
    lr, beta1, beta2 = tl.load(rates + row), tl.load(rates + rows + row), tl.load(rates + 2 * rows + row)
    eps, decay = tl.load(rates + 3 * rows + row), tl.load(rates + 4 * rows + row)
    # The powers need float64: in float32 they would have errors of 1e-5 in the first steps.
    n = tl.load(step).to(tl.float64)
    scale = (lr.to(tl.float64) / (1 - tl.exp(n * tl.log(beta1.to(tl.float64))))).to(tl.float32)
    root = tl.sqrt(1 - tl.exp(n * tl.log(beta2.to(tl.float64)))).to(tl.float32)
    g = tl.load(gradients + at, inside) / tl.load(divisor + row)
    m, v, w = tl.load(first + at, inside), tl.load(second + at, inside), tl.load(weights + at, inside)
    m += (1 - beta1) * (g - m)
    v = beta2 * v + (1 - beta2) * g * g
    w = w * (1 - lr * decay) - scale * m / (tl.sqrt(v) / root + eps)
    if DIVIDE:
        tl.store(gradients + at, g, inside)
    tl.store(weights + at, w, inside)
    tl.store(first + at, m, inside)
    tl.store(second + at, v, inside)


def adamw(
    weights: Tensor, gradients: Tensor, first: Tensor, second: Tensor, divisor: Tensor, rates: Tensor, step: Tensor,
    divide: bool,
) -> None:
    rows, size = weights.shape
    _adamw_kernel[(triton.cdiv(size, _BLOCK), rows)](
        weights, gradients, first, second, divisor, rates, step, size, rows, DIVIDE=divide, BLOCK=_BLOCK
    )


@triton.jit
def _add_bias_kernel(
    y, bias, skip, size, columns, bias_group, SKIP: tl.constexpr, RELU: tl.constexpr, BLOCK: tl.constexpr
):
    group = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    at = group * size + place
    value = tl.load(y + at, inside) + tl.load(bias + group * bias_group + place % columns, inside)
    if SKIP:
        value += tl.load(skip + at, inside)
    if RELU:
        value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(y + at, value, inside)


def add_bias(y: Tensor, bias: Tensor, skip: Tensor | None, relu: bool) -> None:
    groups, rows, columns = y.shape
    _add_bias_kernel[(triton.cdiv(rows * columns, _BLOCK), groups)](
        y, bias, y if skip is None else skip, rows * columns, columns, bias.stride(0), SKIP=skip is not None,
        RELU=relu, BLOCK=_BLOCK,
    )


@triton.jit
def _linear_kernel(
    weight, bias, x, skip, y, weight_group, bias_group, x_group, x_row, outputs, columns, INPUTS: tl.constexpr,
    SKIP: tl.constexpr, RELU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):
    group = tl.program_id(2).to(tl.int64)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, INPUTS, DEPTH):
        k = start + tl.arange(0, DEPTH)
        a = tl.load(
            weight + group * weight_group + row[:, None] * INPUTS + k[None, :],
            (row[:, None] < outputs) & (k[None, :] < INPUTS), 0.0,
        )
        b = tl.load(
            x + group * x_group + k[:, None].to(tl.int64) * x_row + column[None, :],
            (k[:, None] < INPUTS) & (column[None, :] < columns), 0.0,
        )
        # Three TF32 products have the precision of float32. One TF32 product, which is Triton's default, does not.
        total = tl.dot(a, b, total, input_precision="tf32x3")
    total += tl.load(bias + group * bias_group + row, row < outputs, 0.0)[:, None]
    inside = (row[:, None] < outputs) & (column[None, :] < columns)
    at = group * outputs * columns + row[:, None].to(tl.int64) * columns + column[None, :]
    if SKIP:
        total += tl.load(skip + at, inside, 0.0)
    if RELU:
        total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(y + at, total, inside)


def linear(weight: Tensor, bias: Tensor, x: Tensor, skip: Tensor | None, relu: bool) -> Tensor:
    groups, outputs, inputs = weight.shape
    columns = x.shape[2]
    x = x if x.stride(2) == 1 else x.contiguous()
    y = torch.empty(groups, outputs, columns, dtype=x.dtype, device=x.device)
    rows = min(128, max(16, triton.next_power_of_2(outputs)))
    depth = min(32, max(16, triton.next_power_of_2(inputs)))
    width = 64
    _linear_kernel[(triton.cdiv(columns, width), triton.cdiv(outputs, rows), groups)](
        weight, bias, x, y if skip is None else skip, y, weight.stride(0), bias.stride(0), x.stride(0), x.stride(1),
        outputs, columns, INPUTS=inputs, SKIP=skip is not None, RELU=relu, ROWS=rows, COLUMNS=width, DEPTH=depth,
        num_warps=4, num_stages=3,  # a quarter faster than eleven other settings on an H100
    )
    return y


@triton.jit
def _three(at, inside):
    """Return the values of the three classes of an entry. Outside the tensor the values are 0."""
    return tl.load(at, inside, 0.0), tl.load(at + 1, inside, 0.0), tl.load(at + 2, inside, 0.0)


@triton.jit
def _output_terms_kernel(
    target, logits, entropy, ce, s, gradient, runs, batch: tl.constexpr, GROUP: tl.constexpr
):
    """Compute `output_terms` with one program per pathway and run.

    The nine entries are padded to 16. The three classes are loaded one by one.
    """
    run, pathway = tl.program_id(0), tl.program_id(1)
    k = tl.arange(0, 16)
    total_ce = tl.zeros([16], tl.float32)
    mean0, mean1, mean2 = tl.zeros([16], tl.float32), tl.zeros([16], tl.float32), tl.zeros([16], tl.float32)
    base = (pathway * runs + run).to(tl.int64) * batch * 27
    truth = run.to(tl.int64) * batch * 27
    for start in range(0, batch, GROUP):
        b = start + tl.arange(0, GROUP)
        inside = (b[:, None] < batch) & (k[None, :] < 9)
        at = b[:, None] * 27 + k[None, :] * 3
        l0, l1, l2 = _three(logits + base + at, inside)
        t0, t1, t2 = _three(target + truth + at, inside)
        top = tl.maximum(l0, tl.maximum(l1, l2))
        l0, l1, l2 = l0 - top, l1 - top, l2 - top
        e0, e1, e2 = tl.exp(l0), tl.exp(l1), tl.exp(l2)
        total = e0 + e1 + e2
        cost = tl.log(total) - (l0 * t0 + l1 * t1 + l2 * t2)
        total_ce += tl.sum(tl.where(inside, cost, 0.0), 0)
        p0, p1, p2 = e0 / total, e1 / total, e2 / total
        mean0 += tl.sum(tl.where(inside, p0, 0.0), 0)
        mean1 += tl.sum(tl.where(inside, p1, 0.0), 0)
        mean2 += tl.sum(tl.where(inside, p2, 0.0), 0)
        if pathway == 0:
            tl.store(gradient + base + at, (p0 - t0) / batch, inside)
            tl.store(gradient + base + at + 1, (p1 - t1) / batch, inside)
            tl.store(gradient + base + at + 2, (p2 - t2) / batch, inside)
    tl.store(ce + pathway * runs + run, tl.sum(total_ce, 0) / batch)
    if pathway == 1:
        # S and the gradient of S need the mean of p over the batch. So the logits are read again.
        mean0, mean1, mean2 = mean0 / batch, mean1 / batch, mean2 / batch
        g0, g1, g2 = tl.log(mean0 + 1e-10), tl.log(mean1 + 1e-10), tl.log(mean2 + 1e-10)
        value = tl.where(k < 9, mean0 * g0 + mean1 * g1 + mean2 * g2, 0.0)
        tl.store(s + run, -tl.sum(value, 0))
        g0 += mean0 / (mean0 + 1e-10)
        g1 += mean1 / (mean1 + 1e-10)
        g2 += mean2 / (mean2 + 1e-10)
        weight = tl.load(entropy + run) / batch
        for start in range(0, batch, GROUP):
            b = start + tl.arange(0, GROUP)
            inside = (b[:, None] < batch) & (k[None, :] < 9)
            at = b[:, None] * 27 + k[None, :] * 3
            l0, l1, l2 = _three(logits + base + at, inside)
            t0, t1, t2 = _three(target + truth + at, inside)
            top = tl.maximum(l0, tl.maximum(l1, l2))
            e0, e1, e2 = tl.exp(l0 - top), tl.exp(l1 - top), tl.exp(l2 - top)
            total = e0 + e1 + e2
            p0, p1, p2 = e0 / total, e1 / total, e2 / total
            a0, a1, a2 = p0 * g0[None, :], p1 * g1[None, :], p2 * g2[None, :]
            whole = a0 + a1 + a2
            tl.store(gradient + base + at, (p0 - t0) / batch + weight * (a0 - p0 * whole), inside)
            tl.store(gradient + base + at + 1, (p1 - t1) / batch + weight * (a1 - p1 * whole), inside)
            tl.store(gradient + base + at + 2, (p2 - t2) / batch + weight * (a2 - p2 * whole), inside)


def output_terms(target: Tensor, logits: Tensor, entropy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    _, runs, batch = logits.shape[:3]
    target, logits = target.contiguous(), logits.contiguous()
    ce, s, gradient = logits.new_empty(2, runs), logits.new_empty(runs), torch.empty_like(logits)
    _output_terms_kernel[(runs, 2)](
        target, logits, entropy, ce, s, gradient, runs, batch, GROUP=min(64, triton.next_power_of_2(batch))
    )
    return ce, s, gradient

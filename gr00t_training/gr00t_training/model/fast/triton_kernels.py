# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of `gr00t_training.model.fast.kernels`; sums run in float32, results are rounded once."""
# pyright: reportIndexIssue=false
# a kernel is launched by indexing it with its grid

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor

if TYPE_CHECKING:
    from gr00t_training.model.fast.norms import Norm

_ROTATED_HEADS = 8  # heads of one program
_GATE_BLOCK = 1024  # elements of one program
# of `product_parts`; chosen by measurement on an H200 at the widths of the releases
_NUM_PARTS = 4
_OUTPUTS = 64
_MAX_ROWS = 64


@triton.jit
def _add_norm(
    x_ptr,
    y_ptr,
    y_bias_ptr,
    weight_ptr,
    bias_ptr,
    choice_ptr,
    sum_ptr,
    out_ptr,
    width,
    part_stride,
    eps,
    NUM_PARTS: tl.constexpr,  # noqa: N803
    HAS_CHOICE: tl.constexpr,  # noqa: N803
    HAS_Y_BIAS: tl.constexpr,  # noqa: N803
    HAS_WEIGHT: tl.constexpr,  # noqa: N803
    HAS_BIAS: tl.constexpr,  # noqa: N803
    IS_RMS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    x = tl.load(x_ptr + row * width + columns, mask=inside, other=0.0)
    dtype = x.dtype
    x = x.to(tl.float32)
    if NUM_PARTS > 0:
        y = tl.load(y_ptr + row * width + columns, mask=inside, other=0.0).to(tl.float32)
        for part in tl.static_range(1, NUM_PARTS):
            y += tl.load(y_ptr + part * part_stride + row * width + columns, mask=inside, other=0.0).to(tl.float32)
        if HAS_Y_BIAS:
            y += tl.load(y_bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)
        x = (x + y).to(dtype)
        tl.store(sum_ptr + row * width + columns, x, mask=inside)
        x = x.to(tl.float32)
    if not IS_RMS:
        x -= tl.sum(x, 0) / width
        x = tl.where(inside, x, 0.0)
    x *= tl.rsqrt(tl.sum(x * x, 0) / width + eps)
    place = columns
    if HAS_CHOICE:
        place += tl.load(choice_ptr + row) * width
    if HAS_WEIGHT:
        x *= tl.load(weight_ptr + place, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias_ptr + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * width + columns, x.to(dtype), mask=inside)


def add_norm(x: Tensor, y: Tensor | None, bias: Tensor | None, how: Norm) -> tuple[Tensor, Tensor]:
    """See `kernels.add_norm`; without `y` the sum is `x` itself; `y` may be parts `(P, M, D)`."""
    rows, width = x.shape
    total = x if y is None else torch.empty_like(x)
    out = torch.empty_like(x)
    block = triton.next_power_of_2(width)
    _add_norm[(rows,)](
        x,
        y,
        bias,
        how.weight,
        how.bias,
        how.choice,
        total,
        out,
        width,
        x.numel(),
        how.eps,
        NUM_PARTS=0 if y is None else y.numel() // x.numel(),
        HAS_CHOICE=how.choice is not None,
        HAS_Y_BIAS=bias is not None,
        HAS_WEIGHT=how.weight is not None,
        HAS_BIAS=how.bias is not None,
        IS_RMS=how.is_rms,
        BLOCK=block,
        num_warps=4 if block <= 2048 else 8,
    )
    return total, out


@triton.jit
def _product_parts(
    x_ptr,
    weight_ptr,
    out_ptr,
    num_rows,
    num_outputs,
    num_inputs,
    part_inputs,
    ROWS: tl.constexpr,  # noqa: N803
    OUTPUTS: tl.constexpr,  # noqa: N803
    INPUTS: tl.constexpr,  # noqa: N803
):
    part = tl.program_id(1)
    rows = tl.arange(0, ROWS)
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    inputs = part * part_inputs + tl.arange(0, INPUTS)
    # the weights are the left factor: the tensor cores want 64 rows of it, and there are fewer of the other
    inside = rows[None, :] < num_rows
    total = tl.zeros((OUTPUTS, ROWS), tl.float32)
    weight_place = weight_ptr + outputs[:, None] * num_inputs + inputs[None, :]
    x_place = x_ptr + rows[None, :] * num_inputs + inputs[:, None]
    for _ in range(0, part_inputs, INPUTS):
        total = tl.dot(tl.load(weight_place), tl.load(x_place, mask=inside, other=0.0), total)
        weight_place += INPUTS
        x_place += INPUTS
    out_place = out_ptr + (part * num_rows + rows[None, :]) * num_outputs + outputs[:, None]
    tl.store(out_place, total, mask=inside)


def product_parts(x: Tensor, weight: Tensor) -> Tensor | None:
    """Return `x weight^T` of few rows as `(4, M, D)` float32 terms of a sum; None if the shapes do not suit.

    Few rows leave most of the chip idle unless the inputs are split among the programs too. The sum of the parts is
    left to the norm that follows, so that nothing is added in an order that changes from run to run.
    """
    rows, num_inputs = x.shape
    outputs = len(weight)
    block = 128 if num_inputs % (_NUM_PARTS * 128) == 0 else 64
    if rows > _MAX_ROWS or x.element_size() != 2 or outputs % _OUTPUTS or num_inputs % (_NUM_PARTS * block):
        return None
    out = torch.empty((_NUM_PARTS, rows, outputs), dtype=torch.float32, device=x.device)
    _product_parts[(outputs // _OUTPUTS, _NUM_PARTS)](
        x,
        weight,
        out,
        rows,
        outputs,
        num_inputs,
        num_inputs // _NUM_PARTS,
        ROWS=32 if rows <= 32 else 64,
        OUTPUTS=_OUTPUTS,
        INPUTS=block,
        num_warps=4,
        num_stages=6,
    )
    return out


@triton.jit
def _norm_rotate(
    qkv_ptr,
    q_weight_ptr,
    k_weight_ptr,
    cos_ptr,
    sin_ptr,
    row_stride,
    num_heads,
    num_key_heads,
    num_positions,
    eps,
    HAS_NORM: tl.constexpr,  # noqa: N803
    HAS_ROTARY: tl.constexpr,  # noqa: N803
    HALF: tl.constexpr,  # noqa: N803
    HEADS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    columns = tl.arange(0, BLOCK)
    in_half = columns < HALF
    inside = (heads < num_heads + num_key_heads)[:, None] & in_half[None, :]
    place = qkv_ptr + row * row_stride + heads[:, None] * (2 * HALF) + columns[None, :]
    first = tl.load(place, mask=inside, other=0.0)
    second = tl.load(place + HALF, mask=inside, other=0.0)
    dtype = first.dtype
    first, second = first.to(tl.float32), second.to(tl.float32)
    if HAS_NORM:
        scale = tl.rsqrt((tl.sum(first * first, 1) + tl.sum(second * second, 1)) / (2 * HALF) + eps)
        is_query = (heads < num_heads)[:, None]
        q_weight = tl.load(q_weight_ptr + columns, mask=in_half, other=0.0).to(tl.float32)
        k_weight = tl.load(k_weight_ptr + columns, mask=in_half, other=0.0).to(tl.float32)
        first *= scale[:, None] * tl.where(is_query, q_weight[None, :], k_weight[None, :])
        q_weight = tl.load(q_weight_ptr + HALF + columns, mask=in_half, other=0.0).to(tl.float32)
        k_weight = tl.load(k_weight_ptr + HALF + columns, mask=in_half, other=0.0).to(tl.float32)
        second *= scale[:, None] * tl.where(is_query, q_weight[None, :], k_weight[None, :])
    if HAS_ROTARY:
        angle = (row % num_positions) * 2 * HALF + columns
        cos = tl.load(cos_ptr + angle, mask=in_half, other=0.0).to(tl.float32)[None, :]
        sin = tl.load(sin_ptr + angle, mask=in_half, other=0.0).to(tl.float32)[None, :]
        first, second = first * cos - second * sin, second * cos + first * sin
    tl.store(place, first.to(dtype), mask=inside)
    tl.store(place + HALF, second.to(dtype), mask=inside)


def norm_rotate(
    qkv: Tensor,
    num_heads: int,
    num_key_heads: int,
    norms: tuple[Tensor, Tensor, float] | None,
    rotary: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """See `gr00t_training.model.fast.kernels.norm_rotate`."""
    half = qkv.shape[1] // (num_heads + 2 * num_key_heads) // 2
    _norm_rotate[(len(qkv), triton.cdiv(num_heads + num_key_heads, _ROTATED_HEADS))](
        qkv,
        norms[0] if norms else None,
        norms[1] if norms else None,
        rotary[0] if rotary else None,
        rotary[1] if rotary else None,
        qkv.stride(0),
        num_heads,
        num_key_heads,
        len(rotary[0]) if rotary else 1,
        norms[2] if norms else 0.0,
        HAS_NORM=norms is not None,
        HAS_ROTARY=rotary is not None,
        HALF=half,
        HEADS=_ROTATED_HEADS,
        BLOCK=triton.next_power_of_2(half),
        num_warps=2,
    )
    return qkv


@triton.jit
def _attend_few(
    q_ptr,
    q_bias_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    num_queries,
    num_keys,
    part_stride,
    q_batch_stride,
    q_row_stride,
    k_batch_stride,
    k_head_stride,
    k_row_stride,
    v_batch_stride,
    v_head_stride,
    v_row_stride,
    scale,
    NUM_HEADS: tl.constexpr,  # noqa: N803
    NUM_PARTS: tl.constexpr,  # noqa: N803
    HAS_BIAS: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
    QUERIES: tl.constexpr,  # noqa: N803
    KEYS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    sample = tl.program_id(0) // NUM_HEADS
    head = tl.program_id(0) % NUM_HEADS
    queries = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    columns = tl.arange(0, BLOCK)
    in_width = columns < WIDTH
    in_queries = (queries < num_queries)[:, None] & in_width[None, :]
    place = q_ptr + sample * q_batch_stride + queries[:, None] * q_row_stride + head * WIDTH + columns[None, :]
    q = tl.load(place, mask=in_queries, other=0.0).to(tl.float32)
    for part in tl.static_range(1, NUM_PARTS):
        q += tl.load(place + part * part_stride, mask=in_queries, other=0.0).to(tl.float32)
    if HAS_BIAS:
        q += tl.load(q_bias_ptr + head * WIDTH + columns, mask=in_width, other=0.0).to(tl.float32)[None, :]
    k_place = k_ptr + sample * k_batch_stride + head * k_head_stride + columns[:, None]
    v_place = v_ptr + sample * v_batch_stride + head * v_head_stride + columns[None, :]
    dtype = k_ptr.dtype.element_ty
    q = q.to(dtype)  # as the product alone would have rounded it
    highest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    out = tl.zeros((QUERIES, BLOCK), tl.float32)
    for start in range(0, num_keys, KEYS):
        keys = start + tl.arange(0, KEYS)
        in_keys = keys < num_keys
        k = tl.load(k_place + keys[None, :] * k_row_stride, mask=in_keys[None, :] & in_width[:, None], other=0.0)
        scores = tl.dot(q, k) * scale
        scores = tl.where(in_keys[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        shrink = tl.exp(highest - higher)
        total = total * shrink + tl.sum(weights, 1)
        v = tl.load(v_place + keys[:, None] * v_row_stride, mask=in_keys[:, None] & in_width[None, :], other=0.0)
        out = tl.dot(weights.to(dtype), v, out * shrink[:, None])
        highest = higher
    rows = sample * num_queries + queries
    out_place = out_ptr + rows[:, None] * (NUM_HEADS * WIDTH) + head * WIDTH + columns[None, :]
    tl.store(out_place, (out / total[:, None]).to(dtype), mask=in_queries)


def attend_few(q: Tensor, q_bias: Tensor | None, k: Tensor, v: Tensor) -> Tensor | None:
    """Return unmasked attention of few queries as rows `(B T, N K)`; None if the shapes do not suit.

    Args:
        q: rows `(B T, N K)`, the last dimension contiguous, or parts of them `(P, B T, N K)`.
        q_bias: `(N K,)`, added to the queries.
        k: `(B, N, S, K)`, the last dimension contiguous.
        v: `(B, N, S, K)`, the last dimension contiguous.
    """
    samples, heads, num_keys, width = k.shape
    rows = q.shape[-2]
    num_queries = rows // samples
    if num_queries > _MAX_ROWS or k.element_size() != 2 or width > 128:
        return None
    out = torch.empty((rows, heads * width), dtype=k.dtype, device=k.device)
    queries = 16 if num_queries <= 16 else 32
    _attend_few[(samples * heads, triton.cdiv(num_queries, queries))](
        q,
        q_bias,
        k,
        v,
        out,
        num_queries,
        num_keys,
        q.stride(0) if q.ndim == 3 else 0,
        num_queries * q.stride(-2),
        q.stride(-2),
        k.stride(0),
        k.stride(1),
        k.stride(2),
        v.stride(0),
        v.stride(1),
        v.stride(2),
        width**-0.5,
        NUM_HEADS=heads,
        NUM_PARTS=q.shape[0] if q.ndim == 3 else 1,
        HAS_BIAS=q_bias is not None,
        WIDTH=width,
        QUERIES=queries,
        KEYS=64,
        BLOCK=max(triton.next_power_of_2(width), 16),  # the least that a product takes
        num_warps=4,
        num_stages=3,
    )
    return out


@triton.jit
def _gate(x_ptr, out_ptr, width, BLOCK: tl.constexpr):  # noqa: N803
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    first = tl.load(x_ptr + row * 2 * width + columns, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x_ptr + row * 2 * width + width + columns, mask=inside, other=0.0)
    out = first * tl.sigmoid(first) * second.to(tl.float32)
    tl.store(out_ptr + row * width + columns, out.to(second.dtype), mask=inside)


def gate(x: Tensor) -> Tensor:
    """See `gr00t_training.model.fast.kernels.gate`."""
    rows, width = x.shape[0], x.shape[1] // 2
    out = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    _gate[(rows, triton.cdiv(width, _GATE_BLOCK))](x, out, width, BLOCK=_GATE_BLOCK)
    return out

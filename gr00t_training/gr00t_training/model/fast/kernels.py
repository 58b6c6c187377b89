# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The few fused operations of the inference path: PyTorch's own on the CPU, Triton kernels on a CUDA device.

At batch 1 a small operation takes the time of its launch and of its memory access. Joining a bias, a residual and a
norm therefore saves more time than any tuning of one of them. Matrix products stay with PyTorch (cuBLAS).

Letters in shapes: M rows (samples x tokens), D width, N heads of the queries, G heads of the keys, K width of a head.
"""

from __future__ import annotations

import functools
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from gr00t_training.model.fast.norms import Norm


def norm(x: Tensor, how: Norm) -> Tensor:
    """Return the norm of the rows of `x` `(M, D)`."""
    triton = _triton(x)
    return triton.add_norm(x, None, None, how)[1] if triton else how(x)


def add_norm(x: Tensor, y: Tensor, bias: Tensor | None, how: Norm) -> tuple[Tensor, Tensor]:
    """Return the residual sum `x + y + bias` and its norm, both `(M, D)`.

    Args:
        x: `(M, D)`.
        y: `(M, D)`, or the parts that `product` returned.
        bias: `(D,)`.
        how: the norm.
    """
    triton = _triton(x)
    if triton:
        return triton.add_norm(x, y, bias, how)
    x = x + (y if bias is None else y + bias)
    return x, how(x)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return `x weight^T` for `add_norm`: `(M, D)`, or parts of it where that is faster."""
    triton = _triton(x)
    parts = triton.product_parts(x, weight) if triton else None
    return torch.mm(x, weight.t()) if parts is None else parts


def norm_rotate(
    qkv: Tensor,
    num_heads: int,
    num_key_heads: int,
    norms: tuple[Tensor, Tensor, float] | None,
    rotary: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Norm and turn the queries and keys among `qkv` `(M, (N + 2 G) K)`, in place; returns it.

    Args:
        qkv: rows of queries, keys and values.
        num_heads: N.
        num_key_heads: G.
        norms: weights `(K,)` of the heads' root mean square norm, queries' and keys', and its eps; None: not normed.
        rotary: cosines and sines `(T, K)` with M a multiple of T (row i has position i mod T); None: not turned.
    """
    if norms is None and rotary is None:
        return qkv
    triton = _triton(qkv)
    if triton:
        return triton.norm_rotate(qkv, num_heads, num_key_heads, norms, rotary)
    heads = qkv.unflatten(-1, (num_heads + 2 * num_key_heads, -1))  # (M, N + 2 G, K)
    for start, stop in ((0, num_heads), (num_heads, num_heads + num_key_heads)):
        x = heads[:, start:stop]
        if norms is not None:
            x = F.rms_norm(x, x.shape[-1:], norms[0] if start == 0 else norms[1], norms[2])
        if rotary is not None:
            cos, sin = (table.to(x.dtype).repeat(len(x) // len(table), 1)[:, None] for table in rotary)
            first, second = x.chunk(2, -1)
            x = x * cos + torch.cat([-second, first], -1) * sin
        heads[:, start:stop] = x
    return qkv


def attend_few(q: Tensor, q_bias: Tensor | None, k: Tensor, v: Tensor) -> Tensor | None:
    """Return unmasked attention of few queries as rows `(B T, N K)`; None if there is no kernel for it.

    Args:
        q: rows `(B T, N K)` or the parts of them that `product` returned.
        q_bias: `(N K,)` to add to the queries.
        k: `(B, N, S, K)`.
        v: `(B, N, S, K)`.
    """
    triton = _triton(k)
    return triton.attend_few(q, q_bias, k, v) if triton else None


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return GELU (tanh form) of `x weight^T + bias`, `(M, D)`."""
    if x.is_cuda:  # the matrix product's own epilogue, which has the tanh form
        return torch._addmm_activation(bias, x, weight.t(), use_gelu=True)  # pyright: ignore[reportPrivateImportUsage]
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


def linear_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ReLU of `x weight^T + bias`, `(M, D)`."""
    if x.is_cuda:
        return torch._addmm_activation(bias, x, weight.t())  # pyright: ignore[reportPrivateImportUsage]
    return F.relu(F.linear(x, weight, bias))


def gate(x: Tensor) -> Tensor:
    """Return `silu(a) b` `(M, D)` of `x = [a, b]` `(M, 2 D)`."""
    triton = _triton(x)
    if triton:
        return triton.gate(x)
    first, second = x.chunk(2, -1)
    return F.silu(first) * second


def _triton(x: Tensor) -> ModuleType | None:
    return _kernels() if x.is_cuda else None


@functools.cache
def _kernels() -> ModuleType | None:
    """Return the Triton kernels; None if Triton is not installed (it comes with PyTorch for CUDA on Linux)."""
    try:
        from gr00t_training.model.fast import triton_kernels as kernels_triton
    except ImportError:
        return None
    return kernels_triton

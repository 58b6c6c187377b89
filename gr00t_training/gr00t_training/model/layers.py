# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Attention and feed-forward layers that the vision tower, the language model and the action head share.

Letters in shapes: B batch, T tokens, S tokens attended to, D width, N heads, K width of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name every PyTorch reader expects

ATTENTION_KERNELS = ("sdpa", "eager", "flash")


def attend(q: Tensor, k: Tensor, v: Tensor, *, kernel: str, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Return softmax(q k^T / sqrt(K)) v.

    Args:
        q: `(B, N, T, K)`.
        k: `(B, N, S, K)`.
        v: `(B, N, S, K)`.
        kernel: one of ATTENTION_KERNELS. FlashAttention takes no mask: masked calls use PyTorch's own kernel.
        mask: bool, broadcastable to `(B, N, T, S)`; True where q may look. Every row needs at least one True.
        causal: whether row i sees rows 0..i only; not together with `mask`.

    Returns:
        `(B, N, T, K)`.
    """
    if kernel == "flash" and mask is None:
        from flash_attn import flash_attn_func  # type: ignore[import-not-found]

        rows = flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), causal=causal)
        return rows.transpose(1, 2)
    if kernel != "eager":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # (B, N, T, S)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


class ContextMasks(NamedTuple):
    """Features of the backbone to attend to, `(B, 1, 1, S)` bool each, False at padding; None: all of them."""

    text: Tensor | None = None
    images: Tensor | None = None
    tokens: Tensor | None = None  # of text and images


NO_MASKS = ContextMasks()


class Attention(nn.Module):
    """Multi-head attention with separate projections."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        kernel: str,
        context_width: int | None = None,
        bias: bool = True,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        head_norm_eps: float | None = None,
    ) -> None:
        """Make the projections.

        Args:
            width: D of input and output.
            num_heads: of the queries.
            kernel: one of ATTENTION_KERNELS.
            context_width: D of what is attended to; None: `width`.
            bias: of the projections.
            num_kv_heads: heads of keys and values, each shared by several of the queries (arXiv 2305.13245); None: as
                many as of the queries.
            head_dim: K; None: `width / num_heads`.
            head_norm_eps: of the norm of each head's queries and keys (arXiv 2010.04245); None: not normed.
        """
        super().__init__()
        _check_kernel(kernel)
        if head_dim is None and width % num_heads:
            raise ValueError(f"width {width} is not a multiple of {num_heads} heads")
        num_kv_heads = num_kv_heads or num_heads
        if num_heads % num_kv_heads:
            raise ValueError(f"{num_heads} query heads are not a multiple of {num_kv_heads} key heads")
        self.head_dim = head_dim or width // num_heads
        self.num_shared = num_heads // num_kv_heads  # query heads per key head
        self.kernel = kernel
        self.q_proj = nn.Linear(width, num_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(context_width or width, num_kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(context_width or width, num_kv_heads * self.head_dim, bias=bias)
        self.out_proj = nn.Linear(num_heads * self.head_dim, width, bias=bias)
        self.q_norm = nn.Identity() if head_norm_eps is None else nn.RMSNorm(self.head_dim, eps=head_norm_eps)
        self.k_norm = nn.Identity() if head_norm_eps is None else nn.RMSNorm(self.head_dim, eps=head_norm_eps)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return what queries meet: keys and values `(B, N or fewer, S, K)` of `context` `(B, S, D)`."""
        return self.k_norm(self._heads(self.k_proj(context))), self._heads(self.v_proj(context))

    def forward(
        self,
        x: Tensor,
        keys_values: tuple[Tensor, Tensor] | None = None,
        *,
        rotary: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        row_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend from `x` `(B, T, D)` to itself, or to `keys_values` made beforehand.

        Args:
            x: queries come from here.
            keys_values: result of `keys_values`; None: from `x`.
            rotary: cosines and sines `(T, K)`, or `(B, 1, T, K)` where samples differ.
            mask: see `attend`.
            causal: see `attend`.
            row_mask: `(B, T, 1)`; rows with 0 leave the attention as zero, before the output projection.
        """
        q = self.q_norm(self._heads(self.q_proj(x)))  # (B, N, T, K)
        k, v = keys_values or self.keys_values(x)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        if self.num_shared > 1:
            k, v = k.repeat_interleave(self.num_shared, 1), v.repeat_interleave(self.num_shared, 1)  # (B, N, S, K)
        rows = attend(q, k, v, kernel=self.kernel, mask=mask, causal=causal)
        rows = rows.transpose(1, 2).flatten(2)  # (B, T, N * K)
        if row_mask is not None:
            rows = rows * row_mask
        return self.out_proj(rows)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class FeedForward(nn.Module):
    """Linear, GELU (tanh form), linear."""

    def __init__(self, width: int, hidden: int, *, dropout: float = 0.0, final_dropout: bool = False) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        self.final_dropout = nn.Dropout(dropout if final_dropout else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., D)` to `(..., D)`."""
        return self.final_dropout(self.fc2(self.dropout(F.gelu(self.fc1(x), approximate="tanh"))))


class JointAttention(nn.Module):
    """Multi-head self attention with one projection for queries, keys and values."""

    def __init__(self, width: int, num_heads: int, *, kernel: str) -> None:
        super().__init__()
        _check_kernel(kernel)
        if width % num_heads:
            raise ValueError(f"width {width} is not a multiple of {num_heads} heads")
        self.num_heads = num_heads
        self.head_dim = width // num_heads
        self.kernel = kernel
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, *, rotary: tuple[Tensor, Tensor] | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend from `x` `(B, T, D)` to itself; `rotary`: cosines and sines `(T, K)`; `mask`: see `attend`."""
        heads = self.qkv_proj(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        q, k, v = (part.transpose(1, 2) for part in heads.unbind(2))  # (B, N, T, K)
        if rotary is not None:
            # in float32 whatever the model's type, as the release does here and not in its language model
            q, k = rotate(q.float(), *rotary).to(v.dtype), rotate(k.float(), *rotary).to(v.dtype)
        return self.out_proj(attend(q, k, v, kernel=self.kernel, mask=mask).transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    """Pre-norm transformer block of self attention to all tokens, or to those that a mask shows."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        hidden: int,
        *,
        norm_eps: float,
        kernel: str,
        dropout: float = 0.0,
        final_dropout: bool = False,
        is_joint: bool = False,
    ) -> None:
        """Make the block; `is_joint`: queries, keys and values come from one projection."""
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.self_attn = (JointAttention if is_joint else Attention)(width, num_heads, kernel=kernel)
        self.attention_dropout = nn.Dropout(dropout)  # behind the output projection
        self.final_dropout = nn.Dropout(dropout if final_dropout else 0.0)
        self.layer_norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = FeedForward(width, hidden, dropout=dropout, final_dropout=final_dropout)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None = None, *, mask: Tensor | None = None) -> Tensor:
        """Map `(B, T, D)` to `(B, T, D)`; `rotary`: cosines and sines `(T, K)`; `mask`: see `attend`."""
        y = self.self_attn(self.layer_norm1(x), rotary=rotary, mask=mask)
        x = x + self.final_dropout(self.attention_dropout(y))
        return x + self.mlp(self.layer_norm2(x))


def rotary_frequencies(head_dim: int, theta: float) -> Tensor:
    """Return the angles `(K/2,)` float32 that channel pairs turn by from one position to the next.

    Source: arXiv 2104.09864, section 3.2.
    """
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


def rotary_table(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines `(..., T, K)` float32 for `rotate`, of angles `(..., T, K/2)`."""
    angles = torch.cat([angles, angles], -1)  # channel j turns with channel j + K/2
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the channel pairs (j, j + K/2) of `(..., T, K)` by the angles of `rotary_table`."""
    first, second = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], -1) * sin.to(x.dtype)


def _check_kernel(kernel: str) -> None:
    if kernel not in ATTENTION_KERNELS:
        raise ValueError(f"attention '{kernel}' is not one of {', '.join(ATTENTION_KERNELS)}")

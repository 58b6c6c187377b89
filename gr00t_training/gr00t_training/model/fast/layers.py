# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Layers of the inference path: weights of the trained layers, joined so that few large operations remain.

Rows are samples x tokens, so that every product is one matrix product. Joined weights replace the separate
ones: the trained layers keep views of them, so no weight is in memory twice.

Letters in shapes: B batch, T tokens, M = B T rows, D width, N heads, G heads of keys, K width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass

import torch
from torch import Tensor, nn

from gr00t_training.model.fast.kernels import add_norm, attend_few, gate, linear_gelu, norm, norm_rotate, product
from gr00t_training.model.fast.norms import Norm
from gr00t_training.model.layers import Attention, EncoderBlock, JointAttention, attend

Rotary = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Linear:
    """Weight `(out, in)` and bias `(out,)`."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Map `(M, in)` to `(M, out)`."""
        return nn.functional.linear(x, self.weight, self.bias)

    def product(self, x: Tensor) -> Tensor:
        """Map `(M, in)` to `(M, out)`, or parts of it, without the bias, for `add_norm`."""
        return product(x, self.weight)


def join(*layers: nn.Linear) -> Linear:
    """Return layers of one input as one; the layers become views of it."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    bias = torch.cat(biases) if biases else None
    start = 0
    for layer in layers:
        stop = start + layer.out_features
        layer.weight = nn.Parameter(weight[start:stop], requires_grad=False)
        if bias is not None:
            layer.bias = nn.Parameter(bias[start:stop], requires_grad=False)
        start = stop
    return Linear(weight, bias)


def linear_of(layer: nn.Linear) -> Linear:
    """Return a layer's weights."""
    return Linear(layer.weight.detach(), None if layer.bias is None else layer.bias.detach())


def norm_of(layer: nn.LayerNorm | nn.RMSNorm) -> Norm:
    """Return a norm's weights."""
    bias = getattr(layer, "bias", None)
    return Norm(
        layer.weight.detach(), None if bias is None else bias.detach(), layer.eps or 0.0, isinstance(layer, nn.RMSNorm)
    )


class SelfAttention:
    """Attention of rows to each other, queries, keys and values in one product; without the last bias."""

    def __init__(self, layer: Attention | JointAttention) -> None:
        self.kernel = layer.kernel
        self.out = linear_of(layer.out_proj)
        self.norms = None
        if isinstance(layer, JointAttention):
            self.num_heads = self.num_key_heads = layer.num_heads
            self.qkv = linear_of(layer.qkv_proj)
            return
        self.num_heads = layer.q_proj.out_features // layer.head_dim
        self.num_key_heads = layer.k_proj.out_features // layer.head_dim
        self.qkv = join(layer.q_proj, layer.k_proj, layer.v_proj)
        if isinstance(layer.q_norm, nn.RMSNorm) and isinstance(layer.k_norm, nn.RMSNorm):
            self.norms = (layer.q_norm.weight.detach(), layer.k_norm.weight.detach(), layer.q_norm.eps or 0.0)

    def __call__(
        self,
        x: Tensor,
        samples: int,
        *,
        rotary: Rotary | None = None,
        mask: Tensor | None = None,
        row_mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Map `(M, D)` to `(M, D)`; `out.bias` is left to the caller.

        Args:
            x: rows of `samples` sequences.
            samples: B.
            rotary: see `norm_rotate`.
            mask: see `attend`.
            row_mask: `(M, 1)`; rows with 0 leave the attention as zero.
            causal: see `attend`.
        """
        qkv = norm_rotate(self.qkv(x), self.num_heads, self.num_key_heads, self.norms, rotary)
        heads = qkv.view(samples, -1, self.num_heads + 2 * self.num_key_heads, qkv.shape[1] // self._num_parts)
        q, k, v = heads.transpose(1, 2).split([self.num_heads, self.num_key_heads, self.num_key_heads], 1)
        rows = None
        if mask is None and not causal and self.kernel == "sdpa" and self.num_heads == self.num_key_heads:
            rows = attend_few(qkv[:, : q.shape[1] * q.shape[3]], None, k, v)
        if rows is None:
            rows = attention(q, k, v, kernel=self.kernel, mask=mask, causal=causal)
        if row_mask is not None:
            rows = rows * row_mask
        return self.out.product(rows)

    @property
    def _num_parts(self) -> int:
        return self.num_heads + 2 * self.num_key_heads


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, kernel: str, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Return attention of `q` `(B, N, T, K)` to `k`, `v` `(B, G, S, K)` as rows `(B T, N K)`."""
    if q.shape[1] != k.shape[1]:
        shared = q.shape[1] // k.shape[1]
        if q.is_cuda and kernel == "sdpa" and mask is None:
            rows = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
            return rows.transpose(1, 2).reshape(-1, q.shape[1] * q.shape[3])
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    rows = attend(q, k, v, kernel=kernel, mask=mask, causal=causal)
    return rows.transpose(1, 2).reshape(-1, q.shape[1] * q.shape[3])


class EncoderStack:
    """Pre-norm blocks of unmasked self attention and a two-layer perceptron, with the norms between them joined."""

    def __init__(self, blocks: Sequence[EncoderBlock], last_norm: nn.LayerNorm | None) -> None:
        self.attentions = [SelfAttention(block.self_attn) for block in blocks]
        self.norms = [(norm_of(block.layer_norm1), norm_of(block.layer_norm2)) for block in blocks]
        self.mlps = [(linear_of(block.mlp.fc1), linear_of(block.mlp.fc2)) for block in blocks]
        self.last_norm = None if last_norm is None else norm_of(last_norm)

    def __call__(
        self, x: Tensor, samples: int, rotary: Rotary | None = None, taps: Sequence[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Map rows `(M, D)` of `samples` sequences to `(M, D)`, normed last if there is a last norm.

        Returns:
            The rows, and the residual sums behind the blocks that `taps` names, in their order.
        """
        tapped: dict[int, Tensor] = {}
        h = norm(x, self.norms[0][0])
        for i, (attend_to, (fc1, fc2)) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            x, h = add_norm(x, attend_to(h, samples, rotary=rotary), attend_to.out.bias, self.norms[i][1])
            y = linear_gelu(h, fc1.weight, fc1.bias)  # type: ignore[arg-type]
            following = self.norms[i + 1][0] if i + 1 < len(self.norms) else self.last_norm
            if following is None:
                x = h = x + fc2(y)
            else:
                x, h = add_norm(x, fc2.product(y), fc2.bias, following)
            tapped[i] = x
        return h, [tapped[i] for i in taps]


class LanguageStack:
    """Decoder layers with gated perceptrons, with the norms between them joined."""

    def __init__(self, layers: nn.ModuleList, last_norm: nn.RMSNorm | None) -> None:
        """Take the layers; without `last_norm` the stack returns the residual sum itself."""
        self.attentions = [SelfAttention(layer.self_attn) for layer in layers]  # type: ignore[arg-type]
        self.norms = [
            (norm_of(layer.input_layernorm), norm_of(layer.post_attention_layernorm))  # type: ignore[arg-type]
            for layer in layers
        ]
        self.mlps = [
            (join(layer.mlp.gate_proj, layer.mlp.up_proj), linear_of(layer.mlp.down_proj))  # type: ignore[union-attr, arg-type]
            for layer in layers
        ]
        self.last_norm = None if last_norm is None else norm_of(last_norm)

    def __call__(
        self,
        x: Tensor,
        samples: int,
        *,
        rotary: Rotary,
        mask: Tensor | None,
        row_mask: Tensor | None,
        added: Sequence[Tensor] = (),
        added_index: Tensor | None = None,
    ) -> Tensor:
        """Map rows `(M, D)` of `samples` prompts to `(M, D)`.

        Args:
            x: token embeddings.
            samples: B.
            rotary: tables of the positions.
            mask: `(B, 1, T, T)` where tokens may look; None: causal.
            row_mask: `(M, 1)` in the type of `x`, 0 at padding; None: no padding.
            added: what is added behind the first layers, `(I, D)` each.
            added_index: rows `(I,)` that it is added to.
        """
        h = norm(x, self.norms[0][0])
        for i, (attend_to, (up, down)) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            y = attend_to(h, samples, rotary=rotary, mask=mask, row_mask=row_mask, causal=mask is None)
            x, h = add_norm(x, y, None, self.norms[i][1])
            y = down(gate(up(h)))
            if i < len(added) and added_index is not None:
                y = y.index_add(0, added_index, added[i])
            following = self.norms[i + 1][0] if i + 1 < len(self.norms) else self.last_norm
            if following is None:
                return x + y
            x, h = add_norm(x, y, None, following)
        return h


def weight_bytes(*parts: object) -> int:
    """Return the bytes of all weights of products among layers, stacks and collections of them."""
    total = 0
    for part in parts:
        if isinstance(part, Linear):
            total += part.weight.nbytes
        elif isinstance(part, Mapping):
            total += weight_bytes(*part.values())
        elif isinstance(part, list | tuple):
            total += weight_bytes(*part)
        elif isinstance(part, SelfAttention | EncoderStack | LanguageStack) or is_dataclass(part):
            total += weight_bytes(*vars(part).values())
    return total

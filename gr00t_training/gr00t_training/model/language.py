# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Decoder layers of Llama (arXiv 2302.13971) and Qwen3 (arXiv 2505.09388) that turn the prompt into features.

There is no output vocabulary.

Letters in shapes: B batch, T tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gr00t_training.model.config import LanguageConfig
from gr00t_training.model.layers import Attention, rotary_table


class LanguageModel(nn.Module):
    """The first `num_layers` layers and, after them, the final norm of the whole model."""

    def __init__(self, config: LanguageConfig, num_layers: int, *, kernel: str) -> None:
        super().__init__()
        self.head_dim = config.head_dim or config.hidden_size // config.num_heads
        self.rope_theta = config.rope_theta
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(LanguageBlock(config, kernel=kernel) for _ in range(num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)

    def forward(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Run embedded tokens through the layers.

        Args:
            x: `(B, T, D)` token embeddings.
            padding_mask: `(B, T)`, 1 at tokens and 0 at padding; None: no padding.

        Returns:
            `(B, T, D)`. Rows of padding pass the attention as zero (what FlashAttention gives) but do pass the rest;
            the action head attends to them, so this is part of the model.
        """
        rotary = rotary_table(x.shape[1], self.head_dim, self.rope_theta, x.device)
        mask = None if padding_mask is None else _causal_mask(padding_mask)
        row_mask = None if padding_mask is None else padding_mask[..., None].to(x.dtype)
        for layer in self.layers:
            x = layer(x, rotary, mask, row_mask)
        return self.norm(x)


class LanguageBlock(nn.Module):
    """Pre-norm decoder layer with a gated MLP."""

    def __init__(self, config: LanguageConfig, *, kernel: str) -> None:
        super().__init__()
        width = config.hidden_size
        self.input_layernorm = nn.RMSNorm(width, eps=config.norm_eps)
        self.self_attn = Attention(
            width,
            config.num_heads,
            kernel=kernel,
            bias=False,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            head_norm_eps=config.norm_eps if config.norms_heads else None,
        )
        self.post_attention_layernorm = nn.RMSNorm(width, eps=config.norm_eps)
        self.mlp = GatedMlp(width, config.intermediate_size)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None, row_mask: Tensor | None) -> Tensor:
        """Map `(B, T, D)` to `(B, T, D)`; without a mask the layer is causal."""
        x = x + self.self_attn(
            self.input_layernorm(x), rotary=rotary, mask=mask, causal=mask is None, row_mask=row_mask
        )
        return x + self.mlp(self.post_attention_layernorm(x))


class GatedMlp(nn.Module):
    """SwiGLU (arXiv 2002.05202) without biases."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., D)` to `(..., D)`."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def _causal_mask(padding_mask: Tensor) -> Tensor:
    """Return `(B, 1, T, T)` bool: earlier tokens that are not padding, and oneself so that no row is empty."""
    length = padding_mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=padding_mask.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=padding_mask.device)
    return ((causal & padding_mask.bool()[:, None, :]) | itself)[:, None]

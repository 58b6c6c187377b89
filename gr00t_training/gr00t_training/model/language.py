# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Decoder layers of Llama (arXiv 2302.13971), Qwen3 (2505.09388) and Qwen3-VL that turn the prompt into features.

There is no output vocabulary.

Letters in shapes: B batch, T tokens, M image tokens of the whole batch, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gr00t_training.model.config import LanguageConfig
from gr00t_training.model.layers import Attention
from gr00t_training.model.plan import Plan


class LanguageModel(nn.Module):
    """The first `num_layers` layers and the final norm of the whole model."""

    def __init__(self, config: LanguageConfig, num_layers: int, *, kernel: str, norms_output: bool = True) -> None:
        """Make the layers; `norms_output`: the norm comes after them, otherwise its weight is only kept."""
        super().__init__()
        self.norms_output = norms_output
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(LanguageBlock(config, kernel=kernel) for _ in range(num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)

    def forward(self, x: Tensor, plan: Plan, deepstack: Sequence[Tensor] = ()) -> Tensor:
        """Run embedded tokens through the layers.

        Args:
            x: `(B, T, D)` embeddings of text and images.
            plan: of the batch.
            deepstack: `(M, D)` each, added to the image tokens behind the first layers (arXiv 2406.04334).

        Returns:
            `(B, T, D)`. Rows of padding pass the attention as zero (what FlashAttention gives) but do pass the rest;
            most action heads attend to them, so this is part of the model.
        """
        row_mask = None if plan.padding_mask is None else plan.padding_mask[..., None].to(x.dtype)
        for i, layer in enumerate(self.layers):
            x = layer(x, plan.rotary, plan.attention_mask, row_mask)
            if i < len(deepstack):
                x = x.flatten(0, 1).index_add(0, plan.image_rows, deepstack[i].to(x.dtype)).view_as(x)
        return self.norm(x) if self.norms_output else x


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

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Diffusion transformer of the action head: adaptive norms, cross and self attention in turn (arXiv 2503.14734).

What does not change between denoising steps is made once: keys and values of the backbone's features
(`keys_values`) and, for all steps together, the scales and shifts that a time bucket gives (`modulations`).

Letters in shapes: B batch, T tokens, S backbone tokens, D width, N denoising steps or samples.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gr00t_training.model.config import DitConfig
from gr00t_training.model.layers import Attention, FeedForward

TIME_CHANNELS = 256
KeysValues = tuple[Tensor, Tensor]


class Dit(nn.Module):
    """Blocks between the action head's encoders and its decoder."""

    def __init__(self, config: DitConfig, context_dim: int, *, kernel: str) -> None:
        super().__init__()
        width = config.width
        self.timestep = TimestepEmbedding(width)
        self.blocks = nn.ModuleList(
            DitBlock(config, context_dim if is_cross(config, i) else width, is_cross=is_cross(config, i), kernel=kernel)
            for i in range(config.num_layers)
        )
        self.proj_out_1 = nn.Linear(width, 2 * width)
        self.proj_out_2 = nn.Linear(width, config.output_dim)

    def keys_values(self, context: Tensor) -> list[KeysValues | None]:
        """Return per block the keys and values of the features `(B, S, D)`; None for blocks of self attention."""
        return [block.attn1.keys_values(context) if block.is_cross else None for block in self._blocks()]

    def modulations(self, bucket: Tensor) -> list[Tensor]:
        """Return per block, and last for the output, scales and shifts `(N, 1, 2 D)` of time buckets `(N,)`."""
        code = F.silu(self.timestep(bucket))[:, None]  # (N, 1, D)
        return [*(block.norm1_linear(code) for block in self._blocks()), self.proj_out_1(code)]

    def forward(self, x: Tensor, keys_values: list[KeysValues | None], modulations: list[Tensor]) -> Tensor:
        """Map tokens `(B, T, D)` to `(B, T, output_dim)`; N of the modulations is B or 1."""
        for block, context, modulation in zip(self.blocks, keys_values, modulations[:-1], strict=True):
            x = block(x, context, modulation)
        shift, scale = modulations[-1].chunk(2, -1)  # shift first, unlike in the blocks
        x = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        return self.proj_out_2(x)

    def _blocks(self) -> list[DitBlock]:
        return cast("list[DitBlock]", list(self.blocks))


class DitBlock(nn.Module):
    """Adaptive norm, attention, plain norm, feed-forward."""

    def __init__(self, config: DitConfig, context_dim: int, *, is_cross: bool, kernel: str) -> None:
        super().__init__()
        width = config.width
        self.is_cross = is_cross
        self.norm_eps = config.norm_eps
        self.norm1_linear = nn.Linear(width, 2 * width)
        self.attn1 = Attention(width, config.num_heads, kernel=kernel, context_width=context_dim)
        self.attention_dropout = nn.Dropout(config.dropout)  # behind the output projection
        self.final_dropout = nn.Dropout(config.dropout if config.final_dropout else 0.0)
        self.ff = FeedForward(width, 4 * width, dropout=config.dropout, final_dropout=config.final_dropout)

    def forward(self, x: Tensor, keys_values: KeysValues | None, modulation: Tensor) -> Tensor:
        """Map `(B, T, D)` to `(B, T, D)`; attends to `keys_values`, or to itself without them. No mask."""
        scale, shift = modulation.chunk(2, -1)
        y = F.layer_norm(x, x.shape[-1:], eps=self.norm_eps) * (1 + scale) + shift
        y = self.attn1(y, keys_values)
        x = x + self.final_dropout(self.attention_dropout(y))
        return x + self.ff(F.layer_norm(x, x.shape[-1:], eps=self.norm_eps))


class TimestepEmbedding(nn.Module):
    """Sinusoids of the time bucket through a small MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(TIME_CHANNELS, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, bucket: Tensor) -> Tensor:
        """Map integer buckets `(N,)` to `(N, D)`."""
        half = TIME_CHANNELS // 2
        steps = torch.arange(half, dtype=torch.float32, device=bucket.device)
        angles = bucket[:, None] * torch.exp(-math.log(10000) * steps / (half - 1))
        code = torch.cat([angles.cos(), angles.sin()], -1)  # (N, TIME_CHANNELS), cosines first
        return self.linear_2(F.silu(self.linear_1(code.to(self.linear_1.weight.dtype))))


def is_cross(config: DitConfig, index: int) -> bool:
    """Whether block `index` attends to the backbone."""
    return not (config.interleave_self_attention and index % 2)

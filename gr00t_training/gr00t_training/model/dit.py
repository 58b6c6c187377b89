# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Diffusion transformer of the action head: adaptive norms, cross and self attention in turn (arXiv 2503.14734).

What does not change between denoising steps is made once: keys and values of the backbone's features
(`keys_values`) and, for all steps together, the scales and shifts that a time bucket gives (`modulations`). N1.6 and
N1.7 attend to the features of text and of images in turn.

Letters in shapes: B batch, T tokens, S backbone tokens, D width, N denoising steps or samples.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gr00t_training.model.config import DitConfig
from gr00t_training.model.layers import NO_MASKS, Attention, ContextMasks, FeedForward

TIME_CHANNELS = 256
KeysValues = tuple[Tensor, Tensor]


class Attends(str, Enum):
    """What the tokens of a block attend to."""

    ITSELF = "itself"
    ALL = "all"  # features of the backbone
    TEXT = "text"  # those of text tokens
    IMAGES = "images"  # those of image tokens


class Dit(nn.Module):
    """Blocks between the action head's encoders and its decoder."""

    def __init__(self, config: DitConfig, context_dim: int, *, kernel: str) -> None:
        super().__init__()
        width = config.width
        self.timestep = TimestepEmbedding(width)
        self.blocks = nn.ModuleList(
            DitBlock(config, attends(config, i), context_dim, kernel=kernel) for i in range(config.num_layers)
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

    def forward(
        self,
        x: Tensor,
        keys_values: list[KeysValues | None],
        modulations: list[Tensor],
        masks: ContextMasks = NO_MASKS,
    ) -> Tensor:
        """Map tokens `(B, T, D)` to `(B, T, output_dim)`.

        Args:
            x: state and action tokens.
            keys_values: result of `keys_values`.
            modulations: result of `modulations`, N is B or 1; or a row per token, `(N, T, 2 D)`.
            masks: needed where text and images are attended to in turn.
        """
        chosen = {Attends.TEXT: masks.text, Attends.IMAGES: masks.images, Attends.ALL: masks.tokens}
        for block, context, modulation in zip(self._blocks(), keys_values, modulations[:-1], strict=True):
            x = block(x, context, modulation, chosen.get(block.attends))
        shift, scale = modulations[-1].chunk(2, -1)  # shift first, unlike in the blocks
        x = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        return self.proj_out_2(x)

    def _blocks(self) -> list[DitBlock]:
        return cast("list[DitBlock]", list(self.blocks))


class DitBlock(nn.Module):
    """Adaptive norm, attention, plain norm, feed-forward."""

    def __init__(self, config: DitConfig, attends: Attends, context_dim: int, *, kernel: str) -> None:
        """Make the block; `context_dim` is the width of the backbone's features."""
        super().__init__()
        width = config.width
        self.attends = attends
        self.norm_eps = config.norm_eps
        self.norm1_linear = nn.Linear(width, 2 * width)
        context_width = context_dim if self.is_cross else None
        self.attn1 = Attention(width, config.num_heads, kernel=kernel, context_width=context_width)
        self.attention_dropout = nn.Dropout(config.dropout)  # behind the output projection
        self.final_dropout = nn.Dropout(config.dropout if config.final_dropout else 0.0)
        self.ff = DitFeedForward(width, 4 * width, dropout=config.dropout, final_dropout=config.final_dropout)

    @property
    def is_cross(self) -> bool:
        """Whether the tokens attend to the backbone's features."""
        return self.attends is not Attends.ITSELF

    def forward(
        self, x: Tensor, keys_values: KeysValues | None, modulation: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Map `(B, T, D)` to `(B, T, D)`; attends to `keys_values` where `mask` is True, or to itself without them."""
        scale, shift = modulation.chunk(2, -1)
        y = F.layer_norm(x, x.shape[-1:], eps=self.norm_eps) * (1 + scale) + shift
        y = self.attn1(y, keys_values, mask=mask)
        x = x + self.final_dropout(self.attention_dropout(y))
        return x + self.ff(F.layer_norm(x, x.shape[-1:], eps=self.norm_eps))


class DitFeedForward(FeedForward):
    """Feed-forward layer of a block; named for itself, since it is the part of a block that training may split."""


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


def attends(config: DitConfig, index: int) -> Attends:
    """Return what block `index` attends to."""
    if config.interleave_self_attention and index % 2:
        return Attends.ITSELF
    if config.attend_text_every_n is None:
        return Attends.ALL
    return Attends.IMAGES if index % (2 * config.attend_text_every_n) else Attends.TEXT

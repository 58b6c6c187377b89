# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""SigLIP vision tower (arXiv 2303.15343) without its pooling head.

Letters in shapes: B images, T patches, D width, P pixels along a side, G patches along a side.
"""

from __future__ import annotations

from torch import Tensor, nn

from gr00t_training.model.config import VisionConfig
from gr00t_training.model.layers import EncoderBlock


class VisionTower(nn.Module):
    """Patches plus learned positions, pre-norm blocks, final norm."""

    def __init__(self, config: VisionConfig, *, kernel: str) -> None:
        super().__init__()
        width = config.hidden_size
        self.patch_embedding = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size)
        self.position_embedding = nn.Embedding(config.grid**2, width)
        self.layers = nn.ModuleList(
            EncoderBlock(width, config.num_heads, config.intermediate_size, norm_eps=config.norm_eps, kernel=kernel)
            for _ in range(config.num_layers)
        )
        self.post_layernorm = nn.LayerNorm(width, eps=config.norm_eps)
        nn.init.normal_(self.position_embedding.weight, std=width**-0.5)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map `(B, 3, P, P)` in [-1, 1] to `(B, T, D)`, patches row by row."""
        x = self.patch_embedding(pixels).flatten(2).transpose(1, 2)  # (B, T, D)
        x = x + self.position_embedding.weight
        for layer in self.layers:
            x = layer(x)
        return self.post_layernorm(x)


def fold_patches(x: Tensor, factor: int) -> Tensor:
    """Join each square of `factor` x `factor` neighbouring patches into one token (pixel shuffle).

    Args:
        x: `(B, G * G, D)`, row by row.
        factor: patches along a side of the square; divides G.

    Returns:
        `(B, G * G / factor**2, D * factor**2)`; channels of the square's patches follow each other row by row.
    """
    grid = int(x.shape[1] ** 0.5)
    cells = x.unflatten(1, (grid // factor, factor, grid // factor, factor))  # (B, R, r, C, c, D)
    return cells.transpose(2, 3).flatten(3, 5).flatten(1, 2)

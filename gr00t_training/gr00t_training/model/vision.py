# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""SigLIP vision towers (arXiv 2303.15343, 2502.14786) without their pooling head.

Letters in shapes: B images, T patches, D width, P pixels along a side, G patches along a side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gr00t_training.model.config import VisionConfig
from gr00t_training.model.layers import EncoderBlock
from gr00t_training.model.plan import Grid, ImageGroup


class VisionTower(nn.Module):
    """Patches plus learned positions, pre-norm blocks, final norm."""

    def __init__(self, config: VisionConfig, *, kernel: str) -> None:
        super().__init__()
        width = config.hidden_size
        if config.is_packed:
            self.patch_embedding = nn.Linear(config.patch_dim, width)
        else:
            self.patch_embedding = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size)
        self.position_embedding = nn.Embedding(config.grid**2, width)
        self.layers = nn.ModuleList(
            EncoderBlock(width, config.num_heads, config.intermediate_size, norm_eps=config.norm_eps, kernel=kernel)
            for _ in range(config.num_layers)
        )
        self.post_layernorm = nn.LayerNorm(width, eps=config.norm_eps)
        nn.init.normal_(self.position_embedding.weight, std=width**-0.5)

    def forward(self, pixels: Tensor, group: ImageGroup | None = None) -> Tensor:
        """Return the features `(B, T, D)` of images of one size, patches row by row.

        Args:
            pixels: `(B, 3, P, P)` in [-1, 1], or packed patches `(B, T, patch_dim)`.
            group: of packed patches; None: square images.
        """
        x = self.patch_embedding(pixels)
        if group is None:
            x = x.flatten(2).transpose(1, 2) + self.position_embedding.weight  # (B, T, D)
        else:
            x = x + self.positions(group).to(x.dtype)
        for layer in self.layers:
            x = layer(x)
        return self.post_layernorm(x)

    def positions(self, group: ImageGroup) -> Tensor:
        """Return the stored positions resized to the images of a group, `(T, D)` float32."""
        corners = F.embedding(group.position_index, self.position_embedding.weight)  # (C, T, D)
        return (corners.float() * group.position_weight[..., None]).sum(0)


def by_group(pixels: Tensor, grids: Sequence[Grid], groups: Sequence[ImageGroup]) -> list[Tensor]:
    """Return packed patches `(N, patch_dim)` of all images as `(B, T, patch_dim)` per group."""
    if len(groups) == 1:
        return [pixels.unflatten(0, (len(grids), -1))]
    images = pixels.split([rows * columns for rows, columns in grids])
    return [torch.stack([images[i] for i in group.images]) for group in groups]


def fold_patches(x: Tensor, factor: int) -> Tensor:
    """Join each square of `factor` x `factor` neighboring patches into one token (pixel shuffle).

    Args:
        x: `(B, G * G, D)`, row by row.
        factor: patches along a side of the square; divides G.

    Returns:
        `(B, G * G / factor**2, D * factor**2)`; channels of the square's patches follow each other row by row.
    """
    grid = int(x.shape[1] ** 0.5)
    return _cells(x, (grid, grid), factor).flatten(3, 5).flatten(1, 2)


def unshuffle_patches(x: Tensor, grid: Grid, factor: int) -> Tensor:
    """Join squares of patches as `fold_patches` does, with the values of one channel next to each other.

    Args:
        x: `(B, T, D)`, row by row.
        grid: rows and columns of patches.
        factor: patches along a side of the square; divides both.

    Returns:
        `(B, T / factor**2, D * factor**2)`.
    """
    return _cells(x, grid, factor).movedim(-1, 3).flatten(3, 5).flatten(1, 2)


def _cells(x: Tensor, grid: Grid, factor: int) -> Tensor:
    """Return `(B, rows, columns, factor, factor, D)` of squares."""
    rows, columns = grid[0] // factor, grid[1] // factor
    return x.unflatten(1, (rows, factor, columns, factor)).transpose(2, 3)

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Vision tower of Qwen3-VL (arXiv 2511.21631): learned and rotary positions, mergers, outputs of middle layers.

Letters in shapes: B images, T patches (those of a merged token follow each other), D width, M merged tokens, L width of
the language model.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gr00t_training.model.config import QwenVisionConfig
from gr00t_training.model.layers import EncoderBlock
from gr00t_training.model.plan import ImageGroup

_NORM_EPS = 1e-6


class QwenVisionTower(nn.Module):
    """Pre-norm blocks; the last one's output and those of some before it are merged to tokens."""

    def __init__(self, config: QwenVisionConfig, merge: int, *, kernel: str) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        size = (config.temporal_patch_size, patch, patch)
        self.patch_embedding = nn.Conv3d(3, width, size, stride=size)
        self.position_embedding = nn.Embedding(config.num_positions, width)
        self.layers = nn.ModuleList(
            EncoderBlock(
                width, config.num_heads, config.intermediate_size, norm_eps=_NORM_EPS, kernel=kernel, is_joint=True
            )
            for _ in range(config.num_layers)
        )
        self.merger = Merger(width, merge, config.output_dim, norms_patches=True)
        self.deepstack_layers = config.deepstack_layers
        self.deepstack_mergers = nn.ModuleList(
            Merger(width, merge, config.output_dim, norms_patches=False) for _ in config.deepstack_layers
        )
        nn.init.normal_(self.position_embedding.weight, std=width**-0.5)

    def forward(self, pixels: Tensor, group: ImageGroup) -> tuple[Tensor, list[Tensor]]:
        """Map packed patches `(B, T, patch_dim)` of images of one size to tokens.

        Returns:
            `(B, M, L)` tokens, and as many for each of the first language layers, to be added behind it.
        """
        # patches do not overlap: the convolution is a product with the flattened patch
        x = F.linear(pixels, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)  # (B, T, D)
        x = x + self.positions(group)
        deepstack: dict[int, Tensor] = {}
        for i, layer in enumerate(self.layers):
            x = layer(x, group.rotary)
            if i in self.deepstack_layers:
                level = self.deepstack_layers.index(i)
                deepstack[level] = self.deepstack_mergers[level](x)
        return self.merger(x), [deepstack[level] for level in range(len(deepstack))]

    def positions(self, group: ImageGroup) -> Tensor:
        """Return the stored positions resized to the images of a group, `(T, D)`."""
        corners = F.embedding(group.position_index, self.position_embedding.weight)  # (4, T, D)
        first, second, third, fourth = corners * group.position_weight[..., None].to(corners.dtype)
        return first + second + third + fourth  # in this order, which is seen in bfloat16


class Merger(nn.Module):
    """Patches of a square to one token: norm, linear, GELU, linear."""

    def __init__(self, width: int, merge: int, output_dim: int, *, norms_patches: bool) -> None:
        """Make the layers; `norms_patches`: the norm is of each patch, otherwise of the joined ones."""
        super().__init__()
        joined = width * merge**2
        self.norm = nn.LayerNorm(width if norms_patches else joined, eps=_NORM_EPS)
        self.linear_fc1 = nn.Linear(joined, joined)
        self.linear_fc2 = nn.Linear(joined, output_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, T, D)` to `(B, M, L)`."""
        joined, normed = self.linear_fc1.in_features, self.norm.normalized_shape[0]
        x = self.norm(x.reshape(len(x), -1, normed)).reshape(len(x), -1, joined)
        return self.linear_fc2(F.gelu(self.linear_fc1(x)))

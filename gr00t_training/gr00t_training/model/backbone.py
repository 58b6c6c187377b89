# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Vision-language backbone: images and prompt in, a feature per prompt token out.

Eagle 2, 2.5 and 3 (N1, N1.5, N1.6): SigLIP tower, connector, language model. Qwen3-VL (N1.7): tower with mergers,
language model with the tower's middle layers as additional inputs.

Letters in shapes: B batch, I images of the whole batch, T prompt tokens, M image tokens of the whole batch, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gr00t_training.model.config import BackboneConfig, QwenVisionConfig, VisionConfig
from gr00t_training.model.language import LanguageModel
from gr00t_training.model.plan import Plan
from gr00t_training.model.vision import VisionTower, by_group, fold_patches, unshuffle_patches
from gr00t_training.model.vision_qwen import QwenVisionTower


class Backbone(nn.Module):
    """Vision tower, connector, truncated language model and projection to the action head's width."""

    def __init__(self, config: BackboneConfig, output_dim: int, *, kernel: str) -> None:
        super().__init__()
        self.config = config
        self.vision: VisionTower | QwenVisionTower
        if isinstance(config.vision, QwenVisionConfig):
            self.vision = QwenVisionTower(config.vision, config.downsample, kernel=kernel)
            self.connector = nn.Identity()  # the tower's mergers do its work
        else:
            self.vision = VisionTower(config.vision, kernel=kernel)
            self.connector = _make_connector(config, config.vision)
        self.language = LanguageModel(
            config.language, config.num_kept_layers, kernel=kernel, norms_output=config.norms_output
        )
        self.linear = nn.Identity() if config.projector_dim == -1 else nn.Linear(config.projector_dim, output_dim)

    def forward(self, pixels: Tensor, plan: Plan) -> Tensor:
        """Return the features `(B, T, D)`.

        Args: see `hidden`. The last layer brings the features to the action head's width.
        """
        return self.linear(self.hidden(pixels, plan))

    def hidden(self, pixels: Tensor, plan: Plan) -> Tensor:
        """Return the features before the projection, `(B, T, D)`; of a frozen backbone they never change.

        Args:
            pixels: `(I, 3, P, P)` in [-1, 1], or packed patches `(N, patch_dim)`; sample by sample, image by image.
            plan: of the batch.
        """
        tokens, deepstack = self.image_tokens(pixels, plan)
        x = self.language.embed_tokens(plan.input_ids)  # (B, T, D)
        x = _place(x, plan.image_rows, tokens)
        x = self.language(x, plan, deepstack)
        if self.config.reproject_vision:
            x = _place(x, plan.image_rows, tokens)
        return x

    def image_tokens(self, pixels: Tensor, plan: Plan) -> tuple[Tensor, list[Tensor]]:
        """Return the image tokens `(M, D)` in the order of `plan.image_rows`, and what to add to them in the layers."""
        if not plan.images:
            return self.connector(fold_patches(self.vision(pixels), self.config.downsample)).flatten(0, 1), []
        parts, added = [], []
        for patches, group in zip(by_group(pixels, plan.image_grid, plan.images), plan.images, strict=True):
            if isinstance(self.vision, QwenVisionTower):
                tokens, deepstack = self.vision(patches, group)
                added.append(deepstack)
            else:
                folded = unshuffle_patches(self.vision(patches, group), group.grid, self.config.downsample)
                tokens = self.connector(folded)
            parts.append(tokens.flatten(0, 1))
        levels = [torch.cat([part.flatten(0, 1) for part in level]) for level in zip(*added, strict=True)]
        return torch.cat(parts), levels


def _make_connector(config: BackboneConfig, vision: VisionConfig) -> nn.Sequential:
    width, folded = config.language.hidden_size, vision.hidden_size * config.downsample**2
    if not config.is_connector_deep:
        return nn.Sequential(nn.Linear(folded, width))
    return nn.Sequential(nn.LayerNorm(folded), nn.Linear(folded, width), nn.GELU(), nn.Linear(width, width))


def _place(x: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """Put tokens `(M, D)` over the given rows of `(B, T, D)`."""
    return x.flatten(0, 1).index_copy(0, rows, tokens.to(x.dtype)).view_as(x)

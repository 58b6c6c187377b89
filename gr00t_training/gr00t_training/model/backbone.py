# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Vision-language backbone of N1 (Eagle 2) and N1.5 (Eagle 2.5): images and prompt in, a feature per prompt token out.

Letters in shapes: B batch, I images of the whole batch, T prompt tokens, M tokens of an image, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from gr00t_training.model.config import BackboneConfig
from gr00t_training.model.language import LanguageModel
from gr00t_training.model.vision import VisionTower, fold_patches


class Backbone(nn.Module):
    """Vision tower, connector, truncated language model and projection to the action head's width."""

    def __init__(self, config: BackboneConfig, output_dim: int, *, kernel: str) -> None:
        super().__init__()
        self.config = config
        width, folded = config.language.hidden_size, config.vision.hidden_size * config.downsample**2
        self.vision = VisionTower(config.vision, kernel=kernel)
        if config.is_connector_deep:
            layers = [nn.LayerNorm(folded), nn.Linear(folded, width), nn.GELU(), nn.Linear(width, width)]
        else:
            layers = [nn.Linear(folded, width)]
        self.connector = nn.Sequential(*layers)
        num_layers = min(config.select_layer, config.language.num_layers)
        self.language = LanguageModel(config.language, num_layers, kernel=kernel)
        self.linear = nn.Identity() if config.projector_dim == -1 else nn.Linear(config.projector_dim, output_dim)

    def forward(self, pixels: Tensor, input_ids: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Return the features `(B, T, D)`.

        Args:
            pixels: `(I, 3, P, P)` in [-1, 1], sample by sample and camera by camera.
            input_ids: `(B, T)`; holds exactly `I * M` image tokens (`Gr00tModel.check_batch` checks it).
            padding_mask: `(B, T)`, 0 at padding; None: no padding.
        """
        x = self.language.embed_tokens(input_ids)  # (B, T, D)
        is_image = (input_ids == self.config.image_token_id)[..., None]
        image_tokens = self.connector(fold_patches(self.vision(pixels), self.config.downsample))  # (I, M, D)
        x = x.masked_scatter(is_image, image_tokens.to(x.dtype))
        x = self.language(x, padding_mask)
        if self.config.reproject_vision:
            x = x.masked_scatter(is_image, image_tokens.to(x.dtype))
        return self.linear(x)

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Options of the transforms in `processor_config.json` (N1.6, N1.7).

Field names are those of the file. Keys that are missing from a file have the defaults of the release's constructor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ProcessorOptions:
    """Options of one checkpoint's transforms."""

    image_crop_size: tuple[int, int] | None = None  # height and width [px]
    image_target_size: tuple[int, int] | None = None  # height and width [px]
    shortest_image_edge: int | None = 256  # [px]
    crop_fraction: float | None = 0.95  # of both sides; None: image_crop_size / image_target_size
    use_albumentations: bool = False  # which of the release's two image paths
    letter_box_transform: bool = False  # whether images that are not square get black borders first
    random_rotation_angle: int | None = None  # training [deg]
    color_jitter_params: Mapping[str, float] | None = None  # training: brightness, contrast, saturation, hue
    formalize_language: bool = True  # lower case, no punctuation
    max_state_dim: int = 29
    max_action_dim: int = 29
    max_action_horizon: int = 50
    use_percentiles: bool = False  # scale by q01 and q99 instead of min and max
    clip_outliers: bool = True  # clip scaled values to [-1, 1]
    apply_sincos_state_encoding: bool = False
    use_relative_action: bool = False
    exclude_state: bool = False  # the model sees zeros instead of the state
    state_dropout_prob: float = 0.0  # training: probability that it does so for one sample
    model_name: str = ""  # of the vision-language model
    model_type: str = ""  # "eagle" (N1.6) or "qwen" (N1.7)

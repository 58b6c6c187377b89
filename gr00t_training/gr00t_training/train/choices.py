# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a run refuses before its model is loaded: settings that do not fit the model, the data, the processes or the run
that it continues.

Settings that contradict each other whatever these are refuse themselves, see `settings`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from gr00t_training.checkpoint import Checkpoint
from gr00t_training.checkpoint.trial import shape_model
from gr00t_training.errors import ConfigError
from gr00t_training.io.cache_folder import open_feature_cache, open_frame_cache
from gr00t_training.train.adapters import choose_trained
from gr00t_training.train.conditioning import check_delay
from gr00t_training.train.data.feature_cache import check_fixed
from gr00t_training.train.data.holdout import hold_out
from gr00t_training.train.data.samples import ImageChanges, Source
from gr00t_training.train.optimizer import check_optimizer
from gr00t_training.train.quantize import check_quantized
from gr00t_training.train.settings import Quantization, Shuffle, TrainerSettings

# A resumed run with another value of one of these would be another run: other data order, other optimizer groups.
_FIXED_SETTINGS = (
    "batch_size",
    "accumulate",
    "seed",
    "shuffle",
    "tune_llm",
    "tune_visual",
    "tune_projector",
    "tune_diffusion_model",
    "tune_vlln",
    "tune_top_llm_layers",
    "validation_share",
    "validation_episodes",
    "augment_images",
    "image_views",
    "rtc_max_delay",
    "state_dropout",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "lora_targets",
    "dora",
    "quantize_base",
    "optimizer",
)


def check_choices(
    settings: TrainerSettings, checkpoint: Checkpoint, sources: Sequence[Source], num_processes: int = 1
) -> None:
    """Check the settings of a run; reads no weights.

    Args:
        settings: of the run.
        checkpoint: that it starts from.
        sources: datasets with their transforms.
        num_processes: that train together.

    Raises:
        ConfigError: they do not fit; says what to change.
        DatasetError: episodes that are to be held out are not in the dataset.
    """
    check_parts(settings, num_processes)
    check_delay(settings, checkpoint)
    hold_out(sources, share=settings.validation_share, episodes=settings.validation_episodes, seed=settings.seed)
    model = shape_model(checkpoint.config)
    choose_trained(model, settings)
    check_optimizer(model, settings)
    if settings.quantize_base is Quantization.NF4:
        check_quantized(model.backbone)
    if settings.feature_cache:
        check_fixed(sources, ImageChanges(settings.augment_images, settings.image_views), model)
        open_feature_cache(settings.feature_cache, settings.feature_cache_gib)
    if settings.frame_cache:
        open_frame_cache(settings.frame_cache, settings.frame_cache_gib)


def check_parts(settings: TrainerSettings, num_processes: int) -> None:
    """Check that processes can share each part of a step's samples.

    Raises:
        ConfigError: they cannot.
    """
    if settings.part_size % num_processes:
        raise ConfigError(
            f"batch_size {settings.batch_size} in {settings.accumulate} parts cannot be shared by {num_processes} "
            "processes; choose a multiple of both as batch_size"
        )


def setting_changes(before: TrainerSettings, after: TrainerSettings) -> list[str]:
    """List the settings that a resumed run cannot change and that differ."""
    found, expected = dataclasses.asdict(before), dataclasses.asdict(after)
    items = [
        f"{name}: found {found[name]}, expected {expected[name]}"
        for name in _FIXED_SETTINGS
        if found[name] != expected[name]
    ]
    caches = [(each["frame_cache"], each["feature_cache"]) for each in (found, expected)]
    if after.shuffle is Shuffle.AUTO and any(caches[0]) != any(caches[1]):
        items.append(f"frame_cache and feature_cache: found {caches[0]}, expected {caches[1]} (shuffle)")
    return items


def refuse_changes(path: Path, items: Sequence[str]) -> None:
    """Refuse to continue the run that saved the checkpoint `path`, if anything differs.

    Raises:
        ConfigError: names each item.
    """
    if items:
        raise ConfigError(
            f"{path}: belongs to another run: {'; '.join(items)}; resume with its settings, or start a new run"
        )

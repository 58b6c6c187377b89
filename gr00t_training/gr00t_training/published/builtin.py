# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Modality configurations that come with N1.6 and N1.7, for fine-tuning with a tag whose file lacks one.

A checkpoint's own `processor_config.json` always goes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from gr00t_training.embodiment import Pose
from gr00t_training.errors import ConfigError
from gr00t_training.published.modality import action_config, modality_part
from gr00t_training.settings import load_settings, setting

_FILES = ("n1_6.yaml", "n1_7.yaml")  # their tags differ


def builtin_tags() -> list[str]:
    """Tags that `builtin_modality` knows."""
    return list(_configs())


def builtin_modality(tag: str) -> dict[str, Any]:
    """Return the modality configuration of an embodiment tag as it stands in `processor_config.json`.

    Raises:
        ConfigError: none comes with the release; lists those that do.
    """
    configs = _configs()
    if tag not in configs:
        raise ConfigError(
            f"embodiment tag '{tag}': no modality configuration comes with it, only with {', '.join(configs)}; "
            "take it from a checkpoint's processor_config.json or write an embodiment"
        )
    config = configs[tag]
    return {
        "video": modality_part(config.video_history, config.video),
        "state": modality_part([0], config.state, sin_cos=config.sin_cos_state),
        "action": modality_part(
            range(config.action_horizon),
            config.action,
            mean_std=config.mean_std_action,
            action_configs=[action_config(action.relative_to, action.pose) for action in config.action.values()],
        ),
        "language": modality_part([0], [config.language]),
    }


@dataclass(frozen=True)
class _Action:
    relative_to: str | None = setting(None, "State key from which the model counts; absent: absolute.")
    pose: Pose | None = setting(None, "Form of a pose; absent: not a pose.")


@dataclass(frozen=True)
class _Config:
    """One entry of the files."""

    video: tuple[str, ...] = setting(description="Cameras in order.")
    state: tuple[str, ...] = setting(description="State keys in order.")
    action: Mapping[str, _Action] = setting(description="Action keys in order.")
    action_horizon: int = setting(description="Ticks in one action chunk.", ge=1)
    language: str = setting(description="Published language key.")
    video_history: tuple[int, ...] = setting((0,), "Ticks of the images.")
    sin_cos_state: tuple[str, ...] = setting((), "State keys to encode by sine and cosine where the option is on.")
    mean_std_action: tuple[str, ...] = setting((), "Action keys to scale by mean and deviation.")


@dataclass(frozen=True)
class _File:
    configs: Mapping[str, _Config] = setting(description="Modality configurations by embodiment tag.")


@cache
def _configs() -> Mapping[str, _Config]:
    configs: dict[str, _Config] = {}
    for name in _FILES:
        with resources.as_file(resources.files("gr00t_training") / "data_configs" / name) as path:
            configs |= load_settings(_File, path).configs
    return configs

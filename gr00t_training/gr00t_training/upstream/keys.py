# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Convert names of NVIDIA's descriptions to ours: channels, annotations, poses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gr00t_training.embodiment import Pose
from gr00t_training.errors import ConfigError

UNKNOWN_UNIT = "unknown"  # published descriptions have no units

# Language keys without "annotation.": the release reads them from episodes.jsonl, not from a column.
EPISODE_TEXTS = ("task", "sub_task")
_ANNOTATION = "annotation."

POSE_FORMATS = {
    Pose.XYZ_ROTATION_6D: "XYZ_ROT6D",
    Pose.XYZ_AXIS_ANGLE: "XYZ_ROTVEC",
    Pose.MATRIX: "DEFAULT",
}


def channel_names(key: str, dim: int) -> tuple[str, ...]:
    """Return names of a key's channels, `<key>_<i>`; unique across keys, since i has no '_'."""
    return tuple(f"{key}_{i}" for i in range(dim))


def language_from_published(key: str) -> str:
    """Return `Embodiment.language` for a published language key: without "annotation.", as in `modality.json`.

    "task" and "sub_task" stay; so does "annotation.task", which would otherwise be read as "task".
    """
    short = key.removeprefix(_ANNOTATION)
    return key if short in EPISODE_TEXTS else short


def published_language(language: str) -> str:
    """Return the published language key for `Embodiment.language`."""
    if language in EPISODE_TEXTS or language.startswith(_ANNOTATION):
        return language
    return _ANNOTATION + language


@contextmanager
def prefix_errors(place: str) -> Iterator[None]:
    """Put `place` in front of the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


@contextmanager
def raise_config_errors(subject: str) -> Iterator[None]:
    """Raise a ValueError as a ConfigError that names the subject."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{subject}: {error}") from error

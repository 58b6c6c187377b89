# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Check that the embodiment of a robot fits the published metadata of a checkpoint of N1 or N1.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gr00t_training.checkpoint.description import Checkpoint
from gr00t_training.embodiment import MODEL_KINDS, VectorKey, VideoKey
from gr00t_training.errors import CheckpointError
from gr00t_training.types import KeyKind, KeyRef


def check_metadata_fit(checkpoint: Checkpoint) -> None:
    """Compare the embodiment of a robot with the entry of its tag in a published metadata.json (N1, N1.5).

    Such a folder has no embodiment.json to compare with. The entry has width, rotation form and kind of each key, size
    and rate of each camera; N1.6 and N1.7 are compared where the folder is read.

    Raises:
        CheckpointError: they differ; names each item.
    """
    embodiment = checkpoint.embodiment
    described: Mapping[str, Any] = checkpoint.metadata.get(embodiment.tag, {}).get("modalities") or {}
    if checkpoint.options is not None or not described:
        return
    facts: list[tuple[str, Any, Any]] = []  # place, found, expected
    for kind in MODEL_KINDS:
        keys, known = embodiment.used(kind), described.get(kind, {})
        if not set(keys) <= set(known):
            facts.append((f"{kind} keys", ", ".join(known) or "none", ", ".join(keys)))
        for key in [key for key in keys if key in known]:
            place = str(KeyRef(kind, key))
            if kind is KeyKind.VIDEO:
                facts += _described_video(place, known[key], embodiment.video[key], embodiment.fps)
            else:
                facts += _described_vector(place, known[key], embodiment.vectors(kind)[key])
    items = [f"{place}: found {found}, expected {expected}" for place, found, expected in facts if found != expected]
    if items:
        raise CheckpointError(
            f"{checkpoint.path}: was trained for another embodiment than '{embodiment.name}' (found: the "
            f"checkpoint's, expected: the requested one): {'; '.join(items)}"
        )


def _described_vector(place: str, entry: Mapping[str, Any], key: VectorKey) -> list[tuple[str, Any, Any]]:
    form = key.rotation.value if key.rotation else "none"
    return [
        (f"{place} channels", *entry.get("shape", [key.dim])[:1], key.dim),
        (f"{place}.is_absolute", entry.get("absolute", key.is_absolute), key.is_absolute),
        (f"{place}.rotation", entry.get("rotation_type") or "none", form),
    ]


def _described_video(place: str, entry: Mapping[str, Any], video: VideoKey, fps: int) -> list[tuple[str, Any, Any]]:
    size = (video.width, video.height)
    found = size if video.is_any_size else tuple(entry.get("resolution", size))
    return [
        (place, "{}x{}".format(*found), f"{video.width}x{video.height}"),
        (f"{place} fps", round(entry.get("fps", fps)), fps),
    ]

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether a dataset can train an embodiment, and the statistics that it gives."""

from __future__ import annotations

import dataclasses
from typing import Any

from gr00t_training.checkpoint.fit import RELATIVE_ACTION
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.statistics.compute import KeyStatistics
from gr00t_training.dataset.statistics.relative import relative_action_statistics
from gr00t_training.embodiment import Embodiment, Interpolation, ModelKeys, VectorKey, differences
from gr00t_training.errors import DatasetError
from gr00t_training.transforms.pipeline import Statistics
from gr00t_training.types import VECTOR_KINDS, KeyRef


def dataset_statistics(dataset: EpisodeDataset, embodiment: Embodiment) -> Statistics:
    """Return the statistics of every key of the embodiment that the dataset has, with those of relative actions.

    Raises:
        DatasetError: see `relative_action_statistics`.
    """
    statistics: dict[str, dict[str, KeyStatistics]] = {
        kind.value: {
            key: dataset.statistics(KeyRef(kind, key))
            for key in embodiment.vectors(kind)
            if key in dataset.modality.vectors(kind)
        }
        for kind in VECTOR_KINDS
    }
    if any(key.relative_to is not None for key in embodiment.action.values()):
        statistics[RELATIVE_ACTION] = relative_action_statistics(dataset, embodiment)
    return statistics


def mismatches(dataset: EpisodeDataset, embodiment: Embodiment) -> list[str]:
    """List why a dataset cannot be used to train an embodiment, one item with both values per entry.

    Normalization, horizon, history, relative actions and choice of keys are decided for training and may differ from
    those of the recording.
    """
    if dataset.embodiment is not None:
        return differences(_as_recorded(dataset.embodiment), _as_recorded(embodiment))
    items = [] if dataset.fps == embodiment.fps else [f"fps: found {dataset.fps}, expected {embodiment.fps}"]
    for ref, vector in embodiment.used_vectors():
        items += _vector_mismatches(dataset, ref, vector)
    for key in embodiment.video_keys:
        expected = (embodiment.video[key].height, embodiment.video[key].width)
        if key not in dataset.modality.video:
            items.append(f"video.{key}: not in the dataset ({', '.join(dataset.modality.video)})")
        elif dataset.video_feature(key) and embodiment.video[key].is_any_size:
            continue
        elif dataset.video_size(key) != expected:
            items.append(f"video.{key}: found height and width {dataset.video_size(key)}, expected {expected}")
    if not dataset.has_language(embodiment.language):
        items.append(f"language: found {', '.join(dataset.modality.annotation)}, expected {embodiment.language}")
    return items


def check_match(dataset: EpisodeDataset, embodiment: Embodiment) -> None:
    """Refuse a dataset that the embodiment cannot be trained on.

    Raises:
        DatasetError: names each item.
    """
    items = mismatches(dataset, embodiment)
    if items:
        raise DatasetError(
            f"{dataset.path}: does not fit embodiment '{embodiment.name}' (found: the dataset's, expected: the "
            f"embodiment's): {'; '.join(items)}"
        )


def _vector_mismatches(dataset: EpisodeDataset, ref: KeyRef, vector: VectorKey) -> list[str]:
    declared = dataset.modality.vectors(ref.kind)
    if ref.key not in declared:
        return [f"{ref}: not in the dataset ({', '.join(declared)})"]
    part = dataset.slice_of(ref)
    names = dataset.features.get(part.column, {}).get("names")
    items = []
    if part.dim != vector.dim:
        items.append(f"{ref}: found {part.dim} channels, expected {vector.dim}")
    elif isinstance(names, list) and all(isinstance(name, str) for name in names):
        found = names[part.start : part.end]
        if found != list(vector.names):
            items.append(f"{ref}.names: found [{', '.join(found)}], expected [{', '.join(vector.names)}]")
    if part.is_absolute != vector.is_absolute:
        items.append(f"{ref}.is_absolute: found {part.is_absolute}, expected {vector.is_absolute}")
    if part.rotation and part.rotation != (vector.rotation.value if vector.rotation else None):
        items.append(f"{ref}.rotation: found {part.rotation}, expected {vector.rotation}")
    return items


def _as_recorded(embodiment: Embodiment) -> Embodiment:
    """Return the embodiment without what only matters to the model."""

    def bare(keys: Any) -> dict[str, VectorKey]:
        return {
            name: dataclasses.replace(
                key,
                normalization=None,
                target_rotation=None,
                interpolation=Interpolation.LINEAR,
                relative_to=None,
                pose=None,
            )
            for name, key in keys.items()
        }

    return dataclasses.replace(
        embodiment,
        name="",
        tag="",
        robot_type="",
        action_horizon=1,
        video_history=(0,),
        state_history=(0,),
        model=ModelKeys(),
        state=bare(embodiment.state),
        action=bare(embodiment.action),
    )

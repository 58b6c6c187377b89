# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The actions of a recorded episode as rows that a robot can replay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gr00t_recorder.topics.units import is_rate
from gr00t_training.dataset.metadata.features import channel_names
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.errors import DatasetError
from gr00t_training.types import KeyKind, KeyRef


@dataclass(frozen=True)
class ReplayRows:
    """Actions of one episode."""

    names: tuple[str, ...]  # action channels
    rows: np.ndarray  # (T, N) float64, absolute [unit of the channel]
    step_ns: int
    rates: frozenset[str]  # channels that are velocities

    def first_pose(self) -> dict[str, float]:
        """Return the positions of the first row, by channel."""
        return {name: float(self.rows[0, i]) for i, name in enumerate(self.names) if name not in self.rates}


def replay_rows(dataset: EpisodeDataset, episode: int) -> ReplayRows:
    """Return the actions of an episode.

    Raises:
        DatasetError: no such episode or an empty one, channels without names, or actions that are differences.
    """
    if dataset.episode(episode).length == 0:
        raise DatasetError(f"{dataset.path}: episode {episode} has no rows; choose another one")
    names: list[str] = []
    rates: list[str] = []
    parts = []
    for key, part in dataset.modality.action.items():
        vector = dataset.embodiment.action.get(key) if dataset.embodiment is not None else None
        found = list(vector.names) if vector is not None else _names(dataset, part.column)[part.start : part.end]
        if len(found) != part.dim:
            raise DatasetError(f"{dataset.path}: action '{key}' has {part.dim} channels and {len(found)} names")
        is_velocity = vector is not None and is_rate(vector.unit)
        if not part.is_absolute and not is_velocity:
            raise DatasetError(
                f"{dataset.path}: action '{key}' is a difference, which cannot be replayed; record absolute actions"
            )
        names += found
        rates += found if is_velocity else []
        parts.append(dataset.vectors(KeyRef(KeyKind.ACTION, key), episode))
    rows = np.concatenate(parts, axis=1)
    return ReplayRows(tuple(names), rows, round(1e9 / dataset.fps), frozenset(rates))


def _names(dataset: EpisodeDataset, column: str) -> list[str]:
    feature = dataset.features.get(column, {})
    return channel_names(feature.get("names"))

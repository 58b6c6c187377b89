# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The actions of a recorded episode as rows that a robot can replay, whatever units the dataset has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gr00t_recorder.topics.units import is_rate, unit_factor
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
    units: tuple[str, ...]  # one per channel; empty: the dataset does not say

    @property
    def positions(self) -> list[int]:
        """Places of the channels that are no velocities."""
        return [i for i, name in enumerate(self.names) if name not in self.rates]

    def first_pose(self) -> dict[str, float]:
        """Return the positions of the first row, by channel."""
        return {self.names[i]: float(self.rows[0, i]) for i in self.positions}


def unit_factors(names: Sequence[str], units: Sequence[str], own: Mapping[str, str]) -> np.ndarray:
    """Return what values by `names` are multiplied with to be in the units of the robot's channels.

    Args:
        names: of the channels.
        units: one per channel, an empty one is the channel's own; empty: all are.
        own: unit of each channel of the robot.

    Returns:
        `(len(names),)` float64.

    Raises:
        ValueError: another number of units, or one that cannot be converted; names the channel.
    """
    if not units:
        return np.ones(len(names))
    if len(units) != len(names):
        raise ValueError(f"{len(units)} units for {len(names)} names; expected one each, or none")
    factors = []
    for name, unit in zip(names, units, strict=True):
        try:
            factors.append(unit_factor(unit, own[name]) if unit and name in own else 1.0)
        except ValueError as error:
            raise ValueError(f"channel '{name}': {error}") from error
    return np.array(factors)


def replay_rows(dataset: EpisodeDataset, episode: int) -> ReplayRows:
    """Return the actions of an episode.

    Raises:
        DatasetError: no such episode or an empty one, channels without names, or actions that are differences.
    """
    if dataset.episode(episode).length == 0:
        raise DatasetError(f"{dataset.path}: episode {episode} has no rows; choose another one")
    names: list[str] = []
    rates: list[str] = []
    units: list[str] = []
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
        units += ["" if vector is None else vector.unit] * part.dim
        parts.append(dataset.vectors(KeyRef(KeyKind.ACTION, key), episode))
    rows = np.concatenate(parts, axis=1)
    return ReplayRows(tuple(names), rows, round(1e9 / dataset.fps), frozenset(rates), tuple(units))


def _names(dataset: EpisodeDataset, column: str) -> list[str]:
    feature = dataset.features.get(column, {})
    return channel_names(feature.get("names"))

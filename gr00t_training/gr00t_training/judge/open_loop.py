# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Open-loop evaluation: errors of predicted actions against recorded ones, in the robot's units.

The policy is queried every `horizon` rows, and its first `horizon` actions are compared with the recorded rows, as in
the evaluation script of the N1 release. Nothing moves: a small error does not prove that a robot succeeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.embodiment import Embodiment, Pose, VectorKey
from gr00t_training.errors import ConfigError
from gr00t_training.policy.policy_like import PolicyLike
from gr00t_training.transforms.observation import observation_from_rows
from gr00t_training.types import KeyKind, KeyRef
from gr00t_training.upstream.keys import UNKNOWN_UNIT


@dataclass(frozen=True)
class EpisodeEvaluation:
    """Recorded and predicted actions of the first rows of one episode."""

    episode: int
    task: str
    fps: float
    horizon: int  # rows between two queries
    truth: Mapping[str, np.ndarray]  # key -> (N, D), robot units
    predicted: Mapping[str, np.ndarray]  # key -> (N, D)
    state: Mapping[str, np.ndarray]  # (N, D) of the action keys that have a state of the same name and width

    @property
    def num_rows(self) -> int:
        """Number of compared rows."""
        return len(next(iter(self.truth.values())))

    @property
    def mse(self) -> float:
        """Mean squared error over rows and channels of all units, as the release prints it; compare with it only."""
        errors = np.concatenate([self.predicted[key] - self.truth[key] for key in self.truth], axis=1)
        return float(np.mean(np.square(errors)))

    def channel_mse(self, key: str) -> np.ndarray:
        """Mean squared error per channel of a key, `(D,)`."""
        return np.mean(np.square(self.predicted[key] - self.truth[key]), axis=0)

    def channel_mae(self, key: str) -> np.ndarray:
        """Mean absolute error per channel of a key, `(D,)`."""
        return np.mean(np.abs(self.predicted[key] - self.truth[key]), axis=0)

    def units(self, embodiment: Embodiment, keys: Sequence[str] = ()) -> dict[str, dict[str, float]]:
        """Return MSE and MAE over the rows and channels of each unit: radians and meters have no mean.

        Args:
            embodiment: has the units.
            keys: of the action; empty: all that were compared.
        """
        errors: dict[str, list[np.ndarray]] = {}
        for key in keys or self.truth:
            columns = (self.predicted[key] - self.truth[key]).T
            for unit, column in zip(channel_units(key, embodiment.action[key]), columns, strict=True):
                errors.setdefault(unit, []).append(column)
        return {
            unit: {"mse": float(np.mean(np.square(found))), "mae": float(np.mean(np.abs(found)))}
            for unit, found in errors.items()
        }


def channel_units(name: str, key: VectorKey) -> list[str]:
    """Return the unit of every channel; a pose has two. Keys with unknown units are not joined."""
    unit = f"{name} ({UNKNOWN_UNIT})" if key.unit == UNKNOWN_UNIT else key.unit
    if key.pose is None:
        return [unit] * key.dim
    if key.pose is Pose.MATRIX:
        return [unit if place in (3, 7, 11) else "rotation" for place in range(key.dim)]  # last column, row by row
    return [unit] * 3 + ["rad" if key.pose is Pose.XYZ_AXIS_ANGLE else "rotation"] * (key.dim - 3)


def evaluate_episode(
    policy: PolicyLike,
    dataset: EpisodeDataset,
    episode: int,
    *,
    steps: int | None = None,
    horizon: int | None = None,
    keys: Sequence[str] = (),
) -> EpisodeEvaluation:
    """Compare a policy with one recorded episode.

    Args:
        policy: to evaluate.
        dataset: of the policy's robot.
        episode: index.
        steps: rows to compare; None: the whole episode.
        horizon: rows used of a chunk before the next query; None: the whole chunk.
        keys: action keys to compare; empty: all that the policy produces.

    Raises:
        ConfigError: more steps than the episode has, a longer horizon than the chunk, or an unknown key.
        DatasetError: a key is not in the dataset, or cannot be read.
    """
    embodiment = policy.embodiment
    keys = tuple(keys) or embodiment.action_keys
    horizon = embodiment.action_horizon if horizon is None else horizon
    length = dataset.episode(episode).length
    steps = length if steps is None else steps
    _check_request(embodiment, keys, horizon, steps, episode, length)
    chunks: dict[str, list[np.ndarray]] = {key: [] for key in keys}
    for row in range(0, steps, horizon):
        chunk = policy.infer(observation_from_rows(dataset, episode, row, embodiment))
        for key in keys:
            chunks[key].append(chunk.actions[key][:horizon])
    return EpisodeEvaluation(
        episode=episode,
        task=dataset.task(episode, 0, embodiment.language),
        fps=embodiment.fps,
        horizon=horizon,
        truth={key: dataset.action(episode, key)[:steps] for key in keys},
        predicted={key: np.concatenate(parts)[:steps] for key, parts in chunks.items()},
        state={key: dataset.state(episode, key)[:steps] for key in keys if _has_state(dataset, key)},
    )


def _check_request(
    embodiment: Embodiment, keys: Sequence[str], horizon: int, steps: int, episode: int, length: int
) -> None:
    for key in keys:
        if key not in embodiment.action_keys:
            raise ConfigError(f"action.{key}: the policy does not produce it ({', '.join(embodiment.action_keys)})")
    if not 1 <= horizon <= embodiment.action_horizon:
        raise ConfigError(f"horizon is {horizon}, a chunk of the policy has {embodiment.action_horizon} ticks")
    if not 1 <= steps <= length:
        raise ConfigError(f"steps is {steps}, episode {episode} has {length} rows")


def _has_state(dataset: EpisodeDataset, key: str) -> bool:
    action = dataset.slice_of(KeyRef(KeyKind.ACTION, key))
    return key in dataset.modality.state and dataset.modality.state[key].dim == action.dim

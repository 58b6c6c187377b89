# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Open-loop evaluation: errors of predicted actions against recorded ones, in the robot's units.

The policy is asked every `horizon` rows, and its first `horizon` actions are compared with the recorded rows, as in
the evaluation script of the N1 release. Nothing moves: a small error does not prove that a robot succeeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ConfigError
from gr00t_training.judge.queries import Recording, channel_units
from gr00t_training.types import KeyKind, KeyRef


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


def check_keys(embodiment: Embodiment, keys: Sequence[str]) -> None:
    """Refuse keys that the policy does not produce.

    Raises:
        ConfigError: names the key, and those that there are.
    """
    for key in keys:
        if key not in embodiment.action_keys:
            raise ConfigError(f"action.{key}: the policy does not produce it ({', '.join(embodiment.action_keys)})")


def compare_episode(
    recording: Recording, chunks: Sequence[np.ndarray], episode: int, keys: Sequence[str] = ()
) -> EpisodeEvaluation:
    """Compare the answers to the queries of an episode with what was recorded.

    Args:
        recording: with the episode.
        chunks: `(H, C)` for each query of the recording.
        episode: index.
        keys: action keys to compare (`check_keys`); empty: all that the policy produces.

    Raises:
        DatasetError: a key cannot be read.
    """
    dataset, embodiment = recording.dataset, recording.embodiment
    pairs = zip(recording.queries, chunks, strict=True)
    predicted = _split(
        np.concatenate([chunk[query.used] for query, chunk in pairs if query.episode == episode]), embodiment
    )
    truth = _split(recording.actions[episode], embodiment)
    keys = tuple(keys) or embodiment.action_keys
    return EpisodeEvaluation(
        episode=episode,
        task=dataset.task(episode, 0, embodiment.language),
        fps=embodiment.fps,
        horizon=recording.horizon,
        truth={key: truth[key] for key in keys},
        predicted={key: predicted[key] for key in keys},
        state={
            key: dataset.state(episode, key)[: recording.length(episode)] for key in keys if _has_state(dataset, key)
        },
    )


def _split(rows: np.ndarray, embodiment: Embodiment) -> dict[str, np.ndarray]:
    """Return the columns `(N, D)` of each action key."""
    ends = np.cumsum([embodiment.action[key].dim for key in embodiment.action_keys])
    return dict(zip(embodiment.action_keys, np.split(rows, ends[:-1], axis=1), strict=True))


def _has_state(dataset: EpisodeDataset, key: str) -> bool:
    action = dataset.slice_of(KeyRef(KeyKind.ACTION, key))
    return key in dataset.modality.state and dataset.modality.state[key].dim == action.dim

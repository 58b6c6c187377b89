# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The rows of recorded episodes at which a policy is asked, with what was recorded there."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.embodiment import Embodiment, Interpolation
from gr00t_training.judge.open_loop import channel_units
from gr00t_training.policy.policy_like import PolicyLike
from gr00t_training.transforms.observation import observation_from_rows
from gr00t_training.types import ActionChunk, Observation

REMEMBERED = 128  # observations; each holds the images of all cameras


@dataclass(frozen=True)
class Channel:
    """One channel of the action."""

    key: str
    name: str
    unit: str
    is_gripper: bool  # what opens and closes: its timing decides over success

    def __str__(self) -> str:
        return self.name if self.key in self.name else f"{self.key}/{self.name}"


@dataclass(frozen=True)
class Query:
    """One row at which a policy is asked."""

    episode: int
    row: int
    task: str
    truth: np.ndarray  # (H, C) recorded actions from this row on, robot units; shorter at the episode's end
    hold: np.ndarray  # (C,) what keeps the robot where it is


class Recording:
    """Recorded episodes, as a policy is compared with them."""

    def __init__(
        self,
        dataset: EpisodeDataset,
        embodiment: Embodiment,
        episodes: Sequence[int],
        horizon: int,
        steps: int | None = None,
    ) -> None:
        """Read the vectors of the episodes.

        Args:
            dataset: of the policy's robot.
            embodiment: of the policy.
            episodes: indices.
            horizon: rows of a chunk that are carried out before the next query.
            steps: first rows of each episode that are used; None: all.

        Raises:
            DatasetError: a key is not in the dataset, or cannot be read.
        """
        self.dataset = dataset
        self.embodiment = embodiment
        self.episodes = tuple(episodes)
        self.horizon = horizon
        self.channels = tuple(_channels(embodiment))
        self.actions = {
            episode: np.concatenate([dataset.action(episode, key)[:steps] for key in embodiment.action_keys], axis=1)
            for episode in episodes
        }
        self._holds = {episode: self._hold(episode) for episode in episodes}
        rows = np.concatenate(list(self.actions.values()))
        self.mean = rows.mean(axis=0)
        spread = rows.std(axis=0)
        self.moves = spread > 1e-6 * np.maximum(1.0, np.abs(self.mean))
        self.scale = np.where(self.moves, spread, np.inf)  # (C,) unit of errors that are joined over channels
        self.queries = tuple(self._queries())
        self.state_spread = functools.cache(self._state_spread)  # a probe asks for it at every query
        self._observe = functools.lru_cache(maxsize=REMEMBERED)(self._read)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Different instructions of the queries, in their order."""
        return tuple(dict.fromkeys(query.task for query in self.queries))

    def observation(self, episode: int, row: int) -> Observation:
        """Return the observation of a row; rows before the first count as the first."""
        return self._observe(episode, max(0, row))

    def length(self, episode: int) -> int:
        """Return the number of rows of an episode."""
        return len(self.actions[episode])

    def error(self, chunk: np.ndarray, truth: np.ndarray) -> float:
        """Return the mean absolute error over rows and moving channels, in standard deviations of the actions."""
        count = min(len(chunk), len(truth))
        return float(np.mean((np.abs(chunk[:count] - truth[:count]) / self.scale)[:, self.moves])) if count else 0.0

    def joined(self, chunk: ActionChunk) -> np.ndarray:
        """Return the actions of a chunk `(H, C)` in the order of the channels."""
        return joined(chunk.actions, self.embodiment)

    def _state_spread(self, key: str) -> np.ndarray:
        """Return the standard deviation of each channel of a state key, `(D,)`."""
        return np.concatenate([self.dataset.state(episode, key) for episode in self.episodes]).std(axis=0)

    def _read(self, episode: int, row: int) -> Observation:
        return observation_from_rows(self.dataset, episode, row, self.embodiment)

    def _queries(self) -> Iterator[Query]:
        for episode in self.episodes:
            actions, holds = self.actions[episode], self._holds[episode]
            for row in range(0, len(actions), self.horizon):
                task = self.dataset.task(episode, row, self.embodiment.language)
                truth = actions[row : row + self.embodiment.action_horizon]
                yield Query(episode, row, task, truth, holds[row])

    def _hold(self, episode: int) -> np.ndarray:
        """Return the action that keeps the robot still at each row, `(N, C)`: its position, or no movement."""
        parts = []
        for key in self.embodiment.action_keys:
            action = self.dataset.action(episode, key)
            state = self.dataset.modality.state.get(key)
            if not self.embodiment.action[key].is_absolute:
                parts.append(np.zeros_like(action))
            elif state is not None and state.dim == action.shape[1]:
                parts.append(self.dataset.state(episode, key))
            else:  # no position is measured: the last command
                parts.append(np.concatenate([action[:1], action[:-1]]))
        return np.concatenate(parts, axis=1)[: self.length(episode)]


def ask(policy: PolicyLike, observation: Observation, recording: Recording) -> np.ndarray:
    """Return the chunk `(H, C)` of an observation, with the same noise at every call."""
    policy.reset()
    return recording.joined(policy.infer(observation))


def joined(actions: Mapping[str, np.ndarray], embodiment: Embodiment) -> np.ndarray:
    """Return the actions of all keys side by side."""
    return np.concatenate([actions[key] for key in embodiment.action_keys], axis=1)


def _channels(embodiment: Embodiment) -> Iterator[Channel]:
    for key in embodiment.action_keys:
        vector = embodiment.action[key]
        for name, unit in zip(vector.names, channel_units(key, vector), strict=True):
            words = f"{key} {name}".lower()
            is_gripper = "gripper" in words or (vector.interpolation is Interpolation.STEP and "hand" in words)
            yield Channel(key, name, unit, is_gripper)

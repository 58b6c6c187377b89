# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The times of recorded episodes at which a policy is asked, with what was recorded there, and its answers.

`Demonstration` has what answers are compared with; `Recording` is one from a dataset, whose observations can be asked
about again, with changes.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.embodiment import Embodiment, Interpolation, Pose, VectorKey
from gr00t_training.errors import ConfigError
from gr00t_training.policy.policy_like import PolicyLike
from gr00t_training.transforms.observation import observation_from_rows
from gr00t_training.types import ActionChunk, Observation
from gr00t_training.upstream.keys import UNKNOWN_UNIT

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
    """One time at which a policy is asked."""

    episode: int
    row: int  # of the episode; the newest one before that time
    task: str
    truth: np.ndarray  # (H, C) recorded actions from then on, robot units; shorter at the episode's end
    hold: np.ndarray  # (C,) what keeps the robot where it is
    used: slice  # rows that are carried out, before those of the next answer are


class Demonstration:
    """Recorded episodes, as answers of a policy are compared with them."""

    def __init__(self, embodiment: Embodiment, actions: Mapping[int, np.ndarray], queries: Sequence[Query]) -> None:
        """Find which channels move, and how far.

        Args:
            embodiment: of the policy.
            actions: episode -> (N, C), the keys of the model side by side.
            queries: by episode and time.
        """
        self.embodiment = embodiment
        self.episodes = tuple(actions)
        self.channels = tuple(_channels(embodiment))
        self.actions = actions
        self.queries = tuple(queries)
        rows = np.concatenate(list(actions.values()))
        self.mean = rows.mean(axis=0)
        spread = rows.std(axis=0)
        self.moves = spread > 1e-6 * np.maximum(1.0, np.abs(self.mean))
        self.scale = np.where(self.moves, spread, np.inf)  # (C,) unit of errors that are joined over channels

    @property
    def tasks(self) -> tuple[str, ...]:
        """Different instructions of the queries, in their order."""
        return tuple(dict.fromkeys(query.task for query in self.queries))

    @property
    def asked(self) -> str:
        """How often the policy is asked, for people."""
        return f"asked {len(self.queries)} times"

    def length(self, episode: int) -> int:
        """Return the number of rows of an episode."""
        return len(self.actions[episode])

    def error(self, chunk: np.ndarray, truth: np.ndarray, channels: np.ndarray | None = None) -> float:
        """Return the mean absolute error over rows and channels, in standard deviations of the actions.

        Args:
            chunk: `(H, C)`.
            truth: `(N, C)`.
            channels: `(C,)` whether each counts; None: those that move.
        """
        count, counted = min(len(chunk), len(truth)), self.moves if channels is None else channels
        return float(np.mean((np.abs(chunk[:count] - truth[:count]) / self.scale)[:, counted])) if count else 0.0

    def joined(self, chunk: ActionChunk) -> np.ndarray:
        """Return the actions of a chunk `(H, C)` in the order of the channels."""
        return joined(chunk.actions, self.embodiment)


class Recording(Demonstration):
    """Recorded episodes of a dataset, with the observations at which a policy is asked."""

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
            ConfigError: the horizon is longer than a chunk.
            DatasetError: a key is not in the dataset, or cannot be read.
        """
        if not 1 <= horizon <= embodiment.action_horizon:
            raise ConfigError(f"horizon is {horizon}, a chunk of the policy has {embodiment.action_horizon} ticks")
        self.dataset = dataset
        self.horizon = horizon
        actions = {
            episode: np.concatenate([dataset.action(episode, key)[:steps] for key in embodiment.action_keys], axis=1)
            for episode in episodes
        }
        queries = [
            query
            for episode, rows in actions.items()
            for query in _queries(dataset, embodiment, episode, rows, horizon)
        ]
        super().__init__(embodiment, actions, queries)
        self.state_spread = functools.cache(self._state_spread)  # a probe asks for it at every query
        self._observe = functools.lru_cache(maxsize=REMEMBERED)(self._read)

    @property
    def asked(self) -> str:
        """How often the policy is asked, for people."""
        return f"{super().asked}, every {self.horizon} rows"

    def observation(self, episode: int, row: int) -> Observation:
        """Return the observation of a row; rows before the first count as the first."""
        return self._observe(episode, max(0, row))

    def state(self, episode: int, row: int) -> Mapping[str, np.ndarray]:
        """Return the state of an observation, without decoding its images."""
        return observation_from_rows(self.dataset, episode, max(0, row), self.embodiment, _no_images).state

    def _state_spread(self, key: str) -> np.ndarray:
        """Return the standard deviation of each channel of a state key, `(D,)`."""
        return np.concatenate([self.dataset.state(episode, key) for episode in self.episodes]).std(axis=0)

    def _read(self, episode: int, row: int) -> Observation:
        return observation_from_rows(self.dataset, episode, row, self.embodiment)


@dataclass(frozen=True)
class Answers:
    """What a policy answered to the queries, in their order."""

    chunks: Sequence[np.ndarray]  # (H, C) each
    seconds: float  # median of an answer


def answer_queries(policy: PolicyLike, recording: Recording) -> Answers:
    """Ask a policy about every query.

    Raises:
        Gr00tError: an episode cannot be read, or the policy cannot answer.
    """
    times, chunks = [], []
    for query in recording.queries:
        observation = recording.observation(query.episode, query.row)
        start_s = time.perf_counter()
        chunks.append(ask(policy, observation, recording))
        times.append(time.perf_counter() - start_s)
    return Answers(chunks, float(np.median(times)))


def ask(policy: PolicyLike, observation: Observation, recording: Recording) -> np.ndarray:
    """Return the chunk `(H, C)` of an observation, with the same noise at every call."""
    policy.reset()
    return recording.joined(policy.infer(observation))


def joined(actions: Mapping[str, np.ndarray], embodiment: Embodiment) -> np.ndarray:
    """Return the actions of all keys side by side."""
    return np.concatenate([actions[key] for key in embodiment.action_keys], axis=1)


def held_actions(
    embodiment: Embodiment, actions: Mapping[str, np.ndarray], states: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return the action that keeps the robot still at each row, `(N, C)`: its position, or no movement.

    Args:
        embodiment: of the policy.
        actions: recorded ones, key -> `(N, D)`.
        states: recorded ones, key -> `(N, D)`; keys may be missing.
    """
    parts = []
    for key in embodiment.action_keys:
        action, state = actions[key], states.get(key)
        if not embodiment.action[key].is_absolute:
            parts.append(np.zeros_like(action))
        elif state is not None and state.shape == action.shape:
            parts.append(state)
        else:  # no position is measured: the last command
            parts.append(np.concatenate([action[:1], action[:-1]]))
    return np.concatenate(parts, axis=1)


def channel_units(name: str, key: VectorKey) -> list[str]:
    """Return the unit of every channel; a pose has two. Keys with unknown units are not joined."""
    unit = f"{name} ({UNKNOWN_UNIT})" if key.unit == UNKNOWN_UNIT else key.unit
    if key.pose is None:
        return [unit] * key.dim
    if key.pose is Pose.MATRIX:
        return [unit if place in (3, 7, 11) else "rotation" for place in range(key.dim)]  # last column, row by row
    return [unit] * 3 + ["rad" if key.pose is Pose.XYZ_AXIS_ANGLE else "rotation"] * (key.dim - 3)


def _queries(
    dataset: EpisodeDataset, embodiment: Embodiment, episode: int, actions: np.ndarray, horizon: int
) -> Iterator[Query]:
    keys = embodiment.action_keys
    states = {key: dataset.state(episode, key) for key in keys if key in dataset.modality.state}
    holds = held_actions(embodiment, {key: dataset.action(episode, key) for key in keys}, states)
    for row in range(0, len(actions), horizon):
        task = dataset.task(episode, row, embodiment.language)
        truth = actions[row : row + embodiment.action_horizon]
        yield Query(episode, row, task, truth, holds[row], slice(0, min(horizon, len(truth))))


def _no_images(episode: int, camera: str, rows: Sequence[int]) -> np.ndarray:
    return np.empty((len(rows), 0, 0, 3), np.uint8)


def _channels(embodiment: Embodiment) -> Iterator[Channel]:
    for key in embodiment.action_keys:
        vector = embodiment.action[key]
        for name, unit in zip(vector.names, channel_units(key, vector), strict=True):
            words = f"{key} {name}".lower()
            is_gripper = "gripper" in words or (vector.interpolation is Interpolation.STEP and "hand" in words)
            yield Channel(key, name, unit, is_gripper)

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What the model is asked about, from recorded rows or from live frames: the same for loader and policy.

The rounding of a dataset to float32 happens here for live values too, so that both sides see equal numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gr00t_training.dataset.reader import LeRobotDataset
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ObservationError
from gr00t_training.types import Frame, Observation


def observation_from_frames(frames: Sequence[Frame], embodiment: Embodiment, instruction: str) -> Observation:
    """Return the observation of one time step.

    Args:
        frames: one for each of the embodiment's `observed_ticks`, oldest first; their actions are not looked at.
        embodiment: says which keys and ticks the model uses.
        instruction: what the robot is to do; empty takes the newest frame's task.

    Raises:
        ObservationError: a frame is missing, or a key that the model uses is missing from a frame.
    """
    ticks = embodiment.observed_ticks
    if len(frames) != len(ticks):
        raise ObservationError(
            f"{len(frames) or 'no'} frames to observe, embodiment '{embodiment.name}' expects one for each of the "
            f"ticks {list(ticks)}"
        )
    by_tick = dict(zip(ticks, frames, strict=True))
    pictured = [by_tick[tick] for tick in embodiment.video_history]
    measured = [by_tick[tick] for tick in embodiment.state_history]
    return Observation(
        images={key: _joined([_input(frame, "video", key) for frame in pictured]) for key in embodiment.video_keys},
        state={
            key: np.stack([_as_stored(_input(frame, "state", key)) for frame in measured])
            for key in embodiment.state_keys
        },
        instruction=instruction or frames[-1].task,
        stamp_ns=frames[-1].tick_ns,
    )


def observation_from_rows(dataset: LeRobotDataset, episode: int, row: int, embodiment: Embodiment) -> Observation:
    """Return the observation at one row of a dataset, with the instruction of that row.

    Images and absolute states from before the episode's start are those of its first row, as in the reference loaders;
    relative states are zero there.

    Raises:
        DatasetError: a key that the model uses is not in the dataset, or cannot be read.
    """
    pictured = [row + tick for tick in embodiment.video_history]
    measured = [row + tick for tick in embodiment.state_history]
    return Observation(
        images={key: dataset.images(episode, key, pictured) for key in embodiment.video_keys},
        state={key: _as_stored(dataset.window("state", episode, key, measured)) for key in embodiment.state_keys},
        instruction=dataset.task(episode, row, embodiment.language),
        stamp_ns=round(row * 1e9 / embodiment.fps),
    )


def action_targets(dataset: LeRobotDataset, episode: int, row: int, embodiment: Embodiment) -> dict[str, np.ndarray]:
    """Return the actions of a chunk that starts at `row`, key -> `(action_horizon, D)` float64.

    Beyond the episode's end absolute keys repeat the last row and relative ones are zero.

    Raises:
        DatasetError: a key that the model produces is not in the dataset, or cannot be read.
    """
    rows = range(row, row + embodiment.action_horizon)
    return {key: dataset.window("action", episode, key, rows) for key in embodiment.action_keys}


def _input(frame: Frame, kind: str, key: str) -> np.ndarray:
    values = frame.images if kind == "video" else frame.state
    if key not in values:
        raise ObservationError(f"{kind}.{key}: missing, found {', '.join(values) or 'nothing'}; check the topic map")
    return np.asarray(values[key])


def _joined(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return images `(T, H, W, 3)`; a single one is not copied."""
    return images[0][None] if len(images) == 1 else np.stack(images)


def _as_stored(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32).astype(np.float64)

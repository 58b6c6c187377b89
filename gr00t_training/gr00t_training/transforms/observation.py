# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Build observations from recorded rows or live frames: the same for loader and policy.

The rounding of a dataset to float32 happens here for live values too, so that both sides see equal numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gr00t_training.embodiment import Embodiment, Rotation, VectorKey
from gr00t_training.errors import ObservationError
from gr00t_training.rotations import identity, identity_pose
from gr00t_training.types import Frame, KeyKind, KeyRef, Observation

if TYPE_CHECKING:  # hosts that only ask a policy need no video library
    from gr00t_training.dataset.reader import EpisodeDataset

Images = Callable[[int, str, Sequence[int]], np.ndarray]  # episode, camera, rows -> (T, H, W, 3) uint8 RGB


def observation_from_frames(frames: Sequence[Frame], embodiment: Embodiment, instruction: str) -> Observation:
    """Return the observation of one time step.

    Args:
        frames: one for each of the embodiment's `observed_ticks`, oldest first; their actions are not used.
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
        images={
            key: _joined([_input(frame, KeyRef(KeyKind.VIDEO, key)) for frame in pictured])
            for key in embodiment.video_keys
        },
        state={
            key: np.stack([_as_stored(_input(frame, KeyRef(KeyKind.STATE, key))) for frame in measured])
            for key in embodiment.state_keys
        },
        instruction=instruction or frames[-1].task,
        stamp_ns=frames[-1].tick_ns,
    )


def observation_from_rows(
    dataset: EpisodeDataset, episode: int, row: int, embodiment: Embodiment, images: Images | None = None
) -> Observation:
    """Return the observation at one row of a dataset, with the instruction of that row.

    Images and absolute states from before the episode's start are those of its first row, as in the reference loaders;
    relative states are zero there.

    Args:
        dataset: of the row.
        episode: index of the episode.
        row: of the episode.
        embodiment: says which keys and ticks the model uses.
        images: reads those of an episode, a camera and rows, as `EpisodeDataset.images` does; None: that of `dataset`.

    Raises:
        DatasetError: a key that the model uses is not in the dataset, or cannot be read.
    """
    read = images or dataset.images
    pictured = [row + tick for tick in embodiment.video_history]
    measured = [row + tick for tick in embodiment.state_history]
    return Observation(
        images={key: read(episode, key, pictured) for key in embodiment.video_keys},
        state={
            key: _as_stored(dataset.window(KeyRef(KeyKind.STATE, key), episode, measured))
            for key in embodiment.state_keys
        },
        instruction=dataset.task(episode, row, embodiment.language),
        stamp_ns=round(row * 1e9 / embodiment.fps),
    )


def action_targets(dataset: EpisodeDataset, episode: int, row: int, embodiment: Embodiment) -> dict[str, np.ndarray]:
    """Return the actions of a chunk that starts at `row`, key -> `(action_horizon, D)` float64.

    Beyond the episode's end absolute keys repeat the last row and relative ones are zero.

    Raises:
        DatasetError: a key that the model produces is not in the dataset, or cannot be read.
    """
    rows = range(row, row + embodiment.action_horizon)
    return {key: dataset.window(KeyRef(KeyKind.ACTION, key), episode, rows) for key in embodiment.action_keys}


def _input(frame: Frame, ref: KeyRef) -> np.ndarray:
    values = frame.images if ref.kind is KeyKind.VIDEO else frame.state
    if ref.key not in values:
        raise ObservationError(f"{ref}: missing, found {', '.join(values) or 'nothing'}; check the topic map")
    return np.asarray(values[ref.key])


def _joined(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return images `(T, H, W, 3)`; a single one is not copied."""
    return images[0][None] if len(images) == 1 else np.stack(images)


def _as_stored(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32).astype(np.float64)


_ANY_SIZE = (256, 256)  # height and width [px] where the embodiment takes any


def resting_observation(embodiment: Embodiment, instruction: str) -> Observation:
    """Return an artificial observation: black images, zero state, identity rotations."""
    # a state key that poses are counted from is a pose, whether the embodiment says so of the state or not
    poses = {key.relative_to: key.pose for key in embodiment.action.values() if key.relative_to and key.pose}

    def rest(name: str, key: VectorKey) -> np.ndarray:
        pose = key.pose or poses.get(name)
        if pose:
            return identity_pose(pose)
        return np.zeros(key.dim) if key.rotation is None else identity(Rotation(key.rotation))

    images, state = {}, {}
    for key in embodiment.video_keys:
        video = embodiment.video[key]
        height, width = _ANY_SIZE if video.is_any_size else (video.height, video.width)
        images[key] = np.zeros((len(embodiment.video_history), height, width, 3), np.uint8)
    for key in embodiment.state_keys:
        state[key] = np.tile(rest(key, embodiment.state[key]), (len(embodiment.state_history), 1))
    return Observation(images, state, instruction)

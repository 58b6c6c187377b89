# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Small embodiments, frames and checkpoints; all values are seeded."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gr00t_training.embodiment import Embodiment, Normalization, VectorKey, VideoKey
from gr00t_training.types import Frame

if TYPE_CHECKING:
    from gr00t_training.dataset.reader import EpisodeDataset
    from gr00t_training.model.config import Gr00tConfig


def make_embodiment(*, fps: int = 10, size: tuple[int, int] = (32, 48)) -> Embodiment:
    """Return a three-joint arm with a gripper and one camera of `size` (height, width)."""
    arm = VectorKey(names=("j0", "j1", "j2"), normalization=Normalization.MIN_MAX)
    gripper = VectorKey(names=("grip",), unit="m", normalization=Normalization.MIN_MAX)
    return Embodiment(
        name="test_arm",
        tag="new_embodiment",
        fps=fps,
        state={"arm": arm, "gripper": gripper},
        action={"arm": arm, "gripper": gripper},
        video={"front": VideoKey(height=size[0], width=size[1])},
    )


def make_frames(embodiment: Embodiment, count: int, *, seed: int = 0, task: str = "lift the cube") -> list[Frame]:
    """Return `count` consecutive frames with seeded vectors; image i is plain gray of level 16 + 7 i mod 200."""
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(count):
        images = {
            key: np.full((video.height, video.width, 3), 16 + 7 * i % 200, np.uint8)
            for key, video in embodiment.video.items()
        }
        state = {key: rng.normal(size=vector.dim) for key, vector in embodiment.state.items()}
        action = {key: rng.normal(size=vector.dim) for key, vector in embodiment.action.items()}
        frames.append(Frame(round(i * 1e9 / embodiment.fps), state, action, images, task))
    return frames


def record_episode(folder: Path, embodiment: Embodiment, count: int) -> EpisodeDataset:
    """Write a dataset with one episode of `make_frames`, and open it."""
    from gr00t_training.dataset.reader import EpisodeDataset
    from gr00t_training.dataset.writer import DatasetWriter

    with DatasetWriter(folder, embodiment) as writer:
        episode = writer.start_episode("lift the cube")
        for frame in make_frames(embodiment, count):
            episode.add_frame(frame)
        episode.save()
    return EpisodeDataset(folder)


def make_checkpoint(
    folder: Path,
    embodiment: Embodiment,
    *,
    config: Gr00tConfig | None = None,
    max_shard_bytes: int = 10**9,
    seed: int = 0,
) -> Path:
    """Write a policy with seeded random weights; its statistics are those of values between -1 and 1.

    Args:
        folder: to make.
        embodiment: of the policy.
        config: sizes with the compact model's tokenizer; None: the compact model.
        max_shard_bytes: of a weight file.
        seed: of the weights.
    """
    import torch

    from gr00t_training.checkpoint import new_checkpoint, save_checkpoint
    from gr00t_training.dataset.statistics.compute import KeyStatistics
    from gr00t_training.model.gr00t import Gr00tModel

    def statistics(dim: int) -> KeyStatistics:
        one = np.ones(dim)
        return KeyStatistics(min=-one, max=one, mean=0 * one, std=one, q01=-one, q99=one)

    torch.manual_seed(seed)
    keys = {"state": embodiment.state, "action": embodiment.action}
    described = {kind: {key: statistics(vector.dim) for key, vector in keys[kind].items()} for kind in keys}
    checkpoint = new_checkpoint("n1_compact", embodiment, described)
    if config:
        checkpoint = dataclasses.replace(checkpoint, config=config)
    return save_checkpoint(folder, checkpoint, Gr00tModel(checkpoint.config), max_shard_bytes=max_shard_bytes)

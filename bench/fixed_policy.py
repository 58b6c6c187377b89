# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A policy without a model, for benches of what is around it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gr00t_test_support.builders import make_embodiment
from gr00t_training.embodiment import Embodiment, VideoKey
from gr00t_training.policy.policy_like import PolicyLike
from gr00t_training.types import ActionChunk, Continuation, Observation


def two_camera_arm(height: int = 480, width: int = 640) -> Embodiment:
    """Return a three-joint arm with a gripper and two cameras."""
    camera = VideoKey(height=height, width=width)
    return replace(make_embodiment(fps=20), video={"front": camera, "wrist": camera})


def make_observation(embodiment: Embodiment, seed: int = 0) -> Observation:
    """Return an observation with random images and the state at zero."""
    rng = np.random.default_rng(seed)
    images = {
        key: rng.integers(0, 256, (1, video.height, video.width, 3), dtype=np.uint8)
        for key, video in embodiment.video.items()
    }
    state = {key: np.zeros((1, vector.dim)) for key, vector in embodiment.state.items()}
    return Observation(images, state, "lift the cube")


class FixedPolicy(PolicyLike):
    """Answers the newest state at every step, after a fixed time without Python's lock, as a model on a device does."""

    def __init__(self, embodiment: Embodiment, infer_s: float = 0.0) -> None:
        """Take the robot, and the time of one answer."""
        self.embodiment = embodiment
        self.num_inferences = 0
        self._infer_s = infer_s

    def infer_batch(
        self, observations: Sequence[Observation], continuations: Sequence[Continuation | None] | None = None
    ) -> list[ActionChunk]:
        """Return the state as action, key by key where the widths agree, else zeros."""
        self.num_inferences += len(observations)
        if self._infer_s:
            time.sleep(self._infer_s)
        return [self._answer(observation) for observation in observations]

    def _answer(self, observation: Observation) -> ActionChunk:
        actions = {}
        for key in self.embodiment.action_keys:
            dim = self.embodiment.action[key].dim
            newest = observation.state[key][-1] if key in observation.state else np.zeros(dim)
            row = newest if newest.shape == (dim,) else np.zeros(dim)
            actions[key] = np.tile(row, (self.embodiment.action_horizon, 1))
        return ActionChunk(actions, observation.stamp_ns, self.embodiment.step_ns)

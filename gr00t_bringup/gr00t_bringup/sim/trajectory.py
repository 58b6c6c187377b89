# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Following of joint trajectories, in the manner of ros2_control's joint_trajectory_controller.

A trajectory replaces the one before it, starts from the positions commanded at that moment, moves linearly between its
points and holds the last one. Joints it does not name keep their command. Knows neither ROS nor MuJoCo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trajectory:
    """Way points of some joints."""

    joints: tuple[str, ...]
    due_s: np.ndarray  # (N,) strictly increasing, on the follower's clock
    positions: np.ndarray  # (N, len(joints)), radians

    def __post_init__(self) -> None:
        if len(set(self.joints)) != len(self.joints) or not self.joints:
            raise ValueError(f"trajectory: joint names {list(self.joints)} are empty or repeat themselves")
        if self.positions.ndim != 2 or self.positions.shape != (len(self.due_s), len(self.joints)):
            raise ValueError(
                f"trajectory: positions have shape {self.positions.shape}, "
                f"expected {len(self.due_s)} points of {len(self.joints)} joints"
            )
        if len(self.due_s) == 0:
            raise ValueError("trajectory: no points, expected at least one")
        if not (np.isfinite(self.due_s).all() and np.isfinite(self.positions).all()):
            raise ValueError("trajectory: a time or position is not finite")
        if np.any(np.diff(self.due_s) <= 0):
            raise ValueError("trajectory: time_from_start does not increase from point to point")


class TrajectoryFollower:
    """The positions to command at each instant."""

    def __init__(self, positions: Mapping[str, float]) -> None:
        """Hold `positions`, which name every joint there is."""
        self._held = dict(positions)
        self._trajectory: Trajectory | None = None
        self._start_s = 0.0

    def follow(self, trajectory: Trajectory, now_s: float) -> None:
        """Take up `trajectory` at `now_s` in place of the current one.

        Raises:
            ValueError: a joint is unknown; the current trajectory continues.
        """
        unknown = [name for name in trajectory.joints if name not in self._held]
        if unknown:
            raise ValueError(f"trajectory: unknown joint '{unknown[0]}', expected some of {', '.join(self._held)}")
        self._held = self.sample(now_s)
        self._trajectory = trajectory
        self._start_s = now_s

    def jump(self, positions: Sequence[float]) -> None:
        """Drop the trajectory and hold `positions`, in the order of the joints given at first.

        Raises:
            ValueError: their number is wrong or one is not finite.
        """
        if len(positions) != len(self._held):
            raise ValueError(
                f"command: got {len(positions)} positions, expected {len(self._held)} ({', '.join(self._held)})"
            )
        if not np.isfinite(positions).all():
            raise ValueError("command: a position is not finite")
        self._held = dict(zip(self._held, map(float, positions), strict=True))
        self._trajectory = None

    def sample(self, now_s: float) -> dict[str, float]:
        """Return the position of every joint to command at `now_s`."""
        positions = dict(self._held)
        if self._trajectory is None:
            return positions
        due_s = np.asarray(self._trajectory.due_s)
        for name, column in zip(self._trajectory.joints, self._trajectory.positions.T, strict=True):
            if due_s[0] > self._start_s:
                value = np.interp(now_s, [self._start_s, *due_s], [self._held[name], *column])
            else:  # the first point is due at once
                value = np.interp(now_s, due_s, column)
            positions[name] = float(value)
        return positions

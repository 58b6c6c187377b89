# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Limits of joints, and `limits.yaml`.

Every commanded channel needs a limit: one that is not named is refused at configure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from gr00t_training.settings import setting


@dataclass(frozen=True)
class JointLimit:
    """What one joint may do; for a rate (m/s, rad/s) the position is the rate, and its velocity is how it changes."""

    min: float = setting(description="Smallest position [unit of the action channel]; -.inf where endless.")
    max: float = setting(description="Largest position [unit of the action channel]; .inf where endless.")
    max_velocity: float = setting(
        description="Largest speed [unit of the action channel per second]; .inf: steps go through.", ge=1e-6
    )
    max_acceleration: float | None = setting(
        None, "Largest acceleration [unit of the action channel per second squared]; absent: any.", ge=1e-6
    )
    max_jerk: float | None = setting(
        None, "Largest jerk [unit of the action channel per second cubed]; absent: any.", ge=1e-6
    )
    endless: bool = setting(False, "Whether the joint turns without end: angles go the short way round.")

    def __post_init__(self) -> None:
        if not self.min < self.max:
            raise ValueError(f"min {self.min} is not below max {self.max}")
        if self.endless and (self.min, self.max) != (-math.inf, math.inf):
            raise ValueError(f"endless, but min is {self.min} and max {self.max}; expected -.inf and .inf")
        if self.max_jerk is not None and (self.max_acceleration is None or math.isinf(self.max_velocity)):
            raise ValueError("max_jerk needs max_acceleration and a finite max_velocity")


@dataclass(frozen=True)
class LimitsFile:
    """Content of `limits.yaml`."""

    joints: Mapping[str, JointLimit] = setting(
        default_factory=dict, description="Limits by action channel name; they replace those of a URDF."
    )
    acceleration_per_velocity: float | None = setting(
        None, "Acceleration limit of joints without one: this many times their max_velocity [1/s].", ge=1e-3, le=1e6
    )
    safe_pose: Mapping[str, float] = setting(
        default_factory=dict,
        description="Positions by channel that a latched stop leads to, within limits; other channels stand still.",
    )
    poses: Mapping[str, Mapping[str, float]] = setting(
        default_factory=dict,
        description="Named poses to move to: positions by channel, within limits; other channels stand still.",
    )

    def limits(self, urdf: Mapping[str, JointLimit] | None = None) -> dict[str, JointLimit]:
        """Return the limits by joint, of this file and of a URDF (`limits_from_urdf`)."""
        joints = {**(urdf or {}), **self.joints}
        factor = self.acceleration_per_velocity
        if factor is None:
            return joints
        return {name: _with_acceleration(limit, factor) for name, limit in joints.items()}

    def wider_than(self, urdf: Mapping[str, JointLimit]) -> dict[str, str]:
        """Return what this file allows beyond a URDF, a text per joint."""
        found = {}
        for name, limit in self.joints.items():
            other = urdf.get(name)
            if other is None:
                continue
            is_wider = limit.min < other.min or limit.max > other.max or limit.max_velocity > other.max_velocity
            if is_wider:
                found[name] = f"'{name}' {_range(limit)} (URDF: {_range(other)})"
        return found


class LimitKind(str, Enum):
    """Which limit changed a command."""

    POSITION = "position"
    VELOCITY = "velocity"
    ACCELERATION = "acceleration"
    JERK = "jerk"


def _range(limit: JointLimit) -> str:
    return f"{limit.min:g} to {limit.max:g} at {limit.max_velocity:g}"


def _with_acceleration(limit: JointLimit, factor: float) -> JointLimit:
    if limit.max_acceleration is not None or math.isinf(limit.max_velocity):
        return limit
    return replace(limit, max_acceleration=factor * limit.max_velocity)

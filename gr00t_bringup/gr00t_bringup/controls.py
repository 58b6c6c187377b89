# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Commands of a topic map, read back from their messages: what a driver does, and what a view shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gr00t_policy_node.safety.limits import JointLimit
from gr00t_recorder.topics.commands import TWIST_COMPONENTS, CommandConfig
from gr00t_recorder.topics.units import is_rate, si_factor
from gr00t_training.embodiment import Embodiment

ARRAY = "std_msgs/msg/Float64MultiArray"
POSE_COMMAND = "geometry_msgs/msg/PoseStamped"  # needs the kinematics of the robot
TOLERANCE = 1e-6  # of a command at a limit


@dataclass(frozen=True)
class Control:
    """A topic or action with commands, and the channels that it moves."""

    config: CommandConfig
    names: tuple[str, ...]  # in the message, empty where it has none
    channels: tuple[str, ...]
    factors: tuple[float, ...]  # from the message to the embodiment's unit
    limits: Mapping[str, JointLimit]
    mode: str  # position or rate

    def describe(self) -> str:
        """Return one line for the table."""
        joints = ", ".join(self.names or self.channels)
        return f"takes {self.config.topic} ({self.config.type}): {self.mode} of {joints}"

    def read(self, command: Any) -> dict[str, float]:
        """Return the commanded values of a message or goal by channel, in units of the embodiment.

        Raises:
            ValueError: as for `targets`, or a trajectory has no point.
        """
        return self.targets(*_content(self, command))

    def targets(self, values: Sequence[float], names: Sequence[str] = ()) -> dict[str, float]:
        """Return the commanded values by channel, in units of the embodiment.

        Args:
            values: of the message.
            names: of the message, where it has some.

        Raises:
            ValueError: a driver would refuse it: other joints, not finite, outside the limits.
        """
        if names and sorted(names) != sorted(self.names):
            raise ValueError(f"joints are {', '.join(names)}, the controller has {', '.join(self.names)}")
        if len(values) != len(self.channels):
            raise ValueError(f"{len(values)} values for {len(self.channels)} joints ({', '.join(self.channels)})")
        order = [list(names).index(name) for name in self.names] if names else range(len(values))
        found = {}
        for channel, factor, place in zip(self.channels, self.factors, order, strict=True):
            value, limit = factor * values[place], self.limits.get(channel)
            if not math.isfinite(value):
                raise ValueError(f"'{channel}' is {value}")
            if limit is not None and not limit.min - TOLERANCE <= value <= limit.max + TOLERANCE:
                raise ValueError(f"'{channel}' is {value:g}, its limits are {limit.min:g} to {limit.max:g}")
            found[channel] = value
        return found


def control_of(config: CommandConfig, embodiment: Embodiment, limits: Mapping[str, JointLimit]) -> Control:
    """Return how to read a command of any type but a pose; `limits` are enforced, empty: any value is taken."""
    keys = [embodiment.action[key] for key in config.keys or embodiment.action_keys]
    channels = tuple(name for key in keys for name in key.names)
    is_array, is_gripper = config.type == ARRAY, config.type.endswith("GripperCommand")
    names = config.names or (TWIST_COMPONENTS if "Twist" in config.type else channels)
    return Control(
        config=config,
        names=() if is_array or is_gripper else names,
        channels=channels,
        factors=tuple(1.0 if is_array else 1.0 / si_factor(key.unit) for key in keys for _ in key.names),
        limits=limits,
        mode="rate" if is_rate(keys[0].unit) else "position",
    )


def _content(control: Control, command: Any) -> tuple[Sequence[float], Sequence[str]]:
    """Return values and joint names of a message or goal; no names where it has none."""
    kind = control.config.type.rpartition("/")[2]
    if kind in ("JointTrajectory", "FollowJointTrajectory"):
        trajectory = getattr(command, "trajectory", command)
        if not trajectory.points:
            raise ValueError("the trajectory has no point")
        return trajectory.points[-1].positions, trajectory.joint_names
    if kind == "JointState":
        return command.velocity if control.mode == "rate" else command.position, command.name
    if kind == "GripperCommand":
        return [command.command.position], ()
    if kind == "Float64MultiArray":
        return command.data, ()
    twist = getattr(command, "twist", command)
    components = [name.split(".") for name in control.names]
    return [getattr(getattr(twist, part), axis) for part, axis in components], ()

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Encode the channels of one output as a command message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rclpy.time import Time

from gr00t_policy_node.ros.messages import duration
from gr00t_recorder.ros.ingest import message_class
from gr00t_recorder.topics.commands import TWIST_COMPONENTS, CommandConfig, pose_form
from gr00t_recorder.topics.layout import Turn, pose_turns
from gr00t_recorder.topics.units import is_rate, si_factor
from gr00t_training.embodiment import Pose, Rotation, VectorKey
from gr00t_training.rotations import WIDTHS, convert, from_matrix, to_matrix


class Channels:
    """The part of a command that one output carries."""

    def __init__(self, config: CommandConfig, keys: Mapping[str, VectorKey]) -> None:
        """`keys` are the controller's action keys in order."""
        chosen = config.keys or tuple(keys)
        starts = dict(zip(keys, np.cumsum([0, *(vector.dim for vector in keys.values())]).tolist(), strict=False))
        self._places = [start + i for key in chosen for start in [starts[key]] for i in range(keys[key].dim)]
        self.vectors = [keys[key] for key in chosen]
        self.names = list(config.names) or [name for vector in self.vectors for name in vector.names]
        self.is_rate = is_rate(self.vectors[0].unit)
        self._factors = np.array([factor for vector in self.vectors for factor in [_factor(vector)] * vector.dim])

    def raw(self, command: np.ndarray) -> np.ndarray:
        """Return the output's values (D,) in units of the embodiment."""
        return command[self._places]

    def si(self, command: np.ndarray) -> np.ndarray:
        """Return the output's values (D,) in SI units; units that are not known stay."""
        return command[self._places] * self._factors


class TrajectoryEncoder:
    """JointTrajectory of one point, which is reached within a control period."""

    def __init__(self, config: CommandConfig, channels: Channels, period_ns: int) -> None:
        """`period_ns` is the time to the point."""
        self._types = _classes("trajectory_msgs/msg", "JointTrajectory", "JointTrajectoryPoint")
        self._channels, self._frame_id, self._period_ns = channels, config.frame_id, period_ns

    def __call__(self, command: np.ndarray, now_ns: int, time_from_start_ns: int | None = None) -> Any:
        """Return the message; another time to the point for a goal."""
        trajectory_class, point_class = self._types
        point = point_class(positions=self._channels.si(command).tolist())
        point.time_from_start = duration(self._period_ns if time_from_start_ns is None else time_from_start_ns)
        trajectory = trajectory_class(joint_names=self._channels.names, points=[point])
        # stamp zero: start on arrival. With a stamp the point would be in the past when the message is late, and
        # controllers refuse that
        trajectory.header.frame_id = self._frame_id
        return trajectory


class ArrayEncoder:
    """Float64MultiArray, in the units of the embodiment."""

    def __init__(self, channels: Channels) -> None:
        """Prepare for the channels."""
        (self._type,) = _classes("std_msgs/msg", "Float64MultiArray")
        self._channels = channels

    def __call__(self, command: np.ndarray, now_ns: int) -> Any:
        """Return the message."""
        return self._type(data=self._channels.raw(command).tolist())


class JointStateEncoder:
    """JointState: positions, or velocities where the channels are rates."""

    def __init__(self, config: CommandConfig, channels: Channels) -> None:
        """Prepare for the channels."""
        (self._type,) = _classes("sensor_msgs/msg", "JointState")
        self._channels, self._frame_id = channels, config.frame_id

    def __call__(self, command: np.ndarray, now_ns: int) -> Any:
        """Return the message."""
        values = self._channels.si(command).tolist()
        kind = "velocity" if self._channels.is_rate else "position"
        return _stamped(self._type(name=self._channels.names, **{kind: values}), now_ns, self._frame_id)


class TwistEncoder:
    """Twist or TwistStamped; components that no channel is are zero."""

    def __init__(self, config: CommandConfig, channels: Channels) -> None:
        """Prepare for the channels."""
        self._types = _classes("geometry_msgs/msg", "Twist", "TwistStamped")
        self._channels, self._frame_id = channels, config.frame_id
        self._is_stamped = config.type.endswith("TwistStamped")
        self._components = [name.split(".") for name in config.names or TWIST_COMPONENTS]

    def __call__(self, command: np.ndarray, now_ns: int) -> Any:
        """Return the message."""
        twist_class, stamped_class = self._types
        twist = twist_class()
        for (kind, axis), value in zip(self._components, self._channels.si(command).tolist(), strict=True):
            setattr(getattr(twist, kind), axis, value)
        return _stamped(stamped_class(twist=twist), now_ns, self._frame_id) if self._is_stamped else twist


class PoseEncoder:
    """PoseStamped, of any form of pose or rotation."""

    def __init__(self, config: CommandConfig, channels: Channels) -> None:
        """Prepare for the channels."""
        (self._type,) = _classes("geometry_msgs/msg", "PoseStamped")
        self._channels, self._frame_id = channels, config.frame_id
        form = pose_form(channels.vectors)
        turn = pose_turns(form)[0] if isinstance(form, Pose) else Turn(tuple(range(3, 3 + WIDTHS[form])), form)
        self._turning, self._form = list(turn.channels), turn.form
        self._moving = [i for i in range(sum(vector.dim for vector in channels.vectors)) if i not in turn.channels][:3]

    def __call__(self, command: np.ndarray, now_ns: int) -> Any:
        """Return the message; ValueError when the rotation has no length."""
        values = self._channels.si(command)
        rotation, form = values[self._turning], self._form
        if form is Rotation.MATRIX:
            # limits by channel leave no exact matrix; two of its rows make one again
            rotation, form = convert(rotation, form, Rotation.ROTATION_6D), Rotation.ROTATION_6D
        quaternion = from_matrix(to_matrix(rotation, form), Rotation.QUATERNION)
        message = _stamped(self._type(), now_ns, self._frame_id)
        for name, value in zip("xyz", values[self._moving].tolist(), strict=True):
            setattr(message.pose.position, name, value)
        for name, value in zip("wxyz", quaternion.tolist(), strict=True):
            setattr(message.pose.orientation, name, value)
        return message


def _factor(vector: VectorKey) -> float:
    # rotations have forms instead of units, and positions of poses are in meters
    return 1.0 if vector.rotation is not None or vector.pose is not None else si_factor(vector.unit)


def _classes(package: str, *names: str) -> tuple[Any, ...]:
    return tuple(message_class(f"{package}/{name}") for name in names)


def _stamped(message: Any, now_ns: int, frame_id: str) -> Any:
    message.header.stamp = Time(nanoseconds=now_ns).to_msg()
    message.header.frame_id = frame_id
    return message

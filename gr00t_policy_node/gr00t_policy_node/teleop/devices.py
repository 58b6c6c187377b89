# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Turn what devices report into requests for the robot's channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gr00t_policy_node.control.person import Request
from gr00t_policy_node.teleop.teleop_file import Gamepad, Keyboard, Leader, PoseTool
from gr00t_training.embodiment import Rotation
from gr00t_training.rotations import convert, from_matrix, to_matrix


class LeaderDevice:
    """The follower's targets from the joints of a leader, which may come in several messages."""

    def __init__(self, settings: Leader) -> None:
        """Begin without a position."""
        self._settings = settings
        # joint of each channel, with its topic: two arms may have the same names
        self._places = {
            channel: (setting.topic or settings.topic, setting.joint or channel)
            for channel, setting in settings.joints.items()
        }
        self._positions: dict[tuple[str, str], tuple[float, int]] = {}  # of the leader's joints, and their stamps
        self._targets: dict[str, float] = {}  # of channels, as they were sent

    def request(
        self, names: Sequence[str], positions: Sequence[float], stamp_ns: int, topic: str = ""
    ) -> Request | None:
        """Take a message; return what to ask for, None if it has none of the joints.

        Args:
            names: of the joints in the message.
            positions: one each.
            stamp_ns: of the message.
            topic: that it came on; empty: that of the leader.

        Raises:
            ValueError: joints are missing, or too old.
        """
        topic = topic or self._settings.topic
        needed = [joint for place, joint in self._places.values() if place == topic]
        if len(names) != len(positions):
            raise ValueError(f"{len(positions)} positions for {len(names)} joints; expected one each")
        given = {name: value for name, value in zip(names, positions, strict=True) if name in needed}
        if not given:
            if any(place == topic for place, _ in self._positions):
                return None  # of another device on the same topic
            raise ValueError(f"the leader sends {_listed(names)}, expected {_listed(needed)}")
        self._positions |= {(topic, name): (value, stamp_ns) for name, value in given.items()}
        missing = [place for place in self._places.values() if place not in self._positions]
        if missing and missing[0][0] != topic:
            raise ValueError(f"nothing of the leader has come on {missing[0][0]} yet; check that arm")
        if missing:
            raise ValueError(f"joint '{missing[0][1]}' of the leader is missing; it sends {_listed(names)}")
        for (_, name), (_, at_ns) in self._positions.items():
            if abs(stamp_ns - at_ns) > round(self._settings.max_age_s * 1e9):
                age_s = abs(stamp_ns - at_ns) / 1e9
                raise ValueError(
                    f"joint '{name}' of the leader is {age_s:.3f} s old (limit {self._settings.max_age_s:g} s)"
                )
        for channel, setting in self._settings.joints.items():
            value = setting.scale * self._positions[self._places[channel]][0] + setting.offset
            before = self._targets.get(channel)
            if before is None or not abs(value - before) <= setting.deadband:  # or not a number
                self._targets[channel] = value
        return Request(list(self._targets), list(self._targets.values()))


class GamepadDevice:
    """Rates from sticks and buttons."""

    def __init__(self, settings: Gamepad) -> None:
        """Prepare."""
        self._settings = settings

    def request(self, axes: Sequence[float], buttons: Sequence[int]) -> Request:
        """Return what to ask for.

        Raises:
            ValueError: the gamepad has not so many axes or buttons.
        """
        rates, velocities = {}, {}
        for channel, axis in self._settings.axes.items():
            if axis.axis >= len(axes):
                raise ValueError(f"'{channel}' needs axis {axis.axis}, the gamepad has {len(axes)}")
            deflection = axes[axis.axis]
            beyond = max(abs(deflection) - axis.deadband, 0.0) / (1.0 - axis.deadband)  # starts at zero
            value = axis.rate * (beyond if deflection > 0.0 else -beyond)
            (velocities if axis.is_velocity else rates)[channel] = value
        for channel, pair in self._settings.buttons.items():
            if max(pair.plus, pair.minus) >= len(buttons):
                raise ValueError(
                    f"'{channel}' needs button {max(pair.plus, pair.minus)}, the gamepad has {len(buttons)}"
                )
            is_back = pair.minus >= 0 and bool(buttons[pair.minus])
            rates[channel] = pair.rate * (bool(buttons[pair.plus]) - is_back)
        return _request(velocities, rates)


class KeyboardDevice:
    """Rates from keys: a terminal says when one is pressed, not when it is released."""

    ENGAGE = " "

    def __init__(self, settings: Keyboard) -> None:
        """Begin without a pressed key."""
        self._settings = settings
        self._pressed_s: dict[str, float] = {}

    def press(self, key: str, now_s: float) -> None:
        """Take a character of the terminal."""
        if key in self._settings.keys:
            self._pressed_s[key] = now_s

    def request(self, now_s: float) -> Request:
        """Return what to ask for at a time."""
        rates = {key.channel: 0.0 for key in self._settings.keys.values()}
        for name, pressed_s in self._pressed_s.items():
            if now_s - pressed_s <= self._settings.hold_s:
                rates[self._settings.keys[name].channel] += self._settings.keys[name].rate
        return _request({}, rates)


@dataclass(frozen=True)
class ToolPose:
    """A pose of a tool or of the robot, in the same frame."""

    position_m: np.ndarray  # (3,)
    quaternion: np.ndarray  # (4,) w x y z


class PoseDevice:
    """The robot's pose from that of a tool: as it is, or moved from where both were when the person engaged."""

    def __init__(self, settings: PoseTool) -> None:
        """Begin without an engaged person."""
        self._settings = settings
        self._start: tuple[ToolPose, ToolPose] | None = None  # of tool and robot

    def request(self, tool: ToolPose, robot: ToolPose | None, *, is_engaged: bool) -> Request:
        """Return what to ask for.

        Args:
            tool: newest pose of the tool.
            robot: newest pose of the robot; None: not known.
            is_engaged: the person wants control.

        Raises:
            ValueError: a pose is not finite or a rotation without length, or the robot's pose is needed and not known.
        """
        target = tool
        if self._settings.robot_topic:
            self._start = self._begun(tool, robot) if is_engaged else None
            if self._start is None:
                return Request()
            target = self._moved(tool, *self._start)
        if not np.isfinite(target.position_m).all() or not np.isfinite(target.quaternion).all():
            raise ValueError("a pose is not finite")
        rotation: list[float] = []
        if self._settings.rotation:
            rotation = convert(target.quaternion, Rotation.QUATERNION, self._settings.rotation_form).tolist()
        names = [*self._settings.position, *self._settings.rotation]
        return Request(names, [*target.position_m.tolist(), *rotation])

    def _begun(self, tool: ToolPose, robot: ToolPose | None) -> tuple[ToolPose, ToolPose]:
        if self._start is not None:
            return self._start
        if robot is None:
            raise ValueError(f"the robot's pose on '{self._settings.robot_topic}' is missing or old")
        return tool, robot

    def _moved(self, tool: ToolPose, tool_start: ToolPose, robot_start: ToolPose) -> ToolPose:
        way_m = self._settings.scale * (tool.position_m - tool_start.position_m)
        matrices = [to_matrix(each.quaternion, Rotation.QUATERNION) for each in (tool, tool_start, robot_start)]
        turned = matrices[0] @ matrices[1].T @ matrices[2]
        return ToolPose(robot_start.position_m + way_m, from_matrix(turned, Rotation.QUATERNION))


def _request(positions: Mapping[str, float], rates: Mapping[str, float]) -> Request:
    return Request(list(positions), list(positions.values()), list(rates), list(rates.values()))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "no joint"

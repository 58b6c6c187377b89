# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Outputs: the message and action types that command a robot, and the keys that each of them can carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gr00t_recorder.topics.units import is_rate, unit_factor
from gr00t_training.embodiment import Pose, Rotation, VectorKey
from gr00t_training.settings import setting

# With the settings of `CommandConfig` that each of them has in addition to topic, type and keys.
COMMAND_TYPES: Mapping[str, tuple[str, ...]] = {
    "trajectory_msgs/msg/JointTrajectory": ("names", "frame_id"),
    "std_msgs/msg/Float64MultiArray": (),
    "sensor_msgs/msg/JointState": ("names", "frame_id"),
    "geometry_msgs/msg/Twist": ("names",),
    "geometry_msgs/msg/TwistStamped": ("names", "frame_id"),
    "geometry_msgs/msg/PoseStamped": ("frame_id",),
    "control_msgs/action/FollowJointTrajectory": ("names", "frame_id", "goal_period_s"),
    "control_msgs/action/GripperCommand": ("goal_period_s", "max_effort", "min_change"),
}
TWIST_COMPONENTS = tuple(f"{kind}.{axis}" for kind in ("linear", "angular") for axis in "xyz")
_RATE_TYPES = ("geometry_msgs/msg/Twist", "geometry_msgs/msg/TwistStamped")
_RATE_OR_POSITION_TYPES = ("std_msgs/msg/Float64MultiArray", "sensor_msgs/msg/JointState")


@dataclass(frozen=True)
class CommandConfig:
    """Where the policy's actions go.

    Messages are in SI units: channels in deg, mm and similar units are converted, except in a Float64MultiArray.
    """

    topic: str = setting(description="Name of the topic or action; relative names follow the node's namespace.")
    type: str = setting(description=f"How to command: {', '.join(COMMAND_TYPES)}.")
    keys: tuple[str, ...] = setting((), "Action keys in order; empty: all that the model produces.")
    names: tuple[str, ...] = setting(
        (),
        "Names in the message, one per channel: joints (empty: the embodiment's names), or components of a twist like "
        "[linear.x, angular.z] (empty: all six).",
    )
    frame_id: str = setting("", "Frame in the header; a PoseStamped needs one.")
    goal_period_s: float | None = setting(
        None,
        "Actions: shortest time between two goals, and how long a FollowJointTrajectory takes to reach the commanded "
        "positions [s]; absent: 0.1.",
        ge=0.01,
        le=2.0,
    )
    max_effort: float | None = setting(
        None, "GripperCommand: greatest effort [N or Nm]; absent: 0, which means the gripper's own.", ge=0.0
    )
    min_change: float | None = setting(
        None, "GripperCommand: smallest change that causes a new goal [m or rad]; absent: 0.001.", ge=0.0
    )

    def __post_init__(self) -> None:
        if self.type not in COMMAND_TYPES:
            raise ValueError(f"type '{self.type}' cannot be commanded; expected one of {', '.join(COMMAND_TYPES)}")
        for name in ("names", "frame_id", "goal_period_s", "max_effort", "min_change"):
            if getattr(self, name) not in ((), "", None) and name not in COMMAND_TYPES[self.type]:
                having = [kind for kind, settings in COMMAND_TYPES.items() if name in settings]
                raise ValueError(f"'{name}' is not for {self.type}, only for {', '.join(having)}; leave it out")
        if self.type == "geometry_msgs/msg/PoseStamped" and not self.frame_id:
            raise ValueError("a PoseStamped needs 'frame_id', the frame that the action's poses are in")
        for name in self.names:
            if self.type in _RATE_TYPES and name not in TWIST_COMPONENTS:
                raise ValueError(f"names: '{name}' is not a component of a twist ({', '.join(TWIST_COMPONENTS)})")
        for field in ("keys", "names"):
            values = getattr(self, field)
            repeated = [value for value in values if values.count(value) > 1]
            if repeated:
                raise ValueError(f"{field}: duplicate '{repeated[0]}'")

    def check(self, action: Mapping[str, VectorKey]) -> None:
        """Refuse keys that this output cannot carry.

        Args:
            action: all that the model produces, in order.

        Raises:
            ValueError: names the key, what it is and what was expected.
        """
        for key in self.keys:
            if key not in action:
                raise ValueError(f"the model does not produce action key '{key}' ({', '.join(action)})")
        chosen = {key: action[key] for key in self.keys or action}
        dim = sum(vector.dim for vector in chosen.values())
        if self.names and len(self.names) != dim:
            raise ValueError(f"names has {len(self.names)} entries, its keys {', '.join(chosen)} have {dim} channels")
        rates = [key for key, vector in chosen.items() if is_rate(vector.unit)]
        others = [key for key in chosen if key not in rates]
        kind = self.type.rsplit("/", 1)[1]
        if self.type in _RATE_TYPES:
            self._check_twist(chosen, others, dim)
        elif rates and self.type not in _RATE_OR_POSITION_TYPES:
            raise ValueError(
                f"key '{rates[0]}' is in {chosen[rates[0]].unit}, a rate, and {kind} takes positions; expected "
                f"{' or '.join((*_RATE_OR_POSITION_TYPES, *_RATE_TYPES))}"
            )
        elif kind == "JointState" and rates and others:
            raise ValueError(
                f"'{rates[0]}' is a rate and '{others[0]}' is none, a JointState has either; give each a command"
            )
        elif kind == "GripperCommand" and dim != 1:
            raise ValueError(f"its keys {', '.join(chosen)} have {dim} channels, a GripperCommand has one; set 'keys'")
        elif kind == "PoseStamped":
            pose_form(list(chosen.values()))

    def _check_twist(self, chosen: Mapping[str, VectorKey], others: Sequence[str], dim: int) -> None:
        if others:
            raise ValueError(
                f"key '{others[0]}' is in {chosen[others[0]].unit}, and a twist takes rates (m/s, rad/s); a pose goes "
                "out as geometry_msgs/msg/PoseStamped"
            )
        if not self.names and dim != len(TWIST_COMPONENTS):
            raise ValueError(
                f"its keys {', '.join(chosen)} have {dim} channels, a twist has 6; set 'names' to the components that "
                "they are, like [linear.x, angular.z]"
            )
        units = [vector.unit for vector in chosen.values() for _ in vector.names]
        for name, unit in zip(self.names or TWIST_COMPONENTS, units, strict=True):
            # a key has one unit: what moves and turns at once is named by either of these two
            if unit not in ("m/s", "rad/s"):
                unit_factor(unit, "m/s" if name.startswith("linear") else "rad/s")


def pose_form(vectors: Sequence[VectorKey]) -> Pose | Rotation:
    """Return the form of one key that is a pose, or of the rotation where a position's and a rotation's key make one.

    Raises:
        ValueError: they are neither; says what is expected.
    """
    if len(vectors) == 1 and vectors[0].pose is not None:
        return vectors[0].pose
    if len(vectors) == 2 and vectors[0].dim == 3 and vectors[0].rotation is None and vectors[1].rotation is not None:
        return vectors[1].rotation
    raise ValueError(
        "a PoseStamped needs 'keys' with one key that declares its 'pose', or with two: a position of three channels "
        "and then a key that declares its 'rotation'"
    )

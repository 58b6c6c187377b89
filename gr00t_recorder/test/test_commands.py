# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Which commands a topic map may ask for; every wrong one is refused when the map is loaded."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from gr00t_recorder.topics.bindings import TopicMap, load_topic_map
from gr00t_recorder.topics.commands import COMMAND_TYPES
from gr00t_recorder.topics.units import si_factor
from gr00t_test_support.builders import make_embodiment
from gr00t_training.embodiment import Embodiment, Pose, Rotation, VectorKey, to_mapping
from gr00t_training.errors import ConfigError

TRAJECTORY, ARRAY, JOINT_STATE, TWIST, TWIST_STAMPED, POSE, FOLLOW, GRIPPER = COMMAND_TYPES


def make_robot() -> Embodiment:
    """Return an arm with a gripper on a base, with hand poses in several forms."""
    action = {
        **make_embodiment().action,
        "base": VectorKey(names=("vx", "wz"), unit="m/s"),
        "wheels": VectorKey(names=("left", "right"), unit="rpm"),
        "twist": VectorKey(names=tuple(f"v{i}" for i in range(6)), unit="m/s"),
        "hand": VectorKey(names=tuple(f"h{i}" for i in range(9)), pose=Pose.XYZ_ROTATION_6D),
        "place": VectorKey(names=("x", "y", "z"), unit="m"),
        "turn": VectorKey(names=("qw", "qx", "qy", "qz"), rotation=Rotation.QUATERNION),
    }
    return dataclasses.replace(make_embodiment(), action=action)


def load(folder: Path, *commands: dict[str, Any]) -> TopicMap:
    (folder / "embodiment.json").write_text(json.dumps(to_mapping(make_robot())))
    joints = {"topic": "joint_states", "type": "sensor_msgs/msg/JointState"}
    front = {"topic": "front", "type": "sensor_msgs/msg/Image"}
    content = {
        "embodiment": "embodiment.json",
        "streams": {"joints": joints, "front": front},
        "state": {"arm": {"stream": "joints"}, "gripper": {"stream": "joints"}},
        "video": {"front": {"stream": "front"}},
        "commands": commands,
    }
    (folder / "topics.yaml").write_text(json.dumps(content))
    return load_topic_map(folder / "topics.yaml")[0]


@pytest.mark.parametrize(
    "command",
    [
        {"type": TRAJECTORY, "keys": ["arm", "gripper"], "names": ["a", "b", "c", "d"]},
        {"type": ARRAY},
        {"type": JOINT_STATE, "keys": ["arm"]},
        {"type": JOINT_STATE, "keys": ["wheels"]},
        {"type": TWIST, "keys": ["base"], "names": ["linear.x", "angular.z"]},
        {"type": TWIST_STAMPED, "keys": ["twist"], "frame_id": "tool0"},
        {"type": TWIST, "keys": ["wheels"], "names": ["angular.x", "angular.z"]},
        {"type": POSE, "keys": ["hand"], "frame_id": "base_link"},
        {"type": POSE, "keys": ["place", "turn"], "frame_id": "base_link"},
        {"type": FOLLOW, "keys": ["arm"], "goal_period_s": 0.2},
        {"type": GRIPPER, "keys": ["gripper"], "max_effort": 40.0, "min_change": 0.002},
    ],
)
def test_what_fits_is_taken(command: dict[str, Any], tmp_path: Path) -> None:
    assert load(tmp_path, {"topic": "out", **command}).commands[0].type == command["type"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ({"type": "std_msgs/msg/String"}, "type 'std_msgs/msg/String' cannot be commanded; expected one of trajectory"),
        ({"type": ARRAY, "frame_id": "base"}, "'frame_id' is not for std_msgs/msg/Float64MultiArray, only for traject"),
        ({"type": TRAJECTORY, "max_effort": 1.0}, "'max_effort' is not for .*, only for control_msgs/action/Gripper"),
        ({"type": TRAJECTORY, "goal_period_s": 1.0}, "'goal_period_s' is not for trajectory_msgs/msg/JointTrajectory"),
        ({"type": FOLLOW, "goal_period_s": 0.0}, "goal_period_s is 0.0, expected 0.01 to 2.0"),
        ({"type": GRIPPER, "min_change": -1.0}, "min_change is -1.0, expected at least 0"),
        ({"type": TRAJECTORY, "keys": ["leg"]}, "the model does not produce action key 'leg' .arm, gripper, base"),
        ({"type": ARRAY, "keys": ["arm", "arm"]}, "keys: duplicate 'arm'"),
        ({"type": TRAJECTORY, "keys": ["arm"], "names": ["a", "b"]}, "names has 2 entries, its keys arm have 3 chan"),
        ({"type": TRAJECTORY, "keys": ["arm", "base"]}, "'base' is in m/s, a rate, and JointTrajectory takes posit"),
        ({"type": FOLLOW, "keys": ["wheels"]}, "'wheels' is in rpm, a rate, and FollowJointTrajectory takes posit"),
        ({"type": GRIPPER, "keys": ["wheels"]}, "'wheels' is in rpm, a rate, and GripperCommand takes positions"),
        ({"type": JOINT_STATE, "keys": ["arm", "base"]}, "'base' is a rate and 'arm' is none, a JointState has either"),
        ({"type": GRIPPER, "keys": ["arm"]}, "keys arm have 3 channels, a GripperCommand has one; set 'keys'"),
        ({"type": TWIST, "keys": ["hand"]}, "'hand' is in rad, and a twist takes rates .* a pose goes out as geometry"),
        ({"type": TWIST, "keys": ["base"]}, "keys base have 2 channels, a twist has 6; set 'names'"),
        ({"type": TWIST, "keys": ["base"], "names": ["linear.x", "yaw"]}, "names: 'yaw' is not a component of a twist"),
        (
            {"type": TWIST, "keys": ["base"], "names": ["linear.x", "linear.x"]},
            "names: duplicate 'linear.x'",
        ),
        (
            {"type": TWIST, "keys": ["wheels"], "names": ["linear.x", "angular.z"]},
            r"unit 'rpm' \(angular velocity\) cannot become 'm/s'",
        ),
        ({"type": POSE, "keys": ["hand"]}, "a PoseStamped needs 'frame_id', the frame that the action's poses are in"),
        ({"type": POSE, "keys": ["place"], "frame_id": "b"}, "a PoseStamped needs 'keys' with one key that declares"),
        ({"type": POSE, "keys": ["turn", "place"], "frame_id": "b"}, "or with two: a position of three channels"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_reason(command: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, {"topic": "out", **command})
    assert "topics.yaml" in str(caught.value)
    assert "commands.0" in str(caught.value)


def test_two_commands_of_one_name_are_refused(tmp_path: Path) -> None:
    arm, gripper = ({"topic": "out", "type": ARRAY, "keys": [key]} for key in ("arm", "gripper"))
    with pytest.raises(ConfigError, match=r"commands.1 \(out\): duplicate name"):
        load(tmp_path, arm, gripper)


def test_lengths_angles_and_their_rates_have_a_factor_to_si_units() -> None:
    assert [si_factor(unit) for unit in ("rad", "mm", "m/s", "%", "unknown")] == [1.0, 0.001, 1.0, 1.0, 1.0]
    assert 180.0 * si_factor("deg") == pytest.approx(3.14159265)
    assert 60.0 * si_factor("rpm") == pytest.approx(6.28318531)

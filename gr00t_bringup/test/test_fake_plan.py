# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a fake robot derives from a topic map, and how it moves; without ROS."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gr00t_bringup.fake.faults import Fault, can_swap, joint_values, swapped
from gr00t_bringup.fake.pictures import BAR, MARK, Picture
from gr00t_bringup.fake.plan import RobotPlan, load_plan
from gr00t_bringup.fake.plant import Plant
from gr00t_bringup.robots import robot_file
from gr00t_policy_node.onboard.robot_names import shipped_robots
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_recorder.topics.vector_codec import VectorCodec
from gr00t_training.errors import ConfigError
from gr00t_training.types import KeyKind

ROBOTS = shipped_robots()


def plan_of(robot: str) -> RobotPlan:
    return load_plan(*(robot_file(robot, f"{name}.yaml") for name in ("topics", "limits", "driver")))


@pytest.mark.parametrize("robot", ROBOTS)
def test_messages_of_every_robot_are_read_back_by_its_topic_map(robot: str) -> None:
    plan, now_s = plan_of(robot), 12.3
    plant = Plant(plan, now_s)
    topic_map, embodiment = load_topic_map(robot_file(robot, "topics.yaml"))
    for kind, bindings in ((KeyKind.STATE, topic_map.state), (KeyKind.ACTION, topic_map.action)):
        for key, binding in bindings.items():
            stream = plan.vectors.get(binding.stream)
            if stream is None:
                assert kind is KeyKind.ACTION  # it records what is commanded
                continue
            names, values = joint_values(stream, plant.numbers(stream, now_s), Fault.NONE)
            message = SimpleNamespace(name=names, position=values, data=values)
            vector = embodiment.vectors(kind)[key]
            channels = VectorCodec(key, stream.config.type, binding, vector).decode(message)
            assert channels is not None and len(channels.indices) == vector.dim
            expected = [plant.leader(n, now_s) if stream.is_leader else plan.start[n] for n in vector.names]
            np.testing.assert_allclose(channels.values, expected, atol=1e-9)


@pytest.mark.parametrize("robot", ROBOTS)
def test_every_commanded_joint_has_one_controller_limits_and_a_start_within_them(robot: str) -> None:
    plan = plan_of(robot)
    commanded = [name for key in plan.embodiment.action_keys for name in plan.embodiment.action[key].names]
    moved = [name for control in plan.controls for name in control.channels]
    assert sorted(moved) == sorted(commanded) == sorted(plan.limits)
    assert all(plan.limits[name].min <= plan.start[name] <= plan.limits[name].max for name in commanded)
    assert all(control.describe() in plan.describe() for control in plan.controls)
    for control in plan.controls:
        at_start = [plan.start[name] / factor for name, factor in zip(control.channels, control.factors, strict=True)]
        assert control.targets(at_start, control.names) == {name: plan.start[name] for name in control.channels}


def test_files_of_robots_are_short_and_say_where_their_values_come_from() -> None:
    for robot in ROBOTS:
        for name in ("topics.yaml", "limits.yaml", "driver.yaml"):
            lines = robot_file(robot, name).read_text().splitlines()
            assert len(lines) < 60, f"{robot}/{name}"
            assert lines[2].startswith("# "), f"{robot}/{name} begins without a source"


EMBODIMENT = """\
name: tiny
tag: new_embodiment
fps: 10
state: {arm: {names: [a, b], unit: rad}, finger: {names: [f], unit: mm}}
action: {speed: {names: [a], unit: rad/s}, arm: {names: [b], unit: rad}, finger: {names: [f], unit: mm}}
video: {front: {height: 32, width: 48}}
"""
TOPICS = """\
embodiment: tiny.yaml
streams:
  joints: {topic: joint_states, type: sensor_msgs/msg/JointState}
  bare: {topic: fingers, type: std_msgs/msg/Float64MultiArray, stamp: receive}
  front: {topic: image, type: sensor_msgs/msg/Image}
state:
  arm: {stream: joints, unit: deg, offset: 0.5}
  finger: {stream: bare, start: 2}
video: {front: {stream: front}}
commands:
  - {topic: speeds, type: sensor_msgs/msg/JointState, keys: [speed], names: [wheel]}
  - {topic: rest, type: trajectory_msgs/msg/JointTrajectory, keys: [arm, finger]}
"""
LIMITS = "joints: {a: {min: -1, max: 1, max_velocity: 1}, b: {min: 0.2, max: 2, max_velocity: 1}}\n"


def tiny(folder: Path, topics: str = TOPICS, driver: str = "lag_s: 0.2") -> RobotPlan:
    for name, text in (("tiny", EMBODIMENT), ("topics", topics), ("limits", LIMITS), ("driver", driver)):
        (folder / f"{name}.yaml").write_text(text)
    return load_plan(folder / "topics.yaml", folder / "limits.yaml", folder / "driver.yaml")


def test_units_places_and_rates_of_a_made_up_robot(tmp_path: Path) -> None:
    plan = tiny(tmp_path)
    assert plan.start == {"a": 0.0, "b": 0.2, "f": 0.0}
    plant = Plant(plan, 0.0)
    degrees = [math.degrees(0.0 - 0.5), math.degrees(0.2 - 0.5)]
    np.testing.assert_allclose(plant.numbers(plan.vectors["joints"], 0.0), degrees)
    speed, rest = plan.controls
    assert (speed.mode, rest.mode) == ("rate", "position")
    assert speed.targets([0.5], ["wheel"]) == {"a": 0.5}
    plant.aim({**speed.targets([0.5], ["wheel"]), **rest.targets([0.002, 1.2], ["f", "b"])}, 0.0)  # meters
    # after one time constant 1 - 1/e of the way; a velocity is integrated, in one step here
    values = plant.values(0.2)
    way = 1 - math.exp(-1)
    assert values["b"] == pytest.approx(0.2 + way * 1.0)
    assert values["f"] == pytest.approx(way * 2.0)
    assert values["a"] == pytest.approx(0.2 * way * 0.5)
    assert plant.numbers(plan.vectors["bare"], 0.2) == [0.0, 0.0, pytest.approx(way * 2.0)]
    stands = dict(plant.values(10.0))["a"]  # half a second after the last command it brakes
    assert plant.values(20.0)["a"] == pytest.approx(stands)
    assert plant.fractions() == [pytest.approx((stands + 1) / 2), pytest.approx((1.2 - 0.2) / 1.8)]


@pytest.mark.parametrize(
    ("values", "names", "words"),
    [
        ([1.0, 0.001], ["b", "g"], "joints are b, g, the controller has b, f"),
        ([1.0], [], r"1 values for 2 joints \(b, f\)"),
        ([math.nan, 0.0], ["b", "f"], "'b' is nan"),
        ([2.1, 0.0], ["b", "f"], "'b' is 2.1, its limits are 0.2 to 2"),
    ],
)
def test_a_driver_refuses(values: list[float], names: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        tiny(tmp_path).controls[1].targets(values, names)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "sensor_msgs/msg/JointState}",
            "nav_msgs/msg/Odometry}",
            "stream 'joints': nav_msgs/msg/Odometry cannot be pl",
        ),
        ("unit: deg,", "field: velocity,", "stream 'joints': field 'velocity' cannot be played"),
    ],
)
def test_what_cannot_be_played_is_named(old: str, new: str, words: str, tmp_path: Path) -> None:
    assert old in TOPICS
    with pytest.raises(ConfigError, match=words):
        tiny(tmp_path, TOPICS.replace(old, new))


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        ("rates_hz: {arms: 10.0}", "rates_hz: 'arms' is unknown, expected one of joints, bare, front"),
        ("start: {c: 1.0}", "start: 'c' is unknown, expected one of a, b, f"),
        ("names: {joints: [b, x]}", "names.joints: 'a' of the topic map is not in it"),
        ("lag: 1", "unknown key 'lag'; did you mean 'lag_s'"),
    ],
)
def test_a_wrong_driver_file_is_refused(driver: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny(tmp_path, driver=driver)


def test_faults_change_messages_as_they_say() -> None:
    plan = plan_of("fr3")
    hand = plan.vectors["hand"]
    assert joint_values(hand, [0.03, 0.0], Fault.JOINT_ORDER) == (
        ["fr3_finger_joint2", "fr3_finger_joint1"],
        [0.0, 0.03],
    )
    assert joint_values(hand, [0.03, 0.0], Fault.MISSING_JOINT) == (["fr3_finger_joint2"], [0.0])
    assert joint_values(hand, [0.03, 0.0], Fault.DEGREES)[1] == [0.03, 0.0]  # meters
    assert joint_values(plan.vectors["arm"], [math.pi] * 7, Fault.DEGREES)[1] == pytest.approx([180.0] * 7)
    assert joint_values(hand, [0.03, 0.0], Fault.NO_NAMES) == ([], [0.03, 0.0])
    assert [swapped(plan, name) for name in ("arm", "hand", "front", "wrist")] == ["hand", "arm", "wrist", "front"]
    assert not can_swap(plan_of("tiago"))
    assert swapped(plan_of("so101"), "leader") == "leader"


def test_picture_shows_joints_and_moves() -> None:
    picture = Picture("front", 0, 240, 320)
    still, later = picture.draw([0.0, 1.0], 0.0), picture.draw([0.0, 1.0], 0.5)
    assert still.shape == (240, 320, 3) and still.dtype == np.uint8
    heights = [(still[:, column] == BAR).all(-1).sum() for column in (20, 170)]
    assert heights[0] < 5 and heights[1] > 140
    assert (still == MARK).all(-1).any() and not (still == later).all()

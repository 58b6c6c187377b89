# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Everything that ships loads and fits together."""

import dataclasses
import math
import os
import re
import xml.etree.ElementTree
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml

from gr00t_bringup.robots import (
    compact_checkpoint,
    fastdds_profile,
    has_robot_file,
    profile_environment,
    robot_file,
)
from gr00t_bringup.sim.kinematics import JOINTS, home_positions
from gr00t_bringup.sim.robot import SimRobot
from gr00t_bringup.sim.scene import CUBES
from gr00t_bringup.sim.task import task_text
from gr00t_policy_node.control.controller import Controller
from gr00t_policy_node.observing import input_map
from gr00t_policy_node.onboard.check_cli import main as check
from gr00t_policy_node.onboard.robot_names import shipped_robots
from gr00t_policy_node.safety.limits import LimitsFile
from gr00t_policy_node.teleop.teleop_file import TeleopFile
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_training.embodiment import load_embodiment, shipped_embodiments
from gr00t_training.errors import ConfigError
from gr00t_training.policy.policy import Policy
from gr00t_training.settings import load_settings
from gr00t_training.types import Observation

ROBOTS = shipped_robots()
WITH_LEADER = ["aloha", "sim_arm", "so100", "so101", "wx250s"]


def test_every_shipped_embodiment_has_a_robot() -> None:
    assert shipped_embodiments() == ROBOTS
    assert len(ROBOTS) >= 15


def test_every_robot_whose_leader_is_recorded_has_its_files_for_teleoperation() -> None:
    assert [name for name in ROBOTS if "  leader" in robot_file(name, "topics.yaml").read_text()] == WITH_LEADER
    assert [name for name in ROBOTS if has_robot_file(name, "teleop.yaml")] == WITH_LEADER


def test_every_shipped_robot_is_in_the_table_of_the_documentation() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "new-robot.md"
    assert re.findall(r"^\| `(\w+)` \|.*\|.*\|.*\|$", page.read_text(), re.MULTILINE) == ROBOTS


@pytest.mark.parametrize("robot", ROBOTS)
def test_topic_map_and_limits_fit_the_embodiment(robot: str) -> None:
    topic_map, embodiment = load_topic_map(robot_file(robot, "topics.yaml"))
    assert embodiment == load_embodiment(robot)
    assert topic_map.commands
    FrameAssembler(topic_map, embodiment)
    FrameAssembler(input_map(topic_map), embodiment)
    limits = load_settings(LimitsFile, robot_file(robot, "limits.yaml"))
    controller = Controller(embodiment, limits.joints, 0.01, poses=limits.poses)
    assert set(limits.joints) == set(controller.names)
    assert set(limits.poses) == ({"home"} if robot == "sim_arm" else set())


@pytest.mark.parametrize("robot", WITH_LEADER)
def test_attempts_under_a_policy_have_its_inputs_and_record_its_commands(robot: str) -> None:
    demonstrations, _ = load_topic_map(robot_file(robot, "topics.yaml"))
    attempts, embodiment = load_topic_map(robot_file(robot, "topics_policy.yaml"))
    assert embodiment == load_embodiment(robot)
    assert (attempts.state, attempts.video) == (demonstrations.state, demonstrations.video)
    assert attempts.commands[:-1] == demonstrations.commands
    recorded = {attempts.streams[binding.stream].topic for binding in attempts.action.values()}
    assert recorded == {attempts.commands[-1].topic}
    assert attempts.command_source is not None
    FrameAssembler(attempts, embodiment)
    inputs = input_map(attempts)
    FrameAssembler(inputs, embodiment)
    assert inputs.streams == input_map(demonstrations).streams


@pytest.mark.parametrize("robot", WITH_LEADER)
def test_leader_moves_every_channel(robot: str) -> None:
    device = load_settings(TeleopFile, robot_file(robot, "teleop.yaml"))
    embodiment = load_embodiment(robot)
    assert device.leader is not None
    assert list(device.leader.joints) == [
        name for key in embodiment.action_keys for name in embodiment.action[key].names
    ]
    streams = load_topic_map(robot_file(robot, "topics.yaml"))[0].streams
    assert set(device.leader.topics) == {each.topic for name, each in streams.items() if name.startswith("leader")}
    if robot == "sim_arm":
        home = load_settings(LimitsFile, robot_file(robot, "limits.yaml")).poses["home"]
        np.testing.assert_allclose([home[name] for name in JOINTS], home_positions(), atol=1e-4)


@pytest.mark.parametrize(
    ("robot", "name"), [(r, n) for n in ("policy", "recorder") for r in ROBOTS if has_robot_file(r, f"{n}.yaml")]
)
def test_parameter_file_names_parameters_that_exist(robot: str, name: str) -> None:
    pytest.importorskip("rclpy")
    from gr00t_policy_node.ros.parameters import PolicyParameters
    from gr00t_recorder.ros.recorder_node import RecorderSettings

    known = {field.name for field in dataclasses.fields(PolicyParameters if name == "policy" else RecorderSettings)}
    content = yaml.safe_load(robot_file(robot, f"{name}.yaml").read_text())
    assert set(content) == {"/**"}
    assert set(content["/**"]["ros__parameters"]) <= known


def test_unknown_robot_is_answered_with_those_that_exist() -> None:
    with pytest.raises(
        ConfigError, match=r"robot 'pr2': not shipped, expected one of aloha, fr3, .*, xarm7, or a folder"
    ):
        robot_file("pr2", "topics.yaml")
    with pytest.raises(ConfigError, match=r"robot 'so101' has no file sim\.yaml"):
        robot_file("so101", "sim.yaml")


def test_a_folder_with_the_name_of_a_shipped_robot_is_not_mistaken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "so101").mkdir()
    (tmp_path / "so101" / "topics.yaml").write_text(robot_file("xarm7", "topics.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"'so101': is a shipped robot and a folder here; write \./so101 for the folder"
    ):
        robot_file("so101", "topics.yaml")
    assert robot_file("./so101", "topics.yaml") == tmp_path / "so101" / "topics.yaml"
    assert robot_file("so100", "topics.yaml") != tmp_path / "so100" / "topics.yaml"


@pytest.mark.parametrize("robot", ROBOTS)
def test_check_takes_the_name_of_a_shipped_robot_and_finds_no_fault(
    robot: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check([robot]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 faults, 0 warnings")
    assert check(["pr2"]) == 2
    assert "robot 'pr2': not shipped, expected one of aloha, " in capsys.readouterr().err


def test_shared_memory_segment_holds_several_raw_images() -> None:
    root = xml.etree.ElementTree.parse(fastdds_profile()).getroot()
    sizes = [int(element.text or 0) for element in root.iter() if element.tag.endswith("segment_size")]
    assert sizes
    assert min(sizes) >= 10 * 640 * 480 * 3


@pytest.fixture
def robot() -> Iterator[SimRobot]:
    """The simulated arm, where cameras can be rendered; the software renderer is part of CI."""
    robot = SimRobot()
    try:
        robot.images()
    except ConfigError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    yield robot
    robot.close()


def test_compact_policy_turns_to_the_asked_cube_where_the_cameras_show_it(robot: SimRobot) -> None:
    embodiment = load_embodiment("sim_arm")
    home = home_positions()

    def infer(images: Mapping[str, np.ndarray], positions: np.ndarray, color: str) -> np.ndarray:
        policy = Policy.from_checkpoint(compact_checkpoint(), embodiment=embodiment, device="cpu", seed=0)
        pictures = {key: image[None] for key, image in images.items()}
        vectors = {"single_arm": positions[None, :5], "gripper": positions[None, 5:]}
        chunk = policy.infer(Observation(pictures, vectors, task_text(color)))
        return np.concatenate([chunk.actions[key] for key in embodiment.action_keys], axis=1)

    wanted, found = [], []  # directions of cubes, and pan at the end of chunks [rad]
    for seed in (1, 2):
        robot.reset(seed)
        images, cubes = robot.images(), robot.cube_poses()
        for color in CUBES:
            x, y, _ = cubes[color].position_m
            wanted.append(math.atan2(y, x))
            found.append(infer(images, home, color)[-1, 0])
    # after 0.8 s of an approach of 1.5 s the arm has turned by about half; without a look at the pictures and the
    # instruction, all six would be equal
    slope, _ = np.polyfit(wanted, found, 1)
    assert slope > 0.3
    assert np.corrcoef(wanted, found)[0, 1] > 0.9

    base = infer(images, home, "red")
    assert base.shape == (16, 6)
    np.testing.assert_array_equal(base, infer(images, home, "red"))
    assert abs(infer(images, home + 0.3, "red") - base).max() > 0.01


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("humble", "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ("jazzy", "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ("kilted", "FASTDDS_DEFAULT_PROFILES_FILE"),
        ("lyrical", "FASTDDS_DEFAULT_PROFILES_FILE"),
    ],
)
def test_profile_is_given_by_the_variable_that_the_release_reads(
    monkeypatch: pytest.MonkeyPatch, release: str, name: str
) -> None:
    monkeypatch.setenv("ROS_DISTRO", release)
    for variable in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(variable, raising=False)
    assert profile_environment() == {name: str(fastdds_profile())}
    monkeypatch.setenv(name, "/lab/profiles.xml")
    assert profile_environment() == {}

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Everything that ships loads and fits together."""

import dataclasses
import xml.etree.ElementTree

import numpy as np
import pytest
import yaml

from gr00t_bringup.robots import compact_checkpoint, fastdds_profile, robot_file, shipped_robots
from gr00t_policy_node.controller import Controller
from gr00t_policy_node.limits import LimitsFile
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_training.embodiment import load_embodiment, shipped_embodiments
from gr00t_training.errors import ConfigError
from gr00t_training.policy import Policy
from gr00t_training.settings import load_settings
from gr00t_training.types import Observation

ROBOTS = shipped_robots()


def test_every_shipped_embodiment_has_a_robot() -> None:
    assert ROBOTS == shipped_embodiments() == ["gr1_arms_only", "sim_arm", "so101"]


@pytest.mark.parametrize("robot", ROBOTS)
def test_topic_map_and_limits_fit_the_embodiment(robot: str) -> None:
    topic_map, embodiment = load_topic_map(robot_file(robot, "topics.yaml"))
    assert embodiment == load_embodiment(robot)
    assert topic_map.commands
    FrameAssembler(topic_map, embodiment)
    limits = load_settings(LimitsFile, robot_file(robot, "limits.yaml"))
    controller = Controller(embodiment, limits.joints, 0.01)
    assert set(limits.joints) == set(controller.names)


@pytest.mark.parametrize("robot", ROBOTS)
@pytest.mark.parametrize("name", ["policy", "recorder"])
def test_parameter_file_names_parameters_that_exist(robot: str, name: str) -> None:
    pytest.importorskip("rclpy")
    from gr00t_policy_node.ros.parameters import PolicyParameters
    from gr00t_recorder.ros.recorder_node import RecorderSettings

    known = {field.name for field in dataclasses.fields(PolicyParameters if name == "policy" else RecorderSettings)}
    content = yaml.safe_load(robot_file(robot, f"{name}.yaml").read_text())
    assert set(content) == {"/**"}
    assert set(content["/**"]["ros__parameters"]) <= known


def test_unknown_robot_is_answered_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="robot 'pr2': not shipped, expected one of gr1_arms_only, sim_arm, so101"):
        robot_file("pr2", "topics.yaml")
    with pytest.raises(ConfigError, match=r"robot 'so101' has no file sim\.yaml"):
        robot_file("so101", "sim.yaml")


def test_shared_memory_segment_holds_several_raw_images() -> None:
    root = xml.etree.ElementTree.parse(fastdds_profile()).getroot()
    sizes = [int(element.text or 0) for element in root.iter() if element.tag.endswith("segment_size")]
    assert sizes
    assert min(sizes) >= 10 * 640 * 480 * 3


def test_compact_policy_reacts_to_image_state_and_instruction() -> None:
    embodiment = load_embodiment("sim_arm")

    def infer(images: int, state: float, colour: str) -> np.ndarray:
        policy = Policy.from_checkpoint(compact_checkpoint(), embodiment=embodiment, device="cpu", seed=0)
        pictures = {key: np.full((1, 240, 320, 3), images, np.uint8) for key in embodiment.video_keys}
        vectors = {key: np.full((1, embodiment.state[key].dim), state) for key in embodiment.state_keys}
        chunk = policy.infer(Observation(pictures, vectors, f"put the {colour} cube in the bin"))
        return np.concatenate([chunk.actions[key] for key in embodiment.action_keys], axis=1)

    base = infer(100, 0.2, "red")
    assert base.shape == (16, 6)
    np.testing.assert_array_equal(base, infer(100, 0.2, "red"))
    for changed in (infer(30, 0.2, "red"), infer(100, 0.4, "red"), infer(100, 0.2, "blue")):
        assert abs(changed - base).max() > 1e-3

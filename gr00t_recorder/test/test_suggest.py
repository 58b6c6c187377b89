# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""From a bag of a robot never seen to a dataset, without editing a line that the bag could give."""

import numpy as np
import pytest
import yaml
from bag_truth import frame_number

from gr00t_recorder.bag.convert_cli import main
from gr00t_recorder.topics.bindings import Stamp, load_topic_map
from gr00t_test_support.bag_builder import JOINT_STATE, START_NS, STEP_NS
from gr00t_test_support.robot_bags import (
    ARM,
    STEPS,
    Robot,
    arrays,
    bimanual,
    goals,
    leaders,
    one_array,
    position,
    trajectories,
)
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.tools.validate.dataset import validate_dataset


def suggested(bag, tmp_path, name="robot.mcap"):
    path = bag.write(tmp_path / name)
    assert main([str(path), "--suggest", str(tmp_path / "first")]) == 0
    return path, tmp_path / "first" / "topics.yaml"


@pytest.mark.parametrize(
    ("commands", "sent"),
    [
        (leaders, None),
        (arrays, ["/left/position_controller/commands", "/right/position_controller/commands"]),
        (one_array, ["/position_controller/commands"]),
        (trajectories, ["/left/arm_controller/joint_trajectory", "/right/arm_controller/joint_trajectory"]),
        (goals, None),
    ],
)
def test_bimanual_robot_converts_as_suggested(tmp_path, commands, sent):
    path, topics = suggested(bimanual(commands), tmp_path)
    output = tmp_path / "out"
    assert main([str(path), "--topics", str(topics), "--output", str(output)]) == 0
    dataset = EpisodeDataset(output)
    assert [finding for finding in validate_dataset(output) if finding.is_fault] == []
    assert (dataset.episodes[0].length, dataset.task(0, 0)) == (STEPS, "fold the towel")
    seconds = np.arange(STEPS) / 10
    for side in ("left", "right"):
        for key, joints in ((f"{side}_arm", ARM[:3]), (f"{side}_gripper", ARM[3:])):
            for kind, command in (("state", False), ("action", True)):
                found = getattr(dataset, kind)(0, key)
                expected = np.stack([position(side, joint, seconds, command=command) for joint in joints], axis=1)
                np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=f"{kind} {key}")
    assert len(dataset.embodiment.video) == 3
    for camera in dataset.embodiment.video:
        assert [frame_number(image) for image in dataset.images(0, camera, [0, 7, 19])] == [0, 7, 19]
    topic_map, embodiment = load_topic_map(topics)
    assert [command.topic for command in topic_map.commands] == (sent or [])
    limits = yaml.safe_load((tmp_path / "first" / "limits.yaml").read_text())["joints"]
    channels = [name for key in embodiment.action.values() for name in key.names]
    assert set(limits) == set(channels)
    left = next(limit for name, limit in limits.items() if "left" in name and "elbow" in name)
    last = position("left", "elbow", (STEPS - 1) / 10, command=True)
    assert left["min"] < position("left", "elbow", 0, command=True) < last < left["max"] < last + 0.5
    assert left["max_velocity"] == pytest.approx(0.6, rel=0.05)  # a fifth above 0.5 rad/s
    text = (tmp_path / "first" / "limits.yaml").read_text()
    assert "NOT the robot's limits" in text
    assert text.count("CHECK") >= len(limits)


def test_device_clocks_and_latched_topics_are_seen(tmp_path):
    bag = bimanual(leaders, wrist_stamp=lambda step: 5 * 10**9 + step * STEP_NS)
    bag.latched = ("/task",)
    path, topics = suggested(bag, tmp_path)
    topic_map, _ = load_topic_map(topics)
    stamps = {config.topic: config.stamp for config in topic_map.streams.values()}
    assert stamps["/right/wrist_camera/image_raw"] is Stamp.RECEIVE
    assert stamps["/left/wrist_camera/image_raw"] is Stamp.HEADER
    assert [config.topic for config in topic_map.streams.values() if config.latched] == ["/task"]
    assert main([str(path), "--topics", str(topics), "--dry-run"]) == 0


def test_names_that_are_no_plain_words_are_quoted(tmp_path):
    bag = Robot()
    for step in range(STEPS):
        message = bag.make(JOINT_STATE, header=bag.header(START_NS + step * STEP_NS), name=["on", "a: b", "\x1b[2J{"],
                           position=np.arange(3.0), velocity=np.zeros(0), effort=np.zeros(0))  # fmt: skip
        bag.add(START_NS + step * STEP_NS, "/joint_states", JOINT_STATE, message)
        bag.look("/odd {name}: #1/image_raw", step)
    _, topics = suggested(bag, tmp_path)
    assert "\x1b" not in topics.read_text() + (tmp_path / "first" / "embodiment.yaml").read_text()
    topic_map, embodiment = load_topic_map(topics)
    assert embodiment.state["arm"].names == ("on", "a: b", "channel_3")
    assert topic_map.state["arm"].select == ("on", "a: b", "\x1b[2J{")

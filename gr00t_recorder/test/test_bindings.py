# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from gr00t_recorder.topics.bindings import Align, Stamp, load_topic_map
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_training.errors import ConfigError

CONFIG = Path(__file__).resolve().parents[2] / "gr00t_bringup" / "gr00t_bringup" / "config"
MINIMAL = """\
embodiment: so101
streams:
  joints: {topic: joint_states, type: sensor_msgs/msg/JointState}
  front: {topic: front, type: sensor_msgs/msg/Image}
state:
  single_arm: {stream: joints}
  gripper: {stream: joints}
video:
  front: {stream: front}
  wrist: {stream: front}
"""


def load(tmp_path, text):
    path = tmp_path / "topics.yaml"
    path.write_text(text)
    return load_topic_map(path)


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*/topics.yaml")), ids=lambda path: path.parent.name)
def test_shipped_topic_maps_load_and_can_be_assembled(path):
    topic_map, embodiment = load_topic_map(path)
    FrameAssembler(topic_map, embodiment)
    assert set(topic_map.state) == set(embodiment.state)
    assert set(topic_map.action) == set(embodiment.action)


def test_defaults_of_a_minimal_map(tmp_path):
    topic_map, embodiment = load(tmp_path, MINIMAL)
    assert embodiment.name == "so101"
    assert topic_map.anchor_key == "front"
    assert topic_map.streams["joints"].stamp is Stamp.HEADER
    assert topic_map.state["single_arm"].align is Align.LINEAR
    assert topic_map.video["wrist"].align is Align.NEAREST
    assert not topic_map.action


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("stream: joints}\n  gripper", "stream: joint}\n  gripper", "stream 'joint' is not declared under streams"),
        ("topic: front,", "topik: front,", "topics.yaml:4: streams.front: unknown key 'topik'; did you mean 'topic'?"),
        ("sensor_msgs/msg/Image", "sensor_msgs/Image", "topics.yaml:4: streams.front: type 'sensor_msgs/Image'"),
        ("  wrist: {stream: front}", "  rear: {stream: front}", "video.rear: embodiment 'so101' has no such key"),
        ("  gripper: {stream: joints}\n", "", "state: no entry for key 'gripper'"),
        ("gripper: {stream: joints}", "gripper: {stream: joints, select: [a, b]}", "select names 2 channels"),
        ("wrist: {stream: front}", "wrist: {stream: front, align: linear}", "topics.yaml:10: video.wrist: align"),
        ("state:\n", "anchor: rear\nstate:\n", "anchor 'rear' is not a camera"),
        ("embodiment: so101", "embodiment: so202", "neither a file nor a shipped embodiment"),
        ("embodiment: so101", "embodiment: [so101", "topics.yaml:2: not valid YAML"),
        ("joints: {topic", "joints: {depth: 0, topic", "topics.yaml:3: streams.joints: depth is 0, expected 1 to 1000"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path, old, new, expected):
    assert old in MINIMAL
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, MINIMAL.replace(old, new, 1))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
from pathlib import Path

import pytest
import yaml

from gr00t_recorder.topics.bindings import Align, Stamp, TopicMap, VectorBinding, check_keys, load_topic_map
from gr00t_recorder.topics.describe import describe_topics
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_training.embodiment import DepthKey
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
        ("wrist: {stream: front}", "wrist: {stream: front, levels: [1]}", "levels is [1.0], expected two different"),
        (
            "gripper: {stream: joints}",
            "gripper: {stream: joints, fields: [position.0], select: [a]}",
            "topics.yaml:7: state.gripper: 'fields' names every channel; leave out 'field'",
        ),
        ("gripper: {stream: joints}", "gripper: {stream: joints, frames: [a]}", "frames has 1 names, expected parent"),
        ("gripper: {stream: joints}", "gripper: {stream: joints, rotation: rpy}", "'rpy' is not one of quaternion"),
        (
            "state:\n",
            "depth:\n  top: {stream: front}\nstate:\n",
            "depth.top: embodiment 'so101' has no such key (none)",
        ),
        (
            "state:\n",
            "depth:\n  top: {stream: front, align: linear}\nstate:\n",
            "topics.yaml:6: depth.top: align 'linear' would mix two images",
        ),
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


def test_depth_of_the_embodiment_must_be_bound_to_record_and_not_to_run_a_policy(tmp_path):
    topic_map, embodiment = load(tmp_path, MINIMAL)
    embodiment = dataclasses.replace(embodiment, depth={"wrist": DepthKey(height=480, width=640)})
    check_keys(topic_map, embodiment, "topics.yaml")
    recording = dataclasses.replace(topic_map, action=topic_map.state)
    with pytest.raises(ConfigError, match="depth: no entry for key 'wrist'"):
        check_keys(recording, embodiment, "topics.yaml")


def test_bindings_are_listed_by_their_names(tmp_path):
    topic_map, _ = load(tmp_path, MINIMAL)
    names = [str(ref) for ref in topic_map.bindings]
    assert names == [
        "state.single_arm",
        "state.gripper",
        "video.front",
        "video.wrist",
    ]


def test_description_is_yaml_and_has_every_key_with_its_default():
    text = describe_topics()
    described = yaml.safe_load(text)
    assert list(described) == [field.name for field in dataclasses.fields(TopicMap)]
    assert max(map(len, text.splitlines())) <= 120
    entry = described["state"]["<name>"]
    binding = VectorBinding(stream="joints")
    for field in dataclasses.fields(VectorBinding):
        if field.name != "stream":
            default = getattr(binding, field.name)
            plain = list(default) if isinstance(default, tuple) else getattr(default, "value", default)
            assert entry[field.name] == plain
        assert field.metadata["description"].split(" ")[0] in text
    assert described["streams"]["<name>"]["topic"] == "<text>"
    assert described["action"]["<name>"] == "<as under state>"
    assert "One of header, receive." in text
    assert "From 1 to 1000." in text

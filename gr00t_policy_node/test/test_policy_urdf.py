# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Where the limits of the node come from."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String
from test_policy_node import TOPICS

from gr00t_policy_node.ros.build import described_limits
from gr00t_policy_node.ros.parameters import PolicyParameters
from gr00t_policy_node.ros.robot_description import receive_description
from gr00t_policy_node.safety.limits import JointLimit, LimitsFile
from gr00t_policy_node.urdf import channel_limits
from gr00t_recorder.ros.processes import next_domain, spinning_node
from gr00t_test_support.builders import make_embodiment
from gr00t_test_support.ros.nodes import ForkedNode, parameter_arguments
from gr00t_training.embodiment import VectorKey, to_mapping
from gr00t_training.errors import ConfigError

JOINT = '<joint name="{}" type="revolute"><limit lower="-1" upper="2" velocity="0.5" effort="1"/></joint>'
ROBOT = f'<robot name="arm">{JOINT.format("a")}{JOINT.format("b")}</robot>'


@pytest.fixture
def node() -> Iterator[Node]:
    with spinning_node("urdf", next_domain()) as node:
        yield node


def settings(**given: object) -> PolicyParameters:
    return dataclasses.replace(PolicyParameters(), **given)


def test_limits_of_a_file_and_of_the_latched_topic_are_the_same(node: Node, tmp_path: Path) -> None:
    (tmp_path / "arm.urdf").write_text(ROBOT)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    node.create_publisher(String, "robot_description", latched).publish(String(data=ROBOT))
    expected = dict.fromkeys("ab", JointLimit(min=-1.0, max=2.0, max_velocity=0.5))
    assert described_limits(node, settings(urdf_topic="robot_description")).limits == expected
    assert described_limits(node, settings(urdf_file=str(tmp_path / "arm.urdf"))).limits == expected
    for encoding in ("latin-1", "utf-16"):
        (tmp_path / "arm.urdf").write_bytes(f"<!-- f\u00fcr -->{ROBOT}".encode(encoding))
        assert described_limits(node, settings(urdf_file=str(tmp_path / "arm.urdf"))).limits == expected


def test_limits_are_in_the_unit_of_the_channel_and_a_limits_file_goes_before() -> None:
    embodiment = make_embodiment()
    arm = VectorKey(names=("a", "b"), unit="deg")
    embodiment = dataclasses.replace(embodiment, state={"arm": arm}, action={"arm": arm})
    joints = dict.fromkeys(["a", "b", "elsewhere"], JointLimit(min=-1.0, max=2.0, max_velocity=0.5))
    own = JointLimit(min=0.0, max=1.0, max_velocity=9.0)
    limits = LimitsFile(joints={"b": own}, acceleration_per_velocity=2.0).limits(channel_limits(joints, embodiment))
    assert list(limits) == ["a", "b"]
    assert limits["b"] == dataclasses.replace(own, max_acceleration=18.0)
    degrees = [limits["a"].min, limits["a"].max, limits["a"].max_velocity, limits["a"].max_acceleration]
    assert degrees == pytest.approx([math.degrees(x) for x in (-1.0, 2.0, 0.5, 1.0)])


@pytest.mark.parametrize(
    ("own", "shown"),
    [
        (JointLimit(min=-1.0, max=2.0, max_velocity=0.5), None),
        (JointLimit(min=-0.5, max=1.0, max_velocity=0.1), None),
        (JointLimit(min=-1.1, max=2.0, max_velocity=0.5), "'b' -1.1 to 2 at 0.5 (URDF: -1 to 2 at 0.5)"),
        (JointLimit(min=0.0, max=2.1, max_velocity=0.5), "'b' 0 to 2.1 at 0.5 (URDF: -1 to 2 at 0.5)"),
        (JointLimit(min=0.0, max=1.0, max_velocity=0.6), "'b' 0 to 1 at 0.6 (URDF: -1 to 2 at 0.5)"),
        (
            JointLimit(min=-math.inf, max=math.inf, max_velocity=0.5, endless=True),
            "'b' -inf to inf at 0.5 (URDF: -1 to 2 at 0.5)",
        ),
    ],
)
def test_a_limits_file_that_goes_beyond_the_urdf_is_reported(own: JointLimit, shown: str | None) -> None:
    urdf = dict.fromkeys("ab", JointLimit(min=-1.0, max=2.0, max_velocity=0.5))
    assert LimitsFile(joints={"b": own, "c": own}).wider_than(urdf) == ({"b": shown} if shown else {})


def test_node_says_that_its_limits_go_beyond_the_urdf(tmp_path: Path) -> None:
    embodiment = make_embodiment()
    names = [name for vector in embodiment.action.values() for name in vector.names]
    (tmp_path / "arm.urdf").write_text(f"<robot name='arm'>{''.join(JOINT.format(name) for name in names)}</robot>")
    (tmp_path / "limits.yaml").write_text("joints:\n  j1: {min: -1.5, max: 1.0, max_velocity: 0.4}\n")
    (tmp_path / "embodiment.json").write_text(json.dumps(to_mapping(embodiment)))
    (tmp_path / "topics.yaml").write_text(TOPICS.format(embodiment="embodiment.json"))
    files = {f"{kind}_file": tmp_path / name for kind, name in (("topics", "topics.yaml"), ("limits", "limits.yaml"))}
    given = parameter_arguments(
        **files, urdf_file=tmp_path / "arm.urdf", checkpoint_path=tmp_path / "none", autostart=True
    )
    with ForkedNode("gr00t_policy_node.ros.policy_node", *given, domain=next_domain()) as process:
        assert process.wait() == 2  # there is no checkpoint
        assert "exceeds the URDF: 'j1' -1.5 to 1 at 0.4 (URDF: -1 to 2 at 0.5)" in process.output


def test_no_description_and_wrong_parameters_are_named(node: Node, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"urdf_topic '/robot_description': no robot description within 0\.2 s"):
        receive_description(node, "robot_description", 0.2)
    with pytest.raises(ConfigError, match=r"none\.urdf: cannot be read"):
        described_limits(node, settings(urdf_file=str(tmp_path / "none.urdf")))
    with pytest.raises(ConfigError, match="both are set"):
        described_limits(node, settings(urdf_file="a", urdf_topic="b"))
    with pytest.raises(ConfigError, match="'limits_file', 'urdf_file' and 'urdf_topic' are empty"):
        described_limits(node, settings())

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The gates of `test_input_gates` through the node: the reason is in the status, and the robot continues afterwards."""

from __future__ import annotations

import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from gr00t_msgs.msg import PolicyStatus
from rclpy.duration import Duration
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger
from test_policy_node import Robot, files, start_node  # noqa: F401 - a fixture

from gr00t_recorder.ros.processes import next_domain

PARTS = (("j0", "j2"), ("j1", "grip"))


class SplitRobot(Robot):
    """Joints of two publishers on one topic, and a camera with settable encoding and clock."""

    def __init__(self, domain: int) -> None:
        super().__init__(domain)
        self.heal()

    def heal(self) -> None:
        self.num_parts, self.num_values, self.encoding, self.camera_ahead_s = 2, 2, "rgb8", 0.0

    def _publish_joints(self) -> None:
        for names in PARTS[: self.num_parts]:
            message = JointState(name=list(names), position=[self.pose[name] for name in names][: self.num_values])
            message.header.stamp = self.node.get_clock().now().to_msg()
            self._joint_publisher.publish(message)

    def _publish_image(self) -> None:
        height, width = self.size
        message = Image(height=height, width=width, encoding=self.encoding, step=width * 3)
        stamp = self.node.get_clock().now() + Duration(nanoseconds=round(1e9 * self.camera_ahead_s))
        message.header.stamp = stamp.to_msg()
        message.data = array.array("B", bytes(height * width * 3))
        self._image_publisher.publish(message)


@pytest.fixture(scope="module")
def split(files: dict[str, Path]) -> Iterator[SplitRobot]:  # noqa: F811
    domain = next_domain()
    topics = files["topics_file"].with_name("narrow.yaml")
    topics.write_text(files["topics_file"].read_text() + "max_skew_s: 0.25\n")
    with SplitRobot(domain) as robot, start_node({**files, "topics_file": topics}, domain):
        robot.until_state(PolicyStatus.IDLE)
        yield robot


@pytest.mark.parametrize(
    ("fault", "reason", "stream"),
    [
        ({"num_parts": 1}, "state.arm (j1)", "joints"),
        ({"num_values": 1}, "position has 1 values for 2 names", "joints"),
        ({"encoding": "nv21"}, "video.front: ", "front"),
        ({"camera_ahead_s": 0.4}, "ahead of this node's clock (limit 0.2 s", "front"),
        ({"camera_ahead_s": -0.4}, " behind state.", ""),
    ],
    ids=["a publisher dies", "too few values", "another encoding", "clock ahead", "skew"],
)
def test_fault_in_flight_holds_with_its_reason_and_recovers(
    split: SplitRobot, fault: dict[str, object], reason: str, stream: str
) -> None:
    split.heal()
    split.call(Trigger, "policy/reset")
    split.until(lambda: split.status.streams and all(s.state == 0 for s in split.status.streams), "healthy streams")
    split.instruct()
    split.until_state(PolicyStatus.RUNNING)
    for name, value in fault.items():
        setattr(split, name, value)
    split.until_state(PolicyStatus.HOLDING, reason)
    positions = split.new_commands(5)
    np.testing.assert_array_equal(positions, np.tile(positions[0], (5, 1)))
    if stream:
        split.until(lambda: any(s.name == stream and reason in s.reason for s in split.status.streams), "its status")
    split.heal()
    split.until_state(PolicyStatus.RUNNING)

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A second node that sends other positions for the same joints holds the policy node, and is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from gr00t_msgs.msg import PolicyStatus
from sensor_msgs.msg import JointState
from test_policy_node import JOINTS, MAX_VELOCITY, POSE, Robot, files, start_node  # noqa: F401 - a fixture

from gr00t_recorder.ros.processes import next_domain
from gr00t_test_support.ros.nodes import Peer


def test_no_command_starts_between_the_poses_of_two_publishers(files: dict[str, Path]) -> None:  # noqa: F811
    domain = next_domain()
    with Robot(domain) as robot, Peer(domain, "joint_state_publisher") as gui, start_node(files, domain):
        publisher = gui.node.create_publisher(JointState, "joint_states", 10)

        def send_zeros() -> None:
            message = JointState(name=sorted(JOINTS), position=[0.0] * len(JOINTS))
            message.header.stamp = gui.node.get_clock().now().to_msg()
            publisher.publish(message)

        def holds() -> bool:
            return "/peer" in robot.status.reason and "/joint_state_publisher" in robot.status.reason

        robot.until_state(PolicyStatus.IDLE)
        timer = robot.node.create_timer(0.02, send_zeros)  # also during calls: a conflict that ends lets the robot move
        robot.until(lambda: any("2 publishers" in s.reason for s in robot.status.streams), "its status")
        assert robot.instruct().error_code == 0
        robot.until(holds, "hold that names both publishers")
        assert robot.status.state == PolicyStatus.HOLDING
        assert "2 publishers send the same channels" in robot.status.reason
        assert not robot.commands
        robot.node.destroy_timer(timer)  # the second is silent now
        robot.until_state(PolicyStatus.RUNNING)
        robot.until(lambda: robot.commands, "commands")
        first = robot.commands[0].points[0].positions
    np.testing.assert_allclose(first, [POSE["j0"], POSE["j1"], POSE["j2"]], atol=MAX_VELOCITY / 50 + 1e-6)

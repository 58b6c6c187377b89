# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""However a policy node is ended while it moves a robot, it brings the robot to rest first; with real processes."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from gr00t_msgs.msg import PolicyStatus
from test_policy_node import CONTROL_HZ, JOINTS, MAX_VELOCITY, Robot, files

from gr00t_recorder.ros.processes import next_domain
from gr00t_test_support.ros.nodes import LaunchedNode, parameter_arguments

__all__ = ["files"]
ACCELERATION_PER_VELOCITY = 4.0


@pytest.fixture
def limits(files: dict[str, Path], tmp_path: Path) -> Path:
    """Limits with which the arm needs a quarter of a second to stop."""
    path = tmp_path / "limits.yaml"
    joints = "".join(f"  {name}: {{min: -2.0, max: 2.0, max_velocity: {MAX_VELOCITY}}}\n" for name in JOINTS)
    path.write_text(f"acceleration_per_velocity: {ACCELERATION_PER_VELOCITY}\njoints:\n{joints}")
    return path


@pytest.mark.parametrize(
    ("to_parent", "to_node"),
    [(signal.SIGKILL, None), (signal.SIGTERM, None), (signal.SIGTERM, signal.SIGTERM), (None, signal.SIGHUP)],
    ids=["parent killed", "parent terminated", "tree terminated", "terminal closed"],
)
def test_node_makes_the_robot_safe_and_ends(
    files: dict[str, Path], limits: Path, to_parent: int | None, to_node: int | None
) -> None:
    domain = next_domain()
    values = {**files, "limits_file": limits, "autostart": True, "control_rate_hz": CONTROL_HZ, "device": "cpu"}
    arguments = parameter_arguments(**values, inference_period_s=0.1, seed=0, instruction="lift the cube")
    with (
        Robot(domain) as robot,
        LaunchedNode("gr00t_policy_node.ros.policy_node", *arguments, domain=domain, OMP_NUM_THREADS="1") as launched,
    ):
        robot.until_state(PolicyStatus.RUNNING)

        def is_moving() -> bool:
            return len(robot.commands) > 3 and max(speeds(robot, 3)) > 0.5 * MAX_VELOCITY

        robot.until(is_moving, "movement")
        if to_parent is not None:
            launched.process.send_signal(to_parent)
        if to_node is not None:
            os.kill(launched.node_pid, to_node)
        robot.until(lambda: launched.has_node_ended, "end of the node")
        robot.catch_up()
        *moving, rest = speeds(robot, 60)
        assert rest == pytest.approx(0.0, abs=1e-9)  # the last two commands are one position
        # braked, not cut off: before it stands, the robot is as slow as a few control periods of braking allow
        slowest = next(speed for speed in reversed(moving) if speed > 1e-9)
        assert slowest <= 3 * ACCELERATION_PER_VELOCITY * MAX_VELOCITY / CONTROL_HZ
        assert "Traceback" not in launched.output


def speeds(robot: Robot, count: int) -> list[float]:
    """Return the largest joint speed between each two of the last commands [rad/s]."""
    positions = np.array([message.points[0].positions for message in robot.commands[-count:]])
    return (np.abs(np.diff(positions, axis=0)).max(axis=1) * CONTROL_HZ).tolist()

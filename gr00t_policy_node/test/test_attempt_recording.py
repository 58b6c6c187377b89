# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""policy_node and recorder_node with one topic map: an attempt that a person corrects becomes rows that say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from gr00t_msgs.msg import CommandSource, ErrorCode, PolicyStatus, RecorderStatus, TeleopTarget
from gr00t_msgs.srv import StartEpisode, StopEpisode
from sensor_msgs.msg import JointState
from test_policy_node import LATCHED, Robot, files, start_node  # noqa: F401 - a fixture

from gr00t_recorder.ros.processes import NodeProcess, next_domain
from gr00t_test_support.ros.nodes import parameter_arguments
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.types import Commander

pytestmark = pytest.mark.slow
TOPICS = """
embodiment: embodiment.json
streams:
  joints: {{topic: joint_states, type: sensor_msgs/msg/JointState, max_age_s: 2.0}}
  camera: {{topic: front/image_raw, type: sensor_msgs/msg/Image, max_age_s: 2.0}}
  commands: {{topic: policy/commands, type: sensor_msgs/msg/JointState, depth: 50, max_age_s: 2.0}}
  source: {{topic: policy/command_source, type: gr00t_msgs/msg/CommandSource, depth: 50, max_age_s: 2.0}}
state: {{arm: {{stream: joints}}, gripper: {{stream: joints}}}}
action: {{arm: {held}, gripper: {held}}}
video: {{front: {{stream: camera}}}}
command_source: {{stream: source}}
max_skew_s: 2.0
commands:
  - {{topic: arm/joint_trajectory, type: trajectory_msgs/msg/JointTrajectory, keys: [arm]}}
  - {{topic: policy/commands, type: sensor_msgs/msg/JointState}}
"""


def test_an_attempt_that_a_person_corrects_says_so_row_by_row(files: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    """The recorded action is what went to the robot, and is the person's target where the person commands."""
    topics = files["topics_file"].with_name("attempt.yaml")
    topics.write_text(TOPICS.format(held="{stream: commands, align: hold}"))
    domain, dataset = next_domain(), tmp_path / "attempts"
    recording = parameter_arguments(
        topics_file=topics, dataset_path=dataset, autostart=True, min_free_disk_gb=0.0, max_lag_s=8.0
    )
    with (
        Robot(domain) as robot,
        start_node({**files, "topics_file": topics}, domain, teleop_timeout_s=10.0) as node,
        NodeProcess("gr00t_recorder.ros.recorder_node", *recording, domain=domain),
    ):
        statuses = robot.listen(RecorderStatus, "recorder/status", LATCHED)
        sources = robot.listen(CommandSource, "policy/command_source")
        commands = robot.listen(JointState, "policy/commands")
        robot.until_state(PolicyStatus.IDLE)
        robot.until(lambda: statuses and len(statuses[-1].streams) == 4, "recorder")
        robot.instruct()
        robot.until(lambda: sources and sources[-1].source == CommandSource.POLICY, "policy in command")

        def is_ready() -> bool:
            return all(not stream.reason for stream in statuses[-1].streams)

        robot.until(is_ready, "streams of the recorder")
        assert robot.call(StartEpisode, "recorder/start_episode", task="lift").error_code == ErrorCode.NONE
        robot.until(lambda: statuses[-1].frames >= 5, "rows of the policy")

        device = robot.node.create_publisher(TeleopTarget, "policy/teleop", 10)
        target = [0.1, -0.1, 0.2, 0.3]

        def steer() -> None:
            message = TeleopTarget(source="hand", is_engaged=True, names=["j0", "j1", "j2", "grip"], positions=target)
            message.header.stamp = robot.node.get_clock().now().to_msg()
            device.publish(message)

        timer = robot.node.create_timer(0.02, steer)
        robot.until(lambda: sources[-1].source == CommandSource.PERSON, "person in command")
        robot.until(lambda: np.allclose(commands[-1].position, target, atol=1e-6), "person's target")
        rows = statuses[-1].frames
        robot.until(lambda: statuses[-1].frames >= rows + 5, "rows of the person")
        assert robot.call(StopEpisode, "recorder/stop_episode", keep=True).error_code == ErrorCode.NONE
        robot.node.destroy_timer(timer)
        assert "Traceback" not in node.output
    found = EpisodeDataset(dataset)
    codes = found.column(0, "command_source")
    assert set(codes[:4]) == {Commander.POLICY}
    assert codes[-1] == Commander.PERSON
    assert found.interventions(0).tolist() == (codes == Commander.PERSON).tolist()
    action = np.hstack([found.action(0, "arm"), found.action(0, "gripper")])
    np.testing.assert_allclose(action[-1], target, atol=1e-5)
    # each recorded action is one of the commands that went out, to the last digit of float32
    sent = np.array([message.position for message in commands], dtype=np.float32)
    assert all((row.astype(np.float32) == sent).all(axis=1).any() for row in action)

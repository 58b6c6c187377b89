# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The policy node as a separate process, on a made-up robot that this process plays."""

from __future__ import annotations

import array
import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray
from gr00t_msgs.action import RunPolicy
from gr00t_msgs.msg import ActionChunk, ErrorCode, PolicyStatus
from gr00t_msgs.srv import SetInstruction
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action.client import ActionClient
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from gr00t_recorder.ros.processes import NodeProcess, next_domain
from gr00t_test_support.builders import make_checkpoint, make_embodiment
from gr00t_test_support.ros.nodes import Peer, parameter_arguments
from gr00t_test_support.waiting import DEADLINE_S
from gr00t_training.embodiment import to_mapping

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
JOINTS = ["grip", "j2", "j0", "j1"]  # not the embodiment's order: joints go by name
POSE = {"j0": 0.5, "j1": -0.5, "j2": 0.25, "grip": 0.1}
MAX_VELOCITY = 0.5
CONTROL_HZ = 50.0
QUERY_STAGES = ("decode", "policy call", "publish", "query", "observation to chunk")
TOPICS = """
embodiment: {embodiment}
streams:
  joints: {{topic: joint_states, type: sensor_msgs/msg/JointState, max_age_s: 0.5}}
  front: {{topic: front/image_raw, type: sensor_msgs/msg/Image, max_age_s: 0.5}}
state:
  arm: {{stream: joints}}
  gripper: {{stream: joints}}
video:
  front: {{stream: front}}
commands:
  - {{topic: arm/joint_trajectory, type: trajectory_msgs/msg/JointTrajectory, keys: [arm]}}
  - {{topic: gripper/commands, type: std_msgs/msg/Float64MultiArray, keys: [gripper]}}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("robot")
    embodiment = make_embodiment()
    (folder / "embodiment.json").write_text(json.dumps(to_mapping(embodiment)))
    (folder / "topics.yaml").write_text(TOPICS.format(embodiment="embodiment.json"))
    limits = {name: {"min": -2.0, "max": 2.0, "max_velocity": MAX_VELOCITY} for name in POSE}
    (folder / "limits.yaml").write_text(json.dumps({"joints": limits}))
    return {
        "checkpoint_path": make_checkpoint(folder / "checkpoint", embodiment),
        "topics_file": folder / "topics.yaml",
        "limits_file": folder / "limits.yaml",
    }


class Robot(Peer):
    """Publishes a camera at 20 Hz and joint states at 50 Hz while it spins, and listens to the policy node."""

    def __init__(self, domain: int) -> None:
        super().__init__(domain)
        self.joints, self.pose, self.size = list(JOINTS), dict(POSE), (32, 48)
        self.has_camera = self.has_joints = True
        self._joint_publisher = self.node.create_publisher(JointState, "joint_states", 10)
        self._image_publisher = self.node.create_publisher(Image, "front/image_raw", 5)
        self.node.create_timer(0.02, self._publish_joints)
        self.node.create_timer(0.05, self._publish_image)
        self.chunks = self.listen(ActionChunk, "policy/action_chunk")
        self.commands = self.listen(JointTrajectory, "arm/joint_trajectory")
        self.statuses = self.listen(PolicyStatus, "policy/status", LATCHED)

    @property
    def status(self) -> PolicyStatus:
        return self.statuses[-1] if self.statuses else PolicyStatus(state=99)

    def until_state(self, state: int, reason: str = "") -> PolicyStatus:
        def is_there() -> bool:
            return self.status.state == state and reason in self.status.reason

        try:
            self.until(is_there, f"state {state}")
        except AssertionError as error:
            raise AssertionError(f"{error}; last: {self.status.state} '{self.status.reason}'") from None
        return self.status

    def instruct(self, text: str = "lift the cube") -> SetInstruction.Response:
        return self.call(SetInstruction, "policy/set_instruction", instruction=text)

    def new_commands(self, count: int) -> np.ndarray:
        """Wait for so many commands from now on; (count, 3)."""
        return self.commands_from(len(self.commands), count)

    def commands_from(self, start: int, count: int) -> np.ndarray:
        """Wait for so many commands from number `start` on; (count, 3)."""
        self.until(lambda: len(self.commands) >= start + count, f"{count} commands")
        return np.array([message.points[0].positions for message in self.commands[start : start + count]])

    def _publish_joints(self) -> None:
        if self.has_joints:
            message = JointState(name=self.joints, position=[self.pose.get(name, 0.0) for name in self.joints])
            message.header.stamp = self.node.get_clock().now().to_msg()
            self._joint_publisher.publish(message)

    def _publish_image(self) -> None:
        if self.has_camera:
            height, width = self.size
            message = Image(height=height, width=width, encoding="rgb8", step=width * 3)
            message.header.stamp = self.node.get_clock().now().to_msg()
            message.data = array.array("B", bytes(height * width * 3))
            self._image_publisher.publish(message)


def start_node(files: dict[str, Path], domain: int, **parameters: object) -> NodeProcess:
    values = {"autostart": True, "control_rate_hz": CONTROL_HZ, "inference_period_s": 0.1, "seed": 0, "device": "cpu"}
    arguments = parameter_arguments(**{**files, **values, **parameters})
    # one thread: two cores are shared with the robot
    return NodeProcess("gr00t_policy_node.ros.policy_node", *arguments, domain=domain, OMP_NUM_THREADS="1")


@pytest.fixture(scope="module")
def shared(files: dict[str, Path]) -> Iterator[tuple[Robot, NodeProcess]]:
    domain = next_domain()
    with Robot(domain) as robot, start_node(files, domain) as node:
        robot.until_state(PolicyStatus.IDLE)
        yield robot, node


@pytest.fixture
def robot(shared: tuple[Robot, NodeProcess]) -> Iterator[Robot]:
    """The shared robot, healthy, with an idle policy node."""
    robot = shared[0]
    robot.joints, robot.pose, robot.size = list(JOINTS), dict(POSE), (32, 48)
    robot.has_camera = robot.has_joints = True
    robot.call(Trigger, "policy/reset")
    robot.until_state(PolicyStatus.IDLE)
    robot.until(lambda: robot.status.streams and all(s.state == 0 for s in robot.status.streams), "healthy streams")
    yield robot
    robot.call(Trigger, "policy/reset")


def test_chunk_names_every_key_and_answers_a_past_observation(robot: Robot) -> None:
    assert not robot.instruct().error_code
    robot.chunks.clear()
    chunk = robot.until(lambda: robot.chunks, "chunk")[-1]
    embodiment = make_embodiment()
    assert (chunk.embodiment, chunk.embodiment_fingerprint) == (embodiment.name, embodiment.fingerprint())
    assert (list(chunk.keys), list(chunk.dims)) == (["arm", "gripper"], [3, 1])
    assert list(chunk.names) == ["j0", "j1", "j2", "grip"]
    assert (chunk.step.sec, chunk.step.nanosec) == (0, 100_000_000)
    rows = np.array(chunk.data).reshape(chunk.horizon, 4)
    assert rows.shape == (16, 4)
    assert np.isfinite(rows).all()
    assert 0.0 < chunk.inference_latency <= chunk.observation_latency < DEADLINE_S  # seconds


def test_first_motion_starts_at_the_measured_pose_and_keeps_the_velocity_limit(robot: Robot) -> None:
    start = len(robot.commands)  # of an idle node: none is on its way
    robot.instruct()
    positions = robot.commands_from(start, 30)
    # the guard forgives up to two late ticks
    reach = 2 * MAX_VELOCITY / CONTROL_HZ + 1e-6
    assert (abs(positions[0] - [POSE["j0"], POSE["j1"], POSE["j2"]]) <= reach).all()
    assert (abs(np.diff(positions, axis=0)) <= reach).all()
    assert list(robot.commands[-1].joint_names) == ["j0", "j1", "j2"]


def test_camera_that_stops_means_hold_with_its_name_and_recovery(robot: Robot) -> None:
    robot.instruct()
    robot.until_state(PolicyStatus.RUNNING)
    robot.has_camera = False
    status = robot.until_state(PolicyStatus.HOLDING, "'front'")
    assert "0.5 s" in status.reason
    positions = robot.new_commands(5)
    assert (np.ptp(positions, axis=0) == 0.0).all()
    robot.has_camera = True
    robot.until_state(PolicyStatus.RUNNING)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda robot: robot.pose.update(j1=float("nan")), "j1"),
        (lambda robot: setattr(robot, "joints", ["a", "b", "c", "d"]), "messages arrive, but carry a, b, c, d"),
        (lambda robot: setattr(robot, "size", (64, 48)), "48x64"),
        (lambda robot: setattr(robot, "has_joints", False), "'joints'"),
    ],
)
def test_unusable_input_means_hold_with_the_reason(robot: Robot, spoil, reason: str) -> None:
    robot.instruct()
    robot.until_state(PolicyStatus.RUNNING)
    spoil(robot)
    robot.until_state(PolicyStatus.HOLDING, reason)
    assert (np.ptp(robot.new_commands(5), axis=0) == 0.0).all()


def test_stop_is_latched_until_reset(robot: Robot) -> None:
    robot.instruct()
    robot.until_state(PolicyStatus.RUNNING)
    assert robot.call(Trigger, "policy/stop").success
    robot.until_state(PolicyStatus.STOPPED)
    assert (np.ptp(robot.new_commands(5), axis=0) == 0.0).all()
    answer = robot.instruct()
    assert answer.error_code == ErrorCode.STOPPED
    assert "reset" in answer.error_msg
    robot.call(Trigger, "policy/reset")
    robot.until_state(PolicyStatus.IDLE)
    assert not robot.instruct().error_code


def test_empty_instruction_is_refused(robot: Robot) -> None:
    answer = robot.instruct("  ")
    assert answer.error_code == ErrorCode.EMPTY_TEXT
    assert "empty" in answer.error_msg


def test_run_policy_ends_by_its_time_limit_or_by_cancel(robot: Robot) -> None:
    client = ActionClient(robot.node, RunPolicy, "policy/run_policy")
    robot.until(client.server_is_ready, "action server")
    feedback: list[RunPolicy.Feedback] = []
    for limit_s in (1.0, 8.0, 60.0):  # a loaded machine may not answer within the first
        feedback.clear()
        goal = RunPolicy.Goal(instruction="lift the cube", time_limit=limit_s)
        handle = robot.result(client.send_goal_async(goal, lambda m: feedback.append(m.feedback)), "goal")
        result = robot.result(handle.get_result_async(), "result").result
        assert result.error_code == ErrorCode.TIME_LIMIT
        assert limit_s <= result.duration < limit_s + DEADLINE_S
        if result.chunks:
            break
    assert result.chunks > 0
    robot.until(lambda: feedback and feedback[-1].inference_latency > 0.0, "feedback with a chunk")
    assert [sent.progress for sent in feedback] == pytest.approx(
        [min(sent.duration / limit_s, 1.0) for sent in feedback]
    )
    assert feedback[-1].observation_latency >= feedback[-1].inference_latency
    assert robot.until_state(PolicyStatus.IDLE).instruction == ""

    handle = robot.result(client.send_goal_async(RunPolicy.Goal(instruction="lift the cube")), "goal")
    robot.until_state(PolicyStatus.RUNNING)
    robot.result(handle.cancel_goal_async(), "cancel")
    assert robot.result(handle.get_result_async(), "result").result.error_code == ErrorCode.CANCELLED
    robot.until_state(PolicyStatus.IDLE)

    handle = robot.result(client.send_goal_async(RunPolicy.Goal(instruction="")), "goal")
    refused = robot.result(handle.get_result_async(), "result").result
    assert refused.error_code == ErrorCode.EMPTY_TEXT


def test_reset_ends_a_goal_that_nobody_canceled(robot: Robot) -> None:
    client = ActionClient(robot.node, RunPolicy, "policy/run_policy")
    robot.until(client.server_is_ready, "action server")
    handle = robot.result(client.send_goal_async(RunPolicy.Goal(instruction="lift the cube")), "goal")
    robot.until_state(PolicyStatus.RUNNING)
    assert robot.call(Trigger, "policy/reset").success
    ended = robot.result(handle.get_result_async(), "result")
    assert (ended.status, ended.result.error_code) == (GoalStatus.STATUS_ABORTED, ErrorCode.CANCELLED)
    robot.until_state(PolicyStatus.IDLE)
    client.destroy()


def test_status_and_diagnostics_tell_stages_ages_counts_and_smoothness(robot: Robot) -> None:
    arrays = robot.listen(DiagnosticArray, "/diagnostics")
    robot.instruct()
    robot.until_state(PolicyStatus.RUNNING)
    robot.has_camera = False
    robot.until_state(PolicyStatus.HOLDING, "'front'")

    def has_settled() -> bool:
        """Whether the status has the gate, and every stage of the last query: none begins while the robot is held."""
        counts = {stage.count for stage in robot.status.stages if stage.name in QUERY_STAGES}
        return any(gate.name == "front stale" for gate in robot.status.gates) and len(counts) == 1

    robot.until(has_settled, "gate")
    status = robot.status
    stages = {stage.name: stage for stage in status.stages}
    assert list(stages) == [
        *("receive joints", "receive front", "age joints", "age front", "ingest", "decode", "preprocess", "infer"),
        *("policy call", "publish", "query", "observation to chunk", "tick lateness", "tick jitter", "command"),
    ]
    for name, stage in stages.items():
        assert stage.count > 0, name
        assert stage.p50 <= stage.p95 <= stage.p99 <= stage.worst, name
    query, parts = stages["query"], [stages[name] for name in ("decode", "policy call", "publish")]
    assert query.p50 <= stages["observation to chunk"].p50
    # the query consists of its parts; the machine decides how long each takes
    assert all(part.p50 <= query.p50 for part in parts)
    assert sum(part.worst for part in parts) >= 0.5 * query.p50
    assert status.inference_latency_p50 == stages["policy call"].p50
    # the publishers' periods bound the ages from below, the gates from above
    assert 0.0 <= stages["age joints"].p50 <= 0.5
    assert 0.0 <= stages["receive joints"].p50 <= DEADLINE_S
    assert {metric.name for metric in status.jitter} == {"boundary jump", "velocity cosine", "acceleration arm"} | {
        "acceleration gripper"
    }
    holds = {hold.name: hold.count for hold in status.holds}
    assert holds["waiting"] >= 1
    assert holds["input"] >= 1
    assert sum(gate.count for gate in status.gates) >= status.refused_observations

    arrays.clear()
    robot.until(lambda: arrays, "diagnostics")
    names = [status.name for status in arrays[-1].status]
    assert names == ["/policy: policy", "/policy: timing", "/policy: smoothness", "/policy: joints", "/policy: front"]
    values = [{entry.key: entry.value for entry in status.values} for status in arrays[-1].status]
    assert float(values[1]["observation to chunk p95 [ms]"]) >= float(values[1]["infer p50 [ms]"]) > 0.0
    assert int(values[0]["refused: front stale"]) >= 1
    assert int(values[0]["held: input"]) >= 1
    assert "velocity cosine p50" in values[2]


def test_deactivation_holds_and_ends_with_exit_code_zero(files: dict[str, Path]) -> None:
    domain = next_domain()
    with Robot(domain) as robot, start_node(files, domain, instruction="lift the cube") as node:
        robot.until_state(PolicyStatus.RUNNING)
        response = robot.call(
            ChangeState, "policy/change_state", transition=Transition(id=Transition.TRANSITION_DEACTIVATE)
        )
        assert response.success
        count = len(robot.commands)
        robot.until_state(PolicyStatus.IDLE)
        end_s = time.monotonic() + 0.3
        robot.until(lambda: time.monotonic() > end_s, "quiet time")
        assert len(robot.commands) <= count + 1
        assert node.stop() == 0


REFUSED = [  # parameter, value, words of the reason
    ("checkpoint_path", "/nowhere", "/nowhere"),
    ("topics_file", "", "parameter 'topics_file' is empty"),
    ("limits_file", "short.yaml", "joint 'j1' has no entry"),
    ("topics_file", "other/topics.yaml", "fps"),
]


@pytest.fixture(scope="module")
def refused(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    """The nodes of `REFUSED`, started together: a start takes seconds."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "short.yaml").write_text("joints:\n  j0: {min: -1.0, max: 1.0, max_velocity: 1.0}\n")
    (folder / "other").mkdir()
    other = dataclasses.replace(make_embodiment(), fps=30)
    (folder / "other/embodiment.json").write_text(json.dumps(to_mapping(other)))
    (folder / "other/topics.yaml").write_text(TOPICS.format(embodiment="embodiment.json"))
    with ExitStack() as opened:
        nodes = []
        for name, value, _ in REFUSED:
            parameter = str(folder / value) if value.endswith(".yaml") else value
            nodes.append(opened.enter_context(start_node(files, next_domain(), **{name: parameter or "''"})))
        yield nodes


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=[" ".join(case[:2]) for case in REFUSED])
def test_what_does_not_fit_is_refused_at_configure(refused: list[NodeProcess], number: int) -> None:
    node = refused[number]
    assert node.wait() == 2
    line = next(line for line in node.output.splitlines() if "not configured" in line)
    assert REFUSED[number][2] in line
    assert "Traceback" not in node.output

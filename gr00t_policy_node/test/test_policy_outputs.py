# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The policy node as a separate process, with every way out at once: an arm with a hand on a driving base."""

from __future__ import annotations

import array
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from control_servers import GoalServer
from geometry_msgs.msg import PoseStamped, Twist, TwistStamped
from gr00t_msgs.msg import ActionChunk, PolicyStatus
from gr00t_msgs.srv import SetInstruction
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from gr00t_recorder.ros.processes import NodeProcess, next_domain
from gr00t_recorder.topics.commands import COMMAND_TYPES
from gr00t_test_support.builders import make_checkpoint, make_embodiment
from gr00t_test_support.ros.nodes import Peer, parameter_arguments
from gr00t_training.embodiment import Embodiment, Normalization, Pose, VectorKey, to_mapping

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TRAJECTORY, ARRAY, JOINT_STATE, TWIST, TWIST_STAMPED, POSE, FOLLOW, GRIPPER = COMMAND_TYPES
JOINTS = ("j0", "j1", "j2", "grip")
HAND = tuple(f"h{i}" for i in range(9))
BASE = ("vx", "wz")
COMMANDS = [
    {"topic": "arm/joint_trajectory", "type": TRAJECTORY, "keys": ["arm"]},
    {"topic": "all/commands", "type": ARRAY},
    {"topic": "arm/joint_command", "type": JOINT_STATE, "keys": ["arm", "gripper"]},
    {"topic": "cmd_vel", "type": TWIST, "keys": ["base"], "names": ["linear.x", "angular.z"]},
    {
        "topic": "servo/twist",
        "type": TWIST_STAMPED,
        "keys": ["base"],
        "names": ["linear.x", "angular.z"],
        "frame_id": "base_link",
    },
    {"topic": "hand/pose", "type": POSE, "keys": ["hand"], "frame_id": "base_link"},
    {"topic": "arm/follow", "type": FOLLOW, "keys": ["arm"]},
    {"topic": "gripper/command", "type": GRIPPER, "keys": ["gripper"], "max_effort": 20.0},
]


def make_robot() -> Embodiment:
    scaling = {"normalization": Normalization.MIN_MAX}
    hand = VectorKey(names=HAND, unit="m", pose=Pose.XYZ_ROTATION_6D, **scaling)
    base = VectorKey(names=BASE, unit="m/s", **scaling)
    robot = make_embodiment()
    state = {**robot.state, "hand": hand}
    return dataclasses.replace(robot, state=state, action={**state, "base": base})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, control_actions: ModuleType) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mobile_robot")
    robot = make_robot()
    (folder / "embodiment.json").write_text(json.dumps(to_mapping(robot)))
    streams = {
        "joints": {"topic": "joint_states", "type": "sensor_msgs/msg/JointState"},
        "hand": {"topic": "hand/state", "type": "geometry_msgs/msg/PoseStamped"},
        "front": {"topic": "front/image_raw", "type": "sensor_msgs/msg/Image"},
    }
    state = {key: {"stream": "hand" if key == "hand" else "joints"} for key in robot.state}
    topics = {"embodiment": "embodiment.json", "streams": streams, "state": state, "commands": COMMANDS}
    (folder / "topics.yaml").write_text(json.dumps({**topics, "video": {"front": {"stream": "front"}}}))
    limits = {name: {"min": -2.0, "max": 2.0, "max_velocity": 1.0} for name in (*JOINTS, *HAND)}
    limits |= {name: {"min": -0.5, "max": 0.5, "max_velocity": 2.0} for name in BASE}
    (folder / "limits.yaml").write_text(json.dumps({"joints": limits}))
    return {
        "checkpoint_path": make_checkpoint(folder / "checkpoint", robot),
        "topics_file": folder / "topics.yaml",
        "limits_file": folder / "limits.yaml",
    }


class MobileRobot(Peer):
    """Publishes its state and a camera while it spins, and takes commands in every way."""

    def __init__(self, domain: int, actions: ModuleType) -> None:
        super().__init__(domain)
        self.has_camera = True
        self._state_publishers = {
            message_type: self.node.create_publisher(message_type, topic, 10)
            for message_type, topic in ((JointState, "joint_states"), (PoseStamped, "hand/state"))
        }
        self._image_publisher = self.node.create_publisher(Image, "front/image_raw", 5)
        self.node.create_timer(0.02, self._publish_state)
        self.node.create_timer(0.05, self._publish_image)
        self.chunks = self.listen(ActionChunk, "policy/action_chunk")
        self.statuses = self.listen(PolicyStatus, "policy/status", LATCHED)
        types = (JointTrajectory, Float64MultiArray, JointState, Twist, TwistStamped, PoseStamped)
        self.commands: dict[type, list[Any]] = {
            message_type: self.listen(message_type, command["topic"])
            for message_type, command in zip(types, COMMANDS, strict=False)
        }
        self._actions = actions
        self.arm = self.offer_arm()
        self.gripper = GoalServer(self.node, actions.GripperCommand, "gripper/command")

    def offer_arm(self) -> GoalServer:
        return GoalServer(self.node, self._actions.FollowJointTrajectory, "arm/follow")

    def until_state(self, state: int, reason: str = "") -> None:
        def is_there() -> bool:
            return bool(self.statuses) and self.statuses[-1].state == state and reason in self.statuses[-1].reason

        try:
            self.until(is_there, f"state {state} '{reason}'")
        except AssertionError as error:
            last = self.statuses[-1] if self.statuses else PolicyStatus()
            raise AssertionError(f"{error}; last: {last.state} '{last.reason}'") from None

    def instruct(self) -> None:
        assert not self.call(SetInstruction, "policy/set_instruction", instruction="lift the cube").error_code

    def until_quiet(self, seconds: float = 0.5) -> None:
        """Wait until no command has come for that long."""
        received, since_ns = -1, 0

        def is_quiet() -> bool:
            nonlocal received, since_ns
            now_ns = self.node.get_clock().now().nanoseconds
            count = sum(map(len, self.commands.values()))
            if count != received:
                received, since_ns = count, now_ns
            return now_ns - since_ns > seconds * 1e9

        self.until(is_quiet, "no more commands")

    def rates(self) -> np.ndarray:
        """Return the velocities sent to the base (K, 2)."""
        return np.array([[twist.linear.x, twist.angular.z] for twist in self.commands[Twist]])

    def until_driving(self) -> None:
        self.until(lambda: len(self.rates()) and np.abs(self.rates()[-1]).max() > 0.01, "a base that drives")

    def _publish_state(self) -> None:
        pose = PoseStamped()
        pose.pose.orientation.w = 1.0
        for message in (JointState(name=list(JOINTS), position=[0.1] * 4), pose):
            message.header.stamp = self.node.get_clock().now().to_msg()
            self._state_publishers[type(message)].publish(message)

    def _publish_image(self) -> None:
        if self.has_camera:
            message = Image(height=32, width=48, encoding="rgb8", step=48 * 3)
            message.header.stamp = self.node.get_clock().now().to_msg()
            message.data = array.array("B", bytes(32 * 48 * 3))
            self._image_publisher.publish(message)


def start_node(files: dict[str, Path], domain: int, **parameters: object) -> NodeProcess:
    values = {"autostart": True, "control_rate_hz": 50.0, "inference_period_s": 0.1, "seed": 0, "device": "cpu"}
    arguments = parameter_arguments(**{**files, **values, **parameters})
    return NodeProcess("gr00t_policy_node.ros.policy_node", *arguments, domain=domain, OMP_NUM_THREADS="1")


@pytest.fixture(scope="module")
def shared(files: dict[str, Path], control_actions: ModuleType) -> Iterator[MobileRobot]:
    domain = next_domain()
    with MobileRobot(domain, control_actions) as robot, start_node(files, domain):
        robot.until_state(PolicyStatus.IDLE)
        yield robot


@pytest.fixture
def robot(shared: MobileRobot) -> Iterator[MobileRobot]:
    """The shared robot, with an idle policy node and nothing received."""
    shared.has_camera = True
    shared.until(lambda: all(stream.state == 0 for stream in shared.statuses[-1].streams), "healthy streams")
    for received in shared.commands.values():
        received.clear()
    yield shared
    shared.call(Trigger, "policy/reset")
    shared.until_state(PolicyStatus.IDLE)
    shared.until_quiet()


def test_every_output_carries_its_part_of_the_same_command(robot: MobileRobot) -> None:
    robot.instruct()
    robot.until_state(PolicyStatus.RUNNING)
    robot.until(lambda: min(map(len, robot.commands.values())) > 20 and robot.arm.goals and robot.gripper.goals, "all")
    robot.call(Trigger, "policy/reset")
    robot.until_quiet()
    # at rest all have said the same last
    (trajectory, values, joints, twist, stamped, pose) = (received[-1] for received in robot.commands.values())
    arm, grip, hand, base = np.split(np.array(values.data), [3, 4, 13])
    np.testing.assert_array_equal(trajectory.points[0].positions, arm)
    np.testing.assert_array_equal(joints.position, [*arm, *grip])
    assert (trajectory.joint_names, joints.name) == (["j0", "j1", "j2"], list(JOINTS))
    np.testing.assert_array_equal(base, [0.0, 0.0])
    assert stamped.twist == twist
    place, turn = pose.pose.position, pose.pose.orientation
    np.testing.assert_allclose([place.x, place.y, place.z], hand[:3])
    assert np.linalg.norm([turn.w, turn.x, turn.y, turn.z]) == pytest.approx(1.0)
    for message, frame in ((joints, ""), (stamped, "base_link"), (pose, "base_link")):
        assert message.header.frame_id == frame
        assert message.header.stamp.sec > 10**9
    goals = [goal.trajectory for goal in robot.arm.goals]
    assert goals[-1].joint_names == ["j0", "j1", "j2"]
    sent = np.array([message.points[0].positions for message in robot.commands[JointTrajectory]])
    assert any((np.abs(sent - goals[-1].points[-1].positions) < 1e-12).all(1))
    assert robot.gripper.goals[-1].command.max_effort == 20.0


def test_base_ramps_to_zero_when_the_camera_stops_and_stays_there(robot: MobileRobot) -> None:
    robot.instruct()
    robot.until_driving()
    robot.has_camera = False
    robot.until_state(PolicyStatus.HOLDING, "'front'")
    robot.until(lambda: not robot.rates()[-5:].any(), "zeros")
    count = len(robot.rates())
    robot.until(lambda: len(robot.rates()) > count + 10, "commands while holding")
    assert not robot.rates()[count:].any()
    stamped = robot.commands[TwistStamped]
    rates = np.array([[message.twist.linear.x, message.twist.angular.z] for message in stamped])
    times_s = np.array([message.header.stamp.sec + message.header.stamp.nanosec / 1e9 for message in stamped])
    # 2 m/s^2; a stamp is that of the sending, which may be late by a tick or so
    assert (np.abs(np.diff(rates, axis=0)) <= 2.0 * (np.diff(times_s)[:, None] + 0.03)).all()
    assert np.abs(rates).max() <= 0.5


def test_zeros_are_the_last_that_the_base_is_told_when_the_task_ends(robot: MobileRobot) -> None:
    robot.instruct()
    robot.until_driving()
    robot.call(Trigger, "policy/reset")
    robot.until_quiet()
    assert not robot.rates()[-1].any()
    robot.until(lambda: not robot.arm.running, "end of the arm's goal")


def test_arm_whose_server_goes_or_refuses_is_held_with_the_reason_and_goes_on(robot: MobileRobot) -> None:
    robot.instruct()
    robot.until_state(PolicyStatus.RUNNING)
    robot.arm.accepts = False
    robot.until_state(PolicyStatus.HOLDING, "action server 'arm/follow' rejected the goal")
    robot.arm.accepts = True
    robot.until_state(PolicyStatus.RUNNING)
    robot.arm.close()
    robot.until_state(PolicyStatus.HOLDING, "action server 'arm/follow' is not there")
    robot.until_quiet()
    assert not robot.rates()[-1].any()
    robot.arm = robot.offer_arm()
    robot.until_state(PolicyStatus.RUNNING)
    robot.until(lambda: robot.arm.goals, "goals")


def test_shadow_mode_sends_no_commands_and_no_goals(files: dict[str, Path], control_actions: ModuleType) -> None:
    domain = next_domain()
    with MobileRobot(domain, control_actions) as robot, start_node(files, domain, dry_run=True) as node:
        robot.until_state(PolicyStatus.IDLE)
        robot.instruct()
        robot.until_state(PolicyStatus.RUNNING)
        robot.until(lambda: len(robot.chunks) >= 5, "chunks")
        assert [received for received in robot.commands.values() if received] == []
        assert robot.arm.goals == robot.gripper.goals == []
        clients = [name for name, _ in robot.node.get_client_names_and_types_by_node("policy", "/")]
        assert [name for name in clients if "_action" in name] == []
        assert node.stop() == 0


def test_deactivation_stops_the_base_and_ends_the_goals(files: dict[str, Path], control_actions: ModuleType) -> None:
    domain = next_domain()
    with MobileRobot(domain, control_actions) as robot, start_node(files, domain, instruction="lift") as node:
        robot.until_driving()
        transition = Transition(id=Transition.TRANSITION_DEACTIVATE)
        assert robot.call(ChangeState, "policy/change_state", transition=transition).success
        robot.until_quiet()
        assert not robot.rates()[-1].any()
        robot.until(lambda: not robot.arm.running, "end of the arm's goal")
        assert node.stop() == 0

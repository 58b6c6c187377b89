# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Every way out: the messages of a command, and goals to real action servers."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from action_msgs.srv import CancelGoal
from control_servers import GoalServer
from geometry_msgs.msg import PoseStamped, Twist, TwistStamped
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from gr00t_policy_node.ros.command_messages import (
    ArrayEncoder,
    Channels,
    JointStateEncoder,
    PoseEncoder,
    TrajectoryEncoder,
    TwistEncoder,
)
from gr00t_policy_node.ros.outputs import make_output
from gr00t_recorder.ros.processes import next_domain
from gr00t_recorder.topics.commands import COMMAND_TYPES, CommandConfig
from gr00t_test_support.ros.nodes import Peer
from gr00t_training.embodiment import Pose, Rotation, VectorKey
from gr00t_training.errors import ConfigError
from gr00t_training.rotations import convert

TRAJECTORY, ARRAY, JOINT_STATE, TWIST, TWIST_STAMPED, POSE, FOLLOW, GRIPPER = COMMAND_TYPES
STAMP_NS = 12_000_000_034
PERIOD_NS = 20_000_000
KEYS = {
    "arm": VectorKey(names=("j0", "j1"), unit="deg"),
    "gripper": VectorKey(names=("grip",), unit="mm"),
    "base": VectorKey(names=("vx", "wz"), unit="m/s"),
}
COMMAND = np.array([90.0, -180.0, 40.0, 0.3, -0.7])
# a turn of 90 degrees about z, as a quaternion w x y z
QUARTER = np.array([math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)])


def config(type_name: str, **settings: Any) -> CommandConfig:
    return CommandConfig(topic="out", type=type_name, **settings)


def channels(command: CommandConfig, keys: dict[str, VectorKey] = KEYS) -> Channels:
    command.check(keys)
    return Channels(command, keys)


def stamp_ns(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def test_joint_trajectory_is_reached_within_a_control_period() -> None:
    command = config(TRAJECTORY, keys=("gripper", "arm"), names=("finger", "a", "b"), frame_id="world")
    message = TrajectoryEncoder(command, channels(command), PERIOD_NS)(COMMAND, STAMP_NS)
    assert isinstance(message, JointTrajectory)
    assert (message.joint_names, message.header.frame_id) == (["finger", "a", "b"], "world")
    assert stamp_ns(message) == 0  # on arrival
    (point,) = message.points
    np.testing.assert_allclose(point.positions, [0.04, math.pi / 2, -math.pi])
    assert (point.time_from_start.sec, point.time_from_start.nanosec) == (0, PERIOD_NS)


def test_array_holds_all_channels_in_units_of_the_embodiment() -> None:
    command = config(ARRAY)
    message = ArrayEncoder(channels(command))(COMMAND, STAMP_NS)
    assert isinstance(message, Float64MultiArray)
    assert message.data.tolist() == COMMAND.tolist()


def test_joint_state_holds_positions_or_velocities() -> None:
    command = config(JOINT_STATE, keys=("arm",), frame_id="base_link")
    message = JointStateEncoder(command, channels(command))(COMMAND, STAMP_NS)
    assert isinstance(message, JointState)
    assert (stamp_ns(message), message.header.frame_id, message.name) == (STAMP_NS, "base_link", ["j0", "j1"])
    np.testing.assert_allclose(message.position, [math.pi / 2, -math.pi])
    assert len(message.velocity) == 0
    wheels = {"wheels": VectorKey(names=("left", "right"), unit="rpm")}
    command = config(JOINT_STATE)
    message = JointStateEncoder(command, channels(command, wheels))(np.array([60.0, -30.0]), STAMP_NS)
    np.testing.assert_allclose(message.velocity, [2 * math.pi, -math.pi])
    assert len(message.position) == 0


def test_twist_has_zeros_where_no_channel_is() -> None:
    command = config(TWIST_STAMPED, keys=("base",), names=("linear.x", "angular.z"), frame_id="base_link")
    message = TwistEncoder(command, channels(command))(COMMAND, STAMP_NS)
    assert isinstance(message, TwistStamped)
    assert (stamp_ns(message), message.header.frame_id) == (STAMP_NS, "base_link")
    linear, angular = message.twist.linear, message.twist.angular
    assert (linear.x, linear.y, linear.z, angular.x, angular.y, angular.z) == (0.3, 0.0, 0.0, 0.0, 0.0, -0.7)


def test_twist_of_six_channels_goes_by_their_order() -> None:
    keys = {
        "moving": VectorKey(names=("vx", "vy", "vz"), unit="mm/s"),
        "turning": VectorKey(names=("wx", "wy", "wz"), unit="deg/s"),
    }
    command = config(TWIST)
    message = TwistEncoder(command, channels(command, keys))(np.array([100.0, 200.0, 300.0, 90.0, 180.0, -90.0]), 0)
    assert isinstance(message, Twist)
    np.testing.assert_allclose([message.linear.x, message.linear.y, message.linear.z], [0.1, 0.2, 0.3])
    turning = [message.angular.x, message.angular.y, message.angular.z]
    np.testing.assert_allclose(turning, [math.pi / 2, math.pi, -math.pi / 2])


@pytest.mark.parametrize("form", list(Rotation))
def test_pose_of_a_position_and_a_rotation_in_every_form(form: Rotation) -> None:
    rotation = convert(QUARTER, Rotation.QUATERNION, form)
    turn = VectorKey(names=tuple(f"r{i}" for i in range(len(rotation))), rotation=form)
    check_pose({"place": VectorKey(names=("x", "y", "z"), unit="mm"), "turn": turn}, [100.0, 200.0, 300.0, *rotation])


@pytest.mark.parametrize("form", list(Pose))
def test_pose_of_one_key_in_every_form(form: Pose) -> None:
    if form is Pose.MATRIX:
        values = [0, -1, 0, 0.1, 1, 0, 0, 0.2, 0, 0, 1, 0.3, 0, 0, 0, 1]
    else:
        rotation = Rotation.ROTATION_6D if form is Pose.XYZ_ROTATION_6D else Rotation.AXIS_ANGLE
        values = [0.1, 0.2, 0.3, *convert(QUARTER, Rotation.QUATERNION, rotation)]
    check_pose({"hand": VectorKey(names=tuple(f"h{i}" for i in range(len(values))), pose=form)}, values)


def check_pose(keys: dict[str, VectorKey], values: list[float]) -> None:
    command = config(POSE, frame_id="base_link")
    message = PoseEncoder(command, channels(command, keys))(np.array(values, float), STAMP_NS)
    assert isinstance(message, PoseStamped)
    assert (stamp_ns(message), message.header.frame_id) == (STAMP_NS, "base_link")
    place, turn = message.pose.position, message.pose.orientation
    np.testing.assert_allclose([place.x, place.y, place.z], [0.1, 0.2, 0.3])
    np.testing.assert_allclose([turn.w, turn.x, turn.y, turn.z], QUARTER, atol=1e-12)


def test_pose_has_a_unit_quaternion_though_limits_bent_the_matrix() -> None:
    command = config(POSE, frame_id="base_link")
    keys = {"hand": VectorKey(names=tuple(f"h{i}" for i in range(16)), pose=Pose.MATRIX)}
    values = np.array([0.1, -0.8, 0, 0, 0.9, 0.05, 0, 0, 0.1, 0, 0.7, 0, 0, 0, 0, 1], float)
    turn = PoseEncoder(command, channels(command, keys))(values, 0).pose.orientation
    quaternion = np.array([turn.w, turn.x, turn.y, turn.z])
    assert np.linalg.norm(quaternion) == pytest.approx(1.0, abs=1e-12)
    assert abs(quaternion @ QUARTER) > 0.99


class Machine(Peer):
    """A lifecycle node that commands, and the node of this process that listens, in one executor."""

    def __init__(self) -> None:
        super().__init__(next_domain(), "machine")
        self.driver = LifecycleNode("driver", context=self._context)
        self._executor.add_node(self.driver)

    def __exit__(self, *arguments: Any) -> None:
        self.driver.destroy_node()
        super().__exit__(*arguments)

    def now_ns(self) -> int:
        return self.driver.get_clock().now().nanoseconds

    def spin_for(self, seconds: float) -> None:
        end_ns = self.now_ns() + seconds * 1e9
        self.until(lambda: self.now_ns() > end_ns, "time")


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


def test_topic_output_publishes_what_it_is_told(machine: Machine) -> None:
    output = make_output(machine.driver, config(ARRAY), KEYS, PERIOD_NS)
    machine.driver.trigger_configure()
    machine.driver.trigger_activate()
    received = machine.listen(Float64MultiArray, "out")
    machine.until(lambda: output.send(COMMAND, STAMP_NS) or received, "message")
    assert received[0].data.tolist() == COMMAND.tolist()
    assert output.fault(STAMP_NS) == ""
    output.close()
    published = machine.driver.get_publisher_names_and_types_by_node("driver", "/")
    assert "/out" not in [name for name, _ in published]


def test_command_that_no_pose_is_a_fault_until_the_robot_rests(machine: Machine) -> None:
    keys = {
        "place": VectorKey(names=("x", "y", "z"), unit="m"),
        "turn": VectorKey(names=("w", "i", "j", "k"), rotation=Rotation.QUATERNION),
    }
    output = make_output(machine.driver, config(POSE, frame_id="base_link"), keys, PERIOD_NS)
    output.send(np.zeros(7), STAMP_NS)
    assert output.fault(STAMP_NS) == "out: a quaternion has no length or is not finite, expected a rotation"
    output.halt()
    assert output.fault(STAMP_NS) == ""


def follow(machine: Machine, **settings: Any) -> Any:
    return make_output(machine.driver, config(FOLLOW, keys=("arm",), **settings), KEYS, PERIOD_NS)


def until_ready(machine: Machine, output: Any) -> None:
    machine.until(lambda: not output.fault(machine.now_ns()), "action server")


def test_trajectory_goals_come_at_their_rate_and_end_at_the_command(
    machine: Machine, control_actions: ModuleType
) -> None:
    output = follow(machine, names=("a", "b"))
    assert output.fault(machine.now_ns()) == "action server 'out' is not there"
    server = GoalServer(machine.node, control_actions.FollowJointTrajectory, "out")
    until_ready(machine, output)
    start_ns = machine.now_ns()
    for late_ms in (0, 20, 81, 99, 120, 181, 400):  # a tick comes half a control period early at most
        output.send(COMMAND * (1 + late_ms / 1000), start_ns + late_ms * 10**6)
    machine.until(lambda: len(server.goals) >= 3, "goals")
    assert [goal.trajectory.joint_names for goal in server.goals] == [["a", "b"]] * 3
    assert all(stamp_ns(goal.trajectory) == 0 for goal in server.goals)
    points = [point for goal in server.goals for point in goal.trajectory.points]
    arm = np.array([math.pi / 2, -math.pi])
    np.testing.assert_allclose([point.positions for point in points], [arm, 1.099 * arm, 1.4 * arm])
    # the last one has farther to go, and takes as long as the command took
    assert [point.time_from_start.nanosec for point in points] == [100_000_000, 100_000_000, 301_000_000]
    # that the server aborts what another goal replaces is not a fault
    machine.until(lambda: server.running == [2], "end of the first two")
    machine.spin_for(0.2)
    assert output.fault(machine.now_ns()) == ""
    output.close()


def test_halt_cancels_the_goal_even_before_it_is_accepted(machine: Machine, control_actions: ModuleType) -> None:
    output = follow(machine, goal_period_s=2.0)
    server = GoalServer(machine.node, control_actions.FollowJointTrajectory, "out")
    until_ready(machine, output)
    output.send(COMMAND, machine.now_ns())
    machine.until(lambda: server.running, "goal")
    machine.spin_for(0.2)  # the answer is on its way
    output.halt()
    machine.until(lambda: server.cancelled == [0], "cancel")
    output.send(COMMAND, machine.now_ns())  # at once, though the period is not over: a new motion
    output.halt()
    machine.until(lambda: server.cancelled == [0, 1], "cancel")
    machine.until(lambda: not server.running, "end")
    machine.spin_for(0.2)
    assert output.fault(machine.now_ns()) == ""


def test_answer_to_a_goal_that_is_handled_after_the_end_does_not_end_the_node(
    machine: Machine, control_actions: ModuleType
) -> None:
    output = follow(machine)
    server = GoalServer(machine.node, control_actions.FollowJointTrajectory, "out")
    until_ready(machine, output)
    sender = output._sender
    answer = sender._client.send_goal_async(control_actions.FollowJointTrajectory.Goal())
    machine.until(answer.done, "answer")
    output.close()
    machine.spin_for(0.1)  # the executor lets go of the client
    sender._on_answer(1, answer)
    assert server.goals


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("reject", "action server 'out' rejected the goal"),
        ("abort", "action server 'out' aborted the goal (error -4: j0 is behind)"),
        ("cancel", "action server 'out' canceled the goal; another client may command the same joints"),
    ],
)
def test_trajectory_goal_that_is_not_carried_out_is_a_fault_for_a_while(
    machine: Machine, control_actions: ModuleType, way: str, message: str
) -> None:
    output = follow(machine)
    server = GoalServer(machine.node, control_actions.FollowJointTrajectory, "out")
    server.accepts = way != "reject"
    until_ready(machine, output)
    output.send(COMMAND, machine.now_ns())
    machine.until(lambda: server.running or server.rejected, "goal")
    if way == "abort":
        server.end("abort")
    elif way == "cancel":  # all goals, as any client may ask for
        machine.call(CancelGoal, "out/_action/cancel_goal")
    machine.until(lambda: output.fault(machine.now_ns()), "fault")
    assert output.fault(machine.now_ns()) == message
    output.halt()
    assert output.fault(machine.now_ns()) == message
    until_ready(machine, output)  # it is tried again
    server.accepts = True
    output.send(COMMAND, machine.now_ns())
    machine.until(lambda: server.running, "goal")
    server.end("succeed")
    machine.spin_for(0.2)
    assert output.fault(machine.now_ns()) == ""


def test_server_that_does_not_answer_or_goes_is_a_fault(machine: Machine, control_actions: ModuleType) -> None:
    silent = LifecycleNode("silent", context=machine.node.context)  # not spun
    server = GoalServer(silent, control_actions.FollowJointTrajectory, "out")
    output = follow(machine)
    until_ready(machine, output)
    now_ns = machine.now_ns()
    output.send(COMMAND, now_ns)
    assert output.fault(now_ns + 900_000_000) == ""
    assert output.fault(now_ns + 1_100_000_000) == "action server 'out' does not answer"
    server.close()
    silent.destroy_node()
    machine.until(lambda: "not there" in output.fault(machine.now_ns()), "end of the server")


def test_gripper_goals_come_when_the_position_changes(machine: Machine, control_actions: ModuleType) -> None:
    settings = {"keys": ("gripper",), "max_effort": 40.0, "min_change": 0.002}
    output = make_output(machine.driver, config(GRIPPER, **settings), KEYS, PERIOD_NS)
    assert output.fault(machine.now_ns()) == "action server 'out' is not there"
    server = GoalServer(machine.node, control_actions.GripperCommand, "out", replaces=False)
    until_ready(machine, output)
    start_ns = machine.now_ns()

    def send(late_ms: int, position_mm: float) -> None:
        output.send(np.array([0.0, 0.0, position_mm, 0.0, 0.0]), start_ns + late_ms * 10**6)

    for late_ms, position_mm in ((0, 40.0), (200, 41.0), (400, 38.5), (420, 30.0), (440, 20.0), (510, 10.0)):
        send(late_ms, position_mm)
        machine.spin_for(0.1)
    machine.until(lambda: len(server.goals) == 2, "goals")
    commands = [goal.command for goal in server.goals]
    # 41 and 38.5 are near 40; 30 goes at once, 20 is too soon after it, and so is 10
    np.testing.assert_allclose([command.position for command in commands], [0.04, 0.03])
    assert [command.max_effort for command in commands] == [40.0, 40.0]
    send(530, 10.0)
    machine.until(lambda: len(server.goals) == 3, "goal")
    # a server that would carry out one after the other is not left with old ones
    machine.until(lambda: server.cancelled == [0, 1], "cancel")
    output.halt()
    server.end("abort")  # it holds something
    machine.spin_for(0.2)
    assert server.cancelled == [0, 1]
    assert output.fault(machine.now_ns()) == ""
    # a new task begins with a goal
    send(700, 10.0)
    machine.until(lambda: len(server.goals) == 4, "goal")


def test_action_without_its_package_is_refused_with_a_remedy(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "control_msgs.action", None)
    with pytest.raises(ConfigError, match="package 'control_msgs' is not installed here; install it or source"):
        make_output(machine.driver, config(GRIPPER, keys=("gripper",)), KEYS, PERIOD_NS)

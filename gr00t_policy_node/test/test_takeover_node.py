# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A leader arm, teleop_node and policy_node as processes: hand-over, a killed link, moves and replays."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from gr00t_msgs.action import MoveTo, ReplayMotion
from gr00t_msgs.msg import CommandSource, ErrorCode, PolicyStatus, TeleopTarget
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action.client import ActionClient
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger
from test_policy_node import CONTROL_HZ, MAX_VELOCITY, POSE, Robot, files, start_node  # noqa: F401 - a fixture

from gr00t_policy_node.ros.messages import duration
from gr00t_recorder.ros.processes import NodeProcess, next_domain
from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_test_support.ros.nodes import Peer, parameter_arguments
from gr00t_test_support.waiting import DEADLINE_S
from gr00t_training.dataset.writer import DatasetWriter

pytestmark = pytest.mark.slow
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
LINK_TIMEOUT_S = 1.0  # loaded machines deliver late
LEADER = "name: leader\nleader:\n  topic: leader/joint_states\n  joints: {j0: {joint: m0}, j1: {}, j2: {}, grip: {}}\n"


class Workplace(Robot):
    """A robot that goes where it is sent, and a leader arm at 50 Hz."""

    def __init__(self, domain: int) -> None:
        super().__init__(domain)
        self.leader = {"m0": 0.0, "j1": 0.0, "j2": 0.0, "grip": 0.1}
        self.has_leader = True
        self.sources = self.listen(CommandSource, "policy/command_source")
        self.targets = self.listen(TeleopTarget, "policy/teleop")
        self._num_seen = 0  # sources before the one that was last waited for
        self._leader_publisher = self.node.create_publisher(JointState, "leader/joint_states", 10)
        self.node.create_timer(0.02, self._publish_leader)
        self.teleop = self.node.create_publisher(TeleopTarget, "policy/teleop", 10)

    def forget_sources(self) -> None:
        """Have `until_source` look at what comes from now on."""
        self._num_seen = len(self.sources)

    def until_source(self, source: int) -> CommandSource:
        """Return the first message with this source that came after the one that was waited for before."""

        def find() -> CommandSource | None:
            for number in range(self._num_seen, len(self.sources)):
                if self.sources[number].source == source:
                    self._num_seen = number
                    return self.sources[number]
            return None

        try:
            return self.until(find, f"command source {source}")
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.status.reason}; {self.status.teleop_fault}") from None

    def _publish_leader(self) -> None:
        for message in self.commands[-1:]:
            self.pose |= dict(zip(message.joint_names, message.points[0].positions, strict=True))
        if self.has_leader:
            message = JointState(name=list(self.leader), position=list(self.leader.values()))
            message.header.stamp = self.node.get_clock().now().to_msg()
            self._leader_publisher.publish(message)


def start_teleop(tmp_path: Path, domain: int) -> NodeProcess:
    (tmp_path / "teleop.yaml").write_text(LEADER)
    arguments = parameter_arguments(teleop_file=tmp_path / "teleop.yaml")
    return NodeProcess("gr00t_policy_node.ros.teleop_node", *arguments, domain=domain)


@pytest.fixture
def place(files: dict[str, Path], tmp_path: Path) -> Iterator[tuple[Workplace, int]]:  # noqa: F811
    limits = tmp_path / "limits.yaml"
    limits.write_text(files["limits_file"].read_text()[:-1] + ', "poses": {"home": {"j0": 0.3, "j1": -0.3}}}')
    domain = next_domain()
    with (
        Workplace(domain) as robot,
        start_node({**files, "limits_file": limits}, domain, teleop_timeout_s=LINK_TIMEOUT_S),
    ):
        robot.until_state(PolicyStatus.IDLE)
        yield robot, domain


def test_a_leader_takes_over_and_the_death_of_its_node_holds_the_robot(
    place: tuple[Workplace, int], tmp_path: Path
) -> None:
    robot, domain = place
    robot.until(lambda: robot.sources, "source without a task")
    assert robot.sources[-1].source == CommandSource.NONE
    with start_teleop(tmp_path, domain) as teleop:
        robot.instruct()
        robot.until_source(CommandSource.POLICY)
        first = len(robot.commands)
        assert robot.call(SetBool, "teleop/engage", data=True).success
        assert robot.until_source(CommandSource.PERSON).device == "leader"

        def is_there() -> bool:
            return bool(np.allclose(robot.commands[-1].points[0].positions, [0.0, 0.0, 0.0], atol=1e-6))

        robot.until(is_there, "the leader's pose")
        robot.leader["m0"] = -0.2
        robot.until(lambda: abs(robot.commands[-1].points[0].positions[0] + 0.2) < 1e-6, "the leader's new pose")
        positions = np.array([message.points[0].positions for message in robot.commands[first:]])
        assert np.abs(np.diff(positions, axis=0)).max() <= 2 * MAX_VELOCITY / CONTROL_HZ + 1e-6
        # one source for every control tick, and so for every command
        counts = len(robot.sources), len(robot.commands)
        robot.new_commands(20)
        assert abs((len(robot.sources) - counts[0]) - (len(robot.commands) - counts[1])) <= 1

        teleop.process.kill()

        def end_ns() -> int:
            return stamp_ns(robot.targets[-1]) + round(LINK_TIMEOUT_S * 1e9)

        robot.until(lambda: stamp_ns(robot.sources[-1]) > end_ns(), "time limit of the link")
        held = robot.sources[-1]
        last_of_person = next(message for message in robot.sources[::-1] if message.source == CommandSource.PERSON)
        assert held.source == CommandSource.HOLD
        assert stamp_ns(last_of_person) <= end_ns()
        assert held.device == "leader"
        status = robot.until_state(PolicyStatus.HOLDING, "device 'leader' is silent for more than 1 s")
        assert (status.cause, status.command_source) == (PolicyStatus.CAUSE_LINK, CommandSource.HOLD)
        assert np.ptp(robot.new_commands(10), axis=0).max() == 0.0

    with start_teleop(tmp_path, domain) as teleop:
        robot.until(lambda: "in control" in teleop.output, "status at the new node")
        assert np.ptp(robot.new_commands(20), axis=0).max() == 0.0  # a restart says nothing
        assert robot.sources[-1].source == CommandSource.HOLD
        # by topic: the service of the killed node is still known for a while
        word = robot.node.create_publisher(Bool, "teleop/engage", 10)

        def is_given_back() -> bool:
            word.publish(Bool(data=False))
            return robot.sources[-1].source == CommandSource.POLICY

        robot.until(is_given_back, "policy in command")
        assert robot.status.takeovers == 1


def test_who_engaged_before_the_activation_commands_after_disengaging_once(place: tuple[Workplace, int]) -> None:
    robot, _ = place

    def change(transition: int) -> None:
        assert robot.call(ChangeState, "policy/change_state", transition=Transition(id=transition)).success

    def says(fault: str, is_engaged: bool = True) -> bool:
        target = TeleopTarget(source="arm", is_engaged=is_engaged, names=["j0"], positions=[0.1])
        robot.teleop.publish(target)
        return fault in robot.status.teleop_fault

    change(Transition.TRANSITION_DEACTIVATE)
    robot.until(lambda: says("'arm' is engaged, but no task runs"), "device that engages while the node is inactive")
    change(Transition.TRANSITION_ACTIVATE)
    robot.instruct()
    robot.until(lambda: says("'arm' must disengage first"), "device that must disengage")
    robot.until(lambda: says("") and robot.sources[-1].source == CommandSource.POLICY, "policy in command")
    assert robot.status.takeovers == 0
    robot.until(lambda: says("", is_engaged=False) and not robot.status.teleop_fault, "device that has disengaged")
    robot.until(lambda: says("") and robot.sources[-1].source == CommandSource.PERSON, "person in command")


def test_moves_and_replays_reach_their_end_and_are_refused_or_interrupted_with_the_reason(
    place: tuple[Workplace, int],
) -> None:
    robot, _ = place
    move = ActionClient(robot.node, MoveTo, "policy/move_to")
    replay = ActionClient(robot.node, ReplayMotion, "policy/replay")
    robot.until(lambda: move.server_is_ready() and replay.server_is_ready(), "actions")

    def run(client: ActionClient, goal: object) -> object:
        handle = robot.result(client.send_goal_async(goal), "goal")
        return robot.result(handle.get_result_async(), "result").result

    refused = run(move, MoveTo.Goal(pose="hom"))
    assert (refused.error_code, refused.error_msg) == (
        ErrorCode.INVALID_POSE,
        "pose 'hom' is not known; 'poses' of the limits: home",
    )
    done = run(move, MoveTo.Goal(pose="home", speed=1.0))
    assert (done.error_code, done.error_msg) == (ErrorCode.NONE, "")
    np.testing.assert_allclose(robot.commands[-1].points[0].positions, [0.3, -0.3, POSE["j2"]], atol=1e-3)
    assert CommandSource.MOTION in [message.source for message in robot.sources]

    # one that begins before the end of another was told
    robot.until(lambda: robot.sources[-1].source == CommandSource.NONE, "end of the move")
    robot.forget_sources()
    first = robot.result(move.send_goal_async(MoveTo.Goal(names=["j0"], positions=[0.28], speed=1.0)), "goal")
    robot.until_source(CommandSource.MOTION)
    robot.until_source(CommandSource.NONE)
    assert run(move, MoveTo.Goal(pose="home", speed=1.0)).error_code == ErrorCode.NONE
    assert robot.result(first.get_result_async(), "result").result.error_code == ErrorCode.NONE

    rows = np.linspace([0.3, -0.3], [0.1, -0.1], 11)
    goal = ReplayMotion.Goal(names=["j0", "j1"], step=duration(100_000_000), data=rows.ravel().tolist())
    done = run(replay, goal)
    assert done.error_code == ErrorCode.NONE
    assert 0.9 < done.duration < DEADLINE_S
    np.testing.assert_allclose(robot.commands[-1].points[0].positions, [0.1, -0.1, POSE["j2"]], atol=1e-3)
    far = run(replay, goal)  # the robot is at the end of it
    assert far.error_code == ErrorCode.NOT_ALIGNED and "move to the first row first" in far.error_msg

    robot.instruct()
    robot.until_state(PolicyStatus.RUNNING)
    assert run(move, MoveTo.Goal(pose="home")).error_code == ErrorCode.BUSY
    robot.call(Trigger, "policy/reset")
    robot.until_state(PolicyStatus.IDLE)
    robot.forget_sources()
    handle = robot.result(move.send_goal_async(MoveTo.Goal(names=["j0"], positions=[1.5], speed=0.1)), "goal")
    robot.until_source(CommandSource.MOTION)
    robot.call(Trigger, "policy/stop")
    stopped = robot.result(handle.get_result_async(), "result").result
    assert (stopped.error_code, stopped.error_msg) == (ErrorCode.STOPPED, "stop service called")
    for client in (move, replay):
        client.destroy()


def stamp_ns(message: CommandSource | TeleopTarget) -> int:
    return Time.from_msg(message.header.stamp).nanoseconds


GAMEPAD = """name: gamepad
gamepad: {axes: {j0: {axis: 0, rate: 0.25}}, buttons: {grip: {plus: 1, rate: 0.1}}}
engage_button: 0
"""


def test_a_gamepad_moves_a_robot_without_a_policy(files: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "teleop.yaml").write_text(GAMEPAD)
    domain = next_domain()
    without = {name: path for name, path in files.items() if name != "checkpoint_path"}
    arguments = parameter_arguments(teleop_file=tmp_path / "teleop.yaml")
    with (
        Workplace(domain) as robot,
        start_node(without, domain, teleop="always", teleop_timeout_s=10.0) as node,
        NodeProcess("gr00t_policy_node.ros.teleop_node", *arguments, domain=domain) as teleop,
    ):
        joy = robot.node.create_publisher(Joy, "joy", 10)
        targets = robot.listen(TeleopTarget, "policy/teleop")
        stick, buttons = 1.0, [0, 0]
        sent: list[Joy] = []

        def publish() -> None:
            sent.append(Joy(axes=[stick], buttons=buttons))
            joy.publish(sent[-1])

        robot.node.create_timer(0.02, publish)
        robot.until_state(PolicyStatus.IDLE)
        robot.until(lambda: joy.get_subscription_count() == 2, "teleop_node")
        count = len(sent) + 10
        robot.until(lambda: len(sent) > count, "some messages")
        assert not targets and not robot.commands
        buttons = [1, 0]  # engages
        robot.until(lambda: targets, f"targets; {teleop.output}")
        assert (targets[0].source, targets[0].is_engaged) == ("gamepad", True)
        assert (list(targets[0].rate_names), list(targets[0].rates)) == (["j0", "grip"], [0.25, 0.0])
        robot.until_source(CommandSource.PERSON)
        # never faster, and as fast where a tick is not early
        steps = np.diff(robot.new_commands(20)[5:, 0])
        assert steps.min() > 0.0
        np.testing.assert_allclose(steps.max(), 0.25 / CONTROL_HZ, rtol=1e-6)
        stick = 0.0
        robot.until(lambda: np.ptp(robot.new_commands(5), axis=0).max() == 0.0, "rest")
        buttons, count = [0, 0], len(sent) + 2
        robot.until(lambda: len(sent) > count, "released button")
        robot.forget_sources()
        buttons = [1, 0]  # disengages
        robot.until_source(CommandSource.NONE)
        assert not targets[-1].is_engaged
        robot.teleop.publish(TeleopTarget(source="gamepad"))  # a second one of this name
        robot.until(lambda: "another device is named 'gamepad'" in teleop.output, "refusal")
        # a task has nobody to do it
        robot.instruct()
        assert "this node has no policy" in robot.until_state(PolicyStatus.HOLDING, "no policy").reason
        assert "no policy: only persons, moves and replays" in node.output


def test_an_episode_is_replayed_from_a_dataset(place: tuple[Workplace, int], tmp_path: Path) -> None:
    robot, domain = place
    embodiment = make_embodiment()
    with DatasetWriter(tmp_path / "dataset", embodiment) as writer:
        episode = writer.start_episode("lift")
        for i, frame in enumerate(make_frames(embodiment, 11)):
            values = {"arm": np.array([0.4 - 0.02 * i, -0.5, 0.2]), "gripper": np.array([0.1])}
            episode.add_frame(dataclasses.replace(frame, action=values))
        episode.save()
    arguments = [str(tmp_path / "dataset"), "0"]
    with NodeProcess("gr00t_policy_node.ros.replay", *arguments, domain=domain) as command:
        robot.until(lambda: command.process.poll() is not None, "end of the command")
        assert command.process.returncode == 0, command.output
        assert "moved to the first row of episode 0 in" in command.output
        assert "replayed 11 rows in" in command.output
    np.testing.assert_allclose(robot.commands[-1].points[0].positions, [0.2, -0.5, 0.2], atol=1e-3)
    with NodeProcess("gr00t_policy_node.ros.replay", "--pose", "home", domain=domain) as command:
        robot.until(lambda: command.process.poll() is not None, "end of the command")
        assert command.process.returncode == 0, command.output
        assert "moved to pose 'home' in" in command.output
    np.testing.assert_allclose(robot.commands[-1].points[0].positions, [0.3, -0.3, 0.2], atol=1e-3)
    robot.forget_sources()
    with NodeProcess("gr00t_policy_node.ros.replay", *arguments, domain=domain) as command:
        robot.until_source(CommandSource.MOTION)
        command.interrupt()
        robot.until(lambda: command.process.poll() is not None, "end of the command")
        assert command.process.returncode == 130
        assert "interrupted; the robot was brought to rest" in command.output
        robot.forget_sources()
        robot.until_source(CommandSource.NONE)
    robot.instruct()
    robot.until_state(PolicyStatus.RUNNING)
    with NodeProcess("gr00t_policy_node.ros.replay", *arguments, domain=domain) as command:
        robot.until(lambda: command.process.poll() is not None, "end of the command")
        assert command.process.returncode == 2
        assert "error: 'policy': a task runs; end that first" in command.output


def test_a_replay_waits_for_a_node_that_starts_up_and_for_its_inputs(
    files: dict[str, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    domain = next_domain()
    limits = tmp_path / "limits.yaml"
    limits.write_text(files["limits_file"].read_text()[:-1] + ', "poses": {"home": {"j0": 0.3, "j1": -0.3}}}')
    words = ["--pose", "home", "--wait-ready"]
    with NodeProcess("gr00t_policy_node.ros.replay", *words, str(DEADLINE_S), domain=domain) as command:
        with start_node({**files, "limits_file": limits}, domain, autostart=False), Peer(domain) as peer:
            peer.call(ChangeState, "policy/change_state", transition=Transition(id=Transition.TRANSITION_CONFIGURE))
            statuses = peer.listen(PolicyStatus, "policy/status", LATCHED)
            peer.until(lambda: statuses, "status")
            with NodeProcess("gr00t_policy_node.ros.replay", *words, "4", domain=domain) as blind:
                peer.until(lambda: blind.process.poll() is not None, "end of the command without a robot")
                assert "error: 'policy' does not see the robot: " in blind.output
            with Workplace(domain) as robot:
                robot.until(lambda: robot.status.streams and not any(s.state for s in robot.status.streams), "inputs")
                peer.call(ChangeState, "policy/change_state", transition=Transition(id=Transition.TRANSITION_ACTIVATE))
                robot.until(lambda: command.process.poll() is not None, "end of the command")
        assert command.process.returncode == 0, command.output

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A scripted leader arm: demonstrates the task of the simulated robot a number of times, and marks the episodes.

Publishes the commanded positions as a leader arm would (that is what gets recorded as the action) and sends the same
to the arm, or as a person's targets to policy_node. What to do next is one generator, advanced by one step per tick of
a timer; nothing blocks the executor.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from geometry_msgs.msg import PoseArray
from gr00t_msgs.msg import PolicyStatus, RecorderStatus, TeleopTarget
from rclpy.client import Client
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from gr00t_bringup.sim.expert import Demonstration, plan_demonstration
from gr00t_bringup.sim.kinematics import JOINTS
from gr00t_bringup.sim.scene import CUBES
from gr00t_bringup.sim.task import CubePose, asked_colour
from gr00t_recorder.ros.node_help import NodeCommand
from gr00t_recorder.ros.parameters import declare
from gr00t_recorder.ros.spin import run_node
from gr00t_training.errors import Gr00tError
from gr00t_training.settings import setting

COMMAND_HZ = 50
DEVICE = "expert"  # name for policy_node
SETTLE_S = 0.4  # from the end of the movement until a dropped cube is at rest
ACKNOWLEDGE_S = 2.0
ANSWER_S = 10.0
WARN_PERIOD_S = 5.0
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@dataclass(frozen=True)
class ExpertSettings:
    """Parameters of the scripted demonstrator."""

    episodes: int = setting(
        1, "Successful demonstrations to give before the node ends.", ge=1, le=100000, read_only=True
    )
    max_failures: int = setting(
        10, "Failed demonstrations after which the node gives up with exit code 1.", ge=0, le=100000, read_only=True
    )
    seed: int = setting(0, "Seed of the variation between demonstrations.", ge=0, le=2**31, read_only=True)
    pause_s: float = setting(
        1.5, "Rest after each episode, for a recorder to save it [s].", ge=0.0, le=600.0, read_only=True
    )
    teleop: bool = setting(
        False,
        "Command the arm through policy_node, as a person does; its parameter 'teleop' must be always.",
        read_only=True,
    )
    wait_for_recorder: bool = setting(
        False, "Start each demonstration only when the recorder is idle and receives its streams.", read_only=True
    )
    recorder_wait_s: float = setting(
        10.0,
        "Longest wait for a recorder before the first demonstration, if wait_for_recorder is not set: the recorder "
        "may start together with this node [s].",
        ge=0.0,
        le=3600.0,
        read_only=True,
    )


COMMAND = NodeCommand(
    name="expert_node",
    node_name="expert",
    purpose="Demonstrate the simulated arm's task as a leader arm would, and mark the episodes; then end.",
    settings=ExpertSettings,
)


class Scene(NamedTuple):
    """A scene after reset: the task, the pose of the requested cube and the joint positions."""

    task: str
    cube: CubePose
    positions_rad: np.ndarray  # (6,) in the order of JOINTS


class ExpertNode(Node):
    """Gives demonstrations."""

    def __init__(self) -> None:
        """Start when the robot is available."""
        super().__init__("expert")
        self._settings = declare(self, ExpertSettings)
        self._target: np.ndarray | None = None  # (6,) commanded at each tick; None: nothing yet
        self._joints: JointState | None = None
        self._cubes: PoseArray | None = None
        self._recorder: RecorderStatus | None = None
        self._policy: PolicyStatus | None = None
        self._recorder_until_s: float | None = None  # end of the wait for a recorder
        self.is_done = False
        self._leader = self.create_publisher(JointState, "leader/joint_states", 10)
        self._commands = self.create_publisher(JointTrajectory, "arm_controller/joint_trajectory", 1)
        self._targets = self.create_publisher(TeleopTarget, "policy/teleop", 10) if self._settings.teleop else None
        self._events = self.create_publisher(String, "episode/events", QoSProfile(depth=10))
        self.create_subscription(JointState, "joint_states", self._on_joints, 1)
        self.create_subscription(PoseArray, "cubes", self._on_cubes, 1)
        self.create_subscription(RecorderStatus, "recorder/status", self._on_recorder, LATCHED)
        self.create_subscription(PolicyStatus, "policy/status", self._on_policy, LATCHED)
        self._reset = self.create_client(Trigger, "sim/reset")
        self._success = self.create_client(Trigger, "sim/success")
        self._script = self._demonstrate_all()
        self._timer = self.create_timer(1 / COMMAND_HZ, self._on_timer)

    def _on_joints(self, message: JointState) -> None:
        self._joints = message

    def _on_cubes(self, message: PoseArray) -> None:
        self._cubes = message

    def _on_recorder(self, message: RecorderStatus) -> None:
        self._recorder = message

    def _on_policy(self, message: PolicyStatus) -> None:
        self._policy = message

    def _on_timer(self) -> None:
        """Advance the script by one tick and send what it commands."""
        try:
            next(self._script)
        except StopIteration:
            self._timer.cancel()
            self._events.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_S))
            self.context.try_shutdown()
            return
        if self._target is not None:
            self._send(self._target)
        elif self._targets is not None:
            self._targets.publish(TeleopTarget(source=DEVICE, is_engaged=False))

    def _send(self, positions_rad: np.ndarray) -> None:
        leader = JointState(name=JOINTS, position=positions_rad.tolist())
        leader.header.stamp = self.get_clock().now().to_msg()
        self._leader.publish(leader)
        if self._targets is not None:
            target = TeleopTarget(source=DEVICE, is_engaged=True, names=JOINTS, positions=leader.position)
            target.header.stamp = leader.header.stamp
            self._targets.publish(target)
            return
        # zero stamp and time from start: go now
        point = JointTrajectoryPoint(positions=positions_rad.tolist())
        self._commands.publish(JointTrajectory(joint_names=JOINTS, points=[point]))

    # The script: each `yield` waits for the next tick.

    def _demonstrate_all(self) -> Generator[None, None, None]:
        settings = self._settings
        successes = failures = 0
        while successes < settings.episodes:
            if failures > settings.max_failures:
                self.get_logger().error(f"{failures} demonstrations failed, max_failures is {settings.max_failures}")
                return
            yield from self._wait_for_others()
            has_succeeded = yield from self._demonstrate(settings.seed + successes + failures)
            successes += has_succeeded
            failures += not has_succeeded
            self.get_logger().info(f"episodes: {successes} of {settings.episodes} good, {failures} failed")
            yield from self._rest(settings.pause_s)
        self.is_done = True

    def _demonstrate(self, seed: int) -> Generator[None, None, bool]:
        """Give one demonstration in a new scene, marked by events; return True if it succeeded."""
        scene = yield from self._new_scene()
        x, y, _ = scene.cube.position_m.tolist()
        plan = plan_demonstration(scene.positions_rad, (x, y), scene.cube.yaw_rad, seed)
        self._target = scene.positions_rad
        yield  # so that the leader's stream exists when the episode starts
        self._mark("start", scene.task)
        try:
            yield from self._follow(plan)
        except ValueError as error:
            self.get_logger().warning(f"seed {seed}: {error}; discarding the episode")
            self._mark("discard", scene.task)
            return False
        yield from self._rest(SETTLE_S)
        verdict = yield from self._call(self._success)
        self._mark("stop" if verdict.success else "discard", scene.task)
        return verdict.success

    def _follow(self, plan: Demonstration) -> Generator[None, None, None]:
        start = self.get_clock().now()
        elapsed_s = 0.0
        while elapsed_s < plan.duration_s:
            self._target = plan.sample(elapsed_s)
            yield
            elapsed_s = (self.get_clock().now() - start).nanoseconds / 1e9
        self._target = plan.sample(plan.duration_s)

    def _new_scene(self) -> Generator[None, None, Scene]:
        """Reset the robot and wait for the state of the new scene."""
        self._target = None  # a command in transit must not move the arm in the new scene
        if self._targets is not None:
            yield from self._wait(self._has_let_go, "policy node that lets go of the arm")
        reply = json.loads((yield from self._call(self._reset)).message)
        since_ns = reply["stamp_ns"]
        yield from self._wait(
            lambda: _is_since(self._joints, since_ns) and _is_since(self._cubes, since_ns), "state of the new scene"
        )
        assert self._joints is not None
        assert self._cubes is not None
        position = dict(zip(self._joints.name, self._joints.position, strict=True))
        pose = list(self._cubes.poses)[list(CUBES).index(asked_colour(reply["task"]))]
        at, turn = pose.position, pose.orientation
        cube = CubePose(np.array([at.x, at.y, at.z]), np.array([turn.x, turn.y, turn.z, turn.w]))
        return Scene(reply["task"], cube, np.array([position[name] for name in JOINTS]))

    def _wait_for_others(self) -> Generator[None, None, None]:
        def missing() -> str:
            if not (self._reset.service_is_ready() and self._success.service_is_ready()):
                return f"the simulated robot ({self._reset.srv_name})"
            commands = self._targets or self._commands
            if not commands.get_subscription_count():
                return f"a controller on {commands.topic_name}"
            if self._targets is not None and self._policy is None:
                return "the status of the policy node"
            recorder = self._missing_of_recorder()
            return recorder if self._settings.wait_for_recorder or self._may_still_come(recorder) else ""

        while name := missing():
            self.get_logger().info(f"waiting for {name}", throttle_duration_sec=WARN_PERIOD_S)
            yield

    def _has_let_go(self) -> bool:
        return self._policy is not None and self._policy.device != DEVICE

    def _may_still_come(self, missing: str) -> bool:
        """Return True while an optional recorder may still start; warn once if there is none."""
        now_s = time.monotonic()
        if self._recorder_until_s is None:
            self._recorder_until_s = now_s + self._settings.recorder_wait_s
        is_waiting = now_s < self._recorder_until_s and bool(missing)
        if missing and not is_waiting and self._recorder_until_s > 0:
            self.get_logger().warning(f"demonstrating without {missing}")
        if not is_waiting:
            self._recorder_until_s = 0.0
        return is_waiting

    def _missing_of_recorder(self) -> str:
        if self._recorder is None or not self._events.get_subscription_count():
            return f"a recorder that listens to {self._events.topic_name}"
        if self._recorder.state not in (RecorderStatus.IDLE, RecorderStatus.FAILED):  # FAILED is about the last episode
            return "the recorder to be idle"
        own = (self._leader.topic_name, self._events.topic_name)
        missing = [stream.topic for stream in self._recorder.streams if stream.state and stream.topic not in own]
        return f"the recorder to receive {missing[0]}" if missing else ""

    def _call(self, client: Client) -> Generator[None, None, Any]:
        future = client.call_async(Trigger.Request())
        yield from self._wait(future.done, f"answer of {client.srv_name}")
        return future.result()

    def _wait(self, condition: Callable[[], bool], what: str) -> Generator[None, None, None]:
        until_s = time.monotonic() + ANSWER_S
        while not condition():
            if time.monotonic() > until_s:
                raise Gr00tError(f"expert: no {what} within {ANSWER_S:g} s; is the simulated robot still running?")
            yield

    def _rest(self, duration_s: float) -> Generator[None, None, None]:
        until = self.get_clock().now() + Duration(nanoseconds=round(duration_s * 1e9))
        while self.get_clock().now() < until:
            yield

    def _mark(self, event: str, task: str) -> None:
        self._events.publish(String(data=json.dumps({"event": event, "task": task})))


def _is_since(message: JointState | PoseArray | None, stamp_ns: int) -> bool:
    return message is not None and Time.from_msg(message.header.stamp).nanoseconds >= stamp_ns


def main(args: list[str] | None = None) -> int:
    """Give the demonstrations; return 0 after all of them, 1 if it was stopped or gave up before."""
    nodes: list[ExpertNode] = []

    def make() -> ExpertNode:
        nodes.append(ExpertNode())
        return nodes[0]

    exit_code = run_node(make, args, COMMAND)
    return exit_code or (1 if nodes and not nodes[0].is_done else 0)

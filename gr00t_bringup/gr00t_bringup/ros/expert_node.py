# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A scripted leader arm: demonstrates the task of the simulated arm.

Publishes the commanded positions as a leader arm would (that is what gets recorded as the action) and sends the same
to the arm, or as a person's targets to policy_node.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from geometry_msgs.msg import PoseArray
from gr00t_msgs.msg import PolicyStatus, TeleopTarget
from rclpy.time import Time
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from gr00t_bringup.ros.demonstrator import LATCHED, Demonstrator, DemonstratorSettings, run_demonstrator
from gr00t_bringup.sim.expert import Demonstration, plan_demonstration
from gr00t_bringup.sim.kinematics import JOINTS
from gr00t_bringup.sim.scene import CUBES
from gr00t_bringup.sim.task import CubePose, asked_colour
from gr00t_recorder.ros.node_help import NodeCommand
from gr00t_training.settings import setting

DEVICE = "expert"  # name for policy_node
SETTLE_S = 0.4  # from the end of the movement until a dropped cube is at rest


@dataclass(frozen=True)
class ExpertSettings(DemonstratorSettings):
    """Parameters of the scripted leader arm."""

    teleop: bool = setting(
        False,
        "Command the arm through policy_node, as a person does; its parameter 'teleop' must be always.",
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


class ExpertNode(Demonstrator):
    """Gives demonstrations of the simulated arm's task."""

    settings_type = ExpertSettings
    settings: ExpertSettings

    def __init__(self) -> None:
        """Start when the robot is available."""
        super().__init__()
        self._target: np.ndarray | None = None  # (6,) commanded at each tick; None: nothing yet
        self._joints: JointState | None = None
        self._cubes: PoseArray | None = None
        self._policy: PolicyStatus | None = None
        self._targets = self.create_publisher(TeleopTarget, "policy/teleop", 10) if self.settings.teleop else None
        self._arm = self.commands
        self.commands = self._targets or self._arm
        self.create_subscription(JointState, "joint_states", self._on_joints, 1)
        self.create_subscription(PoseArray, "cubes", self._on_cubes, 1)
        self.create_subscription(PolicyStatus, "policy/status", self._on_policy, LATCHED)

    def _on_joints(self, message: JointState) -> None:
        self._joints = message

    def _on_cubes(self, message: PoseArray) -> None:
        self._cubes = message

    def _on_policy(self, message: PolicyStatus) -> None:
        self._policy = message

    def missing(self) -> str:
        """Return that the policy node is missing, if it is commanded."""
        return "the status of the policy node" if self._targets is not None and self._policy is None else ""

    def send(self) -> None:
        """Send the target, or that there is none."""
        if self._target is not None:
            self._send(self._target)
        elif self._targets is not None:
            self._targets.publish(TeleopTarget(source=DEVICE, is_engaged=False))

    def _send(self, positions_rad: np.ndarray) -> None:
        leader = JointState(name=JOINTS, position=positions_rad.tolist())
        leader.header.stamp = self.get_clock().now().to_msg()
        self.leader.publish(leader)
        if self._targets is not None:
            target = TeleopTarget(source=DEVICE, is_engaged=True, names=JOINTS, positions=leader.position)
            target.header.stamp = leader.header.stamp
            self._targets.publish(target)
            return
        # zero stamp and time from start: go now
        point = JointTrajectoryPoint(positions=positions_rad.tolist())
        self._arm.publish(JointTrajectory(joint_names=JOINTS, points=[point]))

    # The script: each `yield` waits for the next tick.

    def demonstrate(self, seed: int) -> Generator[None, None, bool]:
        """Give one demonstration in a new scene, marked by events; return True if it succeeded."""
        scene = yield from self._new_scene()
        x, y, _ = scene.cube.position_m.tolist()
        plan = plan_demonstration(scene.positions_rad, (x, y), scene.cube.yaw_rad, seed)
        self._target = scene.positions_rad
        yield  # so that the leader's stream exists when the episode starts
        self.mark("start", scene.task)
        try:
            yield from self._follow(plan)
        except ValueError as error:
            self.get_logger().warning(f"seed {seed}: {error}; discarding the episode")
            self.mark("discard", scene.task)
            return False
        yield from self.rest(SETTLE_S)
        verdict = yield from self.call(self.success)
        self.mark("stop" if verdict.success else "discard", scene.task)
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
            yield from self.wait(self._has_let_go, "policy node that lets go of the arm")
        reply = yield from self.reset_scene()
        since_ns = reply["stamp_ns"]
        yield from self.wait(
            lambda: _is_since(self._joints, since_ns) and _is_since(self._cubes, since_ns), "state of the new scene"
        )
        assert self._joints is not None
        assert self._cubes is not None
        position = dict(zip(self._joints.name, self._joints.position, strict=True))
        pose = list(self._cubes.poses)[list(CUBES).index(asked_colour(reply["task"]))]
        at, turn = pose.position, pose.orientation
        cube = CubePose(np.array([at.x, at.y, at.z]), np.array([turn.x, turn.y, turn.z, turn.w]))
        return Scene(reply["task"], cube, np.array([position[name] for name in JOINTS]))

    def _has_let_go(self) -> bool:
        return self._policy is not None and self._policy.device != DEVICE


def _is_since(message: JointState | PoseArray | None, stamp_ns: int) -> bool:
    return message is not None and Time.from_msg(message.header.stamp).nanoseconds >= stamp_ns


def main(args: list[str] | None = None) -> int:
    """Give the demonstrations; return 0 after all of them, 1 if it was stopped or gave up before."""
    return run_demonstrator(ExpertNode, COMMAND, args)

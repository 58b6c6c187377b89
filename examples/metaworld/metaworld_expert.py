# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingImports=false
"""Meta-World's scripted experts as a leader: they see object and goal, command through topics, and mark the episodes.

What the expert wants is the leader's position, and so the action of the recording; the robot at times is pushed off it
(`disturbance`), so that the recording shows how to come back. Towards a simulator in lock-step the expert takes the
place of the policy node: it acknowledges every tick.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gr00t_msgs.msg import CommandSource, PolicyStatus
from metaworld.policies import ENV_POLICY_MAP
from metaworld_tasks import JOINTS, STEP_HZ, STEP_M, TASKS, hand_target
from rclpy.time import Time
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from gr00t_bringup.ros.demonstrator import LATCHED, Demonstrator, DemonstratorSettings, run_demonstrator
from gr00t_recorder.ros.node_help import NodeCommand
from gr00t_training.settings import setting

SETTLE_S = 0.5  # after success
LIMIT_S = 20.0  # of a demonstration
PUSH_STEPS = 5


@dataclass(frozen=True)
class ExpertSettings(DemonstratorSettings):
    """Parameters of the experts."""

    disturbance: float = setting(
        0.02, "Share of steps at which a push of half a second begins.", ge=0.0, le=1.0, read_only=True
    )


class MetaworldExpert(Demonstrator):
    """Demonstrates the task of each new scene."""

    settings_type = ExpertSettings
    settings: ExpertSettings

    def __init__(self) -> None:
        """Start when the robot is available."""
        super().__init__()
        warnings.filterwarnings("ignore", module="metaworld")  # its experts ask for more than it carries out
        self._expert: Any = None
        self._stamp_ns = -1
        self._is_moving = False
        self._push, self._push_steps = np.zeros(3), 0
        self._sources = self.create_publisher(CommandSource, "~/command_source", 100)
        status = self.create_publisher(PolicyStatus, "~/status", LATCHED)
        status.publish(PolicyStatus(state=PolicyStatus.RUNNING, instruction="demonstrate"))  # the clock need not stop
        self.create_subscription(String, "sim/truth", self._on_truth, 10)

    def demonstrate(self, seed: int) -> Generator[None, None, bool]:
        """Reset the scene and do its task."""
        self._expert, self._is_moving = None, False
        scene = yield from self.reset_scene()
        self._random = np.random.default_rng(seed)
        yield from self.wait(lambda: self._stamp_ns >= scene["stamp_ns"], "state of the new scene")
        self._expert = ENV_POLICY_MAP[TASKS[scene["task"]]]()
        yield from self.rest(1 / STEP_HZ)  # so that the leader's stream exists when the episode starts
        yield from self.begin(scene["task"])
        self._is_moving = True
        until_ns = self._stamp_ns + round(LIMIT_S * 1e9)
        is_done = False
        while not is_done and self._stamp_ns < until_ns:
            is_done = (yield from self.call(self.success)).success
        yield from self.rest(SETTLE_S)
        self.mark("stop" if is_done else "discard", scene["task"])
        return is_done

    def _on_truth(self, message: String) -> None:
        truth = json.loads(message.data)
        self._stamp_ns = truth["stamp_ns"]
        source = CommandSource(source=CommandSource.NONE)
        source.header.stamp = Time(nanoseconds=self._stamp_ns).to_msg()
        if self._expert is not None:
            action = self._expert.get_action(np.array(truth["observation"]))
            target = hand_target(np.array(truth["hand_target_m"]), action)
            leader = JointState(header=source.header, name=JOINTS, position=target.tolist())
            self.leader.publish(leader)
            if self._is_moving:
                point = JointTrajectoryPoint(positions=self._disturbed(target).tolist())
                self.commands.publish(JointTrajectory(joint_names=JOINTS, points=[point]))
                source.source = CommandSource.PERSON
        self._sources.publish(source)

    def _disturbed(self, target: np.ndarray) -> np.ndarray:
        if not self._push_steps and self._random.random() < self.settings.disturbance:
            self._push, self._push_steps = self._random.uniform(-STEP_M, STEP_M, 3), PUSH_STEPS
        if not self._push_steps:
            return target
        self._push_steps -= 1
        return target + np.append(self._push, 0.0)


COMMAND = NodeCommand(
    name="metaworld_expert.py",
    node_name="expert",
    purpose="Demonstrate Meta-World tasks with its scripted experts, and mark the episodes; then end.",
    settings=ExpertSettings,
)

if __name__ == "__main__":
    sys.exit(run_demonstrator(MetaworldExpert, COMMAND, None))

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Meta-World as a ROS 2 robot, with the topics, services and clock of the simulated arm."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from builtin_interfaces.msg import Time
from metaworld_robot import MetaworldRobot
from metaworld_tasks import STEP_HZ, task_name
from std_msgs.msg import String

from gr00t_bringup.ros.simulation_node import SimulationNode, SimulationSettings, run_simulation
from gr00t_recorder.ros.node_help import NodeCommand
from gr00t_training.settings import setting


@dataclass(frozen=True)
class MetaworldSettings(SimulationSettings):
    """Parameters of the Meta-World robot."""

    TICK_HZ = STEP_HZ

    camera_hz: int = setting(
        5, "Images per second of each camera [Hz]; a divisor of 10.", ge=1, le=STEP_HZ, read_only=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scene_task:
            task_name(self.scene_task)


class MetaworldNode(SimulationNode):
    """Publishes the robot, and for the scripted experts what Meta-World shows its own policies."""

    settings_type = MetaworldSettings

    def make_robot(self) -> MetaworldRobot:
        """Return the robot."""
        self._metaworld = MetaworldRobot()
        self._truth = self.create_publisher(String, "~/truth", 10)
        return self._metaworld

    def publish_truth(self, stamp: Time, *, is_image_due: bool) -> None:
        """Publish the observation with object and goal, and where the hand is commanded to."""
        robot = self._metaworld
        truth = {
            "stamp_ns": stamp.sec * 1_000_000_000 + stamp.nanosec,
            "observation": robot.observation.tolist(),
            "hand_target_m": robot.hand_target_m.tolist(),
        }
        self._truth.publish(String(data=json.dumps(truth)))


COMMAND = NodeCommand(
    name="metaworld_node.py",
    node_name="sim",
    purpose="Simulate Meta-World tasks as a robot: joint states and images out, trajectories of the hand in.",
    settings=MetaworldSettings,
)

if __name__ == "__main__":
    sys.exit(run_simulation(MetaworldNode, COMMAND, None))

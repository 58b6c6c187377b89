# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The simulated arm as a ROS node."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, PoseArray, Quaternion

from gr00t_bringup.ros.simulation_node import SimulationNode, SimulationSettings, run_simulation
from gr00t_bringup.sim.robot import SimRobot
from gr00t_bringup.sim.scene import CUBES
from gr00t_bringup.sim.task import CubePose, asked_colour
from gr00t_recorder.ros.node_help import NodeCommand

BASE_FRAME = "base"


@dataclass(frozen=True)
class SimSettings(SimulationSettings):
    """Parameters of the simulated arm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scene_task:
            asked_colour(self.scene_task)


COMMAND = NodeCommand(
    name="sim_node",
    node_name="sim",
    purpose="Simulate an arm with two cameras, three cubes and a bin: joint states and images out, trajectories in.",
    settings=SimSettings,
)


class SimNode(SimulationNode):
    """Publishes the simulated arm, and where its cubes are."""

    settings_type = SimSettings

    def make_robot(self) -> SimRobot:
        """Return the arm."""
        self._arm = SimRobot()
        self._cubes = self.create_publisher(PoseArray, "cubes", 1)
        return self._arm

    def publish_truth(self, stamp: Time, *, is_image_due: bool) -> None:
        """Publish the poses of the cubes."""
        if not is_image_due:
            return
        cubes = self._arm.cube_poses()
        poses = PoseArray(poses=[_pose(cubes[color]) for color in CUBES])
        poses.header.stamp, poses.header.frame_id = stamp, BASE_FRAME
        self._cubes.publish(poses)


def _pose(cube: CubePose) -> Pose:
    x, y, z, w = cube.quaternion.tolist()
    px, py, pz = cube.position_m.tolist()
    return Pose(position=Point(x=px, y=py, z=pz), orientation=Quaternion(x=x, y=y, z=z, w=w))


def main(args: list[str] | None = None) -> int:
    """Run the simulated arm until it is stopped; exit code 1: a thread of it failed."""
    # PyOpenGL logs at INFO that an optional accelerator is missing
    logging.getLogger("OpenGL").setLevel(logging.WARNING)
    return run_simulation(SimNode, COMMAND, args)

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Start the simulated robot, and on request the scripted expert that demonstrates its task."""

from launch import LaunchDescription
from launch_ros.actions import Node

from gr00t_bringup.robots import robot_file
from gr00t_bringup.ros.launching import describe, is_true, suite_node

ARGUMENTS = {
    "params_file": ("", "Parameters of sim_node; empty: the shipped ones."),
    "expert_episodes": ("0", "Demonstrations the scripted expert gives; 0: it is not started."),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start sim_node and expert_node; with use_sim_time the robot drives /clock."""
    return describe(ARGUMENTS, _start)


def _start(given: dict[str, str]) -> list[Node]:
    clock = {"clock": "sim" if is_true(given["use_sim_time"]) else "wall"}
    tuning = given["params_file"] or str(robot_file("sim_arm", "sim.yaml"))
    nodes = [suite_node(given, "gr00t_bringup", "sim_node", "sim", [tuning, clock])]
    if int(given["expert_episodes"]):
        episodes = {"episodes": int(given["expert_episodes"])}
        nodes.append(suite_node(given, "gr00t_bringup", "expert_node", "expert", [episodes]))
    return nodes

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Start the simulated robot, and on request the scripted expert that demonstrates its task."""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from launch import LaunchDescription
from launch_ros.actions import Node

from gr00t_bringup.launch_settings import Argument, simulation_settings
from gr00t_bringup.ros.launching import describe, suite_node

ARGUMENTS = {
    "expert_episodes": Argument("Demonstrations of the scripted expert; 0 or empty: not started."),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start sim_node and expert_node; with use_sim_time the robot drives /clock."""
    return describe(__file__, ARGUMENTS, _start)


def _start(given: dict[str, str], namespace: str) -> list[Node]:
    prefix = namespace.rstrip("/")
    simulation, expert = simulation_settings(given, f"{prefix}/sim", f"{prefix}/expert")
    nodes = [suite_node(given, "gr00t_bringup", "sim_node", "sim", simulation)]
    if expert is not None:
        nodes.append(suite_node(given, "gr00t_bringup", "expert_node", "expert", expert))
    return nodes

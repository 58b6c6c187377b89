# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Drive a robot with a policy."""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from launch import LaunchDescription
from launch_ros.actions import Node

from gr00t_bringup.launch_settings import BOOLEANS, TELEOP_MODES, Argument, policy_settings
from gr00t_bringup.robots import shipped_robots
from gr00t_bringup.ros.launching import describe, suite_node

ARGUMENTS = {
    "robot": Argument("Shipped robot that gives topic map, limits and parameters.", tuple(shipped_robots())),
    "checkpoint_path": Argument("Checkpoint: folder or hub id; empty with robot:=sim_arm: its policy."),
    "server": Argument("Policy server, host:port, instead of a checkpoint."),
    "topics_file": Argument("Topic map."),
    "limits_file": Argument("Joint limits."),
    "urdf_file": Argument("URDF with joint limits; instead of the robot's limits, or with limits_file."),
    "urdf_topic": Argument("Topic of that URDF, such as robot_description; instead of urdf_file."),
    "instruction": Argument("Task at start; empty: wait for one."),
    "device": Argument("Where the model runs: auto, cpu, cuda, cuda:1."),
    "teleop": Argument("When a person may command: never, task, always (needs no policy).", TELEOP_MODES),
    "dry_run": Argument("Publish chunks and status, but no commands.", BOOLEANS),
    "autostart": Argument("Configure and activate at start; empty: as in params_file, else true.", BOOLEANS),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start policy_node."""
    return describe(__file__, ARGUMENTS, _start)


def _start(given: dict[str, str], namespace: str) -> list[Node]:
    settings = policy_settings(given, f"{namespace.rstrip('/')}/policy")
    return [suite_node(given, "gr00t_policy_node", "policy_node", "policy", settings)]

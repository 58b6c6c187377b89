# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Drive a robot with a policy."""

from launch import LaunchDescription
from launch_ros.actions import Node

from gr00t_bringup.robots import compact_checkpoint, robot_file
from gr00t_bringup.ros.launching import describe, is_true, suite_node

ARGUMENTS = {
    "robot": ("sim_arm", "Shipped robot whose files are the defaults of the arguments below."),
    "checkpoint_path": ("", "Checkpoint directory; empty: the compact policy of the simulated arm."),
    "topics_file": ("", "Topic map; empty: the robot's."),
    "limits_file": ("", "Joint limits; empty: the robot's."),
    "params_file": ("", "Parameters of policy_node; empty: the robot's."),
    "instruction": ("", "Task to start with; empty: wait for one."),
    "device": ("auto", "Where the model runs: auto, cpu, cuda."),
    "dry_run": ("false", "Publish chunks and status, but no commands."),
    "autostart": ("true", "Configure and activate at start."),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start policy_node."""
    return describe(ARGUMENTS, _start)


def _start(given: dict[str, str]) -> list[Node]:
    robot = given["robot"]
    overrides = {
        "checkpoint_path": given["checkpoint_path"] or str(compact_checkpoint()),
        "topics_file": given["topics_file"] or str(robot_file(robot, "topics.yaml")),
        "limits_file": given["limits_file"] or str(robot_file(robot, "limits.yaml")),
        "instruction": given["instruction"],
        "device": given["device"],
        "dry_run": is_true(given["dry_run"]),
        "autostart": is_true(given["autostart"]),
    }
    tuning = given["params_file"] or str(robot_file(robot, "policy.yaml"))
    return [suite_node(given, "gr00t_policy_node", "policy_node", "policy", [tuning, overrides])]

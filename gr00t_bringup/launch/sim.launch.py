# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Start the simulated robot, and on request the scripted expert that demonstrates its task.

Arguments and nodes: gr00t_bringup/launch_files.py, which `gr00t launch sim` starts without a ROS installation.
"""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from launch import LaunchDescription

from gr00t_bringup.ros.launching import describe


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start sim_node and expert_node; with use_sim_time the robot drives /clock."""
    return describe(__file__)

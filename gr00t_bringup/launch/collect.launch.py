# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Collect demonstrations: a person moves the robot through policy_node, recorder_node records, a page operates.

Arguments and nodes: gr00t_bringup/launch_files.py, which `gr00t launch collect` starts without a ROS installation.
"""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from launch import LaunchDescription

from gr00t_bringup.ros.launching import describe


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start policy_node, recorder_node, teleop_node and gr00t_console."""
    return describe(__file__)

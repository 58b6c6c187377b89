# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Replay an episode on the robot within its limits, or move it to a pose; ends when the robot is there.

Arguments and nodes: gr00t_bringup/launch_files.py, which `gr00t launch replay` starts without a ROS installation.
"""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from launch import LaunchDescription

from gr00t_bringup.ros.launching import describe


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start policy_node and gr00t_replay, which ends both."""
    return describe(__file__)

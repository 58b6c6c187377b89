# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Try a policy on a robot that runs; a person judges by services of `rollout`, or by buttons of a joystick.

Arguments and nodes: gr00t_bringup/launch_files.py, which `gr00t launch rollout` starts without a ROS installation.
"""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from launch import LaunchDescription

from gr00t_bringup.ros.launching import describe


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start policy_node, for a dataset recorder_node, and gr00t_rollout, which ends all."""
    return describe(__file__)

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Record demonstrations; operate the recorder with `gr00t_record` in another terminal, or with a joystick."""

from launch import LaunchDescription
from launch_ros.actions import Node

from gr00t_bringup.robots import robot_file
from gr00t_bringup.ros.launching import describe, is_true, suite_node

ARGUMENTS = {
    "robot": ("sim_arm", "Shipped robot whose files are the defaults of the arguments below."),
    "dataset_path": ("", "Folder of the dataset; is made, or continued. Required."),
    "task": ("", "Task text of the episodes; empty: from the task topic or the start request."),
    "bag": ("off", "Raw messages kept beside the dataset: off, configured topics, or all."),
    "joy_topic": ("", "Joystick topic; which button does what is in the parameters. Empty: none."),
    "topics_file": ("", "Topic map; empty: the robot's."),
    "params_file": ("", "Parameters of recorder_node; empty: the robot's."),
    "autostart": ("true", "Configure and activate at start."),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start recorder_node."""
    return describe(ARGUMENTS, _start)


def _start(given: dict[str, str]) -> list[Node]:
    robot = given["robot"]
    overrides = {
        "dataset_path": given["dataset_path"],
        "task": given["task"],
        "bag": given["bag"],
        "joy_topic": given["joy_topic"],
        "topics_file": given["topics_file"] or str(robot_file(robot, "topics.yaml")),
        "autostart": is_true(given["autostart"]),
    }
    tuning = given["params_file"] or str(robot_file(robot, "recorder.yaml"))
    return [suite_node(given, "gr00t_recorder", "recorder_node", "recorder", [tuning, overrides])]

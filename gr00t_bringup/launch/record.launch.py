# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Record demonstrations; operate the recorder with `gr00t_record` in another terminal, or with a joystick."""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from launch import LaunchDescription
from launch_ros.actions import Node

from gr00t_bringup.launch_settings import BAG_SCOPES, BOOLEANS, Argument, recorder_settings
from gr00t_bringup.robots import shipped_robots
from gr00t_bringup.ros.launching import describe, suite_node

ARGUMENTS = {
    "robot": Argument("Shipped robot that gives topic map and parameters.", tuple(shipped_robots())),
    "dataset_path": Argument("Folder of the dataset; created or extended."),
    "task": Argument("Task text of the episodes; empty: from the task topic or the start request."),
    "bag": Argument("Raw messages kept with the dataset.", BAG_SCOPES),
    "joy_topic": Argument("Joystick topic; the parameters assign the buttons."),
    "topics_file": Argument("Topic map."),
    "autostart": Argument("Configure and activate at start; empty: as in params_file, else true.", BOOLEANS),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start recorder_node."""
    return describe(__file__, ARGUMENTS, _start)


def _start(given: dict[str, str], namespace: str) -> list[Node]:
    settings = recorder_settings(given, f"{namespace.rstrip('/')}/recorder")
    return [suite_node(given, "gr00t_recorder", "recorder_node", "recorder", settings)]

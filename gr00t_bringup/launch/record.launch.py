# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Record demonstrations."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from gr00t_bringup.robots import fastdds_profile, robot_file

ARGUMENTS = {
    "robot": ("sim_arm", "Shipped robot whose files are the defaults of the arguments below."),
    "dataset_path": ("", "Folder of the dataset; is made, or continued. Required."),
    "task": ("", "Task text of the episodes; empty: from the task topic or the start request."),
    "topics_file": ("", "Topic map; empty: the robot's."),
    "params_file": ("", "Parameters of recorder_node; empty: the robot's."),
    "namespace": ("", "Namespace of the node."),
    "use_sim_time": ("false", "Follow /clock."),
    "autostart": ("true", "Configure and activate at start."),
    "log_level": ("info", "Log level of the node."),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start recorder_node."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    profile = SetEnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", str(fastdds_profile()))
    return LaunchDescription([*arguments, profile, OpaqueFunction(function=_start)])


def _start(context: LaunchContext) -> list[Node]:
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    robot = given["robot"]
    overrides = {
        "dataset_path": given["dataset_path"],
        "task": given["task"],
        "topics_file": given["topics_file"] or str(robot_file(robot, "topics.yaml")),
        **{name: given[name].lower() == "true" for name in ("use_sim_time", "autostart")},
    }
    node = Node(
        package="gr00t_recorder",
        executable="recorder_node",
        name="recorder",
        namespace=given["namespace"],
        parameters=[given["params_file"] or str(robot_file(robot, "recorder.yaml")), overrides],
        arguments=["--ros-args", "--log-level", given["log_level"]],
        output="screen",
        # an episode that is being saved must not be killed
        sigterm_timeout="60",
    )
    return [node]

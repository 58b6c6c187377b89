# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Drive a robot with a policy."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from gr00t_bringup.robots import compact_checkpoint, fastdds_profile, robot_file

ARGUMENTS = {
    "robot": ("sim_arm", "Shipped robot whose files are the defaults of the arguments below."),
    "checkpoint_path": ("", "Checkpoint directory; empty: the compact policy of the simulated arm."),
    "topics_file": ("", "Topic map; empty: the robot's."),
    "limits_file": ("", "Joint limits; empty: the robot's."),
    "params_file": ("", "Parameters of policy_node; empty: the robot's."),
    "instruction": ("", "Task to start with; empty: wait for one."),
    "device": ("auto", "Where the model runs: auto, cpu, cuda."),
    "dry_run": ("false", "Publish chunks and status, but no commands."),
    "namespace": ("", "Namespace of the node."),
    "use_sim_time": ("false", "Follow /clock."),
    "autostart": ("true", "Configure and activate at start."),
    "log_level": ("info", "Log level of the node."),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start policy_node."""
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
        "checkpoint_path": given["checkpoint_path"] or str(compact_checkpoint()),
        "topics_file": given["topics_file"] or str(robot_file(robot, "topics.yaml")),
        "limits_file": given["limits_file"] or str(robot_file(robot, "limits.yaml")),
        "instruction": given["instruction"],
        "device": given["device"],
        **{name: given[name].lower() == "true" for name in ("dry_run", "use_sim_time", "autostart")},
    }
    node = Node(
        package="gr00t_policy_node",
        executable="policy_node",
        name="policy",
        namespace=given["namespace"],
        parameters=[given["params_file"] or str(robot_file(robot, "policy.yaml")), overrides],
        arguments=["--ros-args", "--log-level", given["log_level"]],
        output="screen",
        # a running query must end, and the robot be safe, before the process is killed
        sigterm_timeout="20",
    )
    return [node]

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Start the simulated robot, and on request the scripted expert that demonstrates its task."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from gr00t_bringup.robots import fastdds_profile, robot_file

ARGUMENTS = {
    "params_file": ("", "Parameters of sim_node; empty: the shipped ones."),
    "expert_episodes": ("0", "Demonstrations the scripted expert gives; 0: it is not started."),
    "namespace": ("", "Namespace of the nodes."),
    "use_sim_time": ("false", "Drive /clock instead of real time."),
    "log_level": ("info", "Log level of the nodes."),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start sim_node and expert_node."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    profile = SetEnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", str(fastdds_profile()))
    return LaunchDescription([*arguments, profile, OpaqueFunction(function=_start)])


def _start(context: LaunchContext) -> list[Node]:
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    is_sim_time = given["use_sim_time"].lower() == "true"
    common = {"namespace": given["namespace"], "output": "screen"}
    arguments = ["--ros-args", "--log-level", given["log_level"]]
    sim = Node(
        package="gr00t_bringup",
        executable="sim_node",
        name="sim",
        parameters=[
            given["params_file"] or str(robot_file("sim_arm", "sim.yaml")),
            {"clock": "sim" if is_sim_time else "wall"},
        ],
        arguments=arguments,
        **common,
    )
    episodes = int(given["expert_episodes"])
    if episodes == 0:
        return [sim]
    expert = Node(
        package="gr00t_bringup",
        executable="expert_node",
        name="expert",
        parameters=[{"episodes": episodes, "use_sim_time": is_sim_time}],
        arguments=arguments,
        **common,
    )
    return [sim, expert]

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What the launch files have in common. Needs a ROS 2 installation: `launch` does not exist elsewhere."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from gr00t_bringup.robots import fastdds_profile

# name -> (default, description): the same in every launch file
COMMON_ARGUMENTS = {
    "namespace": ("", "Namespace of the nodes."),
    "use_sim_time": ("false", "Follow /clock."),
    "log_level": ("info", "Log level of the nodes."),
}


def describe(
    arguments: Mapping[str, tuple[str, str]], start: Callable[[dict[str, str]], list[Node]]
) -> LaunchDescription:
    """Declare arguments, choose the Fast DDS profile, and start what `start` makes of the arguments' values.

    Args:
        arguments: name -> (default, description), besides the common ones.
        start: takes every argument's text by name, returns the nodes.
    """
    declared = {**arguments, **COMMON_ARGUMENTS}

    def resolve(context: LaunchContext) -> list[Node]:
        return start({name: LaunchConfiguration(name).perform(context) for name in declared})

    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=value, description=text)
                for name, (value, text) in declared.items()
            ),
            SetEnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", str(fastdds_profile())),
            OpaqueFunction(function=resolve),
        ]
    )


def suite_node(given: Mapping[str, str], package: str, executable: str, name: str, parameters: list[Any]) -> Node:
    """Return a node of the suite with the common arguments applied.

    It gets 60 s to end after Ctrl-C: an episode that is being saved, or a robot that is being made safe, must not be
    killed.
    """
    return Node(
        package=package,
        executable=executable,
        name=name,
        namespace=given["namespace"],
        parameters=[*parameters, {"use_sim_time": is_true(given["use_sim_time"])}],
        arguments=["--ros-args", "--log-level", given["log_level"]],
        output="screen",
        sigterm_timeout="60",
    )


def is_true(text: str) -> bool:
    """Return whether a launch argument says yes."""
    return text.strip().lower() in ("true", "1", "yes")

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Shared parts of the launch files. Needs a ROS 2 installation: `launch` does not exist elsewhere."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
from __future__ import annotations

import itertools
import sys
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    OpaqueFunction,
    PopLaunchConfigurations,
    PushLaunchConfigurations,
    Shutdown,
)
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from gr00t_bringup.launch_files import SuiteNode, launch_file
from gr00t_bringup.launch_settings import Argument, check_names
from gr00t_bringup.robots import profile_environment
from gr00t_training.cli.parent import parent_environment
from gr00t_training.errors import ConfigError

PACKAGE = "gr00t_bringup"
# Ctrl-C in a terminal reaches the nodes at once. SIGINT sent to launch alone does not, so SIGTERM follows soon. Nodes
# treat both the same and ignore a second one. SIGKILL comes late: to save an episode or make the robot safe takes time.
SIGTERM_AFTER_S, SIGKILL_AFTER_S = "2", "90"


def describe(file: str) -> LaunchDescription:
    """Declare the arguments of a launch file, and start its nodes.

    Launch keeps the arguments of an included file for the files after it: what this one declares ends with it.

    Args:
        file: path of the launch file.
    """
    own = launch_file(file)

    def start(context: LaunchContext) -> list[Node]:
        given = {name: LaunchConfiguration(name).perform(context) for name in own.arguments}
        try:
            if _is_launched(file):
                check_names(list(getattr(context, "argv", ())), list(own.arguments))
            nodes = own.nodes(given, _full_namespace(context, given["namespace"]))
        except ConfigError as error:
            raise ConfigError(f"{Path(file).name}: {error}") from error
        return [_node(each, given["namespace"], given["log_level"]) for each in nodes]

    declared = [_declare(name, each) for name, each in own.arguments.items()]
    return LaunchDescription(
        [PushLaunchConfigurations(), *declared, OpaqueFunction(function=start), PopLaunchConfigurations()]
    )


def _node(node: SuiteNode, namespace: str, level: str) -> Node:
    """Return a node of the suite; it ends when launch does, however launch ends."""
    return Node(
        package=node.package,
        executable=node.executable,
        name=node.name,
        namespace=namespace,
        parameters=node.settings.parameters,
        arguments=[*node.options, *(["--ros-args", "--log-level", level] if level else [])],
        additional_env={**profile_environment(), **parent_environment()},
        output="screen",
        on_exit=Shutdown() if node.ends_launch else None,
        sigterm_timeout=SIGTERM_AFTER_S,
        sigkill_timeout=SIGKILL_AFTER_S,
    )


def _declare(name: str, argument: Argument) -> DeclareLaunchArgument:
    choices = ["", *argument.choices] if argument.choices else None
    return DeclareLaunchArgument(name, default_value="", description=argument.description, choices=choices)


def _is_launched(file: str) -> bool:
    """Whether the command line is that of this launch file, and not of one that includes it."""
    path = Path(file).resolve()
    return any(
        (package == PACKAGE and word == path.name) or Path(word).resolve() == path
        for package, word in itertools.pairwise(sys.argv)
    )


def _full_namespace(context: LaunchContext, namespace: str) -> str:
    """Return the namespace as launch resolves it: relative ones are below that of an enclosing group."""
    outer = getattr(context, "launch_configurations", {}).get("ros_namespace") or ""
    full = namespace if namespace.startswith("/") else f"{outer}/{namespace}"
    return "/" + "/".join(part for part in full.split("/") if part)

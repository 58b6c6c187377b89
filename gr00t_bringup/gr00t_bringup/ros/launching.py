# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Shared parts of the launch files. Needs a ROS 2 installation: `launch` does not exist elsewhere."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from gr00t_bringup.launch_settings import BOOLEANS, LEVELS, Argument, NodeSettings, check_arguments, check_names
from gr00t_bringup.robots import PROFILES_VARIABLE, fastdds_profile
from gr00t_training.cli.parent import parent_environment
from gr00t_training.errors import ConfigError

PACKAGE = "gr00t_bringup"
# the same in every launch file
COMMON_ARGUMENTS = {
    "params_file": Argument("Parameters of the node; empty: those of the robot."),
    "namespace": Argument("Namespace of the nodes."),
    "use_sim_time": Argument("Follow /clock; empty: as in params_file, else false.", BOOLEANS),
    "log_level": Argument("Log level of the nodes; empty: info.", LEVELS),
}
# Ctrl-C in a terminal reaches the nodes at once. SIGINT sent to launch alone does not, so SIGTERM follows soon. Nodes
# treat both the same and ignore a second one. SIGKILL comes late: to save an episode or make the robot safe takes time.
SIGTERM_AFTER_S, SIGKILL_AFTER_S = "2", "90"


def describe(
    file: str, arguments: Mapping[str, Argument], start: Callable[[dict[str, str], str], list[Node]]
) -> LaunchDescription:
    """Declare arguments, and start the nodes that `start` returns for their values.

    Args:
        file: path of the launch file.
        arguments: by name, besides the common ones. None has a default: empty means as in the parameters file.
        start: takes every argument's text by name and the namespace's full name, returns the nodes.
    """
    declared = {**arguments, **COMMON_ARGUMENTS}

    def resolve(context: LaunchContext) -> list[Node]:
        given = {name: LaunchConfiguration(name).perform(context) for name in declared}
        try:
            if _is_launched(file):
                check_names(list(getattr(context, "argv", ())), list(declared))
            check_arguments(given, declared)
            return start(given, _full_namespace(context, given["namespace"]))
        except ConfigError as error:
            raise ConfigError(f"{Path(file).name}: {error}") from error

    return LaunchDescription(
        [*(_declare(name, each) for name, each in declared.items()), OpaqueFunction(function=resolve)]
    )


def suite_node(
    given: Mapping[str, str],
    package: str,
    executable: str,
    name: str,
    settings: NodeSettings,
    *,
    options: Sequence[str] = (),
    ends_launch: bool = False,
) -> Node:
    """Return a node of the suite with the common arguments applied; it ends when launch does, however launch ends.

    Args:
        given: the common arguments.
        package: of the executable.
        executable: of the node.
        name: of the node.
        settings: its parameters.
        options: of its command line.
        ends_launch: all other nodes end with it.
    """
    level = given["log_level"]
    return Node(
        package=package,
        executable=executable,
        name=name,
        namespace=given["namespace"],
        parameters=settings.parameters,
        arguments=[*options, *(["--ros-args", "--log-level", level] if level else [])],
        additional_env={**_profile(), **parent_environment()},
        output="screen",
        on_exit=Shutdown() if ends_launch else None,
        sigterm_timeout=SIGTERM_AFTER_S,
        sigkill_timeout=SIGKILL_AFTER_S,
    )


def _declare(name: str, argument: Argument) -> Any:
    choices = ["", *argument.choices] if argument.choices else None
    return DeclareLaunchArgument(name, default_value="", description=argument.description, choices=choices)


def _profile() -> dict[str, str]:
    """Fast DDS profile with room for images, unless the user has a profile."""
    return {} if os.environ.get(PROFILES_VARIABLE) else {PROFILES_VARIABLE: str(fastdds_profile())}


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

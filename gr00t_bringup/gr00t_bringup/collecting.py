# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Node parameters of `collect.launch.py`: recorder, and where a person moves the robot policy node and device.

A parameters file names the nodes in its sections. What it says to all nodes goes to the first one, since the nodes
refuse parameters of each other; of it only `use_sim_time` and the topic map are for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gr00t_bringup.launch_settings import (
    NO_POLICY,
    NodeSettings,
    expanded,
    own_section,
    parameters_file,
    policy_settings,
    recorder_beside,
    recorder_settings,
)
from gr00t_bringup.parameters_file import read_sections
from gr00t_bringup.robots import has_robot_file, robot_file
from gr00t_recorder.ros.parameter_sections import section_matches
from gr00t_training.errors import ConfigError

NEVER = "never"  # of `teleop`: nobody commands through the policy node, so that there is none
ATTEMPTS = "topics_policy.yaml"  # the action is what policy_node commands
CONSOLE = "gr00t_console"  # a package above this one


@dataclass(frozen=True)
class CollectSettings:
    """What is started; None: it is not."""

    policy: NodeSettings | None
    recorder: NodeSettings
    teleop: NodeSettings | None
    console: tuple[str, ...] | None  # options


def collect_settings(given: Mapping[str, str], prefix: str) -> CollectSettings:
    """Return the parameters of every node.

    Args:
        given: text of each launch argument, empty if it was not given.
        prefix: namespace without a final slash.

    Raises:
        ConfigError: as for policy_node and recorder_node alone; a policy or a device is given and nothing would use it;
            the page is asked for and not installed.
    """
    console = _console_options(given)
    nodes = {name: f"{prefix}/{name}" for name in ("policy", "recorder", "teleop")}
    sections = _sections(given, list(nodes.values()))
    own = {**given, "params_file": given["params_file"] if nodes["policy"] in sections else ""}
    file = parameters_file(own, "policy.yaml", nodes["policy"])
    values = {} if file is None else file.values
    mode = given["teleop"] or str(values.get("teleop") or NO_POLICY)
    if mode == NEVER:
        _refuse_unused(given)
        alone = {**given, "params_file": given["params_file"] if nodes["recorder"] in sections else ""}
        return CollectSettings(None, recorder_settings(alone, nodes["recorder"]), None, console)
    if not values.get("teleop"):
        own["teleop"] = mode
    if not (given["topics_file"] or values.get("topics_file")):
        own["topics_file"] = _robot_topics(given["robot"])
    policy = policy_settings(own, nodes["policy"], has_own_policy=False)
    shared = {**given, "topics_file": str({**values, **policy.overrides}["topics_file"])}
    if "use_sim_time" in values and not given["use_sim_time"]:
        shared["use_sim_time"] = str(values["use_sim_time"]).lower()
    recorder = recorder_beside(shared, nodes["recorder"])
    return CollectSettings(policy, recorder, _teleop(shared, nodes["teleop"]), console)


def _sections(given: Mapping[str, str], nodes: list[str]) -> set[str]:
    """Return the nodes that the parameters file has a section for.

    Raises:
        ConfigError: none of them.
    """
    if not given["params_file"]:
        return set()
    path = Path(expanded(given["params_file"]))
    names = read_sections(path)
    found = {node for node in nodes if any(section_matches(name, node) for name in names)}
    if not found:
        expected = ", ".join(f"'{node}'" for node in nodes)
        raise ConfigError(
            f"{path}: no section is for node {expected} (found {', '.join(names)}), so none of its parameters would be "
            "used; name a section after one of them"
        )
    return found


def _robot_topics(robot: str) -> str:
    if not robot:
        return ""
    return str(robot_file(robot, ATTEMPTS if has_robot_file(robot, ATTEMPTS) else "topics.yaml"))


def _teleop(given: Mapping[str, str], node: str) -> NodeSettings | None:
    """Return the parameters of teleop_node; None without a device: then the page is one."""
    section = own_section(Path(expanded(given["params_file"])), node) if given["params_file"] else {}
    values: dict[str, Any] = dict(section)
    robot = given["robot"]
    if given["teleop_file"]:
        values["teleop_file"] = expanded(given["teleop_file"])
    elif not values.get("teleop_file") and robot and has_robot_file(robot, "teleop.yaml"):
        values["teleop_file"] = str(robot_file(robot, "teleop.yaml"))
    if given["use_sim_time"]:
        values["use_sim_time"] = given["use_sim_time"].lower() == "true"
    return NodeSettings(None, values) if values.get("teleop_file") else None


def _refuse_unused(given: Mapping[str, str]) -> None:
    unused = [name for name in ("teleop_file", "checkpoint_path", "server") if given[name]]
    if unused:
        raise ConfigError(f"launch argument '{unused[0]}' needs policy_node, which teleop:=never does not start")


def _console_options(given: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the options of the page; None: it is not started."""
    spec = find_spec(CONSOLE)
    is_installed = spec is not None and spec.origin is not None  # a folder of this name is no package
    asked = given["console"].lower()
    if asked == "true" and not is_installed:
        raise ConfigError(f"launch argument 'console': {CONSOLE} is not installed; build it, or give console:=false")
    if asked == "false" or not is_installed:
        return None
    return tuple(f"--{name}={given[f'console_{name}']}" for name in ("host", "port") if given[f"console_{name}"])

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Node parameters from launch arguments, independent of ROS.

Order of priority for every argument: command line, parameters file, files of the named robot. There is no default
robot: topics, limits and policy come only from a robot that is named.

`ros2 launch` runs in the system's Python, so this module imports nothing that a workspace installs with pip.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gr00t_bringup.parameters_file import ParametersFile, read_parameters, read_sections
from gr00t_bringup.robots import compact_checkpoint, has_robot_file, robot_file
from gr00t_policy_node.onboard.robot_names import shipped_robots
from gr00t_recorder.ros.parameter_sections import section_matches
from gr00t_training.errors import ConfigError
from gr00t_training.io.object_storage import LOCAL_ONLY, refuse_remote
from gr00t_training.io.text import printable

SIM_ROBOT = "sim_arm"
BOOLEANS = ("true", "false", "True", "False")
LEVELS = ("debug", "info", "warn", "error", "fatal")
BAG_SCOPES = ("off", "configured", "all")  # of recorder_node
POLICY_SOURCES = ("checkpoint_path", "server")
TELEOP_MODES = ("never", "task", "always")  # of policy_node
NO_POLICY = "always"  # the mode in which persons need none
URDF_SOURCES = ("urdf_file", "urdf_topic")
POLICY_START_S = 120  # in which policy_node must see the robot before a replay
TRIAL_OPTIONS = (
    "instruction",
    "num_trials",
    "round_s",
    "output",
    "joy_topic",
    "joy_begin",
    "joy_success",
    "joy_failure",
)


@dataclass(frozen=True)
class Argument:
    """A launch argument; empty: as in the parameters file."""

    description: str
    choices: tuple[str, ...] = ()  # none: any text


@dataclass(frozen=True)
class NodeSettings:
    """Parameters of one node: a file, and values that override it."""

    file: Path | None
    overrides: Mapping[str, Any]

    @property
    def parameters(self) -> list[Any]:
        """The `parameters` of a launch action: the later entry wins."""
        return [*([str(self.file)] if self.file else []), *([dict(self.overrides)] if self.overrides else [])]


NO_SETTINGS = NodeSettings(None, {})


def check_arguments(given: Mapping[str, str], arguments: Mapping[str, Argument]) -> None:
    """Check the values of arguments; ConfigError names one with a value that is no choice, or in object storage."""
    for name, argument in arguments.items():
        value = given[name]
        refuse_remote(value, LOCAL_ONLY, error=ConfigError, subject=f"launch argument '{name}': ")
        if value and argument.choices and value not in argument.choices:
            raise ConfigError(
                f"launch argument '{name}': '{printable(value)}' is not one of {', '.join(argument.choices)}"
            )


def check_names(command_line: Collection[str], known: Collection[str]) -> None:
    """Check that every `name:=value` of a command line is an argument; launch would ignore it silently.

    Raises:
        ConfigError: one is not; suggests the nearest argument.
    """
    for word in command_line:
        name, separator, _ = word.partition(":=")
        if separator and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean '{close[0]}'?" if close else f"expected one of {', '.join(known)}"
            raise ConfigError(f"unknown launch argument '{printable(name)}'; {meant}")


def policy_settings(given: Mapping[str, str], node: str, *, has_own_policy: bool = True) -> NodeSettings:
    """Return the parameters of policy_node.

    Args:
        given: text of each launch argument, empty or absent if it was not given.
        node: fully qualified name of the node.
        has_own_policy: a robot that comes with a policy runs it if no other is given.

    Raises:
        ConfigError: the parameters file cannot be used, arguments exclude each other, or topics, limits or the policy
            are missing; names them.
    """
    robot = given["robot"]
    file = parameters_file(given, "policy.yaml", node)
    overrides = _texts(
        given, "instruction", "device", "teleop", *POLICY_SOURCES, *URDF_SOURCES, "topics_file", "limits_file"
    )
    overrides |= _booleans(given, "dry_run", "use_sim_time")
    for alternatives in (POLICY_SOURCES, URDF_SOURCES):
        _exclude(overrides, file, alternatives)
    known = {**_values(file), **overrides}
    if robot:
        overrides |= _robot_defaults(robot, known, has_own_policy=has_own_policy)
    known |= overrides
    has_policy = known.get("teleop") == NO_POLICY or _has(known, *POLICY_SOURCES)
    missing = {
        "topics_file": not _has(known, "topics_file"),
        "limits_file, urdf_file or urdf_topic": not _has(known, "limits_file", *URDF_SOURCES),
        "checkpoint_path or server": not has_policy,
    }
    _refuse_missing(missing, robot)
    overrides |= _autostart(given, file)
    return _settings(file, overrides)


def recorder_settings(given: Mapping[str, str], node: str) -> NodeSettings:
    """Return the parameters of recorder_node; as `policy_settings`."""
    robot = given["robot"]
    file = parameters_file(given, "recorder.yaml", node)
    overrides = _texts(given, "dataset_path", "task", "bag", "joy_topic", "topics_file")
    overrides |= _booleans(given, "use_sim_time")
    known = {**_values(file), **overrides}
    if robot and not _has(known, "topics_file"):
        overrides["topics_file"] = str(robot_file(robot, "topics.yaml"))
    known |= overrides
    missing = {"dataset_path": not _has(known, "dataset_path"), "topics_file": not _has(known, "topics_file")}
    _refuse_missing(missing, robot)
    overrides |= _autostart(given, file)
    return _settings(file, overrides)


def simulation_settings(
    given: Mapping[str, str], node: str, expert_node: str
) -> tuple[NodeSettings, NodeSettings | None]:
    """Return the parameters of sim_node, and of expert_node if it is to be started.

    The simulation publishes the clock that `use_sim_time` follows.

    Raises:
        ConfigError: the parameters file cannot be used, or `expert_episodes` is not a whole number.
    """
    file = parameters_file({**given, "robot": SIM_ROBOT}, "sim.yaml", node)
    overrides = _booleans(given, "use_sim_time")
    if "use_sim_time" in overrides:
        overrides["clock"] = "sim" if overrides["use_sim_time"] else "wall"
    episodes = given["expert_episodes"] or "0"
    if not episodes.isascii() or not episodes.isdigit():
        raise ConfigError(
            f"launch argument 'expert_episodes': '{printable(episodes)}' is not a whole number of at least 0"
        )
    simulation = _settings(file, overrides)
    if not int(episodes):
        return simulation, None
    is_simulated = {**_values(file), **overrides}.get("clock") == "sim"
    own = {} if file is None else own_section(file.path, expert_node)
    return simulation, NodeSettings(None, {**own, "episodes": int(episodes), "use_sim_time": is_simulated})


def rollout_settings(
    given: Mapping[str, str], policy_node: str, recorder_node: str
) -> tuple[NodeSettings, NodeSettings | None, tuple[str, ...]]:
    """Return the parameters of policy_node, those of recorder_node if trials are kept, and options of gr00t_rollout.

    Raises:
        ConfigError: as `policy_settings`, or the instruction is missing.
    """
    if not given["instruction"]:
        raise ConfigError("missing: instruction; give the task of the trials with instruction:=")
    robot = given["robot"]
    file = parameters_file(given, "policy.yaml", policy_node)
    own = {**given, **dict.fromkeys(("instruction", "dry_run", "autostart", "task", "bag", "joy_topic"), "")}
    if robot and given["dataset_path"] and not (given["topics_file"] or _has(_values(file), "topics_file")):
        own["topics_file"] = str(robot_file(robot, "topics_policy.yaml"))
    policy = policy_settings(own, policy_node)
    known = {**_values(file), **policy.overrides}
    options = ["--judge=person", f"--checkpoint={known.get('checkpoint_path') or known.get('server') or 'none'}"]
    options += [f"--{name.replace('_', '-')}={value}" for name, value in _texts(given, *TRIAL_OPTIONS).items()]
    if not given["dataset_path"]:
        return policy, None, tuple(options)
    recorder = recorder_beside({**own, "topics_file": str(known["topics_file"])}, recorder_node)
    options.append(f"--record-to={recorder.overrides['dataset_path']}")
    return policy, recorder, tuple(options)


def replay_settings(given: Mapping[str, str], policy_node: str) -> tuple[NodeSettings, tuple[str, ...]]:
    """Return the parameters of policy_node, which needs no policy here, and options of gr00t_replay.

    Raises:
        ConfigError: as `policy_settings`, or nothing says where the robot must go.
    """
    if bool(given["dataset_path"]) != bool(given["episode"]):
        missing = "episode" if given["dataset_path"] else "dataset_path"
        raise ConfigError(f"missing: {missing}; an episode is named by dataset_path:= and episode:=")
    if not given["episode"] and not given["pose"]:
        raise ConfigError("missing: dataset_path and episode, or pose; say where the robot must go")
    policy = policy_settings({**given, "teleop": NO_POLICY}, policy_node, has_own_policy=False)
    options = [f"--wait-ready={POLICY_START_S}"]
    options += [f"--{name}={given[name]}" for name in ("speed", "pose") if given[name]]
    options += ["--first-row-only"] if given["first_row_only"].lower() == "true" else []
    if given["episode"]:
        options += [expanded(given["dataset_path"]), given["episode"]]
    return policy, tuple(options)


def recorder_beside(given: Mapping[str, str], node: str) -> NodeSettings:
    """Return the parameters of recorder_node beside another node: of params_file only the sections of its name."""
    settings = recorder_settings({**given, "params_file": ""}, node)
    section = own_section(Path(expanded(given["params_file"])), node) if given["params_file"] else {}
    return NodeSettings(settings.file, {**section, **settings.overrides})


def own_section(path: Path, node: str) -> dict[str, Any]:
    """Return the values of a file for one node; a section for all nodes belongs to the node started first."""
    name = node.rpartition("/")[2]
    sections = [(section.rpartition("/")[2], section, values) for section, values in read_sections(path).items()]
    own = (values for last, section, values in sections if last == name and section_matches(section, node))
    return {parameter: value for values in own for parameter, value in values.items()}


def parameters_file(given: Mapping[str, str], name: str, node: str) -> ParametersFile | None:
    """Return params_file, else the file of this name of the robot; None: neither exists."""
    robot = given["robot"]
    if given["params_file"]:
        return read_parameters(Path(expanded(given["params_file"])), node)
    # a robot has the file where its parameters differ from the node's defaults
    return read_parameters(robot_file(robot, name), node) if robot and has_robot_file(robot, name) else None


def _values(file: ParametersFile | None) -> dict[str, Any]:
    return {} if file is None else file.values


def _has(known: Mapping[str, Any], *names: str) -> bool:
    return any(known.get(name) for name in names)


def _texts(given: Mapping[str, str], *names: str) -> dict[str, Any]:
    return {name: expanded(given[name]) for name in names if given.get(name)}


def expanded(text: str) -> str:
    """Return a path with the home folder in place of a tilde: no shell expands that of name:=~/path."""
    return str(Path(text).expanduser()) if text.startswith("~/") else text


def _booleans(given: Mapping[str, str], *names: str) -> dict[str, Any]:
    return {name: given[name].lower() == "true" for name in names if given.get(name)}


def _autostart(given: Mapping[str, str], file: ParametersFile | None) -> dict[str, Any]:
    """Set autostart, unless argument or file say otherwise."""
    return _booleans(given, "autostart") or ({} if "autostart" in _values(file) else {"autostart": True})


def _exclude(overrides: dict[str, Any], file: ParametersFile | None, alternatives: tuple[str, str]) -> None:
    """Let an argument replace its alternative in the file: only one of the two may be set."""
    first, second = alternatives
    if first in overrides and second in overrides:
        raise ConfigError(f"launch arguments '{first}' and '{second}' are both given; give one of them")
    for argument, other in ((first, second), (second, first)):
        if argument in overrides and other in _values(file):
            overrides[other] = ""


def _robot_defaults(robot: str, known: Mapping[str, Any], *, has_own_policy: bool) -> dict[str, Any]:
    """Return the files of the named robot for everything that neither arguments nor parameters file set."""
    defaults = {}
    if not _has(known, "topics_file"):
        defaults["topics_file"] = str(robot_file(robot, "topics.yaml"))
    # shipped limits may be wider than those of a given URDF
    if not _has(known, "limits_file", *URDF_SOURCES):
        defaults["limits_file"] = str(robot_file(robot, "limits.yaml"))
    if has_own_policy and robot == SIM_ROBOT and not _has(known, *POLICY_SOURCES):
        defaults["checkpoint_path"] = str(compact_checkpoint())
    return defaults


def _refuse_missing(missing: Mapping[str, bool], robot: str) -> None:
    names = [name for name, is_missing in missing.items() if is_missing]
    if not names:
        return
    remedy = "give each as an argument or in params_file"
    if not robot:
        remedy += f", or name a shipped robot with robot:= ({', '.join(shipped_robots())})"
    raise ConfigError(f"missing: {'; '.join(names)}; {remedy}")


def _settings(file: ParametersFile | None, overrides: Mapping[str, Any]) -> NodeSettings:
    if file is not None:
        file.check_overrides(overrides)
    return NodeSettings(None if file is None else file.path, overrides)

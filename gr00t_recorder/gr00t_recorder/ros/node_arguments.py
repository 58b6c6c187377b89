# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Check the command line of a node before ROS sees it.

ROS ignores what it does not know: words outside `--ros-args`, sections of a parameters file for another node, duplicate
keys of which the last one counts. Each of these can turn `dry_run: true` into a moving robot, so each is an error here.
Unknown parameter names are found by `parameters.declare`, once the node has declared its own.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gr00t_recorder.ros.node_help import NodeCommand
from gr00t_recorder.ros.parameter_sections import section_matches
from gr00t_training.cli.parser import CommandParser, unknown_argument
from gr00t_training.errors import ConfigError
from gr00t_training.io.files import read_text
from gr00t_training.io.text import printable

FILE_LIMIT = 4 * 2**20  # [bytes] of a parameters file
PARAMETERS_KEY = "ros__parameters"
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal", "unset")
ROS_ARGS = "--ros-args"
HELP_WORDS = ("-h", "--help")
VERSION_WORD = "--version"
VALUE_OPTIONS = (
    "-p",
    "--param",
    "-r",
    "--remap",
    "--params-file",
    "--log-level",
    "--log-config-file",
    "--log-file-name",
    "-e",
    "--enclave",
)
SWITCHES = tuple(
    f"--{verb}-{what}-logs" for verb in ("enable", "disable") for what in ("rosout", "stdout", "external-lib")
)


@dataclass
class _Remaps:
    node_name: str
    namespace: str = "/"

    @property
    def full_name(self) -> str:
        return f"{self.namespace.rstrip('/')}/{self.node_name}"


def split_ros_args(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words for the program and those for ROS, each part with its `--ros-args`."""
    own: list[str] = []
    ros: list[str] = []
    is_ros = False
    for word in words:
        if word == ROS_ARGS:
            is_ros = True
            ros.append(word)
        elif is_ros:
            ros.append(word)
            is_ros = word != "--"
        else:
            own.append(word)
    return own, ros


def command_line(args: Sequence[str] | None) -> list[str]:
    """Return the words after the name of the program; None: those of this process."""
    return list(sys.argv[1:] if args is None else args)


def wants_help(words: Sequence[str]) -> bool:
    """Whether the words of a command line ask for help."""
    return any(word in HELP_WORDS for word in words)


def wants_version(words: Sequence[str]) -> bool:
    """Whether the words of a command line ask for the version."""
    return VERSION_WORD in split_ros_args(words)[0]


def check_arguments(command: NodeCommand, words: Sequence[str]) -> None:
    """Check the words of a command line, without the name of the program.

    Raises:
        ConfigError: an unknown word or option, a missing value, a parameter given twice, a parameters file that is
            missing, damaged or for other nodes only.
    """
    own, ros = split_ros_args(words)
    if own:
        word = own[0]
        if ":=" in word or word in VALUE_OPTIONS:
            raise ConfigError(f"'{printable(word)}' needs {ROS_ARGS} before it")
        raise ConfigError(unknown_argument(word, (ROS_ARGS, *HELP_WORDS, VERSION_WORD)))
    files: list[str] = []
    remaps = _Remaps(command.node_name)
    values: dict[str, str] = {}
    for option, value in _options(ros):
        if option == "--params-file":
            files.append(value)
        elif option in ("-p", "--param"):
            _check_parameter(value, values)
        elif option in ("-r", "--remap"):
            _follow(value, command.node_name, remaps)
        elif option == "--log-level" and value.rpartition(":=")[2].lower() not in LOG_LEVELS:
            raise ConfigError(f"--log-level '{printable(value)}': expected one of {', '.join(LOG_LEVELS)}")
    for path in files:
        _check_file(Path(path), remaps.full_name)


def parse_with_ros_args(parser: CommandParser, args: Sequence[str] | None) -> tuple[Any, list[str]]:
    """Parse the command line of a program that also takes `--ros-args`; None: that of this process.

    Returns:
        The program's options, and the words for ROS.

    Raises:
        ConfigError: an option after `--ros-args` that ROS does not know.
    """
    own, ros = split_ros_args(command_line(args))
    options = parser.parse_args([*own, *(word for word in ros if word in HELP_WORDS)])
    _options(ros)
    return options, ros


def _options(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return the options of ROS with their values; switches have an empty one."""
    found = []
    rest = iter(words)
    for word in rest:
        if word in (ROS_ARGS, "--") or word in SWITCHES:
            continue
        if word not in VALUE_OPTIONS:
            if re.match(r"[A-Za-z_][\w./]*:=", word):
                raise ConfigError(f"'{printable(word)}' needs -p before it, or -r where it renames a topic")
            raise ConfigError(unknown_argument(word, (*VALUE_OPTIONS, *SWITCHES)))
        value = next(rest, None)
        if value is None or value == ROS_ARGS:
            raise ConfigError(f"option {word}: has no value; give one")
        found.append((word, value))
    return found


def _check_parameter(rule: str, values: dict[str, str]) -> None:
    name, separator, value = rule.partition(":=")
    if not separator or not name:
        raise ConfigError(f"-p '{printable(rule)}': expected NAME:=VALUE")
    if not value:
        raise ConfigError(f"parameter '{printable(name)}': has no value; an empty text is written \"{name}:=''\"")
    if values.setdefault(name, value) != value:
        raise ConfigError(
            f"parameter '{printable(name)}': is '{printable(values[name])}' and '{printable(value)}' on the command "
            "line; give it once"
        )


def _follow(rule: str, node_name: str, remaps: _Remaps) -> None:
    """Note a rule that renames the node; the first one counts, as in ROS."""
    if ":=" not in rule:
        raise ConfigError(f"-r '{printable(rule)}': expected FROM:=TO")
    match = re.match(r"(?:(\w+):)?(__node|__name|__ns):=(.*)$", rule)
    if match is None or match[1] not in (None, node_name):
        return
    if match[2] == "__ns":
        if remaps.namespace == "/":
            remaps.namespace = match[3]
    elif remaps.node_name == node_name:
        remaps.node_name = match[3]


def _check_file(path: Path, full_name: str) -> None:
    text = read_text(path, ConfigError, FILE_LIMIT)
    sections = _sections(text, path)
    if any(section_matches(section, full_name) for section in sections):
        return
    found = ", ".join(f"'{printable(section)}'" for section in sections[:8]) or "none"
    close = difflib.get_close_matches(full_name, sections, n=1)
    remedy = (
        f"did you mean '{full_name}' instead of '{printable(close[0])}'?"
        if close
        else f"name it '{full_name}' or '/**'"
    )
    raise ConfigError(f"{path}: no section is for this node (found {found}); {remedy}")


def _sections(text: str, path: Path) -> list[str]:
    """Return the names of the nodes in a parameters file.

    Read as a stream of events: no alias is ever followed, no depth is too large.
    """
    found: list[str] = []
    levels: list[_Level] = []
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ConfigError(
                    f"{_place(path, event)}: alias '*{event.anchor}'; ROS reads no aliases, write the value"
                )
            _step(event, levels, found, path)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    return found


@dataclass
class _Level:
    """An open mapping or list of a YAML file."""

    is_mapping: bool
    key: str | None = None  # key; its value comes next
    keys: set[str] = field(default_factory=set)


def _step(event: yaml.Event, levels: list[_Level], found: list[str], path: Path) -> None:
    top = levels[-1] if levels else None
    is_node = isinstance(event, (yaml.ScalarEvent, yaml.MappingStartEvent, yaml.SequenceStartEvent))
    if is_node and top is not None and top.is_mapping and top.key is None:
        _begin_entry(event, levels, found, path)
        return
    if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
        levels.append(_Level(isinstance(event, yaml.MappingStartEvent)))
        return
    if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
        levels.pop()
        top = levels[-1] if levels else None
    elif not is_node:
        return
    if top is not None:
        top.key = None


def _begin_entry(event: Any, levels: list[_Level], found: list[str], path: Path) -> None:
    if not isinstance(event, yaml.ScalarEvent):
        raise ConfigError(f"{_place(path, event)}: a key is not a text")
    key, top = event.value, levels[-1]
    if key in top.keys:
        raise ConfigError(f"{_place(path, event)}: duplicate key '{printable(key)}'; keep one")
    top.keys.add(key)
    top.key = key
    names = [level.key or "" for level in levels[:-1]]
    if key == PARAMETERS_KEY and PARAMETERS_KEY not in names:
        joined = "/".join(names)
        found.append(joined if joined.startswith(("/", "*")) else f"/{joined}")


def _place(path: Path, event: yaml.Event) -> str:
    return f"{path}:{event.start_mark.line + 1}"

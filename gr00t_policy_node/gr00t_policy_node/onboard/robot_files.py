# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read topic map, embodiment and limits of a robot, and everything that is wrong in each of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gr00t_policy_node.onboard.findings import Finding, Level
from gr00t_policy_node.onboard.robot_names import TOPICS_FILE, robot_folder
from gr00t_policy_node.safety.limits import LimitsFile
from gr00t_recorder.topics.bindings import TopicMap
from gr00t_training.embodiment import Embodiment, find_embodiment
from gr00t_training.errors import ConfigError
from gr00t_training.io.files import read_text
from gr00t_training.io.text import printable
from gr00t_training.io.yaml_text import SIZE_LIMIT, compose_yaml, key_lines
from gr00t_training.settings import inspect_settings

T = TypeVar("T")
LIMITS_FILE = "limits.yaml"
TOPIC_MAPS = (".yaml", ".yml")  # names of files, not of robots
MARK = re.compile(r"#.*?\bCHECK\b(?! every line)[:,]?\s*(.*)")
_PLACE = re.compile(r"^(?P<file>.*?):(?P<line>\d+): ?(?P<text>.*)$", re.DOTALL)


@dataclass(frozen=True)
class YamlFile:
    """A file with the lines of its keys."""

    name: str  # as messages call it
    text: str = ""
    lines: Mapping[tuple[str, ...], int] | None = None

    def finding(self, level: Level, text: str, *keys: str) -> Finding:
        """Return a finding at the line of the innermost of `keys` that the file has."""
        lines = self.lines or {}
        while keys and keys not in lines:
            keys = keys[:-1]
        return Finding(level, self.name, lines[keys] if keys else 1, text)

    def marks(self) -> Iterator[Finding]:
        """Yield the lines that a person must look at; lines that follow each other with the same remark are one."""
        found: list[tuple[int, int, str]] = []  # first and last line, remark
        for number, line in enumerate(self.text.splitlines(), 1):
            mark = MARK.search(line)
            if not mark:
                continue
            remark = mark[1] or line.split("#")[0].strip()
            if found and found[-1][1:] == (number - 1, remark):
                found[-1] = (found[-1][0], number, remark)
            else:
                found.append((number, number, remark))
        for first, last, remark in found:
            lines = f" (lines {first} to {last})" if last > first else ""
            yield Finding(Level.NOTE, self.name, first, f"marked CHECK{lines}: {printable(remark)}")


@dataclass(frozen=True)
class RobotFiles:
    """The files of one robot; None where one is wrong or absent."""

    topics: YamlFile
    embodiment_file: YamlFile
    limits_file: YamlFile
    topic_map: TopicMap | None = None
    embodiment: Embodiment | None = None
    limits: LimitsFile | None = None


def read_robot(robot: str | Path, limits: Path | None = None) -> tuple[RobotFiles, list[Finding]]:
    """Read the files of a robot, and return what is wrong in each.

    Args:
        robot: name of a shipped robot, folder with `topics.yaml`, or a topic map.
        limits: limits file; None: `limits.yaml` next to the topic map, where there is one.

    Raises:
        ConfigError: there is no such robot, no topic map, or the limits file that was named does not exist.
    """
    is_file = Path(robot).is_file() or Path(robot).suffix in TOPIC_MAPS
    topics_path = Path(robot) if is_file else robot_folder(str(robot)) / TOPICS_FILE
    topics, topic_map, findings = _read(TopicMap, topics_path)
    limits_path = limits or topics_path.parent / LIMITS_FILE
    found_limits: LimitsFile | None = None
    limits_file = YamlFile(str(limits_path))
    if limits or limits_path.is_file():
        limits_file, found_limits, wrong = _read(LimitsFile, limits_path)
        findings += wrong
    named = topic_map.embodiment if topic_map else _named_embodiment(topics)
    embodiment_file, embodiment, wrong = _read_embodiment(named, topics, topics_path.parent)
    findings += wrong
    return RobotFiles(topics, embodiment_file, limits_file, topic_map, embodiment, found_limits), findings


def _read(cls: type[T], path: Path) -> tuple[YamlFile, T | None, list[Finding]]:
    return _inspect(cls, read_text(path, ConfigError, SIZE_LIMIT), str(path))


def _inspect(cls: type[T], text: str, source: str) -> tuple[YamlFile, T | None, list[Finding]]:
    found, problems = inspect_settings(cls, text, source)
    try:
        lines = key_lines(compose_yaml(text, source))
    except ConfigError:  # it is among the problems
        lines = {}
    return YamlFile(source, text, lines), found, [_placed(error, source) for error in problems]


def _placed(error: ConfigError, name: str) -> Finding:
    found = _PLACE.match(str(error))
    if found is None or found["file"] != name:
        return Finding(Level.FAULT, name, 0, str(error))
    return Finding(Level.FAULT, name, int(found["line"]), found["text"])


def _named_embodiment(topics: YamlFile) -> str:
    """Return which embodiment a topic map names that is wrong elsewhere."""
    found = re.search(r"^embodiment:\s*([^\s#]+)", topics.text, re.MULTILINE)
    return found[1].strip("'\"") if found else ""


def _read_embodiment(name: str, topics: YamlFile, folder: Path) -> tuple[YamlFile, Embodiment | None, list[Finding]]:
    if not name:
        return YamlFile("embodiment"), None, []  # the topic map says so itself
    local = folder / name
    try:
        text, source = find_embodiment(local if local.is_file() else name)
    except ConfigError as error:
        return YamlFile(name), None, [topics.finding(Level.FAULT, str(error), "embodiment")]
    return _inspect(Embodiment, text, source)

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Tables of the documentation's reference, made from the code: keys of files, options of commands, interfaces.

`python -m gr00t_test_support.ros.reference` writes the pages; the nodes are there, because they need ROS.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from gr00t_bringup.fake.plan import DriverFile
from gr00t_bringup.robots import RolloutFile
from gr00t_policy_node.safety.limits import LimitsFile
from gr00t_policy_node.teleop.teleop_file import TeleopFile
from gr00t_recorder.topics.bindings import TopicMap
from gr00t_training.cli.entry import Command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.embodiment import Embodiment
from gr00t_training.train.data_settings import DataSettings

GENERATED = "<!-- Generated from the code: make reference -->\n"
FILES: dict[str, tuple[type, str]] = {
    "topics.yaml": (
        TopicMap,
        "The [topic map](../new-robot.md#topic-map): where each key comes from, where commands go.",
    ),
    "embodiment.yaml": (Embodiment, "The [embodiment](../new-robot.md#embodiment): what the robot is to a policy."),
    "limits.yaml": (LimitsFile, "[Limits](../new-robot.md#limits) of every commanded joint."),
    "teleop.yaml": (TeleopFile, "The [device](../takeover.md#devices) of a person."),
    "driver.yaml": (DriverFile, "What a [fake robot](../new-robot.md#without-the-robot) does beyond the topic map."),
    "rollout.yaml": (RolloutFile, "How a robot is [tried](../trials.md#on-another-simulator)."),
    "mix.yaml": (DataSettings, "The [data file](../finetune.md#data) of `gr00t finetune --data`."),
}
_FIELD = re.compile(r"^(?P<type>[\w/\[\]<>=]+)\s+(?P<name>\w+)(?P<value>\s*=\s*\S+)?\s*(?:#\s*(?P<comment>.*))?$")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; empty without rows."""
    lines = [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *lines]) + "\n" if lines else ""


def settings_table(cls: type, word: str = "key", paths: Mapping[type, str] | None = None) -> str:
    """Return a table of the fields of a settings dataclass; `paths` says where its inner classes are described."""
    hints = typing.get_type_hints(cls)
    rows = (
        (
            f"`{field.name}`",
            _kind(hints[field.name], field, paths or {}),
            _default(field),
            field.metadata["description"],
        )
        for field in dataclasses.fields(cls)
    )
    return table((word, "value", "default", "meaning"), rows)


def files_page() -> str:
    """Return the page of YAML files: a table per mapping, those of a file below it."""
    parts = [f"{GENERATED}# Files\n\nEvery key of the YAML files. A mistake in one is reported with file and line.\n"]
    for name, (cls, text) in FILES.items():
        paths = _inner(cls)
        parts.append(f"## {name}\n\n{text}\n\n{settings_table(cls, paths=paths)}")
        parts += [f"### {name}: {path}\n\n{settings_table(inner, paths=paths)}" for inner, path in paths.items()]
    return "\n".join(parts)


def commands_page(commands: Iterable[Command]) -> str:
    """Return the page of commands: their options, and those of their subcommands."""
    parts = [f"{GENERATED}# Commands\n\n`gr00t COMMAND --help` shows the same. Nodes: [their parameters](nodes.md).\n"]
    for command in sorted(commands, key=lambda each: each.word):
        for parser in with_subcommands(parser_of(command)):
            is_top = " " not in parser.prog.removeprefix("gr00t ")
            heading = f"{'##' if is_top else '###'} {parser.prog}\n\n"
            parts.append(heading + (f"{command.summary}\n\n" if is_top else "") + _options(parser))
    return "\n".join(parts)


def messages_page(folder: Path) -> str:
    """Return the page of messages, services and actions of gr00t_msgs."""
    parts = [f"{GENERATED}# Messages, services, actions\n\nThe interfaces of `gr00t_msgs`.\n"]
    for kind in ("msg", "srv", "action"):
        for path in sorted((folder / kind).glob(f"*.{kind}")):
            parts.append(f"## gr00t_msgs/{kind}/{path.stem}\n\n" + _interface(path, kind))
    return "\n".join(parts)


def parser_of(command: Command) -> CommandParser:
    """Return the parser of a command."""
    parse = CommandParser.parse_args

    class FoundError(BaseException):
        """Has the parser; no command catches it."""

    def stop(parser: CommandParser, *_: object) -> None:
        raise FoundError(parser)

    CommandParser.parse_args = stop  # type: ignore[method-assign, assignment]
    try:
        command([], f"gr00t {command.word}")
    except FoundError as found:
        return found.args[0]
    finally:
        CommandParser.parse_args = parse  # type: ignore[method-assign]
    raise AssertionError(f"{command.name} parses no options")


def with_subcommands(parser: CommandParser) -> Iterator[CommandParser]:
    """Yield a parser and those of its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from with_subcommands(each)


def _options(parser: CommandParser) -> str:
    formatter = parser._get_formatter()
    rows = []
    for action in parser._actions:
        is_own = isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)) or action.dest == "version"
        if is_own or action.help == argparse.SUPPRESS:
            continue
        text, _, default = formatter._expand_help(action).partition(" (default: ")
        value = "" if action.nargs == 0 else _value(action)
        rows.append((_names(action), value, default.rstrip(").").strip(), text))
    return table(("option", "value", "default", "meaning"), rows)


def _names(action: argparse.Action) -> str:
    return ", ".join(f"`{name}`" for name in action.option_strings or [str(action.metavar or action.dest)])


def _value(action: argparse.Action) -> str:
    if isinstance(action, argparse.BooleanOptionalAction):
        return ""
    return (
        ", ".join(map(str, action.choices))
        if action.choices
        else str(action.metavar or "") * bool(action.option_strings)
    )


def _inner(cls: type, path: str = "", seen: dict[type, str] | None = None) -> dict[type, str]:
    """Return the settings classes below one, with the first path at which each is found."""
    seen = {} if seen is None else seen
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        for inner, suffix in _classes(hints[field.name]):
            if inner not in seen:
                seen[inner] = f"{path}{field.name}{suffix}"
                _inner(inner, f"{seen[inner]}.", seen)
    return seen


def _classes(hint: Any) -> Iterator[tuple[type, str]]:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        yield typing.cast(type, hint), ""
    elif origin in (typing.Union, types.UnionType):
        for each in inner:
            yield from _classes(each)
    elif origin is tuple:
        yield from ((cls, f"[]{suffix}") for cls, suffix in _classes(inner[0]))
    elif origin is typing.get_origin(Mapping[str, int]):
        yield from ((cls, f".NAME{suffix}") for cls, suffix in _classes(inner[1]))


def _kind(hint: Any, field: dataclasses.Field, paths: Mapping[type, str]) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(each, field, paths) for each in inner if each is not type(None))
    if origin is tuple:
        return f"list of {_kind(inner[0], field, paths)}"
    if origin is typing.get_origin(Mapping[str, int]):
        return f"by name: {_kind(inner[1], field, paths)}"
    if dataclasses.is_dataclass(hint):
        return f"keys of {paths[typing.cast(type, hint)]}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(str(member.value) for member in hint)
    words = {bool: "true or false", int: "integer", float: "number", str: "text", Path: "path"}.get(hint, "any")
    return words + _bounds(field)


def _bounds(field: dataclasses.Field) -> str:
    low, high = field.metadata["ge"], field.metadata["le"]
    if low is None and high is None:
        return ""
    ends = ["" if end is None else str(end) if isinstance(end, int) else f"{end:g}" for end in (low, high)]
    return (
        f", at least {ends[0]}" if high is None else f", {ends[0]} to {ends[1]}" if ends[0] else f", at most {ends[1]}"
    )


def _default(field: dataclasses.Field) -> str:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if default is dataclasses.MISSING:
        return "required"
    if default is None or default in ("", (), {}) or dataclasses.is_dataclass(default):
        return ""
    if isinstance(default, Enum):
        return str(default.value)
    return (
        str(default).lower()
        if isinstance(default, bool)
        else str(list(default) if isinstance(default, tuple) else default)
    )


def _interface(path: Path, kind: str) -> str:
    names = {"msg": [""], "srv": ["Request", "Response"], "action": ["Goal", "Result", "Feedback"]}[kind]
    sections = re.split(r"^---$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    intro = [line.lstrip("# ") for line in sections[0].partition("\n\n")[0].splitlines() if line.startswith("#")]
    parts = [" ".join(intro) + "\n"]
    for name, section in zip(names, sections, strict=True):
        rows = [_row(match) for line in section.splitlines() if (match := _FIELD.match(line.strip()))]
        parts.append((f"{name}:\n\n" if name else "") + (table(("field", "type", "meaning"), rows) or "Nothing.\n"))
    return "\n".join(parts)


def _row(match: re.Match[str]) -> tuple[str, str, str]:
    return f"`{match['name']}{match['value'] or ''}`", match["type"], match["comment"] or ""


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Help text of a node's executable, made from the dataclass of its parameters."""

from __future__ import annotations

import dataclasses
import textwrap
import typing
from dataclasses import dataclass
from enum import Enum
from typing import Any

from gr00t_recorder.ros.parameters import default_value, description, plain_type
from gr00t_training.cli.command import shown_name

HOW_TO_SET = """\
Set parameters with
  {name} --ros-args -p NAME:=VALUE             on the command line
  {name} --ros-args --params-file FILE.yaml    with the content
      /**:
        ros__parameters:
          NAME: VALUE
Other options of ROS: -r FROM:=TO renames a topic, -r __ns:=/NAMESPACE sets the namespace, -r __node:=NAME the name,
--log-level LEVEL. 'ros2 param describe /{node} NAME' shows a parameter of the running node."""


@dataclass(frozen=True)
class NodeCommand:
    """Name, purpose and parameters of a node's executable."""

    name: str  # of the executable
    node_name: str  # unless renamed with `-r __node:=`
    purpose: str  # one or two sentences
    settings: type | None = None  # dataclass of the parameters

    def help_text(self) -> str:
        """Return the text of `--help`."""
        name = shown_name(self.name)
        parts = [f"usage: {name} [-h] [--version] [--ros-args -p NAME:=VALUE ... --params-file FILE ...]", self.purpose]
        if self.settings is not None:
            parts.append(f"Parameters:\n{_parameters_text(self.settings)}")
            parts.append(HOW_TO_SET.format(name=name, node=self.node_name))
        return "\n\n".join(parts)


def _parameters_text(settings: type) -> str:
    hints = typing.get_type_hints(settings)
    lines = []
    for each in dataclasses.fields(settings):
        kind = plain_type(hints[each.name])
        facts = [_type_name(kind)]
        if isinstance(kind, type) and issubclass(kind, Enum):
            facts = ["one of " + ", ".join(str(member.value) for member in kind)]
        low, high = each.metadata.get("ge"), each.metadata.get("le")
        if low is not None or high is not None:
            facts.append(
                f"at least {low:g}" if high is None else f"at most {high:g}" if low is None else f"{low:g} to {high:g}"
            )
        default = default_value(each)
        facts.append("required" if default is dataclasses.MISSING else f"default {_shown(default)}")
        if each.metadata.get("read_only"):
            facts.append("at start only")
        text = textwrap.fill(description(each), 108, initial_indent="      ", subsequent_indent="      ")
        lines.append(f"  {each.name} ({'; '.join(facts)})\n{text}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or value == "" or value == ():
        return "empty"
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return f"list of {_type_name(typing.get_args(kind)[0])}"
    return {bool: "true or false", int: "integer", float: "decimal number"}.get(kind, "text")

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Describe `topics.yaml`: every key with its meaning, choices, bounds and default, out of the settings themselves.

`python -m gr00t_recorder.topics.describe` prints it. The text is YAML; a required key has the value `<text>`.
"""

from __future__ import annotations

import dataclasses
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import yaml

from gr00t_recorder.topics.bindings import TopicMap
from gr00t_recorder.topics.codecs import TRANSFORM_TYPES, VECTOR_TYPES
from gr00t_recorder.topics.fields import GEOMETRY_TYPES
from gr00t_recorder.topics.images import DEPTH_ENCODINGS, ENCODINGS
from gr00t_recorder.topics.units import UNITS

_WIDTH = 112  # of comments
_NAME = "<name>"  # stands for keys that the reader chooses


def describe_topics() -> str:
    """Return the commented schema of a topic map, and what message types, encodings and units there are."""
    known = {
        "Vectors by default field": ", ".join(
            name.replace("/msg/", "/") for name, kind in VECTOR_TYPES.items() if kind.has_default
        ),
        "Vectors taken whole": f"geometry_msgs/{', '.join(GEOMETRY_TYPES)}, their Stamped and WithCovariance forms",
        "Transforms by 'frames'": ", ".join(kind.replace("/msg/", "/") for kind in TRANSFORM_TYPES),
        "Any other type": "by 'field' or 'fields', custom types included",
        "Images": f"sensor_msgs/Image ({', '.join(ENCODINGS)}; others where cv_bridge is installed); "
        "sensor_msgs/CompressedImage (jpeg, png)",
        "Depth": f"sensor_msgs/Image ({', '.join(DEPTH_ENCODINGS)}); sensor_msgs/CompressedImage (16-bit png, "
        "compressedDepth png)",
        "Units": ", ".join(UNITS),
    }
    lines = ["# topics.yaml: where each key of an embodiment comes from on one robot, and where commands go.", "#"]
    for subject, text in known.items():
        lines += _comment(f"{subject}: {text}", "")
    return "\n".join([*lines, "", *_dataclass_lines(TopicMap, "", {})]) + "\n"


def main() -> None:
    """Print the schema."""
    print(describe_topics(), end="")


def _dataclass_lines(cls: Any, indent: str, described: dict[Any, str]) -> Iterator[str]:
    """Describe the fields of a settings class; `described` gives the key under which a class is described already."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        is_required = default is dataclasses.MISSING
        hint, is_optional = _without_none(hints[field.name])
        notes = [field.metadata["description"], *_choices(hint), *_bounds(field)]
        notes.append("Required." if is_required else "Optional." if is_optional or default in ({}, ()) else "")
        yield from _comment(" ".join(filter(None, notes)), indent)
        yield from _value_lines(field.name, hint, default, indent, described)


def _value_lines(name: str, hint: Any, default: Any, indent: str, described: dict[Any, str]) -> Iterator[str]:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        yield f"{indent}{name}:"
        yield from _dataclass_lines(hint, indent + "  ", described)
    elif origin is tuple and dataclasses.is_dataclass(inner[0]):
        yield f"{indent}{name}:"
        yield f"{indent}  -"
        yield from _dataclass_lines(inner[0], indent + "    ", described)
    elif origin is typing.get_origin(Mapping[str, int]):
        yield f"{indent}{name}:"
        if inner[1] in described:
            yield f"{indent}  {_NAME}: <as under {described[inner[1]]}>"
            return
        described[inner[1]] = name
        yield f"{indent}  {_NAME}:"
        yield from _dataclass_lines(inner[1], indent + "    ", described)
    else:
        yield f"{indent}{name}: {_scalar(hint, default)}"


def _scalar(hint: Any, default: Any) -> str:
    if default is dataclasses.MISSING:
        return f"<{'text' if hint is str else hint.__name__}>"
    plain = default.value if isinstance(default, Enum) else list(default) if isinstance(default, tuple) else default
    text = yaml.safe_dump(plain, default_flow_style=True)
    return text.removesuffix("...\n").strip()


def _choices(hint: Any) -> list[str]:
    if isinstance(hint, type) and issubclass(hint, Enum):
        return [f"One of {', '.join(str(member.value) for member in hint)}."]
    return []


def _bounds(field: dataclasses.Field) -> list[str]:
    low, high = field.metadata["ge"], field.metadata["le"]
    if low is None and high is None:
        return []
    return [f"At least {low:g}." if high is None else f"From {low:g} to {high:g}."]


def _without_none(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(option for option in typing.get_args(hint) if option is not type(None)), True
    return hint, False


def _comment(text: str, indent: str) -> list[str]:
    return [f"{indent}# {line}" for line in textwrap.wrap(text, _WIDTH - len(indent), break_on_hyphens=False)]


if __name__ == "__main__":
    main()

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Parse the message definitions in bags, and refuse impossible ones: cycles, endless arrays.

rosbag2 writes a definition followed by its dependencies, separated by lines of `=`, each with a heading of `MSG:`,
`IDL:` or `SRV:` and the type; IDL parts also name their dependencies in `#include` lines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.base import TypesysError

from gr00t_recorder.bag.storage import MAX_DEFINITION_BYTES
from gr00t_recorder.bag.unpacking import MAX_UNPACKED
from gr00t_training.io.text import one_line

IDL = "ros2idl"
MAX_TYPES = 500  # in a definition; those of whole robots have under 100
MAX_FIELDS = 2000  # of all types of a definition together
MAX_DEPTH = 40
MAX_UNROLLED = 4096  # items of all arrays of structures or texts, each of which becomes code
MAX_COMPOUND_BYTES = 2**20  # of a message with lists of structures or texts; their objects take 100 times as much
TYPE_NAME = re.compile(r"[A-Za-z]\w*(/[A-Za-z]\w*){1,3}")
FIELD_NAME = re.compile(r"[A-Za-z_]\w*")
_RULE = re.compile(r"^=+[ \t]*$", re.MULTILINE)
_HEADING = re.compile(r"\A\s*(?:MSG|IDL|SRV):[^\n]*\n")
_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include\b[^\n]*$", re.MULTILINE)
TEXTS = ("string", "wstring")
READ_BY_ATTRIBUTE = frozenset(
    f"{package}/msg/{name}"
    for package, names in {
        "std_msgs": "Header String Float32MultiArray Float64MultiArray",
        "sensor_msgs": "Image CompressedImage JointState",
        "trajectory_msgs": "JointTrajectory JointTrajectoryPoint",
        "geometry_msgs": "Transform TransformStamped Vector3 Quaternion",
        "tf2_msgs": "TFMessage",
    }.items()
    for name in names.split()
)
_SIZES = {"bool": 1, "byte": 1, "char": 1, "string": 4, "wstring": 4, "wchar": 2, "float128": 16}


class DefinitionError(ValueError):
    """A definition cannot be parsed or used."""


def parsed_types(name: str, definition_format: str, text: str) -> Mapping[str, Any]:
    """Return the types of a definition, as a `Typestore` registers them.

    Args:
        name: of the type.
        definition_format: "ros2idl", else a definition in the form of msg files.
        text: the definition with its dependencies.

    Raises:
        DefinitionError: it cannot be parsed, the type is missing, or it is impossible.
    """
    if len(text) > MAX_DEFINITION_BYTES:
        raise DefinitionError(f"{len(text)} characters (limit {MAX_DEFINITION_BYTES})")
    if not TYPE_NAME.fullmatch(name):
        raise DefinitionError("invalid type name")
    try:
        types = _idl_types(text) if definition_format == IDL else dict(get_types_from_msg(text, name))
    except (TypesysError, LookupError, ValueError, TypeError, AssertionError, RecursionError, OverflowError) as error:
        raise DefinitionError(one_line(error)[:200]) from error
    _check(name, types)
    return {
        each: ([], fields) for each, (_, fields) in types.items()
    }  # without constants: they would become code, and are not used


def check_standard(types: Mapping[str, Any], standard: Mapping[str, Any]) -> None:
    """Refuse definitions without a field that this suite reads by attribute.

    Raises:
        DefinitionError: names the type and the field.
    """
    for name in READ_BY_ATTRIBUTE & types.keys() & standard.keys():
        found = dict(types[name][1])
        for field, description in standard[name][1]:
            if found.get(field) != description:
                raise DefinitionError(f"{name} has no field '{field}' of the standard's type")


def has_compound_sequence(types: Mapping[str, Any], name: str) -> bool:
    """Whether a type has, at any depth, lists of structures or texts of variable length."""
    for _, (kind, inner) in types[name][1]:
        if kind == Nodetype.SEQUENCE and (inner[0][0] == Nodetype.NAME or inner[0][1][0] in TEXTS):
            return True
        below = inner if kind == Nodetype.NAME else inner[0][1] if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE) else ""
        if isinstance(below, str) and below and has_compound_sequence(types, below):
            return True
    return False


def _idl_types(text: str) -> dict[str, Any]:
    if "<<" in text:
        raise DefinitionError("shifts in constants are not supported")
    types: dict[str, Any] = {}
    parts = _RULE.split(text)
    if len(parts) > 2 * MAX_TYPES:
        raise DefinitionError(f"more than {MAX_TYPES} parts")
    for part in parts:
        body = _INCLUDE.sub("", _HEADING.sub("", part.lstrip("\n"))).strip()
        if body:
            types.update(get_types_from_idl(body))
    return types


def _check(name: str, types: Mapping[str, Any]) -> None:
    if name not in types:
        raise DefinitionError(f"it defines {', '.join(list(types)[:5]) or 'nothing'}, not {name}")
    if len(types) > MAX_TYPES:
        raise DefinitionError(f"{len(types)} types (limit {MAX_TYPES})")
    num_fields = sum(len(constants) + len(fields) for constants, fields in types.values())
    if num_fields > MAX_FIELDS:
        raise DefinitionError(f"{num_fields} fields (limit {MAX_FIELDS})")
    arrays = [inner for _, fields in types.values() for _, (kind, inner) in fields if kind == Nodetype.ARRAY]
    num_unrolled = sum(count for item, count in arrays if item[0] == Nodetype.NAME or item[1][0] in TEXTS)
    if num_unrolled > MAX_UNROLLED:
        raise DefinitionError(f"{num_unrolled} structures or texts in arrays (limit {MAX_UNROLLED})")
    for type_name, (constants, fields) in types.items():
        for field in (*constants, *fields):
            if not FIELD_NAME.fullmatch(field[0]) or field[0].startswith("__"):
                raise DefinitionError(f"{field[0]!r} is not a valid field name")
        if not TYPE_NAME.fullmatch(type_name):
            raise DefinitionError(f"{type_name!r} is not a valid type name")
    _least_bytes(name, {**get_typestore(Stores.EMPTY).fielddefs, **types}, (), {})


def _least_bytes(name: str, types: Mapping[str, Any], above: tuple[str, ...], known: dict[str, int]) -> int:
    """Return the minimum size of a message of a type; refuse impossible types."""
    if name in known:
        return known[name]
    if name in above:
        raise DefinitionError(f"{name} contains itself")
    if name not in types:
        raise DefinitionError(f"{name} is missing")
    if len(above) >= MAX_DEPTH:
        raise DefinitionError(f"more than {MAX_DEPTH} structures inside each other")
    total = 0
    for field, (kind, inner) in types[name][1]:
        count, item = 1, (kind, inner)
        if kind == Nodetype.ARRAY:
            count, item = inner[1], inner[0]
        elif kind == Nodetype.SEQUENCE:
            count, item = 0, inner[0]
            total += 4
        if item[0] == Nodetype.NAME:
            size = _least_bytes(item[1], types, (*above, name), known)
            if kind == Nodetype.SEQUENCE and not size:
                raise DefinitionError(f"{name}.{field} is a list of {item[1]}, which has no content")
        else:
            size = _base_bytes(item[1][0])
        total += count * size
        if not 0 <= total <= MAX_UNPACKED:
            raise DefinitionError(f"a {name} has more than {MAX_UNPACKED} bytes")
    known[name] = total
    return total


def _base_bytes(name: str) -> int:
    digits = re.sub(r"\D", "", name)
    return _SIZES.get(name, int(digits) // 8 if digits else 1)

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Declare a node's parameters from a settings dataclass, and read them back as its instance."""

from __future__ import annotations

import dataclasses
import difflib
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, ParameterType, SetParametersResult
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from gr00t_training.errors import ConfigError
from gr00t_training.io.object_storage import LOCAL_ONLY, refuse_remote
from gr00t_training.io.text import printable
from gr00t_training.settings import build_settings

T = TypeVar("T")
INT64_MAX = 2**63 - 1
# Of rclpy itself: the first two are declared by some releases only, overrides of QoS by the entity that allows them.
ROS_PARAMETERS = ("use_sim_time", "start_type_description_service")
ROS_PREFIXES = ("qos_overrides.",)
# YAML takes these words for truth values: `bag: off` in a parameters file arrives as False
YAML_WORDS = {False: ("off", "no", "false", "n"), True: ("on", "yes", "true", "y")}


def declare(node: Node, cls: type[T]) -> T:
    """Declare one parameter per field of `cls` and return the values given to the node.

    Fields may be bool, int, float, str, Path, an Enum of texts, or a tuple of one of bool, int, float, str; an empty
    text means None where a field may be None. Parameters declared earlier are read again, so that a lifecycle
    node may call this at each configure.

    Raises:
        ConfigError: a value has the wrong type, is out of bounds, or is required and missing, or a parameter was given
            that the node does not have; names the parameter.
    """
    hints = typing.get_type_hints(cls)
    refuse_unknown(node, [field.name for field in dataclasses.fields(cls)])  # type: ignore[arg-type]
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if not node.has_parameter(field.name):
            _declare_field(node, field, hints[field.name])
    return read(node, cls)


def refuse_unknown(node: Node, known: Sequence[str]) -> None:
    """Refuse parameters that were given to the node but that it does not have; ROS would ignore them.

    Raises:
        ConfigError: names each, and the parameter that was probably meant.
    """
    given: Mapping[str, Parameter] = getattr(node, "_parameter_overrides", {})  # from Humble to Rolling
    unknown = [
        name
        for name in given
        if name not in known
        and name not in ROS_PARAMETERS
        and not name.startswith(ROS_PREFIXES)
        and not node.has_parameter(name)
    ]
    if not unknown:
        return
    described = []
    for name in sorted(unknown):
        close = difflib.get_close_matches(name, known, n=1)
        described.append(f"unknown parameter '{printable(name)}'" + (f" (did you mean '{close[0]}'?)" if close else ""))
    raise ConfigError(f"{'; '.join(described)}; the node's --help lists its parameters")


def read(node: Node, cls: type[T]) -> T:
    """Return the present values of parameters that `declare` has declared; raises as `declare` does."""
    hints = typing.get_type_hints(cls)
    values = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        try:
            value = node.get_parameter(field.name).value
        except ParameterUninitializedException:
            value = None if default_value(field) is dataclasses.MISSING else _to_ros(default_value(field))
        if value is None and not _is_optional(hints[field.name]):
            raise ConfigError(
                f"parameter '{field.name}': not given; set it in the parameters file ({description(field)})"
            )
        values[field.name] = _from_ros(field.name, hints[field.name], value)
    return build_settings(cls, values)


def guard_changes(node: Node, cls: type[T], is_in_use: Callable[[], bool], live: Collection[str] = ()) -> None:
    """Answer a change of a declared parameter truly: refused when the value is wrong or could not act now.

    Args:
        node: has declared the fields of `cls`.
        cls: dataclass of parameters that are read at configure only.
        is_in_use: whether the node is configured, so that a change would not act.
        live: names of those that are read again later, and may change at any time.
    """
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]

    def check(parameters: Sequence[Parameter]) -> SetParametersResult:
        changed = {each.name: each.value for each in parameters if each.name in names}
        changed = {name: value for name, value in changed.items() if node.get_parameter(name).value != value}
        late = [name for name in changed if name not in live]
        if late and is_in_use():
            reason = (
                f"parameter '{late[0]}' takes effect at the next configure; deactivate and clean up the "
                "node first, then set it and configure again"
            )
            return SetParametersResult(successful=False, reason=reason)
        try:
            values = {name: _from_ros(name, hints[name], value) for name, value in changed.items()}
            build_settings(cls, {**dataclasses.asdict(read(node, cls)), **values})  # type: ignore[call-overload]
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)


def _declare_field(node: Node, field: dataclasses.Field, hint: Any) -> None:
    kind = plain_type(hint)
    descriptor = ParameterDescriptor(
        description=description(field), read_only=bool(field.metadata.get("read_only")), type=_ros_type(kind)
    )
    low, high = field.metadata.get("ge"), field.metadata.get("le")
    if kind is float and (low is not None or high is not None):
        bounds = FloatingPointRange(
            from_value=-sys.float_info.max if low is None else float(low),
            to_value=sys.float_info.max if high is None else float(high),
        )
        descriptor.floating_point_range = [bounds]
    elif kind is int and (low is not None or high is not None):
        bounds = IntegerRange(
            from_value=-INT64_MAX if low is None else int(low), to_value=INT64_MAX if high is None else int(high)
        )
        descriptor.integer_range = [bounds]
    elif isinstance(kind, type) and issubclass(kind, Enum):
        descriptor.additional_constraints = "one of " + ", ".join(str(member.value) for member in kind)
        if _yaml_words(kind):
            descriptor.dynamic_typing = True
            descriptor.type = ParameterType.PARAMETER_NOT_SET
    default = default_value(field)
    try:
        # rclpy takes an empty list for bytes, so such a default is not given to it
        if default is dataclasses.MISSING or default == ():
            node.declare_parameter(field.name, Parameter.Type(_ros_type(kind)), descriptor)
        else:
            node.declare_parameter(field.name, _to_ros(default), descriptor)
    except InvalidParameterTypeException as error:
        found = printable(repr(_given(node, field.name)))
        raise ConfigError(f"parameter '{field.name}': found {found}, expected {type_text(kind)}") from error
    except InvalidParameterValueException as error:
        limits = f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
        raise ConfigError(f"parameter '{field.name}': is {_given(node, field.name)}, expected {limits}") from error


def _given(node: Node, name: str) -> Any:
    given = getattr(node, "_parameter_overrides", {}).get(name)
    return None if given is None else given.value


def _from_ros(name: str, hint: Any, value: Any) -> Any:
    kind = plain_type(hint)
    if value is None or (value == "" and _is_optional(hint)):
        return None
    if isinstance(kind, type) and issubclass(kind, Enum):
        allowed = [member.value for member in kind]
        if isinstance(value, bool):
            value = _yaml_words(kind).get(value, str(value).lower())
        if value not in allowed:
            raise ConfigError(f"parameter '{name}': '{value}' is not one of {', '.join(map(str, allowed))}")
        return kind(value)
    if kind in (str, Path):
        refuse_remote(value, LOCAL_ONLY, error=ConfigError, subject=f"parameter '{name}': ")
    if kind is Path:
        return Path(value)
    return tuple(value) if typing.get_origin(kind) is tuple else value


def _yaml_words(kind: type[Enum]) -> dict[bool, str]:
    """Return which members of an Enum of texts YAML takes for a truth value, by that value."""
    words = [str(member.value) for member in kind]
    return {truth: word for truth, known in YAML_WORDS.items() for word in words if word in known}


def _to_ros(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _ros_type(kind: Any) -> int:
    scalars = {
        bool: ParameterType.PARAMETER_BOOL,
        int: ParameterType.PARAMETER_INTEGER,
        float: ParameterType.PARAMETER_DOUBLE,
        str: ParameterType.PARAMETER_STRING,
        Path: ParameterType.PARAMETER_STRING,
    }
    arrays = {
        bool: ParameterType.PARAMETER_BOOL_ARRAY,
        int: ParameterType.PARAMETER_INTEGER_ARRAY,
        float: ParameterType.PARAMETER_DOUBLE_ARRAY,
        str: ParameterType.PARAMETER_STRING_ARRAY,
    }
    if typing.get_origin(kind) is tuple:
        return arrays[typing.get_args(kind)[0]]
    if issubclass(kind, Enum):
        return ParameterType.PARAMETER_STRING
    return scalars[kind]


def plain_type(hint: Any) -> Any:
    """Return `X` for `X | None`, and other types as they are."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(option for option in typing.get_args(hint) if option is not type(None))
    return hint


def _is_optional(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def default_value(field: dataclasses.Field) -> Any:
    """Return the default of a field of a settings dataclass; MISSING where it is required."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def description(field: dataclasses.Field) -> str:
    """Return what a field of a settings dataclass says about itself."""
    return field.metadata.get("description", "")


def type_text(kind: Any) -> str:
    """Return the values of a type in words."""
    texts = {float: "a number with a decimal point (2.0, not 2)", int: "a whole number", bool: "true or false"}
    return texts.get(kind, "a list" if typing.get_origin(kind) is tuple else "a text")

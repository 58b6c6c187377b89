# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Declare a node's parameters from a settings dataclass, and read them back as its instance."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, ParameterType
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from gr00t_training.errors import ConfigError
from gr00t_training.settings import build_settings

T = TypeVar("T")
INT64_MAX = 2**63 - 1


def declare(node: Node, cls: type[T]) -> T:
    """Declare one parameter per field of `cls` and return the values given to the node.

    Fields may be bool, int, float, str, Path, an Enum of texts, or a tuple of one of bool, int, float, str; an empty
    text stands for None where a field may be None. Parameters declared earlier are read again, so that a lifecycle
    node may call this at each configure.

    Raises:
        ConfigError: a value has the wrong type, is out of bounds, or is required and missing; names the parameter.
    """
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if not node.has_parameter(field.name):
            _declare_field(node, field, hints[field.name])
    return read(node, cls)


def read(node: Node, cls: type[T]) -> T:
    """Return the present values of parameters that `declare` has declared; raises as `declare` does."""
    hints = typing.get_type_hints(cls)
    values = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        try:
            value = node.get_parameter(field.name).value
        except ParameterUninitializedException:
            value = None if _default(field) is dataclasses.MISSING else _to_ros(_default(field))
        if value is None and not _is_optional(hints[field.name]):
            raise ConfigError(
                f"parameter '{field.name}': not given; set it in the parameters file ({_description(field)})"
            )
        values[field.name] = _from_ros(field.name, hints[field.name], value)
    return build_settings(cls, values)


def _declare_field(node: Node, field: dataclasses.Field, hint: Any) -> None:
    kind = _plain(hint)
    descriptor = ParameterDescriptor(
        description=_description(field), read_only=bool(field.metadata.get("read_only")), type=_ros_type(kind)
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
    default = _default(field)
    try:
        # rclpy takes an empty list for bytes, so such a default is not given to it
        if default is dataclasses.MISSING or default == ():
            node.declare_parameter(field.name, Parameter.Type(_ros_type(kind)), descriptor)
        else:
            node.declare_parameter(field.name, _to_ros(default), descriptor)
    except InvalidParameterTypeException as error:
        raise ConfigError(f"parameter '{field.name}': {error}; expected {_type_text(kind)}") from error
    except InvalidParameterValueException as error:
        limits = f"{'' if low is None else low} to {'' if high is None else high}"
        raise ConfigError(f"parameter '{field.name}': {error}; expected {limits}") from error


def _from_ros(name: str, hint: Any, value: Any) -> Any:
    kind = _plain(hint)
    if value is None or (value == "" and _is_optional(hint)):
        return None
    if isinstance(kind, type) and issubclass(kind, Enum):
        allowed = [member.value for member in kind]
        if value not in allowed:
            raise ConfigError(f"parameter '{name}': '{value}' is not one of {', '.join(map(str, allowed))}")
        return kind(value)
    if kind is Path:
        return Path(value)
    return tuple(value) if typing.get_origin(kind) is tuple else value


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


def _plain(hint: Any) -> Any:
    """`X | None` -> X."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(option for option in typing.get_args(hint) if option is not type(None))
    return hint


def _is_optional(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _description(field: dataclasses.Field) -> str:
    return field.metadata.get("description", "")


def _type_text(kind: Any) -> str:
    texts = {float: "a number with a decimal point (write 2.0, not 2)", int: "a whole number", bool: "true or false"}
    return texts.get(kind, "a list" if typing.get_origin(kind) is tuple else "a text")

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Typed settings: one frozen dataclass per concern, filled from YAML, a command line or ROS parameters.

The dataclass is the only place that knows a name, a type, a default, a unit and a bound. A YAML file is read with
its line numbers, so that every error names the file and the line.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import yaml

from gr00t_training.errors import ConfigError
from gr00t_training.io.files import read_text
from gr00t_training.io.text import printable
from gr00t_training.io.yaml_text import SIZE_LIMIT, compose_yaml, plain_value

T = TypeVar("T")
METAVARS = {int: "N", float: "X", Path: "FILE"}  # of options; texts have the name of their field


def setting(
    default: Any = dataclasses.MISSING,
    description: str = "",
    *,
    ge: float | None = None,
    le: float | None = None,
    read_only: bool = False,
    default_factory: Any = dataclasses.MISSING,
    metavar: str = "",
) -> Any:
    """Declare a dataclass field that documents and checks itself.

    Args:
        default: value when none is given; leave out for a required setting.
        description: one sentence, with the unit in square brackets.
        ge: smallest allowed value.
        le: largest allowed value.
        read_only: whether a ROS parameter of this name is refused after start.
        default_factory: makes the default where it is a container.
        metavar: word for the value in the help of a command; empty: by type.
    """
    metadata = {"description": description, "ge": ge, "le": le, "read_only": read_only, "metavar": metavar}
    return dataclasses.field(default=default, default_factory=default_factory, kw_only=True, metadata=metadata)


def load_settings(cls: type[T], path: str | Path) -> T:
    """Read a YAML file into the dataclass `cls`.

    Raises:
        ConfigError: file missing, not YAML, unknown or missing key, wrong type or value; names file and line.
    """
    path = Path(path)
    return parse_settings(cls, read_text(path, ConfigError, SIZE_LIMIT), str(path))


class MisplacedError(ValueError):
    """Faults of a settings dataclass as a whole, each with the keys that lead to it: their lines are named.

    `__post_init__` raises it where a ValueError would name the first line of the whole mapping.
    """

    def __init__(self, faults: Sequence[tuple[Sequence[str], str]]) -> None:
        super().__init__(faults[0][1])
        self.faults = tuple(faults)


def parse_settings(cls: type[T], text: str, source: str) -> T:
    """Read YAML text into the dataclass `cls`; `source` names the text in errors."""
    found, problems = inspect_settings(cls, text, source)
    if found is None:
        raise problems[0]
    return found


def inspect_settings(cls: type[T], text: str, source: str) -> tuple[T | None, list[ConfigError]]:
    """Read YAML text as `parse_settings` does, and return everything that is wrong instead of raising the first.

    Returns:
        The dataclass, None if anything is wrong, and the errors in the order of the lines; what is beyond a value that
        is wrong itself is not checked.
    """
    try:
        node = compose_yaml(text, source)
        if node is None:
            raise ConfigError(f"{source}:1: the file is empty, expected the keys of {cls.__name__}")
    except ConfigError as error:
        return None, [error]
    place = _Place(source, "", [])
    found = place.attempt(lambda: _build(cls, node, place))
    return (None if place.problems else found), place.problems


def parse_values(classes: Sequence[type], text: str, source: str, without: Sequence[str] = ()) -> dict[str, Any]:
    """Read YAML text that gives some of the settings of several dataclasses, all as keys of one mapping.

    Args:
        classes: settings dataclasses.
        text: YAML.
        source: names the text in errors.
        without: settings that cannot be given.

    Raises:
        ConfigError: not YAML, unknown key, wrong type or value; names file and line.
    """
    node = compose_yaml(text, source)
    if node is None:
        return {}
    fields = {field.name: field for cls in classes for field in dataclasses.fields(cls) if field.name not in without}
    hints = {name: hint for cls in classes for name, hint in typing.get_type_hints(cls).items()}
    place = _Place(source, "", [])
    values = place.attempt(lambda: _values(fields, hints, node, place))
    if place.problems:
        raise place.problems[0]
    return values


def check_bounds(instance: Any) -> None:
    """Check every bounded field of a settings dataclass; ValueError names the field."""
    for field in dataclasses.fields(instance):
        _check_bound(field, getattr(instance, field.name))


def add_arguments(
    parser: argparse._ActionsContainer,
    cls: type,
    choices: Mapping[str, Sequence[str]] = types.MappingProxyType({}),
    sections: Mapping[str, str] = types.MappingProxyType({}),
) -> None:
    """Add one `--option` per field of a settings dataclass; nothing is set unless given.

    Args:
        parser: parser or group that gets the options.
        cls: settings dataclass; fields that are settings themselves get none, add theirs with another call.
        choices: allowed values of fields that are text, by name.
        sections: headings in the help, by the field that each begins with.
    """
    hints = typing.get_type_hints(cls)
    whole = parser
    for field in dataclasses.fields(cls):
        if field.name in sections:
            parser = whole.add_argument_group(sections[field.name])
        option = "--" + field.name.replace("_", "-")
        default = _default_of(field)
        text = field.metadata.get("description", "").replace("%", "%%")
        if default not in (dataclasses.MISSING, None, (), ""):
            text += f" (default: {_shown(default)})"
        kind = _plain_type(hints[field.name])
        if dataclasses.is_dataclass(kind):
            continue
        common: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": text}
        metavar = field.metadata.get("metavar") or METAVARS.get(kind, field.name.upper())
        if kind is bool:
            parser.add_argument(option, action=argparse.BooleanOptionalAction, **common)
        elif isinstance(kind, type) and issubclass(kind, Enum):
            parser.add_argument(option, choices=[member.value for member in kind], **common)
        elif kind is tuple:
            parser.add_argument(option, nargs="*", metavar=metavar, **common)
        elif field.name in choices:
            parser.add_argument(option, choices=choices[field.name], **common)
        else:
            required = default is dataclasses.MISSING
            parser.add_argument(option, type=kind, required=required, metavar=metavar, **common)


def from_arguments(
    cls: type[T],
    namespace: argparse.Namespace,
    base: T | None = None,
    given: Mapping[str, Any] = types.MappingProxyType({}),
) -> T:
    """Build the settings dataclass from parsed arguments.

    Args:
        cls: settings dataclass.
        namespace: parsed arguments.
        base: has what arguments and `given` leave open; None: the defaults.
        given: values that arguments win over, by name; those of other settings are ignored.

    Raises:
        ConfigError: a value is outside its bounds, or values contradict each other.
    """
    hints = typing.get_type_hints(cls)
    values = {} if base is None else {field.name: getattr(base, field.name) for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in given:
            values[field.name] = given[field.name]
        if hasattr(namespace, field.name):
            value = getattr(namespace, field.name)
            kind = _plain_type(hints[field.name])
            if kind is tuple or (isinstance(kind, type) and issubclass(kind, Enum)):
                value = kind(value)
            values[field.name] = value
    try:
        return build_settings(cls, values)
    except ConfigError as error:  # who types options does not know the class
        raise ConfigError(str(error).removeprefix(f"{cls.__name__}: ")) from error


def build_settings(cls: type[T], values: Mapping[str, Any]) -> T:
    """Make the dataclass from plain values and check its bounds.

    Raises:
        ConfigError: a value is outside its bounds, unknown or missing.
    """
    try:
        instance = cls(**values)
        check_bounds(instance)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{cls.__name__}: {error}") from error
    return instance


_FAULTY: Any = object()  # stands for a value that is among the problems


@dataclasses.dataclass(frozen=True)
class _Place:
    source: str
    path: str
    problems: list[ConfigError]  # found so far, in the whole text

    def inside(self, key: str | int) -> _Place:
        key = printable(str(key))
        return _Place(self.source, f"{self.path}.{key}" if self.path else key, self.problems)

    def attempt(self, build: Callable[[], Any]) -> Any:
        """Return what `build` gives; note its error otherwise, so that the values after it are checked, too."""
        try:
            return build()
        except ConfigError as error:
            self.problems.append(error)
            return _FAULTY

    def error(self, node: yaml.Node, message: str) -> ConfigError:
        subject = f" {self.path}:" if self.path else ""
        return ConfigError(f"{self.source}:{node.start_mark.line + 1}:{subject} {message}")


def _build(hint: Any, node: yaml.Node, place: _Place) -> Any:
    """Turn a YAML node into a value of the type `hint`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return plain_value(node)
    if origin in (typing.Union, types.UnionType):
        return _build_union(arguments, node, place)
    if dataclasses.is_dataclass(hint):
        return _build_dataclass(hint, node, place)  # type: ignore[arg-type]
    if origin is tuple:
        items = [_attempt(arguments[0], item, place.inside(i)) for i, item in enumerate(_items(node, place))]
        return _FAULTY if _FAULTY in items else tuple(items)
    if origin in (dict, Mapping, typing.get_origin(Mapping[str, int])):
        found = {key: _attempt(arguments[1], value, place.inside(key)) for key, _, value in _entries(node, place)}
        return _FAULTY if _FAULTY in found.values() else found
    return _build_scalar(hint, node, place)


def _attempt(hint: Any, node: yaml.Node, place: _Place) -> Any:
    return place.attempt(lambda: _build(hint, node, place))


def _build_union(options: Sequence[Any], node: yaml.Node, place: _Place) -> Any:
    is_null = isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"
    if is_null and type(None) in options:
        return None
    options = [option for option in options if option is not type(None)]
    if len(options) == 1:
        return _build(options[0], node, place)
    for option in options:
        is_scalar_type = isinstance(option, type) and not dataclasses.is_dataclass(option)
        if is_scalar_type == isinstance(node, yaml.ScalarNode):
            return _build(option, node, place)
    raise place.error(node, f"expected {' or '.join(_type_name(option) for option in options)}")


def _build_dataclass(cls: type[T], node: yaml.Node, place: _Place) -> T:
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = _values(fields, typing.get_type_hints(cls), node, place)
    missing = [name for name, field in fields.items() if name not in values and _is_required(field)]
    for name in missing:
        text = f"missing key '{name}': {fields[name].metadata.get('description', '')}"
        place.problems.append(place.error(node, text))
    if missing or _FAULTY in values.values():
        return _FAULTY
    try:
        return cls(**values)
    except MisplacedError as error:
        place.problems.extend(place.error(_node_at(node, keys), text) for keys, text in error.faults)
        return _FAULTY
    except ValueError as error:
        raise place.error(node, str(error)) from error


def _node_at(node: yaml.Node, keys: Sequence[str]) -> yaml.Node:
    """Return the node that `keys` lead to, or the last one on the way."""
    for key in keys:
        entries = node.value if isinstance(node, yaml.MappingNode) else ()
        found = next((value for name, value in entries if name.value == key), None)
        if found is None:
            break
        node = found
    return node


def _values(
    fields: Mapping[str, dataclasses.Field], hints: Mapping[str, Any], node: yaml.Node, place: _Place
) -> dict[str, Any]:
    """Turn the entries of a YAML mapping into values of the fields, and check their bounds."""
    values: dict[str, Any] = {}
    for key, key_node, value_node in _entries(node, place):
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            remedy = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(fields)}"
            place.problems.append(place.error(key_node, f"unknown key '{printable(key)}'; {remedy}"))
            continue
        values[key] = _attempt(hints[key], value_node, place.inside(key))
        try:
            _check_bound(fields[key], values[key])
        except ValueError as error:
            place.problems.append(place.error(value_node, str(error)))
            values[key] = _FAULTY
    return values


def _build_scalar(hint: Any, node: yaml.Node, place: _Place) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        raise place.error(node, f"expected {_type_name(hint)}, found a {_node_kind(node)}")
    value, shown = plain_value(node), printable(node.value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        allowed = [member.value for member in hint]
        if value not in allowed:
            raise place.error(node, f"'{shown}' is not one of {', '.join(map(str, allowed))}")
        return hint(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if (isinstance(value, bool) and hint is not bool) or not isinstance(value, hint):
        raise place.error(node, f"expected {_type_name(hint)}, found '{shown}'")
    return value


def _entries(node: yaml.Node, place: _Place) -> list[tuple[str, yaml.Node, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        raise place.error(node, f"expected a mapping of keys to values, found a {_node_kind(node)}")
    return [(key_node.value, key_node, value_node) for key_node, value_node in node.value]


def _items(node: yaml.Node, place: _Place) -> list[yaml.Node]:
    if not isinstance(node, yaml.SequenceNode):
        raise place.error(node, f"expected a list, found a {_node_kind(node)}")
    return node.value


def _node_kind(node: yaml.Node) -> str:
    return {yaml.ScalarNode: "single value", yaml.SequenceNode: "list", yaml.MappingNode: "mapping"}[type(node)]


def _check_bound(field: dataclasses.Field, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    low, high = field.metadata.get("ge"), field.metadata.get("le")
    # negated comparisons, so that NaN is refused too
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        limits = f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
        raise ValueError(f"{field.name} is {value}, expected {limits}")


def _plain_type(hint: Any) -> Any:
    """`X | None` -> X, `tuple[X, ...]` -> tuple, anything else unchanged."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    return tuple if typing.get_origin(hint) is tuple else hint


def _default_of(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    return str(default.value if isinstance(default, Enum) else default)


def _type_name(hint: Any) -> str:
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))

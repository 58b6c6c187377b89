# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""YAML that somebody else wrote, read within limits: size, depth and number of nodes, counted with aliases expanded.

Plain data only: texts, numbers, booleans, null, lists, and mappings whose keys are texts. Refused with the line: other
tags, cyclic aliases, duplicate keys, merge keys and more than one document. A date is a text, and `1e-6` is a number as
in JSON and in ROS 2, although YAML 1.1 says otherwise.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

import yaml

from gr00t_training.errors import ConfigError, Gr00tError
from gr00t_training.io.files import read_text
from gr00t_training.io.text import printable

SIZE_LIMIT = 8 * 2**20  # [bytes]; rosbag2's metadata of 10,000 split files has 2 MB
NODE_LIMIT = 200_000  # values with aliases expanded; takes about 4 s
DEPTH_LIMIT = 40  # the deepest settings and rosbag2's metadata have under 10
NUMBER_LIMIT = 64  # [characters]; a longer one is a text

_PREFIX = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset(_PREFIX + name for name in ("str", "int", "float", "bool", "null"))
_UNPRINTABLE = yaml.reader.Reader.NON_PRINTABLE
_SURROGATE = re.compile("[\ud800-\udfff]")
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1


def read_yaml(path: Path, error: type[Gr00tError] = ConfigError, limit: int = SIZE_LIMIT) -> Any:
    """Read a YAML file as plain Python values.

    Args:
        path: file to read.
        error: type of the errors.
        limit: largest size [bytes].

    Raises:
        error: missing, not a regular file, too large, not UTF-8, not YAML, or beyond a limit; names file and line.
    """
    return parse_yaml(read_text(path, error, limit), str(path), error)


def parse_yaml(text: str, source: str, error: type[Gr00tError] = ConfigError) -> Any:
    """Read YAML text as plain Python values, None for an empty one; `source` names the text in errors."""
    node = compose_yaml(text, source, error)
    return None if node is None else plain_value(node)


def compose_yaml(text: str, source: str, error: type[Gr00tError] = ConfigError) -> yaml.Node | None:
    """Read YAML text as a tree of nodes with their lines, None for an empty one.

    Raises:
        error: not YAML, or beyond a limit; names `source` and the line.
    """
    return _Composer(text, source, error).document()


def plain_value(node: yaml.Node) -> Any:
    """Return the value of a node of `compose_yaml`: str, int, float, bool, None, list or dict."""
    if isinstance(node, yaml.ScalarNode):
        return _scalar_value(node)
    if isinstance(node, yaml.SequenceNode):
        return [plain_value(item) for item in node.value]
    return {key.value: plain_value(value) for key, value in node.value}


def key_lines(node: yaml.Node | None) -> dict[tuple[str, ...], int]:
    """Return the line, from 1, of every key and list item below a node of `compose_yaml`, by the keys leading to it."""
    found: dict[tuple[str, ...], int] = {}

    def walk(node: yaml.Node, path: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            items = [(key.value, key, value) for key, value in node.value]
        else:
            items = [(str(i), item, item) for i, item in enumerate(node.value)]
        for name, place, value in items:
            found[(*path, name)] = place.start_mark.line + 1
            if not isinstance(value, yaml.ScalarNode):
                walk(value, (*path, name))

    if node is not None and not isinstance(node, yaml.ScalarNode):
        walk(node, ())
    return found


class _Resolver(yaml.resolver.BaseResolver):
    """Types of plain scalars: those of YAML 1.1 without dates, merge and value keys; floats as in JSON too."""


for _first, _entries in yaml.resolver.Resolver.yaml_implicit_resolvers.items():
    _kept = [(tag, pattern) for tag, pattern in _entries if tag in _SCALAR_TAGS]
    _Resolver.yaml_implicit_resolvers = {**_Resolver.yaml_implicit_resolvers, _first: _kept}
_Resolver.add_implicit_resolver(
    _PREFIX + "float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+\Z"), list("-+.0123456789")
)


class _Composer:
    """Builds the nodes of one document from the parser's events."""

    def __init__(self, text: str, source: str, error: type[Gr00tError]) -> None:
        self._source, self._error = source, error
        wrong = _UNPRINTABLE.search(text)
        if wrong:
            line = text.count("\n", 0, wrong.start())
            self._fail(line, f"not valid YAML: character {wrong.group().encode('unicode_escape').decode()}")
        self._loader = yaml.SafeLoader(text)
        self._resolver = _Resolver()
        self._anchors: dict[str, tuple[yaml.Node, int, int] | None] = {}  # node, nodes in it, depth of it; None: open
        self._count = 0

    def document(self) -> yaml.Node | None:
        self._next()  # start of the stream
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        node, _, _ = self._node(self._next(), 1)
        self._next()  # end of the document
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            self._fail(event.start_mark.line, "a second document begins; expected one, remove the '---'")
        return node

    def _next(self) -> Any:
        try:
            return self._loader.get_event()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._fail(mark.line if mark else 0, f"not valid YAML: {error.problem}", error)
        except (yaml.YAMLError, ValueError, OverflowError) as error:  # an escape or a version beyond any range
            self._fail(self._loader.line, f"not valid YAML: {error}", error)

    def _node(self, event: Any, depth: int) -> tuple[yaml.Node, int, int]:
        """Return a node, the number of nodes in it and its depth, aliases expanded."""
        line = event.start_mark.line
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor, line, depth)
        if event.anchor:
            if event.anchor in self._anchors:
                self._fail(line, f"duplicate anchor '&{event.anchor}'")
            self._anchors[event.anchor] = None
        self._admit(1, depth, line)
        if isinstance(event, yaml.ScalarEvent):
            found = self._scalar(event), 1, 1
        else:
            found = self._collection(event, depth)
        if event.anchor:
            self._anchors[event.anchor] = found
        return found

    def _alias(self, name: str, line: int, depth: int) -> tuple[yaml.Node, int, int]:
        if name not in self._anchors:
            self._fail(line, f"alias '*{name}' has no anchor '&{name}' before it")
        found = self._anchors[name]
        if found is None:
            self._fail(line, f"alias '*{name}' contains itself")
        self._admit(found[1], depth + found[2] - 1, line)
        return found

    def _admit(self, count: int, depth: int, line: int) -> None:
        self._count += count
        if self._count > NODE_LIMIT:
            self._fail(line, f"more than {NODE_LIMIT} values with aliases expanded; is it the right file?")
        if depth > DEPTH_LIMIT:
            self._fail(line, f"nested deeper than {DEPTH_LIMIT} levels; is it the right file?")

    def _scalar(self, event: yaml.ScalarEvent) -> yaml.ScalarNode:
        line, text = event.start_mark.line, event.value
        if _SURROGATE.search(text):  # JSON writes a character beyond 16 bits as two escapes
            try:
                text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
            except UnicodeDecodeError as error:
                self._fail(line, "not valid YAML: half of a surrogate pair in a text", error)
        tag = event.tag
        if tag == "!" or (tag is None and (not event.implicit[0] or len(text) > NUMBER_LIMIT)):
            tag = _PREFIX + "str"
        elif tag is None:
            tag = self._resolver.resolve(yaml.ScalarNode, text, (True, False))
        elif tag not in _SCALAR_TAGS:
            self._fail_tag(tag, line)
        node = yaml.ScalarNode(tag, text, event.start_mark, event.end_mark, style=event.style)
        try:
            _scalar_value(node)
        except (ValueError, LookupError) as error:
            self._fail(line, f"'{printable(text)}' is not a 64-bit number or a value of its tag", error)
        return node

    def _collection(self, event: Any, depth: int) -> tuple[yaml.Node, int, int]:
        is_list = isinstance(event, yaml.SequenceStartEvent)
        tag = _PREFIX + ("seq" if is_list else "map")
        if event.tag not in (None, "!", tag):
            self._fail_tag(event.tag, event.start_mark.line)
        kind, end = (yaml.SequenceNode, yaml.SequenceEndEvent) if is_list else (yaml.MappingNode, yaml.MappingEndEvent)
        node = kind(tag, [], event.start_mark, event.end_mark, flow_style=event.flow_style)
        keys: dict[str, int] = {}
        size, height = 1, 0
        while not isinstance(item := self._next(), end):
            key = None if is_list else self._key(item, keys, depth + 1)
            child, child_size, child_height = self._node(item if is_list else self._next(), depth + 1)
            node.value.append(child if is_list else (key, child))
            size, height = size + child_size + (not is_list), max(height, child_height)
        return node, size, height + 1

    def _key(self, event: Any, seen: dict[str, int], depth: int) -> yaml.ScalarNode:
        line = event.start_mark.line
        if not isinstance(event, (yaml.ScalarEvent, yaml.AliasEvent)):
            self._fail(line, "a list or mapping is used as a key; expected a text")
        key, _, _ = self._node(event, depth)
        if not isinstance(key, yaml.ScalarNode):
            self._fail(line, "a list or mapping is used as a key; expected a text")
        if key.value == "<<" and key.style is None:
            self._fail(line, "merge keys ('<<') are not supported; write the keys out")
        if key.value in seen:
            self._fail(line, f"duplicate key '{printable(key.value)}', first on line {seen[key.value] + 1}")
        seen[key.value] = line
        return key

    def _fail_tag(self, tag: str, line: int) -> NoReturn:
        self._fail(line, f"tag '{printable(tag.replace(_PREFIX, '!!'))}' is not supported; write the plain value")

    def _fail(self, line: int, message: str, cause: Exception | None = None) -> NoReturn:
        raise self._error(f"{self._source}:{line + 1}: {message}") from cause


_constructor = yaml.constructor.SafeConstructor()


def _scalar_value(node: yaml.ScalarNode) -> Any:
    """Return the value of a scalar; ValueError or LookupError where it is not one of its tag."""
    kind = node.tag.removeprefix(_PREFIX)
    if kind == "str":
        return node.value
    if kind == "null":
        return None
    if kind == "bool":
        return _constructor.construct_yaml_bool(node)
    if len(node.value) > NUMBER_LIMIT:
        raise ValueError("too long")
    if kind == "float":
        return _constructor.construct_yaml_float(node)
    value = _constructor.construct_yaml_int(node)
    if not _INT_MIN <= value <= _INT_MAX:
        raise ValueError("too large")
    return value

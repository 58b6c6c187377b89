# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Deserialize recorded messages, with the definitions in the bag, else with the standard types of `rosbags`."""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from gr00t_recorder.bag.definitions import (
    MAX_COMPOUND_BYTES,
    DefinitionError,
    check_standard,
    has_compound_sequence,
    parsed_types,
)
from gr00t_recorder.bag.storage import CDR, ROS1, BagTopic
from gr00t_training.errors import DatasetError
from gr00t_training.io.text import printable

CDR_HEADER_SIZE = 4
EVENT_SUFFIX = "_Event"  # of the type of a service event topic, package/srv/Name_Event
# service_msgs/msg/ServiceEventInfo of Jazzy
EVENT_INFO = """uint8 event_type
builtin_interfaces/Time stamp
char[16] client_gid
int64 sequence_number
"""
SEPARATOR = "\n" + "=" * 80 + "\n"
# definitions of services that mark episodes, for bags without definitions
KNOWN_SERVICES = {
    "std_srvs/srv/Trigger": "---\nbool success\nstring message\n",
    "std_srvs/srv/SetBool": "bool data\n---\nbool success\nstring message\n",
    "std_srvs/srv/Empty": "---\n",
}


class MessageTypes:
    """Deserializers by topic type, created on first use."""

    def __init__(self, path: Path) -> None:
        """Prepare for the bag at `path`, which is named in errors."""
        self._path = path
        self._readers: dict[str, Callable[[bytes], Any]] = {}
        self._refusals: dict[str, DatasetError] = {}
        self._parsed: dict[tuple[str, str, str], Typestore] = {}

    def deserialize(self, topic: BagTopic, payload: bytes) -> Any:
        """Return a message as an object with the fields of its type.

        Raises:
            DatasetError: the type is unknown, or the bytes do not match it.
        """
        read = self._readers.get(topic.name)
        if read is None:
            if topic.name in self._refusals:
                raise self._refusals[topic.name]
            try:
                read = self._readers[topic.name] = self._reader(topic)
            except DatasetError as error:
                self._refusals[topic.name] = error
                raise
        try:
            return read(payload)
        except (struct.error, ValueError, LookupError, OverflowError, MemoryError, SerdeError) as error:
            raise DatasetError(
                f"{self._path}: a message on {printable(topic.name)} is not a {printable(topic.type)} ({error})"
            ) from error

    def check(self, topic: BagTopic) -> str:
        """Return why messages of a topic cannot be deserialized; empty if they can."""
        try:
            self._reader(topic)
        except DatasetError as error:
            return str(error)
        return ""

    def _reader(self, topic: BagTopic) -> Callable[[bytes], Any]:
        if topic.encoding not in (CDR, ROS1):
            raise DatasetError(
                f"{self._path}: topic {printable(topic.name)} is serialized as '{printable(topic.encoding)}'; only "
                f"'{CDR}' and '{ROS1}' can be read: record it with a DDS middleware"
            )
        name = topic.type
        if name.endswith(EVENT_SUFFIX):
            name = name.replace("/srv/", "/msg/")  # definitions exist for messages only
            service = topic.definition or KNOWN_SERVICES.get(topic.type.removesuffix(EVENT_SUFFIX), "")
            topic = replace(topic, type=name, definition=event_definition(name, service), definition_format="ros2msg")
        store = self._store(topic)
        definition = store.get_msgdef(name)
        limit = MAX_COMPOUND_BYTES if has_compound_sequence(store.fielddefs, name) else None

        def read_ros1(payload: bytes) -> Any:
            _check_length(payload, limit)
            return definition.deserialize_ros1(memoryview(payload), 0, definition.cls, store)[0]

        def read(payload: bytes) -> Any:
            _check_length(payload, limit)
            if len(payload) < CDR_HEADER_SIZE or payload[0] != 0 or payload[1] > 1:
                raise ValueError("not plain CDR")
            # not store.deserialize_cdr: it refuses extra bytes after a message, which some recorders write
            parse = definition.deserialize_cdr_le if payload[1] else definition.deserialize_cdr_be
            return parse(memoryview(payload)[CDR_HEADER_SIZE:], 0, definition.cls, store)[0]

        return read_ros1 if topic.encoding == ROS1 else read

    def _store(self, topic: BagTopic) -> Typestore:
        """Return a store with the type, from the definition in the bag if it can be used."""
        reason = "the bag has no definition of it; record with a rosbag2 of Iron or later"
        if topic.definition:
            key = (topic.type, topic.definition_format, topic.definition)
            try:
                if key not in self._parsed:
                    types = parsed_types(*key)
                    check_standard(types, _standard_store(topic.encoding).fielddefs)
                    store = get_typestore(Stores.EMPTY)
                    store.register(types)  # type: ignore[arg-type]
                    self._parsed[key] = store
                return self._parsed[key]
            except DefinitionError as error:  # fall back to the standard types
                reason = f"the definition in the bag cannot be used ({error})"
        store = _standard_store(topic.encoding)
        if topic.type not in store.fielddefs:
            raise DatasetError(
                f"{self._path}: topic {printable(topic.name)}: type {printable(topic.type)} is not a standard type and "
                f"{reason}"
            )
        return store


@functools.cache
def _standard_store(encoding: str) -> Typestore:
    return get_typestore(Stores.ROS1_NOETIC if encoding == ROS1 else Stores.ROS2_JAZZY)


def _check_length(payload: bytes, limit: int | None) -> None:
    if limit is not None and len(payload) > limit:
        raise ValueError(f"{len(payload)} bytes (limit {limit} for types with lists of structures or texts)")


def event_definition(event_type: str, service: str) -> str:
    """Return the message definition of a service's events, built from the definition of the service; '' without one."""
    if "---" not in service:
        return ""
    name = event_type.removesuffix(EVENT_SUFFIX).replace("/msg/", "/")
    own, *dependencies = re.split(r"^=+$", service, flags=re.MULTILINE)
    request, _, response = own.partition("---")
    return SEPARATOR.join(
        [
            f"service_msgs/ServiceEventInfo info\n{name}_Request[<=1] request\n{name}_Response[<=1] response\n",
            "MSG: service_msgs/ServiceEventInfo\n" + EVENT_INFO,
            f"MSG: {name}_Request\n" + _with_member(request),
            f"MSG: {name}_Response\n" + _with_member(response),
            *(part.strip() + "\n" for part in dependencies if part.strip()),
        ]
    )


def _with_member(fields: str) -> str:
    """Return the fields of a structure; CDR adds a byte to an empty one."""
    lines = [line.partition("#")[0].strip() for line in fields.splitlines()]
    has_member = any(line and not re.match(r"\S+\s+\w+\s*=", line) for line in lines)
    return fields.strip() + "\n" if has_member else "uint8 structure_needs_at_least_one_member\n"

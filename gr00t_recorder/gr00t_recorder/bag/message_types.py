# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Turn recorded bytes into messages, by the definitions in the bag, else by the standard types of `rosbags`."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.base import TypesysError
from rosbags.typesys.store import Typestore

from gr00t_recorder.bag.storage import CDR, ROS1, BagTopic
from gr00t_training.errors import DatasetError

CDR_HEADER_SIZE = 4
EVENT_SUFFIX = "_Event"  # of the type of a service event topic, package/srv/Name_Event
# service_msgs/msg/ServiceEventInfo of Jazzy
EVENT_INFO = """uint8 event_type
builtin_interfaces/Time stamp
char[16] client_gid
int64 sequence_number
"""
SEPARATOR = "\n" + "=" * 80 + "\n"
# definitions of services that episodes are marked with, for bags that carry none
KNOWN_SERVICES = {
    "std_srvs/srv/Trigger": "---\nbool success\nstring message\n",
    "std_srvs/srv/SetBool": "bool data\n---\nbool success\nstring message\n",
    "std_srvs/srv/Empty": "---\n",
}


class MessageTypes:
    """Deserialisers by topic type, made when first needed."""

    def __init__(self, path: Path) -> None:
        """Prepare for the bag at `path`, which errors name."""
        self._path = path
        self._readers: dict[str, Callable[[bytes], Any]] = {}
        self._standard: dict[str, Typestore] = {}

    def deserialize(self, topic: BagTopic, payload: bytes) -> Any:
        """Return a message as an object with the fields of its type.

        Raises:
            DatasetError: the type is not known, or the bytes do not fit it.
        """
        read = self._readers.get(topic.name)
        if read is None:
            read = self._readers[topic.name] = self._reader(topic)
        try:
            return read(payload)
        except (struct.error, ValueError, IndexError, SerdeError) as error:
            raise DatasetError(f"{self._path}: a message on {topic.name} is not a {topic.type} ({error})") from error

    def check(self, topic: BagTopic) -> str:
        """Return why messages of a topic cannot be deserialised; empty when they can."""
        try:
            self._reader(topic)
        except DatasetError as error:
            return str(error)
        return ""

    def _reader(self, topic: BagTopic) -> Callable[[bytes], Any]:
        if topic.encoding not in (CDR, ROS1):
            raise DatasetError(
                f"{self._path}: topic {topic.name} is serialised as '{topic.encoding}'; only '{CDR}' and '{ROS1}' can "
                "be read: record it with a DDS middleware"
            )
        name = topic.type
        if name.endswith(EVENT_SUFFIX):
            name = name.replace("/srv/", "/msg/")  # definitions know messages only
            service = topic.definition or KNOWN_SERVICES.get(topic.type.removesuffix(EVENT_SUFFIX), "")
            topic = replace(topic, type=name, definition=event_definition(name, service), definition_format="ros2msg")
        store = self._store(topic)
        definition = store.get_msgdef(name)
        if topic.encoding == ROS1:
            return lambda payload: definition.deserialize_ros1(memoryview(payload), 0, definition.cls, store)[0]

        def read(payload: bytes) -> Any:
            if len(payload) < CDR_HEADER_SIZE or payload[0] != 0 or payload[1] > 1:
                raise ValueError("not plain CDR")
            # not store.deserialize_cdr: it refuses stray bytes after a message, which recorders in the field leave
            parse = definition.deserialize_cdr_le if payload[1] else definition.deserialize_cdr_be
            return parse(memoryview(payload)[CDR_HEADER_SIZE:], 0, definition.cls, store)[0]

        return read

    def _store(self, topic: BagTopic) -> Typestore:
        if topic.definition:
            try:
                store = get_typestore(Stores.EMPTY)
                is_idl = topic.definition_format == "ros2idl"
                text = topic.definition
                store.register(get_types_from_idl(text) if is_idl else get_types_from_msg(text, topic.type))
                store.get_msgdef(topic.type)
                return store
            except (TypesysError, KeyError, ValueError):
                pass  # a definition that cannot be parsed; the standard types are known anyway
        return self._standard_store(topic)

    def _standard_store(self, topic: BagTopic) -> Typestore:
        store = self._standard.get(topic.encoding)
        if store is None:
            kind = Stores.ROS1_NOETIC if topic.encoding == ROS1 else Stores.ROS2_JAZZY
            store = self._standard[topic.encoding] = get_typestore(kind)
        if topic.type not in store.fielddefs:
            raise DatasetError(
                f"{self._path}: topic {topic.name}: type {topic.type} is no standard type and the bag carries no "
                "usable definition of it; record with a rosbag2 of Iron or later"
            )
        return store


def event_definition(event_type: str, service: str) -> str:
    """Return the message definition of a service's events, made from the definition of the service; '' without one."""
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
    """Return the fields of a structure; CDR gives one without any a byte."""
    lines = [line.partition("#")[0].strip() for line in fields.splitlines()]
    has_member = any(line and not re.match(r"\S+\s+\w+\s*=", line) for line in lines)
    return fields.strip() + "\n" if has_member else "uint8 structure_needs_at_least_one_member\n"

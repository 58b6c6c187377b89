# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Common parts of all storage formats of bags."""

from __future__ import annotations

import heapq
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from gr00t_training.errors import DatasetError

CDR = "cdr"
ROS1 = "ros1"
LAST_LOG_NS = 2**63 - 2  # 2^63 - 1 means "never" in many programs; a ROS time cannot hold more
MAX_WAITING_BYTES = 512 * 2**20  # of messages waiting to be sorted; chunks of recorders overlap by some megabytes
MESSAGE_BYTES = 200  # of memory per message, in addition to its payload
MAX_DEFINITION_BYTES = 2**18  # of one topic; those of large types have some 30 kB

_TRANSIENT_LOCAL = re.compile(r"\bdurability: *(1|transient_local)\b")


@dataclass(frozen=True, slots=True)
class BagMessage:
    """One message as recorded."""

    topic: str
    log_ns: int  # when the recorder received it
    payload: bytes  # CDR with its encapsulation header, or ROS 1 serialization


@dataclass(frozen=True)
class BagTopic:
    """One topic of a bag."""

    name: str
    type: str  # package/msg/Name, for ROS 1 too; several, joined by " and ", where publishers disagree
    definition: str = ""  # text of the message definition with its dependencies, if the bag has it
    definition_format: str = ""  # ros1msg, ros2msg or ros2idl
    num_messages: int | None = None  # as the file declares; None: unknown
    encoding: str = CDR  # how its messages are serialized
    is_latched: bool = False  # whether a publisher offered its last message to late subscribers (transient local)

    def joined(self, other: BagTopic) -> BagTopic:
        """Merge with the same topic of another connection, file or the metadata; counts are added."""
        types = [*self.type.split(" and "), *other.type.split(" and ")]
        known = self if self.definition else other
        counts = (self.num_messages, other.num_messages)
        return BagTopic(
            name=self.name,
            type=" and ".join(dict.fromkeys(filter(None, types))),
            definition=known.definition,
            definition_format=known.definition_format,
            num_messages=None if None in counts else sum(count or 0 for count in counts),
            encoding=known.encoding if known.encoding == self.encoding else f"{self.encoding} and {known.encoding}",
            is_latched=self.is_latched or other.is_latched,
        )


class StorageFile(Protocol):
    """One file of a bag."""

    path: Path
    complaints: list[str]  # damage that was skipped; only with partial reading

    @property
    def is_checked(self) -> bool:
        """Whether checksums cover its messages."""
        ...

    def topics(self) -> Mapping[str, BagTopic]:
        """Return the topics by name."""
        ...

    def start_ns(self) -> int | None:
        """Return the log time of the first message, None if there is none."""
        ...

    def times(self, topics: Collection[str]) -> dict[str, np.ndarray]:
        """Return the log times of the messages of each of these topics, in file order, int64 [ns].

        Payloads are not read; times out of range are left out.
        """
        ...

    def read(self, topics: Collection[str], *, in_file_order: bool = False) -> Iterator[BagMessage]:
        """Yield the messages of these topics by log time, or in file order."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


class Complaints:
    """Decides what damage means: an error, or a line in a list where partial reading is allowed."""

    def __init__(self, path: Path, allow_partial: bool) -> None:
        self.path = path
        self.lines: list[str] = []
        self.allow_partial = allow_partial

    def add(self, text: str) -> None:
        """Note damage; DatasetError unless partial reading is allowed."""
        if not self.allow_partial:
            raise DatasetError(f"{self.path}: {text}; use --allow-partial to keep what can be read")
        line = f"{self.path.name}: {text}"
        if line not in self.lines:  # a bag may be read more than once
            self.lines.append(line)

    def take(self, error: DatasetError) -> None:
        """Add the damage of an error; raise it unless partial reading is allowed."""
        if not self.allow_partial:
            raise error
        if str(error) not in self.lines:
            self.lines.append(str(error))


def time_arrays(times: Mapping[str, Iterable[int]]) -> dict[str, np.ndarray]:
    """Return lists of log times as int64 arrays, without those out of range."""
    return {
        topic: np.fromiter((value for value in values if 0 <= value <= LAST_LOG_NS), np.int64)
        for topic, values in times.items()
    }


def full_type_name(name: str) -> str:
    """Return a message type as package/msg/Name; some writers omit the middle."""
    parts = name.split("/")
    return f"{parts[0]}/msg/{parts[1]}" if len(parts) == 2 and all(parts) else name


def offers_last(profiles: str) -> bool:
    """Whether one of the QoS profiles that rosbag2 noted for a topic, YAML, is transient local."""
    return _TRANSIENT_LOCAL.search(profiles) is not None


def in_log_order(pieces: Iterable[tuple[int, Iterable[BagMessage]]]) -> Iterator[BagMessage]:
    """Yield the messages of pieces of a file by log time; messages of equal time stay in file order.

    Args:
        pieces: earliest log time and messages of each piece, in the order of these times; each is read when needed.

    Raises:
        DatasetError: too many messages are out of order to sort them in memory.
    """
    waiting: list[tuple[int, int, BagMessage]] = []
    number = num_bytes = 0
    for start_ns, messages in pieces:
        while waiting and waiting[0][0] < start_ns:
            message = heapq.heappop(waiting)[2]
            num_bytes -= len(message.payload) + MESSAGE_BYTES
            yield message
        for message in messages:
            heapq.heappush(waiting, (message.log_ns, number, message))
            number += 1
            num_bytes += len(message.payload) + MESSAGE_BYTES
            if num_bytes > MAX_WAITING_BYTES:
                raise DatasetError(
                    f"{message.topic}: more than {MAX_WAITING_BYTES >> 20} MiB of messages are not in the order of "
                    "their log times; sort the bag, or use --order file"
                )
    while waiting:
        yield heapq.heappop(waiting)[2]

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What the files of a bag have in common, whatever their format."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from gr00t_training.errors import DatasetError

CDR = "cdr"
ROS1 = "ros1"


@dataclass(frozen=True, slots=True)
class BagMessage:
    """One message as it was recorded."""

    topic: str
    log_ns: int  # when the recorder received it
    payload: bytes  # CDR with its encapsulation header, or ROS 1 serialisation


@dataclass(frozen=True)
class BagTopic:
    """One topic of a bag."""

    name: str
    type: str  # package/msg/Name, for ROS 1 too; several, joined by " and ", where publishers disagree
    definition: str = ""  # text of the message definition with its dependencies, where the bag carries it
    definition_format: str = ""  # ros1msg, ros2msg or ros2idl
    num_messages: int | None = None  # as the file declares; None: it does not
    encoding: str = CDR  # how its messages are serialised

    def joined(self, other: BagTopic) -> BagTopic:
        """Return this topic and what another connection, file or the metadata tells of it; counts are added."""
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
        )


class StorageFile(Protocol):
    """One file of a bag."""

    path: Path
    complaints: list[str]  # what was found damaged and left out; only filled where partial reading is allowed

    def topics(self) -> Mapping[str, BagTopic]:
        """Return the topics by name."""
        ...

    def start_ns(self) -> int | None:
        """Return the log time of the first message, None when there is none."""
        ...

    def times(self, topics: Collection[str]) -> dict[str, np.ndarray]:
        """Return the log times of the messages of each of these topics, sorted, int64 [ns]; payloads stay unread."""
        ...

    def read(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """Yield the messages of these topics in the order of their log times."""
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


def sorted_times(times: Mapping[str, Collection[int]]) -> dict[str, np.ndarray]:
    """Return lists of log times as sorted int64 arrays."""
    return {topic: np.sort(np.fromiter(values, np.int64, len(values))) for topic, values in times.items()}


def in_log_order(pieces: Iterable[tuple[int, Iterable[BagMessage]]]) -> Iterator[BagMessage]:
    """Yield the messages of pieces of a file in the order of their log times; equal times stay as they lie.

    Args:
        pieces: earliest log time and messages of each piece, in the order of these times; each is read when it is due.
    """
    waiting: list[tuple[int, int, BagMessage]] = []
    number = 0
    for start_ns, messages in pieces:
        while waiting and waiting[0][0] < start_ns:
            yield heapq.heappop(waiting)[2]
        for message in messages:
            heapq.heappush(waiting, (message.log_ns, number, message))
            number += 1
    while waiting:
        yield heapq.heappop(waiting)[2]

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What the files of a bag have in common, whatever their format."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gr00t_training.errors import DatasetError


@dataclass(frozen=True, slots=True)
class BagMessage:
    """One message as it was recorded."""

    topic: str
    log_ns: int  # when the recorder received it
    payload: bytes  # CDR, encapsulation header included


@dataclass(frozen=True)
class BagTopic:
    """One topic of a bag."""

    name: str
    type: str
    definition: str = ""  # text of the message definition with its dependencies, where the bag carries it
    definition_format: str = ""  # ros2msg or ros2idl
    num_messages: int | None = None  # as the file declares; None: it does not


class StorageFile(Protocol):
    """One file of a bag."""

    path: Path
    complaints: list[str]  # what was found damaged and left out; only filled where partial reading is allowed

    def topics(self) -> Mapping[str, BagTopic]:
        """Return the topics by name."""
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
        self._allow_partial = allow_partial

    def add(self, text: str) -> None:
        """Note damage; DatasetError unless partial reading is allowed."""
        if not self._allow_partial:
            raise DatasetError(f"{self.path}: {text}; use --allow-partial to keep what can be read")
        line = f"{self.path.name}: {text}"
        if line not in self.lines:  # a bag may be read more than once
            self.lines.append(line)

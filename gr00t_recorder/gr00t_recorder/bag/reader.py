# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read bags without ROS: MCAP, SQLite3 and ROS 1 files; split, compressed, or without metadata.

The number of messages is compared with the number that the bag declares, so none is lost silently.
"""

from __future__ import annotations

import dataclasses
import heapq
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from gr00t_recorder.bag import unpacking
from gr00t_recorder.bag.folder import STORAGE_SUFFIXES, Metadata, find_files, load_metadata
from gr00t_recorder.bag.mcap_file import McapFile
from gr00t_recorder.bag.message_types import MessageTypes
from gr00t_recorder.bag.ros1_file import Ros1File
from gr00t_recorder.bag.sqlite_file import SqliteFile
from gr00t_recorder.bag.storage import LAST_LOG_NS, BagMessage, BagTopic, Complaints, StorageFile
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import open_regular
from gr00t_training.io.text import printable

ROS1_MAGIC = b"#ROSBAG"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878; a CDR payload begins with 00
SET_BACK_NS = 1_000_000_000  # 1 s: buffers of recorders reorder by less
ZERO_AFTER_NS = 3600 * 10**9  # a bag that starts later than this has no message of time zero


class Order(str, Enum):
    """Order of the messages of a bag."""

    AUTO = "auto"  # by log time; refused if log times and file order contradict each other
    LOG = "log"
    FILE = "file"  # as in the files; log times that go back are shifted


class Bag:
    """One bag: a folder, or a single storage file. Use it as a context manager."""

    def __init__(self, path: str | Path, *, allow_partial: bool = False, order: Order = Order.LOG) -> None:
        """Open all files of the bag.

        Args:
            path: folder with `metadata.yaml`, folder with the storage files of one bag, or a storage file.
            allow_partial: keep the readable part of a damaged bag; `complaints` lists what is missing.
            order: of the messages.

        Raises:
            DatasetError: not a bag, or damaged.
        """
        self.path = Path(path)
        self.order = order
        self.notes: list[str] = []  # assumptions made
        self._times_in_file_order: dict[str, np.ndarray] | None = None
        self._damage = Complaints(self.path, allow_partial)
        self.allow_partial = allow_partial
        self._folder = tempfile.TemporaryDirectory(prefix="gr00t_bag_")
        self.files: list[StorageFile] = []  # in the order of recording
        self._types = MessageTypes(self.path)
        try:
            metadata = load_metadata(self.path, self._damage)
            found = find_files(self.path, metadata, self._damage, self.notes)
            for file in found:
                self._add_file(file, is_alone=len(found) == 1)
            if not self.files and self._damage.lines:
                raise DatasetError(f"{self.path}: none of its files can be read ({self._damage.lines[0]})")
            self.topics = self._merge_topics(metadata)
        except BaseException:
            self.close()
            raise

    @property
    def complaints(self) -> list[str]:
        """Damage and missing messages, one line each."""
        return [*self._damage.lines, *(line for file in self.files for line in file.complaints)]

    @property
    def is_checked(self) -> bool:
        """Whether checksums cover all messages, so that a changed byte is detected."""
        return all(file.is_checked for file in self.files)

    def messages(self, topics: Collection[str] | None = None) -> Iterator[BagMessage]:
        """Yield messages in order, then compare their number with the number that the bag declares.

        Args:
            topics: names of the wanted topics; None: all.

        Raises:
            DatasetError: damaged, or messages are missing, unless partial reading is allowed.
        """
        wanted = set(self.topics) if topics is None else set(topics) & set(self.topics)
        counts: Counter[str] = Counter()
        without_time: dict[str, list[int]] = {}
        for message in self._in_file_order(wanted) if self.order is Order.FILE else self._by_log_time(wanted):
            counts[message.topic] += 1
            if not self._is_log_time(message.log_ns):
                self._note_time(without_time, message)
                continue
            if message.payload.startswith(ZSTD_MAGIC):
                unpacked = self._unpacked(message)
                if unpacked is None:
                    continue
                message = unpacked
            yield message
        for name, times in without_time.items():
            self._damage.add(f"topic {printable(name)}: {len(times)} messages {_bad_time(times[0])}, left out")
        for name in sorted(wanted):
            declared = self.topics[name].num_messages
            if declared is not None and counts[name] != declared:
                self._damage.add(f"topic {printable(name)} has {counts[name]} messages, the bag declares {declared}")

    def times_set_back(self, topics: Collection[str]) -> tuple[str, int] | None:
        """Return a topic whose log times go back in the file, and by how much [ns]: the recorder's clock was set back.

        Files may be in any order.
        """
        for name in sorted(set(topics) & set(self.topics)):
            newest = oldest = None
            for file in self.files:
                times = file.times([name]).get(name, np.empty(0, np.int64))
                times = times[times > 0]
                if not times.size:
                    continue
                overlaps = oldest is not None and times.max() >= oldest
                before = np.maximum.accumulate(np.maximum(times, newest) if overlaps else times)
                steps = np.concatenate([before[:1] - times[:1], before[:-1] - times[1:]])
                if steps.max() > SET_BACK_NS:
                    return name, int(steps.max())
                newest = max(int(times.max()), newest or 0)
                oldest = min(int(times.min()), oldest or int(times.min()))
        return None

    def deserialize(self, message: BagMessage) -> Any:
        """Return the message as an object with the fields of its type.

        Raises:
            DatasetError: the type is unknown, or the bytes do not match it.
        """
        return self._types.deserialize(self.topics[message.topic], message.payload)

    def unreadable(self, topic: str) -> str:
        """Return why messages of a topic cannot be deserialized; empty if they can."""
        return self._types.check(self.topics[topic])

    def start_ns(self) -> int | None:
        """Return the log time of the first message, None if there is none."""
        return min((start for file in self.files if (start := file.start_ns()) is not None), default=None)

    def times(self, topics: Collection[str]) -> dict[str, np.ndarray]:
        """Return the sorted log times of the messages of each topic, int64 [ns], without reading payloads."""
        if self.order is Order.FILE:
            if self._times_in_file_order is None:
                times: dict[str, list[int]] = {name: [] for name in self.topics}
                for message in self._in_file_order(set(self.topics)):
                    times[message.topic].append(message.log_ns)
                self._times_in_file_order = {name: np.array(values, np.int64) for name, values in times.items()}
            known = self._times_in_file_order
            return {topic: np.sort(self._usable(known.get(topic, np.empty(0, np.int64)))) for topic in topics}
        blocks: dict[str, list[np.ndarray]] = {topic: [np.empty(0, np.int64)] for topic in topics}
        for file in self.files:
            for topic, found in file.times(topics).items():
                blocks[topic].append(found)
        return {topic: np.sort(self._usable(np.concatenate(parts))) for topic, parts in blocks.items()}

    def close(self) -> None:
        """Close the files and delete decompressed copies."""
        for file in self.files:
            file.close()
        self._folder.cleanup()

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _by_log_time(self, wanted: Collection[str]) -> Iterator[BagMessage]:
        streams = [file.read(wanted) for file in self.files]
        return heapq.merge(*streams, key=lambda message: message.log_ns)

    def _in_file_order(self, wanted: Collection[str]) -> Iterator[BagMessage]:
        """Yield messages as in the files; where log times go back, all following ones are shifted."""
        shift_ns, newest_ns = 0, None
        for file in self.files:
            # all topics: they share the clock that was set back
            for message in file.read(set(self.topics), in_file_order=True):
                if self._is_log_time(message.log_ns):
                    log_ns = message.log_ns + shift_ns
                    if newest_ns is not None and log_ns < newest_ns - SET_BACK_NS:
                        shift_ns += newest_ns - log_ns
                        log_ns = newest_ns
                    newest_ns = max(log_ns, newest_ns or 0)
                    message = dataclasses.replace(message, log_ns=log_ns)
                if message.topic in wanted:
                    yield message

    def _is_log_time(self, log_ns: int) -> bool:
        return 0 < log_ns <= LAST_LOG_NS or (log_ns == 0 and self._begins_at_zero())

    def _begins_at_zero(self) -> bool:
        start_ns = self.start_ns()
        return start_ns is not None and start_ns < ZERO_AFTER_NS

    def _usable(self, times: np.ndarray) -> np.ndarray:
        return times if self._begins_at_zero() else times[times > 0]

    def _note_time(self, without_time: dict[str, list[int]], message: BagMessage) -> None:
        if not self.allow_partial:
            self._damage.add(f"topic {printable(message.topic)}: a message {_bad_time(message.log_ns)}")
        without_time.setdefault(message.topic, []).append(message.log_ns)

    def _unpacked(self, message: BagMessage) -> BagMessage | None:
        """Decompress a message (rosbag2's compression mode `message`)."""
        try:
            return BagMessage(message.topic, message.log_ns, unpacking.unpacked_message(message.payload))
        except unpacking.DAMAGE as error:
            self._damage.add(f"a message on {printable(message.topic)} cannot be decompressed ({error})")
            return None

    def _add_file(self, path: Path, *, is_alone: bool) -> None:
        """Open a file of the bag; with `allow_partial`, skip one that cannot be read."""
        try:
            self.files.append(self._open(path))
        except DatasetError as error:
            if is_alone:
                raise
            if not self.allow_partial and "--allow-partial" not in str(error):
                raise DatasetError(f"{error}; --allow-partial keeps the other files") from error
            self._damage.take(error)

    def _open(self, path: Path) -> StorageFile:
        original = path
        with open_regular(path, DatasetError) as file:
            start = file.read(len(ROS1_MAGIC))
        try:
            if start.startswith(ZSTD_MAGIC):
                path = self._decompress(path)
                start = path.open("rb").read(len(ROS1_MAGIC))
            if start.startswith(ROS1_MAGIC):
                return Ros1File(path, allow_partial=self.allow_partial)
            if path.name.endswith(".mcap"):
                return McapFile(path, allow_partial=self.allow_partial)
            if path.name.endswith(".db3"):
                return SqliteFile(path, allow_partial=self.allow_partial)
            if path.name.endswith((".bag", ".bag.active")):
                return Ros1File(path, allow_partial=self.allow_partial)
        except DatasetError as error:
            if path is original:
                raise
            raise DatasetError(f"{original}: its unpacked content is damaged or truncated ({error})") from error
        except OSError as error:
            raise DatasetError(f"{original}: cannot be read ({error})") from error
        raise DatasetError(f"{original}: is not a bag file; expected {', '.join(STORAGE_SUFFIXES)}")

    def _decompress(self, path: Path) -> Path:
        """Unpack a file compressed as a whole."""
        target = Path(self._folder.name) / f"{len(self.files)}_{path.name.removesuffix('.zstd')}"
        unpacking.unpack_file(path, target)
        return target

    def _merge_topics(self, metadata: Metadata | None) -> dict[str, BagTopic]:
        """Join the topics of all files; counts of the metadata take precedence over those of the files."""
        merged: dict[str, BagTopic] = {}
        for file in self.files:
            for name, topic in file.topics().items():
                merged[name] = merged[name].joined(topic) if name in merged else topic
        for declared in metadata.topics if metadata else ():
            topic = merged.get(declared.name) or BagTopic(declared.name, declared.type)
            merged[topic.name] = dataclasses.replace(topic, num_messages=declared.num_messages)
        return merged


def _bad_time(log_ns: int) -> str:
    return f"with an impossible log time of {log_ns} ns"

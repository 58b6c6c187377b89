# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read ROS 1 bags (format 2.0, http://wiki.ros.org/Bags/Format/2.0), complete or of a killed recorder.

One scan over the record headers finds the chunks, as for MCAP; the reader of `rosbags` needs an index, this one also
reads `.bag.active` and truncated files. All connections of a topic are one topic here.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gr00t_recorder.bag import unpacking
from gr00t_recorder.bag.storage import (
    MAX_DEFINITION_BYTES,
    ROS1,
    BagMessage,
    BagTopic,
    Complaints,
    full_type_name,
    in_log_order,
    time_arrays,
)
from gr00t_recorder.bag.unpacking import MAX_FILE_RATIO, MAX_UNPACKED
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import open_regular

MAGIC = b"#ROSBAG V2.0\n"
MESSAGE, BAG_HEADER, INDEX, CHUNK, CHUNK_COUNTS, CONNECTION = 2, 3, 4, 5, 6, 7  # op codes
SIZE = struct.Struct("<I")
TIME = struct.Struct("<II")  # seconds, nanoseconds
INDEX_ENTRY = np.dtype([("sec", "<u4"), ("nsec", "<u4"), ("offset", "<u4")])
COUNT_ENTRY = struct.Struct("<II")  # connection, messages
NS = 1_000_000_000
DAMAGE = (LookupError, struct.error, *unpacking.DAMAGE)
KINDS = ("none", "bz2", "lz4")  # of compression
MAX_HEADER_BYTES = 2**20  # of a record; names and numbers
CHECKSUM_BYTES = 16  # at the start of a chunk, which show whether it has a checksum


@dataclass(order=True)
class _Chunk:
    start_ns: int
    offset: int  # of the packed content
    length: int
    compression: str
    size: int  # unpacked, as declared
    # connection -> place and number of its index entries; None: the chunk has no index
    index: dict[int, tuple[int, int]] | None = field(default=None, compare=False)


class Ros1File:
    """One `.bag` file."""

    def __init__(self, path: Path, *, allow_partial: bool) -> None:
        """Open and scan the file.

        Raises:
            DatasetError: not a ROS 1 bag of format 2.0; or not closed or damaged, unless `allow_partial`.
        """
        self.path = path
        self._damage = Complaints(path, allow_partial)
        self.complaints = self._damage.lines
        self._connections: dict[int, BagTopic] = {}
        self._chunks: list[_Chunk] = []
        self._counts: Counter[int] = Counter()
        self._num_counted = 0  # chunks with message counts at the end of the file
        self.is_checked = True
        self._num_unpacked = 0  # bytes of all chunks, as declared
        self._file: BinaryIO = open_regular(path, DatasetError)
        try:
            self._num_bytes = os.fstat(self._file.fileno()).st_size
            found = self._file.read(len(MAGIC))
            if not found:
                raise DatasetError(f"{path}: is empty (0 bytes); its recorder was killed, or the copy is incomplete")
            if found != MAGIC:
                raise DatasetError(f"{path}: starts with {found!r}; expected a ROS 1 bag of format 2.0 ({MAGIC!r})")
            self._scan()
        except BaseException:
            self._file.close()
            raise

    def topics(self) -> Mapping[str, BagTopic]:
        """Return the topics by name."""
        found: dict[str, BagTopic] = {}
        counts = self._counts if self._num_counted == len(self._chunks) else self._indexed_counts()
        for number, entry in self._connections.items():
            count = None if counts is None else counts[number]
            topic = BagTopic(entry.name, entry.type, entry.definition, "ros1msg", count, ROS1, entry.is_latched)
            found[topic.name] = found[topic.name].joined(topic) if topic.name in found else topic
        return found

    def start_ns(self) -> int | None:
        """Return the log time of the first message, None if there is none."""
        return min((chunk.start_ns for chunk in self._chunks if chunk.start_ns), default=None)

    def times(self, topics: Collection[str]) -> dict[str, np.ndarray]:
        """Return the log times of the messages of each of these topics in file order, int64 [ns]."""
        wanted = self._wanted(topics)
        times: dict[str, list[int]] = {topic: [] for topic in wanted.values()}
        for chunk in self._chunks:
            if chunk.index is None:
                for message in self._messages(chunk, wanted):
                    times[message.topic].append(message.log_ns)
                continue
            entries: dict[str, list[np.ndarray]] = {}
            for number in wanted.keys() & chunk.index.keys():
                entries.setdefault(wanted[number], []).append(self._index_entries(*chunk.index[number]))
            for topic, parts in entries.items():
                times[topic] += _times(np.concatenate(parts)).tolist()
        return time_arrays(times)

    def read(self, topics: Collection[str], *, in_file_order: bool = False) -> Iterator[BagMessage]:
        """Yield the messages of these topics by log time, or in file order."""
        wanted = self._wanted(topics)
        chunks = self._chunks if in_file_order else sorted(self._chunks)
        due = [chunk for chunk in chunks if chunk.index is None or wanted.keys() & chunk.index.keys()]
        if in_file_order:
            return (message for chunk in due for message in self._messages(chunk, wanted))
        return in_log_order((chunk.start_ns, self._messages(chunk, wanted)) for chunk in due)

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _indexed_counts(self) -> Counter[int] | None:
        """Return the messages per connection that the chunks' indices list, None unless every chunk has one."""
        counts: Counter[int] = Counter()
        for chunk in self._chunks:
            if chunk.index is None:
                return None
            counts.update({number: count for number, (_, count) in chunk.index.items()})
        return counts

    def _wanted(self, topics: Collection[str]) -> dict[int, str]:
        return {number: topic.name for number, topic in self._connections.items() if topic.name in topics}

    def _scan(self) -> None:
        """Read the record headers to the end of the file."""
        size = self._num_bytes
        offset, index_offset = len(MAGIC), 0
        try:
            while offset < size:
                self._file.seek(offset)
                fields, length = _read_header(self._file)
                offset = self._file.tell()
                op = fields["op"][0]
                if op == BAG_HEADER:
                    (index_offset,) = struct.unpack("<Q", fields["index_pos"])
                elif op == CHUNK:
                    # also a truncated chunk: its readable part counts
                    self._chunks.append(self._chunk(fields, offset, min(length, size - offset)))
                if offset + length > size:
                    raise EOFError
                self._note(op, fields, offset, length)
                offset += length
        except DAMAGE as error:
            if self._chunks:
                self._chunks[-1].index = None
            reason = "" if isinstance(error, EOFError) else f" ({error})"
            self._damage.add(f"truncated or damaged at byte {offset}{reason}: the copy is incomplete")
        if not index_offset:
            self._damage.add("has no index: its recorder was killed; 'rosbag reindex' writes one")
        for chunk in self._chunks:
            if self._num_counted != len(self._chunks):
                chunk.index = None  # the indices may be incomplete
            if chunk.index is None or not chunk.index.keys() <= self._connections.keys():
                self._inspect(chunk)

    def _chunk(self, fields: Mapping[str, bytes], offset: int, length: int) -> _Chunk:
        kind, (size,) = fields["compression"].decode(), SIZE.unpack(fields["size"])
        if kind not in KINDS:
            raise ValueError(f"compression '{kind}' is not one of {', '.join(KINDS)}")
        self._num_unpacked += size
        if self._num_unpacked > 4 * MAX_UNPACKED + MAX_FILE_RATIO * self._num_bytes:
            raise ValueError(f"its chunks unpack to more than {self._num_unpacked} bytes, too much for a recording")
        if max(size, length) > MAX_UNPACKED:
            raise ValueError(f"a chunk of {max(size, length)} bytes (limit {MAX_UNPACKED})")
        self.is_checked = self.is_checked and unpacking.has_checksum(kind, self._file.read(CHECKSUM_BYTES))
        return _Chunk(0, offset, length, kind, size)

    def _note(self, op: int, fields: Mapping[str, bytes], offset: int, length: int) -> None:
        """Evaluate a record outside of chunks; the file position is at its content."""
        if op == INDEX:
            (number,), (count,) = SIZE.unpack(fields["conn"]), SIZE.unpack(fields["count"])
            if count * INDEX_ENTRY.itemsize != length or length > MAX_UNPACKED:
                raise ValueError(f"an index of {count} entries has {length} bytes")
            chunk = self._chunks[-1]
            if count:
                start_ns = int(_times(self._index_entries(offset, count)).min())
                chunk.start_ns = start_ns if chunk.index is None else min(chunk.start_ns, start_ns)
            chunk.index = {**(chunk.index or {}), number: (offset, count)}
        elif op == CHUNK_COUNTS:
            self._num_counted += 1
            for number, count in COUNT_ENTRY.iter_unpack(self._file.read(min(length, MAX_HEADER_BYTES))):
                self._counts[number] += count
        elif op == CONNECTION:
            self._keep_connection(fields, self._file.read(min(length, MAX_DEFINITION_BYTES + 1)))

    def _keep_connection(self, fields: Mapping[str, bytes], content: bytes) -> None:
        (number,) = SIZE.unpack(fields["conn"])
        if len(content) > MAX_DEFINITION_BYTES:
            raise ValueError(f"a connection described by {len(content)} bytes (limit {MAX_DEFINITION_BYTES})")
        described = _header_fields(content)
        topic = "/" + "/".join(filter(None, fields["topic"].decode().split("/")))
        definition = described["message_definition"].decode("utf-8", errors="replace")
        kind = full_type_name(described["type"].decode())
        is_latched = described.get("latching") == b"1"
        known = self._connections.setdefault(number, BagTopic(topic, kind, definition, is_latched=is_latched))
        if (known.name, known.type) != (topic, kind):
            raise ValueError(f"connection {number} is described as {known.name} and as {topic}")

    def _inspect(self, chunk: _Chunk) -> None:
        """Read the connections and the earliest time of a chunk from its records."""
        times = []
        try:
            for op, fields, content in _records(self._content(chunk)):
                if op == CONNECTION:
                    self._keep_connection(fields, content)
                elif op == MESSAGE:
                    times.append(_time_ns(fields["time"]))
        except DAMAGE as error:
            self._damage.add(f"chunk at byte {chunk.offset} is damaged ({error})")
        chunk.start_ns = min(times, default=0)

    def _messages(self, chunk: _Chunk, wanted: Mapping[int, str]) -> Iterator[BagMessage]:
        try:
            for op, fields, content in _records(self._content(chunk)):
                if op != MESSAGE:
                    continue
                (number,) = SIZE.unpack(fields["conn"])
                log_ns = _time_ns(fields["time"])
                if log_ns < chunk.start_ns:
                    self._damage.add(f"chunk at byte {chunk.offset} is damaged (its messages are older than it says)")
                if number in wanted:
                    yield BagMessage(wanted[number], log_ns, content)
        except DAMAGE as error:
            self._damage.add(f"chunk at byte {chunk.offset} is damaged ({error})")

    def _index_entries(self, offset: int, count: int) -> np.ndarray:
        self._file.seek(offset)
        block = self._file.read(count * INDEX_ENTRY.itemsize)
        return np.frombuffer(block[: len(block) - len(block) % INDEX_ENTRY.itemsize], INDEX_ENTRY)

    def _content(self, chunk: _Chunk) -> bytes | memoryview:
        """Return the records of a chunk, up to any damage."""
        self._file.seek(chunk.offset)
        packed = self._file.read(chunk.length)
        try:
            return unpacking.unpacked(chunk.compression, packed, chunk.size)
        except DAMAGE as error:
            self._damage.add(f"chunk at byte {chunk.offset} is damaged ({error})")
            return unpacking.unpacked_start(chunk.compression, packed)


def _times(entries: np.ndarray) -> np.ndarray:
    """Return the log times of index entries in the order of their messages in the chunk."""
    entries = entries[np.argsort(entries["offset"], kind="stable")]
    return entries["sec"].astype(np.int64) * NS + entries["nsec"]


def _read_header(file: BinaryIO) -> tuple[dict[str, bytes], int]:
    """Read the fields of a record and the length of its content; the file position is then at the content."""
    (length,) = SIZE.unpack(_read(file, SIZE.size))
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes (limit {MAX_HEADER_BYTES})")
    fields = _header_fields(_read(file, length))
    (content_length,) = SIZE.unpack(_read(file, SIZE.size))
    return fields, content_length


def _read(file: BinaryIO, length: int) -> bytes:
    block = file.read(length)
    if len(block) < length:
        raise EOFError
    return block


def _header_fields(block: bytes) -> dict[str, bytes]:
    fields, place = {}, 0
    while place < len(block):
        (length,) = SIZE.unpack_from(block, place)
        name, separator, value = block[place + SIZE.size : place + SIZE.size + length].partition(b"=")
        if not separator:
            raise ValueError("a header field has no '='")
        fields[name.decode()] = value
        place += SIZE.size + length
    return fields


def _records(content: bytes | memoryview) -> Iterator[tuple[int, dict[str, bytes], bytes]]:
    """Yield op, fields and content of the complete records of a chunk."""
    file = BytesIO(content)
    try:
        while True:
            fields, length = _read_header(file)
            yield fields["op"][0], fields, _read(file, length)
    except DAMAGE:
        return  # the end, or a truncation; missing messages are detected by their number


def _time_ns(value: bytes) -> int:
    sec, nsec = TIME.unpack(value)
    return sec * NS + nsec

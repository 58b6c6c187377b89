# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read ROS 1 bags (format 2.0, http://wiki.ros.org/Bags/Format/2.0), closed or left open by a recorder that was killed.

One scan over the record headers finds the chunks, as for MCAP; unlike the reader of `rosbags`, which wants an index,
it therefore reads `.bag.active` and cut files too. Connections of one topic are one topic here.
"""

from __future__ import annotations

import bz2
import os
import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import lz4.frame
import numpy as np
from rosbags.typesys.msg import normalize_msgtype

from gr00t_recorder.bag.storage import ROS1, BagMessage, BagTopic, Complaints, in_log_order, sorted_times
from gr00t_training.errors import DatasetError

MAGIC = b"#ROSBAG V2.0\n"
MESSAGE, BAG_HEADER, INDEX, CHUNK, CHUNK_COUNTS, CONNECTION = 2, 3, 4, 5, 6, 7  # op codes
SIZE = struct.Struct("<I")
TIME = struct.Struct("<II")  # seconds, nanoseconds
INDEX_ENTRY = np.dtype([("sec", "<u4"), ("nsec", "<u4"), ("offset", "<u4")])
COUNT_ENTRY = struct.Struct("<II")  # connection, messages
NS = 1_000_000_000
DAMAGE = (ValueError, KeyError, RuntimeError, struct.error, OSError, EOFError, MemoryError)


@dataclass(order=True)
class _Chunk:
    start_ns: int
    offset: int  # of the packed content
    length: int
    compression: str
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
        self._num_counted = 0  # chunks whose messages the end of the file declares
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 - held until close()
        try:
            found = self._file.read(len(MAGIC))
            if found != MAGIC:
                raise DatasetError(f"{path}: begins with {found!r}; expected a ROS 1 bag of format 2.0 ({MAGIC!r})")
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
            topic = BagTopic(entry.name, entry.type, entry.definition, "ros1msg", count, ROS1)
            found[topic.name] = found[topic.name].joined(topic) if topic.name in found else topic
        return found

    def start_ns(self) -> int | None:
        """Return the log time of the first message, None when there is none."""
        return min((chunk.start_ns for chunk in self._chunks), default=None)

    def times(self, topics: Collection[str]) -> dict[str, np.ndarray]:
        """Return the log times of the messages of each of these topics, sorted, int64 [ns]."""
        wanted = self._wanted(topics)
        times: dict[str, list[int]] = {topic: [] for topic in wanted.values()}
        for chunk in self._chunks:
            if chunk.index is None:
                for message in self._messages(chunk, wanted):
                    times[message.topic].append(message.log_ns)
                continue
            for number in wanted.keys() & chunk.index.keys():
                times[wanted[number]] += self._index_times(*chunk.index[number]).tolist()
        return sorted_times(times)

    def read(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """Yield the messages of these topics in the order of their log times."""
        wanted = self._wanted(topics)
        due = [chunk for chunk in sorted(self._chunks) if chunk.index is None or wanted.keys() & chunk.index.keys()]
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
        """Walk over the record headers to the end of the file."""
        size = os.fstat(self._file.fileno()).st_size
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
                    # a cut chunk too: what can be unpacked of it counts
                    kind = fields["compression"].decode()
                    self._chunks.append(_Chunk(0, offset, min(length, size - offset), kind))
                if offset + length > size:
                    raise EOFError
                self._note(op, fields, offset, length)
                offset += length
        except DAMAGE as error:
            if self._chunks:
                self._chunks[-1].index = None
            reason = "" if isinstance(error, EOFError) else f" ({error})"
            self._damage.add(f"cut short or damaged at byte {offset}{reason}: the copy is incomplete")
        if not index_offset:
            self._damage.add("has no index: its recorder was killed; 'rosbag reindex' writes one")
        for chunk in self._chunks:
            if chunk.index is None or not chunk.index.keys() <= self._connections.keys():
                self._look_into(chunk)

    def _note(self, op: int, fields: Mapping[str, bytes], offset: int, length: int) -> None:
        """Remember what a record outside of chunks tells; the file stands at its content."""
        if op == INDEX:
            (number,), (count,) = SIZE.unpack(fields["conn"]), SIZE.unpack(fields["count"])
            if count * INDEX_ENTRY.itemsize != length:
                raise ValueError(f"an index of {count} entries has {length} bytes")
            chunk = self._chunks[-1]
            if count:
                start_ns = int(self._index_times(offset, count).min())
                chunk.start_ns = start_ns if chunk.index is None else min(chunk.start_ns, start_ns)
            chunk.index = {**(chunk.index or {}), number: (offset, count)}
        elif op == CHUNK_COUNTS:
            self._num_counted += 1
            for number, count in COUNT_ENTRY.iter_unpack(self._file.read(length)):
                self._counts[number] += count
        elif op == CONNECTION:
            self._keep_connection(fields, self._file.read(length))

    def _keep_connection(self, fields: Mapping[str, bytes], content: bytes) -> None:
        (number,) = SIZE.unpack(fields["conn"])
        described = _header_fields(content)
        topic = "/" + "/".join(filter(None, fields["topic"].decode().split("/")))
        definition = described["message_definition"].decode("utf-8", errors="replace")
        self._connections[number] = BagTopic(topic, normalize_msgtype(described["type"].decode()), definition)

    def _look_into(self, chunk: _Chunk) -> None:
        """Learn connections and earliest time of a chunk from itself."""
        times = []
        for op, fields, content in _records(self._content(chunk)):
            if op == CONNECTION:
                self._keep_connection(fields, content)
            elif op == MESSAGE:
                times.append(_time_ns(fields["time"]))
        chunk.start_ns = min(times, default=0)

    def _messages(self, chunk: _Chunk, wanted: Mapping[int, str]) -> Iterator[BagMessage]:
        for op, fields, content in _records(self._content(chunk)):
            if op != MESSAGE:
                continue
            (number,) = SIZE.unpack(fields["conn"])
            if number in wanted:
                yield BagMessage(wanted[number], _time_ns(fields["time"]), content)

    def _index_times(self, offset: int, count: int) -> np.ndarray:
        self._file.seek(offset)
        entries = np.frombuffer(self._file.read(count * INDEX_ENTRY.itemsize), INDEX_ENTRY)
        return entries["sec"].astype(np.int64) * NS + entries["nsec"]

    def _content(self, chunk: _Chunk) -> bytes:
        """Return the records of a chunk; of a damaged one those before the damage."""
        self._file.seek(chunk.offset)
        packed = self._file.read(chunk.length)
        unpackers = {"none": lambda: None, "bz2": bz2.BZ2Decompressor, "lz4": lz4.frame.LZ4FrameDecompressor}
        if chunk.compression not in unpackers:
            raise DatasetError(f"{self.path}: compression '{chunk.compression}' is none of {', '.join(unpackers)}")
        unpacker = unpackers[chunk.compression]()
        if unpacker is None:
            return packed
        content = bytearray()
        try:
            for place in range(0, len(packed), 1 << 16):  # piecewise, so that what precedes damage is kept
                content += unpacker.decompress(packed[place : place + (1 << 16)])
                if unpacker.eof:
                    break
        except DAMAGE as error:
            self._damage.add(f"chunk at byte {chunk.offset} is damaged ({error})")
        return bytes(content)


def _read_header(file: BinaryIO) -> tuple[dict[str, bytes], int]:
    """Read the fields of a record and the length of its content; the file then stands at the content."""
    (length,) = SIZE.unpack(_read(file, SIZE.size))
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


def _records(content: bytes) -> Iterator[tuple[int, dict[str, bytes], bytes]]:
    """Yield op, fields and content of the whole records of a chunk."""
    file = BytesIO(content)
    try:
        while True:
            fields, length = _read_header(file)
            yield fields["op"][0], fields, _read(file, length)
    except DAMAGE:
        return  # the end, or the cut; messages that are missing are noticed by their number


def _time_ns(value: bytes) -> int:
    sec, nsec = TIME.unpack(value)
    return sec * NS + nsec

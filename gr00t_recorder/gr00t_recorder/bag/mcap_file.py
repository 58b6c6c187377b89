# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read MCAP files (https://mcap.dev/spec), complete or cut short.

One scan over the record headers finds the chunks; an index is not needed, so files without one, and files of a
recorder that was killed, take the same path. Where a chunk has an index, it tells times without unpacking, and chunks
without wanted messages are skipped. Chunks are unpacked in the order of their start times, and messages are put in
order among those that overlap, so memory holds a few chunks only.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import lz4.frame
import numpy as np
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Schema, Statistics
from rosbags.typesys.msg import normalize_msgtype

from gr00t_recorder.bag.storage import BagMessage, BagTopic, Complaints, in_log_order, sorted_times
from gr00t_training.errors import DatasetError

MAGIC = b"\x89MCAP0\r\n"
RECORD_HEADER = struct.Struct("<BQ")  # opcode, length of the content
CHUNK_TIMES = struct.Struct("<QQ")  # message_start_time, message_end_time: the first fields of a chunk
CHUNK_HEADER = struct.Struct("<QQQII")  # these, unpacked size, CRC, length of the compression's name, which follows
LENGTH = struct.Struct("<Q")
MESSAGE_HEADER = struct.Struct("<HIQQ")  # channel, sequence, log_time, publish_time; the payload follows
INDEX_HEADER = struct.Struct("<HI")  # channel, length of its entries in bytes
INDEX_ENTRY = np.dtype([("log_ns", "<u8"), ("offset", "<u8")])
DAMAGE = (McapError, ValueError, RuntimeError, struct.error, zstandard.ZstdError, MemoryError, OverflowError, EOFError)
NO_CHUNK = 0  # stands for the opcode of records that lie outside of chunks; no opcode is 0
MAX_RUN = 4 << 20  # bytes of such records read at once


@dataclass(order=True)
class _Piece:
    """A chunk, or a run of records outside of chunks."""

    start_ns: int
    offset: int  # of a chunk's content, or of the first record
    length: int
    opcode: int
    # channel -> place and size of its index entries; None: the chunk has no index
    index: dict[int, tuple[int, int]] | None = field(default=None, compare=False)


class McapFile:
    """One MCAP file."""

    def __init__(self, path: Path, *, allow_partial: bool) -> None:
        """Open and scan the file.

        Raises:
            DatasetError: not an MCAP file; or cut short or damaged, unless `allow_partial`.
        """
        self.path = path
        self._damage = Complaints(path, allow_partial)
        self.complaints = self._damage.lines
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._counts: Mapping[int, int] | None = None
        self._pieces: list[_Piece] = []
        self._file = open(path, "rb")  # noqa: SIM115 - held until close()
        try:
            if self._file.read(len(MAGIC)) != MAGIC:
                raise DatasetError(f"{path}: is not an MCAP file; expected it to begin with the MCAP magic bytes")
            self._scan()
            if not self._is_summarised():
                self._collect_channels()
        except BaseException:
            self._file.close()
            raise

    def topics(self) -> Mapping[str, BagTopic]:
        """Return the topics by name."""
        found: dict[str, BagTopic] = {}
        counts = self._counts or self._indexed_counts()
        for channel in self._channels.values():
            schema = self._schemas.get(channel.schema_id)
            topic = BagTopic(
                name=channel.topic,
                type=_type_name(schema) if schema else "",
                definition=schema.data.decode("utf-8", errors="replace") if schema else "",
                definition_format=schema.encoding if schema else "",
                num_messages=None if counts is None else counts.get(channel.id, 0),
                encoding=channel.message_encoding,
            )
            found[channel.topic] = found[channel.topic].joined(topic) if channel.topic in found else topic
        return found

    def start_ns(self) -> int | None:
        """Return the log time of the first message, None when there is none."""
        # a chunk without messages has the time 0
        return min((piece.start_ns for piece in self._pieces if piece.start_ns), default=None)

    def times(self, topics: Collection[str]) -> dict[str, np.ndarray]:
        """Return the log times of the messages of each of these topics, sorted, int64 [ns]."""
        wanted = self._wanted(topics)
        blocks: dict[str, list[np.ndarray]] = {topic: [np.empty(0, np.int64)] for topic in wanted.values()}
        for piece in self._pieces:
            if piece.index is None:
                self._file.seek(piece.offset)
                times: dict[str, list[int]] = {}
                for channel, log_ns, _, _ in _messages(self._content(piece), wanted):
                    times.setdefault(wanted[channel], []).append(log_ns)
                for topic, block in sorted_times(times).items():
                    blocks[topic].append(block)
                continue
            for channel in wanted.keys() & piece.index.keys():
                offset, length = piece.index[channel]
                self._file.seek(offset)
                entries = np.frombuffer(self._file.read(length), INDEX_ENTRY)
                blocks[wanted[channel]].append(entries["log_ns"].astype(np.int64))
        return {topic: np.sort(np.concatenate(parts)) for topic, parts in blocks.items()}

    def read(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """Yield the messages of these topics in the order of their log times."""
        wanted = self._wanted(topics)
        due = [piece for piece in sorted(self._pieces) if piece.index is None or wanted.keys() & piece.index.keys()]
        return in_log_order((piece.start_ns, self._piece_messages(piece, wanted)) for piece in due)

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _piece_messages(self, piece: _Piece, wanted: Mapping[int, str]) -> Iterator[BagMessage]:
        content = self._content(piece)
        for channel, log_ns, start, end in _messages(content, wanted):
            yield BagMessage(wanted[channel], log_ns, bytes(content[start:end]))

    def _indexed_counts(self) -> Mapping[int, int] | None:
        """Return the messages per channel that the chunks' indices list, None unless every chunk has one."""
        counts: dict[int, int] = {}
        for piece in self._pieces:
            if piece.index is None:
                return None
            for channel, (_, size) in piece.index.items():
                counts[channel] = counts.get(channel, 0) + size // INDEX_ENTRY.itemsize
        return counts if self._pieces else None

    def _wanted(self, topics: Collection[str]) -> dict[int, str]:
        return {channel.id: channel.topic for channel in self._channels.values() if channel.topic in topics}

    def _scan(self) -> None:
        """Walk over the record headers up to the footer."""
        size = os.fstat(self._file.fileno()).st_size
        offset = len(MAGIC)
        while offset + RECORD_HEADER.size <= size:
            self._file.seek(offset)
            opcode, length = RECORD_HEADER.unpack(self._file.read(RECORD_HEADER.size))
            offset += RECORD_HEADER.size
            if offset + length > size:
                self._keep_cut_chunk(opcode, offset, size - offset)
                break
            try:
                self._note(opcode, offset, length)
            except DAMAGE as error:
                self._damage.add(f"record at byte {offset} is damaged ({error})")
            if opcode == Opcode.FOOTER:
                return
            offset += length
        if self._pieces:
            self._pieces[-1].index = None  # it may be cut in the middle
        self._damage.add("the file is cut short (no footer): its recorder was killed or the copy is incomplete")

    def _note(self, opcode: int, offset: int, length: int) -> None:
        """Remember what a top-level record tells; the file stands at its content."""
        if opcode == Opcode.CHUNK:
            start_ns, _ = CHUNK_TIMES.unpack(self._file.read(CHUNK_TIMES.size))
            self._pieces.append(_Piece(start_ns, offset, length, opcode))
        elif opcode == Opcode.MESSAGE_INDEX:
            channel, size = INDEX_HEADER.unpack(self._file.read(INDEX_HEADER.size))
            if self._pieces and size == length - INDEX_HEADER.size:
                index = self._pieces[-1].index = self._pieces[-1].index or {}
                index[channel] = (offset + INDEX_HEADER.size, size)
        elif opcode == Opcode.MESSAGE:
            log_ns = MESSAGE_HEADER.unpack(self._file.read(MESSAGE_HEADER.size))[2]
            self._add_to_run(log_ns, offset - RECORD_HEADER.size, offset + length)
        elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL, Opcode.STATISTICS):
            content = self._file.read(length)
            if opcode == Opcode.STATISTICS:
                self._counts = Statistics.read(ReadDataStream(BytesIO(content))).channel_message_counts
            else:
                self._keep(opcode, content)

    def _add_to_run(self, log_ns: int, start: int, end: int) -> None:
        """Note a message outside of chunks, together with those before it: one piece each would fill the memory."""
        last = self._pieces[-1] if self._pieces else None
        follows = last is not None and last.opcode == NO_CHUNK and last.offset + last.length == start
        if last is not None and follows and end - last.offset <= MAX_RUN:
            last.length = end - last.offset
            last.start_ns = min(last.start_ns, log_ns)
        else:
            self._pieces.append(_Piece(log_ns, start, end - start, NO_CHUNK))

    def _keep_cut_chunk(self, opcode: int, offset: int, length: int) -> None:
        if opcode == Opcode.CHUNK and length > CHUNK_TIMES.size:
            start_ns, _ = CHUNK_TIMES.unpack(self._file.read(CHUNK_TIMES.size))
            self._pieces.append(_Piece(start_ns, offset, length, opcode))

    def _is_summarised(self) -> bool:
        return self._counts is not None and all(number in self._channels for number in self._counts)

    def _collect_channels(self) -> None:
        for piece in self._pieces:
            # what stands outside of chunks was seen by the scan
            if piece.opcode == NO_CHUNK or (piece.index is not None and piece.index.keys() <= self._channels.keys()):
                continue
            content = self._content(piece, quietly=True)
            for opcode, start, end in _records(content):
                if opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                    self._keep(opcode, content[start:end])

    def _keep(self, opcode: int, content: bytes | memoryview) -> None:
        stream = ReadDataStream(BytesIO(content))
        if opcode == Opcode.SCHEMA:
            schema = Schema.read(stream)
            self._schemas[schema.id] = schema
        else:
            channel = Channel.read(stream)
            self._channels[channel.id] = channel

    def _content(self, piece: _Piece, *, quietly: bool = False) -> bytes | memoryview:
        """Return the records of a piece; of a damaged one those before the damage."""
        self._file.seek(piece.offset)
        content = self._file.read(piece.length)
        if piece.opcode == NO_CHUNK:
            return content
        try:
            return _unpacked(_split_chunk(content))
        except DAMAGE as error:
            if not quietly:
                self._damage.add(f"chunk at byte {piece.offset} is damaged ({error})")
            return _unpacked_start(content)


def _type_name(schema: Schema) -> str:
    return normalize_msgtype(schema.name) if schema.encoding == "ros1msg" else schema.name


def _records(content: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """Yield opcode, start and end of the whole records in `content`."""
    end = 0
    while end + RECORD_HEADER.size <= len(content):
        opcode, length = RECORD_HEADER.unpack_from(content, end)
        start = end + RECORD_HEADER.size
        end = start + length
        if end > len(content):
            return
        yield opcode, start, end


def _messages(content: bytes | memoryview, wanted: Collection[int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield channel, log time, and start and end of the payload of the messages of these channels."""
    for opcode, start, end in _records(content):
        if opcode == Opcode.MESSAGE and end - start >= MESSAGE_HEADER.size:
            channel, _, log_ns, _ = MESSAGE_HEADER.unpack_from(content, start)
            if channel in wanted:
                yield channel, log_ns, start + MESSAGE_HEADER.size, end


class _Chunk(NamedTuple):
    """Fields of a chunk record, without a copy of its records."""

    compression: str
    size: int  # unpacked
    crc: int  # of the unpacked records; 0: there is none
    records: memoryview


def _split_chunk(content: bytes) -> _Chunk:
    _, _, size, crc, length = CHUNK_HEADER.unpack_from(content)
    records = CHUNK_HEADER.size + length + LENGTH.size
    compression = content[CHUNK_HEADER.size : CHUNK_HEADER.size + length].decode()
    (num_bytes,) = LENGTH.unpack_from(content, records - LENGTH.size)
    return _Chunk(compression, size, crc, memoryview(content)[records : records + num_bytes])


def _unpacked(chunk: _Chunk) -> bytes | memoryview:
    """Return the records of an undamaged chunk; raises one of DAMAGE otherwise."""
    if chunk.compression == "zstd":
        content = zstandard.decompress(chunk.records, chunk.size)
    elif chunk.compression == "lz4":
        content = lz4.frame.decompress(chunk.records)
    elif not chunk.compression:
        content = chunk.records
    else:
        raise ValueError(f"compression '{chunk.compression}' is none of zstd, lz4")
    if len(content) != chunk.size:
        raise ValueError(f"{len(content)} bytes, expected {chunk.size}")
    if chunk.crc and chunk.crc != zlib.crc32(content):
        raise ValueError("its checksum does not fit")
    return content


def _unpacked_start(content: bytes) -> bytes | memoryview:
    """Return what can be unpacked of a damaged chunk, nothing when not even its header is whole."""
    try:
        chunk = _split_chunk(content)
        if chunk.compression == "zstd":
            return zstandard.ZstdDecompressor().decompressobj().decompress(chunk.records)
        if chunk.compression == "lz4":
            return lz4.frame.LZ4FrameDecompressor().decompress(chunk.records)
        return chunk.records
    except DAMAGE:
        return b""

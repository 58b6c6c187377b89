# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read MCAP files (https://mcap.dev/spec), complete or cut short.

One scan over the record headers finds the chunks; an index is not needed, so files without one, and files of a
recorder that was killed, take the same path. Chunks are decompressed in the order of their start times, and messages
are put in order among those that overlap, so memory holds a few chunks only.
"""

from __future__ import annotations

import heapq
import os
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import lz4.frame
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, McapRecord, Message, Schema, Statistics
from mcap.stream_reader import breakup_chunk

from gr00t_recorder.bag.storage import BagMessage, BagTopic, Complaints
from gr00t_training.errors import DatasetError

MAGIC = b"\x89MCAP0\r\n"
RECORD_HEADER = struct.Struct("<BQ")  # opcode, length of the content
CHUNK_TIMES = struct.Struct("<QQ")  # message_start_time, message_end_time: the first fields of a chunk
MESSAGE_TIMES = struct.Struct("<HIQ")  # channel, sequence, log_time: the first fields of a message
DAMAGE = (McapError, ValueError, RuntimeError, struct.error, zstandard.ZstdError, MemoryError, OverflowError)


@dataclass(frozen=True, order=True)
class _Piece:
    """A chunk, or a message outside of chunks."""

    start_ns: int
    offset: int  # of the record's content
    length: int
    opcode: int


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
        for channel in self._channels.values():
            schema = self._schemas.get(channel.schema_id)
            earlier = found.get(channel.topic)
            count = None if self._counts is None else self._counts.get(channel.id, 0)
            if earlier is not None and count is not None:
                count += earlier.num_messages or 0
            found[channel.topic] = BagTopic(
                name=channel.topic,
                type=schema.name if schema else "",
                definition=schema.data.decode("utf-8", errors="replace") if schema else "",
                definition_format=schema.encoding if schema else "",
                num_messages=count,
            )
        return found

    def read(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """Yield the messages of these topics in the order of their log times."""
        wanted = {channel.id: channel.topic for channel in self._channels.values() if channel.topic in topics}
        waiting: list[tuple[int, int, BagMessage]] = []
        order = 0  # messages of one log time stay in the order of the file
        for piece in sorted(self._pieces):
            while waiting and waiting[0][0] < piece.start_ns:
                yield heapq.heappop(waiting)[2]
            for record in self._records(piece):
                if isinstance(record, Message) and record.channel_id in wanted:
                    message = BagMessage(wanted[record.channel_id], record.log_time, record.data)
                    heapq.heappush(waiting, (record.log_time, order, message))
                    order += 1
        while waiting:
            yield heapq.heappop(waiting)[2]

    def close(self) -> None:
        """Release the file."""
        self._file.close()

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
        self._damage.add("the file is cut short (no footer): its recorder was killed or the copy is incomplete")

    def _note(self, opcode: int, offset: int, length: int) -> None:
        """Remember what a top-level record tells; the file stands at its content."""
        if opcode == Opcode.CHUNK:
            start_ns, _ = CHUNK_TIMES.unpack(self._file.read(CHUNK_TIMES.size))
            self._pieces.append(_Piece(start_ns, offset, length, opcode))
        elif opcode == Opcode.MESSAGE:
            log_ns = MESSAGE_TIMES.unpack(self._file.read(MESSAGE_TIMES.size))[2]
            self._pieces.append(_Piece(log_ns, offset, length, opcode))
        elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL, Opcode.STATISTICS):
            stream = ReadDataStream(BytesIO(self._file.read(length)))
            if opcode == Opcode.SCHEMA:
                self._keep(Schema.read(stream))
            elif opcode == Opcode.CHANNEL:
                self._keep(Channel.read(stream))
            else:
                self._counts = Statistics.read(stream).channel_message_counts

    def _keep_cut_chunk(self, opcode: int, offset: int, length: int) -> None:
        if opcode == Opcode.CHUNK and length > CHUNK_TIMES.size:
            start_ns, _ = CHUNK_TIMES.unpack(self._file.read(CHUNK_TIMES.size))
            self._pieces.append(_Piece(start_ns, offset, length, opcode))

    def _is_summarised(self) -> bool:
        return self._counts is not None and all(number in self._channels for number in self._counts)

    def _collect_channels(self) -> None:
        for piece in self._pieces:
            for record in self._records(piece, quietly=True):
                self._keep(record)

    def _keep(self, record: McapRecord) -> None:
        if isinstance(record, Schema):
            self._schemas[record.id] = record
        elif isinstance(record, Channel):
            self._channels[record.id] = record

    def _records(self, piece: _Piece, *, quietly: bool = False) -> list[McapRecord]:
        """Return the records of a chunk; of a damaged one those before the damage."""
        self._file.seek(piece.offset)
        content = self._file.read(piece.length)
        try:
            if piece.opcode == Opcode.MESSAGE:
                return [Message.read(ReadDataStream(BytesIO(content)), piece.length)]
            return breakup_chunk(Chunk.read(ReadDataStream(BytesIO(content))), validate_crc=True)
        except DAMAGE as error:
            if not quietly:
                self._damage.add(f"chunk at byte {piece.offset} is damaged ({error})")
            return _readable_records(content)


def _readable_records(content: bytes) -> list[McapRecord]:
    """Return the records at the beginning of a damaged chunk, none when not even its header is whole."""
    records: list[McapRecord] = []
    try:
        chunk = Chunk.read(ReadDataStream(BytesIO(content)))
        stream = ReadDataStream(BytesIO(_decompressed_start(chunk)))
        while True:
            opcode, length = stream.read1(), stream.read8()
            body = stream.read(length)
            if len(body) < length:
                return records
            records += _parse(opcode, body)
    except (*DAMAGE, EOFError):
        return records


def _parse(opcode: int, body: bytes) -> list[McapRecord]:
    stream = ReadDataStream(BytesIO(body))
    if opcode == Opcode.SCHEMA:
        return [Schema.read(stream)]
    if opcode == Opcode.CHANNEL:
        return [Channel.read(stream)]
    return [Message.read(stream, len(body))] if opcode == Opcode.MESSAGE else []


def _decompressed_start(chunk: Chunk) -> bytes:
    if chunk.compression == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(chunk.data)
    if chunk.compression == "lz4":
        return lz4.frame.LZ4FrameDecompressor().decompress(chunk.data)
    return chunk.data

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read MCAP files (https://mcap.dev/spec), complete or truncated.

One scan over the record headers finds the chunks. No index is needed, so files without one, and files of a killed
recorder, are read the same way. If a chunk has an index, times are read without unpacking, and chunks without wanted
messages are skipped. Chunks are unpacked in the order of their start times, and messages of overlapping chunks are
sorted, so memory holds only a few chunks. Every checksum in the file is verified.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Schema, Statistics

from gr00t_recorder.bag.mcap_records import (
    CHUNK_HEADER,
    DAMAGE,
    INDEX_ENTRY,
    MESSAGE_HEADER,
    NO_CHUNK,
    RECORD_HEADER,
    entry_times,
    messages_in,
    num_good_bytes,
    records_in,
    split_chunk,
    unpacked,
    unpacked_start,
)
from gr00t_recorder.bag.storage import (
    LAST_LOG_NS,
    MAX_DEFINITION_BYTES,
    BagMessage,
    BagTopic,
    Complaints,
    full_type_name,
    in_log_order,
    offers_last,
    time_arrays,
)
from gr00t_recorder.bag.unpacking import MAX_FILE_RATIO, MAX_UNPACKED
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import open_regular

MAGIC = b"\x89MCAP0\r\n"
INDEX_HEADER = struct.Struct("<HI")  # channel, length of its entries in bytes
FOOTER = struct.Struct("<QQI")  # places of the summary and of its offsets, CRC of the summary
CRC = struct.Struct("<I")
MAX_RUN = 4 << 20  # bytes of such records read at once
MAX_SUMMARY_BYTES = 256 * 2**20  # a bag of 100 GB has some megabytes
READ_STEP = 1 << 20  # bytes at a time where a checksum is taken


@dataclass(order=True)
class _Piece:
    """A chunk, or a run of records outside of chunks."""

    start_ns: int
    offset: int  # of a chunk's content, or of the first record
    length: int
    opcode: int
    # channel -> place and size of its index entries; None: the chunk has no index
    index: dict[int, tuple[int, int]] | None = field(default=None, compare=False)
    num_good: int | None = field(default=None, compare=False)  # bytes of whole records in a damaged chunk, once known


class McapFile:
    """One MCAP file."""

    def __init__(self, path: Path, *, allow_partial: bool) -> None:
        """Open and scan the file.

        Raises:
            DatasetError: not an MCAP file; or truncated or damaged, unless `allow_partial`.
        """
        self.path = path
        self._damage = Complaints(path, allow_partial)
        self.complaints = self._damage.lines
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._counts: Mapping[int, int] | None = None
        self._pieces: list[_Piece] = []
        self._is_covered = True  # by the checksums of its chunks
        self._has_file_crc = False
        self._num_unpacked = 0  # bytes of all chunks, as declared
        self._file = open_regular(path, DatasetError)
        try:
            self._num_bytes = os.fstat(self._file.fileno()).st_size
            self._check_start()
            self._scan()
            if self._counts is None:
                for piece in self._pieces:
                    piece.index = None  # the indices may be incomplete
            if not self._has_summary():
                self._collect_channels()
        except BaseException:
            self._file.close()
            raise

    @property
    def is_checked(self) -> bool:
        """Whether checksums cover the messages."""
        return self._has_file_crc or self._is_covered

    def topics(self) -> Mapping[str, BagTopic]:
        """Return the topics by name."""
        found: dict[str, BagTopic] = {}
        counts = self._counts
        for channel in self._channels.values():
            schema = self._schemas.get(channel.schema_id)
            topic = BagTopic(
                name=channel.topic,
                type=full_type_name(schema.name) if schema else "",
                definition=schema.data.decode("utf-8", errors="replace") if schema else "",
                definition_format=schema.encoding if schema else "",
                num_messages=None if counts is None else counts.get(channel.id, 0),
                encoding=channel.message_encoding,
                is_latched=offers_last(channel.metadata.get("offered_qos_profiles", "")),
            )
            found[channel.topic] = found[channel.topic].joined(topic) if channel.topic in found else topic
        return found

    def start_ns(self) -> int | None:
        """Return the log time of the first message, None if there is none."""
        # a chunk without messages has the time 0
        return min((piece.start_ns for piece in self._pieces if 0 < piece.start_ns <= LAST_LOG_NS), default=None)

    def times(self, topics: Collection[str]) -> dict[str, np.ndarray]:
        """Return the log times of the messages of each of these topics in file order, int64 [ns]."""
        wanted = self._wanted(topics)
        blocks: dict[str, list[np.ndarray]] = {topic: [np.empty(0, np.int64)] for topic in wanted.values()}
        for piece in self._pieces:
            if piece.index is None:
                times: dict[str, list[int]] = {}
                for channel, log_ns, _, _ in self._messages_in(piece, self._content(piece), wanted):
                    times.setdefault(wanted[channel], []).append(log_ns)
                for topic, block in time_arrays(times).items():
                    blocks[topic].append(block)
                continue
            entries: dict[str, list[np.ndarray]] = {}
            for channel in wanted.keys() & piece.index.keys():
                entries.setdefault(wanted[channel], []).append(self._index_entries(*piece.index[channel]))
            for topic, parts in entries.items():
                blocks[topic].append(entry_times(np.concatenate(parts)))
        return {topic: np.concatenate(parts) for topic, parts in blocks.items()}

    def read(self, topics: Collection[str], *, in_file_order: bool = False) -> Iterator[BagMessage]:
        """Yield the messages of these topics by log time, or in file order."""
        wanted = self._wanted(topics)
        pieces = self._pieces if in_file_order else sorted(self._pieces)
        due = [piece for piece in pieces if piece.index is None or wanted.keys() & piece.index.keys()]
        if in_file_order:
            return (message for piece in due for message in self._piece_messages(piece, wanted))
        return in_log_order((piece.start_ns, self._piece_messages(piece, wanted)) for piece in due)

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _piece_messages(self, piece: _Piece, wanted: Mapping[int, str]) -> Iterator[BagMessage]:
        content = self._content(piece)
        for channel, log_ns, start, end in self._messages_in(piece, content, wanted):
            if log_ns < piece.start_ns and piece.opcode == Opcode.CHUNK:
                self._damage.add(f"chunk at byte {piece.offset} is damaged (its messages are older than it says)")
            yield BagMessage(wanted[channel], log_ns, bytes(content[start:end]))

    def _messages_in(
        self, piece: _Piece, content: bytes | memoryview, wanted: Collection[int]
    ) -> Iterator[tuple[int, int, int, int]]:
        try:
            yield from messages_in(content, wanted)
        except DAMAGE as error:
            self._damage.add(f"chunk at byte {piece.offset} is damaged ({error})")
            piece.num_good = num_good_bytes(content)

    def _index_entries(self, offset: int, length: int) -> np.ndarray:
        self._file.seek(offset)
        block = self._file.read(length)
        return np.frombuffer(block[: len(block) - len(block) % INDEX_ENTRY.itemsize], INDEX_ENTRY)

    def _wanted(self, topics: Collection[str]) -> dict[int, str]:
        return {channel.id: channel.topic for channel in self._channels.values() if channel.topic in topics}

    def _check_start(self) -> None:
        found = self._file.read(len(MAGIC))
        if not found:
            raise DatasetError(f"{self.path}: is empty (0 bytes); its recorder was killed, or the copy is incomplete")
        if found != MAGIC:
            raise DatasetError(f"{self.path}: is not an MCAP file; expected it to begin with the MCAP magic bytes")

    def _scan(self) -> None:
        """Walk over the record headers up to the footer."""
        size = self._num_bytes
        offset = len(MAGIC)
        while offset + RECORD_HEADER.size <= size:
            self._file.seek(offset)
            opcode, length = RECORD_HEADER.unpack(self._file.read(RECORD_HEADER.size))
            offset += RECORD_HEADER.size
            if opcode == NO_CHUNK:
                break  # blocks not written before a power failure
            if offset + length > size:
                if opcode == Opcode.CHUNK:  # also a truncated chunk: its readable part counts
                    self._attempt(opcode, offset, size - offset)
                break
            self._attempt(opcode, offset, length)
            if opcode == Opcode.FOOTER:
                return
            offset += length
        if self._pieces:
            self._pieces[-1].index = None  # it may be truncated
        self._counts = None
        self._damage.add("the file is truncated (no footer): its recorder was killed or the copy is incomplete")

    def _attempt(self, opcode: int, offset: int, length: int) -> None:
        try:
            self._note(opcode, offset, length)
        except DAMAGE as error:
            self._damage.add(f"record at byte {offset} is damaged ({error})")

    def _note(self, opcode: int, offset: int, length: int) -> None:
        """Evaluate a top-level record; the file position is at its content."""
        if opcode == Opcode.CHUNK:
            start_ns, _, size, crc, _ = CHUNK_HEADER.unpack(self._file.read(CHUNK_HEADER.size))
            self._num_unpacked += size
            if self._num_unpacked > 4 * MAX_UNPACKED + MAX_FILE_RATIO * self._num_bytes:
                raise ValueError(f"its chunks unpack to more than {self._num_unpacked} bytes, too much for a recording")
            if max(size, length) > MAX_UNPACKED:
                raise ValueError(f"a chunk of {max(size, length)} bytes (limit {MAX_UNPACKED})")
            self._is_covered = self._is_covered and (crc != 0 or not size)
            self._pieces.append(_Piece(start_ns, offset, length, opcode))
        elif opcode == Opcode.MESSAGE_INDEX:
            channel, size = INDEX_HEADER.unpack(self._file.read(INDEX_HEADER.size))
            if self._pieces and size == length - INDEX_HEADER.size <= MAX_UNPACKED:
                index = self._pieces[-1].index = self._pieces[-1].index or {}
                index[channel] = (offset + INDEX_HEADER.size, size)
        elif opcode == Opcode.MESSAGE:
            log_ns = MESSAGE_HEADER.unpack(self._file.read(MESSAGE_HEADER.size))[2]
            if length > MAX_UNPACKED:
                raise ValueError(f"a message of {length} bytes (limit {MAX_UNPACKED})")
            self._is_covered = False
            self._add_to_run(log_ns, offset - RECORD_HEADER.size, offset + length)
        elif opcode == Opcode.DATA_END:
            self._check_data(offset - RECORD_HEADER.size, CRC.unpack(self._file.read(CRC.size))[0])
        elif opcode == Opcode.FOOTER:
            self._check_summary(offset, *FOOTER.unpack(self._file.read(FOOTER.size)))
        elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL, Opcode.STATISTICS):
            if length > MAX_DEFINITION_BYTES:
                raise ValueError(f"a description of {length} bytes (limit {MAX_DEFINITION_BYTES})")
            content = self._file.read(length)
            if opcode == Opcode.STATISTICS:
                self._counts = Statistics.read(ReadDataStream(BytesIO(content))).channel_message_counts
            else:
                self._keep(opcode, content)

    def _check_data(self, end: int, expected: int) -> None:
        """Verify the checksum of the data section, if there is one (0: none)."""
        if not expected:
            return
        self._has_file_crc = True
        if self._crc(0, end) != expected:
            raise ValueError("wrong checksum of the file")

    def _check_summary(self, footer: int, start: int, offsets: int, expected: int) -> None:
        if not expected or not start:
            return
        end = footer + FOOTER.size - CRC.size
        if not 0 < end - start <= MAX_SUMMARY_BYTES or self._crc(start, end) != expected:
            raise ValueError("wrong checksum of the summary")

    def _crc(self, start: int, end: int) -> int:
        crc = 0
        self._file.seek(start)
        while start < end and (block := self._file.read(min(READ_STEP, end - start))):
            crc = zlib.crc32(block, crc)
            start += len(block)
        return crc

    def _add_to_run(self, log_ns: int, start: int, end: int) -> None:
        """Add a message outside of chunks to the piece before it: one piece per message would fill the memory."""
        last = self._pieces[-1] if self._pieces else None
        follows = last is not None and last.opcode == NO_CHUNK and last.offset + last.length == start
        if last is not None and follows and end - last.offset <= MAX_RUN:
            last.length = end - last.offset
            last.start_ns = min(last.start_ns, log_ns)
        else:
            self._pieces.append(_Piece(log_ns, start, end - start, NO_CHUNK))

    def _has_summary(self) -> bool:
        return self._counts is not None and all(number in self._channels for number in self._counts)

    def _collect_channels(self) -> None:
        for piece in self._pieces:
            # records outside of chunks were read by the scan
            if piece.opcode == NO_CHUNK or (piece.index is not None and piece.index.keys() <= self._channels.keys()):
                continue
            content = self._content(piece, quietly=True)
            try:
                for opcode, start, end in records_in(content):
                    if opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                        self._keep(opcode, content[start:end])
            except DAMAGE as error:
                self._damage.add(f"chunk at byte {piece.offset} is damaged ({error})")

    def _keep(self, opcode: int, content: bytes | memoryview) -> None:
        stream = ReadDataStream(BytesIO(content))
        if opcode == Opcode.SCHEMA:
            schema = Schema.read(stream)
            self._check_same(self._schemas.setdefault(schema.id, schema), schema)
        else:
            channel = Channel.read(stream)
            self._check_same(self._channels.setdefault(channel.id, channel), channel)

    def _check_same(self, first: Schema | Channel, second: Schema | Channel) -> None:
        """Refuse two different descriptions with the same number, against the specification."""
        if first != second:
            self._damage.add(f"two descriptions with the number {first.id} differ ({type(first).__name__})")

    def _content(self, piece: _Piece, *, quietly: bool = False) -> bytes | memoryview:
        """Return the records of a piece, up to any damage."""
        self._file.seek(piece.offset)
        content = self._file.read(piece.length)
        if piece.opcode == NO_CHUNK:
            return content
        if piece.num_good is not None:  # its damage is reported
            return unpacked_start(content, piece.num_good)
        try:
            return unpacked(split_chunk(content))
        except DAMAGE as error:
            start = unpacked_start(content, MAX_UNPACKED)
            if not quietly:
                self._damage.add(f"chunk at byte {piece.offset} is damaged ({error})")
                piece.num_good = num_good_bytes(start)
            return start[: num_good_bytes(start)]

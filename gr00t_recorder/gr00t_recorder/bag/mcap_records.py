# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Records inside the chunks of an MCAP file: unpack a chunk, iterate over its records, keep those before damage."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
from mcap.exceptions import McapError
from mcap.opcode import Opcode

from gr00t_recorder.bag import unpacking
from gr00t_recorder.bag.storage import LAST_LOG_NS

RECORD_HEADER = struct.Struct("<BQ")  # opcode, length of the content
CHUNK_HEADER = struct.Struct("<QQQII")  # start and end time, unpacked size, CRC, length of the compression's name
LENGTH = struct.Struct("<Q")
MESSAGE_HEADER = struct.Struct("<HIQQ")  # channel, sequence, log_time, publish_time; the payload follows
INDEX_ENTRY = np.dtype([("log_ns", "<u8"), ("offset", "<u8")])
DAMAGE = (McapError, LookupError, OverflowError, struct.error, *unpacking.DAMAGE)
NO_CHUNK = 0  # in place of an opcode, for records outside of chunks; no opcode is 0
MAX_RECORDS = 2_000_000  # of a chunk


def entry_times(entries: np.ndarray) -> np.ndarray:
    """Return the log times of index entries in the order of their messages in the chunk."""
    times = entries["log_ns"][np.argsort(entries["offset"], kind="stable")]
    return times[times <= LAST_LOG_NS].astype(np.int64)


def records_in(content: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """Yield opcode, start and end of the complete records in `content`."""
    end = 0
    for _ in range(MAX_RECORDS):
        if end + RECORD_HEADER.size > len(content):
            return
        opcode, length = RECORD_HEADER.unpack_from(content, end)
        if opcode == NO_CHUNK:
            break
        start = end + RECORD_HEADER.size
        end = start + length
        if end > len(content):
            return
        yield opcode, start, end
    raise ValueError(f"{len(content)} bytes are not records, or more than {MAX_RECORDS}")


def messages_in(content: bytes | memoryview, wanted: Collection[int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield channel, log time, and start and end of the payload of the messages of these channels."""
    for opcode, start, end in records_in(content):
        if opcode == Opcode.MESSAGE and end - start >= MESSAGE_HEADER.size:
            channel, _, log_ns, _ = MESSAGE_HEADER.unpack_from(content, start)
            if channel in wanted:
                yield channel, log_ns, start + MESSAGE_HEADER.size, end


class PackedChunk(NamedTuple):
    """Fields of a chunk record, without a copy of its records."""

    compression: str
    size: int  # unpacked
    crc: int  # of the unpacked records; 0: none
    records: memoryview


def split_chunk(content: bytes) -> PackedChunk:
    _, _, size, crc, length = CHUNK_HEADER.unpack_from(content)
    records = CHUNK_HEADER.size + length + LENGTH.size
    compression = content[CHUNK_HEADER.size : CHUNK_HEADER.size + length].decode()
    (num_bytes,) = LENGTH.unpack_from(content, records - LENGTH.size)
    return PackedChunk(compression, size, crc, memoryview(content)[records : records + num_bytes])


def unpacked(chunk: PackedChunk) -> bytes | memoryview:
    """Return the records of an undamaged chunk; raises one of DAMAGE otherwise."""
    content = unpacking.unpacked(chunk.compression, chunk.records, chunk.size)
    if chunk.crc and chunk.crc != zlib.crc32(content):
        raise ValueError("wrong checksum")
    return content


def num_good_bytes(content: bytes | memoryview) -> int:
    """Return how many bytes of a damaged chunk are complete records."""
    good = 0
    with contextlib.suppress(*DAMAGE):
        for _, _, end in records_in(content):
            good = end
    return good


def unpacked_start(content: bytes, limit: int) -> bytes | memoryview:
    """Return the readable part of a damaged chunk, nothing if its header is incomplete."""
    try:
        chunk = split_chunk(content)
        return unpacking.unpacked_start(chunk.compression, chunk.records, limit)
    except DAMAGE:
        return b""

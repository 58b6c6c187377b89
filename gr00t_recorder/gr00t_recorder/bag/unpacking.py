# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Decompress parts of bags (zstd, lz4, bz2), up to a known limit."""

from __future__ import annotations

import bz2
import shutil
from pathlib import Path
from typing import Any

import lz4.frame
import zstandard

from gr00t_training.errors import DatasetError

# of a chunk or message, unpacked [bytes]; recorders write chunks of 1 to 16 MB, an 8K raw image has 100 MB
MAX_UNPACKED = 256 * 2**20
MAX_FILE_RATIO = 1000  # of a file compressed as a whole; zstd packs flat simulated images 500 times
MIN_FREE_BYTES = 512 * 2**20  # of the disk that such a file is unpacked to
STEP = 1 << 16  # bytes unpacked at a time of damaged data
COPY_STEP = 1 << 20
DAMAGE = (zstandard.ZstdError, ValueError, RuntimeError, OSError, EOFError, MemoryError)
LZ4_HAS_CHECKSUM = 0x04  # content checksum flag of the frame descriptor (LZ4 frame format, FLG byte)


def unpacked(kind: str, packed: bytes | memoryview, size: int) -> bytes | memoryview:
    """Return the content of undamaged bytes.

    Args:
        kind: "zstd", "lz4" or "bz2"; "" and "none": not compressed.
        packed: compressed bytes.
        size: bytes of the content, as declared.

    Raises:
        ValueError or another of DAMAGE: too large, damaged, not of the declared size, or of an unknown kind.
    """
    _check_size(size)
    if kind in ("", "none"):
        content: bytes | memoryview = packed
    elif kind == "zstd":
        declared = zstandard.frame_content_size(packed)
        if declared not in (size, -1):
            raise ValueError(f"{declared} bytes, expected {size}")
        if declared < 0:  # unknown: only reading shows whether there is more
            content = zstandard.ZstdDecompressor().stream_reader(packed).read(size + 1)
        else:
            content = zstandard.ZstdDecompressor().decompress(packed)
    elif kind == "lz4":
        content = lz4.frame.LZ4FrameDecompressor().decompress(packed, max_length=size + 1)
    elif kind == "bz2":
        content = bz2.BZ2Decompressor().decompress(packed, max_length=size + 1)
    else:
        raise ValueError(f"compression '{kind}' is not zstd, lz4 or bz2")
    if len(content) != size:
        raise ValueError(f"{'more than ' * (len(content) > size)}{min(len(content), size)} bytes, expected {size}")
    return content


def unpacked_start(kind: str, packed: bytes | memoryview, limit: int = MAX_UNPACKED) -> bytes | memoryview:
    """Return the readable start of damaged bytes, at most `limit` bytes."""
    if kind in ("", "none"):
        return packed[:limit]
    unpacker: Any
    if kind == "zstd":
        unpacker = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=False)
    elif kind in ("lz4", "bz2"):
        unpacker = lz4.frame.LZ4FrameDecompressor() if kind == "lz4" else bz2.BZ2Decompressor()
    else:
        return b""
    content = bytearray()
    place = 0
    try:
        while len(content) < limit:
            if kind == "zstd":
                block = unpacker.read(min(STEP, limit - len(content)))
                if not block:
                    break
            elif unpacker.eof or (place >= len(packed) and unpacker.needs_input):
                break
            else:
                given = packed[place : place + STEP] if unpacker.needs_input else b""
                place += len(given)
                block = unpacker.decompress(given, max_length=limit - len(content))
            content += block
    except DAMAGE:
        pass  # keep the content before the damage
    return bytes(content)


def unpacked_message(packed: bytes) -> bytes:
    """Return a message compressed on its own (rosbag2's compression mode `message`), zstd; raises one of DAMAGE."""
    declared = zstandard.frame_content_size(packed)
    if declared >= 0:
        return bytes(unpacked("zstd", packed, declared))
    content = bytes(unpacked_start("zstd", packed, MAX_UNPACKED + 1))
    _check_size(len(content))
    zstandard.ZstdDecompressor().decompress(packed, max_output_size=len(content) + 1)  # raises if it is damaged
    return content


def unpack_file(path: Path, target: Path) -> None:
    """Unpack a file that was compressed as a whole with zstd.

    Raises:
        DatasetError: damaged, implausibly large, or larger than the free disk space.
    """
    limit = MAX_UNPACKED + MAX_FILE_RATIO * path.stat().st_size
    written = 0
    try:
        with open(path, "rb") as packed, open(target, "wb") as out:
            reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
            while block := reader.read(COPY_STEP):
                written += len(block)
                if written > limit:
                    raise DatasetError(
                        f"{path}: unpacks to more than {limit} bytes, too much for a recording; record it again"
                    )
                if shutil.disk_usage(target.parent).free < MIN_FREE_BYTES:
                    raise DatasetError(f"{path}: no room to unpack it in {target.parent}; set TMPDIR to a larger disk")
                out.write(block)
    except (OSError, zstandard.ZstdError) as error:
        raise DatasetError(f"{path}: cannot be unpacked ({error}); copy it again") from error


def has_checksum(kind: str, packed: bytes | memoryview) -> bool:
    """Whether compressed bytes include a checksum of their content."""
    if kind == "bz2":
        return True
    if kind == "lz4":
        return len(packed) > 4 and bool(packed[4] & LZ4_HAS_CHECKSUM)
    try:
        return kind == "zstd" and zstandard.get_frame_parameters(packed).has_checksum
    except zstandard.ZstdError:
        return False


def _check_size(size: int) -> None:
    if size > MAX_UNPACKED:
        raise ValueError(f"unpacks to {size} bytes (limit {MAX_UNPACKED})")

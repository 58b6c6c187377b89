# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Open untrusted video files: the container is detected from the first bytes, headers are checked against limits.

ffmpeg must not guess the format: a playlist or concat script with the name of a video would make it open other files,
and a header of a few bytes could make it allocate gigabytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import av
import av.error
from av.container import InputContainer
from av.video.stream import VideoStream

from gr00t_training.errors import DatasetError
from gr00t_training.io.files import open_regular
from gr00t_training.io.image_header import MAX_PIXELS, MAX_SIDE
from gr00t_training.io.mirror import Held

_MP4_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid")
_MAX_HEADER = 256 * 2**20  # [bytes] of one box with sample tables; an hour of video has some hundred kB
_RUN_FIELDS = 0xF00  # flags of a `trun` box: which of four numbers each sample has


def open_video(path: Path, remedy: str = "record or copy the file again", what: str = "video") -> InputContainer:
    """Open a video for reading; its first video stream can be decoded and its size is within the limits.

    Raises:
        DatasetError: missing, not a regular file, a Git LFS pointer, not a video, or its header is not plausible.
    """
    with Held(path):  # as long as it has no open file of its own
        if not path.exists():
            raise DatasetError(f"{path}: not a readable {what} (No such file or directory); {remedy}")
        with open_regular(path, DatasetError) as file:
            try:
                container_format = _container_format(file)
            except (OSError, ValueError, struct.error) as error:
                raise DatasetError(f"{path}: not a readable {what} ({error}); {remedy}") from error
        try:
            container = cast(
                InputContainer, av.open(str(path), format=container_format, options={"max_pixels": str(MAX_PIXELS)})
            )
        except (OSError, av.error.FFmpegError, ValueError) as error:
            raise DatasetError(f"{path}: not a readable {what} ({error}); {remedy}") from error
    try:
        _check_stream(container, path, remedy)
    except DatasetError:
        container.close()
        raise
    return container


def _check_stream(container: InputContainer, path: Path, remedy: str) -> None:
    if not container.streams.video:
        raise DatasetError(f"{path}: holds no video stream; {remedy}")
    stream: VideoStream = container.streams.video[0]
    context = stream.codec_context
    if context is None:
        raise DatasetError(f"{path}: its codec cannot be decoded here; encode it again as h264, yuv420p")
    width, height = context.width, context.height
    if min(width, height) < 1 or max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        found = f"pictures of {width}x{height}" if width and height else "pictures without a size, or too large ones"
        raise DatasetError(f"{path}: declares {found} (limits {MAX_SIDE} a side and {MAX_PIXELS} pixels); {remedy}")
    context.options = {"max_pixels": str(MAX_PIXELS)}


def _container_format(file: BinaryIO) -> str:
    """Return ffmpeg's name of the container; ValueError for another one, or for tables larger than the file."""
    start = file.read(12)
    if start[4:8] in _MP4_BOXES:
        _check_tables(file)
        return "mp4"
    if start[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return "avi"
    raise ValueError("neither mp4, Matroska nor AVI" if start else "the file is empty")


def _check_tables(file: BinaryIO) -> None:
    """Check that no table of samples of an mp4 declares more of them than the file has bytes."""
    num_bytes = file.seek(0, 2)
    for kind, start, end in _boxes(file, num_bytes):
        if kind not in (b"moov", b"moof"):
            continue
        if end - start > _MAX_HEADER:
            raise ValueError(f"its header has {end - start} bytes, limit {_MAX_HEADER}")
        file.seek(start)
        content = file.read(end - start)
        for count in (*_constant_sizes(content), *_bare_runs(content)):
            if count > num_bytes:
                raise ValueError(f"it declares {count} frames in {num_bytes} bytes")


def _boxes(file: BinaryIO, num_bytes: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of every complete top-level box."""
    start = 0
    while start + 8 <= num_bytes:
        file.seek(start)
        header = file.read(16)
        size, kind = struct.unpack_from(">I4s", header)
        if size == 1 and len(header) == 16:
            size = struct.unpack_from(">Q", header, 8)[0]
        end = num_bytes if size == 0 else min(start + size, num_bytes)
        if end < start + 8:
            return
        yield kind, start, end
        start = end


def _constant_sizes(content: bytes) -> Iterator[int]:
    """Yield the number of samples of every `stsz` box that gives one size for all, and so has no entry for each."""
    place = content.find(b"stsz")
    while place >= 0:
        if place + 16 <= len(content):
            _, sample_size, count = struct.unpack_from(">III", content, place + 4)
            if sample_size:
                yield count
        place = content.find(b"stsz", place + 4)


def _bare_runs(content: bytes) -> Iterator[int]:
    """Yield the number of samples of every `trun` box without an entry for each."""
    place = content.find(b"trun")
    while place >= 0:
        if place + 12 <= len(content):
            flags, count = struct.unpack_from(">II", content, place + 4)
            if not flags & _RUN_FIELDS:
                yield count
        place = content.find(b"trun", place + 4)

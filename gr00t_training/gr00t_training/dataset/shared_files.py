# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Files that many episodes share (v3.0): which there are, which may be joined, and joining them.

Joining writes a new file with the content of the first and of those behind it. It may take the first one's name at any
time: whoever still reads by the old lists finds the same rows and frames at the same places.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import av
import av.error
import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.edit.packets import CodedVideo, PacketWriter, count_packets
from gr00t_training.dataset.episodes_table import EpisodePlace, VideoPlace
from gr00t_training.dataset.places import Span
from gr00t_training.errors import DatasetError

BYTES_PER_MB = 2**20


@dataclass(frozen=True)
class Group:
    """Files that would go into one."""

    numbers: tuple[int, ...]
    num_bytes: int
    coding: Any  # of all of them

    def takes(self, num_bytes: int, coding: Any, max_bytes: int) -> bool:
        """Whether one more file would go into the same."""
        return self.num_bytes + num_bytes <= max_bytes and coding == self.coding

    def with_file(self, number: int, num_bytes: int) -> Group:
        """Return the group with one more file."""
        return Group((*self.numbers, number), self.num_bytes + num_bytes, self.coding)


class FileKind(Protocol):
    """One of the series of shared files: the rows, or the videos of a camera."""

    @property
    def max_bytes(self) -> int:
        """Size beyond which files are not joined."""
        ...

    def name(self, number: int) -> str:
        """Return the name of a file, relative to the dataset."""
        ...

    def file_of(self, place: EpisodePlace) -> int:
        """Return the number of the file that an episode is in."""
        ...

    def moved(self, place: EpisodePlace, number: int, first: int) -> EpisodePlace:
        """Return the place of an episode that is now in another file, from row or frame `first` on."""
        ...

    def coding(self, path: Path) -> Any:
        """Return what has to be equal for the content of two files to go into one."""
        ...

    def join(self, parts: Sequence[Span], target: Path) -> None:
        """Write one file of parts of others.

        Raises:
            OSError: it cannot be written.
            DatasetError: a part cannot be read, or the result is not complete.
        """
        ...


class RowFiles:
    """The files with the rows."""

    @property
    def max_bytes(self) -> int:
        return schema.DATA_FILES_MB * BYTES_PER_MB

    def name(self, number: int) -> str:
        return schema.shared_path(schema.SHARED_DATA_PATH, number)

    def file_of(self, place: EpisodePlace) -> int:
        return place.data_file

    def moved(self, place: EpisodePlace, number: int, first: int) -> EpisodePlace:
        return dataclasses.replace(place, data_file=number)  # rows are numbered over the whole dataset

    def coding(self, path: Path) -> Any:
        try:
            return pq.read_schema(path)
        except pa.ArrowException as error:
            raise DatasetError(f"{path}: cannot be read ({error}); restore it from a copy") from error

    def join(self, parts: Sequence[Span], target: Path) -> None:
        with pq.ParquetWriter(target, pq.read_schema(parts[0].path), compression="snappy") as writer:
            for part in parts:
                _copy_groups(part, writer)
        _check_count(target, pq.ParquetFile(target).metadata.num_rows, sum(part.count for part in parts), "rows")


class VideoFiles:
    """The videos of one camera."""

    def __init__(self, feature: str, fps: int) -> None:
        self._feature = feature
        self._fps = fps

    @property
    def max_bytes(self) -> int:
        return schema.VIDEO_FILES_MB * BYTES_PER_MB

    def name(self, number: int) -> str:
        return schema.shared_path(schema.SHARED_VIDEO_PATH, number, self._feature)

    def file_of(self, place: EpisodePlace) -> int:
        return place.videos[self._feature].file

    def moved(self, place: EpisodePlace, number: int, first: int) -> EpisodePlace:
        return dataclasses.replace(place, videos={**place.videos, self._feature: VideoPlace(number, first)})

    def coding(self, path: Path) -> Any:
        # a stream copied behind another is decoded with that one's set-up, which depends on the encoder's settings
        try:
            with av.open(str(path)) as container:
                context = container.streams.video[0].codec_context
                return (context.codec.id, context.width, context.height, context.pix_fmt, context.extradata)
        except (OSError, av.error.FFmpegError, IndexError) as error:
            raise DatasetError(f"{path}: not a readable video ({error}); restore it from a copy") from error

    def join(self, parts: Sequence[Span], target: Path) -> None:
        writer: PacketWriter | None = None
        for part in parts:
            video = CodedVideo(part.path)
            writer = writer or PacketWriter(target, video, self._fps)
            try:
                writer.add(video, part)
            finally:
                video.close()
        assert writer is not None
        writer.close()
        _check_count(target, count_packets(target), sum(part.count for part in parts), "frames")


def _copy_groups(part: Span, writer: pq.ParquetWriter) -> None:
    """Append rows of a file, a row group at a time, so that no more than one is in memory."""
    try:
        file = pq.ParquetFile(part.path)
        start = 0
        for number in range(file.metadata.num_row_groups):
            end = start + file.metadata.row_group(number).num_rows
            low, high = max(start, part.first), min(end, part.first + part.count)
            if low < high:
                writer.write_table(file.read_row_group(number).slice(low - start, high - low))
            start = end
    except pa.ArrowException as error:
        raise DatasetError(f"{part.path}: cannot be read ({error}); restore it from a copy") from error


def _check_count(path: Path, found: int, expected: int, what: str) -> None:
    if found != expected:
        raise DatasetError(f"{path}: {found} {what} after joining, expected {expected}; check the disk")

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Files shared by many episodes (v3.0): which files exist, which may be joined, and joining them.

Joining writes a new file with the content of the first file and of those after it. It may replace the first file at any
time: a reader that uses the old tables finds the same rows and frames at the same places.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.media.packets import CodedVideo, PacketWriter, count_packets
from gr00t_training.dataset.media.video_files import open_video
from gr00t_training.dataset.metadata.episode_list import Span
from gr00t_training.dataset.metadata.episodes_table import EpisodePlace, VideoPlace
from gr00t_training.dataset.metadata.tables import open_table, read_groups
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import open_new

BYTES_PER_MB = 2**20
ROWS = "rows"  # name of this kind of file, next to the features of cameras


@dataclass(frozen=True)
class Group:
    """Files that can be joined into one."""

    numbers: tuple[int, ...]
    num_bytes: int
    coding: Any  # of all of them

    def takes(self, num_bytes: int, coding: Any, max_bytes: int) -> bool:
        """Whether one more file fits into the group."""
        return self.num_bytes + num_bytes <= max_bytes and coding == self.coding

    def with_file(self, number: int, num_bytes: int) -> Group:
        """Return the group with one more file."""
        return Group((*self.numbers, number), self.num_bytes + num_bytes, self.coding)


class FileKind(Protocol):
    """One series of shared files: the rows, or the videos of a camera."""

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

    def first_of(self, place: EpisodePlace) -> int | None:
        """Return the first frame of an episode in its file; None for rows, which are always consecutive."""
        ...

    def count(self, path: Path) -> int:
        """Return the number of rows or frames in a file; DatasetError where it cannot be read."""
        ...

    def moved(self, place: EpisodePlace, number: int, first: int) -> EpisodePlace:
        """Return the place of an episode that is now in another file, from row or frame `first` on."""
        ...

    def coding(self, path: Path) -> Any:
        """Return what must be equal to join two files."""
        ...

    def join(self, parts: Sequence[Span], target: Path) -> None:
        """Write one file from parts of other files.

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

    def first_of(self, place: EpisodePlace) -> int | None:
        return None

    def count(self, path: Path) -> int:
        return open_table(path).metadata.num_rows

    def moved(self, place: EpisodePlace, number: int, first: int) -> EpisodePlace:
        return dataclasses.replace(place, data_file=number)  # rows are numbered over the whole dataset

    def coding(self, path: Path) -> Any:
        return open_table(path).schema_arrow

    def join(self, parts: Sequence[Span], target: Path) -> None:
        with (
            open_new(target) as file,
            pq.ParquetWriter(file, open_table(parts[0].path).schema_arrow, compression="snappy") as writer,
        ):
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

    def first_of(self, place: EpisodePlace) -> int | None:
        return place.videos[self._feature].first_frame

    def count(self, path: Path) -> int:
        return count_packets(path)

    def moved(self, place: EpisodePlace, number: int, first: int) -> EpisodePlace:
        return dataclasses.replace(place, videos={**place.videos, self._feature: VideoPlace(number, first)})

    def coding(self, path: Path) -> Any:
        # an appended stream is decoded with the parameters of the first one, which depend on the encoder's settings
        with open_video(path, "restore it from a copy") as container:
            context = container.streams.video[0].codec_context
            return (context.codec.id, context.width, context.height, context.pix_fmt, context.extradata)

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
    """Append rows of a file, one row group in memory at a time."""
    file = open_table(part.path)
    start = 0
    for number in range(file.metadata.num_row_groups):
        end = start + file.metadata.row_group(number).num_rows
        low, high = max(start, part.first), min(end, part.first + part.count)
        if low < high:
            rows = read_groups(file, part.path, [number]).slice(low - start, high - low)
            try:
                writer.write_table(rows)
            except pa.ArrowException as error:
                raise DatasetError(f"{part.path}: rows do not match the file they are joined to ({error})") from error
        start = end


def _check_count(path: Path, found: int, expected: int, what: str) -> None:
    if found != expected:
        raise DatasetError(f"{path}: {found} {what} after joining, expected {expected}; check the disk")

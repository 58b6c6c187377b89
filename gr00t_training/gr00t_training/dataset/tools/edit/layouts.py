# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Where rows and videos of the episodes of a new dataset go: a file each (v2.x), or files shared by many (v3.0)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.media.packets import (
    CodedVideo,
    CodedVideos,
    PacketWriter,
    count_packets,
    re_encode,
)
from gr00t_training.dataset.media.video import VideoCodec, VideoReader, VideoSettings
from gr00t_training.dataset.metadata.episode_list import Span
from gr00t_training.dataset.metadata.episodes_table import VideoPlace
from gr00t_training.errors import DatasetError
from gr00t_training.io.mirror import Held

# Episodes share a row group up to this size, unpacked. A group an episode, as lerobot has them, makes a footer that is
# larger than the rows where episodes are short; a reader of one episode unpacks a group, which takes 2 ms.
GROUP_BYTES = 2**20


class Layout(Protocol):
    """Takes the parts of one episode after the other."""

    encoded: list[str]  # videos that had to be re-encoded

    def add_rows(self, index: int, table: pa.Table) -> int:
        """Write the rows of an episode; return the number of their file."""
        ...

    def add_video(self, index: int, feature: str, span: Span) -> VideoPlace:
        """Write the frames of an episode; return where they are."""
        ...

    def close(self) -> None:
        """Finish all files."""
        ...


class EpisodeFiles:
    """A parquet file an episode, a video file an episode and camera (v2.0, v2.1)."""

    def __init__(self, folder: Path, fps: float, *, links: bool) -> None:
        """Write into `folder`; `links`: whole videos may be links to the source, which is removed afterwards."""
        self.encoded: list[str] = []
        self._folder = folder
        self._fps = fps
        self._links = links
        self._videos = CodedVideos()

    def add_rows(self, index: int, table: pa.Table) -> int:
        pq.write_table(table, made(self._folder / schema.data_path(index)), compression="snappy")
        return index

    def add_video(self, index: int, feature: str, span: Span) -> VideoPlace:
        target = made(self._folder / schema.video_path(index, feature))
        if span.first == 0 and span.count == count_packets(span.path):
            copy_file(span.path, target, links=self._links)
            return VideoPlace(index, 0)
        video = self._videos.open(span.path)
        if video.can_cut(span):
            writer = PacketWriter(target, video, self._fps)
            try:
                writer.add(video, span)
            finally:
                writer.close()
        else:
            self.encoded.append(target.relative_to(self._folder).as_posix())
            re_encode(span, target, self._fps, settings_like(span.path))
        return VideoPlace(index, 0)

    def close(self) -> None:
        self._videos.close()


class SharedFiles:
    """Rows and videos of many episodes in one file, up to a size (v3.0)."""

    def __init__(self, folder: Path, fps: float, *, data_mb: float, video_mb: float) -> None:
        """Write into `folder`; a new file is begun when one has the given size."""
        self.encoded: list[str] = []
        self._folder = folder
        self._fps = fps
        self._data_bytes, self._video_bytes = data_mb * 2**20, video_mb * 2**20
        self._rows: pq.ParquetWriter | None = None
        self._group: list[pa.Table] = []  # rows of the next row group
        self._group_bytes = 0
        self._rows_path = folder
        self._num_data_files = 0
        self._open: dict[str, PacketWriter] = {}
        self._num_video_files: dict[str, int] = {}
        self._videos = CodedVideos()

    def add_rows(self, index: int, table: pa.Table) -> int:
        if self._rows is not None and self._rows_path.stat().st_size >= self._data_bytes:
            self._close_rows()
        if self._rows is None:
            self._rows_path = made(self._folder / schema.shared_path(schema.SHARED_DATA_PATH, self._num_data_files))
            self._rows = pq.ParquetWriter(self._rows_path, table.schema, compression="snappy")
            self._num_data_files += 1
        try:
            rows = table.cast(self._rows.schema)
        except (pa.ArrowException, ValueError) as error:
            raise DatasetError(
                f"episode {index}: its columns are not those of the episodes before ({error}); leave it out"
            ) from error
        self._group.append(rows)
        self._group_bytes += rows.nbytes
        if self._group_bytes >= min(GROUP_BYTES, self._data_bytes):
            self._write_group()
        return self._num_data_files - 1

    def add_video(self, index: int, feature: str, span: Span) -> VideoPlace:
        video = self._videos.open(span.path)
        if video.can_cut(span):
            return self._append(feature, video, span)
        self.encoded.append(f"{feature} of episode {index}")
        path = self._folder / f"encoded{schema.STAGED_SUFFIX}"
        re_encode(span, path, self._fps, settings_like(span.path))
        video = CodedVideo(path)
        try:
            return self._append(feature, video, Span(path, 0, span.count))
        finally:
            video.close()
            path.unlink()

    def close(self) -> None:
        self._close_rows()
        while self._open:
            self._open.popitem()[1].close()
        self._videos.close()

    def _write_group(self) -> None:
        assert self._rows is not None
        group = pa.concat_tables(self._group)
        self._rows.write_table(group, row_group_size=max(group.num_rows, 1))
        self._group, self._group_bytes = [], 0

    def _close_rows(self) -> None:
        if self._rows is not None:
            if self._group:
                self._write_group()
            self._rows.close()
            self._rows = None

    def _append(self, feature: str, video: CodedVideo, span: Span) -> VideoPlace:
        writer = self._open.get(feature)
        if writer is not None and (writer.coding != video.coding or writer.num_bytes >= self._video_bytes):
            self._open.pop(feature).close()
            writer = None
        if writer is None:
            number = self._num_video_files.get(feature, 0)
            path = made(self._folder / schema.shared_path(schema.SHARED_VIDEO_PATH, number, feature))
            self._num_video_files[feature] = number + 1
            writer = self._open[feature] = PacketWriter(path, video, self._fps)
        place = VideoPlace(self._num_video_files[feature] - 1, writer.num_frames)
        writer.add(video, span)
        return place


def copy_file(source: Path, target: Path, *, links: bool) -> None:
    """Copy a file, or link to it where that is wanted and possible."""
    if links:
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            pass
        else:
            return
    with Held(source):
        shutil.copyfile(source, target)


def settings_like(path: Path) -> VideoSettings:
    """Return settings that write the codec of the video at `path`.

    Raises:
        DatasetError: a codec that is read but not written.
    """
    reader = VideoReader(path)
    codec = reader.codec
    reader.close()
    if codec not in [known.value for known in VideoCodec]:
        raise DatasetError(
            f"{path}: is {codec} and would have to be re-encoded; the encoders are "
            f"{', '.join(known.value for known in VideoCodec)}: cut at one of its key frames instead"
        )
    return VideoSettings(codec=VideoCodec(codec))


def made(path: Path) -> Path:
    """Return the path after making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path

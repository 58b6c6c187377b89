# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Copy encoded video between files by packets: nothing is decoded, so it is lossless and fast.

A run of frames can be cut out if it starts with a key frame and its packets are contiguous in the file; it can be
appended to a file with the same coding parameters. Times are rewritten from frame numbers: frame k at exactly k / fps.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import av.error
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream

from gr00t_training.dataset.media.video import VideoReader, VideoSettings, VideoWriter, _OutputFile
from gr00t_training.dataset.media.video_files import open_video
from gr00t_training.dataset.metadata.episode_list import Span
from gr00t_training.errors import DatasetError

_REMEDY = "copy it again, or leave its episode out"


class CodedVideo:
    """A video file open for reading packets; for one thread."""

    def __init__(self, path: Path) -> None:
        """Open the file and list its packets.

        Raises:
            DatasetError: missing or not a readable video.
        """
        self.path = path
        self._container = open_video(path, _REMEDY)
        try:
            self.stream: VideoStream = self._container.streams.video[0]
            packets = [packet for packet in self._container.demux(self.stream) if is_frame(packet)]
        except (OSError, av.error.FFmpegError, IndexError) as error:
            raise DatasetError(f"{path}: not a readable video ({error}); {_REMEDY}") from error
        times = np.array([packet.pts for packet in packets], np.int64)
        # position of each frame among the packets of the file
        self._positions = np.argsort(times, kind="stable")
        self._is_key = np.array([packet.is_keyframe for packet in packets], bool)[self._positions]
        self._times = times[self._positions]
        self._number_of = {int(pts): number for number, pts in enumerate(self._times)}
        # how many frames before its display time a frame may be decoded: keeps decoding times increasing
        self.delay = int((self._positions - np.arange(len(times))).max(initial=0))

    @property
    def num_frames(self) -> int:
        """Number of frames in the file."""
        return len(self._times)

    @property
    def coding(self) -> tuple[Any, ...]:
        """What must be equal to join two videos by packets: codec, size, pixels, decoder parameters, order."""
        context = self.stream.codec_context
        return (context.codec.id, context.width, context.height, context.pix_fmt, context.extradata, self.delay)

    @property
    def tags(self) -> dict[str, str]:
        """Metadata of the file, without the name of the library that wrote it."""
        return {name: text for name, text in self._container.metadata.items() if name.upper() != "ENCODER"}

    def can_cut(self, span: Span) -> bool:
        """Whether the frames of `span` decode from their own packets alone; DatasetError: the file has fewer frames."""
        self._check_inside(span)
        positions = self._positions[span.first : span.first + span.count]
        stand_together = positions.max() - positions.min() + 1 == span.count
        return bool(self._is_key[span.first] and positions[0] == positions.min() and stand_together)

    def packets(self, span: Span) -> Iterator[tuple[Packet, int]]:
        """Yield the packets of `span` in the file's order, each with its frame's number within the span.

        Raises:
            DatasetError: the file has fewer frames, or cannot be read.
        """
        self._check_inside(span)
        try:
            # the seek may land after the span where frames are stored in another order than shown
            for target in (int(self._times[span.first]), int(self._times[0])):
                self._container.seek(target, stream=self.stream, backward=True, any_frame=False)
                found = [pair for pair in self._from_here(span) if pair[1] >= 0]
                if len(found) == span.count:
                    yield from found
                    return
        except (OSError, av.error.FFmpegError) as error:
            raise DatasetError(f"{self.path}: cannot be read ({error}); copy it again") from error
        raise DatasetError(f"{self.path}: packets of frames {span.first} on are not found; copy the file again")

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _check_inside(self, span: Span) -> None:
        if span.first + span.count > self.num_frames:
            raise DatasetError(
                f"{self.path}: frames {span.first} to {span.first + span.count - 1} requested, the file has "
                f"{self.num_frames}; validate the dataset"
            )

    def _from_here(self, span: Span) -> Iterator[tuple[Packet, int]]:
        missing = span.count
        for packet in self._container.demux(self.stream):
            if not is_frame(packet):
                continue
            number = self._number_of.get(cast(int, packet.pts), -1) - span.first
            if 0 <= number < span.count:
                yield packet, number
                missing -= 1
                if not missing:
                    return


class CodedVideos:
    """Keeps the video files used last open."""

    def __init__(self, capacity: int = 8) -> None:
        self._capacity = capacity
        self._open: OrderedDict[Path, CodedVideo] = OrderedDict()

    def open(self, path: Path) -> CodedVideo:
        """Return the video at `path`; raises DatasetError."""
        video = self._open.pop(path, None) or CodedVideo(path)
        self._open[path] = video
        if len(self._open) > self._capacity:
            self._open.popitem(last=False)[1].close()
        return video

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()


class PacketWriter:
    """Builds one file from spans of other files."""

    def __init__(self, path: Path, like: CodedVideo, fps: float, *, container: str = "mp4") -> None:
        """Open `path` for spans of the same coding as `like`; OSError when that fails."""
        self.coding = like.coding
        self.num_frames = 0
        self.num_bytes = 0
        self._tick = 1 / Fraction(fps).limit_denominator(1001)
        self._delay = like.delay
        self._file = _OutputFile(path)
        self._container = av.open(self._file, "w", format=container)
        self._stream = _add_copied_stream(self._container, like.stream)
        self._stream.time_base = self._tick
        if container == "matroska":  # depth files carry their unit
            self._container.metadata.update(like.tags)

    def add(self, video: CodedVideo, span: Span) -> None:
        """Append frames.

        Raises:
            DatasetError: they cannot be read.
            OSError: the file cannot be written.
        """
        for position, (packet, number) in enumerate(video.packets(span)):
            packet.stream = self._stream
            packet.time_base = self._tick
            packet.pts = self.num_frames + number
            packet.dts = self.num_frames + position - self._delay
            packet.duration = 1
            self.num_bytes += packet.size
            self._container.mux_one(packet)
        self.num_frames += span.count
        self._file.raise_error()

    def close(self) -> None:
        """Finish the file; OSError when it cannot be written."""
        try:
            self._container.close()
        finally:
            self._file.close()
        self._file.raise_error()


def part_of(span: Span, start: int, stop: int) -> Span:
    """Return the rows or frames `start` to `stop` (half open) of `span`."""
    return Span(span.path, span.first + start, stop - start)


def is_frame(packet: Packet) -> bool:
    """Whether a packet holds a frame that is shown; others end the stream or are removed by an edit list."""
    return packet.pts is not None and not packet.is_discard


def count_packets(path: Path) -> int:
    """Return the number of frames in a file, from its header, else counted.

    Raises:
        DatasetError: missing or not a readable video.
    """
    with open_video(path, _REMEDY) as container:
        stream = container.streams.video[0]
        try:
            return stream.frames or sum(is_frame(packet) for packet in container.demux(stream))
        except (OSError, av.error.FFmpegError) as error:
            raise DatasetError(f"{path}: not a readable video ({error}); {_REMEDY}") from error


def cut_file(span: Span, target: Path, fps: float, *, container: str = "mp4") -> None:
    """Write the frames of `span` into a new file, by packets.

    Raises:
        DatasetError: they do not decode from their own packets alone, or cannot be read.
        OSError: the file cannot be written.
    """
    video = CodedVideo(span.path)
    try:
        if not video.can_cut(span):
            raise DatasetError(f"{span.path}: frame {span.first} is not a key frame; cut at one, or re-encode the file")
        writer = PacketWriter(target, video, fps, container=container)
        try:
            writer.add(video, span)
        finally:
            writer.close()
    finally:
        video.close()


def re_encode(span: Span, target: Path, fps: float, settings: VideoSettings) -> None:
    """Decode the frames of `span` and encode them into a new file.

    Raises:
        DatasetError: they cannot be decoded.
        OSError: the file cannot be written.
    """
    reader = VideoReader(span.path)
    writer = VideoWriter(target, *reader.size, math.ceil(fps), settings)
    try:
        for number in range(span.first, span.first + span.count):
            writer.add(reader.read([number])[0])
    finally:
        reader.close()
        writer.close()


def _add_copied_stream(container: Any, like: VideoStream) -> VideoStream:
    if hasattr(container, "add_stream_from_template"):
        return container.add_stream_from_template(like, opaque=True)  # opaque: no encoder of that name is needed
    return container.add_stream(template=like)  # PyAV 12 and 13

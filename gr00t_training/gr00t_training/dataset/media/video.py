# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Constant-rate mp4 files with frames addressed by index.

Frame k is shown at exactly k / fps, without audio. Frames are numbered by their sorted presentation times, so B-frames
(in files of others) and any time base are read correctly. Color is RGB outside and yuv420p in the file, converted with
ffmpeg's defaults both ways.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import av
import av.error
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from gr00t_training.dataset.media.encoders import VideoCodec as VideoCodec
from gr00t_training.dataset.media.encoders import VideoEncoder as VideoEncoder
from gr00t_training.dataset.media.encoders import VideoSettings, check_encoder
from gr00t_training.dataset.media.video_files import open_video
from gr00t_training.errors import DatasetError
from gr00t_training.io.machine import kept_scheduling
from gr00t_training.io.mirror import Held

# A file truncated by a kill can be read up to the cut: it is written in fragments, which close() converts to an
# ordinary mp4 in place (ffmpeg 7.1 or later).
_MUXER = {"movflags": "hybrid_fragmented+frag_every_frame", "flush_packets": "1"}

# PyAV 17 and later spread the conversion of an image over all cores, which is slower.
_CONVERSION: dict[str, Any] = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}

# ffmpeg's decoder -> codec, if the names differ
_DECODERS = {"libdav1d": "av1", "libaom-av1": "av1"}

# Decoders that can leave out frames which no other frame is predicted from, one by one. HEVC's would also leave out
# frames that a higher temporal layer is predicted from; AV1's decide it once per file.
_SKIPPING_DECODERS = ("h264",)


class VideoWriter:
    """Encodes images into one mp4 file as they arrive."""

    def __init__(self, path: Path, height: int, width: int, fps: int, settings: VideoSettings) -> None:
        """Open `path` for writing.

        Raises:
            OSError: the file cannot be opened.
            ConfigError: this machine cannot encode that.
        """
        check_encoder(settings, height, width, fps)
        self.num_frames = 0
        self._file = _OutputFile(path)
        self._container = av.open(self._file, "w", format="mp4", container_options=_MUXER)
        stream = self._container.add_stream(settings.encoder_name, rate=fps, options=settings.encoder_options)
        self._stream = cast(VideoStream, stream)  # true for these encoders; the stubs do not say it
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "yuv420p"
        if settings.codec is VideoCodec.HEVC:
            self._stream.codec_context.codec_tag = "hvc1"  # Apple's players do not open hev1, ffmpeg's default
        self._stream.codec_context.time_base = Fraction(1, fps)
        self._reformatter = VideoReformatter()  # kept: setting one up costs as much as converting an image
        self._is_open = True

    def add(self, image: np.ndarray) -> None:
        """Append one `(H, W, 3)` uint8 RGB image.

        Raises:
            OSError: the file cannot be written; it may come some images late, since encoder and muxer buffer.
        """
        picture = av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(image), format="rgb24")
        picture = self._reformatter.reformat(picture, format="yuv420p", interpolation=Interpolation.AREA, **_CONVERSION)
        picture.pts = self.num_frames
        picture.time_base = self._stream.codec_context.time_base
        with contextlib.nullcontext() if self.num_frames else kept_scheduling():  # the first one opens the encoder
            packets = self._stream.encode(picture)
        self._container.mux(packets)
        self.num_frames += 1
        self._file.raise_error()

    def close(self) -> None:
        """Finish the file; a second call does nothing.

        Raises:
            OSError: the file cannot be written.
        """
        if not self._is_open:
            return
        self._is_open = False
        try:
            if self.num_frames:
                self._container.mux(self._stream.encode(None))
            self._container.close()
        finally:
            self._file.close()
        self._file.raise_error()


class _OutputFile:
    """A file that stores write errors until `raise_error`: ffmpeg's mp4 muxer crashes when a write fails."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._file = os.fdopen(os.open(path, flags, 0o666), "w+b", buffering=0)
        self._error: OSError | None = None

    def write(self, block: bytes) -> int:
        rest = memoryview(block)
        try:
            while self._error is None and rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            self._error = error
        return len(block)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error


class VideoReader:
    """Reads frames of one video file by index."""

    def __init__(self, path: Path) -> None:
        """Open `path` and list its frames without decoding them.

        Raises:
            DatasetError: missing, damaged, or without a video stream.
        """
        self._path = path
        self._held = Held(path)
        self._container = open_video(path)
        try:
            self._stream = self._container.streams.video[0]
            # One thread: frame threads would decode ahead, which random access does not need.
            self._stream.codec_context.thread_count = 1
            shown = [
                (packet.pts, packet.is_keyframe)
                for packet in self._container.demux(self._stream)
                if packet.pts is not None and not packet.is_discard
            ]
        except (OSError, av.error.FFmpegError) as error:
            raise DatasetError(f"{path}: not a readable video ({error}); record or copy the file again") from error
        shown.sort()
        self._times = [pts for pts, _ in shown]
        self._key_times = [pts for pts, is_key in shown if is_key]
        self._index_of = {pts: index for index, pts in enumerate(self._times)}
        self._reformatter = VideoReformatter()  # kept: setting one up costs more than converting an image
        self._skips = self._stream.codec_context.name in _SKIPPING_DECODERS
        self._decoded: Iterator[av.VideoFrame] = iter(())
        self._next = -1  # index of the frame that the decoder yields next; -1: seek first
        self._wanted = 0  # presentation time of the frame that is decoded for
        self._last: tuple[int, np.ndarray] | None = None

    @property
    def num_frames(self) -> int:
        """Number of frames in the file."""
        return len(self._times)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self._stream.codec_context.height, self._stream.codec_context.width

    @property
    def codec(self) -> str:
        """Name of the codec (h264, av1), whichever decoder is used."""
        name = self._stream.codec_context.codec.name
        return _DECODERS.get(name, name)

    @property
    def key_frame_distance(self) -> float:
        """Mean number of frames from one key frame to the next."""
        return self.num_frames / max(1, len(self._key_times))

    @property
    def presentation_s(self) -> np.ndarray:
        """Presentation time of every frame, `(num_frames,)` float64 seconds."""
        base = self._stream.time_base
        if base is None:
            raise DatasetError(f"{self._path}: its video stream has no time base; record the file again")
        return np.array([float(pts * base) for pts in self._times])

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Return the frames `indices` as `(T, H, W, 3)` uint8 RGB.

        Raises:
            DatasetError: an index outside the file, or a frame that does not decode.
        """
        frames: dict[int, np.ndarray] = {}
        for index in sorted({int(index) for index in indices}):
            frames[index] = self._image(index)
        return np.stack([frames[int(index)] for index in indices])

    def decode(self, indices: Iterable[int]) -> Pictures:
        """Return the frames `indices` decoded, but not converted to images.

        Raises:
            DatasetError: as `read`.
        """
        return Pictures({index: self._picture(index) for index in sorted(set(indices))}, self._reformatter)

    def close(self) -> None:
        """Close the file."""
        self._decoded = iter(())
        self._container.close()
        self._held.close()

    def _image(self, index: int) -> np.ndarray:
        if self._last is None or self._last[0] != index:
            self._last = (index, _to_image(self._picture(index), self._reformatter))
        return self._last[1]

    def _picture(self, index: int) -> av.VideoFrame:
        if not 0 <= index < self.num_frames:
            raise DatasetError(
                f"{self._path}: frame {index} requested, the file has {self.num_frames}; validate the dataset"
            )
        try:
            return self._decode(index)
        except (OSError, av.error.FFmpegError) as error:
            self._next = -1
            raise DatasetError(f"{self._path}: frame {index} does not decode ({error}); record it again") from error

    def _decode(self, index: int) -> av.VideoFrame:
        wanted = self._wanted = self._times[index]
        key = bisect_right(self._key_times, wanted) - 1
        # Decoding is cheaper than seeking if there is no key frame between here and the wanted frame.
        if self._next < 0 or self._next > index or (key >= 0 and self._times[self._next] < self._key_times[key]):
            self._seek(key)
        while True:
            for picture in self._decoded:
                found = self._index_of.get(picture.pts, -1) if picture.pts is not None else -1
                if found == index:
                    self._next = index + 1 if index + 1 < self.num_frames else -1
                    return picture
                if found > index:
                    break
            # The seek ended after the wanted frame (open groups of pictures): start one key frame earlier.
            key -= 1
            if key < -1:
                raise DatasetError(f"{self._path}: frame {index} is in the index but is never decoded; record it again")
            self._seek(key)

    def _seek(self, key: int) -> None:
        """Restart decoding at the key frame number `key`; below 0 at the start of the file."""
        target = self._key_times[key] if key >= 0 else self._times[0]
        self._container.seek(target, stream=self._stream, backward=True, any_frame=False)
        self._decoded = self._decode_on()
        self._next = self._index_of[target]

    def _decode_on(self) -> Iterator[av.VideoFrame]:
        """Yield the frames from where the container is on; before the wanted one only those that others need."""
        decoder = self._stream.codec_context
        for packet in self._container.demux(self._stream):
            if self._skips:
                is_lead_in = packet.pts is not None and packet.pts < self._wanted
                decoder.skip_frame = "NONREF" if is_lead_in else "DEFAULT"
            yield from cast("list[av.VideoFrame]", packet.decode())


class Pictures:
    """Decoded frames of one video, by index: half the bytes of their images. For one thread."""

    def __init__(self, frames: dict[int, av.VideoFrame], reformatter: VideoReformatter) -> None:
        self._frames = frames
        self._reformatter = reformatter
        self.num_bytes = sum(plane.buffer_size for frame in frames.values() for plane in frame.planes)

    def __len__(self) -> int:
        return len(self._frames)

    def __contains__(self, index: int) -> bool:
        return index in self._frames

    def image(self, index: int) -> np.ndarray:
        """Return the image of a frame, `(H, W, 3)` uint8 RGB."""
        return _to_image(self._frames[index], self._reformatter)

    def drop(self, index: int) -> int:
        """Forget a frame; return the bytes that it had."""
        freed = sum(plane.buffer_size for plane in self._frames.pop(index).planes)
        self.num_bytes -= freed
        return freed


def _to_image(picture: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    return reformatter.reformat(picture, format="rgb24", **_CONVERSION).to_ndarray()


class VideoCache:
    """Keeps the most recently used video files open; one per process, not shared between threads."""

    def __init__(self, capacity: int = 8) -> None:
        self._capacity = capacity
        self._readers: OrderedDict[Path, VideoReader] = OrderedDict()

    def open(self, path: Path) -> VideoReader:
        """Return the reader of `path`, opened if necessary.

        Raises:
            DatasetError: missing or damaged.
        """
        reader = self._readers.pop(path, None) or VideoReader(path)
        self._readers[path] = reader
        if len(self._readers) > self._capacity:
            self._readers.popitem(last=False)[1].close()
        return reader

    def close(self) -> None:
        """Close all files."""
        while self._readers:
            self._readers.popitem()[1].close()

    def __enter__(self) -> VideoCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def count_frames(path: Path) -> int:
    """Count the frames of a video by reading all its packets.

    Raises:
        DatasetError: missing or damaged.
    """
    reader = VideoReader(path)
    try:
        return reader.num_frames
    finally:
        reader.close()

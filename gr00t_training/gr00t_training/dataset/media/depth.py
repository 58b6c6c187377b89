# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Lossless depth as sidecar files: FFV1 video, 16-bit gray, in Matroska, one file per episode and depth camera.

Quantizing depth to 8 bits, or to a color video, cannot be undone, and no GR00T release reads depth. So depth is kept
lossless where the loaders of LeRobot and GR00T ignore it (no column, no feature, no `.mp4`); a quantized video can be
made from it at any time. FFV1 stores every count exactly, about halves the size, detects damaged slices by checksum,
and every frame is a key frame, so any row is read without its neighbors. A truncated Matroska file is readable up to
the cut; ffmpeg, VLC and OpenCV open it.

A count is `unit_m` meters, 0 is no measurement. The unit is in `meta/embodiment.json` and in the file itself (tag
UNIT_M). Frame k belongs to row k of the episode.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import av.error
import numpy as np
from av.video.stream import VideoStream

from gr00t_training.dataset import schema
from gr00t_training.dataset.media.video_files import open_video
from gr00t_training.embodiment import DepthKey, Embodiment
from gr00t_training.errors import DatasetError
from gr00t_training.types import Frame

_ENCODER = "ffv1"
_PIXELS = "gray16le"
# version 3 with checksums (RFC 9043), every frame a key frame; Golomb-Rice is the faster of its two coders
_OPTIONS = {"level": "3", "g": "1", "slices": "4", "slicecrc": "1", "coder": "0"}
# a file truncated by a kill holds every added frame but the last: each is a separate cluster
_MUXER = {"flush_packets": "1", "cluster_time_limit": "0"}
_UNIT_TAG = "UNIT_M"


class DepthWriter:
    """Writes the depth images of one camera of an episode as they arrive."""

    def __init__(self, path: Path, depth: DepthKey, fps: int) -> None:
        """Open `path` for writing.

        Raises:
            OSError: the file cannot be opened.
        """
        self.num_frames = 0
        self.path = path
        self._shape = (depth.height, depth.width)
        self._container = av.open(str(path), "w", format="matroska", container_options=_MUXER)
        self._container.metadata[_UNIT_TAG] = repr(depth.unit_m)
        self._stream = cast(VideoStream, self._container.add_stream(_ENCODER, rate=fps, options=_OPTIONS))
        self._stream.height, self._stream.width = self._shape
        self._stream.pix_fmt = _PIXELS
        self._stream.codec_context.time_base = Fraction(1, fps)
        self._is_open = True

    def check(self, image: np.ndarray) -> None:
        """Refuse an image of another shape or type; DatasetError names both."""
        if image.shape != self._shape or image.dtype != np.uint16:
            raise DatasetError(
                f"depth image: got shape {image.shape} {image.dtype}, the embodiment expects {self._shape} uint16; "
                "set the size in the embodiment or 'resize' in topics.yaml"
            )

    def add(self, image: np.ndarray) -> None:
        """Append one `(H, W)` uint16 image.

        Raises:
            OSError: the file cannot be written.
        """
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=_PIXELS)
        picture.pts = self.num_frames
        picture.time_base = self._stream.codec_context.time_base
        self._container.mux(self._stream.encode(picture))
        self.num_frames += 1

    def close(self) -> None:
        """Finish the file; a second call does nothing.

        Raises:
            OSError: the file cannot be written.
        """
        if not self._is_open:
            return
        self._is_open = False
        if self.num_frames:
            self._container.mux(self._stream.encode(None))
        self._container.close()


class StagedDepth:
    """Depth files of an unfinished episode, one per depth camera of the embodiment; often none."""

    def __init__(self, folder: Path, embodiment: Embodiment) -> None:
        """Open the files in `folder`.

        Raises:
            OSError: a file cannot be opened.
        """
        self.paths = {key: folder / f"depth.{key}.mkv{schema.STAGED_SUFFIX}" for key in embodiment.depth}
        self._writers = {
            key: DepthWriter(self.paths[key], depth, embodiment.fps) for key, depth in embodiment.depth.items()
        }

    def check(self, frame: Frame) -> None:
        """Refuse a frame with missing, unknown or wrongly shaped depth; DatasetError names the key."""
        unknown = [key for key in frame.depth if key not in self._writers]
        if unknown:
            raise DatasetError(f"depth.{unknown[0]}: the embodiment has no such depth camera")
        for key, writer in self._writers.items():
            if key not in frame.depth:
                raise DatasetError(f"depth.{key}: missing in row {writer.num_frames}; bind it in topics.yaml")
            writer.check(frame.depth[key])

    def add(self, frame: Frame) -> None:
        """Append the depth images of a checked frame; OSError when a file cannot be written."""
        for key, writer in self._writers.items():
            writer.add(frame.depth[key])

    def finish(self, num_frames: int) -> None:
        """Close the files and count their frames.

        Raises:
            OSError: a file cannot be written.
            DatasetError: a file does not hold one frame per row.
        """
        for key, writer in self._writers.items():
            writer.close()
            reader = DepthReader(writer.path)
            reader.close()
            if reader.num_frames != num_frames:
                raise DatasetError(
                    f"depth.{key}: {reader.num_frames} frames in the file, {num_frames} rows; check the disk"
                )

    def abandon(self) -> None:
        """Close the files, complete or not."""
        for writer in self._writers.values():
            with contextlib.suppress(OSError):
                writer.close()


class DepthReader:
    """Reads depth images of one file by index."""

    def __init__(self, path: Path) -> None:
        """Open `path` and list its frames without decoding them.

        Raises:
            DatasetError: missing, damaged, or not a depth file of this suite.
        """
        self._path = path
        self._container = open_video(path, "record or copy it again", "depth file")
        try:
            self._stream = self._container.streams.video[0]
            self._times = [
                packet.pts for packet in self._container.demux(self._stream) if packet.pts is not None and packet.size
            ]
            pixels = self._stream.codec_context.pix_fmt
        except (OSError, IndexError, av.error.FFmpegError) as error:
            raise DatasetError(f"{path}: not a readable depth file ({error}); record or copy it again") from error
        if pixels != _PIXELS:
            raise DatasetError(f"{path}: holds {pixels}, expected {_PIXELS}; this is not a depth file")
        self._frames: Any = iter(())
        self._next = -1  # index of the frame that the decoder yields next

    @property
    def num_frames(self) -> int:
        """Number of frames in the file."""
        return len(self._times)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self._stream.codec_context.height, self._stream.codec_context.width

    @property
    def unit_m(self) -> float:
        """Length of one count, meters.

        Raises:
            DatasetError: the file does not contain it.
        """
        tags = {name.upper(): value for name, value in self._container.metadata.items()}
        try:
            return float(tags[_UNIT_TAG])
        except (KeyError, ValueError) as error:
            raise DatasetError(f"{self._path}: no tag {_UNIT_TAG}; take the unit of the embodiment") from error

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Return the frames `indices` as `(T, H, W)` uint16 counts; 0 is no measurement.

        Raises:
            DatasetError: an index outside the file, or a frame that does not decode.
        """
        return np.stack([self._frame(int(index)) for index in indices])

    def close(self) -> None:
        """Close the file."""
        self._frames = iter(())
        self._container.close()

    def _frame(self, index: int) -> np.ndarray:
        if not 0 <= index < self.num_frames:
            raise DatasetError(f"{self._path}: frame {index} requested, the file has {self.num_frames}")
        try:
            if index != self._next:
                self._container.seek(self._times[index], stream=self._stream)
                self._frames = self._container.decode(self._stream)
            for picture in self._frames:
                if picture.pts == self._times[index]:
                    self._next = index + 1
                    return picture.to_ndarray(format=_PIXELS)
        except (OSError, av.error.FFmpegError) as error:
            self._next = -1
            raise DatasetError(f"{self._path}: frame {index} does not decode ({error}); record it again") from error
        raise DatasetError(f"{self._path}: frame {index} is listed but never decoded; record it again")

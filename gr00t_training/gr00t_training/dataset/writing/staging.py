# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""One unfinished episode: frames in, files of one folder and a `FinishedEpisode` out.

Images are encoded at once; vectors stay in memory, and in a journal in case the process is killed. Every frame is
compared with the embodiment before any part of it is kept: a refused frame changes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from gr00t_training.dataset import schema
from gr00t_training.dataset.media.depth import StagedDepth
from gr00t_training.dataset.media.video import VideoSettings, VideoWriter, count_frames
from gr00t_training.dataset.quality import QualityRecorder
from gr00t_training.dataset.statistics.compute import ImageStatistics
from gr00t_training.dataset.writing.finished import FinishedEpisode
from gr00t_training.dataset.writing.heap import HeapTrimmer
from gr00t_training.dataset.writing.journal import JOURNAL_FILE, JournalWriter
from gr00t_training.embodiment import Embodiment, VectorKey
from gr00t_training.errors import DatasetError
from gr00t_training.types import Frame, KeyKind, KeyRef

# Ticks of an episode are on a grid of 1 / fps; simulators with another step width miss it by a little.
TICK_TOLERANCE = 0.1  # of a tick period


class VideoSink(Protocol):
    """Takes the images of one camera, as `VideoWriter` does."""

    def add(self, image: np.ndarray) -> None: ...
    def close(self) -> None: ...


OpenVideo = Callable[[str, Path], VideoSink]


class StagedEpisode:
    """Rows and videos of an unfinished episode."""

    def __init__(
        self,
        folder: Path,
        index: int,
        task: str,
        embodiment: Embodiment,
        video: VideoSettings,
        open_video: OpenVideo | None = None,
        version: schema.Version = schema.DEFAULT_VERSION,
        has_source: bool = False,
    ) -> None:
        """Create `folder` and open a video per camera in it.

        Args:
            folder: that does not exist yet.
            index: of the episode.
            task: of rows without a task.
            embodiment: what frames must contain.
            video: how images are encoded.
            open_video: opens the video of a camera (key, path) with images that are already encoded; None: encode them.
            version: of the dataset; a repair needs it.
            has_source: whether rows say who commanded.

        Raises:
            OSError: the folder cannot be written.
        """
        self.folder = folder
        self.index = index
        self._task = task
        self._embodiment = embodiment
        self._state: list[np.ndarray] = []
        self._action: list[np.ndarray] = []
        self._row_tasks: list[str] = []
        self._sources: list[int] | None = [] if has_source else None
        self._quality = QualityRecorder()
        self._start_ns = 0
        self._images = {key: ImageStatistics() for key in embodiment.video}
        self._videos: dict[str, VideoSink] = {}
        self._heap = HeapTrimmer()
        folder.mkdir()
        self._depth = StagedDepth(folder, embodiment)
        self._journal = JournalWriter(
            folder / JOURNAL_FILE,
            index=index,
            task=task,
            embodiment=embodiment,
            codec=video.codec.value,
            version=version.value,
            has_source=has_source,
        )
        for key, size in embodiment.video.items():
            path = self._video_file(key)
            if open_video is not None:
                self._videos[key] = open_video(key, path)
            else:
                self._videos[key] = VideoWriter(path, size.height, size.width, embodiment.fps, video)

    @property
    def num_frames(self) -> int:
        """Number of frames added so far."""
        return len(self._state)

    def add(self, frame: Frame) -> None:
        """Append one row.

        Raises:
            DatasetError: a key is missing, has the wrong shape or is not finite, or the tick is off the grid; nothing
                is kept.
            OSError: a video cannot be written; the episode is then unusable.
        """
        self._check_tick(frame.tick_ns)
        state = self._join(KeyKind.STATE, frame.state, self._embodiment.state)
        action = self._join(KeyKind.ACTION, frame.action, self._embodiment.action)
        self._check_source(frame.command_source)
        self._check_images(frame.images)
        self._depth.check(frame)
        self._journal.add(frame)
        for key, video in self._videos.items():
            video.add(frame.images[key])
            self._images[key].add(frame.images[key])
            self._heap.count(frame.images[key].nbytes)
        self._depth.add(frame)
        if not self._state:
            self._start_ns = frame.tick_ns
        self._quality.add(frame.ages_ns, frame.filled)
        self._state.append(state)
        self._action.append(action)
        if self._sources is not None and frame.command_source is not None:
            self._sources.append(frame.command_source)
        self._row_tasks.append(frame.task if frame.task.strip() else self._task)

    def finish(self) -> FinishedEpisode:
        """Close the videos, count their frames and return the episode; it has at least one row.

        Raises:
            OSError: a video cannot be written.
            DatasetError: a video does not hold one frame per row.
        """
        self._journal.close()
        for key, video in self._videos.items():
            video.close()
            found = count_frames(self._video_file(key))
            if found != self.num_frames:
                raise DatasetError(f"video.{key}: {found} frames in the file, {self.num_frames} rows; check the disk")
        self._depth.finish(self.num_frames)
        return FinishedEpisode(
            folder=self.folder,
            fps=self._embodiment.fps,
            start_ns=self._start_ns,
            state=np.stack(self._state),
            action=np.stack(self._action),
            row_tasks=self._row_tasks,
            videos=tuple(self._video_file(key) for key in self._embodiment.video),
            depth=self._depth.paths,
            image_statistics={
                schema.image_feature(key): images.describe(quantiles=True) for key, images in self._images.items()
            },
            row_quality=self._quality.to_mapping(),
            command_source=None if self._sources is None else np.array(self._sources, np.int64),
        )

    def abandon(self) -> None:
        """Close all files, complete or not."""
        self._journal.close()
        self._depth.abandon()
        for video in self._videos.values():
            with contextlib.suppress(OSError):
                video.close()

    def forget(self) -> None:
        """Delete the journal, so that a repair does not recover this episode."""
        with contextlib.suppress(OSError):
            (self.folder / JOURNAL_FILE).unlink()

    def _video_file(self, key: str) -> Path:
        return self.folder / f"{schema.image_feature(key)}.mp4{schema.STAGED_SUFFIX}"

    def _check_tick(self, tick_ns: int) -> None:
        if not self._state:
            return
        period_ns = 1e9 / self._embodiment.fps
        elapsed_ns = tick_ns - self._start_ns
        expected_ns = self.num_frames * period_ns
        if abs(elapsed_ns - expected_ns) > TICK_TOLERANCE * period_ns:
            raise DatasetError(
                f"episode {self.index}, row {self.num_frames}: tick is {elapsed_ns / 1e9:.6f} s after the first, "
                f"expected {expected_ns / 1e9:.6f} s at {self._embodiment.fps} Hz; rows must follow without a gap"
            )

    def _check_source(self, source: int | None) -> None:
        if self._sources is None and source is not None:
            raise DatasetError(
                f"command_source: row {self.num_frames} says who commanded, the dataset has no such column; record "
                "into a new folder"
            )
        if self._sources is not None and source is None:
            raise DatasetError(
                f"command_source: missing in row {self.num_frames}; bind 'command_source' in topics.yaml"
            )

    def _join(self, kind: KeyKind, values: Mapping[str, np.ndarray], keys: Mapping[str, VectorKey]) -> np.ndarray:
        """Concatenate the keys of a vector column; `(D,)` float32."""
        unknown = [key for key in values if key not in keys]
        if unknown:
            raise DatasetError(f"{KeyRef(kind, unknown[0])}: embodiment '{self._embodiment.name}' has no such key")
        missing = [key for key in keys if key not in values]
        if missing:
            raise DatasetError(f"{KeyRef(kind, missing[0])}: missing in row {self.num_frames}; bind it in topics.yaml")
        checked = [self._checked(str(KeyRef(kind, key)), values[key], vector) for key, vector in keys.items()]
        return np.concatenate(checked)

    def _checked(self, subject: str, value: np.ndarray, vector: VectorKey) -> np.ndarray:
        value = np.asarray(value)
        if value.shape != (vector.dim,):
            raise DatasetError(
                f"{subject}: got shape {value.shape}, embodiment '{self._embodiment.name}' expects ({vector.dim},); "
                "check topics.yaml 'select'"
            )
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused below
            stored = value.astype(np.float32)
        if not np.isfinite(stored).all():
            name = vector.names[int(np.flatnonzero(~np.isfinite(stored))[0])]
            raise DatasetError(f"{subject}: channel '{name}' is not finite in row {self.num_frames}; check its source")
        return stored

    def _check_images(self, images: Mapping[str, np.ndarray]) -> None:
        unknown = [key for key in images if key not in self._embodiment.video]
        if unknown:
            raise DatasetError(f"video.{unknown[0]}: embodiment '{self._embodiment.name}' has no such camera")
        for key, size in self._embodiment.video.items():
            if key not in images:
                raise DatasetError(f"video.{key}: missing in row {self.num_frames}; bind it in topics.yaml")
            image, expected = images[key], (size.height, size.width, 3)
            if image.shape != expected or image.dtype != np.uint8:
                raise DatasetError(
                    f"video.{key}: got shape {image.shape} {image.dtype}, embodiment '{self._embodiment.name}' expects "
                    f"{expected} uint8; set the size in the embodiment or 'resize' in topics.yaml"
                )

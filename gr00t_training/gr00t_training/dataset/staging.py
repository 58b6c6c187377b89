# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""One episode in the making: frames in, files of one folder out.

Images go to the encoder at once; vectors wait in memory, and in a journal for the case that the process is killed.
Every frame is held against the embodiment before anything is kept of it, so a refused frame leaves no trace. Where the
files end up is the writer's business.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.depth import StagedDepth
from gr00t_training.dataset.heap import HeapTrimmer
from gr00t_training.dataset.journal import JOURNAL_FILE, JournalWriter
from gr00t_training.dataset.stats import ImageStatistics, describe_rows
from gr00t_training.dataset.trace import Marks, TraceRecorder, quality_text
from gr00t_training.dataset.video import VideoSettings, VideoWriter, count_frames
from gr00t_training.embodiment import ACTION_COLUMN, STATE_COLUMN, Embodiment, VectorKey
from gr00t_training.errors import DatasetError
from gr00t_training.types import Frame

# Ticks of an episode lie on a grid of 1 / fps; simulators with another step width miss it by a little.
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
    ) -> None:
        """Create `folder` and open a video per camera in it.

        Args:
            folder: that does not exist yet.
            index: of the episode.
            task: of the rows that do not have one of their own.
            embodiment: that the frames are held against.
            video: how images are encoded.
            open_video: opens the video of a camera (key, path) where its images are coded already; None: encode them.
            version: of the dataset, for whoever has to recover the episode.

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
        self._trace = TraceRecorder()
        self._start_ns = 0
        self._described: dict[str, dict[str, list]] | None = None
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

    @property
    def tasks(self) -> list[str]:
        """Tasks of the rows, each once, in order of appearance."""
        return list(dict.fromkeys(self._row_tasks))

    @property
    def rows_file(self) -> Path:
        """Where `write_rows` puts the rows."""
        return self.folder / ("rows.parquet" + schema.STAGED_SUFFIX)

    @property
    def quality_file(self) -> Path:
        """Where `write_quality` puts the recording report."""
        return self.folder / ("quality.json" + schema.STAGED_SUFFIX)

    @property
    def video_files(self) -> list[Path]:
        """The videos, in the embodiment's order of cameras."""
        return [self._video_file(key) for key in self._embodiment.video]

    @property
    def side_files(self) -> dict[str, Path]:
        """What is kept beside the dataset, the same in every version: name in the dataset -> file."""
        return {**self._depth.files(self.index), schema.quality_path(self.index): self.quality_file}

    def add(self, frame: Frame) -> None:
        """Append one row.

        Raises:
            DatasetError: a key is missing, of the wrong shape or not finite, or the tick is off the grid; nothing is
                kept.
            OSError: a video cannot be written; the episode is then beyond use.
        """
        self._check_tick(frame.tick_ns)
        state = self._join("state", frame.state, self._embodiment.state)
        action = self._join("action", frame.action, self._embodiment.action)
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
        self._trace.add(frame.ages_ns, frame.filled)
        self._state.append(state)
        self._action.append(action)
        self._row_tasks.append(frame.task if frame.task.strip() else self._task)

    def finish_videos(self) -> None:
        """Close the videos and count their frames.

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

    def write_rows(self, first_index: int, known_tasks: list[str]) -> pa.Table:
        """Write the rows and return them.

        Args:
            first_index: number of rows in the dataset before this episode.
            known_tasks: tasks of the dataset; new ones are numbered behind them.

        Raises:
            OSError: the file cannot be written.
        """
        known = [*known_tasks, *(task for task in self.tasks if task not in known_tasks)]
        numbers = {task: number for number, task in enumerate(known)}
        count = self.num_frames
        columns = {
            STATE_COLUMN: np.stack(self._state),
            ACTION_COLUMN: np.stack(self._action),
            schema.TIMESTAMP_COLUMN: schema.make_timestamps(count, self._embodiment.fps),
            "frame_index": np.arange(count, dtype=np.int64),
            "episode_index": np.full(count, self.index, np.int64),
            "index": np.arange(first_index, first_index + count, dtype=np.int64),
            schema.TASK_COLUMN: np.array([numbers[task] for task in self._row_tasks], np.int64),
        }
        table = schema.make_table(columns)
        pq.write_table(table, self.rows_file, compression="snappy")
        return table

    def write_quality(self, report: Mapping[str, Any]) -> None:
        """Write what is known about the recording: the trace of the rows, `report` and the marks in it.

        Raises:
            OSError: the file cannot be written.
            DatasetError: `report` is not made of plain JSON values, or its marks are not what they should be.
        """
        quality = {
            **self.entry(),
            "start_ns": self._start_ns,
            **Marks.of_report(report).to_mapping(),
            "report": dict(report),
            **self._trace.to_mapping(),
        }
        try:
            text = quality_text(quality)
        except (TypeError, ValueError) as error:
            raise DatasetError(
                f"episode {self.index}: the report is not plain JSON ({error}); convert its values"
            ) from error
        self.quality_file.write_text(text, encoding="utf-8")

    def entry(self) -> dict[str, Any]:
        """Return the episode's line of `episodes.jsonl`."""
        return {"episode_index": self.index, "tasks": self.tasks, "length": self.num_frames}

    def statistics(self, table: pa.Table) -> dict[str, dict[str, list]]:
        """Return the episode's statistics as lerobot has them, feature -> name -> list, with v3.0's quantiles."""
        if self._described is None:
            order = [*schema.VECTOR_COLUMNS, *map(schema.image_feature, self._images), *table.column_names]
            images = {schema.image_feature(key): images for key, images in self._images.items()}
            self._described = {
                name: images[name].describe(quantiles=True)
                if name in images
                else describe_rows(schema.column_rows(table.column(name)), quantiles=True)
                for name in dict.fromkeys(order)
            }
        return self._described

    def sync(self) -> None:
        """Have all files on disk.

        Raises:
            OSError: they cannot be written.
        """
        for path in [*self.video_files, self.rows_file, *self.side_files.values()]:
            with open(path, "rb") as file:
                os.fsync(file.fileno())

    def abandon(self) -> None:
        """Close the videos without asking for more."""
        self._journal.close()
        self._depth.abandon()
        for video in self._videos.values():
            with contextlib.suppress(OSError):
                video.close()

    def forget(self) -> None:
        """Make sure that nobody takes what is left for an episode to be recovered."""
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

    def _join(self, kind: str, values: Mapping[str, np.ndarray], keys: Mapping[str, VectorKey]) -> np.ndarray:
        """Concatenate the keys of a vector column; `(D,)` float32."""
        unknown = [key for key in values if key not in keys]
        if unknown:
            raise DatasetError(f"{kind}.{unknown[0]}: embodiment '{self._embodiment.name}' has no such key")
        missing = [key for key in keys if key not in values]
        if missing:
            raise DatasetError(f"{kind}.{missing[0]}: missing in row {self.num_frames}; bind it in topics.yaml")
        return np.concatenate([self._checked(f"{kind}.{key}", values[key], vector) for key, vector in keys.items()])

    def _checked(self, subject: str, value: np.ndarray, vector: VectorKey) -> np.ndarray:
        value = np.asarray(value)
        if value.shape != (vector.dim,):
            raise DatasetError(
                f"{subject}: got shape {value.shape}, embodiment '{self._embodiment.name}' expects ({vector.dim},); "
                "check topics.yaml 'select'"
            )
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused just below
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

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Episodes of one bag, complete on disk but not yet part of the dataset.

Bags are converted in several processes, and a bag counts when all of it is converted; so its episodes wait in a folder
inside the dataset until their turn, and are then published by the dataset's writer as any other episode.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gr00t_training.dataset.staging import StagedEpisode
from gr00t_training.dataset.video import VideoSettings
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import DatasetError
from gr00t_training.types import Frame

_CLOSED = ("_videos", "_journal", "_heap")  # of an episode whose videos are finished


class OutputError(DatasetError):
    """The output cannot be written, so that other bags would fail alike."""


class PortableEpisode(StagedEpisode):
    """An episode that can be handed to another process once its videos are finished."""

    _is_finished = False

    def finish_videos(self) -> None:
        """Close the videos and count their frames; a second call does nothing."""
        if not self._is_finished:
            super().finish_videos()
            self._is_finished = True

    def __getstate__(self) -> dict[str, Any]:
        """Leave what a finished episode has no more use for behind."""
        return {name: value for name, value in self.__dict__.items() if name not in _CLOSED}


@dataclass
class ReadyEpisode:
    """A complete episode and what is known about its recording."""

    staged: PortableEpisode
    report: dict[str, Any]

    def publish(self, dataset: DatasetWriter) -> int:
        """Append the episode to the dataset and return its index.

        Raises:
            OutputError: it cannot be written; finished episodes are unharmed.
        """
        index = self.staged.index = dataset.num_episodes
        try:
            dataset.publish(self.staged, self.report)
        except (OSError, DatasetError) as error:
            dataset.recover()
            if dataset.num_episodes <= index:
                raise _output_error(dataset.path, error) from error
        shutil.rmtree(self.staged.folder, ignore_errors=True)
        return index


class StagingArea:
    """Takes the episodes of one bag, as a dataset does; they end up in `ready`."""

    def __init__(self, folder: Path, embodiment: Embodiment, video: VideoSettings) -> None:
        """Start with an empty folder; OutputError when there can be none."""
        self.folder, self.embodiment, self.video = folder, embodiment, video
        self.ready: list[ReadyEpisode] = []
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        except OSError as error:
            raise _output_error(folder, error) from error

    @property
    def num_episodes(self) -> int:
        """Number of complete episodes."""
        return len(self.ready)

    def start_episode(self, task: str) -> StagedSink:
        """Start an episode; OutputError when its files cannot be written."""
        return StagedSink(self, task)


class StagedSink:
    """One episode of a `StagingArea`."""

    def __init__(self, area: StagingArea, task: str) -> None:
        self.index = area.num_episodes
        self.is_open = True
        self._area = area
        self._folder = area.folder / f"episode_{self.index:06d}"
        try:
            self._staged = PortableEpisode(self._folder, self.index, task, area.embodiment, area.video)
        except OSError as error:
            raise _output_error(area.folder, error) from error

    @property
    def num_frames(self) -> int:
        """Number of rows so far."""
        return self._staged.num_frames

    def add_frame(self, frame: Frame) -> None:
        """Append one row; DatasetError when it does not fit the embodiment, OutputError when it cannot be written."""
        try:
            self._staged.add(frame)
        except OSError as error:
            raise self._failed(error) from error

    def save(self, report: Mapping[str, Any] | None = None) -> int:
        """Complete the episode and return its number among those of the bag; OutputError when it cannot be written."""
        try:
            self._staged.finish_videos()
        except (OSError, DatasetError) as error:
            raise self._failed(error) from error
        self.is_open = False
        self._area.ready.append(ReadyEpisode(self._staged, dict(report or {})))
        return self.index

    def discard(self) -> None:
        """Drop the episode and its files."""
        self.is_open = False
        self._staged.abandon()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _failed(self, error: Exception) -> OutputError:
        if self.is_open:
            self.discard()
        return _output_error(self._area.folder, error)


def _output_error(path: Path, error: Exception) -> OutputError:
    if not isinstance(error, OSError):
        return OutputError(f"{path}: an episode could not be written: {error}")
    free = shutil.disk_usage(path if path.exists() else path.parent).free // 2**20
    return OutputError(
        f"{path}: an episode could not be written: {error.strerror or error}; {free} MiB are free: make room, then run "
        "the same command again"
    )

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Episodes of one bag, complete on disk but not yet part of the dataset.

Bags are converted in several processes, and a bag counts only if it is converted completely. So its episodes wait in a
folder inside the dataset until the writer of the dataset publishes them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gr00t_training.dataset.media.video import VideoSettings
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.dataset.writing.files import staging_folder
from gr00t_training.dataset.writing.finished import FinishedEpisode
from gr00t_training.dataset.writing.staging import StagedEpisode
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import DatasetError
from gr00t_training.types import Frame


class OutputError(DatasetError):
    """The output cannot be written; other bags would fail the same way."""


@dataclass
class ReadyEpisode:
    """A complete episode and the report about it."""

    episode: FinishedEpisode
    report: dict[str, Any]

    def publish(self, dataset: DatasetWriter) -> int:
        """Append the episode to the dataset and return its index.

        Raises:
            OutputError: it cannot be written; finished episodes are unharmed.
        """
        index = dataset.num_episodes
        try:
            dataset.publish(self.episode, self.report)
        except (OSError, DatasetError) as error:
            dataset.recover()
            if dataset.num_episodes <= index:
                raise _output_error(dataset.path, error) from error
        shutil.rmtree(self.episode.folder, ignore_errors=True)
        return index


class StagingArea:
    """Writes the episodes of one bag, with the interface of a dataset; complete ones are in `ready`."""

    def __init__(self, folder: Path, embodiment: Embodiment, video: VideoSettings, *, has_source: bool = False) -> None:
        """Start with an empty folder; OutputError if it cannot be created. `has_source`: rows say who commanded."""
        self.folder, self.embodiment, self.video, self.has_source = folder, embodiment, video, has_source
        self.ready: list[ReadyEpisode] = []
        try:
            staging_folder(folder.parent.parent)  # refuses a link
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
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
            self._staged = StagedEpisode(
                self._folder, self.index, task, area.embodiment, area.video, has_source=area.has_source
            )
        except OSError as error:
            raise _output_error(area.folder, error) from error

    @property
    def num_frames(self) -> int:
        """Number of rows so far."""
        return self._staged.num_frames

    def add_frame(self, frame: Frame) -> None:
        """Append one row; DatasetError if it does not match the embodiment, OutputError if it cannot be written."""
        try:
            self._staged.add(frame)
        except OSError as error:
            raise self._failed(error) from error

    def save(self, report: Mapping[str, Any] | None = None) -> int:
        """Complete the episode and return its number among those of the bag; OutputError when it cannot be written."""
        try:
            finished = self._staged.finish()
        except (OSError, DatasetError) as error:
            raise self._failed(error) from error
        self.is_open = False
        self._area.ready.append(ReadyEpisode(finished, dict(report or {})))
        return self.index

    def discard(self) -> None:
        """Delete the episode and its files."""
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

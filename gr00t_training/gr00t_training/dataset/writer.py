# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Writing GR00T-flavoured LeRobot v2.1 datasets so that a kill at any instant loses no finished episode.

An episode grows in a hidden staging folder inside the dataset (`gr00t_training.dataset.staging`). Saving it writes all
metadata files beside it, syncs, and from then on only renames: first the episode's files, then the metadata.
`episodes.jsonl` decides which episodes exist; whatever a crash left beyond it is moved to `.staging/ignored` when the
dataset is next opened for writing. Images are encoded in the thread that adds them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.staging import StagedEpisode
from gr00t_training.dataset.stats import compute_statistics, stack_rows
from gr00t_training.dataset.video import VideoSettings
from gr00t_training.embodiment import Embodiment, differences, load_embodiment, modality_layout, to_mapping
from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.types import Frame

STATISTICS_COLUMNS = (*schema.VECTOR_COLUMNS, schema.TIMESTAMP_COLUMN)


class DatasetWriter:
    """A dataset open for appending; one writer at a time. Close it, or use it as a context manager."""

    def __init__(self, path: str | Path, embodiment: Embodiment, *, video: VideoSettings | None = None) -> None:
        """Open the dataset at `path`, or start one there.

        Raises:
            DatasetError: another embodiment, codec or version; damaged; in use by another writer; not writable.
        """
        self.path = Path(path)
        self.embodiment = embodiment
        self.video = video or VideoSettings()
        self._episode: EpisodeWriter | None = None
        try:
            (self.path / schema.IGNORED).mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / schema.STAGING / "lock", "w")  # noqa: SIM115 - held until close()
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise DatasetError(f"{self.path}: another writer has it open; close that one first") from error
        except OSError as error:
            raise DatasetError(f"{self.path}: cannot be written ({error.strerror}); check path and rights") from error
        try:
            self._contents = self._load()
        except BaseException:
            self._lock.close()
            raise

    @property
    def num_episodes(self) -> int:
        """Number of finished episodes."""
        return len(self._contents.episodes)

    @property
    def num_frames(self) -> int:
        """Number of rows of all finished episodes."""
        return self._contents.num_frames

    def start_episode(self, task: str) -> EpisodeWriter:
        """Start the next episode; `task` is what its frames are about unless a frame says otherwise.

        Raises:
            DatasetError: empty task, an episode is open already, or nothing can be written.
        """
        if not task.strip():
            raise DatasetError(f"{self.path}: the task text is empty; say what the robot does in this episode")
        if self._lock.closed:
            raise DatasetError(f"{self.path}: the writer is closed; open the dataset again")
        if self._episode is not None and self._episode.is_open:
            raise DatasetError(f"{self.path}: episode {self.num_episodes} is open; save or discard it first")
        self._episode = EpisodeWriter(self, task)
        return self._episode

    def close(self) -> None:
        """Discard an open episode and let other writers in."""
        if self._episode is not None and self._episode.is_open:
            self._episode.discard()
        self._lock.close()

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def publish(self, staged: StagedEpisode, report: Mapping[str, Any]) -> None:
        """Make a staged episode part of the dataset; for `EpisodeWriter`.

        Raises:
            OSError, DatasetError: it cannot be written; `recover` then finds out what is on disk.
        """
        staged.finish_videos()
        table = staged.write_rows(self.num_frames, self._contents.tasks)
        staged.write_quality(report)
        staged.sync()
        contents = self._contents.extended(staged.entry(), staged.statistics(table), table)
        metadata = self._stage_metadata(contents)
        files = dict(zip(self._episode_files(staged.index), [*staged.video_files, staged.rows_file], strict=True))
        self._move({**files, schema.quality_path(staged.index): staged.quality_file, **metadata})
        self._contents = contents

    def recover(self) -> None:
        """Return to what is on disk after a failure; closes the writer when that cannot be read or made whole."""
        try:
            self._contents = self._load()
        except (OSError, DatasetError):
            self._lock.close()

    def ignored_path(self, name: str) -> Path:
        """Return an unused path for something that is set aside."""
        path, number = self.path / schema.IGNORED / name, 1
        while path.exists():
            path, number = path.with_name(f"{name}-{number}"), number + 1
        return path

    def _load(self) -> _Contents:
        """Read what is there, set aside what no metadata knows, and make all metadata files agree."""
        contents = _Contents()
        if (self.path / schema.EPISODES_FILE).exists():
            self._check_identity()
            contents = self._read_contents()
        elif (self.path / schema.INFO_FILE).exists():
            raise DatasetError(f"{self.path}: {schema.EPISODES_FILE} is missing; restore it or choose a new folder")
        self._set_aside_unknown_files(len(contents.episodes))
        if contents.episodes:
            self._move(self._stage_metadata(contents))
        return contents

    def _check_identity(self) -> None:
        if not (self.path / schema.EMBODIMENT_FILE).exists():
            raise DatasetError(
                f"{self.path}: no {schema.EMBODIMENT_FILE}: not written by this suite; choose a new folder"
            )
        try:
            found = load_embodiment(self.path / schema.EMBODIMENT_FILE)
        except ConfigError as error:
            raise DatasetError(f"{error}; restore the file from a copy") from error
        items = differences(found, self.embodiment)
        if items:
            raise DatasetError(f"{self.path}: is of another embodiment: {'; '.join(items)}; choose a new folder")
        if (self.path / schema.INFO_FILE).exists():
            self._check_form(schema.read_json(self.path / schema.INFO_FILE))

    def _check_form(self, info: Mapping[str, Any]) -> None:
        version = info.get("codebase_version")
        if version != schema.WRITTEN_VERSION:
            raise DatasetError(f"{self.path}: is version {version}, only {schema.WRITTEN_VERSION} can be appended to")
        for key in self.embodiment.video:
            codec = info["features"].get(schema.image_feature(key), {}).get("info", {}).get("video.codec")
            if codec != self.video.codec.value:
                raise DatasetError(
                    f"{self.path}: camera '{key}' is stored as {codec}, asked to append {self.video.codec.value}; "
                    "use the same codec or a new folder"
                )

    def _read_contents(self) -> _Contents:
        contents = _Contents(tasks=[entry["task"] for entry in schema.read_json_lines(self.path / schema.TASKS_FILE)])
        episodes = schema.read_json_lines(self.path / schema.EPISODES_FILE)
        statistics = schema.read_json_lines(self.path / schema.EPISODES_STATS_FILE)
        if len(statistics) < len(episodes):
            raise DatasetError(
                f"{self.path}: {schema.EPISODES_STATS_FILE} has {len(statistics)} of {len(episodes)} episodes; "
                "restore it from a copy"
            )
        for index, entry in enumerate(episodes):
            for name in self._episode_files(index):
                if not (self.path / name).is_file():
                    raise DatasetError(f"{self.path}: episode {index}: {name} is missing; restore it from a copy")
            table = _read_rows(self.path / schema.data_path(index))
            if entry["episode_index"] != index or table.num_rows != entry["length"]:
                raise DatasetError(
                    f"{self.path}: episode {index} has {table.num_rows} rows, {schema.EPISODES_FILE} says index "
                    f"{entry['episode_index']} and {entry['length']} rows; restore it from a copy"
                )
            contents = contents.extended(entry, statistics[index], table)
        return contents

    def _episode_files(self, index: int) -> list[str]:
        """Files of an episode relative to the dataset, in the order in which they are published."""
        videos = [schema.video_path(index, schema.image_feature(key)) for key in self.embodiment.video]
        return [*videos, schema.data_path(index)]

    def _set_aside_unknown_files(self, num_episodes: int) -> None:
        known = {name for index in range(num_episodes) for name in self._episode_files(index)}
        known |= {schema.quality_path(index) for index in range(num_episodes)}
        patterns = ("data/**/*.parquet", "videos/**/*.mp4", schema.QUALITY_PATTERN)
        for path in sorted(path for pattern in patterns for path in self.path.glob(pattern)):
            name = path.relative_to(self.path).as_posix()
            if name not in known:
                os.rename(path, self.ignored_path(name.replace("/", "_") + schema.STAGED_SUFFIX))
        for path in sorted((self.path / schema.STAGING).glob("episode_*")):
            os.rename(path, self.ignored_path(path.name))

    def _stage_metadata(self, contents: _Contents) -> dict[str, Path]:
        """Write the metadata files that change to staging; return name -> staged file, in order of replacement."""
        statistics = {name: compute_statistics(stack_rows(rows)).to_mapping() for name, rows in contents.rows.items()}
        num_episodes, num_tasks = len(contents.episodes), len(contents.tasks)
        info = schema.make_info(self.embodiment, self.video.codec.value, num_episodes, contents.num_frames, num_tasks)
        tasks = [{"task_index": number, "task": task} for number, task in enumerate(contents.tasks)]
        texts = {
            schema.EMBODIMENT_FILE: schema.json_text(to_mapping(self.embodiment)),
            schema.MODALITY_FILE: schema.json_text(modality_layout(self.embodiment)),
            schema.TASKS_FILE: schema.json_lines_text(tasks),
            schema.EPISODES_STATS_FILE: schema.json_lines_text(contents.statistics),
            schema.STATS_FILE: schema.json_text(statistics),
            schema.EPISODES_FILE: schema.json_lines_text(contents.episodes),  # from here on the episode exists
            schema.INFO_FILE: schema.json_text(info),
        }
        staged = {}
        for name, text in texts.items():
            current = self.path / name
            if not (current.exists() and current.read_text(encoding="utf-8") == text):
                staged[name] = self.path / schema.STAGING / (current.name + schema.STAGED_SUFFIX)
                _write_synced(staged[name], text)
        return staged

    def _move(self, staged: Mapping[str, Path]) -> None:
        """Move staged files to their places, in order, each rename on disk before the next."""
        for name, path in staged.items():
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
            _sync_folder(target.parent)


class EpisodeWriter:
    """One episode being written; made by `DatasetWriter.start_episode`."""

    def __init__(self, dataset: DatasetWriter, task: str) -> None:
        self.index = dataset.num_episodes
        self.is_open = True
        self._dataset = dataset
        self._folder = dataset.path / schema.STAGING / f"episode_{self.index:06d}"
        self._staged: StagedEpisode | None = None
        try:
            self._staged = StagedEpisode(self._folder, self.index, task, dataset.embodiment, dataset.video)
        except OSError as error:
            raise self._fail(error) from error

    @property
    def num_frames(self) -> int:
        """Number of frames added so far."""
        return self._staged.num_frames if self._staged else 0

    def add_frame(self, frame: Frame) -> None:
        """Append one row.

        Raises:
            DatasetError: a key is missing, of the wrong shape or not finite, or the tick is off the grid: the frame is
                refused and the episode stays as it was. Or the disk is full: then the episode is closed, and the
                message says where its files are.
        """
        staged = self._require_open()
        try:
            staged.add(frame)
        except OSError as error:
            raise self._fail(error) from error

    def save(self, report: Mapping[str, Any] | None = None) -> int:
        """Finish the episode and make it part of the dataset.

        Args:
            report: plain JSON values about the recording (counts per stream); stored in `meta/quality`.

        Returns:
            Index of the episode.

        Raises:
            DatasetError: no frames; or the files cannot be written or are not complete: then the episode is closed,
                nothing finished is harmed, and the message says where its files are.
        """
        staged = self._require_open()
        if not staged.num_frames:
            raise DatasetError(f"{self._dataset.path}: episode {self.index} has no frames; add some or discard it")
        try:
            self._dataset.publish(staged, report or {})
        except (OSError, DatasetError) as error:
            failure = self._fail(error)
            self._dataset.recover()
            if self._dataset.num_episodes <= self.index:
                raise failure from error
        self.is_open = False
        shutil.rmtree(self._folder, ignore_errors=True)
        return self.index

    def discard(self) -> None:
        """Drop the episode and its files."""
        self._require_open().abandon()
        self.is_open = False
        shutil.rmtree(self._folder, ignore_errors=True)

    def _require_open(self) -> StagedEpisode:
        if not self.is_open or self._staged is None:
            raise DatasetError(f"{self._dataset.path}: episode {self.index} is not open any more; start another")
        return self._staged

    def _fail(self, error: Exception) -> DatasetError:
        """Set the episode's files aside and say what happened."""
        self.is_open = False
        if self._staged is not None:
            self._staged.abandon()
        with contextlib.suppress(OSError):
            os.rename(self._folder, self._dataset.ignored_path(self._folder.name))
        return DatasetError(
            f"{self._dataset.path}: episode {self.index} could not be written after {self.num_frames} rows: "
            f"{_reason(error, self._dataset.path)}. Finished episodes are unharmed; what was staged is in "
            f"{self._dataset.path / schema.IGNORED}"
        )


@dataclass(frozen=True)
class _Contents:
    """The finished episodes, as the metadata files tell them."""

    episodes: list[dict[str, Any]] = field(default_factory=list)  # lines of episodes.jsonl
    statistics: list[dict[str, Any]] = field(default_factory=list)  # lines of episodes_stats.jsonl
    tasks: list[str] = field(default_factory=list)
    rows: Mapping[str, list[np.ndarray]] = field(default_factory=lambda: {name: [] for name in STATISTICS_COLUMNS})

    @property
    def num_frames(self) -> int:
        return sum(entry["length"] for entry in self.episodes)

    def extended(self, entry: dict[str, Any], statistics: dict[str, Any], table: pa.Table) -> _Contents:
        """Return these contents and one more episode."""
        return _Contents(
            episodes=[*self.episodes, entry],
            statistics=[*self.statistics, statistics],
            tasks=[*self.tasks, *(task for task in entry["tasks"] if task not in self.tasks)],
            rows={name: [*rows, schema.column_rows(table.column(name))] for name, rows in self.rows.items()},
        )


def _reason(error: Exception, path: Path) -> str:
    if not isinstance(error, OSError):
        return str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = shutil.disk_usage(path).free // 2**20
        return f"{error.strerror}; {free} MiB are free: make room, then record it again"
    return f"{error.strerror or error}; check the disk"


def _read_rows(path: Path) -> pa.Table:
    try:
        return pq.ParquetFile(path).read(columns=list(STATISTICS_COLUMNS))
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); restore it from a copy") from error


def _write_synced(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

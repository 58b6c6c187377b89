# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A dataset that is edited: its metadata, the rows of its episodes, and the files that travel with an episode.

Files that belong to one episode in addition to its rows and videos (reports, traces, depth) are found by their name,
`episode_000012`, wherever they are.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.columns import column_rows
from gr00t_training.dataset.metadata.episode_list import Episode, EpisodeList
from gr00t_training.dataset.metadata.episode_statistics import Statistics, read_episode_statistics
from gr00t_training.dataset.metadata.model import read_metadata
from gr00t_training.dataset.metadata.row_groups import RowGroups
from gr00t_training.dataset.metadata.rows import check_count, rows_of
from gr00t_training.dataset.metadata.tables import conforming, read_table
from gr00t_training.dataset.quality import Marks
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import file_names
from gr00t_training.io.mirror import exists, mirror_of, open_folder

AHEAD = 8  # episodes of which files are fetched from object storage while one is used
_EPISODE_IN_NAME = re.compile(r"episode_(\d{6,})")
# Rows, videos, staging, caches of other tools: never copied as separate files.
_NOT_COPIED = (".cache", ".git")
_NOT_SIDE_FILES = ("data", "videos", "images", schema.STAGING, *_NOT_COPIED)
# Written again for the episodes that are kept.
_REMADE = {
    schema.INFO_FILE,
    schema.EPISODES_FILE,
    schema.TASKS_FILE,
    schema.EPISODES_STATS_FILE,
    schema.STATS_FILE,
    schema.RELATIVE_STATS_FILE,
    schema.TASKS_TABLE,
}


class SourceDataset:
    """A dataset of version 2.0, 2.1 or 3.0 as episodes; their rows and frames are parts of files."""

    def __init__(self, path: str | Path) -> None:
        """Read the metadata of the dataset in the folder `path`, or at `s3://bucket/prefix`.

        Raises:
            DatasetError: not a dataset, another version, or damaged metadata; names the file.
            ConfigError: its embodiment is wrong.
        """
        self.path = open_folder(path)
        self.metadata = read_metadata(self.path)
        self.info = self.metadata.info
        self.version = self.metadata.version
        self.is_v3 = self.metadata.is_v3
        self.fps: float = self.info["fps"]
        self.features = self.metadata.features
        self.modality = self.metadata.modality or {}
        self.embodiment = self.metadata.embodiment
        self.tasks = self.metadata.tasks
        self.num_frames = self.metadata.num_frames
        self._side_files, self.other_files = self._find_files()
        # some of NVIDIA's sets declare a camera that has no files; readers go by modality.json and never notice
        self.cameras = [
            name
            for name in self.metadata.declared_cameras
            if any(exists(episode.videos[name].path) for episode in self.metadata.episodes)
        ]
        assert isinstance(self.metadata.episodes, EpisodeList)
        self.episodes = self.metadata.episodes.of_cameras(self.cameras)
        self._last: Episode | None = None
        self._groups = RowGroups()
        self._part: tuple[Path, range, pa.Table, int] | None = None  # row groups that were read last, and first row

    @property
    def task_columns(self) -> list[str]:
        """Columns of task numbers: `task_index`, and the annotations of `modality.json`."""
        return list(dict.fromkeys([schema.TASK_COLUMN, *self.metadata.annotation_columns().values()]))

    @property
    def language_columns(self) -> list[str]:
        """Task columns with the instruction of the robot."""
        annotations = self.metadata.annotation_columns()
        key = self.embodiment.language if self.embodiment else next(iter(annotations), None)
        columns = [annotations[key]] if key in annotations else []
        return list(dict.fromkeys([schema.TASK_COLUMN, *columns]))

    def side_files(self, index: int) -> Mapping[str, Path]:
        """Return the other files of an episode by their names in the dataset."""
        return self._side_files.get(index, {})

    def files_to_fetch(self, index: int, *, videos: bool = True) -> list[Path]:
        """Return the files with rows and videos of an episode, empty if it has no rows or the dataset is local."""
        if mirror_of(self.path) is None:
            return []
        episode = self.episode(index)
        if not episode.length:
            return []
        return [episode.rows.path, *(episode.videos[name].path for name in self.cameras if videos)]

    def quality(self, index: int) -> Mapping[str, Any]:
        """Return what is known about the recording of an episode; empty if there is nothing."""
        path = self.side_files(index).get(schema.quality_path(index))
        return schema.read_object(path) if path else {}

    def marks(self, index: int) -> Marks:
        """Return what the operator said of an episode."""
        return Marks.of_report(self.quality(index))

    @functools.cached_property
    def _statistics(self) -> Mapping[int, Statistics]:
        return read_episode_statistics(self.path, self.info)

    def statistics_of(self, episode: Episode) -> Mapping[str, Any]:
        """Return lerobot's statistics of an episode by feature, empty if there are none; DatasetError: damaged."""
        return self._statistics.get(episode.index, {})

    def episode(self, index: int) -> Episode:
        """Return the episode of that index; DatasetError when there is none."""
        if self._last is None or self._last.index != index:  # asked for many times in a row
            self._last = self.episodes[self._position(index)]
        return self._last

    def length_of(self, index: int) -> int:
        """Return the number of rows of the episode of that index; DatasetError when there is none."""
        return int(self.episodes.length[self._position(index)])

    def _position(self, index: int) -> int:
        position = self.episodes.position(index)
        if position is None:
            raise DatasetError(f"{self.path}: no episode {index}; it has {_list_of(self.episodes.indices.tolist())}")
        return position

    def read_rows(self, episode: Episode, columns: list[str] | None = None) -> pa.Table:
        """Return the rows of an episode, or those of `columns` that the file has.

        Raises:
            DatasetError: the file is missing, damaged or shorter than the metadata says.
        """
        span = episode.rows
        if not span.count:
            raise DatasetError(f"{self.path}: episode {episode.index} has no rows; remove it with gr00t_dataset delete")
        rows = self._read_shared(episode) if self.is_v3 else self._read_separate(episode, columns)
        return rows if columns is None else rows.select([name for name in columns if name in rows.column_names])

    def _read_separate(self, episode: Episode, columns: list[str] | None) -> pa.Table:
        span = episode.rows
        wanted = None if columns is None else list(dict.fromkeys([*columns, *schema.INDEX_COLUMNS]))
        table = read_table(span.path, wanted, f"restore it, or leave episode {episode.index} out")
        table = conforming(table, self.features, self.fps, str(span.path), self.task_columns)
        return rows_of(table, span.first, span.count, episode.index, span.path, self.metadata.episodes_place)

    def _read_shared(self, episode: Episode) -> pa.Table:
        """Return rows of a file of v3.0, which has those of many episodes."""
        span, remedy = episode.rows, f"restore it, or leave episode {episode.index} out"
        opened = self._groups.open(span.path, remedy)
        check_count(opened.num_rows, span, self.metadata.episodes_place)
        groups = opened.groups_of(span.first, span.count)
        rows = self._rows_in(groups, episode, remedy)
        if not _is_of(rows, episode):  # in another order than the metadata says
            rows = self._rows_in(range(len(opened.starts) - 1), episode, remedy)
        if not _is_of(rows, episode):
            found = column_rows(rows["episode_index"])
            raise DatasetError(
                f"{span.path}: row {span.first} is of episode {found[found != episode.index][0]}, expected "
                f"{episode.index}; restore the file from a copy"
            )
        return rows

    def _rows_in(self, groups: range, episode: Episode, remedy: str) -> pa.Table:
        span = episode.rows
        if self._part is None or self._part[:2] != (span.path, groups):
            table, first = self._groups.read(span.path, groups, remedy=remedy)
            table = conforming(table, self.features, self.fps, str(span.path), self.task_columns)
            self._part = (span.path, groups, table, first)
        _, _, table, first = self._part
        return rows_of(table, span.first - first, span.count, episode.index, span.path, self.metadata.episodes_place)

    def _find_files(self) -> tuple[dict[int, dict[str, Path]], dict[str, Path]]:
        """Return the other files by name: those of each episode, and those of the dataset as a whole."""
        side_files: dict[int, dict[str, Path]] = {}
        others: dict[str, Path] = {}
        # what is copied whole takes nothing along from outside
        mirror = mirror_of(self.path)
        if mirror is not None:
            names = [name for name in mirror.objects if not name.startswith(tuple(f"{part}/" for part in _NOT_COPIED))]
        else:
            names = sorted(file_names(self.path, DatasetError, _NOT_COPIED))
        for name in names:
            if name.split("/")[0] in _NOT_SIDE_FILES or name in _REMADE:
                continue
            if name.startswith("meta/episodes/") or name.endswith(schema.STAGED_SUFFIX):
                continue
            path = self.path / name
            found = _EPISODE_IN_NAME.search(name)
            if found:
                side_files.setdefault(int(found.group(1)), {})[name] = path
            else:
                others[name] = path
        return side_files, others


def _is_of(rows: pa.Table, episode: Episode) -> bool:
    """Whether rows have the number of an episode; true where they have no numbers."""
    return "episode_index" not in rows.column_names or bool((column_rows(rows["episode_index"]) == episode.index).all())


def _list_of(numbers: list[int]) -> str:
    """Name a few episodes: `0 to 41` where they have no gap."""
    if numbers and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"episodes {numbers[0]} to {numbers[-1]}"
    return "episodes " + (", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "") or "none")

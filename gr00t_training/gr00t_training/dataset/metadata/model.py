# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The metadata of a dataset of any version as one value, with the places of rows and frames of each episode.

`read_metadata` is for those who use a dataset: it raises at the first damage. `inspect_metadata` is for those who check
or repair one: what cannot be read stays empty and is reported, so that one damaged part does not hide the others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata import lists
from gr00t_training.dataset.metadata.embodiments import read_embodiment
from gr00t_training.dataset.metadata.episode_list import (
    Episode,
    EpisodeColumns,
    EpisodeList,
    FilePlaces,
    no_episodes,
    rows_before,
)
from gr00t_training.dataset.metadata.episode_statistics import Statistics, StoredStatistics, TableStatistics
from gr00t_training.dataset.metadata.episodes_table import read_task_pairs, table_files
from gr00t_training.dataset.metadata.features import is_video
from gr00t_training.dataset.metadata.info import normalised_info, read_info
from gr00t_training.dataset.metadata.modality import annotation_columns, column_of, read_modality
from gr00t_training.dataset.metadata.shared_places import SharedPlaces, joined_places, read_shared_places
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.io.files import inside
from gr00t_training.types import VECTOR_KINDS, KeyRef

# what reading a file of any form may raise
READ_ERRORS = (DatasetError, ConfigError, KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError)

T = TypeVar("T")


@dataclass(frozen=True)
class DatasetMetadata:
    """What the metadata of a dataset says; parts that could not be read are empty."""

    path: Path
    info: Mapping[str, Any]  # `info.json`, normalized
    episodes: Sequence[Episode] = field(default_factory=no_episodes)  # by index
    order: Sequence[int] = ()  # indices as they are listed
    task_list: tuple[tuple[int, str], ...] = ()  # as they are listed
    modality: Mapping[str, Any] | None = None  # `modality.json`, normalized
    embodiment: Embodiment | None = None  # None: the dataset does not say
    statistics: Statistics | None = None  # `stats.json`; only inspection reads it
    episode_statistics: Mapping[int, Statistics] = field(default_factory=dict)
    is_listed: bool = True  # whether the list of episodes could be read

    def file(self, name: str) -> Path:
        """Return the path of a file of the dataset, which need not exist; DatasetError for a link on the way."""
        return self._locate(name)

    def name_of(self, path: Path) -> str:
        """Return the name of a file relative to the dataset."""
        return path.relative_to(self.path).as_posix()

    @property
    def version(self) -> str:
        """Version of the format."""
        return self.info["codebase_version"]

    @property
    def is_v3(self) -> bool:
        """Whether many episodes share a file."""
        return self.version == schema.Version.V30.value

    @property
    def fps(self) -> float:
        """Rows per second."""
        return float(self.info["fps"])

    @property
    def features(self) -> Mapping[str, Mapping[str, Any]]:
        """Columns and cameras, normalized."""
        return self.info["features"]

    @functools.cached_property
    def tasks(self) -> Mapping[int, str]:
        """Text of each task number."""
        return dict(self.task_list)

    @property
    def episodes_place(self) -> str:
        """What messages call the list of episodes."""
        return schema.EPISODES_FOLDER if self.is_v3 else schema.EPISODES_FILE

    @property
    def tasks_place(self) -> str:
        """What messages call the list of tasks."""
        return schema.TASKS_TABLE if self.is_v3 else schema.TASKS_FILE

    @property
    def episode_statistics_place(self) -> str:
        """What messages call the statistics by episode."""
        return schema.EPISODES_FOLDER if self.is_v3 else schema.EPISODES_STATS_FILE

    @property
    def num_frames(self) -> int:
        """Number of rows of all episodes."""
        if isinstance(self.episodes, EpisodeList):
            return int(self.episodes.length.sum())
        return sum(episode.length for episode in self.episodes)

    @property
    def is_subset(self) -> bool:
        """Whether there are rows of episodes that v3.0's table does not list."""
        return self.is_v3 and self.num_rows_spanned > self.num_frames

    @property
    def num_rows_spanned(self) -> int:
        """Number of rows up to the last episode, those between the episodes included."""
        if isinstance(self.episodes, EpisodeList):
            return int((self.episodes.from_index + self.episodes.length).max(initial=0))
        return max((episode.from_index + episode.length for episode in self.episodes), default=0)

    @property
    def declared_cameras(self) -> list[str]:
        """Video features of `info.json`, whether they have files or not."""
        return [name for name, feature in self.features.items() if is_video(feature)]

    @property
    def cameras(self) -> list[str]:
        """Video features that the dataset should have files of.

        GR00T opens those that `modality.json` names; its samples declare others.
        """
        named = self.modality_cameras
        return [name for name in self.declared_cameras if named is None or name in named.values()]

    @property
    def modality_cameras(self) -> Mapping[str, str] | None:
        """Feature of each camera of `modality.json`; None if there is no such file."""
        if self.modality is None:
            return None
        return {key: column_of("video", key, entry) for key, entry in self.modality.get("video", {}).items()}

    def slices(self) -> Iterator[tuple[KeyRef, str, int, int]]:
        """Yield key, column, start and end of each entry of `modality.json` for state and action."""
        for kind in VECTOR_KINDS:
            for key, entry in (self.modality or {}).get(kind, {}).items():
                yield KeyRef(kind, key), column_of(kind, key, entry), entry["start"], entry["end"]

    def annotation_columns(self) -> dict[str, str]:
        """Return the column behind each annotation of `modality.json`."""
        return annotation_columns(self.modality)

    @functools.cached_property
    def _locate(self) -> _Locator:
        return _Locator(self.path)


@dataclass(frozen=True)
class Problem:
    """A part of the metadata that could not be read."""

    place: str  # file or folder, relative to the dataset
    error: Exception


def read_metadata(root: Path, *, with_statistics: bool = False) -> DatasetMetadata:
    """Read the metadata of the dataset in the folder `root`; the statistics by episode only on request.

    Raises:
        DatasetError: not a dataset, an unknown version, damaged, or a file is outside; names the file.
        ConfigError: its embodiment is wrong.
    """
    found = DatasetMetadata(root, read_info(root))
    found = replace(found, task_list=tuple(_read_task_list(found)))
    lists.as_mapping(found.task_list, str(root / found.tasks_place))
    if found.is_v3:
        found = _with_shared_episodes(found, is_strict=True, with_statistics=with_statistics)
    else:
        found = _with_separate_episodes(found, found.declared_cameras, found.file)
        if with_statistics:
            found = replace(found, episode_statistics=StoredStatistics(root))
    return replace(found, modality=read_modality(root), embodiment=read_embodiment(root))


def inspect_metadata(root: Path, info: Mapping[str, Any] | None = None) -> tuple[DatasetMetadata | None, list[Problem]]:
    """Read what can be read of the metadata of the dataset in the folder `root`, without believing it.

    Files of episodes may be outside, and times in videos between two frames.

    Args:
        root: folder of the dataset.
        info: `info.json`; None: read it.

    Returns:
        The metadata, None if nothing can be known without `info.json`; and what could not be read.
    """
    problems: list[Problem] = []

    def tried(place: str, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except READ_ERRORS as error:
            problems.append(Problem(place, error))
            return otherwise

    normalized = tried(
        schema.INFO_FILE, lambda: read_info(root) if info is None else normalised_info(info, schema.INFO_FILE), None
    )
    if normalized is None:
        return None, problems
    found = DatasetMetadata(
        root,
        normalized,
        modality=tried(schema.MODALITY_FILE, lambda: read_modality(root), None),
        embodiment=tried(schema.EMBODIMENT_FILE, lambda: read_embodiment(root), None),
        statistics=tried(schema.STATS_FILE, lambda: lists.read_statistics(root), None),
        is_listed=False,
    )
    found = replace(found, task_list=tuple(tried(found.tasks_place, lambda: _read_task_list(found), [])))
    if found.is_v3:
        return tried(found.episodes_place, lambda: _with_shared_episodes(found, is_strict=False), found), problems
    listed = tried(
        found.episodes_place, lambda: _with_separate_episodes(found, found.cameras, lambda name: root / name), found
    )
    if listed.is_listed and listed.version == schema.Version.V21.value:
        statistics = tried(found.episodes_place, lambda: StoredStatistics(root), {})
        return replace(listed, episode_statistics=statistics), problems
    return listed, problems


class _Locator:
    """Paths of the files of a dataset, each checked to be inside; each folder is checked once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: set[str] = set()

    def __call__(self, name: str) -> Path:
        """Return the path of the file `name`, which need not exist; DatasetError for a link on the way."""
        folder, _, _ = name.rpartition("/")
        path = self._root / name
        if folder not in self._folders or path.is_symlink():
            inside(self._root, name, DatasetError)
            self._folders.add(folder)
        return path


def _read_task_list(found: DatasetMetadata) -> list[tuple[int, str]]:
    if found.is_v3:
        return read_task_pairs(schema.meta_file(found.path, schema.TASKS_TABLE))
    return lists.read_task_pairs(found.path)


def _with_separate_episodes(
    found: DatasetMetadata, cameras: Sequence[str], locate: Callable[[str], Path]
) -> DatasetMetadata:
    """Return the metadata with the episodes of v2.x, which have separate files."""
    info, chunks_size = found.info, found.info["chunks_size"]
    video_path = info.get("video_path") or schema.VIDEO_PATH
    listed = EpisodeColumns()
    order = []
    for entry in lists.read_episodes(found.path, found.tasks):
        listed.add(entry)
        order.append(entry["episode_index"])
    _, index, length, tasks = listed.sorted()
    nothing = np.zeros(len(index), np.int64)

    def places(path_of: Callable[[int], str]) -> FilePlaces:
        return FilePlaces(lambda number: locate(path_of(number)), index, nothing)

    def video_of(feature: str) -> Callable[[int], str]:
        return lambda number: schema.video_path(number, feature, video_path, chunks_size)

    episodes = EpisodeList(
        index,
        length,
        rows_before(length),
        tasks,
        places(lambda number: schema.data_path(number, info["data_path"], chunks_size)),
        {name: places(video_of(name)) for name in cameras},
        listed.entries,
    )
    return replace(found, episodes=episodes, order=order, is_listed=True)


def _with_shared_episodes(found: DatasetMetadata, *, is_strict: bool, with_statistics: bool = True) -> DatasetMetadata:
    """Return the metadata with the episodes of v3.0's table, which share files.

    If files disagree about an episode, the first is right: a writer that joins files replaces the first of them and
    then removes the others. Rows are counted from the first episode of each file.
    """
    root, info = found.path, found.info
    if is_strict:
        files = [path for path, _ in table_files(root, info["chunks_size"])]
        if not files and info.get("total_episodes"):
            raise DatasetError(f"{root}: no {schema.EPISODES_TABLE_PATTERN}; restore it from a copy")
    else:
        files = [found.file(found.name_of(path)) for path in sorted(root.glob(schema.EPISODES_TABLE_PATTERN))]
    if not files:
        return replace(found, is_listed=False)
    cameras = found.declared_cameras if is_strict else found.cameras
    parts = [read_shared_places(path, cameras, info, is_strict=is_strict) for path in files]
    order = [index for part in parts for index in part.index.tolist()]
    episodes = _shared_episodes(found, joined_places(parts), found.file if is_strict else root.joinpath)
    statistics = TableStatistics(files) if with_statistics else {}
    return replace(found, episodes=episodes, order=order, episode_statistics=statistics, is_listed=True)


def _shared_episodes(found: DatasetMetadata, places: SharedPlaces, locate: Callable[[str], Path]) -> EpisodeList:
    info, chunks_size = found.info, found.info["chunks_size"]
    files, file_of = np.unique(places.data_file, return_inverse=True)
    first_rows = np.full(len(files), np.iinfo(np.int64).max)
    np.minimum.at(first_rows, file_of, places.from_index)

    def path_of(template: str, feature: str = "") -> Callable[[int], Path]:
        return lambda number: locate(schema.shared_path(template, number, feature, chunks_size))

    return EpisodeList(
        places.index,
        places.length,
        places.from_index,
        places.tasks,
        FilePlaces(path_of(info["data_path"]), places.data_file, places.from_index - first_rows[file_of]),
        {
            name: FilePlaces(path_of(info["video_path"], name), files, places.first_frames[name])
            for name, files in places.video_files.items()
        },
        places.entries,
        places.to_index,
        places.times_s,
    )

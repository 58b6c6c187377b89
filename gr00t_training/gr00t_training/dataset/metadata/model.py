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

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata import lists
from gr00t_training.dataset.metadata.embodiments import read_embodiment
from gr00t_training.dataset.metadata.episodes_table import (
    EpisodePlace,
    extra_columns,
    place_of,
    read_rows,
    read_task_pairs,
    row_statistics,
    table_files,
    times_of,
)
from gr00t_training.dataset.metadata.features import is_video
from gr00t_training.dataset.metadata.info import normalised_info, read_info
from gr00t_training.dataset.metadata.modality import annotation_columns, column_of, read_modality
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.io.files import inside
from gr00t_training.types import VECTOR_KINDS, KeyRef

# what reading a file of any form may raise
READ_ERRORS = (DatasetError, ConfigError, KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError)

Statistics = Mapping[str, Mapping[str, Any]]  # by feature and name
T = TypeVar("T")


@dataclass(frozen=True)
class Span:
    """`count` rows or frames of one file from number `first` on."""

    path: Path
    first: int
    count: int


@dataclass(frozen=True)
class Episode:
    """One episode as the metadata lists it; equal to another that says the same, wherever its files are."""

    index: int
    length: int  # rows
    tasks: tuple[str, ...]
    from_index: int  # row of the whole dataset
    rows: Span = field(compare=False)
    videos: Mapping[str, Span] = field(compare=False)  # by feature
    entry: Mapping[str, Any] = field(default_factory=dict)  # its line, or what v3.0's table says in addition to places
    to_index: int | None = field(default=None, compare=False)  # end of its rows as v3.0's table says, maybe wrongly
    # start and end in each video; only of v3.0, and where it is inspected
    times_s: Mapping[str, tuple[float, float]] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"episode {self.index}"

    @property
    def sub_tasks(self) -> tuple[Mapping[str, Any], ...]:
        """Spans of rows with a text each: start, end, text."""
        return tuple(self.entry.get("sub_tasks") or ())


@dataclass(frozen=True)
class DatasetMetadata:
    """What the metadata of a dataset says; parts that could not be read are empty."""

    path: Path
    info: Mapping[str, Any]  # `info.json`, normalized
    episodes: tuple[Episode, ...] = ()  # by index
    order: tuple[int, ...] = ()  # indices as they are listed
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
        return sum(episode.length for episode in self.episodes)

    @property
    def is_subset(self) -> bool:
        """Whether there are rows of episodes that v3.0's table does not list."""
        return self.is_v3 and self.num_rows_spanned > self.num_frames

    @property
    def num_rows_spanned(self) -> int:
        """Number of rows up to the last episode, those between the episodes included."""
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
            found = replace(found, episode_statistics=lists.read_episode_statistics(root))
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
        statistics = tried(found.episodes_place, lambda: lists.read_episode_statistics(root), {})
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
    entries = lists.read_episodes(found.path, found.tasks)
    episodes: list[Episode] = []
    from_index = 0
    for entry in sorted(entries, key=lambda entry: entry["episode_index"]):
        index, length = entry["episode_index"], entry["length"]
        rows = Span(locate(schema.data_path(index, info["data_path"], chunks_size)), 0, length)
        videos = {
            name: Span(locate(schema.video_path(index, name, video_path, chunks_size)), 0, length) for name in cameras
        }
        episodes.append(Episode(index, length, tuple(entry.get("tasks", ())), from_index, rows, videos, entry))
        from_index += length
    order = tuple(entry["episode_index"] for entry in entries)
    return replace(found, episodes=tuple(episodes), order=order, is_listed=True)


def _with_shared_episodes(found: DatasetMetadata, *, is_strict: bool, with_statistics: bool = True) -> DatasetMetadata:
    """Return the metadata with the episodes of v3.0's table, which share files.

    If files disagree about an episode, the first is right: a writer that joins files replaces the first of them and
    then removes the others.
    """
    root, info = found.path, found.info
    if is_strict:
        files = [path for path, _ in table_files(root, info["chunks_size"])]
        if not files and info.get("total_episodes"):
            raise DatasetError(f"{root}: no {schema.EPISODES_TABLE_PATTERN}; restore it from a copy")
    else:
        files = [found.file(found.name_of(path)) for path in sorted(root.glob(schema.EPISODES_TABLE_PATTERN))]
    order: list[int] = []
    rows: dict[int, Mapping[str, Any]] = {}
    places: dict[int, EpisodePlace] = {}
    cameras = found.declared_cameras if is_strict else found.cameras
    for path in files:
        for row in read_rows(path, with_statistics=with_statistics):
            index = row["episode_index"]
            order.append(index)
            if index not in rows:
                subject = f"{path}: episode {index}" if is_strict else f"episode {index}"
                rows[index] = row
                places[index] = place_of(row, cameras, info, subject, is_strict=is_strict)
    times = {} if is_strict else {index: times_of(row, cameras, f"episode {index}") for index, row in rows.items()}
    statistics = {index: row_statistics(rows[index]) for index in sorted(rows)} if with_statistics else {}
    return replace(
        found,
        episodes=tuple(_shared_episodes(found, places, rows, times, found.file if is_strict else root.joinpath)),
        order=tuple(order),
        episode_statistics=statistics,
        is_listed=bool(files),
    )


def _shared_episodes(
    found: DatasetMetadata,
    places: Mapping[int, EpisodePlace],
    rows: Mapping[int, Mapping[str, Any]],
    times: Mapping[int, Mapping[str, tuple[float, float]]],
    locate: Callable[[str], Path],
) -> Iterator[Episode]:
    """Yield the episodes in order; rows are counted from the first episode of each file."""
    info, chunks_size = found.info, found.info["chunks_size"]
    first_rows: dict[int, int] = {}
    for place in places.values():
        first_rows[place.data_file] = min(first_rows.get(place.data_file, place.from_index), place.from_index)
    for index in sorted(places):
        place = places[index]
        data_file = locate(schema.shared_path(info["data_path"], place.data_file, chunks_size=chunks_size))
        yield Episode(
            index,
            place.length,
            place.tasks,
            place.from_index,
            Span(data_file, place.from_index - first_rows[place.data_file], place.length),
            {
                name: Span(
                    locate(schema.shared_path(info["video_path"], video.file, name, chunks_size)),
                    video.first_frame,
                    place.length,
                )
                for name, video in place.videos.items()
            },
            extra_columns(rows[index]),
            rows[index].get("dataset_to_index"),
            times.get(index, {}),
        )

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Reading a dataset's metadata: which episodes there are and in which rows and frames of which files they lie.

The only part of reading that differs between versions: v2.x has a file an episode, in v3.0 many episodes share one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gr00t_training.dataset import schema
from gr00t_training.dataset.episodes_table import EpisodePlace, read_places, read_tasks
from gr00t_training.errors import DatasetError


@dataclass(frozen=True)
class Episode:
    """One episode as the metadata lists it."""

    index: int
    length: int  # rows
    tasks: tuple[str, ...]
    sub_tasks: tuple[Mapping[str, Any], ...] = ()  # spans of rows with a text each: start, end, text


@dataclass(frozen=True)
class Span:
    """`count` rows or frames of one file from number `first` on."""

    path: Path
    first: int
    count: int


@dataclass(frozen=True)
class Catalogue:
    """Episodes, tasks and places of a dataset."""

    episodes: list[Episode]
    tasks: Mapping[int, str]
    rows: Mapping[int, Span]  # by episode
    videos: Mapping[int, Mapping[str, Span]]  # by episode and feature
    neighbours: Mapping[Path, list[int]] = field(default_factory=dict)  # episodes of a shared file, in order
    source: str = schema.EPISODES_FILE  # what lists the episodes, for messages


def read_catalogue(path: Path, info: Mapping[str, Any]) -> Catalogue:
    """Read the lists of the dataset in the folder `path` with this `info.json`.

    Raises:
        DatasetError: they are missing or damaged; names the file.
        KeyError, TypeError, AttributeError: something in them has another form.
    """
    features = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
    if info["codebase_version"] == schema.Version.V30.value:
        return _read_shared(path, info, features)
    return _read_separate(path, info, features)


def table_files(path: Path, chunks_size: int = schema.CHUNKS_SIZE) -> list[tuple[Path, int]]:
    """Return the files of v3.0's episodes table with their numbers, in order.

    Raises:
        DatasetError: there is none, or one is not named after its number.
    """
    found = []
    for file in sorted(path.glob(schema.EPISODES_TABLE_PATTERN)):
        try:
            number = int(file.parent.name.split("-")[1]) * chunks_size + int(file.stem.split("-")[1])
        except (IndexError, ValueError) as error:
            raise DatasetError(f"{file}: not named like chunk-000/file-000.parquet; move it out of meta") from error
        found.append((file, number))
    return found


def read_all_places(path: Path, info: Mapping[str, Any], features: Sequence[str]) -> list[EpisodePlace]:
    """Read the episodes table of v3.0, in order of episodes.

    Where files tell different things about an episode the first is right: a writer that joins files replaces the first
    of them and then removes the others.

    Raises:
        DatasetError: missing or damaged.
    """
    places: dict[int, EpisodePlace] = {}
    files = table_files(path, info["chunks_size"])
    if not files and info.get("total_episodes"):
        raise DatasetError(f"{path}: no {schema.EPISODES_TABLE_PATTERN}; restore it from a copy")
    for file, number in files:
        for place in read_places(file, number, features, info["fps"], info["chunks_size"]):
            places.setdefault(place.index, place)
    return [places[index] for index in sorted(places)]


def _read_separate(path: Path, info: Mapping[str, Any], features: Sequence[str]) -> Catalogue:
    data, video = info["data_path"], info.get("video_path") or schema.VIDEO_PATH
    chunks_size: int = info["chunks_size"]
    episodes = [
        Episode(
            entry["episode_index"],
            entry["length"],
            tuple(entry.get("tasks", ())),
            tuple(entry.get("sub_tasks", ())),
        )
        for entry in schema.read_json_lines(path / schema.EPISODES_FILE)
    ]
    tasks = {entry["task_index"]: entry["task"] for entry in schema.read_json_lines(path / schema.TASKS_FILE)}
    rows = {
        episode.index: Span(path / schema.data_path(episode.index, data, chunks_size), 0, episode.length)
        for episode in episodes
    }
    videos = {
        episode.index: {
            name: Span(path / schema.video_path(episode.index, name, video, chunks_size), 0, episode.length)
            for name in features
        }
        for episode in episodes
    }
    return Catalogue(episodes, tasks, rows, videos)


def _read_shared(path: Path, info: Mapping[str, Any], features: Sequence[str]) -> Catalogue:
    places = read_all_places(path, info, features)
    chunks_size: int = info["chunks_size"]
    rows: dict[int, Span] = {}
    videos: dict[int, Mapping[str, Span]] = {}
    neighbours: dict[Path, list[int]] = {}
    first_rows: dict[Path, int] = {}
    for place in places:
        file = path / schema.shared_path(info["data_path"], place.data_file, chunks_size=chunks_size)
        first = place.from_index - first_rows.setdefault(file, place.from_index)
        if first < 0:
            raise DatasetError(
                f"{path}: episode {place.index} starts at row {place.from_index}, before the first of its file "
                f"{file.name}; restore the episodes table from a copy"
            )
        rows[place.index] = Span(file, first, place.length)
        videos[place.index] = {
            name: Span(
                path / schema.shared_path(info["video_path"], video.file, name, chunks_size),
                video.first_frame,
                place.length,
            )
            for name, video in place.videos.items()
        }
        neighbours.setdefault(file, []).append(place.index)
    episodes = [Episode(place.index, place.length, place.tasks) for place in places]
    return Catalogue(episodes, read_tasks(path / schema.TASKS_TABLE), rows, videos, neighbours, "meta/episodes")

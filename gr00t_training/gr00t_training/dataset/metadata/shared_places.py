# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The episodes table of v3.0 as columns: places of 100,000 episodes in a fraction of a second.

Columns of the types that lerobot writes are taken over as arrays. A file with anything else (numbers as text, empty
values, values out of range) is read row by row by `episodes_table`, which also names what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gr00t_training.dataset.metadata.columns import is_list, is_text
from gr00t_training.dataset.metadata.episode_list import PLAIN_ENTRY, EpisodeColumns
from gr00t_training.dataset.metadata.episodes_table import (
    PLACE_PREFIXES,
    STATISTICS_PREFIX,
    EpisodePlace,
    VideoPlace,
    extra_columns,
    place_of,
    table_files,
    times_of,
)
from gr00t_training.dataset.metadata.lists import normalised_entry
from gr00t_training.dataset.metadata.numbers import MAX_INDEX, MAX_ROWS
from gr00t_training.dataset.metadata.tables import open_table, read_groups
from gr00t_training.errors import DatasetError


@dataclass(frozen=True, eq=False)
class SharedPlaces:
    """Rows of the episodes table, in the order of the file; every array is `(N,)` int64."""

    index: np.ndarray
    length: np.ndarray
    data_file: np.ndarray
    from_index: np.ndarray
    to_index: np.ndarray  # below 0: the table does not say
    video_files: Mapping[str, np.ndarray]  # by feature
    first_frames: Mapping[str, np.ndarray]
    times_s: Mapping[str, np.ndarray]  # (N, 2): start and end in the video; only where the table is inspected
    tasks: Sequence[tuple[str, ...]]
    entries: Mapping[int, Mapping[str, Any]]  # by index, of episodes with more than `PLAIN_ENTRY`

    def taken(self, rows: np.ndarray) -> SharedPlaces:
        """Return some rows, in the given order."""

        def of_features(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: values[rows] for name, values in columns.items()}

        return SharedPlaces(
            self.index[rows],
            self.length[rows],
            self.data_file[rows],
            self.from_index[rows],
            self.to_index[rows],
            of_features(self.video_files),
            of_features(self.first_frames),
            of_features(self.times_s),
            [self.tasks[row] for row in rows],
            self.entries,
        )


def read_shared_places(
    path: Path, cameras: Sequence[str], info: Mapping[str, Any], *, is_strict: bool = True
) -> SharedPlaces:
    """Read one file of the table.

    Args:
        path: the file.
        cameras: features with places in videos.
        info: `fps` and `chunks_size` of the dataset.
        is_strict: refuse a video that starts between two frames; else take the nearest frame, and keep the times.

    Raises:
        DatasetError: missing or damaged, or a place is missing or is not a number; names file and episode.
    """
    file = open_table(path)
    names = [name for name in file.schema_arrow.names if not name.startswith(STATISTICS_PREFIX)]
    table = read_groups(file, path, None, names)
    places = _of_columns(table, cameras, info, is_strict=is_strict)
    return places if places is not None else _of_rows(table, path, cameras, info, is_strict=is_strict)


def joined_places(parts: Sequence[SharedPlaces]) -> SharedPlaces:
    """Return the rows of several files by index; of several rows about an episode the first is right."""

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    def of_features(name: str) -> dict[str, np.ndarray]:
        return {key: np.concatenate([getattr(part, name)[key] for part in parts]) for key in getattr(parts[0], name)}

    entries: dict[int, Mapping[str, Any]] = {}
    plain: set[int] = set()
    for part in parts:
        for index in part.index.tolist() if entries or part.entries else ():
            if index in part.entries and index not in plain:
                entries.setdefault(index, part.entries[index])
            else:
                plain.add(index)
    everything = SharedPlaces(
        joined("index"),
        joined("length"),
        joined("data_file"),
        joined("from_index"),
        joined("to_index"),
        of_features("video_files"),
        of_features("first_frames"),
        of_features("times_s"),
        [tasks for part in parts for tasks in part.tasks],
        entries,
    )
    return everything.taken(np.unique(everything.index, return_index=True)[1])


def read_all_places(root: Path, info: Mapping[str, Any], features: Sequence[str]) -> list[EpisodePlace]:
    """Read the whole table in order of episodes; of several rows about an episode the first is right.

    Raises:
        DatasetError: damaged.
    """
    parts, tables = [], []
    for path, number in table_files(root, info["chunks_size"]):
        parts.append(read_shared_places(path, features, info))
        tables.append(np.full(len(parts[-1].index), number))
    if not parts:
        return []
    first = np.unique(np.concatenate([part.index for part in parts]), return_index=True)[1]
    table_file = np.concatenate(tables)[first].tolist()
    places = joined_places(parts)
    numbers = [column.tolist() for column in (places.index, places.length, places.data_file, places.from_index)]
    videos = {
        name: list(map(VideoPlace, files.tolist(), places.first_frames[name].tolist()))
        for name, files in places.video_files.items()
    }
    return [
        EpisodePlace(
            index, length, places.tasks[row], data_file, from_index, {name: videos[name][row] for name in videos}, table
        )
        for row, (index, length, data_file, from_index, table) in enumerate(zip(*numbers, table_file, strict=True))
    ]


def _of_columns(
    table: pa.Table, cameras: Sequence[str], info: Mapping[str, Any], *, is_strict: bool
) -> SharedPlaces | None:
    """Return the rows where every column is as lerobot writes it; None: something is not."""
    chunks_size, fps = info["chunks_size"], info["fps"]
    entry_names = [name for name in table.column_names if not name.startswith(PLACE_PREFIXES)]
    columns = {
        "episode_index": _whole(table, "episode_index", MAX_INDEX),
        "length": _whole(table, "length", MAX_ROWS),
        "from": _whole(table, "dataset_from_index", MAX_INDEX),
        "to": _whole(table, "dataset_to_index", None),
        "data": _file_numbers(table, "data", chunks_size),
    }
    tasks = _tasks(table)
    files = {name: _file_numbers(table, f"videos/{name}", chunks_size) for name in cameras}
    times = {name: _times(table, name) for name in cameras}
    found = [*columns.values(), *files.values(), *times.values()]
    if tasks is None or entry_names != list(PLAIN_ENTRY) or any(values is None for values in found):
        return None
    frames = {name: values[:, 0] * fps for name, values in times.items() if values is not None}
    if is_strict and any((abs(starts - np.round(starts)) > 1e-4 * fps).any() for starts in frames.values()):
        return None
    return SharedPlaces(
        columns["episode_index"],  # pyright: ignore[reportArgumentType]  # none of them is None
        columns["length"],  # pyright: ignore[reportArgumentType]
        columns["data"],  # pyright: ignore[reportArgumentType]
        columns["from"],  # pyright: ignore[reportArgumentType]
        columns["to"],  # pyright: ignore[reportArgumentType]
        files,  # pyright: ignore[reportArgumentType]
        {name: np.round(starts).astype(np.int64) for name, starts in frames.items()},
        {} if is_strict else times,  # pyright: ignore[reportArgumentType]
        tasks,
        {},
    )


def _of_rows(
    table: pa.Table, path: Path, cameras: Sequence[str], info: Mapping[str, Any], *, is_strict: bool
) -> SharedPlaces:
    listed, places, times = EpisodeColumns(), [], []
    to_index = []
    for number, raw in enumerate(table.to_pylist()):
        row = normalised_entry(raw, f"{path}: row {number}", {})
        subject = f"{path}: episode {row['episode_index']}" if is_strict else f"episode {row['episode_index']}"
        place = place_of(row, cameras, info, subject, is_strict=is_strict)
        listed.add(extra_columns(row))
        places.append(place)
        times.append({} if is_strict else times_of(row, cameras, subject))
        end = row.get("dataset_to_index")
        to_index.append(end if isinstance(end, int) else -1)

    def column(values: list[int]) -> np.ndarray:
        return np.array(values, np.int64)

    return SharedPlaces(
        column([place.index for place in places]),
        column([place.length for place in places]),
        column([place.data_file for place in places]),
        column([place.from_index for place in places]),
        column(to_index),
        {name: column([place.videos[name].file for place in places]) for name in cameras},
        {name: column([place.videos[name].first_frame for place in places]) for name in cameras},
        {} if is_strict else {name: np.array([each[name] for each in times]).reshape(-1, 2) for name in cameras},
        listed.tasks,
        listed.entries,
    )


def _column(table: pa.Table, name: str) -> pa.ChunkedArray | None:
    column = table[name] if table.column_names.count(name) == 1 else None
    return None if column is None or column.null_count else column


def _whole(table: pa.Table, name: str, high: int | None) -> np.ndarray | None:
    column = _column(table, name)
    if column is None or not pa.types.is_int64(column.type):
        return None
    values = column.to_numpy()
    is_inside = high is None or not len(values) or (values.min() >= 0 and values.max() <= high)
    return values if is_inside else None


def _file_numbers(table: pa.Table, prefix: str, chunks_size: int) -> np.ndarray | None:
    chunks = _whole(table, f"{prefix}/chunk_index", 10**6)
    files = _whole(table, f"{prefix}/file_index", chunks_size - 1)
    return None if chunks is None or files is None else chunks * chunks_size + files


def _times(table: pa.Table, feature: str) -> np.ndarray | None:
    """Return start and end in the video, `(N, 2)` float64 seconds."""
    ends = []
    for end in ("from", "to"):
        column = _column(table, f"videos/{feature}/{end}_timestamp")
        if column is None or not pa.types.is_float64(column.type):
            return None
        values = column.to_numpy()
        if not ((values >= 0) & (values <= MAX_INDEX)).all():
            return None
        ends.append(values)
    return np.stack(ends, axis=1)


def _tasks(table: pa.Table) -> list[tuple[str, ...]] | None:
    """Return the tasks of each row, equal ones shared; None where a row has none or they are not lists of texts."""
    column = _column(table, "tasks")
    if column is None or not is_list(column.type) or not is_text(column.type.value_type):
        return None
    if pc.call_function("list_flatten", [column]).null_count:
        return None
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    found = [shared.setdefault(tasks, tasks) for tasks in map(tuple, column.to_pylist())]
    try:
        for tasks in shared:
            normalised_entry({"episode_index": 0, "length": 0, "tasks": list(tasks)}, "", {})
    except DatasetError:
        return None
    return found

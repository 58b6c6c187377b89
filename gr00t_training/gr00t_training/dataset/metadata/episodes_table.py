# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The parquet tables of v3.0's metadata: episodes with their places in shared files, and tasks.

Rows of one episodes table have equal columns. Statistics are columns too (`stats/{feature}/{name}`); they are read only
where they are asked for.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.columns import is_text
from gr00t_training.dataset.metadata.lists import normalised_entry, task_text
from gr00t_training.dataset.metadata.numbers import MAX_INDEX, real, whole
from gr00t_training.dataset.metadata.tables import open_table, plain_column, read_groups, read_table
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import inside

STATISTICS_PREFIX = "stats/"
# columns that say where things are; the others belong to the episode
PLACE_PREFIXES = ("data/", "videos/", "meta/", STATISTICS_PREFIX, "dataset_from_index", "dataset_to_index")
# pandas keeps an index without a name under this one; lerobot 0.4 wants the texts to be the index
_INDEX_COLUMN = "__index_level_0__"


@dataclass(frozen=True)
class VideoPlace:
    """Where the frames of an episode are in a shared video."""

    file: int  # number of the file
    first_frame: int


@dataclass(frozen=True)
class EpisodePlace:
    """One row of the episodes table, without statistics."""

    index: int
    length: int
    tasks: tuple[str, ...]
    data_file: int  # number of the file
    from_index: int  # row of the whole dataset
    videos: Mapping[str, VideoPlace]  # by feature
    table_file: int = 0  # number of the file that this row is in


def make_row(place: EpisodePlace, fps: float, chunks_size: int = schema.CHUNKS_SIZE) -> dict[str, Any]:
    """Return the columns of an episode that say what and where it is, in lerobot's order.

    Times come from frame counts: a reader refuses a start half a frame off.
    """
    row: dict[str, Any] = {
        "episode_index": place.index,
        "tasks": list(place.tasks),
        "length": place.length,
        **_numbers("data", place.data_file, chunks_size),
        "dataset_from_index": place.from_index,
        "dataset_to_index": place.from_index + place.length,
    }
    for feature, video in place.videos.items():
        row |= _numbers(f"videos/{feature}", video.file, chunks_size)
        row[f"videos/{feature}/from_timestamp"] = video.first_frame / fps
        row[f"videos/{feature}/to_timestamp"] = (video.first_frame + place.length) / fps
    return row | _numbers("meta/episodes", place.table_file, chunks_size)


def make_table(place: EpisodePlace, statistics: Mapping[str, Mapping[str, list]], fps: float) -> pa.Table:
    """Return the one row of an episode with its statistics, feature -> name -> list."""
    return _table_of([full_row(place, {}, statistics, fps)])


def full_row(
    place: EpisodePlace, entry: Mapping[str, Any], statistics: Mapping[str, Mapping[str, list]], fps: float
) -> dict[str, Any]:
    """Return all columns of an episode; what else its entry holds (marks) are further columns."""
    row = make_row(place, fps)
    table_place = {name: row.pop(name) for name in list(row) if name.startswith("meta/")}
    for feature, lists in statistics.items():
        for name, values in lists.items():
            row[f"{STATISTICS_PREFIX}{feature}/{name}"] = values
    row |= table_place
    return row | {name: value for name, value in entry.items() if name not in row}


def rows_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return a table of rows of `full_row`, which need not have the same columns.

    Raises:
        DatasetError: they do not fit one table.
    """
    try:
        runs = [_table_of(list(run)) for _, run in itertools.groupby(rows, lambda row: tuple(row))]
        return runs[0] if len(runs) == 1 else pa.concat_tables(runs, promote_options="permissive")
    except (pa.ArrowException, OverflowError) as error:
        raise DatasetError(f"the entries of the episodes do not fit a table ({error}); correct the lists") from error


def _table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    return pa.table({name: pa.array([row[name] for row in rows]) for name in rows[0]})


def make_tables(
    places: Sequence[EpisodePlace],
    entries: Sequence[Mapping[str, Any]],
    statistics: Mapping[int, Mapping[str, Mapping[str, Any]]],
    fps: float,
) -> pa.Table:
    """Return the rows of several episodes.

    Args:
        places: where the episodes are.
        entries: what is listed of each.
        statistics: by episode, feature and name.
        fps: rate of the dataset.

    Raises:
        DatasetError: the entries do not fit one table.
    """
    pairs = zip(places, entries, strict=True)
    return rows_table([full_row(place, entry, statistics[place.index], fps) for place, entry in pairs])


def replaced(table: pa.Table, places: Sequence[EpisodePlace], fps: float) -> pa.Table:
    """Return `table` with other places; its rows are those of `places`, in order."""
    rows = [make_row(place, fps) for place in places]
    for name in rows[0]:
        column = pa.array([row[name] for row in rows], table.schema.field(name).type)
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def row_statistics(row: Mapping[str, Any]) -> dict[str, dict[str, list]]:
    """Return the statistics of a row of the table, feature -> name -> list."""
    nested: dict[str, dict[str, list]] = {}
    for column, values in row.items():
        feature, _, name = column.removeprefix(STATISTICS_PREFIX).rpartition("/")
        if column.startswith(STATISTICS_PREFIX) and feature and values is not None:
            nested.setdefault(feature, {})[name] = values
    return nested


def read_rows(path: Path, *, with_statistics: bool = False) -> list[dict[str, Any]]:
    """Read the rows of one file of the table with index, length and tasks in the form of `lists.normalised_entry`.

    Raises:
        DatasetError: missing or damaged; names file and column.
    """
    file = open_table(path)
    names = [name for name in file.schema_arrow.names if with_statistics or not name.startswith(STATISTICS_PREFIX)]
    rows = read_groups(file, path, None, names).to_pylist()
    return [normalised_entry(row, f"{path}: row {number}", {}) for number, row in enumerate(rows)]


def read_places(path: Path, number: int, features: Sequence[str], info: Mapping[str, Any]) -> list[EpisodePlace]:
    """Read where the episodes of file `number` of the table are; raises DatasetError as `read_rows` and `place_of`.

    Args:
        path: the file.
        number: its number.
        features: cameras.
        info: `fps` and `chunks_size` of the dataset.
    """
    return [
        place_of(row, features, info, f"{path}: episode {row['episode_index']}", table_file=number)
        for row in read_rows(path)
    ]


def table_files(root: Path, chunks_size: int = schema.CHUNKS_SIZE) -> list[tuple[Path, int]]:
    """Return the files of the table with their numbers, in order.

    Raises:
        DatasetError: one is not named after its number, or is a link.
    """
    found = []
    for file in sorted(root.glob(schema.EPISODES_TABLE_PATTERN)):
        named = re.fullmatch(r"chunk-(\d{1,9})/file-(\d{1,9})", f"{file.parent.name}/{file.stem}")
        if named is None:
            raise DatasetError(f"{file}: not named like chunk-000/file-000.parquet; move it out of meta")
        inside(root, file.relative_to(root).as_posix(), DatasetError)
        found.append((file, int(named[1]) * chunks_size + int(named[2])))
    return found


def place_of(
    row: Mapping[str, Any],
    features: Sequence[str],
    info: Mapping[str, Any],
    subject: str,
    *,
    table_file: int = 0,
    is_strict: bool = True,
) -> EpisodePlace:
    """Return where a row of the table says that its episode is.

    Args:
        row: as `read_rows` gives it.
        features: cameras.
        info: `fps` and `chunks_size` of the dataset.
        subject: names the episode in errors.
        table_file: number of the file with the row.
        is_strict: refuse a video that starts between two frames; else take the nearest frame.

    Raises:
        DatasetError: a place is missing or is not a number.
    """
    chunks_size = info["chunks_size"]
    return EpisodePlace(
        index=row["episode_index"],
        length=row["length"],
        tasks=tuple(row.get("tasks") or ()),
        data_file=_file_number(row, "data", chunks_size, subject),
        from_index=whole(row.get("dataset_from_index"), f"{subject}: dataset_from_index"),
        videos={
            name: VideoPlace(
                _file_number(row, f"videos/{name}", chunks_size, subject),
                _first_frame(row, name, info["fps"], subject, is_strict=is_strict),
            )
            for name in features
        },
        table_file=table_file,
    )


def times_of(row: Mapping[str, Any], features: Sequence[str], subject: str) -> dict[str, tuple[float, float]]:
    """Return when a row of the table says that its episode starts and ends in the video of each camera [s].

    Raises:
        DatasetError: a time is missing or is not a number.
    """
    return {name: (_time(row, name, "from", subject), _time(row, name, "to", subject)) for name in features}


def extra_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a row of the table says of its episode in addition to places and statistics."""
    return {name: value for name, value in row.items() if not name.startswith(PLACE_PREFIXES) and value is not None}


def tasks_table(tasks: Sequence[str]) -> pa.Table:
    """Return `tasks.parquet`: the texts are the index when pandas reads it."""
    described = {
        "index_columns": [_INDEX_COLUMN],
        "column_indexes": [
            {
                "name": None,
                "field_name": None,
                "pandas_type": "unicode",
                "numpy_type": "object",
                "metadata": {"encoding": "UTF-8"},
            }
        ],
        "columns": [
            _pandas_column(schema.TASK_COLUMN, schema.TASK_COLUMN, "int64", "int64"),
            _pandas_column(None, _INDEX_COLUMN, "unicode", "object"),
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    columns = [pa.array(range(len(tasks)), pa.int64()), pa.array(tasks, pa.string())]
    table = pa.Table.from_arrays(columns, [schema.TASK_COLUMN, _INDEX_COLUMN])
    return table.replace_schema_metadata({"pandas": json.dumps(described)})


def read_task_pairs(path: Path) -> list[tuple[int, str]]:
    """Read the numbers and texts of `tasks.parquet` in the order of its rows; their columns may have any name.

    Raises:
        DatasetError: missing or damaged.
    """
    table = read_table(path)
    columns = {name: plain_column(table[name]) for name in table.column_names}
    texts = [name for name, column in columns.items() if is_text(column.type)]
    if schema.TASK_COLUMN not in columns or not texts:
        raise DatasetError(f"{path}: expected a column '{schema.TASK_COLUMN}' and one of texts; restore it from a copy")
    text_column = "task" if "task" in texts else texts[0]
    pairs = zip(columns[schema.TASK_COLUMN].to_pylist(), columns[text_column].to_pylist(), strict=True)
    return [
        (whole(number, f"{path}: row {row}: task_index"), task_text(text, f"{path}: row {row}"))
        for row, (number, text) in enumerate(pairs)
    ]


def _pandas_column(name: str | None, field: str, pandas_type: str, numpy_type: str) -> dict[str, Any]:
    return {
        "name": name,
        "field_name": field,
        "pandas_type": pandas_type,
        "numpy_type": numpy_type,
        "metadata": None,
    }


def _numbers(prefix: str, number: int, chunks_size: int) -> dict[str, int]:
    return {f"{prefix}/chunk_index": number // chunks_size, f"{prefix}/file_index": number % chunks_size}


def _file_number(row: Mapping[str, Any], prefix: str, chunks_size: int, subject: str) -> int:
    chunk = whole(row.get(f"{prefix}/chunk_index"), f"{subject}: {prefix}/chunk_index", high=10**6)
    file = whole(row.get(f"{prefix}/file_index"), f"{subject}: {prefix}/file_index", high=chunks_size - 1)
    return chunk * chunks_size + file


def _first_frame(row: Mapping[str, Any], feature: str, fps: float, subject: str, *, is_strict: bool) -> int:
    frames = _time(row, feature, "from", subject) * fps
    if is_strict and abs(frames - round(frames)) > 1e-4 * fps:  # lerobot's tolerance of 1e-4 s
        raise DatasetError(
            f"{subject} starts {frames:.3f} frames into its video of {feature}, expected a whole number; correct "
            "from_timestamp"
        )
    return round(frames)


def _time(row: Mapping[str, Any], feature: str, end: str, subject: str) -> float:
    name = f"videos/{feature}/{end}_timestamp"
    return real(row.get(name), f"{subject}: {name}", 0, MAX_INDEX)

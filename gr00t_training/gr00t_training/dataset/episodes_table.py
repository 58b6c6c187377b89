# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The parquet tables of v3.0's metadata: episodes with their places in shared files, and tasks.

Rows of one episodes table have equal columns. Statistics are columns too (`stats/{feature}/{name}`); readers need all
columns but those, so they are left out when only places are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.errors import DatasetError

_STATISTICS = "stats/"
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
    row = make_row(place, fps)
    entries = {
        f"{_STATISTICS}{feature}/{name}": values
        for feature, lists in statistics.items()
        for name, values in lists.items()
    }
    table_place = {name: row.pop(name) for name in list(row) if name.startswith("meta/")}
    columns = {name: pa.array([value]) for name, value in {**row, **entries, **table_place}.items()}
    return pa.table(columns)


def replaced(table: pa.Table, places: Sequence[EpisodePlace], fps: float) -> pa.Table:
    """Return `table` with its rows, which are those of `places` in order, telling these places."""
    rows = [make_row(place, fps) for place in places]
    for name in rows[0]:
        column = pa.array([row[name] for row in rows], table.schema.field(name).type)
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def row_statistics(row: Mapping[str, Any]) -> dict[str, dict[str, list]]:
    """Return the statistics of a row of the table, feature -> name -> list."""
    nested: dict[str, dict[str, list]] = {}
    for column, values in row.items():
        if column.startswith(_STATISTICS) and values is not None:
            feature, name = column.removeprefix(_STATISTICS).rsplit("/", 1)
            nested.setdefault(feature, {})[name] = values
    return nested


def read_table(path: Path, *, with_statistics: bool = True) -> pa.Table:
    """Read one file of the episodes table.

    Raises:
        DatasetError: missing or damaged.
    """
    try:
        file = pq.ParquetFile(path)
        names = [name for name in file.schema_arrow.names if with_statistics or not name.startswith(_STATISTICS)]
        return file.read(columns=names)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); restore it from a copy") from error


def read_places(
    path: Path, number: int, features: Sequence[str], fps: float, chunks_size: int = schema.CHUNKS_SIZE
) -> list[EpisodePlace]:
    """Read where the episodes of one file of the table are.

    Args:
        path: the file.
        number: its number.
        features: cameras.
        fps: rate of the dataset.
        chunks_size: files a folder.

    Raises:
        DatasetError: missing, damaged, or a video that does not start with a whole frame.
    """
    places = []
    for row in read_table(path, with_statistics=False).to_pylist():
        try:
            videos = {feature: _video_place(row, feature, fps, chunks_size, path) for feature in features}
            places.append(
                EpisodePlace(
                    index=row["episode_index"],
                    length=row["length"],
                    tasks=tuple(row["tasks"]),
                    data_file=_number(row, "data", chunks_size),
                    from_index=row["dataset_from_index"],
                    videos=videos,
                    table_file=number,
                )
            )
        except (KeyError, TypeError) as error:
            raise DatasetError(f"{path}: no or empty column {error}; restore it from a copy") from error
    return places


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


def read_tasks(path: Path) -> dict[int, str]:
    """Read `tasks.parquet`, whatever the column of the texts is called.

    Raises:
        DatasetError: missing or damaged.
    """
    try:
        table = pq.ParquetFile(path).read()
        texts = next(
            name
            for name in table.column_names
            if pa.types.is_string(table.schema.field(name).type)
            or pa.types.is_large_string(table.schema.field(name).type)
        )
        return dict(zip(table[schema.TASK_COLUMN].to_pylist(), table[texts].to_pylist(), strict=True))
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); restore it from a copy") from error
    except (KeyError, StopIteration) as error:
        raise DatasetError(
            f"{path}: expected a column '{schema.TASK_COLUMN}' and one of texts; restore it from a copy"
        ) from error


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


def _number(row: Mapping[str, Any], prefix: str, chunks_size: int) -> int:
    return row[f"{prefix}/chunk_index"] * chunks_size + row[f"{prefix}/file_index"]


def _video_place(row: Mapping[str, Any], feature: str, fps: float, chunks_size: int, path: Path) -> VideoPlace:
    frames = row[f"videos/{feature}/from_timestamp"] * fps
    if abs(frames - round(frames)) > 1e-4 * fps:  # lerobot's tolerance of 1e-4 s
        raise DatasetError(
            f"{path}: episode {row['episode_index']} starts {frames:.3f} frames into its video of {feature}, expected "
            "a whole number; correct from_timestamp"
        )
    return VideoPlace(_number(row, f"videos/{feature}", chunks_size), round(frames))

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Statistics by episode as they are stored, read one episode at a time: those of all would take gigabytes.

A mapping knows where the entry of each episode is in its file, and reads it when it is asked for.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.columns import column_rows
from gr00t_training.dataset.metadata.episodes_table import STATISTICS_PREFIX, row_statistics, table_files
from gr00t_training.dataset.metadata.lists import normalised_statistics
from gr00t_training.dataset.metadata.numbers import shown, whole
from gr00t_training.dataset.metadata.tables import open_table, read_groups
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import open_regular

Statistics = Mapping[str, Mapping[str, Any]]  # by feature and name

LINES_LIMIT = 16 * 2**30  # [bytes] of `episodes_stats.jsonl`, which is never in memory as a whole


class StoredStatistics(Mapping[int, Statistics]):
    """`episodes_stats.jsonl`; empty if there is no such file."""

    def __init__(self, root: Path) -> None:
        """Read the file once, to know where each episode is.

        Raises:
            DatasetError: damaged; names the line.
        """
        self._path = schema.meta_file(root, schema.EPISODES_STATS_FILE)
        self._places: dict[int, tuple[int, int, int]] = {}  # offset and size of the line, number of the entry in it
        if not self._path.exists():
            return
        for number, line in enumerate(schema.iterate_json_lines(self._path, LINES_LIMIT), start=1):
            for place, entry in enumerate(_entries(line.value)):
                subject = f"{self._path}: entry {number}"
                if not isinstance(entry, Mapping):
                    raise DatasetError(f"{subject} is {shown(entry)}, expected an object; restore it from a copy")
                index = whole(entry.get("episode_index"), f"{subject}: episode_index")
                normalised_statistics(entry.get("stats"), subject)
                self._places[index] = (line.offset, line.size, place)

    def __getitem__(self, index: int) -> Statistics:
        offset, size, place = self._places[index]
        with open_regular(self._path, DatasetError, LINES_LIMIT) as file:
            file.seek(offset)
            text = file.read(size).decode("utf-8", "replace")
        entry = _entries(schema.parse_json(text, str(self._path)))[place]
        return normalised_statistics(entry.get("stats"), f"{self._path}: episode {index}")

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class TableStatistics(Mapping[int, Statistics]):
    """The statistics in the episodes table of v3.0; those of one row group are in memory."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Read which row of which file is about which episode; of several, the first counts.

        Raises:
            DatasetError: a file cannot be read.
        """
        self._files = list(files)
        self._places: dict[int, tuple[int, int]] = {}  # number of the file, row
        self._open: tuple[int, pq.ParquetFile, list[int]] | None = None  # of the file: number, and starts of groups
        self._group: tuple[int, int, pa.Table] | None = None  # file, group
        for number, path in enumerate(self._files):
            file = open_table(path)
            column = read_groups(file, path, None, ["episode_index"])["episode_index"]
            for row, index in enumerate(column_rows(column).tolist()):
                self._places.setdefault(int(index), (number, row))

    def __getitem__(self, index: int) -> Statistics:
        number, row = self._places[index]
        if self._open is None or self._open[0] != number:
            file = open_table(self._files[number])
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
            self._open = (number, file, np.concatenate([[0], np.cumsum(sizes)]).tolist())
        _, file, starts = self._open
        group = bisect.bisect_right(starts, row) - 1
        if self._group is None or self._group[:2] != (number, group):
            names = [name for name in file.schema_arrow.names if name.startswith(STATISTICS_PREFIX)]
            self._group = (number, group, read_groups(file, self._files[number], [group], names))
        rows = self._group[2].slice(row - starts[group], 1).to_pylist()
        return row_statistics(rows[0]) if rows else {}

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._places))

    def __len__(self) -> int:
        return len(self._places)


def read_episode_statistics(root: Path, info: Mapping[str, Any]) -> Mapping[int, Statistics]:
    """Return the statistics by episode of the dataset in `root` with `info`; empty if it has none.

    Raises:
        DatasetError: damaged.
    """
    if info["codebase_version"] != schema.Version.V30.value:
        return StoredStatistics(root)
    return TableStatistics([path for path, _ in table_files(root, info["chunks_size"])])


def _entries(value: Any) -> list[Any]:
    """Return the entries of a line, which may hold a list of them."""
    return value if isinstance(value, list) else [value]

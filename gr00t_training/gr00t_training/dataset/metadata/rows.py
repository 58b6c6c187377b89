# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The rows of an episode in its data file, in the order of its frames.

Complete numbers in the rows have priority over the place in the metadata.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from gr00t_training.dataset.metadata.columns import column_rows
from gr00t_training.dataset.metadata.model import DatasetMetadata, Episode, Span
from gr00t_training.dataset.metadata.tables import conforming, open_table, read_groups, read_table
from gr00t_training.errors import DatasetError

# Rows of this many episodes stay in memory: about 200 MB for 500 rows of 100 float32 each.
CACHED_EPISODES = 1000


class RowReader:
    """Reads columns of a dataset by episode and keeps those of the last episodes; for one thread."""

    def __init__(self, metadata: DatasetMetadata, columns: Sequence[str], scalars: Collection[str]) -> None:
        """Prepare to read `columns`; `scalars` are those that hold one value a row, see `conforming`."""
        self._metadata = metadata
        self._columns = columns
        self._scalars = scalars
        self._cache: OrderedDict[int, Mapping[str, np.ndarray]] = OrderedDict()
        self._sharing: dict[Path, list[Episode]] = {}  # episodes of each shared file
        for episode in metadata.episodes if metadata.is_v3 else ():
            self._sharing.setdefault(episode.rows.path, []).append(episode)

    def read(self, episode: Episode) -> Mapping[str, np.ndarray]:
        """Return the columns of an episode that its file has: `(N,)`, or `(N, D)` for lists.

        Raises:
            DatasetError: fewer rows than the metadata says, rows of another episode, or a column cannot be read.
        """
        rows = self._cache.pop(episode.index, None)
        if rows is None:
            rows = self._read(episode)
        self._cache[episode.index] = rows
        if len(self._cache) > CACHED_EPISODES:
            self._cache.popitem(last=False)
        return rows

    def count(self, episode: Episode) -> int:
        """Return how many rows the file has for an episode: up to the next episode in it, or to its end.

        Raises:
            DatasetError: the file cannot be read.
        """
        first = episode.rows.first
        starts = [other.rows.first for other in self._sharing.get(episode.rows.path, ())]
        end = min([open_table(episode.rows.path).metadata.num_rows, *(start for start in starts if start > first)])
        return max(0, end - first)

    def _read(self, episode: Episode) -> Mapping[str, np.ndarray]:
        path = episode.rows.path
        if not episode.length:
            return {name: np.zeros(0) for name in self._columns}
        if path in self._sharing:
            return self._read_shared(episode)
        return self._sliced(self._conforming(read_table(path, self._columns), path), episode)

    def _read_shared(self, episode: Episode) -> Mapping[str, np.ndarray]:
        """Read the row groups that an episode is in, and keep the other episodes that are whole in them."""
        span = episode.rows
        table, first = self._read_groups(span)
        if not _is_of(table.slice(span.first - first, span.count), episode):  # in another order than the metadata says
            table, first = self._conforming(read_table(span.path, self._columns), span.path), 0
        end = first + table.num_rows
        for other in self._sharing[span.path]:
            part = other.rows
            is_inside = first <= part.first and part.first + part.count <= end
            if other.index == episode.index or other.index in self._cache or not is_inside or not part.count:
                continue
            if _is_of(table.slice(part.first - first, part.count), other):
                self._cache[other.index] = self._sliced(table, other, first)
        return self._sliced(table, episode, first)

    def _sliced(self, table: pa.Table, episode: Episode, first: int = 0) -> Mapping[str, np.ndarray]:
        """Return the rows of an episode out of a table that starts at row `first` of the file."""
        span = episode.rows
        rows = rows_of(table, span.first - first, span.count, episode.index, span.path, self._metadata.episodes_place)
        if span.path in self._sharing and not _is_of(rows, episode):
            numbers = column_rows(rows["episode_index"])
            raise DatasetError(
                f"{span.path}: rows {span.first} to {span.first + span.count - 1} should be of episode "
                f"{episode.index}, found {int(numbers[numbers != episode.index][0])}; restore the file from a copy"
            )
        columns = {}
        for name in rows.column_names:
            try:
                columns[name] = column_rows(rows.column(name))
            except DatasetError as error:
                raise DatasetError(f"{span.path}: column '{name}': {error}") from error
        return columns

    def _read_groups(self, span: Span) -> tuple[pa.Table, int]:
        """Read the row groups of a file that `span` is in; return them and the number of their first row."""
        file = open_table(span.path)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        wanted = [
            i for i, start in enumerate(starts[:-1]) if start < span.first + span.count and starts[i + 1] > span.first
        ]
        table = read_groups(file, span.path, wanted, self._columns)
        return self._conforming(table, span.path), int(starts[wanted[0]]) if wanted else span.first

    def _conforming(self, table: pa.Table, path: Path) -> pa.Table:
        return conforming(table, self._metadata.features, self._metadata.fps, str(path), self._scalars)


def rows_of(table: pa.Table, first: int, count: int, episode: int, path: Path, source: str) -> pa.Table:
    """Return the rows of an episode in the order of their frames.

    Args:
        table: of a whole data file, or of the part of it that starts before `first`.
        first: row of the table where the metadata places the episode.
        count: its rows.
        episode: its index.
        path: of the file, for errors.
        source: what lists the episodes, for errors.

    Raises:
        DatasetError: fewer rows.
    """
    if table.num_rows < first + count:
        raise DatasetError(f"{path}: {table.num_rows} rows, {source} says {first + count}; restore it from a copy")
    numbers = row_numbers(table, first, count, episode)
    return table.slice(first, count) if numbers is None else table.take(pa.array(numbers))


def row_numbers(table: pa.Table, first: int, count: int, episode: int) -> np.ndarray | None:
    """Return which rows of a file are an episode's, in the order of its frames; None: `count` rows from `first` on.

    Complete numbers in the rows have priority over the place in the metadata.
    """
    place = np.arange(first, min(first + count, table.num_rows))
    own = place
    if "episode_index" in table.column_names:
        numbers = column_rows(table["episode_index"])
        if (numbers[place] != episode).any():
            found = np.flatnonzero(numbers == episode)
            own = found if len(found) == count else place
    if "frame_index" in table.column_names and len(own) > 1:
        frames = column_rows(table["frame_index"])[own]
        if (np.diff(frames) <= 0).any() and len(np.unique(frames)) == len(frames):
            own = own[np.argsort(frames, kind="stable")]
    return None if np.array_equal(own, place) else own


def _is_of(rows: pa.Table, episode: Episode) -> bool:
    """Whether the rows have the number of an episode; true where they have no numbers."""
    if "episode_index" not in rows.column_names:
        return True
    return rows.num_rows == episode.length and bool((column_rows(rows["episode_index"]) == episode.index).all())

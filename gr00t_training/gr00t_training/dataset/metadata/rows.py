# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The rows of an episode in its data file, in the order of its frames.

Complete numbers in the rows have priority over the place in the metadata.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from gr00t_training.dataset.metadata.columns import column_rows
from gr00t_training.dataset.metadata.episode_list import Episode, EpisodeList, Span
from gr00t_training.dataset.metadata.model import DatasetMetadata
from gr00t_training.dataset.metadata.row_groups import RowGroups
from gr00t_training.dataset.metadata.tables import conforming, open_table, read_table
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
        self._groups = RowGroups()

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
        end = open_table(episode.rows.path).metadata.num_rows
        if self._metadata.is_v3:
            starts = self._listed.rows.first[self._in_same_file(episode)]
            end = min(end, int(starts[starts > first].min(initial=end)))
        return max(0, end - first)

    @property
    def _listed(self) -> EpisodeList:
        assert isinstance(self._metadata.episodes, EpisodeList)
        return self._metadata.episodes

    def _in_same_file(self, episode: Episode) -> np.ndarray:
        """Return the positions of the episodes whose rows are in the file of `episode`."""
        files, position = self._listed.rows.file, self._listed.position(episode.index)
        return np.flatnonzero(files == files[position])

    def _read(self, episode: Episode) -> Mapping[str, np.ndarray]:
        path = episode.rows.path
        if not episode.length:
            return {name: np.zeros(0) for name in self._columns}
        if self._metadata.is_v3:
            return self._read_shared(episode)
        return self._sliced(self._conforming(read_table(path, self._columns), path), episode)

    def _read_shared(self, episode: Episode) -> Mapping[str, np.ndarray]:
        """Read the row groups that an episode is in, and keep the other episodes that are whole in them."""
        span = episode.rows
        opened = self._groups.open(span.path)
        table, first = self._groups.read(span.path, opened.groups_of(span.first, span.count), self._columns)
        table = self._conforming(table, span.path)
        if not _is_of(table.slice(span.first - first, span.count), episode):  # in another order than the metadata says
            table, first = self._conforming(read_table(span.path, self._columns), span.path), 0
        for other in self._inside(episode, first, first + table.num_rows):
            part = other.rows
            if other.index == episode.index or other.index in self._cache:
                continue
            if _is_of(table.slice(part.first - first, part.count), other):
                self._cache[other.index] = self._sliced(table, other, first)
        return self._sliced(table, episode, first)

    def _inside(self, episode: Episode, first: int, end: int) -> Iterator[Episode]:
        """Yield the episodes of the same file that are whole within its rows `first` to `end`, as many as are kept."""
        positions = self._in_same_file(episode)
        starts, lengths = self._listed.rows.first[positions], self._listed.length[positions]
        inside = positions[(starts >= first) & (starts + lengths <= end) & (lengths > 0)]
        for position in inside[: CACHED_EPISODES - 1]:
            yield self._listed[int(position)]

    def _sliced(self, table: pa.Table, episode: Episode, first: int = 0) -> Mapping[str, np.ndarray]:
        """Return the rows of an episode out of a table that starts at row `first` of the file."""
        span = episode.rows
        rows = rows_of(table, span.first - first, span.count, episode.index, span.path, self._metadata.episodes_place)
        if self._metadata.is_v3 and not _is_of(rows, episode):
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
    check_count(table.num_rows, Span(path, first, count), source)
    numbers = row_numbers(table, first, count, episode)
    return table.slice(first, count) if numbers is None else table.take(pa.array(numbers))


def check_count(num_rows: int, span: Span, source: str) -> None:
    """Raise DatasetError when a file with `num_rows` rows does not have those of `span`, which `source` lists."""
    if num_rows < span.first + span.count:
        raise DatasetError(
            f"{span.path}: {num_rows} rows, {source} says {span.first + span.count}; restore it from a copy"
        )


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

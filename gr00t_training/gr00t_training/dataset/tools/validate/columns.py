# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The rows of all episodes, as checks compare them over the dataset; those beyond some megabytes wait on the disk."""

from __future__ import annotations

import functools
import tempfile
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from gr00t_training.dataset.statistics.stored_rows import StoredRows
from gr00t_training.errors import DatasetError


class CheckedColumn:
    """One column over the episodes that have it."""

    def __init__(self) -> None:
        self.rows = StoredRows()
        self.is_finite = True  # no NaN, no infinity
        self.is_uniform = True  # of one width
        self.low: np.ndarray | None = None  # (D,) of the finite values; infinite where there is none
        self.high: np.ndarray | None = None
        self._shape: tuple[int, ...] | None = None  # of a row
        self._episodes, self._lengths = array("q"), array("q")  # of those with rows

    def add(self, episode: int, values: np.ndarray) -> None:
        """Add the values of an episode, `(N,)` or `(N, D)`, N > 0."""
        self._shape = self._shape or values.shape[1:]
        self.is_uniform = self.is_uniform and self._shape == values.shape[1:]
        if not self.is_uniform:
            return
        rows = values.reshape(len(values), -1)
        with np.errstate(over="ignore"):  # statistics are of float32
            are_finite = np.isfinite(rows.astype(np.float32))
        self.is_finite = self.is_finite and bool(are_finite.all())
        low = np.where(are_finite, rows, np.inf).min(axis=0)
        high = np.where(are_finite, rows, -np.inf).max(axis=0)
        self.low = low if self.low is None else np.minimum(self.low, low)
        self.high = high if self.high is None else np.maximum(self.high, high)
        self._episodes.append(episode)
        self._lengths.append(len(rows))
        try:
            self.rows.add(rows)
        except OSError as error:
            raise DatasetError(
                f"{tempfile.gettempdir()}: cannot hold the rows that are checked ({error.strerror}); free some space, "
                "or set TMPDIR to another folder"
            ) from error

    def of(self, episode: int) -> np.ndarray | None:
        """Return the values of an episode, `(N, D)`; None: it has none."""
        span = self._spans.get(episode)
        return None if span is None else self.rows.read(*span)

    def parts(self) -> Iterator[np.ndarray]:
        """Yield the values of each episode that has some, `(N, D)`."""
        for span in self._spans.values():
            yield self.rows.read(*span)

    @functools.cached_property
    def _spans(self) -> Mapping[int, tuple[int, int]]:
        """First row and number of rows by episode; asked for when all are added."""
        firsts = np.cumsum(np.array(self._lengths, np.int64)) - self._lengths
        return dict(zip(self._episodes, zip(firsts.tolist(), self._lengths, strict=True), strict=True))


class CheckedColumns:
    """The columns of floating point numbers, and `others` that checks ask for, over all episodes."""

    def __init__(self, others: Collection[str] = ()) -> None:
        self.num_episodes = 0
        self._others = others
        self._columns: dict[str, CheckedColumn | None] = {}  # None: of other numbers
        self._num_having: Counter[str] = Counter()  # episodes, those without rows included

    def add(self, episode: int, rows: Mapping[str, np.ndarray]) -> None:
        """Add the columns of an episode.

        Raises:
            DatasetError: the temporary folder is full.
        """
        self.num_episodes += 1
        for name, values in rows.items():
            self._num_having[name] += 1
            if not len(values):
                continue
            if name not in self._columns:
                is_needed = values.dtype.kind == "f" or name in self._others
                self._columns[name] = CheckedColumn() if is_needed else None
            column = self._columns[name]
            if column is not None:
                column.add(episode, values)

    def get(self, name: str) -> CheckedColumn | None:
        """Return a column; None: no episode has rows of it."""
        return self._columns.get(name)

    def floats(self) -> list[str]:
        """Return the names of the columns whose first rows are floating point numbers, sorted."""
        return sorted(name for name, column in self._columns.items() if column is not None and column.rows.is_float)

    def is_everywhere(self, name: str) -> bool:
        """Whether every episode has a column."""
        return self._num_having[name] == self.num_episodes

    def close(self) -> None:
        """Remove what is on the disk."""
        for column in self._columns.values():
            if column is not None:
                column.rows.close()

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read the row groups of shared data files (v3.0) that an episode is in; the last file stays open.

A file may have 50,000 row groups: its footer then takes longer to read than an episode.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset.metadata.tables import RESTORE, open_table, read_groups
from gr00t_training.io.mirror import Held


@dataclass(frozen=True, eq=False)
class OpenFile:
    """A data file with the first row of each of its row groups, and the number of rows at the end."""

    path: Path
    file: pq.ParquetFile
    starts: list[int]

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return self.starts[-1]

    def groups_of(self, first: int, count: int) -> range:
        """Return the row groups that `count` rows from row `first` on are in; none beyond the end."""
        begin = bisect.bisect_right(self.starts, first) - 1
        end = bisect.bisect_left(self.starts, first + count)
        last = len(self.starts) - 1
        return range(min(begin, last), min(end, last))


class RowGroups:
    """Reads parts of data files; for one thread."""

    def __init__(self) -> None:
        self._open: OpenFile | None = None
        self._held: Held | None = None

    def open(self, path: Path, remedy: str = RESTORE) -> OpenFile:
        """Return a file, the one of before if it is the same; DatasetError: it cannot be read."""
        if self._open is None or self._open.path != path:
            if self._held is not None:
                self._held.close()
            self._held = Held(path)
            file = open_table(path, remedy)
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
            self._open = OpenFile(path, file, np.concatenate([[0], np.cumsum(sizes)]).astype(int).tolist())
        return self._open

    def read(
        self, path: Path, groups: range, columns: Sequence[str] | None = None, remedy: str = RESTORE
    ) -> tuple[pa.Table, int]:
        """Return the rows of some row groups, and the number of the first row; DatasetError: they cannot be read."""
        opened = self.open(path, remedy)
        table = read_groups(opened.file, path, list(groups), columns, remedy)
        return table, opened.starts[groups.start]

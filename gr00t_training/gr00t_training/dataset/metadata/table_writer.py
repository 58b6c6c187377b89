# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Write one file of v3.0's episodes table in row groups, so that only one of them is in memory.

The columns of a table are those of all its rows. A row group with a new column or a wider type is rare (another tool
marked one episode): what is written by then is written again with the joined columns.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset.metadata.episodes_table import rows_table
from gr00t_training.dataset.schema import STAGED_SUFFIX
from gr00t_training.errors import DatasetError

GROUP_ROWS = 1000  # about 2 MB for an arm of seven joints


class EpisodesTableWriter:
    """A file of the table being written; close it, or discard it after an error."""

    def __init__(self, path: Path) -> None:
        """Write to `path`, which must not exist yet."""
        self.path = path
        self.num_rows = 0
        self._waiting: list[Mapping[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None

    @property
    def num_bytes(self) -> int:
        """Size of the file so far, without the rows that wait for their group to be full."""
        return self.path.stat().st_size if self._writer is not None else 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row of `episodes_table.full_row`; DatasetError: it does not fit the rows before."""
        self._waiting.append(row)
        self.num_rows += 1
        if len(self._waiting) == GROUP_ROWS:
            self._write_group()

    def close(self) -> None:
        """Finish the file; raises as `add` does."""
        if self._waiting:
            self._write_group()
        if self._writer is not None:
            self._writer.close()

    def discard(self) -> None:
        """Close the file without its last rows."""
        if self._writer is not None:
            self._writer.close()

    def _write_group(self) -> None:
        table = rows_table(self._waiting)
        self._waiting = []
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, table.schema, compression="snappy")
        joined = _joined(self._writer.schema, table.schema)
        if joined != self._writer.schema:
            self._widen(joined)
        self._writer.write_table(_as(table, joined))

    def _widen(self, columns: pa.Schema) -> None:
        """Write the groups so far again, with more columns."""
        assert self._writer is not None
        self._writer.close()
        before = self.path.with_name(self.path.name + STAGED_SUFFIX)
        os.replace(self.path, before)
        self._writer = pq.ParquetWriter(self.path, columns, compression="snappy")
        file = pq.ParquetFile(before)
        for group in range(file.num_row_groups):
            self._writer.write_table(_as(file.read_row_group(group), columns))
        before.unlink()


def _joined(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    try:
        return pa.unify_schemas([one, other], promote_options="permissive")
    except pa.ArrowException as error:
        raise DatasetError(f"the entries of the episodes do not fit a table ({error}); correct the lists") from error


def _as(table: pa.Table, columns: pa.Schema) -> pa.Table:
    return pa.concat_tables([columns.empty_table(), table], promote_options="permissive")

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read parquet files of any writer and convert their columns to one form.

The declared sizes are checked before pages are read: some kilobytes may unpack to many gigabytes. Large lists,
dictionaries, lists of one, numbers as text and times in nanoseconds are converted to the types that the suite and its
readers use; columns that have these types already are returned unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.columns import column_rows, is_list, is_number, is_text, leaf_is_text
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import check_regular
from gr00t_training.io.mirror import Held
from gr00t_training.io.text import printable

MAX_FILE_ROWS = 5 * 10**7
MAX_COLUMNS = 10_000
MAX_BYTES = 4 * 2**30  # of the columns of one file once they are unpacked
# Below the first number any ratio is harmless; files of robots unpack to less than ten times their size.
BOMB_BYTES, BOMB_RATIO = 128 * 2**20, 100

RESTORE = "restore it from a copy"

SCALAR_COLUMNS = (*schema.INDEX_COLUMNS, schema.TIMESTAMP_COLUMN)  # one number a row, whatever is declared
_TICKS_PER_S = (1e9, 1e6, 1e3)
_ITEM_BYTES = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
_READ_ERRORS = (OSError, pa.ArrowException, ValueError, KeyError, TypeError, OverflowError)


def open_table(path: Path, remedy: str = RESTORE) -> pq.ParquetFile:
    """Open a parquet file without reading rows.

    Raises:
        DatasetError: missing, no regular file, a Git LFS pointer, damaged, or of more rows or columns than any dataset.
    """
    with Held(path):
        check_regular(path, DatasetError)
        try:
            file = pq.ParquetFile(path)
            _ = file.schema_arrow
        except _READ_ERRORS as error:
            raise DatasetError(_unreadable(path, error, remedy)) from error
    metadata = file.metadata
    if not 0 <= metadata.num_rows <= MAX_FILE_ROWS or metadata.num_columns > MAX_COLUMNS:
        raise DatasetError(
            f"{path}: declares {metadata.num_rows} rows and {metadata.num_columns} columns (limits {MAX_FILE_ROWS} and "
            f"{MAX_COLUMNS}); {remedy}"
        )
    return file


def read_table(path: Path, columns: Sequence[str] | None = None, remedy: str = RESTORE) -> pa.Table:
    """Read the rows of a parquet file, or those of `columns` that it has.

    Raises:
        DatasetError: as `open_table`, or it unpacks to too much.
    """
    with Held(path):
        return read_groups(open_table(path, remedy), path, None, columns, remedy)


def read_groups(
    file: pq.ParquetFile,
    path: Path,
    groups: Sequence[int] | None,
    columns: Sequence[str] | None = None,
    remedy: str = RESTORE,
) -> pa.Table:
    """Read some row groups of an open file, None: all; raises as `read_table` does."""
    names = file.schema_arrow.names
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise DatasetError(f"{path}: duplicate column '{printable(repeated)}'; {remedy}")
    wanted = names if columns is None else [name for name in columns if name in names]
    numbers = range(file.metadata.num_row_groups) if groups is None else groups
    try:
        _check_bytes(file, path, numbers, set(wanted))
        if groups is None:
            return file.read(columns=wanted)
        return file.read_row_groups(list(groups), columns=wanted)
    except _READ_ERRORS as error:
        raise DatasetError(_unreadable(path, error, remedy)) from error


def conforming(
    table: pa.Table, features: Mapping[str, Any], fps: float, subject: str, scalars: Collection[str] = ()
) -> pa.Table:
    """Return the table with every column in the form that the suite knows; columns that have it stay as they are.

    Args:
        table: of a data file.
        features: normalized, of `info.json`.
        fps: rate of the dataset, for times that are not in seconds.
        subject: file, for errors.
        scalars: columns in addition to `SCALAR_COLUMNS` that hold one value a row.

    Raises:
        DatasetError: a column that cannot be understood; names file, column, found and expected.
    """
    is_changed = False
    for place, name in enumerate(table.column_names):
        try:
            column = _conforming(table.column(name), name, features.get(name), fps, name in scalars)
        except (pa.ArrowException, ValueError) as error:
            raise DatasetError(f"{subject}: column '{printable(name)}' cannot be read ({error})") from error
        except DatasetError as error:
            raise DatasetError(f"{subject}: column '{printable(name)}': {error}") from error
        if column is not table.column(name) and column.type != table.column(name).type:
            table = table.set_column(place, name, column)
            is_changed = True
    if is_changed and table.schema.metadata:  # its types are out of date
        kept = {key: value for key, value in table.schema.metadata.items() if key != b"huggingface"}
        table = table.replace_schema_metadata(kept or None)
    return table


def _conforming(
    column: pa.ChunkedArray, name: str, feature: Mapping[str, Any] | None, fps: float, is_scalar: bool
) -> pa.ChunkedArray:
    column = plain_column(column)
    if (is_scalar or name in SCALAR_COLUMNS) and is_list(column.type):
        values = column_rows(column)
        if values.shape[1:] != (1,):
            raise DatasetError(f"rows are lists of {values.shape[1]} ({column.type}), expected one number a row")
        column = pa.chunked_array([pa.array(values[:, 0])])
    if name == schema.TIMESTAMP_COLUMN:
        return _seconds(column, fps)
    if name in schema.INDEX_COLUMNS:
        return _whole_numbers(column, name)
    if feature is not None and len(feature["shape"]) == 1 and is_list(column.type) and is_list(column.type.value_type):
        column = _flat(column)
    dtype = feature["dtype"] if feature is not None else ""
    if dtype.startswith(("float", "int", "uint")) and leaf_is_text(column.type):
        return _from_texts(column, feature or {})
    return column


def plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column without extension types, dictionaries, views and large offsets."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
        return plain_column(column)
    target = _plain_type(kind)
    return column if target == kind else column.cast(target)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if is_text(kind):
        return pa.string()
    if is_list(kind) and not pa.types.is_fixed_size_list(kind):
        item = _plain_type(kind.value_type)
        return kind if pa.types.is_list(kind) and item == kind.value_type else pa.list_(item)
    return kind


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return lists in lists as lists of all their values."""
    values = column_rows(column)
    item = column.type.value_type
    while is_list(item):
        item = item.value_type
    offsets = pa.array(np.arange(len(values) + 1) * values.shape[1], pa.int32())
    return pa.chunked_array([pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1), item))])


def _whole_numbers(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    if pa.types.is_integer(column.type):
        return column
    if name == schema.TASK_COLUMN and is_text(column.type) and not _are_numbers(column):
        return column  # the text itself instead of its number
    if not (is_text(column.type) or is_number(column.type)):
        raise DatasetError(f"holds {column.type}, expected whole numbers")
    return column.cast(pa.float64()).cast(pa.int64())


def _are_numbers(column: pa.ChunkedArray) -> bool:
    return all(value is not None and value.strip().isdecimal() for value in column.unique().to_pylist())


def _seconds(column: pa.ChunkedArray, fps: float) -> pa.ChunkedArray:
    """Return times as seconds where they are counts of ns, us or ms: one step is then about 1 / fps of such a unit."""
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        column = column.cast(pa.int64())
    elif is_text(kind):
        column = column.cast(pa.float64())
    elif pa.types.is_floating(kind):
        return column
    if not pa.types.is_integer(column.type):
        raise DatasetError(f"holds {kind}, expected seconds as float32")
    ticks = column_rows(column).astype(np.float64)
    if len(ticks) < 2:
        return pa.chunked_array([pa.array(ticks - (ticks[0] if len(ticks) else 0))])
    step = float(np.median(np.diff(ticks)))
    for per_s in _TICKS_PER_S:
        if abs(step * fps / per_s - 1) < 0.01:
            return pa.chunked_array([pa.array(ticks / per_s)])
    raise DatasetError(f"holds {kind} in steps of {step:g}, expected seconds in steps of {1 / fps:.4f}")


def _from_texts(column: pa.ChunkedArray, feature: Mapping[str, Any]) -> pa.ChunkedArray:
    kind: Callable[..., Any] = float if feature["dtype"].startswith("float") else int
    values = column_rows(column)
    try:
        numbers = np.array([kind(text) for text in values.reshape(-1)], np.float64 if kind is float else np.int64)
    except (ValueError, OverflowError) as error:
        raise DatasetError(f"holds texts, expected numbers ({error})") from error
    if values.ndim == 1:
        return pa.chunked_array([pa.array(numbers)])
    return pa.chunked_array([pa.array(list(numbers.reshape(values.shape)))])


def _check_bytes(file: pq.ParquetFile, path: Path, groups: Sequence[int], names: Collection[str]) -> None:
    """Refuse columns that unpack to more than any dataset holds, by what the file declares."""
    parts = [(number, file.schema.column(number)) for number in range(file.metadata.num_columns)]
    wanted = [
        (number, part.path, part.length)
        for number, part in parts
        if any(part.path == name or part.path.startswith(name + ".") for name in names)
    ]
    sizes: dict[str, int] = dict.fromkeys((path for _, path, _ in wanted), 0)
    for group in groups:
        row_group = file.metadata.row_group(group)
        for number, name, item_length in wanted:
            sizes[name] += _unpacked_bytes(row_group.column(number), item_length)
    num_bytes = path.stat().st_size
    limit = min(MAX_BYTES, max(BOMB_BYTES, BOMB_RATIO * num_bytes))
    if sum(sizes.values()) > limit:  # many equal texts share one entry: count these exactly
        for name in [part.path for _, part in parts if part.physical_type == "BYTE_ARRAY" and part.path in sizes]:
            sizes[name] = min(sizes[name], _text_bytes(path, name, groups))
    if sum(sizes.values()) > limit:
        largest = max(sizes, key=lambda name: sizes[name])
        raise DatasetError(
            f"{path}: {num_bytes / 2**20:.1f} MiB that unpack to {sum(sizes.values()) / 2**20:.0f} MiB (limit "
            f"{limit / 2**20:.0f} MiB), most of it in column '{printable(largest)}'; is it the right file?"
        )


def _unpacked_bytes(chunk: Any, item_length: int) -> int:
    if chunk.physical_type == "FIXED_LEN_BYTE_ARRAY":
        return max(chunk.num_values * max(item_length, 1), chunk.total_uncompressed_size)
    if chunk.physical_type != "BYTE_ARRAY":
        return max(chunk.num_values * _ITEM_BYTES[chunk.physical_type], chunk.total_uncompressed_size)
    is_shared = any("DICTIONARY" in encoding for encoding in chunk.encodings)
    return chunk.total_uncompressed_size * (max(chunk.num_values, 1) if is_shared else 1)


def _text_bytes(path: Path, name: str, groups: Sequence[int]) -> int:
    """Return the size of a column of texts or bytes, read with each different value once."""
    file = pq.ParquetFile(path, read_dictionary=[name])
    table = file.read_row_groups(list(groups), columns=[name])
    return sum(_shared_bytes(chunk) for chunk in table.column(0).chunks)


def _shared_bytes(array: pa.Array) -> int:
    if isinstance(array, pa.DictionaryArray):
        lengths = pc.call_function("binary_length", [array.dictionary]).fill_null(0).to_numpy(zero_copy_only=False)
        indices = array.indices.drop_null().to_numpy(zero_copy_only=False)
        return int(lengths.astype(np.int64)[indices].sum()) if len(lengths) else 0
    if isinstance(array, pa.StructArray):
        return sum(_shared_bytes(field) for field in array.flatten())
    if is_list(array.type):
        return _shared_bytes(array.values)
    return array.nbytes


def _unreadable(path: Path, error: Exception, remedy: str) -> str:
    return f"{path}: cannot be read ({printable(' '.join(str(error).split()), 300)}); {remedy}"

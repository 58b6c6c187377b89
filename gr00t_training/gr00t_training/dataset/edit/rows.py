# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Rows of an episode under new numbers: index columns and tasks change, everything else stays as it is stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.errors import DatasetError

# lerobot's tolerance on times [s]
TIME_TOLERANCE_S = 1e-4

_SCALARS = {
    "float32": pa.float32(),
    "float64": pa.float64(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "bool": pa.bool_(),
    "string": pa.string(),
}


def renumbered(
    table: pa.Table, *, episode_index: int, first_index: int, task_numbers: Mapping[str, Callable[[int], int]]
) -> pa.Table:
    """Return the rows as those of episode `episode_index` whose first row is row `first_index` of the dataset.

    Args:
        task_numbers: old number -> new, for each column that holds numbers of tasks.
    """
    count = table.num_rows
    columns: dict[str, np.ndarray] = {
        "frame_index": np.arange(count),
        "episode_index": np.full(count, episode_index),
        "index": np.arange(first_index, first_index + count),
    }
    for name, new_number in task_numbers.items():
        if name in table.column_names:
            old, places = np.unique(schema.column_rows(table[name]), return_inverse=True)
            columns[name] = np.array([new_number(int(number)) for number in old], np.int64)[places]
    for name, values in columns.items():
        if name in table.column_names:
            table = _replaced(table, name, values)
    return table


def restarted(table: pa.Table, fps: float, subject: str) -> pa.Table:
    """Return the rows with times k / fps.

    Raises:
        DatasetError: their times step by something else: rows are missing, which new times would hide.
    """
    times = schema.column_rows(table[schema.TIMESTAMP_COLUMN]).astype(np.float64)
    grid = np.arange(len(times)) / fps
    off = np.abs(times - times[0] - grid) if len(times) else grid
    # single steps may be off by lerobot's tolerance; sums of float32 times of 1000 s by as much
    wrong = np.flatnonzero(off > TIME_TOLERANCE_S * (1 + grid))
    if wrong.size:
        row = int(wrong[0])
        raise DatasetError(
            f"{subject}: row {row} is at {times[row] - times[0]:.4f} s, expected {grid[row]:.4f} s at {fps:g} Hz: rows "
            "are missing or the rate is wrong; repair the dataset or leave the episode out"
        )
    return _replaced(table, schema.TIMESTAMP_COLUMN, grid)


def normalised(table: pa.Table, features: Mapping[str, Any], subject: str) -> pa.Table:
    """Return the columns of `features` in their order, each in the parquet type that every reader takes.

    Raises:
        DatasetError: a column is missing or does not fit its feature.
    """
    arrays, fields, described = [], [], {}
    for name, feature in features.items():
        if feature["dtype"] == "video":
            continue
        if name == "frame_index" and name not in table.column_names:  # NVIDIA's older sets have none
            column = pa.chunked_array([pa.array(np.arange(table.num_rows))])
        elif name not in table.column_names:
            raise DatasetError(
                f"{subject}: no column '{name}', which {schema.INFO_FILE} declares; leave the episode out"
            )
        else:
            column = table[name]
        kind = _SCALARS.get(feature["dtype"])
        try:
            if kind is not None and feature["shape"] == [1]:
                if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
                    column = pa.chunked_array([schema.column_rows(column)[:, 0]])
                column = column.cast(kind)
                described[name] = {"dtype": feature["dtype"], "_type": "Value"}
            elif kind is not None and len(feature["shape"]) == 1:
                column = _vectors(column, kind, feature["shape"][0])
                value = {"dtype": feature["dtype"], "_type": "Value"}
                described[name] = {"feature": value, "length": feature["shape"][0], "_type": "Sequence"}
        except (pa.ArrowException, DatasetError, IndexError) as error:
            raise DatasetError(
                f"{subject}: column '{name}' of {column.type} does not fit its feature {feature['dtype']} "
                f"{feature['shape']} ({error}); correct {schema.INFO_FILE} or leave the episode out"
            ) from error
        arrays.append(column)
        fields.append(pa.field(name, column.type))
    metadata = table.schema.metadata
    if len(described) == len(fields):
        metadata = {b"huggingface": json.dumps({"info": {"features": described}}).encode()}
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=metadata))


def column_values(column: pa.ChunkedArray) -> np.ndarray | None:
    """Return a column of numbers as `(N,)` or `(N, D)`, arrays flattened; None where it holds something else."""
    kind = column.type
    while isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    depth = 0
    while pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
        kind, depth = kind.value_type, depth + 1
    if pa.types.is_boolean(kind):
        return np.array(column.to_pylist(), np.int64).reshape(len(column), -1)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    if depth > 1:
        return np.array(column.to_pylist()).reshape(len(column), -1)
    return schema.column_rows(column)


def _vectors(column: pa.ChunkedArray, kind: pa.DataType, width: int) -> pa.ChunkedArray:
    values = schema.column_rows(column)
    if values.ndim != 2 or values.shape[1] != width:
        raise DatasetError(f"rows of {values.shape[1:]} values")
    flat = pa.array(np.ascontiguousarray(values).reshape(-1)).cast(kind)
    array = pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(pa.field("element", kind), width))
    return pa.chunked_array([array])


def _replaced(table: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    position = table.schema.get_field_index(name)
    field = table.schema.field(position)
    if pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type):
        raise DatasetError(f"column '{name}' holds lists ({field.type}), expected one number a row")
    return table.set_column(position, field, pa.array(values).cast(field.type, safe=False))

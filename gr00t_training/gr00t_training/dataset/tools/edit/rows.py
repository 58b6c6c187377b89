# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Rows of an episode under new numbers: index columns and tasks change, everything else stays as stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.columns import column_rows, holds_flags, holds_numbers, is_list, is_text
from gr00t_training.dataset.metadata.features import is_video
from gr00t_training.errors import DatasetError

# lerobot's tolerance on times [s]
TIME_TOLERANCE_S = 1e-4

_SCALARS = {
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
    "bool": pa.bool_(),
    "string": pa.string(),
}


def renumbered(
    table: pa.Table,
    *,
    episode_index: int,
    first_index: int,
    task_numbers: Mapping[str, Callable[[int], int]],
    task_texts: Mapping[str, Callable[[str], str]],
) -> pa.Table:
    """Return the rows as those of episode `episode_index` whose first row is row `first_index` of the dataset.

    Args:
        task_numbers: old number -> new, for each column that may hold numbers of tasks.
        task_texts: old text -> new, for the same columns where another tool stored the texts themselves.
    """
    count = table.num_rows
    columns: dict[str, np.ndarray] = {
        "frame_index": np.arange(count),
        "episode_index": np.full(count, episode_index),
        "index": np.arange(first_index, first_index + count),
    }
    for name in [name for name in task_numbers if name in table.column_names]:
        if is_text(table.schema.field(name).type):
            texts = [task_texts[name](text) for text in table[name].to_pylist()]
            table = table.set_column(table.column_names.index(name), name, pa.array(texts, pa.string()))
            continue
        if (found := numbers_of_tasks(table, name)) is not None:
            old, places = np.unique(found, return_inverse=True)
            columns[name] = np.array([task_numbers[name](int(number)) for number in old], np.int64)[places]
    for name, values in columns.items():
        if name in table.column_names:
            table = _replaced(table, name, values)
    return table


def numbers_of_tasks(table: pa.Table, name: str) -> np.ndarray | None:
    """Return the task numbers of a column `(N,)`; None if it holds texts or flags instead.

    Raises:
        DatasetError: numbers that are not whole.
    """
    kind = table.schema.field(name).type
    if not holds_numbers(kind):
        return None
    values = column_rows(table[name])
    if values.ndim > 1 or not (np.isfinite(values).all() and (values % 1 == 0).all()):
        raise DatasetError(f"column '{name}' of {kind} holds no task numbers; correct {schema.MODALITY_FILE}")
    return values


def restarted(table: pa.Table, fps: float, subject: str) -> pa.Table:
    """Return the rows with times k / fps.

    Raises:
        DatasetError: their times step by something else: rows are missing, which new times would hide.
    """
    if schema.TIMESTAMP_COLUMN not in table.column_names:
        raise DatasetError(f"{subject}: no column '{schema.TIMESTAMP_COLUMN}'; add it with gr00t_dataset repair")
    times = column_rows(table[schema.TIMESTAMP_COLUMN]).astype(np.float64)
    grid = np.arange(len(times)) / fps
    off = np.abs(times - times[0] - grid) if len(times) else grid
    # single steps may be off by lerobot's tolerance; sums of float32 times of 1000 s by as much
    wrong = np.flatnonzero(off > TIME_TOLERANCE_S * (1 + grid))
    if wrong.size:
        row = int(wrong[0])
        raise DatasetError(
            f"{subject}: row {row} is at {times[row] - times[0]:.4f} s, expected {grid[row]:.4f} s at {fps:g} Hz: rows "
            "are missing or the rate is wrong; see gr00t_dataset validate, or leave the episode out"
        )
    return _replaced(table, schema.TIMESTAMP_COLUMN, grid)


def normalised(table: pa.Table, features: Mapping[str, Any], subject: str) -> pa.Table:
    """Return the columns of `features` in their order, each in the parquet type that every reader takes.

    Raises:
        DatasetError: a column is missing or does not fit its feature.
    """
    arrays, fields, described = [], [], {}
    for name, feature in features.items():
        if is_video(feature):
            continue
        if name in schema.NUMBERING_COLUMNS and name not in table.column_names:  # missing in NVIDIA's older sets
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
                if is_list(column.type):
                    column = _scalars(column)
                column = column.cast(kind)
                described[name] = {"dtype": feature["dtype"], "_type": "Value"}
            elif kind is not None and len(feature["shape"]) == 1:
                column = _vectors(column, kind, feature["shape"][0])
                value = {"dtype": feature["dtype"], "_type": "Value"}
                described[name] = {"feature": value, "length": feature["shape"][0], "_type": "Sequence"}
        except (pa.ArrowException, DatasetError) as error:
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
    """Return a column of numbers as `(N,)` or `(N, D)`, arrays flattened; None if it holds something else.

    Raises:
        DatasetError: empty values, or rows of different lengths.
    """
    if holds_flags(column.type):
        return column_rows(column).astype(np.int64).reshape(len(column), -1)
    if not holds_numbers(column.type):
        return None
    values = column_rows(column)
    return values if values.size or not len(values) else None  # of width 0 there is nothing to say


def _scalars(column: pa.ChunkedArray) -> pa.ChunkedArray:
    values = column_rows(column)
    if len(values) and values.shape[1] != 1:
        raise DatasetError(f"rows of {values.shape[1]} values")
    return pa.chunked_array([pa.array(values.reshape(-1))])


def _vectors(column: pa.ChunkedArray, kind: pa.DataType, width: int) -> pa.ChunkedArray:
    values = column_rows(column)
    if len(values) and values.shape[1:] != (width,):
        raise DatasetError(f"rows of {values.shape[1] if values.ndim > 1 else 1} values")
    item = pa.field("element", kind)
    if not width:  # lists of a fixed width of 0 end the process inside the library
        return pa.chunked_array([pa.array([[]] * len(values), pa.list_(item))])
    flat = pa.array(np.ascontiguousarray(values).reshape(-1)).cast(kind)
    return pa.chunked_array([pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(item, width))])


def _replaced(table: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    position = table.schema.get_field_index(name)
    field = table.schema.field(position)
    if is_list(field.type):
        raise DatasetError(f"column '{name}' holds lists ({field.type}), expected one number a row")
    return table.set_column(position, field, pa.array(values).cast(field.type, safe=False))

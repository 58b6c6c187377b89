# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Parquet files changed at random: types, widths, nulls, order, names and numbers of columns."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def change_table(path: Path, rng: random.Random) -> None:
    """Write the table in `path` again with one thing changed."""
    pa.set_cpu_count(1)
    try:
        table = pq.ParquetFile(path).read(use_threads=False)
    except (OSError, pa.ArrowException):
        return
    for _ in range(5):
        try:
            changed = rng.choice([_type, _type, _values, _values, _rows, _columns])(table, rng)
            pq.write_table(changed, path)
            return
        except (pa.ArrowException, ValueError, TypeError, OverflowError, KeyError):
            continue


def _type(table: pa.Table, rng: random.Random) -> pa.Table:
    """Give a column another type."""
    name = rng.choice(table.column_names)
    column = table[name].combine_chunks()
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    if is_list:
        item = kind.value_type
        values: list[Any] = column.to_pylist()
        new = rng.choice(
            [
                lambda: column.cast(pa.large_list(item)),
                lambda: pa.array([[row] for row in values], pa.list_(pa.list_(item))),
                lambda: pa.array([row[:1] for row in values], pa.list_(item)),
                lambda: pa.array([row[0] for row in values], item),
                lambda: pa.array([[] for _ in values], pa.list_(item)),
                lambda: pa.array([row[: rng.randrange(len(row) + 1)] for row in values], pa.list_(item)),
                lambda: pa.array([list(map(str, row)) for row in values], pa.list_(pa.string())),
                lambda: column.cast(pa.list_(pa.float64())),
                lambda: column.cast(pa.list_(pa.float16())),
                lambda: pa.array([{"a": row} for row in values]),
                lambda: pa.array([row * 20 for row in values], pa.list_(item)),
                lambda: pa.array([b"bytes"] * len(values)),
            ]
        )()
    else:
        values = column.to_pylist()
        new = rng.choice(
            [
                lambda: pa.array([[value] for value in values]),
                lambda: pa.array(list(map(str, values))),
                lambda: pa.array(list(map(str, values)), pa.large_string()),
                lambda: column.dictionary_encode(),
                lambda: column.cast(pa.float64()),
                lambda: pa.array(np.asarray(values, np.float16)),
                lambda: pa.array([int(value * 1e9) for value in values], pa.int64()),
                lambda: pa.array([int(value * 1e9) for value in values], pa.timestamp("ns")),
                lambda: column.cast(pa.int8()),
                lambda: column.cast(pa.uint64()),
                lambda: pa.array([value > 0 for value in values]),
                lambda: pa.nulls(len(values)),
                lambda: pa.array([{"bytes": b"\x89PNG", "path": "x"} for _ in values]),
                lambda: pa.array(["lift the cube"] * len(values)),
            ]
        )()
    return table.set_column(table.column_names.index(name), name, new)


def _values(table: pa.Table, rng: random.Random) -> pa.Table:
    """Change numbers, or take some away."""
    name = rng.choice(table.column_names)
    column = table[name].combine_chunks()
    values = column.to_pylist()
    if not values:
        return table
    place = rng.randrange(len(values))
    hostile = rng.choice([None, float("nan"), float("inf"), 1e300, -1, 10**15, 0, 2**62])
    if isinstance(values[place], list) and values[place] and rng.random() < 0.8:
        values[place] = [hostile, *values[place][1:]]
    elif rng.random() < 0.3:
        values = [hostile] * len(values)
    else:
        values[place] = hostile
    return table.set_column(table.column_names.index(name), name, pa.array(values, column.type))


def _rows(table: pa.Table, rng: random.Random) -> pa.Table:
    """Change the order or the number of rows."""
    count = table.num_rows
    order = list(range(count))
    way = rng.randrange(6)
    if way == 0:
        rng.shuffle(order)
    elif way == 1:
        order.reverse()
    elif way == 2:
        order = order[: rng.randrange(count + 1)]
    elif way == 3:
        order += order
    elif way == 4:
        order = order[count // 2 :] + order[: count // 2]
    else:
        order = []
    return table.take(pa.array(order, pa.int64()))


def _columns(table: pa.Table, rng: random.Random) -> pa.Table:
    """Take away, rename, repeat or add columns."""
    name = rng.choice(table.column_names)
    count = table.num_rows
    way = rng.randrange(5)
    if way == 0:
        return table.drop_columns([name])
    if way == 1:
        new = rng.choice(["../x", "a/b", "", "\x1b[31m", name + "x", "stats/x", "observation.images.front"])
        return table.rename_columns([new if column == name else column for column in table.column_names])
    if way == 2:
        return table.append_column(name, table[name])
    if way == 3:
        names = table.column_names
        rng.shuffle(names)
        return table.select(names)
    extra = rng.choice(
        [
            pa.array([{"a": 1}] * count),
            pa.array([b"x"] * count),
            pa.array([0] * count, pa.timestamp("us")),
            pa.nulls(count),
            pa.array([[("k", 1)]] * count, pa.map_(pa.string(), pa.int64())),
            pa.array([1.5] * count, pa.float32()),
            pa.array(["text"] * count),
        ]
    )
    return table.append_column(rng.choice(["extra", "next.reward", "annotation.human.validity", "stats/a/b"]), extra)

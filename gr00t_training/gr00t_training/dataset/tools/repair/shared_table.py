# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Plan v3.0's table of episodes and the statistics of the dataset: both follow from the rows as they will be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.model import DatasetMetadata
from gr00t_training.dataset.statistics.compute import describe_rows, join_described
from gr00t_training.dataset.tools.repair.plan import Plan
from gr00t_training.dataset.tools.repair.tables import numeric, read_object
from gr00t_training.dataset.tools.validate.findings import TABLE_ORDER, TABLE_ROWS, TABLE_STATISTICS
from gr00t_training.dataset.tools.validate.statistics import difference

_ROW_PLACES = ("length", "dataset_from_index", "dataset_to_index", "data/chunk_index", "data/file_index")


def plan_table(
    plan: Plan,
    metadata: DatasetMetadata,
    stored: Mapping[str, pa.Table],
    table: pa.Table,
    entries: list[dict[str, Any]],
    whole: Mapping[int, pa.Table],
) -> None:
    """Plan the episodes table and `stats.json`: order, places, lengths and statistics of rows.

    Args:
        plan: that grows.
        metadata: what it says now.
        stored: files of the table by name.
        table: all of them, in order of episodes.
        entries: rows of the table as they will be, without statistics.
        whole: rows of each episode as they will be.
    """
    columns: dict[str, list[Any]] = {name: table[name].to_pylist() for name in table.column_names}
    for name in entries[0]:
        columns[name] = [entry[name] for entry in entries]
    described = {}
    for row, entry in enumerate(entries):
        index = entry["episode_index"]
        described[index] = dict(metadata.episode_statistics.get(index, {}))
        described[index] |= _row_stats(whole[index], described[index])
        for feature, statistics in described[index].items():
            for name, value in statistics.items():
                column = columns.setdefault(f"stats/{feature}/{name}", [None] * table.num_rows)
                if column[row] != value:
                    column[row] = value
                    plan.fixed.add(TABLE_STATISTICS)
    start = 0
    for name, before in stored.items():
        part = {column: values[start : start + before.num_rows] for column, values in columns.items()}
        _set_table_place(part, Path(name))
        after = _from_columns(table.schema, part)
        start += before.num_rows
        if not _is_equal(after, before):
            plan.write_table(name, after, _table_reasons(plan, before, part))
            plan.fixed.add(schema.EPISODES_FOLDER)
    _plan_stats(plan, metadata, whole, described)


def _table_reasons(plan: Plan, before: pa.Table, after: Mapping[str, list[Any]]) -> str:
    """Return what changes in a file of the table, and note what that fixes."""
    reasons = []
    if before["episode_index"].to_pylist() != after["episode_index"]:
        plan.fixed |= {TABLE_ORDER, TABLE_ROWS}
        reasons.append("episodes put in order")
    elif any(before[name].to_pylist() != after[name] for name in _ROW_PLACES):
        plan.fixed.add(TABLE_ROWS)
        reasons.append("lengths and places of rows corrected")
    if any(name.endswith("_timestamp") and before[name].to_pylist() != after[name] for name in before.column_names):
        reasons.append("places in videos")
    if any(name.startswith("stats/") for name in after):
        reasons.append("statistics")
    return ", ".join(reasons)


def _row_stats(table: pa.Table, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the statistics of columns where the stored ones differ from those of the rows."""
    found = {}
    for name in table.column_names:
        values = numeric(table, name)
        if values is None or not np.isfinite(values).all():
            continue
        if difference(stored.get(name) or {}, describe_rows(values)) is not None:
            found[name] = describe_rows(values, quantiles=True)
    return found


def _plan_stats(
    plan: Plan, metadata: DatasetMetadata, whole: Mapping[int, pa.Table], described: Mapping[int, Mapping[str, Any]]
) -> None:
    computed = _whole_stats(metadata, whole, described)
    stored = read_object(plan.root / schema.STATS_FILE) or {}
    result = dict(stored)
    for name, entry in computed.items():
        certain = {key: entry[key] for key in ("min", "max", "mean", "std")}
        old = stored.get(name)
        if not isinstance(old, dict) or difference(old, certain) is not None:
            result[name] = entry
    if result != stored:
        plan.write_text(schema.STATS_FILE, schema.json_text(result))


def _whole_stats(
    metadata: DatasetMetadata, whole: Mapping[int, pa.Table], described: Mapping[int, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return `stats.json` of all columns of numbers, and of the images as far as every episode describes them."""
    computed = {}
    for name in metadata.features:
        parts = [values for table in whole.values() if (values := numeric(table, name)) is not None]
        if len(parts) == len(whole) and len({part.shape[1:] for part in parts}) == 1:
            rows = np.concatenate(parts)
            if np.isfinite(rows).all():
                computed[name] = describe_rows(rows, quantiles=True)
    for camera in metadata.cameras:
        entries = [entry[camera] for entry in described.values() if (entry.get(camera) or {}).get("count")]
        if len(entries) == len(whole):
            computed[camera] = join_described(entries)
    return computed


def _set_table_place(columns: dict[str, list[Any]], path: Path) -> None:
    """Have rows say which file of the table they are in."""
    try:
        numbers = int(path.parent.name.split("-")[1]), int(path.stem.split("-")[1])
    except (IndexError, ValueError):
        return
    for name, number in zip(("chunk_index", "file_index"), numbers, strict=True):
        if f"meta/episodes/{name}" in columns:
            columns[f"meta/episodes/{name}"] = [number] * len(columns["episode_index"])


def _from_columns(like: pa.Schema, columns: Mapping[str, list[Any]]) -> pa.Table:
    arrays, fields = [], []
    for name, values in columns.items():
        kind = like.field(name).type if name in like.names else None
        array = pa.array(values, kind)
        arrays.append(array)
        fields.append(pa.field(name, array.type))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=like.metadata))


def _is_equal(after: pa.Table, before: pa.Table) -> bool:
    """Whether two tables say the same, columns that hold nothing aside."""
    extra = [name for name in after.column_names if name not in before.column_names]
    if any(after[name].null_count < after.num_rows for name in extra):
        return False
    return all(after[name].to_pylist() == before[name].to_pylist() for name in before.column_names)

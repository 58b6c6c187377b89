# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read recordings of Rerun back, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

chunk = pytest.importorskip("rerun.chunk", reason="rerun-sdk 0.41 is not installed")


@dataclass(frozen=True)
class Row:
    """One row of an entity."""

    stamp_ns: int
    tick: int
    values: dict[str, Any]  # by component, without the name of its archetype


def read_rows(path: Path) -> dict[str, list[Row]]:
    """Return the rows of every entity, in the order of their stamps; those without time are left out."""
    found: dict[str, list[Row]] = {}
    for each in chunk.RrdReader(path).stream().to_chunks():
        if each.is_static:
            continue
        batch = each.to_record_batch()
        stamps = batch.column("ros_time").cast(pa.int64()).to_pylist()
        ticks = batch.column("tick").to_pylist()
        parts = {name.partition(":")[2]: batch.column(name).to_pylist() for name in batch.schema.names if ":" in name}
        rows = [
            Row(stamp_ns, ticks[i], {name: column[i] for name, column in parts.items()})
            for i, stamp_ns in enumerate(stamps)
        ]
        found.setdefault(each.entity_path, []).extend(rows)
    return {entity: sorted(rows, key=lambda row: row.stamp_ns) for entity, rows in found.items()}


def curve(rows: list[Row]) -> list[tuple[int, float]]:
    """Return stamps and values of an entity with one number per row."""
    return [(row.stamp_ns, row.values["scalars"][0]) for row in rows]

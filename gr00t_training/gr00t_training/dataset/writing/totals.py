# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Running totals of a dataset: rows, tasks and statistics of the episodes so far, at a constant cost per episode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.columns import column_rows
from gr00t_training.dataset.statistics.compute import STATISTIC_NAMES, join_described
from gr00t_training.dataset.statistics.running import RunningStatistics, wanted_tail

FLOAT_COLUMNS = (*schema.VECTOR_COLUMNS, schema.TIMESTAMP_COLUMN)

Described = Mapping[str, Mapping[str, Any]]  # feature -> name -> list, as in lerobot's statistics of an episode


@dataclass(frozen=True)
class Totals:
    """Sums over episodes; immutable, adding an episode returns new totals."""

    num_episodes: int = 0
    num_frames: int = 0
    tasks: tuple[str, ...] = ()
    columns: Mapping[str, RunningStatistics] = field(default_factory=dict)
    described: Described = field(default_factory=dict)  # of all episodes, joined as lerobot does

    def with_episode(self, table: pa.Table, tasks: Sequence[str], described: Described, tail: int) -> Totals:
        """Return these totals and one more episode.

        Args:
            table: its rows.
            tasks: its tasks.
            described: the part of its statistics that counts for the dataset.
            tail: values to keep per channel if these are the first rows.
        """
        columns = dict(self.columns)
        for name in FLOAT_COLUMNS:
            rows = column_rows(table.column(name))
            new = RunningStatistics.of_rows(rows, columns[name].tail if name in columns else tail)
            columns[name] = columns[name].joined(new) if name in columns else new
        joined = {
            name: join_described([self.described[name], entry]) if name in self.described else entry
            for name, entry in described.items()
        }
        return Totals(
            num_episodes=self.num_episodes + 1,
            num_frames=self.num_frames + table.num_rows,
            tasks=self.with_tasks(tasks),
            columns=columns,
            described=joined,
        )

    def with_tasks(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """Return the list of tasks, new ones appended."""
        return (*self.tasks, *(task for task in dict.fromkeys(tasks) if task not in self.tasks))

    @property
    def is_exact(self) -> bool:
        """Whether quantiles are known; else `with_columns_of` needs all rows."""
        return all(column.is_exact for column in self.columns.values())

    def with_columns_of(self, tables: Iterable[pa.Table]) -> Totals:
        """Return these totals with columns recomputed from the rows of all episodes."""
        tail = wanted_tail(self.num_frames)
        columns: dict[str, RunningStatistics] = {}
        for table in tables:
            for name in FLOAT_COLUMNS:
                new = RunningStatistics.of_rows(column_rows(table.column(name)), tail)
                columns[name] = columns[name].joined(new) if name in columns else new
        return replace(self, columns=columns)

    def statistics(self) -> dict[str, dict[str, list]]:
        """Return `stats.json`: exact for float columns, joined from the episodes' for the other features."""
        entries: dict[str, dict[str, list]] = {name: dict(entry) for name, entry in self.described.items()}
        for name, column in self.columns.items():
            entries.setdefault(name, {}).update(column.result().to_mapping())
        return entries


def image_statistics(described: Described, features: Iterable[str]) -> dict[str, dict[str, list]]:
    """Return the part of an episode's statistics that v2.0's `stats.json` has of cameras."""
    names = (*STATISTIC_NAMES, "count")
    return {
        feature: {name: described[feature][name] for name in names if name in described[feature]}
        for feature in features
    }

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A complete episode that is not yet part of a dataset: videos in files, rows in memory.

It can be pickled, so one process may record or convert an episode and another one save it. The index of the episode and
the number of its first row are decided when it is saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.columns import column_rows
from gr00t_training.dataset.quality import Marks, quality_text
from gr00t_training.dataset.statistics.compute import describe_rows
from gr00t_training.dataset.writing.files import sync_file
from gr00t_training.embodiment import ACTION_COLUMN, STATE_COLUMN
from gr00t_training.errors import DatasetError
from gr00t_training.types import Commander


@dataclass(frozen=True, eq=False, kw_only=True)
class FinishedEpisode:
    """What a store needs to make an episode of `N` rows part of a dataset."""

    folder: Path  # of this episode only; the files below are in it
    fps: int
    start_ns: int  # tick of the first row
    state: np.ndarray  # (N, D) float32
    action: np.ndarray  # (N, D) float32
    row_tasks: Sequence[str]  # N task texts
    videos: tuple[Path, ...]  # in the embodiment's order of cameras
    depth: Mapping[str, Path]  # depth camera -> file
    image_statistics: Mapping[str, dict[str, list]]  # feature -> statistic -> values, with quantiles
    row_quality: Mapping[str, Any]  # members of the quality file that describe rows
    command_source: np.ndarray | None = None  # (N,) int64, a `Commander` each; None: it is not recorded

    @property
    def num_frames(self) -> int:
        """Number of rows."""
        return len(self.state)

    @property
    def tasks(self) -> list[str]:
        """Tasks of the rows, without duplicates, in order of appearance."""
        return list(dict.fromkeys(self.row_tasks))

    @property
    def rows_file(self) -> Path:
        """Where `write` puts the rows."""
        return self.folder / ("rows.parquet" + schema.STAGED_SUFFIX)

    @property
    def _quality_file(self) -> Path:
        return self.folder / ("quality.json" + schema.STAGED_SUFFIX)

    def side_files(self, index: int) -> dict[str, Path]:
        """Return the sidecar files of episode `index`, the same in every version: name in the dataset -> file."""
        depth = {schema.depth_path(index, key): path for key, path in self.depth.items()}
        return {**depth, schema.quality_path(index): self._quality_file}

    def entry(self, index: int) -> dict[str, Any]:
        """Return the line of `episodes.jsonl` of episode `index`."""
        return {"episode_index": index, "tasks": self.tasks, "length": self.num_frames}

    def write(self, index: int, first_row: int, known_tasks: Sequence[str], report: Mapping[str, Any]) -> pa.Table:
        """Write the rows and the quality file, sync all files of the episode, and return the rows.

        Args:
            index: of the episode.
            first_row: number of rows in the dataset before this episode.
            known_tasks: tasks of the dataset; new tasks get the numbers after them.
            report: plain JSON values about the recording.

        Raises:
            OSError: a file cannot be written.
            DatasetError: `report` is not plain JSON, or its marks have the wrong type.
        """
        table = self._table(index, first_row, known_tasks)
        pq.write_table(table, self.rows_file, compression="snappy")
        self._quality_file.write_text(self._quality_text(index, report), encoding="utf-8")
        for path in [*self.videos, self.rows_file, *self.side_files(index).values()]:
            sync_file(path)
        return table

    def statistics(self, table: pa.Table) -> dict[str, dict[str, list]]:
        """Return statistics of the episode in lerobot's form, feature -> name -> list, with v3.0's quantiles.

        Args:
            table: the rows, from `write`.
        """
        order = [*schema.VECTOR_COLUMNS, *self.image_statistics, *table.column_names]
        return {
            name: self.image_statistics[name]
            if name in self.image_statistics
            else describe_rows(column_rows(table.column(name)), quantiles=True)
            for name in dict.fromkeys(order)
        }

    def _table(self, index: int, first_row: int, known_tasks: Sequence[str]) -> pa.Table:
        numbers = {task: number for number, task in enumerate(dict.fromkeys([*known_tasks, *self.tasks]))}
        count = self.num_frames
        columns = {
            STATE_COLUMN: self.state,
            ACTION_COLUMN: self.action,
            **self._source_columns(),
            schema.TIMESTAMP_COLUMN: schema.make_timestamps(count, self.fps),
            "frame_index": np.arange(count, dtype=np.int64),
            "episode_index": np.full(count, index, np.int64),
            "index": np.arange(first_row, first_row + count, dtype=np.int64),
            schema.TASK_COLUMN: np.array([numbers[task] for task in self.row_tasks], np.int64),
        }
        return schema.make_table(columns)

    def _source_columns(self) -> dict[str, np.ndarray]:
        if self.command_source is None:
            return {}
        is_person = self.command_source == Commander.PERSON
        return {schema.INTERVENTION_COLUMN: is_person, schema.SOURCE_COLUMN: self.command_source}

    def _quality_text(self, index: int, report: Mapping[str, Any]) -> str:
        members = {
            **self.entry(index),
            "start_ns": self.start_ns,
            **Marks.of_report(report).to_mapping(),
            "report": dict(report),
            **self.row_quality,
        }
        try:
            return quality_text(members)
        except (TypeError, ValueError) as error:
            raise DatasetError(
                f"episode {index}: the report is not plain JSON ({error}); convert its values"
            ) from error

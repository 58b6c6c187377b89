# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Repairing v3.0: lengths and order of the episodes table are believed, and everything that follows from them is set.

Rows or frames that are missing cannot be made up for, since files are shared; `validate` names them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.repairing.changes import Changes
from gr00t_training.dataset.repairing.tables import agree, fits, numeric, read_object, with_column
from gr00t_training.dataset.stats import describe_rows, join_described
from gr00t_training.dataset.validation.contents import Contents, read_contents
from gr00t_training.dataset.validation.findings import Finding
from gr00t_training.dataset.validation.metadata import CONTAINED_KINDS
from gr00t_training.errors import DatasetError


class SharedFiles:
    """A dataset of version 3.0 under repair."""

    def __init__(self, changes: Changes, info: dict[str, Any]) -> None:
        """Read the metadata.

        Raises:
            DatasetError: the episodes table cannot be read; nothing is left then to go by.
        """
        self._changes = changes
        self._root = changes.root
        self._info = info
        findings: list[Finding] = []
        contents = read_contents(self._root, findings, info)
        if contents is None or not contents.episodes:
            reasons = "; ".join(str(finding) for finding in findings if finding.is_fault) or "it lists no episode"
            raise DatasetError(f"{self._root}: {contents.episodes_place if contents else schema.META}: {reasons}")
        self._contents: Contents = contents

    def repair(self) -> None:
        """Repair what can be.

        Raises:
            OSError: a file cannot be written.
        """
        self._set_aside_unknown()
        tables = self._repair_rows()
        described = self._repair_table(tables)
        self._write_stats(tables, described)
        self._write_info()

    def _set_aside_unknown(self) -> None:
        known = {episode.data_file for episode in self._contents.episodes}
        known |= {span.file for episode in self._contents.episodes for span in episode.videos.values()}
        for path in sorted(path for kind in CONTAINED_KINDS for path in self._root.rglob(kind)):
            name = path.relative_to(self._root).as_posix()
            if name not in known and not name.startswith(schema.META + "/"):
                self._changes.set_aside(name, "belongs to no episode")

    def _repair_rows(self) -> dict[int, pa.Table]:
        """Set the index columns and times of every file that has as many rows as its episodes; return their rows."""
        files: dict[str, list[Any]] = {}
        first_index = 0
        for episode in self._contents.episodes:
            files.setdefault(episode.data_file, []).append((episode, first_index))
            first_index += episode.length
        tables: dict[int, pa.Table] = {}
        for name, members in files.items():
            try:
                table = pq.ParquetFile(self._root / name).read()
            except (OSError, pa.ArrowException):
                continue
            lengths = [episode.length for episode, _ in members]
            if table.num_rows != sum(lengths):
                continue
            columns = {
                "frame_index": np.concatenate([np.arange(length) for length in lengths]),
                "episode_index": np.repeat([episode.index for episode, _ in members], lengths),
                "index": np.concatenate([np.arange(start, start + e.length) for e, start in members]),
                schema.TIMESTAMP_COLUMN: np.concatenate([np.arange(n) / self._contents.fps for n in lengths]),
            }
            reasons = []
            for column, values in columns.items():
                fixed = with_column(table, column, values)
                if fixed is not None:
                    table = fixed
                    reasons.append(f"{column} corrected")
            if reasons:
                self._changes.write_table(name, table, ", ".join(reasons))
            start = 0
            for episode, _ in members:
                tables[episode.index] = table.slice(start, episode.length)
                start += episode.length
        return tables

    def _repair_table(self, tables: Mapping[int, pa.Table]) -> dict[int, dict[str, Any]]:
        """Set places and statistics in the episodes table; return the statistics by episode."""
        first_index, used = 0, dict[str, int]()
        described: dict[int, dict[str, Any]] = {}
        episodes = {episode.index: episode for episode in self._contents.episodes}
        for path in sorted(self._root.glob(schema.EPISODES_TABLE_PATTERN)):
            table = pq.ParquetFile(path).read()
            columns: dict[str, list[Any]] = {name: table[name].to_pylist() for name in table.column_names}
            for row, index in enumerate(columns["episode_index"]):
                episode = episodes[index]
                columns["dataset_from_index"][row] = first_index
                columns["dataset_to_index"][row] = first_index + episode.length
                first_index += episode.length
                for camera, span in episode.videos.items():
                    start = used.get(span.file, 0)
                    for name, frame in (("from", start), ("to", start + episode.length)):
                        _set_time(columns[f"videos/{camera}/{name}_timestamp"], row, frame / self._contents.fps)
                    used[span.file] = start + episode.length
                described[index] = dict(self._contents.episode_stats.get(index, {}))
                if index in tables:
                    described[index] |= self._row_stats(tables[index], described[index])
                for feature, entry in described[index].items():
                    for name, value in entry.items():
                        column = columns.setdefault(f"stats/{feature}/{name}", [None] * table.num_rows)
                        if not agree(column[row], value):
                            column[row] = value
            fixed = _from_columns(table, columns)
            if not fixed.equals(table):
                name = path.relative_to(self._root).as_posix()
                self._changes.write_table(name, fixed, "places and statistics corrected")
        return described

    def _row_stats(self, table: pa.Table, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return the statistics of columns whose stored ones are not those of the rows."""
        found = {}
        for name in table.column_names:
            values = numeric(table, name)
            if values is None or not np.isfinite(values).all():
                continue
            computed = describe_rows(values, quantiles=True)
            old = stored.get(name, {})
            certain = {key: computed[key] for key in ("min", "max", "mean", "count")}
            if not agree({key: old.get(key) for key in certain}, certain):
                found[name] = computed
        return found

    def _write_stats(self, tables: Mapping[int, pa.Table], described: Mapping[int, Mapping[str, Any]]) -> None:
        if len(tables) < len(self._contents.episodes):
            return
        computed = self._whole_stats(tables, described)
        stored = read_object(self._root / schema.STATS_FILE) or {}
        result = dict(stored)
        for name, entry in computed.items():
            certain = {key: entry[key] for key in ("min", "max", "mean")}
            if not agree({key: stored.get(name, {}).get(key) for key in certain}, certain):
                result[name] = entry
        if result != stored:
            self._changes.write_text(schema.STATS_FILE, schema.json_text(result), "corrected")

    def _whole_stats(
        self, tables: Mapping[int, pa.Table], described: Mapping[int, Mapping[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """Return `stats.json` of all columns of numbers, and of the images as far as every episode describes them."""
        computed = {}
        for name in self._contents.features:
            parts = [values for table in tables.values() if (values := numeric(table, name)) is not None]
            if len(parts) == len(tables) and len({part.shape[1:] for part in parts}) == 1:
                rows = np.concatenate(parts)
                if np.isfinite(rows).all():
                    computed[name] = describe_rows(rows, quantiles=True)
        for camera in self._contents.cameras:
            entries = [entry[camera] for entry in described.values() if "count" in entry.get(camera, {})]
            if len(entries) == len(tables):
                computed[camera] = join_described(entries)
        return computed

    def _write_info(self) -> None:
        contents, before = self._contents, json.dumps(self._info)
        num_episodes = len(contents.episodes)
        self._info["total_episodes"], self._info["total_frames"] = num_episodes, contents.num_frames
        self._info["total_tasks"] = len(contents.tasks)
        splits = self._info.get("splits")
        if not isinstance(splits, dict) or any(not fits(text, num_episodes) for text in splits.values()):
            self._info["splits"] = {"train": f"0:{num_episodes}"}
        for name, default in (
            ("data_files_size_in_mb", schema.DATA_FILES_MB),
            ("video_files_size_in_mb", schema.VIDEO_FILES_MB),
        ):
            if not self._info.get(name, 0) > 0:
                self._info[name] = default
        if json.dumps(self._info) != before:
            self._changes.write_text(schema.INFO_FILE, schema.json_text(self._info), "corrected")


def _set_time(column: list[Any], row: int, time_s: float) -> None:
    if column[row] is None or abs(column[row] - time_s) > 1e-6:
        column[row] = time_s


def _from_columns(table: pa.Table, columns: Mapping[str, list[Any]]) -> pa.Table:
    arrays, fields = [], []
    for name, values in columns.items():
        kind = table.schema.field(name).type if name in table.column_names else None
        array = pa.array(values, kind)
        arrays.append(array)
        fields.append(pa.field(name, array.type))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=table.schema.metadata))

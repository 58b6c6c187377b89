# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Plan the repair of v3.0: numbered rows are right, the episodes table is corrected from them.

If rows and table contradict each other, both stay unchanged. Readers use `from_timestamp`: it is set only in a video
that has exactly the frames of its episodes' rows (`shared_videos`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.info import Counts, refresh_counts
from gr00t_training.dataset.metadata.model import DatasetMetadata
from gr00t_training.dataset.metadata.tables import conforming, read_table
from gr00t_training.dataset.tools.repair.numbering import UndecidedError, check_rate, read_numbers, timestamps
from gr00t_training.dataset.tools.repair.plan import Map, Plan
from gr00t_training.dataset.tools.repair.shared_rows import SharedRows, sort_rows
from gr00t_training.dataset.tools.repair.shared_table import plan_table
from gr00t_training.dataset.tools.repair.shared_videos import VideoSpans
from gr00t_training.dataset.tools.repair.tables import with_column
from gr00t_training.dataset.tools.validate.findings import times_in
from gr00t_training.dataset.tools.validate.metadata import CONTAINED_KINDS
from gr00t_training.dataset.tools.validate.videos import scan_video
from gr00t_training.embodiment import STATE_COLUMN
from gr00t_training.errors import DatasetError

Entry = dict[str, Any]  # one row of the episodes table


class SharedFiles:
    """Plan the repair of a dataset of version 3.0."""

    def __init__(self, plan: Plan, info: dict[str, Any], metadata: DatasetMetadata, run: Map = map) -> None:
        """Prepare.

        Args:
            plan: that grows; it has what is known of videos.
            info: `info.json`, which is completed.
            metadata: what it says now.
            run: a `map` that may use several processes.
        """
        self._scanned = dict(plan.scanned)  # grows by videos that are not decoded: others have to decode them
        self._run = run
        self._plan = plan
        self._root = plan.root
        self._info = info
        self._metadata = metadata
        self._cameras = metadata.cameras
        self._fps = metadata.fps

    def make_plan(self) -> None:
        """Plan what can be repaired; what cannot is refused.

        Raises:
            DatasetError: the episodes table cannot be read; nothing is left then to go by.
        """
        stored = self._read_table()
        if stored is None:
            return
        table = pa.concat_tables(stored.values(), promote_options="default")
        table = table.take(pa.array(np.argsort(table["episode_index"].to_numpy(), kind="stable")))
        entries = table.select([name for name in table.column_names if not name.startswith("stats/")]).to_pylist()
        self._set_aside_unknown(entries)
        tables = self._read_rows(entries)
        self._scan_videos(entries)
        if tables is not None:
            if not self._check_rate(tables, entries):
                return
            try:
                rows = sort_rows(tables, entries, self._fps)
                self._check_lengths(rows, entries)
                self._place_rows(rows, entries)
            except UndecidedError as error:
                self._plan.refuse(schema.EPISODES_FOLDER, str(error))
                return
            if rows.unlisted:  # of a table from which episodes were taken: its places are still right
                return
            spans = VideoSpans(self._plan, self._fps)
            for camera in self._cameras:
                spans.place(camera, entries, [self._video_file(entry, camera) for entry in entries], self._scanned)
            whole = self._plan_rows(rows, tables, entries)
            plan_table(self._plan, self._metadata, stored, table, entries, whole)
        self._plan_info(entries)

    # reading

    def _read_table(self) -> dict[str, pa.Table] | None:
        """Return the files of the episodes table; None if they contradict each other."""
        tables: dict[str, pa.Table] = {}
        seen: set[int] = set()
        for path in sorted(self._root.glob(schema.EPISODES_TABLE_PATTERN)):
            name = path.relative_to(self._root).as_posix()
            table = read_table(path)
            indices = table["episode_index"].to_pylist()
            is_unique = len(set(indices)) == len(indices) and None not in indices
            if indices and is_unique and seen >= set(indices):
                # a writer that joins files replaces the first of them, then removes the others
                self._plan.set_aside(name, "its episodes are in the files before it")
                continue
            if not is_unique or seen & set(indices):
                self._plan.refuse(name, "it lists an episode that is listed already, with other places or lengths")
                return None
            seen |= set(indices)
            tables[name] = table
        if not seen:
            raise DatasetError(f"{self._root}: {schema.EPISODES_FOLDER} lists no episode; restore it from a copy")
        return tables

    def _name(self, template: str, chunk: int, file: int, camera: str = "") -> str:
        chunks_size = int(self._info["chunks_size"])
        return schema.shared_path(template, chunk * chunks_size + file, camera, chunks_size)

    def _data_file(self, entry: Entry) -> str:
        return self._name(self._info["data_path"], entry["data/chunk_index"], entry["data/file_index"])

    def _video_file(self, entry: Entry, camera: str) -> str:
        place = f"videos/{camera}/"
        return self._name(self._info["video_path"], entry[place + "chunk_index"], entry[place + "file_index"], camera)

    def _set_aside_unknown(self, entries: list[Entry]) -> None:
        known = {self._data_file(entry) for entry in entries}
        known |= {self._video_file(entry, camera) for entry in entries for camera in self._cameras}
        for path in sorted(path for kind in CONTAINED_KINDS for path in self._root.rglob(kind)):
            name = path.relative_to(self._root).as_posix()
            if name not in known and not name.startswith((schema.META + "/", schema.STAGING + "/")) and path.is_file():
                self._plan.set_aside(name, "belongs to no episode")

    def _read_rows(self, entries: list[Entry]) -> dict[str, pa.Table] | None:
        """Return the rows by file, in order of files; None if one cannot be read, which `validate` names."""
        numbers = sorted({(entry["data/chunk_index"], entry["data/file_index"]) for entry in entries})
        tables = {}
        for chunk, file in numbers:
            name = self._name(self._info["data_path"], chunk, file)
            try:
                table = read_table(schema.meta_file(self._root, name))
                tables[name] = conforming(table, self._info["features"], self._metadata.fps, name)
            except DatasetError:
                return None
        return tables

    def _scan_videos(self, entries: list[Entry]) -> None:
        names = {self._video_file(entry, camera) for entry in entries for camera in self._cameras}
        paths = [self._root / name for name in sorted(names)]
        paths = [path for path in paths if path not in self._scanned and path.is_file()]
        self._scanned |= dict(zip(paths, self._run(partial(scan_video, decode=False), paths), strict=True))

    # judging

    def _check_rate(self, tables: Mapping[str, pa.Table], entries: list[Entry]) -> bool:
        rates = {}
        for camera in self._cameras:
            facts = self._scanned.get(self._root / self._video_file(entries[0], camera))
            rates[camera] = facts.rate_hz if facts is not None else 0.0
        return check_rate(self._plan, [read_numbers(table) for table in tables.values()], self._fps, rates)

    def _check_lengths(self, rows: SharedRows, entries: list[Entry]) -> None:
        """Set the lengths of `entries` to those of the rows where anything else says so too.

        Raises:
            UndecidedError: nothing does: rows are missing, or there are too many.
        """
        lengths = rows.lengths()
        has_all = sum(entry["length"] for entry in entries) == rows.numbers.count
        for entry in entries:
            episode, found, listed = entry["episode_index"], lengths[entry["episode_index"]], entry["length"]
            if found == listed:
                continue
            others = [entry["dataset_to_index"] - entry["dataset_from_index"]]
            for camera in self._cameras:
                span = [entry[f"videos/{camera}/{end}_timestamp"] for end in ("from", "to")]
                others.append(round((span[1] - span[0]) * self._fps))
            count = self._metadata.episode_statistics.get(episode, {}).get(STATE_COLUMN, {}).get("count")
            others += list(count) if count else []
            if found not in others and not has_all:
                raise UndecidedError(
                    f"episode {episode} has {found} rows that number themselves 0 to {found - 1}, length is {listed} "
                    f"and places and statistics say {', '.join(map(str, sorted(set(others))))}"
                )
            entry["length"] = found

    def _place_rows(self, rows: SharedRows, entries: list[Entry]) -> None:
        """Set the file and the first row of each episode in `entries`.

        Raises:
            UndecidedError: rows and table are in different files, and neither is in order.
        """
        if rows.unlisted:
            self._check_subset(rows, entries)
            return
        of_episode = {
            entry["episode_index"]: np.unique(rows.file_of[rows.episodes == entry["episode_index"]])
            for entry in entries
        }
        numbers = {self._data_file(entry): (entry["data/chunk_index"], entry["data/file_index"]) for entry in entries}
        keys = ("data/chunk_index", "data/file_index")
        if rows.is_in_order and all(len(files) == 1 for files in of_episode.values()):
            names = list(rows.files)
            for entry in entries:
                number = numbers[names[of_episode[entry["episode_index"]][0]]]
                entry.update(zip(keys, number, strict=True))
        else:
            listed = [(entry[keys[0]], entry[keys[1]]) for entry in entries]
            if listed != sorted(listed):
                raise UndecidedError(
                    "rows are not in order of episodes over the data files, and data/file_index is not either"
                )
        first = 0
        for entry in entries:
            entry["dataset_from_index"], entry["dataset_to_index"] = first, first + entry["length"]
            first += entry["length"]

    def _check_subset(self, rows: SharedRows, entries: list[Entry]) -> None:
        text = f"episode {rows.unlisted[0]} has rows but is not in the list"
        for entry in entries:
            if rows.numbers.index is None or not rows.is_in_order:
                raise UndecidedError(text)
            index = rows.numbers.index[rows.episodes == entry["episode_index"]]
            if index[0] != entry["dataset_from_index"] or len(index) != entry["length"]:
                raise UndecidedError(f"{text}, and the list has wrong places of the others")

    # planning

    def _plan_rows(self, rows: SharedRows, tables: Mapping[str, pa.Table], entries: list[Entry]) -> dict[int, pa.Table]:
        """Plan the data files; return the rows by episode as they will be."""
        count = rows.numbers.count
        columns = {"frame_index": rows.frames, "episode_index": rows.episodes, "index": np.arange(count)}
        times = self._plan_times(rows, entries)
        if times is not None:
            columns[schema.TIMESTAMP_COLUMN] = times
        whole: dict[int, pa.Table] = {}
        by_file: dict[str, list[Entry]] = {}
        for entry in entries:
            by_file.setdefault(self._data_file(entry), []).append(entry)
        for name, members in by_file.items():
            first, last = members[0]["dataset_from_index"], members[-1]["dataset_to_index"]
            table, reasons = rows.table.slice(first, last - first), []
            is_other = not rows.is_in_order and not table.equals(tables[name])
            if is_other:
                reasons.append("rows put in order of their numbers")
                self._plan.fixed.add(times_in(name))
            for column, values in columns.items():
                fixed = with_column(table, column, values[first:last])
                if fixed is not None:
                    table = fixed
                    reasons.append(f"{column} corrected")
                    if column == schema.TIMESTAMP_COLUMN:
                        self._plan.retimed_rows |= set(tables)
                        self._plan.fixed.add(times_in(name))
            if reasons:
                self._plan.write_table(name, table, ", ".join(reasons))
                if rows.is_relabeled:
                    self._plan.relabeled |= set(tables)
            for entry in members:
                start = entry["dataset_from_index"] - first
                whole[entry["episode_index"]] = table.slice(start, entry["length"])
        return whole

    def _plan_times(self, rows: SharedRows, entries: list[Entry]) -> np.ndarray | None:
        """Return the timestamps of all rows where some have to be set."""
        if rows.numbers.time_s is None:
            if "timestamp" in rows.numbers.columns:
                self._plan.refuse(schema.EPISODES_FOLDER, "timestamps cannot be read as numbers")
                return None
            return rows.frames / self._fps
        result, is_set = rows.numbers.time_s.copy(), False
        used: dict[str, int] = {}
        for entry in entries:
            for camera in self._cameras:
                name = self._video_file(entry, camera)
                used[name] = used.get(name, 0) + entry["length"]
        for entry in entries:
            part = slice(entry["dataset_from_index"], entry["dataset_to_index"])
            subject = f"episode {entry['episode_index']}"
            names = [self._video_file(entry, camera) for camera in self._cameras]
            counts = {name: len(facts.times_s) for name in names if (facts := self._scanned.get(self._root / name))}
            is_exact = all(counts.get(name) == used[name] for name in names)
            try:
                times = timestamps(result[part], self._fps, subject, is_exact=is_exact)
            except UndecidedError as error:
                self._plan.refuse(subject, str(error).removeprefix(f"{subject}: "))
                continue
            if times is not None:
                result[part], is_set = times, True
        return result if is_set else None

    def _plan_info(self, entries: list[Entry]) -> None:
        before = json.dumps(self._info)
        num_frames, num_tasks = sum(entry["length"] for entry in entries), len(self._metadata.tasks) or None
        refresh_counts(self._info, Counts(len(entries), num_frames, num_tasks, len(self._cameras)))
        for name, default in (
            ("data_files_size_in_mb", schema.DATA_FILES_MB),
            ("video_files_size_in_mb", schema.VIDEO_FILES_MB),
        ):
            if not self._info.get(name, 0) > 0:
                self._info[name] = default
        if json.dumps(self._info) != before:
            self._plan.write_text(schema.INFO_FILE, schema.json_text(self._info))

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Episodes stored as in v2.0 and v2.1: per episode one file of rows and one video per camera; lists in JSON lines.

`episodes.jsonl` decides which episodes exist.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.episode_statistics import LINES_LIMIT
from gr00t_training.dataset.metadata.lists import episode_statistics_text, tasks_text
from gr00t_training.dataset.statistics.compute import QUANTILES
from gr00t_training.dataset.statistics.running import wanted_tail
from gr00t_training.dataset.writing.finished import FinishedEpisode
from gr00t_training.dataset.writing.remembered import Remembered
from gr00t_training.dataset.writing.store import StoreContext, read_float_rows
from gr00t_training.dataset.writing.totals import Totals, image_statistics
from gr00t_training.errors import DatasetError

# From this size on, lines of statistics are appended in place: with 100,000 episodes each one more would copy 200 MB.
APPENDED_BYTES = 8 * 2**20


class SeparateStore:
    """Finished episodes of a v2.x dataset."""

    def __init__(self, context: StoreContext) -> None:
        self.totals = Totals()
        self._context = context
        self._files = context.files
        self._remembered = Remembered(context.files.root)
        self._has_episode_statistics = context.version is schema.Version.V21
        self._before_last: Totals | None = None

    def load(self) -> None:
        """Read the dataset, set aside files of no episode, and make all metadata files consistent."""
        root = self._files.root
        self._before_last = None
        if (remembered := self._remembered.recall()) is not None:
            self._context.set_aside_unfinished()
            self.totals = remembered
            return
        has_list = (root / schema.EPISODES_FILE).exists()
        if not has_list and (root / schema.INFO_FILE).exists():
            raise DatasetError(f"{root}: {schema.EPISODES_FILE} is missing; restore it or choose a new folder")
        entries = schema.read_json_lines(root / schema.EPISODES_FILE) if has_list else []
        totals = self._read_totals(entries) if entries else Totals()
        known = set(itertools.chain.from_iterable(self._known_files(index) for index in range(len(entries))))
        self._context.set_aside_unknown(known, schema.DATA_PATTERN, "videos/**/*.mp4")
        if not entries:  # left by an unfinished or removed episode
            self._files.remove([schema.EPISODES_STATS_FILE, schema.STATS_FILE])
        if has_list:
            self._files.move(self._stage_whole_metadata(entries, totals))
        self.totals = totals  # last: a failure leaves the old state
        self.remember()

    def publish(self, episode: FinishedEpisode, report: Mapping[str, Any]) -> None:
        """Make a finished episode part of the dataset."""
        index = self.totals.num_episodes
        self._remembered.forget()
        table = episode.write(index, self.totals.num_frames, self.totals.tasks, report)
        totals = self._totals_with(episode, table)
        metadata, deciding = self._stage_metadata(episode, table, totals)
        self._files.move(
            {
                **dict(zip(self._video_names(index), episode.videos, strict=True)),
                schema.data_path(index): episode.rows_file,
                **episode.side_files(index),
                **metadata,
            }
        )
        self._files.remove([schema.RELATIVE_STATS_FILE])  # its rows have changed
        self._files.move(deciding)
        self.totals, self._before_last = totals, self.totals
        self.remember()

    def take_last(self, folder: Path) -> None:
        """Remove the last episode from the dataset and move its files to `folder`."""
        index = self.totals.num_episodes - 1
        self._remembered.forget()
        entries = schema.read_json_lines(self._files.root / schema.EPISODES_FILE)[:index]
        self._files.remove([schema.RELATIVE_STATS_FILE])
        self._files.move(self._files.stage_text(schema.EPISODES_FILE, schema.json_lines_text(entries)))
        self._context.move_aside(self._known_files(index), folder)
        if self._before_last is None or not entries:
            self.load()
            return
        self.totals, self._before_last = self._before_last, None
        self._files.move(self._stage_whole_metadata(entries, self.totals))
        self.remember()

    def remember(self) -> None:
        """Note that the files are as they should be."""
        self._remembered.remember(self.totals)

    def close(self) -> None:
        """Do nothing: the files are as readers expect them after every episode."""

    def _read_totals(self, entries: list[dict[str, Any]]) -> Totals:
        root = self._files.root
        if self._has_episode_statistics:
            self._check_statistics(len(entries))
        tail = wanted_tail(sum(entry["length"] for entry in entries))
        totals = Totals()
        for index, entry in enumerate(entries):
            for name in [*self._video_names(index), schema.data_path(index)]:
                if not (root / name).is_file():
                    raise DatasetError(f"{root}: episode {index}: {name} is missing; restore it from a copy")
            table = read_float_rows(root / schema.data_path(index))
            if entry["episode_index"] != index or table.num_rows != entry["length"]:
                raise DatasetError(
                    f"{root}: episode {index} has {table.num_rows} rows, {schema.EPISODES_FILE} says index "
                    f"{entry['episode_index']} and {entry['length']} rows; restore it from a copy"
                )
            totals = totals.with_episode(table, entry["tasks"], {}, tail)
        tasks = tuple(entry["task"] for entry in schema.read_json_lines(root / schema.TASKS_FILE))
        described = {}
        if not self._has_episode_statistics:
            # v2.0 has no statistics per episode: those of images are only in the statistics of the dataset
            stored = schema.read_json(root / schema.STATS_FILE)
            described = {name: stored[name] for name in self._context.features if name in stored}
        return Totals(totals.num_episodes, totals.num_frames, tasks, totals.columns, described)

    def _check_statistics(self, num_episodes: int) -> None:
        path = self._files.root / schema.EPISODES_STATS_FILE
        if path.is_file():
            self._files.cut_torn_line(schema.EPISODES_STATS_FILE)
        found = sum(1 for _ in schema.iterate_json_lines(path, LINES_LIMIT))
        if found < num_episodes:
            raise DatasetError(
                f"{self._files.root}: {schema.EPISODES_STATS_FILE} has {found} of {num_episodes} episodes; "
                "restore it from a copy"
            )

    def _totals_with(self, episode: FinishedEpisode, table: pa.Table) -> Totals:
        described = {}
        if not self._has_episode_statistics:
            described = image_statistics(episode.image_statistics, self._context.features)
        totals = self.totals.with_episode(table, episode.tasks, described, wanted_tail(0))
        if totals.is_exact:
            return totals
        return totals.with_columns_of(itertools.chain(self._tables(), [table]))

    def _tables(self) -> Iterator[pa.Table]:
        for index in range(self.totals.num_episodes):
            yield read_float_rows(self._files.root / schema.data_path(index))

    def _stage_metadata(
        self, episode: FinishedEpisode, table: pa.Table, totals: Totals
    ) -> tuple[dict[str, Path], dict[str, Path]]:
        """Write the metadata files that change; return those to move first, and those that make the episode exist."""
        index = totals.num_episodes - 1
        first = self._context.stage_identity() | self._stage_tasks(totals)
        if self._has_episode_statistics:
            described = {
                feature: {name: values for name, values in entry.items() if name not in QUANTILES}
                for feature, entry in episode.statistics(table).items()
            }
            text = episode_statistics_text({index: described})
            if self._is_large(schema.EPISODES_STATS_FILE):
                self._files.append(schema.EPISODES_STATS_FILE, text)  # until `deciding`, a line too many
            else:
                first |= self._files.stage_appended(schema.EPISODES_STATS_FILE, text)
        first |= self._context.stage_statistics(totals)
        deciding = self._files.stage_appended(schema.EPISODES_FILE, schema.json_lines_text([episode.entry(index)]))
        return first, deciding | self._context.stage_info(totals)

    def _stage_whole_metadata(self, entries: list[dict[str, Any]], totals: Totals) -> dict[str, Path]:
        """Write all metadata files that are out of date; return them in order of replacement."""
        staged = self._context.stage_identity() | self._stage_tasks(totals)
        if entries and self._has_episode_statistics:
            path = self._files.root / schema.EPISODES_STATS_FILE
            lines = itertools.islice(schema.iterate_json_lines(path, LINES_LIMIT), len(entries))
            texts = (schema.json_lines_text([line.value]) for line in lines)
            staged |= self._files.stage_lines(schema.EPISODES_STATS_FILE, texts)
        if entries:
            staged |= self._context.stage_statistics(totals)
        staged |= self._files.stage_text(schema.EPISODES_FILE, schema.json_lines_text(entries))
        return staged | self._context.stage_info(totals)

    def _is_large(self, name: str) -> bool:
        path = self._files.root / name
        return path.exists() and path.stat().st_size > APPENDED_BYTES

    def _stage_tasks(self, totals: Totals) -> dict[str, Path]:
        return self._files.stage_text(schema.TASKS_FILE, tasks_text(dict(enumerate(totals.tasks))))

    def _video_names(self, index: int) -> list[str]:
        return [schema.video_path(index, feature) for feature in self._context.features]

    def _known_files(self, index: int) -> list[str]:
        return [*self._video_names(index), schema.data_path(index), *self._context.side_names(index)]

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Episodes stored as in v3.0: many per file of rows and per video of a camera.

A finished episode first gets separate files, also in the episodes table. The rename of the table makes it
exist; existing files are not touched. Files are joined (`joining`) when the next episode would start another joined
file, and when the dataset is closed.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.episode_list import Span
from gr00t_training.dataset.metadata.episodes_table import (
    EpisodePlace,
    VideoPlace,
    make_table,
    read_task_pairs,
    row_statistics,
    table_files,
    tasks_table,
)
from gr00t_training.dataset.metadata.lists import as_mapping
from gr00t_training.dataset.metadata.shared_places import read_all_places
from gr00t_training.dataset.metadata.tables import read_table
from gr00t_training.dataset.statistics.compute import join_described
from gr00t_training.dataset.statistics.running import wanted_tail
from gr00t_training.dataset.writing.finished import FinishedEpisode
from gr00t_training.dataset.writing.joining import FileJoiner, table_name
from gr00t_training.dataset.writing.remembered import Remembered
from gr00t_training.dataset.writing.shared_files import ROWS, FileKind, RowFiles, VideoFiles
from gr00t_training.dataset.writing.store import StoreContext, read_float_rows
from gr00t_training.dataset.writing.totals import Described, Totals
from gr00t_training.errors import DatasetError

_VIDEO_PATTERN = "videos/*/*/*.mp4"


class SharedStore:
    """Finished episodes of a v3.0 dataset."""

    def __init__(self, context: StoreContext) -> None:
        self.totals = Totals()
        self._context = context
        self._files = context.files
        self._remembered = Remembered(context.files.root)
        self._fps = context.embodiment.fps
        self._places: list[EpisodePlace] = []
        self._before_last: Totals | None = None
        self._kinds: dict[str, FileKind] = {feature: VideoFiles(feature, self._fps) for feature in context.features}
        self._kinds[ROWS] = RowFiles()  # after the videos: published last
        self._joiner = FileJoiner(self._files, self._kinds, self._fps, self._read_places)

    def load(self) -> None:
        """Read the dataset, set aside files of no episode, and make all metadata files consistent."""
        self._joiner.reset()
        self._places, totals, self._before_last = [], Totals(), None
        if (remembered := self._remembered.recall()) is not None:
            self._context.set_aside_unfinished()
            self._places = self._read_places() if remembered.num_episodes else []
            self.totals = remembered
            return
        if self._files.find(schema.EPISODES_TABLE_PATTERN):
            self._places = self._read_places()
            self._check_places()
            totals = self._read_totals()
        known = {table_name(place.table_file) for place in self._places}
        known |= {kind.name(kind.file_of(place)) for kind in self._kinds.values() for place in self._places}
        known.update(*(self._context.side_names(place.index) for place in self._places))
        patterns = (schema.EPISODES_TABLE_PATTERN, schema.DATA_PATTERN, _VIDEO_PATTERN)
        self._context.set_aside_unknown(known, *patterns)
        if self._places:
            metadata = self._context.stage_identity() | self._stage_tasks(totals)
            self._files.move(metadata | self._context.stage_statistics(totals))
        else:  # left by an unfinished or removed episode
            self._files.remove([schema.STATS_FILE])
        if (self._files.root / schema.INFO_FILE).exists() or self._places:
            self._files.move(self._context.stage_info(totals))
        self.totals = totals  # last: a failure leaves the old state
        self.remember()

    def publish(self, episode: FinishedEpisode, report: Mapping[str, Any]) -> None:
        """Make a finished episode part of the dataset."""
        index = self.totals.num_episodes
        self._remembered.forget()
        rows = episode.write(index, self.totals.num_frames, self.totals.tasks, report)
        paths = [*episode.videos, episode.rows_file]
        self._places = self._joiner.make_room(self._places, dict(zip(self._kinds, paths, strict=True)))
        place = self._next_place(episode)
        described = episode.statistics(rows)
        totals = self._totals_with(rows, episode.tasks, described)
        metadata = self._context.stage_identity() | self._stage_tasks(totals) | self._context.stage_statistics(totals)
        deciding = self._files.stage_table(
            table_name(place.table_file), make_table(place, described, self._fps)
        ) | self._context.stage_info(totals)
        names = [kind.name(kind.file_of(place)) for kind in self._kinds.values()]
        self._files.move(dict(zip(names, paths, strict=True)) | episode.side_files(index) | metadata)
        self._files.remove([schema.RELATIVE_STATS_FILE])  # its rows have changed
        self._files.move(deciding)
        self._places.append(place)
        for name, kind in self._kinds.items():
            self._joiner.add(name, kind.file_of(place), self._places)
        self.totals, self._before_last = totals, self.totals
        self.remember()

    def take_last(self, folder: Path) -> None:
        """Remove the last episode from the dataset and move its files to `folder`."""
        place = self._places[-1]
        self._remembered.forget()
        for feature, kind in self._kinds.items():
            name = kind.name(kind.file_of(place))
            if feature == ROWS:
                first = place.from_index - self._first_row(place)
            else:
                first = place.videos[feature].first_frame
            target = folder / f"{feature}{Path(name).suffix}{schema.STAGED_SUFFIX}"
            kind.join([Span(self._files.root / name, first, place.length)], target)
        self._files.remove([schema.RELATIVE_STATS_FILE])
        packed = {feature: self._joiner.packed(kind, self._places) for feature, kind in self._kinds.items()}
        self._shorten_table(place)
        self._places.pop()
        self._joiner.reset()
        for feature, kind in self._kinds.items():
            number = kind.file_of(place)
            if number in packed[feature] or feature == ROWS:
                self._shorten_file(kind, number)
            elif all(kind.file_of(other) != number for other in self._places):
                self._files.set_aside(kind.name(number))  # with frames of no episode
        self._context.move_aside(self._context.side_names(place.index), folder)
        if self._before_last is None or not self._places:
            self.load()
            return
        self.totals, self._before_last = self._before_last, None
        metadata = self._stage_tasks(self.totals) | self._context.stage_statistics(self.totals)
        self._files.move(metadata | self._context.stage_info(self.totals))
        self.remember()

    def remember(self) -> None:
        """Note that the files are as they should be."""
        self._remembered.remember(self.totals)

    def close(self) -> None:
        """Join the files that are not joined yet."""
        if self._places:
            self._remembered.forget()
            self._places = self._joiner.join_all(self._places)
            self.remember()

    # reading back

    def _read_places(self) -> list[EpisodePlace]:
        info = {"chunks_size": schema.CHUNKS_SIZE, "fps": self._fps}
        return read_all_places(self._files.root, info, self._context.features)

    def _check_places(self) -> None:
        root, row = self._files.root, 0
        present: set[tuple[str, int]] = set()
        for index, place in enumerate(self._places):
            if place.index != index or place.from_index != row:
                raise DatasetError(
                    f"{root}: the episodes table has episode {place.index} from row {place.from_index} where episode "
                    f"{index} from row {row} is expected; restore it from a copy"
                )
            row += place.length
            for feature, kind in self._kinds.items():
                number = kind.file_of(place)
                if (feature, number) in present:
                    continue
                if not (root / kind.name(number)).is_file():
                    raise DatasetError(
                        f"{root}: episode {index}: {kind.name(number)} is missing; restore it from a copy"
                    )
                present.add((feature, number))

    def _read_totals(self) -> Totals:
        root = self._files.root
        tail = wanted_tail(sum(place.length for place in self._places))
        totals = Totals()
        for place, rows in zip(self._places, self._tables(), strict=True):
            totals = totals.with_episode(rows, place.tasks, {}, tail)
        numbered = as_mapping(read_task_pairs(root / schema.TASKS_TABLE), schema.TASKS_TABLE)
        if sorted(numbered) != list(range(len(numbered))):
            raise DatasetError(f"{root}: {schema.TASKS_TABLE} has gaps; restore it from a copy")
        tasks = tuple(numbered[number] for number in range(len(numbered)))
        return dataclasses.replace(totals, tasks=tasks, described=self._read_described())

    def _read_described(self) -> Described:
        """Read the statistics of all episodes and join them."""
        episodes: dict[int, Described] = {}
        for path, _ in table_files(self._files.root):
            for row in read_table(path).to_pylist():
                episodes.setdefault(row["episode_index"], row_statistics(row))
        features = episodes[0]
        return {name: join_described([entry[name] for entry in episodes.values()]) for name in features}

    def _tables(self) -> Iterator[pa.Table]:
        """Yield the float columns of each episode, in order."""
        for number, places in itertools.groupby(self._places, lambda place: place.data_file):
            path, first = self._files.root / self._kinds[ROWS].name(number), 0
            table = read_float_rows(path)
            for place in places:
                if table.num_rows < first + place.length:
                    raise DatasetError(
                        f"{path}: {table.num_rows} rows, meta/episodes says {first + place.length}; "
                        "restore it from a copy"
                    )
                yield table.slice(first, place.length)
                first += place.length

    # adding an episode

    def _next_place(self, episode: FinishedEpisode) -> EpisodePlace:
        last = self._places[-1] if self._places else None
        return EpisodePlace(
            index=self.totals.num_episodes,
            length=episode.num_frames,
            tasks=tuple(episode.tasks),
            data_file=last.data_file + 1 if last else 0,
            from_index=self.totals.num_frames,
            videos={
                feature: VideoPlace(last.videos[feature].file + 1 if last else 0, 0)
                for feature in self._context.features
            },
            table_file=last.table_file + 1 if last else 0,
        )

    def _totals_with(self, rows: pa.Table, tasks: list[str], described: Described) -> Totals:
        totals = self.totals.with_episode(rows, tasks, described, wanted_tail(0))
        return totals if totals.is_exact else totals.with_columns_of(itertools.chain(self._tables(), [rows]))

    def _stage_tasks(self, totals: Totals) -> dict[str, Path]:
        path = self._files.root / schema.TASKS_TABLE
        if path.exists() and tuple(text for _, text in read_task_pairs(path)) == totals.tasks:
            return {}
        return self._files.stage_table(schema.TASKS_TABLE, tasks_table(totals.tasks))

    # taking an episode away

    def _first_row(self, place: EpisodePlace) -> int:
        return next(other.from_index for other in self._places if other.data_file == place.data_file)

    def _shorten_table(self, place: EpisodePlace) -> None:
        name = table_name(place.table_file)
        table = read_table(self._files.root / name)
        if table.num_rows > 1:
            self._files.move(self._files.stage_table(name, table.slice(0, table.num_rows - 1)))
        else:
            self._files.remove([name])

    def _shorten_file(self, kind: FileKind, number: int) -> None:
        """Remove the content of a file that belongs to no episode."""
        count = sum(place.length for place in self._places if kind.file_of(place) == number)
        if count:
            self._joiner.write_joined(kind, [Span(self._files.root / kind.name(number), 0, count)], number)
        else:
            self._files.remove([kind.name(number)])

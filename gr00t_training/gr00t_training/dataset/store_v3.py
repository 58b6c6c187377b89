# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Keeping episodes as v3.0 does: many in one file of rows and in one video a camera.

A finished episode first gets files of its own and a file of its own in the episodes table, whose rename makes it exist;
nothing that is there already is touched. Files are joined, up to the sizes of v3.0, when the next episode would begin
another joined file, and when the dataset is closed, in an order that leaves it valid at every instant:

1. the joined file takes the name of its first part, which it begins with: old places stay right;
2. a joined episodes table takes the name of its first part: from here on the new places count, since of two rows about
   one episode the first is right;
3. the other parts are removed, of the table first.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.episodes_table import (
    EpisodePlace,
    VideoPlace,
    make_table,
    read_table,
    read_tasks,
    replaced,
    row_statistics,
    tasks_table,
)
from gr00t_training.dataset.files import sync_file
from gr00t_training.dataset.places import Span, read_all_places, table_files
from gr00t_training.dataset.running_stats import wanted_tail
from gr00t_training.dataset.shared_files import FileKind, Group, RowFiles, VideoFiles
from gr00t_training.dataset.staging import StagedEpisode
from gr00t_training.dataset.stats import join_described
from gr00t_training.dataset.store import StoreContext, read_float_rows
from gr00t_training.dataset.totals import Described, Totals
from gr00t_training.errors import DatasetError

logger = logging.getLogger(__name__)

_VIDEO_PATTERN = "videos/*/*/*.mp4"
_ROWS = "rows"  # beside the features of cameras


class SharedStore:
    """Finished episodes of a v3.0 dataset."""

    def __init__(self, context: StoreContext) -> None:
        self.totals = Totals()
        self._context = context
        self._files = context.files
        self._fps = context.embodiment.fps
        self._places: list[EpisodePlace] = []
        self._before_last: Totals | None = None
        self._kinds: dict[str, FileKind] = {feature: VideoFiles(feature, self._fps) for feature in context.features}
        self._kinds[_ROWS] = RowFiles()  # behind the videos: published last
        self._last_groups: dict[str, Group] = {}  # what the next file of each kind may be joined with

    def load(self) -> None:
        """Read what is there, set aside what the episodes table does not know, and make all metadata files agree."""
        self._last_groups.clear()
        self._places, totals = [], Totals()
        if self._files.find(schema.EPISODES_TABLE_PATTERN):
            self._places = self._read_places()
            self._check_places()
            totals = self._read_totals()
        known = {self._table_name(place.table_file) for place in self._places}
        known |= {kind.name(kind.file_of(place)) for kind in self._kinds.values() for place in self._places}
        known.update(*(self._context.side_names(place.index) for place in self._places))
        patterns = (schema.EPISODES_TABLE_PATTERN, schema.DATA_PATTERN, _VIDEO_PATTERN)
        self._context.set_aside_unknown(known, *patterns)
        if self._places:
            metadata = self._context.stage_identity() | self._stage_tasks(totals)
            self._files.move(metadata | self._context.stage_statistics(totals))
        else:  # of an episode that was not finished, or that was taken out
            self._files.remove([schema.STATS_FILE])
        if (self._files.root / schema.INFO_FILE).exists() or self._places:
            self._files.move(self._context.stage_info(totals))
        self.totals, self._before_last = totals, None  # only now: a failure leaves what was known

    def publish(self, staged: StagedEpisode, report: Mapping[str, Any]) -> None:
        """Make a staged episode part of the dataset."""
        staged.finish_videos()
        rows = staged.write_rows(self.totals.num_frames, list(self.totals.tasks))
        staged.write_quality(report)
        staged.sync()
        paths = [*staged.video_files, staged.rows_file]
        self._join_full(dict(zip(self._kinds, paths, strict=True)))
        place = self._next_place(staged)
        described = staged.statistics(rows)
        totals = self._totals_with(rows, staged.tasks, described)
        metadata = self._context.stage_identity() | self._stage_tasks(totals) | self._context.stage_statistics(totals)
        deciding = self._files.stage_table(
            self._table_name(place.table_file), make_table(place, described, self._fps)
        ) | self._context.stage_info(totals)
        names = [kind.name(kind.file_of(place)) for kind in self._kinds.values()]
        self._files.move(dict(zip(names, paths, strict=True)) | staged.side_files | metadata)
        self._files.remove([schema.RELATIVE_STATS_FILE])  # of other rows from here on
        self._files.move(deciding)
        self._places.append(place)
        for name, kind in self._kinds.items():
            self._enter(name, kind.file_of(place))
        self.totals, self._before_last = totals, self.totals

    def take_last(self, folder: Path) -> None:
        """Take the last episode out of the dataset and put its files into `folder`."""
        place = self._places[-1]
        for feature, kind in self._kinds.items():
            name = kind.name(kind.file_of(place))
            if feature == _ROWS:
                first = place.from_index - self._first_row(place)
            else:
                first = place.videos[feature].first_frame
            target = folder / f"{feature}{Path(name).suffix}{schema.STAGED_SUFFIX}"
            kind.join([Span(self._files.root / name, first, place.length)], target)
        self._files.remove([schema.RELATIVE_STATS_FILE])
        self._shorten_table(place)
        self._places.pop()
        self._last_groups.clear()
        for kind in self._kinds.values():
            self._shorten_file(kind, kind.file_of(place))
        self._context.move_aside(self._context.side_names(place.index), folder)
        if self._before_last is None or not self._places:
            self.load()
            return
        self.totals, self._before_last = self._before_last, None
        metadata = self._stage_tasks(self.totals) | self._context.stage_statistics(self.totals)
        self._files.move(metadata | self._context.stage_info(self.totals))

    def close(self) -> None:
        """Join what is not joined yet."""
        if self._places:
            self._try_to_join({name: self._groups(kind) for name, kind in self._kinds.items()}, whole_table=True)

    # reading back

    def _read_places(self) -> list[EpisodePlace]:
        info = {"chunks_size": schema.CHUNKS_SIZE, "fps": self._fps}
        return read_all_places(self._files.root, info, self._context.features)

    def _check_places(self) -> None:
        root, row = self._files.root, 0
        for index, place in enumerate(self._places):
            if place.index != index or place.from_index != row:
                raise DatasetError(
                    f"{root}: the episodes table has episode {place.index} from row {place.from_index} where episode "
                    f"{index} from row {row} is expected; restore it from a copy"
                )
            row += place.length
            for kind in self._kinds.values():
                name = kind.name(kind.file_of(place))
                if not (root / name).is_file():
                    raise DatasetError(f"{root}: episode {index}: {name} is missing; restore it from a copy")

    def _read_totals(self) -> Totals:
        root = self._files.root
        tail = wanted_tail(sum(place.length for place in self._places))
        totals = Totals()
        for place, rows in zip(self._places, self._tables(), strict=True):
            totals = totals.with_episode(rows, place.tasks, {}, tail)
        numbered = read_tasks(root / schema.TASKS_TABLE)
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
        """Yield the float columns of one episode after the other."""
        for number, places in itertools.groupby(self._places, lambda place: place.data_file):
            path, first = self._files.root / self._kinds[_ROWS].name(number), 0
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

    def _next_place(self, staged: StagedEpisode) -> EpisodePlace:
        last = self._places[-1] if self._places else None
        return EpisodePlace(
            index=staged.index,
            length=staged.num_frames,
            tasks=tuple(staged.tasks),
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
        if path.exists() and tuple(read_tasks(path).values()) == totals.tasks:
            return {}
        return self._files.stage_table(schema.TASKS_TABLE, tasks_table(totals.tasks))

    # joining

    def _join_full(self, additions: Mapping[str, Path]) -> None:
        """Join the files of those kinds where the next episode would not fit into the same file any more."""
        full = {}
        for name, path in additions.items():
            kind, group = self._kinds[name], self._last_group(name)
            if group is not None and not group.takes(path.stat().st_size, kind.coding(path), kind.max_bytes):
                full[name] = [group]
        self._try_to_join(full, whole_table=False)

    def _last_group(self, name: str) -> Group | None:
        if name not in self._last_groups:
            groups = self._groups(self._kinds[name])
            if not groups:
                return None
            self._last_groups[name] = groups[-1]
        return self._last_groups[name]

    def _enter(self, name: str, number: int) -> None:
        """Note a new file for joining."""
        kind, group = self._kinds[name], self._last_group(name)
        path = self._files.root / kind.name(number)
        size, coding = path.stat().st_size, kind.coding(path)
        if group is not None and number in group.numbers:
            return
        if group is not None and group.takes(size, coding, kind.max_bytes):
            self._last_groups[name] = group.with_file(number, size)
        else:
            self._last_groups[name] = Group((number,), size, coding)

    def _groups(self, kind: FileKind) -> list[Group]:
        """Return the files in groups that would go into one."""
        groups: list[Group] = []
        for number in dict.fromkeys(kind.file_of(place) for place in self._places):
            path = self._files.root / kind.name(number)
            size, coding = path.stat().st_size, kind.coding(path)
            if groups and groups[-1].takes(size, coding, kind.max_bytes):
                groups[-1] = groups[-1].with_file(number, size)
            else:
                groups.append(Group((number,), size, coding))
        return groups

    def _try_to_join(self, groups: Mapping[str, list[Group]], *, whole_table: bool) -> None:
        try:
            self._join(groups, whole_table=whole_table)
        except (OSError, DatasetError) as error:
            # the dataset is valid with small files too, and with those that are joined so far
            logger.warning("%s: files are not joined (%s); it is tried again next time", self._files.root, error)
            self._places = self._read_places()
        for name in groups:
            self._last_groups.pop(name, None)

    def _join(self, groups: Mapping[str, list[Group]], *, whole_table: bool) -> None:
        places = list(self._places)
        surplus = []
        for name, kind_groups in groups.items():
            for group in kind_groups:
                surplus += [self._kinds[name].name(number) for number in group.numbers[1:]]
                self._join_group(self._kinds[name], group, places)
        changed = [index for index, place in enumerate(places) if place is not self._places[index]]
        first = min(changed[:1] + ([self._first_of_open_table()] if whole_table else []), default=len(places))
        stale = self._rewrite_table(places, first) if first < len(places) else []
        self._places = places
        self._files.remove(reversed(stale))  # before what they refer to
        self._files.remove(surplus)

    def _join_group(self, kind: FileKind, group: Group, places: list[EpisodePlace]) -> None:
        """Write the joined file under the name of the first, and change `places` of its episodes."""
        if len(group.numbers) < 2:
            return
        counts = dict.fromkeys(group.numbers, 0)
        total = 0
        for index, place in enumerate(places):
            number = kind.file_of(place)
            if number in counts:
                places[index] = kind.moved(place, group.numbers[0], total)
                counts[number] += place.length
                total += place.length
        parts = [Span(self._files.root / kind.name(number), 0, count) for number, count in counts.items()]
        self._write_joined(kind, parts, group.numbers[0])

    def _first_of_open_table(self) -> int:
        """Return the first episode behind those in files of the table that are full."""
        max_bytes = self._kinds[_ROWS].max_bytes
        first = 0
        for number, places in itertools.groupby(self._places, lambda place: place.table_file):
            if (self._files.root / self._table_name(number)).stat().st_size >= max_bytes:
                first = list(places)[-1].index + 1
        return first

    def _write_joined(self, kind: FileKind, parts: list[Span], number: int) -> None:
        target = self._files.staged(kind.name(number))
        kind.join(parts, target)
        sync_file(target)
        self._files.move({kind.name(number): target})

    def _rewrite_table(self, places: list[EpisodePlace], first: int) -> list[str]:
        """Put the rows from episode `first` on, and those before it in the same file, into one file of the table.

        Returns:
            Names of the files that are not needed any more.
        """
        start = places[first].table_file
        inside = [index for index, place in enumerate(places) if place.table_file >= start]
        numbers = list(dict.fromkeys(places[index].table_file for index in inside))
        for index in inside:
            places[index] = dataclasses.replace(places[index], table_file=start)
        table = pa.concat_tables([read_table(self._files.root / self._table_name(number)) for number in numbers])
        rewritten = replaced(table, [places[index] for index in inside], self._fps)
        if len(numbers) > 1 or not rewritten.equals(table):
            self._files.move(self._files.stage_table(self._table_name(start), rewritten))
        return [self._table_name(number) for number in numbers[1:]]

    # taking an episode away

    def _first_row(self, place: EpisodePlace) -> int:
        return next(other.from_index for other in self._places if other.data_file == place.data_file)

    def _shorten_table(self, place: EpisodePlace) -> None:
        name = self._table_name(place.table_file)
        table = read_table(self._files.root / name)
        if table.num_rows > 1:
            self._files.move(self._files.stage_table(name, table.slice(0, table.num_rows - 1)))
        else:
            self._files.remove([name])

    def _shorten_file(self, kind: FileKind, number: int) -> None:
        """Leave in a file what episodes have of it."""
        count = sum(place.length for place in self._places if kind.file_of(place) == number)
        if count:
            self._write_joined(kind, [Span(self._files.root / kind.name(number), 0, count)], number)
        else:
            self._files.remove([kind.name(number)])

    def _table_name(self, number: int) -> str:
        return schema.shared_path(schema.EPISODES_TABLE_PATH, number)

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Join the shared files of a v3.0 dataset, up to the sizes of v3.0, in an order that keeps it valid at every instant.

1. the joined file replaces its first part, with which it starts: old places stay valid;
2. a joined episodes table replaces its first part: from then on the new places are used, since of two rows about one
   episode the first counts;
3. the other parts are removed, of the table first.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.episode_list import Span
from gr00t_training.dataset.metadata.episodes_table import EpisodePlace, replaced
from gr00t_training.dataset.metadata.tables import read_table
from gr00t_training.dataset.writing.files import DatasetFiles, sync_file
from gr00t_training.dataset.writing.shared_files import ROWS, FileKind, Group
from gr00t_training.errors import DatasetError

logger = logging.getLogger(__name__)

Places = list[EpisodePlace]  # of all episodes, in order


class FileJoiner:
    """Joins the files of one dataset. The methods that join take the places of all episodes and return the new ones."""

    def __init__(
        self, files: DatasetFiles, kinds: Mapping[str, FileKind], fps: int, read_places: Callable[[], Places]
    ) -> None:
        """Prepare for a dataset.

        Args:
            files: of the dataset.
            kinds: of shared files, by name.
            fps: rate of the rows [Hz].
            read_places: reads the places from disk, after joining failed.
        """
        self._files, self._kinds, self._fps = files, kinds, fps
        self._read_places = read_places
        self._last_groups: dict[str, Group] = {}  # with which the next file of each kind may be joined

    def reset(self) -> None:
        """Forget what is known about files: others have changed them."""
        self._last_groups.clear()

    def make_room(self, places: Places, additions: Mapping[str, Path]) -> Places:
        """Join the files of the kinds in which the next episode would exceed the file size; return the new places.

        Args:
            places: of all episodes, in order.
            additions: files of the next episode, by kind.
        """
        full = {}
        for name, path in additions.items():
            kind, group = self._kinds[name], self._last_group(name, places)
            if group is not None and not group.takes(path.stat().st_size, kind.coding(path), kind.max_bytes):
                full[name] = [group]
        return self._try_to_join(places, full, whole_table=False)

    def join_all(self, places: Places) -> Places:
        """Join all files, also those of the episodes table; return the new places."""
        groups = {name: self._groups(kind, places) for name, kind in self._kinds.items()}
        return self._try_to_join(places, groups, whole_table=True)

    def add(self, name: str, number: int, places: Places) -> None:
        """Take a new file into account; `places` includes its episode."""
        kind, group = self._kinds[name], self._last_group(name, places)
        path = self._files.root / kind.name(number)
        size, coding = path.stat().st_size, kind.coding(path)
        if group is not None and number in group.numbers:
            return
        if group is not None and group.takes(size, coding, kind.max_bytes):
            self._last_groups[name] = group.with_file(number, size)
        else:
            self._last_groups[name] = Group((number,), size, coding)

    def packed(self, kind: FileKind, places: Places) -> set[int]:
        """Return the files that hold only their episodes, in sequence; other files must not be joined.

        A kill during joining leaves a file that also holds the next episodes.
        """
        members: dict[int, list[EpisodePlace]] = {}
        for place in places:
            members.setdefault(kind.file_of(place), []).append(place)
        lengths = {number: sum(place.length for place in places) for number, places in members.items()}
        packed, numbers = set(), list(members)
        for position, number in enumerate(numbers):
            starts = [0, *itertools.accumulate(place.length for place in members[number])]
            ends = itertools.accumulate(lengths[following] for following in numbers[position:])
            firsts = [kind.first_of(place) for place in members[number]]
            follows = all(first in (None, start) for first, start in zip(firsts, starts, strict=False))
            if follows and kind.count(self._files.root / kind.name(number)) in ends:
                packed.add(number)
        return packed

    def write_joined(self, kind: FileKind, parts: list[Span], number: int) -> None:
        """Replace a file by one joined from parts of files."""
        target = self._files.staged(kind.name(number))
        kind.join(parts, target)
        sync_file(target)
        self._files.move({kind.name(number): target})

    def _last_group(self, name: str, places: Places) -> Group | None:
        if name not in self._last_groups:
            groups = self._groups(self._kinds[name], places)
            if not groups:
                return None
            self._last_groups[name] = groups[-1]
        return self._last_groups[name]

    def _groups(self, kind: FileKind, places: Places) -> list[Group]:
        """Return the files in groups that can be joined into one."""
        groups: list[Group] = []
        packed = self.packed(kind, places)
        for number in dict.fromkeys(kind.file_of(place) for place in places):
            path = self._files.root / kind.name(number)
            size, coding = path.stat().st_size, kind.coding(path)
            if number not in packed:
                coding = object()  # equal to no other
            if groups and groups[-1].takes(size, coding, kind.max_bytes):
                groups[-1] = groups[-1].with_file(number, size)
            else:
                groups.append(Group((number,), size, coding))
        return groups

    def _try_to_join(self, places: Places, groups: Mapping[str, list[Group]], *, whole_table: bool) -> Places:
        try:
            return self._join(places, groups, whole_table=whole_table)
        except (OSError, DatasetError) as error:
            # the dataset is also valid with small files, and with those joined so far
            logger.warning("%s: files could not be joined (%s); retrying next time", self._files.root, error)
            return self._read_places()
        finally:
            for name in groups:
                self._last_groups.pop(name, None)

    def _join(self, old: Places, groups: Mapping[str, list[Group]], *, whole_table: bool) -> Places:
        places = list(old)
        surplus = []
        for name, kind_groups in groups.items():
            for group in kind_groups:
                surplus += [self._kinds[name].name(number) for number in group.numbers[1:]]
                self._join_group(self._kinds[name], group, places)
        changed = [index for index, place in enumerate(places) if place is not old[index]]
        first = min(changed[:1] + ([self._first_of_open_table(old)] if whole_table else []), default=len(places))
        stale = self._rewrite_table(places, first) if first < len(places) else []
        self._files.remove(reversed(stale))  # before what they refer to
        self._files.remove(surplus)
        return places

    def _join_group(self, kind: FileKind, group: Group, places: Places) -> None:
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
        self.write_joined(kind, parts, group.numbers[0])

    def _first_of_open_table(self, places: Places) -> int:
        """Return the first episode after the full files of the table."""
        max_bytes = self._kinds[ROWS].max_bytes
        first = 0
        for number, members in itertools.groupby(places, lambda place: place.table_file):
            if (self._files.root / table_name(number)).stat().st_size >= max_bytes:
                first = list(members)[-1].index + 1
        return first

    def _rewrite_table(self, places: Places, first: int) -> list[str]:
        """Write the rows from episode `first` on, and those before it in the same file, into one file of the table.

        Returns:
            Names of the files that are no longer needed.
        """
        start = places[first].table_file
        inside = [index for index, place in enumerate(places) if place.table_file >= start]
        numbers = list(dict.fromkeys(places[index].table_file for index in inside))
        for index in inside:
            places[index] = dataclasses.replace(places[index], table_file=start)
        table = pa.concat_tables([read_table(self._files.root / table_name(number)) for number in numbers])
        rewritten = replaced(table, [places[index] for index in inside], self._fps)
        if len(numbers) > 1 or not rewritten.equals(table):
            self._files.move(self._files.stage_table(table_name(start), rewritten))
        return [table_name(number) for number in numbers[1:]]


def table_name(number: int) -> str:
    """Return the name of a file of the episodes table."""
    return schema.shared_path(schema.EPISODES_TABLE_PATH, number)

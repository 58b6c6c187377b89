# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Episodes of a dataset as columns: an `Episode` is made when it is asked for.

A list of 100,000 episodes takes some megabytes instead of hundreds. Texts of tasks are shared by the episodes that have
the same ones, and what is listed of an episode is kept only where it says more than index, tasks and length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np

PLAIN_ENTRY = ("episode_index", "tasks", "length")  # members of an entry that is not kept, in this order


@dataclass(frozen=True)
class Span:
    """`count` rows or frames of one file from number `first` on."""

    path: Path
    first: int
    count: int


@dataclass(frozen=True)
class Episode:
    """One episode as the metadata lists it; equal to another that says the same, wherever its files are."""

    index: int
    length: int  # rows
    tasks: tuple[str, ...]
    from_index: int  # row of the whole dataset
    rows: Span = field(compare=False)
    videos: Mapping[str, Span] = field(compare=False)  # by feature
    entry: Mapping[str, Any] = field(default_factory=dict)  # its line, or what v3.0's table says in addition to places
    to_index: int | None = field(default=None, compare=False)  # end of its rows as v3.0's table says, maybe wrongly
    # start and end in each video; only of v3.0, and where it is inspected
    times_s: Mapping[str, tuple[float, float]] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"episode {self.index}"

    @property
    def sub_tasks(self) -> tuple[Mapping[str, Any], ...]:
        """Spans of rows with a text each: start, end, text."""
        return tuple(self.entry.get("sub_tasks") or ())


@dataclass(frozen=True, eq=False)
class FilePlaces:
    """Where the rows or frames of each episode are: `path_of(file)` from number `first` on."""

    path_of: Callable[[int], Path]
    file: np.ndarray  # (N,) int64: number of the file
    first: np.ndarray  # (N,) int64

    def span(self, position: int, count: int) -> Span:
        """Return the part of the file that the episode at `position` has."""
        return Span(self.path_of(int(self.file[position])), int(self.first[position]), count)


class EpisodeList(Sequence[Episode]):
    """Episodes by index; as long as the columns that it is made of, which are never changed."""

    def __init__(
        self,
        index: np.ndarray,
        length: np.ndarray,
        from_index: np.ndarray,
        tasks: Sequence[tuple[str, ...]],
        rows: FilePlaces,
        videos: Mapping[str, FilePlaces],
        entries: Mapping[int, Mapping[str, Any]],
        to_index: np.ndarray | None = None,
        times_s: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Keep the columns.

        Args:
            index: (N,) int64, increasing.
            length: (N,) int64, rows.
            from_index: (N,) int64, rows of the dataset before the episode.
            tasks: of each episode.
            rows: files of the rows.
            videos: files of the frames, by feature.
            entries: by index, what is listed of an episode that is not plain (`plain_tasks`).
            to_index: (N,) int64 as v3.0's table says, below 0: it does not say; None: of no episode.
            times_s: (N, 2) start and end in each video, by feature.
        """
        self.indices, self.length, self.from_index = index, length, from_index
        self.rows, self.videos = rows, videos
        self._tasks, self._entries = tasks, entries
        self._to_index, self._times_s = to_index, times_s or {}

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, position: int) -> Episode: ...

    @overload
    def __getitem__(self, position: slice) -> list[Episode]: ...

    def __getitem__(self, position: int | slice) -> Episode | list[Episode]:
        if isinstance(position, slice):
            return [self._episode(number) for number in range(len(self))[position]]
        return self._episode(range(len(self))[position])

    def __iter__(self) -> Iterator[Episode]:
        return map(self._episode, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # compared by content, as a list

    def position(self, index: int) -> int | None:
        """Return where the episode of that index is, None if there is none."""
        position = int(np.searchsorted(self.indices, index))
        return position if position < len(self.indices) and self.indices[position] == index else None

    def tasks_of(self, position: int) -> tuple[str, ...]:
        """Return the tasks of the episode at a position."""
        return self._tasks[position]

    def of_cameras(self, cameras: Sequence[str]) -> EpisodeList:
        """Return the same episodes with the videos of these cameras only."""
        return EpisodeList(
            self.indices,
            self.length,
            self.from_index,
            self._tasks,
            self.rows,
            {name: self.videos[name] for name in cameras},
            self._entries,
            self._to_index,
            self._times_s,
        )

    def _episode(self, position: int) -> Episode:
        index, length = int(self.indices[position]), int(self.length[position])
        tasks = self._tasks[position]
        entry = self._entries.get(index)
        to_index = -1 if self._to_index is None else int(self._to_index[position])
        return Episode(
            index,
            length,
            tasks,
            int(self.from_index[position]),
            self.rows.span(position, length),
            {name: places.span(position, length) for name, places in self.videos.items()},
            {"episode_index": index, "tasks": list(tasks), "length": length} if entry is None else entry,
            to_index if to_index >= 0 else None,
            {name: (float(times[position, 0]), float(times[position, 1])) for name, times in self._times_s.items()},
        )


def no_episodes() -> EpisodeList:
    """Return a list without episodes."""
    nothing = np.zeros(0, np.int64)
    return EpisodeList(nothing, nothing, nothing, (), FilePlaces(lambda _: Path(), nothing, nothing), {}, {})


class EpisodeColumns:
    """Collects what is listed of episodes, in any order."""

    def __init__(self) -> None:
        self._numbers: list[tuple[int, int]] = []  # index, length
        self.tasks: list[tuple[str, ...]] = []  # in the order of adding
        self._shared: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.entries: dict[int, Mapping[str, Any]] = {}

    def add(self, entry: Mapping[str, Any]) -> None:
        """Add an episode by its entry of normal form; v3.0's without what its table says of places."""
        index, length = entry["episode_index"], entry["length"]
        tasks = tuple(entry.get("tasks") or ())
        self._numbers.append((index, length))
        self.tasks.append(self._shared.setdefault(tasks, tasks))
        if tuple(entry) != PLAIN_ENTRY:
            self.entries[index] = entry

    def sorted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[tuple[str, ...]]]:
        """Return the order by index, the sorted indices, the lengths and the tasks."""
        numbers = np.array(self._numbers, np.int64).reshape(-1, 2)
        order = np.argsort(numbers[:, 0], kind="stable")
        return order, numbers[order, 0], numbers[order, 1], [self.tasks[position] for position in order]


def rows_before(length: np.ndarray) -> np.ndarray:
    """Return the number of rows before each episode, `(N,)` int64."""
    return np.concatenate([[0], np.cumsum(length)[:-1]]).astype(np.int64) if len(length) else length

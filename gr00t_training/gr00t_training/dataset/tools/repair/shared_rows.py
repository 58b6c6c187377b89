# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Find the rows of each episode of a v3.0 dataset in its shared files, by the numbers in the rows.

All or nothing: rows of one episode cannot be trusted while those of another contradict the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from gr00t_training.dataset.tools.repair.numbering import (
    RowNumbers,
    UndecidedError,
    frames_of_times,
    is_complete,
    read_numbers,
)
from gr00t_training.dataset.tools.validate.metadata import TIME_TOLERANCE_S


@dataclass
class SharedRows:
    """All rows in order of episodes and frames."""

    table: pa.Table
    numbers: RowNumbers  # as stored, in that order
    episodes: np.ndarray  # (N,) episode of each row, as it should be
    frames: np.ndarray  # (N,)
    files: Mapping[str, int]  # name -> rows that it has
    file_of: np.ndarray  # (N,) file that each row is in, as a number among `files`
    is_in_order: bool  # the files hold the rows in this order already
    is_relabeled: bool  # stored numbers of episodes and frames are damaged
    unlisted: list[int] = field(default_factory=list)  # episodes that the table does not list

    def lengths(self) -> dict[int, int]:
        """Return the number of rows of each episode."""
        values, counts = np.unique(self.episodes, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))


def sort_rows(tables: Mapping[str, pa.Table], entries: Sequence[Mapping[str, Any]], fps: float) -> SharedRows:
    """Return the rows of all files in order of their numbers.

    Args:
        tables: name -> rows, of all data files in order of their numbers.
        entries: rows of the episodes table, in order of episodes.
        fps: rate of the rows.

    Raises:
        UndecidedError: the numbers are incomplete, or contradict each other or the table.
    """
    try:
        table = pa.concat_tables(tables.values())
    except pa.ArrowException as error:
        raise UndecidedError(f"data files have different columns ({error})") from error
    numbers = read_numbers(table)
    listed = {entry["episode_index"] for entry in entries}
    problem = _incomplete(numbers, listed)
    if not problem:
        assert numbers.episode is not None
        assert numbers.frame is not None
        episodes, frames = numbers.episode, numbers.frame
        _check_times(numbers, episodes, frames, fps)
    else:
        episodes, frames = _labels_by_index(numbers, entries, fps, problem)
    order = np.lexsort((frames, episodes))
    counts = {name: part.num_rows for name, part in tables.items()}
    is_in_order = bool(np.array_equal(order, np.arange(len(order))))
    return SharedRows(
        table=table if is_in_order else table.take(pa.array(order)),
        numbers=numbers.slice(order),
        episodes=episodes[order],
        frames=frames[order],
        files=counts,
        file_of=np.repeat(np.arange(len(counts)), list(counts.values()))[order],
        is_in_order=is_in_order,
        is_relabeled=bool(problem),
        unlisted=sorted(set(np.unique(episodes).tolist()) - listed),
    )


def _incomplete(numbers: RowNumbers, listed: set[int]) -> str:
    """Return why the rows do not number themselves completely; empty if they do."""
    if numbers.episode is None or numbers.frame is None:
        return "rows have no episode_index or frame_index that can be read as whole numbers"
    order = np.argsort(numbers.episode, kind="stable")
    values, starts = np.unique(numbers.episode[order], return_index=True)
    for episode, rows in zip(values.tolist(), np.split(order, starts[1:]), strict=True):
        frames = numbers.frame[rows]
        if not is_complete(frames):
            found, counts = np.unique(frames, return_counts=True)
            if (counts > 1).any():
                return f"frame {found[counts > 1][0]} of episode {episode} is there {counts[counts > 1][0]} times"
            missing = np.setdiff1d(np.arange(len(frames)), found)
            return f"frame {missing[0]} of episode {episode} is missing, its {len(frames)} rows go to frame {found[-1]}"
    missing = sorted(listed - set(values.tolist()))
    return f"no row says episode {missing[0]}, which meta/episodes lists" if missing else ""


def _check_times(numbers: RowNumbers, episodes: np.ndarray, frames: np.ndarray, fps: float) -> None:
    if numbers.time_s is None:
        return
    for episode in np.unique(episodes).tolist():
        rows = np.flatnonzero(episodes == episode)
        by_time = frames_of_times(numbers.time_s[rows], fps)
        if by_time is not None and not np.array_equal(by_time, frames[rows]):
            row = int(np.flatnonzero(by_time != frames[rows])[0])
            raise UndecidedError(
                f"frame_index {frames[rows][row]} of episode {episode} has timestamp {numbers.time_s[rows][row]:.6f} "
                f"s, which is frame {by_time[row]}"
            )


def _labels_by_index(
    numbers: RowNumbers, entries: Sequence[Mapping[str, Any]], fps: float, problem: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return episode and frame of each row by `index`, where table and timestamps agree with it.

    Raises:
        UndecidedError: they do not.
    """
    undecided = UndecidedError(problem)
    if not is_complete(numbers.index):
        raise undecided
    assert numbers.index is not None
    expected_start, episodes, frames = 0, [], []
    for entry in entries:
        start, stop, length = entry["dataset_from_index"], entry["dataset_to_index"], entry["length"]
        if start != expected_start or stop - start != length:
            raise undecided
        episodes.append(np.full(length, entry["episode_index"]))
        frames.append(np.arange(length))
        expected_start = stop
    if expected_start != numbers.count or not entries:
        raise undecided
    by_index = np.concatenate(episodes)[numbers.index], np.concatenate(frames)[numbers.index]
    if numbers.time_s is None or (np.abs(numbers.time_s - by_index[1] / fps) > TIME_TOLERANCE_S).any():
        raise undecided
    for name, stored, right in zip(
        ("episode_index", "frame_index"), (numbers.episode, numbers.frame), by_index, strict=True
    ):
        is_damaged = name in numbers.columns and stored is None
        if is_damaged or (stored is not None and 2 * np.count_nonzero(stored == right) <= len(right)):
            raise undecided
    return by_index

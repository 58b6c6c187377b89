# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Find the rows of each episode of a v2.x dataset: by the numbers in the rows, not by names of files.

Files with the rows of another episode are exchanged back; rows that got into each other's files are put
together again where all of them number themselves completely. Everything else stays and is refused with both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from gr00t_training.dataset.tools.repair.numbering import (
    RowNumbers,
    UndecidedError,
    is_complete,
    order_of_rows,
    read_numbers,
)


@dataclass
class Assignment:
    """Rows by episode, in order of frames."""

    tables: dict[int, pa.Table] = field(default_factory=dict)
    sources: dict[int, str] = field(default_factory=dict)  # episode -> file that its rows are in as a whole
    reordered: set[int] = field(default_factory=set)  # episodes with rows in another order in the file
    regrouped: set[int] = field(default_factory=set)  # episodes with rows in several files
    relabeled: set[int] = field(default_factory=set)  # episodes with damaged numbers that can be set
    refused: dict[int, tuple[str, str]] = field(default_factory=dict)  # episode -> file and why
    strays: dict[str, str] = field(default_factory=dict)  # file of no listed episode -> why


def assign(
    files: Mapping[str, pa.Table],
    number_of: Mapping[str, int | None],
    listed: set[int],
    home: Mapping[int, str],
    fps: float,
) -> Assignment:
    """Assign the rows of all data files to episodes.

    Args:
        files: name -> rows, of every data file that can be read.
        number_of: name -> episode that the file is named after; None: none.
        listed: episodes of the list.
        home: episode -> name that its file should have, of every episode listed or named.
        fps: rate of the rows.
    """
    result = Assignment()
    numbers = {name: read_numbers(table) for name, table in files.items()}
    if _take_regrouped(result, files, numbers, number_of, listed, home):
        return result
    unnumbered: dict[str, str] = {}
    claims = {name: _claim(item) for name, item in numbers.items()}
    target = _targets(claims, number_of, listed, home)
    for name, why in _unnumbered_elsewhere(claims, numbers, number_of).items():
        target.pop(name, None)
        unnumbered[name] = why
    for name, table in files.items():
        own, claim = number_of[name], claims[name]
        episode = target.get(name)
        if episode is None:
            if own is None or own not in listed:
                result.strays[name] = "belongs to no episode" if claim is None else f"its rows say episode {claim}"
                if own is not None and claim in (None, own):
                    _take(result, own, name, table, numbers[name], fps, is_listed=False)
            else:
                why = f"the list and the file's name say episode {own}, its rows say episode {claim}"
                result.refused[own] = (name, unnumbered.get(name, why))
            continue
        _take(result, episode, name, table, numbers[name], fps, is_listed=episode in listed)
    for episode in result.tables:
        result.strays.pop(result.sources[episode], None)
    return result


def _take(
    result: Assignment, episode: int, name: str, table: pa.Table, numbers: RowNumbers, fps: float, *, is_listed: bool
) -> None:
    try:
        order = order_of_rows(numbers, fps, name)
        _check_episode_numbers(numbers, episode, name)
    except UndecidedError as error:
        result.refused[episode] = (name, str(error))
        return
    if not np.array_equal(order, np.arange(len(order))):
        table = table.take(pa.array(order))
        result.reordered.add(episode)
    frame_is_right = numbers.frame is not None and is_complete(numbers.frame)
    if not frame_is_right or numbers.episode is None or len(np.unique(numbers.episode)) > 1:
        result.relabeled.add(episode)
    result.tables[episode], result.sources[episode] = table, name


def _claim(numbers: RowNumbers) -> int | None:
    """Return the episode number in all rows of a file; None if there is none or several."""
    if numbers.episode is None or not numbers.count:
        return None
    values = np.unique(numbers.episode)
    return int(values[0]) if len(values) == 1 else None


def _targets(
    claims: Mapping[str, int | None], number_of: Mapping[str, int | None], listed: set[int], home: Mapping[int, str]
) -> dict[str, int]:
    """Return which episode each file is of, as far as names and rows do not contradict each other."""
    target: dict[str, int] = {}
    for name, claim in claims.items():
        own = number_of[name]
        if own is not None and own in listed and claim in (None, own):
            target[name] = own
    wanted: dict[int, list[str]] = {}
    for name, claim in claims.items():
        if name not in target and claim is not None and claim in listed and home.get(claim) not in target:
            wanted.setdefault(claim, []).append(name)
    moves = {names[0]: episode for episode, names in wanted.items() if len(names) == 1}
    while True:
        # a file may only take the name of one that is missing or takes another name itself
        blocked = [name for name, episode in moves.items() if home[episode] in claims and home[episode] not in moves]
        if not blocked:
            return target | moves
        for name in blocked:
            del moves[name]


def _unnumbered_elsewhere(
    claims: Mapping[str, int | None], numbers: Mapping[str, RowNumbers], number_of: Mapping[str, int | None]
) -> dict[str, str]:
    """Return files with rows without episode_index that belong to another episode than the file name, and why."""
    unnumbered = [name for name, item in numbers.items() if item.episode is None and number_of[name] is not None]
    claimed = {claim: name for name, claim in claims.items() if claim is not None and claim != number_of[name]}
    found = {
        name: f"its rows have no episode_index, and those of {claimed[number]} say episode {number}"
        for name in unnumbered
        if (number := number_of[name]) in claimed
    }
    starts = {
        number: int(item.index.min())
        for name, item in numbers.items()
        if (number := number_of[name]) is not None and item.index is not None and item.count
    }
    ordered = [starts[number] for number in sorted(starts)]
    if len(set(ordered)) == len(ordered) and ordered != sorted(ordered):
        text = "its rows have no episode_index, and index does not rise with the numbers of the files"
        found |= {name: text for name in unnumbered if name not in found}
    return found


def _check_episode_numbers(numbers: RowNumbers, episode: int, name: str) -> None:
    """Refuse a file with rows of several episodes unless few are damaged and `index` says that they are one run."""
    if numbers.episode is None:
        if "episode_index" in numbers.columns:
            raise UndecidedError(f"{name}: episode_index cannot be read as whole numbers")
        return
    other = np.flatnonzero(numbers.episode != episode)
    if not other.size:
        return
    follows = False
    if numbers.index is not None and is_complete(numbers.frame):
        follows = len(np.unique(numbers.index - numbers.frame)) == 1
    if not follows or 2 * other.size >= numbers.count:
        row = int(other[0])
        raise UndecidedError(
            f"{name}: row {row} says episode {numbers.episode[row]}, the file's name and other rows say {episode}"
        )


def _take_regrouped(
    result: Assignment,
    files: Mapping[str, pa.Table],
    numbers: Mapping[str, RowNumbers],
    number_of: Mapping[str, int | None],
    listed: set[int],
    home: Mapping[int, str],
) -> bool:
    """Put rows together that got into each other's files, where all of them number themselves completely."""
    names = [name for name in files if number_of[name] in listed]
    if all(_claim(numbers[name]) is not None or numbers[name].episode is None for name in names):
        return False
    if {home[episode] for episode in listed} != set(names):
        return False
    items = [numbers[name] for name in names]
    if any(item.episode is None or item.frame is None for item in items):
        return False
    try:
        table = pa.concat_tables([files[name] for name in names])
    except pa.ArrowException:
        return False
    episodes = np.concatenate([item.episode for item in items])  # type: ignore[misc]
    frames = np.concatenate([item.frame for item in items])  # type: ignore[misc]
    if set(np.unique(episodes).tolist()) != listed:
        return False
    rows = {episode: np.flatnonzero(episodes == episode) for episode in listed}
    if not all(is_complete(frames[part]) for part in rows.values()):
        return False
    for episode, part in rows.items():
        order = part[np.argsort(frames[part])]
        result.tables[episode], result.sources[episode] = table.take(pa.array(order)), home[episode]
        result.regrouped.add(episode)
    for name in files:
        if name not in names:
            result.strays[name] = "belongs to no episode"
    return True

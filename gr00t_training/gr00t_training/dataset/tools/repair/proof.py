# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Prove that a repair keeps every row and every picture, by reading the files before and after it.

Rows are compared by all of their bytes but the numbers that a plan says it sets, pictures by their packets. The proof
believes the plan only about which episodes get another number and which damaged numbers are set.
"""

from __future__ import annotations

import filecmp
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.media.packets import CodedVideo
from gr00t_training.dataset.metadata.columns import column_rows
from gr00t_training.dataset.metadata.episode_list import Span
from gr00t_training.dataset.metadata.tables import conforming, read_table
from gr00t_training.dataset.tools.repair.numbering import read_numbers
from gr00t_training.dataset.tools.repair.plan import Plan
from gr00t_training.errors import DatasetError

_NUMBERS = {"episode_index", "frame_index", "index", schema.TIMESTAMP_COLUMN, schema.TASK_COLUMN}
_VIDEO_PLACES = ("chunk_index", "file_index", "from_timestamp")


@dataclass(frozen=True)
class _Row:
    label: tuple[int, int] | None  # episode and frame; None: it has no trustworthy one
    content: bytes  # digest of the columns that do not number the row
    time: bytes | None  # None: set by the plan
    task: bytes | None


def prove(plan: Plan, staged: Mapping[str, Path]) -> None:
    """Compare the files that `plan` changes with their new content.

    Args:
        plan: changes, not made yet.
        staged: name -> file with its new content.

    Raises:
        DatasetError: a row or picture would get lost or become another one; names it.
    """
    _prove_rows(plan, staged)
    for name in plan.retimed:
        _prove_packets(plan.root / plan.moves.get(name, name), staged[name])
    leaving = {*plan.moves.values(), *plan.aside}
    for target, source in plan.moves.items():
        if not _has_rows(target) and (plan.root / target).exists() and target not in leaving:
            raise _lost(plan.root, f"{target} would be replaced by {source}")
        is_same = target in plan.tables or target in plan.retimed or target in plan.texts
        if not is_same and not filecmp.cmp(plan.root / source, staged[target], shallow=False):
            raise _lost(plan.root, f"{source}: its copy differs")
    _prove_places(plan, staged)


def _prove_rows(plan: Plan, staged: Mapping[str, Path]) -> None:
    names = {name for name in (*plan.tables, *plan.moves, *plan.moves.values()) if _has_rows(name)}
    found = {name for name in names - set(plan.aside) if (plan.root / name).is_file()}
    before = [row for name in sorted(found) for row in _rows(plan.root / name, plan, name)]
    after = [row for name in sorted(names & set(staged)) for row in _rows(staged[name], plan, None)]
    if Counter(row.content for row in before) != Counter(row.content for row in after):
        raise _lost(plan.root, f"{len(before)} rows before, {len(after)} after, or not the same ones")
    by_label = {row.label: row for row in after}
    for row in before:
        if row.label is None:
            continue
        now = by_label.get(row.label)
        if (
            now is None
            or now.content != row.content
            or row.time not in (None, now.time)
            or row.task not in (None, now.task)
        ):
            raise _lost(plan.root, f"frame {row.label[1]} of episode {row.label[0]} would hold another row")


def _has_rows(name: str) -> bool:
    return name.endswith(".parquet") and not name.startswith(schema.META + "/")


def _rows(path: Path, plan: Plan, name: str | None) -> Iterator[_Row]:
    """Yield the rows of a file; `name` is the file's name before the repair; the labels are those after it."""
    info = plan.info or {}
    table = conforming(read_table(path), info.get("features", {}), float(info.get("fps", 1)), str(path))
    numbers = read_numbers(table)
    labels: list[tuple[int, int] | None] = [None] * table.num_rows
    if numbers.episode is not None and numbers.frame is not None and name not in plan.relabeled:
        episodes: Iterable[int] = numbers.episode.tolist()
        if name is not None:
            episodes = [plan.renumbered.get(episode, episode) for episode in episodes]
        labels = list(zip(episodes, numbers.frame.tolist(), strict=True))
    contents = _digests(table.drop_columns([column for column in table.column_names if column in _NUMBERS]))
    times = _compared(table, schema.TIMESTAMP_COLUMN, name in plan.retimed_rows)
    tasks = _compared(table, schema.TASK_COLUMN, name in plan.retasked)
    yield from map(_Row, labels, contents, times, tasks)


def _compared(table: pa.Table, name: str, is_set: bool) -> list[bytes] | list[None]:
    if is_set or name not in table.column_names:
        return [None] * table.num_rows
    return _digests(table.select([name]))


def _digests(table: pa.Table) -> list[bytes]:
    """Return a digest of each row."""
    columns = [_row_bytes(table[name]) for name in sorted(table.column_names)]
    if not columns:
        return [b""] * table.num_rows
    return [hashlib.blake2b(b"\0".join(parts), digest_size=16).digest() for parts in zip(*columns, strict=True)]


def _row_bytes(column: pa.ChunkedArray) -> list[bytes]:
    try:
        values = np.ascontiguousarray(column_rows(column))
    except DatasetError:
        values = None
    if values is None or values.dtype.kind not in "fiub" or values.ndim > 2 or not values.size:
        return [repr(value).encode() for value in column.to_pylist()]
    width = values.itemsize * (values.shape[1] if values.ndim == 2 else 1)
    flat = values.tobytes()
    return [flat[start : start + width] for start in range(0, len(flat), width)]


def _prove_packets(before: Path, after: Path) -> None:
    if _packets(before) != _packets(after):
        raise DatasetError(f"{before}: its pictures would not be the same after the repair; nothing was changed")


def _packets(path: Path) -> list[bytes]:
    video = CodedVideo(path)
    try:
        pairs = video.packets(Span(path, 0, video.num_frames))
        numbered = {number: hashlib.blake2b(bytes(packet), digest_size=16).digest() for packet, number in pairs}
        return [numbered[number] for number in sorted(numbered)]
    finally:
        video.close()


def _prove_places(plan: Plan, staged: Mapping[str, Path]) -> None:
    """Check that v3.0's episodes keep their place in the videos unless the plan sets it."""
    names = [name for name in plan.tables if name.startswith(schema.META + "/episodes/")]
    before = _places(sorted(plan.root.glob(schema.EPISODES_TABLE_PATTERN))) if names else {}
    for key, place in _places([staged[name] for name in names]).items():
        if key not in plan.respanned and key in before and before[key] != place:
            episode, camera = key
            raise _lost(plan.root, f"episode {episode} would show other frames of {camera}")


def _places(paths: Iterable[Path]) -> dict[tuple[int, str], tuple[object, ...]]:
    places: dict[tuple[int, str], tuple[object, ...]] = {}
    for path in paths:
        table = read_table(path)
        cameras = {name.split("/")[1] for name in table.column_names if name.startswith("videos/")}
        episodes = table["episode_index"].to_pylist()
        for camera in cameras:
            columns = [table[f"videos/{camera}/{part}"].to_pylist() for part in _VIDEO_PLACES]
            for episode, *place in zip(episodes, *columns, strict=True):
                places.setdefault((episode, camera), tuple(place))
    return places


def _lost(root: Path, text: str) -> DatasetError:
    return DatasetError(f"{root}: the repair would not keep every row and picture: {text}; nothing was changed")

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Checks of the rows: one parquet file at a time, whichever number of episodes it holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.columns import column_rows, holds_numbers, is_text
from gr00t_training.dataset.metadata.episode_list import Episode
from gr00t_training.dataset.metadata.features import channel_names, is_video, width_of
from gr00t_training.dataset.metadata.model import DatasetMetadata
from gr00t_training.dataset.metadata.rows import row_numbers
from gr00t_training.dataset.metadata.tables import conforming, read_table
from gr00t_training.dataset.tools.validate.findings import (
    NO_REPAIR,
    RECORD_AGAIN,
    REPAIR,
    TABLE_ROWS,
    Finding,
    fault,
    guarded,
    length_of,
    tasks_of,
    times_in,
    warning,
)
from gr00t_training.dataset.tools.validate.metadata import RETASK, TIME_TOLERANCE_S
from gr00t_training.errors import DatasetError
from gr00t_training.io.mirror import exists


@dataclass
class CheckedRows:
    """What was found in one data file, and the columns that later checks compare over all episodes."""

    findings: list[Finding] = field(default_factory=list)
    columns: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)  # episode -> name -> (N,) or (N, D)


def check_data_file(metadata: DatasetMetadata, name: str, episodes: Sequence[Episode]) -> CheckedRows:
    """Check the rows of the `episodes` that the metadata places in the file `name`."""
    checked = CheckedRows()
    try:
        path = metadata.file(name)
        if not exists(path):
            return checked  # found with the files
        stored = read_table(path, remedy=RECORD_AGAIN)
        scalars = set(metadata.annotation_columns().values())
        table = conforming(stored, metadata.features, metadata.fps, name, scalars)
        columns = _read_columns(metadata, table)
    except DatasetError as error:
        checked.findings.append(fault(name, str(error).removeprefix(f"{metadata.path / name}: ")))
        return checked
    checked.findings += guarded(name, _check_columns(metadata, name, stored))
    checked.findings += guarded(name, _check_forms(metadata, name, stored, table))
    for column, found in list(columns.items()):
        if isinstance(found, DatasetError):
            checked.findings.append(fault(name, f"column '{column}': {found}"))
            del columns[column]
    arrays = {column: found for column, found in columns.items() if isinstance(found, np.ndarray)}
    episodes = _behind_unlisted(episodes, arrays.get("index"))
    checked.findings += _check_count(metadata, name, episodes, table.num_rows, arrays.get("episode_index"))
    for episode in episodes:
        part: slice | np.ndarray = slice(episode.rows.first, episode.rows.first + episode.length)
        numbers = row_numbers(table, episode.rows.first, episode.length, episode.index)
        if numbers is not None:
            text = "its rows are not stored in the order of episode_index and frame_index"
            targets = (metadata.name_of(episode.rows.path), *((TABLE_ROWS,) if metadata.is_v3 else ()))
            otherwise = f"{_again(metadata)}, which sorts them"
            checked.findings.append(fault(episode.name, text, "", REPAIR, targets, otherwise))
            part = numbers
        rows = {column: values[part] for column, values in arrays.items()}
        checked.findings += guarded(episode.name, _check_episode(metadata, episode, rows))
        numeric = {
            column: values
            for column, values in rows.items()
            if values.dtype.kind in "fiu" and values.shape[-1:] != (0,)
        }
        checked.columns[episode.index] = numeric
    return checked


def _behind_unlisted(episodes: Sequence[Episode], index: np.ndarray | None) -> Sequence[Episode]:
    """Return the episodes with their first rows counted from the start of the file, also behind rows of no episode."""
    if index is None or not len(index) or index.dtype.kind not in "iu" or (np.diff(index) != 1).any():
        return episodes
    first = min(episodes, key=lambda episode: episode.rows.first)
    number = first.from_index - int(index[0]) - first.rows.first
    if not 0 < number < len(index):
        return episodes
    return [replace(episode, rows=replace(episode.rows, first=episode.rows.first + number)) for episode in episodes]


def _check_count(
    metadata: DatasetMetadata, name: str, episodes: Sequence[Episode], count: int, labels: np.ndarray | None
) -> Iterator[Finding]:
    """Check that the rows of a file are those of its episodes; those of episodes that are not listed may be there."""
    expected = sum(episode.length for episode in episodes)
    if count == expected:
        return
    if labels is not None and metadata.is_v3:
        num_unlisted = int((~np.isin(labels, metadata.order)).sum())
        if num_unlisted and count == expected + num_unlisted:
            yield warning(name, f"{num_unlisted} rows of episodes that {metadata.episodes_place} does not list")
            return
    subject = episodes[0].name if len(episodes) == 1 else name
    targets = (TABLE_ROWS, name) if metadata.is_v3 else (*(length_of(episode.index) for episode in episodes), name)
    yield fault(subject, f"{count} rows, the metadata says {expected}", "", REPAIR, targets, NO_REPAIR)


def _read_columns(metadata: DatasetMetadata, table: pa.Table) -> dict[str, np.ndarray | DatasetError]:
    """Return the columns of numbers and texts as arrays, or why one of them cannot be read as declared."""
    used = {column for _, column, _, _ in metadata.slices()}
    found: dict[str, np.ndarray | DatasetError] = {}
    for name in table.column_names:
        kind, dtype = table.schema.field(name).type, metadata.features.get(name, {}).get("dtype", "")
        is_plain = holds_numbers(kind) or is_text(kind) or pa.types.is_boolean(kind)
        if is_plain or name in used or dtype.startswith(("float", "int", "uint", "bool")):
            try:
                found[name] = column_rows(table.column(name))
            except DatasetError as error:
                found[name] = error
    return found


def _again(metadata: DatasetMetadata) -> str:
    return f"write it again with gr00t_dataset convert --to {metadata.info['codebase_version']}"


def _check_forms(metadata: DatasetMetadata, name: str, stored: pa.Table, table: pa.Table) -> Iterator[Finding]:
    """Name columns that this suite puts right when it reads them and other readers may not."""
    for column in stored.column_names:
        found, expected = stored.schema.field(column).type, table.schema.field(column).type
        if found == expected:
            continue
        if column == schema.TIMESTAMP_COLUMN:
            yield fault(name, f"timestamp is {found}", "seconds as float32", _again(metadata))
        else:
            text = f"column '{column}' is {found}, which not every reader takes"
            yield warning(name, text, str(expected), _again(metadata))


def _check_columns(metadata: DatasetMetadata, name: str, table: pa.Table) -> Iterator[Finding]:
    for column, feature in metadata.features.items():
        if is_video(feature) or column in table.column_names or column in schema.INDEX_COLUMNS:
            continue
        text = f"no column '{column}', which {schema.INFO_FILE} declares"
        yield Finding(metadata.is_v3, name, text, remedy=f"{RECORD_AGAIN}, or take the feature out")
    if metadata.is_v3:
        for column in table.column_names:
            if column not in metadata.features:
                text = f"column '{column}' is not declared in {schema.INFO_FILE}, lerobot cannot load it"
                yield fault(name, text, remedy="declare it under features")


def _check_episode(metadata: DatasetMetadata, episode: Episode, rows: dict[str, np.ndarray]) -> Iterator[Finding]:
    yield from _check_indices(metadata, episode, rows)
    if schema.TIMESTAMP_COLUMN in rows:
        targets = (times_in(metadata.name_of(episode.rows.path)), *((TABLE_ROWS,) if metadata.is_v3 else ()))
        yield from _check_times(rows[schema.TIMESTAMP_COLUMN], metadata.fps, episode.name, targets)
    else:
        text = f"no column '{schema.TIMESTAMP_COLUMN}'"
        yield fault(episode.name, text, "", REPAIR, (times_in(metadata.name_of(episode.rows.path)),), NO_REPAIR)
    yield from _check_tasks(metadata, episode, rows)
    for column, values in rows.items():
        if values.dtype.kind in "fiub" and len(values):
            yield from _check_values(metadata, episode, column, values)


def _check_indices(metadata: DatasetMetadata, episode: Episode, rows: dict[str, np.ndarray]) -> Iterator[Finding]:
    expected = {
        "frame_index": np.arange(episode.length),
        "episode_index": np.full(episode.length, episode.index),
        "index": np.arange(episode.from_index, episode.from_index + episode.length),
    }
    targets = (metadata.name_of(episode.rows.path), *((TABLE_ROWS,) if metadata.is_v3 else ()))
    for name, values in expected.items():
        if name not in rows:
            text = f"no column '{name}', lerobot needs it"
            yield Finding(metadata.is_v3, episode.name, text, "", REPAIR, targets, NO_REPAIR)
            continue
        count = min(len(rows[name]), episode.length)
        wrong = np.flatnonzero(rows[name][:count] != values[:count])
        if wrong.size:
            row = int(wrong[0])
            text = f"{name} is {rows[name][row]} in row {row}"
            yield fault(episode.name, text, str(values[row]), REPAIR, targets, NO_REPAIR)


def _check_times(times: np.ndarray, fps: float, subject: str, targets: tuple[str, ...]) -> Iterator[Finding]:
    times = times.astype(np.float64)
    wrong = np.flatnonzero(~(np.abs(np.diff(times) - 1 / fps) <= TIME_TOLERANCE_S))
    if wrong.size:
        row = int(wrong[0])
        text = f"timestamp steps by {times[row + 1] - times[row]:.6f} s after row {row}"
        yield fault(subject, text, f"{1 / fps:.6f} s", REPAIR, targets, NO_REPAIR)
    elif times.size and abs(times[0]) > TIME_TOLERANCE_S:
        text = f"timestamp starts at {times[0]:.6f} s"
        yield warning(subject, text, "0, or lerobot shows the wrong frames", REPAIR, targets, NO_REPAIR)
    else:
        # steps within the tolerance can still add up
        wrong = np.flatnonzero(np.abs(times - np.arange(len(times)) / fps) > TIME_TOLERANCE_S)
        if wrong.size:
            row = int(wrong[0])
            text = f"timestamp is {times[row]:.6f} s in row {row}"
            yield fault(subject, text, f"{row / fps:.6f} s", REPAIR, targets, NO_REPAIR)


def _check_tasks(metadata: DatasetMetadata, episode: Episode, rows: dict[str, np.ndarray]) -> Iterator[Finding]:
    columns = {"task_index": schema.TASK_COLUMN}
    columns |= {f"annotation.{key}": column for key, column in metadata.annotation_columns().items()}
    for key, column in columns.items():
        if column not in rows:
            if column == schema.TASK_COLUMN or not metadata.is_v3:
                yield fault(episode.name, f"{key}: no column '{column}'", remedy=RECORD_AGAIN)
            continue
        if rows[column].dtype.kind == "O":  # the text itself instead of its number
            if not all(str(text).strip() for text in rows[column]):
                yield fault(episode.name, f"{key}: a text of column '{column}' is empty", remedy=RECORD_AGAIN)
            continue
        if rows[column].dtype.kind == "b" or rows[column].ndim > 1:
            continue
        if not (np.isfinite(rows[column]).all() and (rows[column] % 1 == 0).all()):
            yield fault(episode.name, f"{key}: column '{column}' holds no whole numbers", remedy=RECORD_AGAIN)
            continue
        numbers = {int(number) for number in np.unique(rows[column])}
        for number in sorted(numbers - set(metadata.tasks)):
            text = f"{key}: task {number} has no text in {metadata.tasks_place}"
            yield fault(episode.name, text, "", REPAIR, (metadata.tasks_place,), RETASK)
        if column == schema.TASK_COLUMN:
            texts = {metadata.tasks[number] for number in numbers & set(metadata.tasks)}
            for text in sorted(texts - set(episode.tasks)):
                text = f"rows have task '{text}', the list of episodes does not"
                yield warning(episode.name, text, "", REPAIR, (tasks_of(episode.index),), NO_REPAIR)


def _check_values(metadata: DatasetMetadata, episode: Episode, column: str, values: np.ndarray) -> Iterator[Finding]:
    feature = metadata.features.get(column)
    width = values.shape[1] if values.ndim == 2 else 1
    if feature is not None and width_of(feature) != width:
        yield fault(episode.name, f"{column} has {width} channels", f"{feature['shape']} as declared", RECORD_AGAIN)
    elif not width:
        yield fault(episode.name, f"{column} has no channels", "at least 1", "take the feature out")
    bad = np.argwhere(~np.isfinite(values))
    if bad.size:
        row, channel = int(bad[0][0]), int(bad[0][1]) if values.ndim == 2 else 0
        names = channel_names(feature.get("names")) if feature else []
        named = f"'{names[channel]}'" if names and channel < len(names) else str(channel)
        text = f"channel {named} is {values.reshape(len(values), -1)[row, channel]} in row {row}"
        more = f" ({len(bad)} such values)" if len(bad) > 1 else ""
        yield fault(f"{episode.name}, {column}", text + more, "finite numbers", RECORD_AGAIN)

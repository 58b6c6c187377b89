# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Checks of the rows: one parquet file at a time, whichever number of episodes it holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.validation.contents import Contents, EpisodeEntry, column_array
from gr00t_training.dataset.validation.findings import RECORD_AGAIN, REPAIR, Finding, fault, guarded, warning
from gr00t_training.dataset.validation.metadata import TIME_TOLERANCE_S, channel_names
from gr00t_training.errors import DatasetError


@dataclass
class CheckedRows:
    """What was found in one data file, and the columns that later checks compare over all episodes."""

    findings: list[Finding] = field(default_factory=list)
    columns: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)  # episode -> name -> (N,) or (N, D)


def check_data_file(contents: Contents, name: str, episodes: Sequence[EpisodeEntry]) -> CheckedRows:
    """Check the rows of the `episodes` that the metadata places in the file `name`."""
    checked = CheckedRows()
    if not (contents.path / name).is_file():
        return checked  # found with the files
    try:
        table = pq.ParquetFile(contents.path / name).read()
    except (OSError, pa.ArrowException) as error:
        checked.findings.append(fault(name, f"cannot be read ({error})", remedy=RECORD_AGAIN))
        return checked
    checked.findings += guarded(name, _check_columns(contents, name, table))
    length = max(episode.first_row + episode.length for episode in episodes)
    if table.num_rows != length:
        subject = episodes[0].name if len(episodes) == 1 else name
        text = f"{table.num_rows} rows, the metadata says {length}"
        checked.findings.append(fault(subject, text, remedy=REPAIR))
    columns: dict[str, np.ndarray] = {}
    for column in table.column_names:
        try:
            columns[column] = column_array(table.column(column))
        except DatasetError as error:
            checked.findings.append(fault(name, f"{column}: {error}"))
    for episode in episodes:
        part = slice(episode.first_row, episode.first_row + episode.length)
        rows = {column: values[part] for column, values in columns.items()}
        checked.findings += guarded(episode.name, _check_episode(contents, episode, rows))
        numeric = {column: values for column, values in rows.items() if values.dtype.kind in "fiu"}
        checked.columns[episode.index] = numeric
    return checked


def _check_columns(contents: Contents, name: str, table: pa.Table) -> Iterator[Finding]:
    for column, feature in contents.features.items():
        if feature["dtype"] == "video" or column in table.column_names or column in schema.INDEX_COLUMNS:
            continue
        text = f"no column '{column}', which {schema.INFO_FILE} declares"
        yield Finding(contents.is_v3, name, text, remedy=f"{RECORD_AGAIN}, or take the feature out")
    if contents.is_v3:
        for column in table.column_names:
            if column not in contents.features:
                text = f"column '{column}' is not declared in {schema.INFO_FILE}, lerobot cannot load it"
                yield fault(name, text, remedy="declare it under features")


def _check_episode(contents: Contents, episode: EpisodeEntry, rows: dict[str, np.ndarray]) -> Iterator[Finding]:
    yield from _check_indices(contents, episode, rows)
    if schema.TIMESTAMP_COLUMN in rows:
        yield from _check_times(rows[schema.TIMESTAMP_COLUMN], contents.fps, episode.name)
    else:
        yield fault(episode.name, f"no column '{schema.TIMESTAMP_COLUMN}'", remedy=REPAIR)
    yield from _check_tasks(contents, episode, rows)
    for column, values in rows.items():
        if values.dtype.kind == "f":
            yield from _check_values(contents, episode, column, values)


def _check_indices(contents: Contents, episode: EpisodeEntry, rows: dict[str, np.ndarray]) -> Iterator[Finding]:
    expected = {
        "frame_index": np.arange(episode.length),
        "episode_index": np.full(episode.length, episode.index),
        "index": np.arange(episode.first_index, episode.first_index + episode.length),
    }
    for name, values in expected.items():
        if name not in rows:
            yield Finding(contents.is_v3, episode.name, f"no column '{name}', lerobot needs it", remedy=REPAIR)
            continue
        count = min(len(rows[name]), episode.length)
        wrong = np.flatnonzero(rows[name][:count] != values[:count])
        if wrong.size:
            row = int(wrong[0])
            yield fault(episode.name, f"{name} is {rows[name][row]} in row {row}", str(values[row]), REPAIR)


def _check_times(times: np.ndarray, fps: float, subject: str) -> Iterator[Finding]:
    times = times.astype(np.float64)
    wrong = np.flatnonzero(~(np.abs(np.diff(times) - 1 / fps) <= TIME_TOLERANCE_S))
    if wrong.size:
        row = int(wrong[0])
        text = f"timestamp steps by {times[row + 1] - times[row]:.6f} s after row {row}"
        yield fault(subject, text, f"{1 / fps:.6f} s", REPAIR)
    elif times.size and abs(times[0]) > TIME_TOLERANCE_S:
        text = f"timestamp starts at {times[0]:.6f} s"
        yield warning(subject, text, "0, or lerobot shows the wrong frames", REPAIR)
    else:
        # steps within the tolerance can still add up
        wrong = np.flatnonzero(np.abs(times - np.arange(len(times)) / fps) > TIME_TOLERANCE_S)
        if wrong.size:
            row = int(wrong[0])
            yield fault(subject, f"timestamp is {times[row]:.6f} s in row {row}", f"{row / fps:.6f} s", REPAIR)


def _check_tasks(contents: Contents, episode: EpisodeEntry, rows: dict[str, np.ndarray]) -> Iterator[Finding]:
    columns = {"task_index": schema.TASK_COLUMN}
    columns |= {f"annotation.{key}": column for key, column in contents.annotation_columns().items()}
    for key, column in columns.items():
        if column not in rows:
            if column == schema.TASK_COLUMN or not contents.is_v3:
                yield fault(episode.name, f"{key}: no column '{column}'", remedy=RECORD_AGAIN)
            continue
        numbers = {int(number) for number in np.unique(rows[column])}
        for number in sorted(numbers - set(contents.tasks)):
            text = f"{key}: task {number} has no text in {contents.tasks_place}"
            yield fault(episode.name, text, remedy="add it, or run gr00t_dataset retask")
        if column == schema.TASK_COLUMN:
            texts = {contents.tasks[number] for number in numbers & set(contents.tasks)}
            for text in sorted(texts - set(episode.tasks)):
                yield warning(episode.name, f"rows have task '{text}', the list of episodes does not", remedy=REPAIR)


def _check_values(contents: Contents, episode: EpisodeEntry, column: str, values: np.ndarray) -> Iterator[Finding]:
    feature = contents.features.get(column)
    width = values.shape[1] if values.ndim == 2 else 1
    if feature is not None and list(feature["shape"]) != [width]:
        yield fault(episode.name, f"{column} has {width} channels", f"{feature['shape']} as declared", RECORD_AGAIN)
    bad = np.argwhere(~np.isfinite(values))
    if bad.size:
        row, channel = int(bad[0][0]), int(bad[0][1]) if values.ndim == 2 else 0
        names = channel_names(feature) if feature else None
        named = f"'{names[channel]}'" if names and channel < len(names) else str(channel)
        text = f"channel {named} is {values.reshape(len(values), -1)[row, channel]} in row {row}"
        more = f" ({len(bad)} such values)" if len(bad) > 1 else ""
        yield fault(f"{episode.name}, {column}", text + more, "finite numbers", RECORD_AGAIN)

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Reading LeRobot v2.0 and v2.1 datasets the way GR00T's loaders do.

`meta/modality.json` cuts the columns into keys; a row is paired with the video frame of the same index, whatever its
timestamp says (some of NVIDIA's own sets count time from the end of a tick). Only what is asked for is opened: a camera
without files or a column without use does no harm. `info.json` is believed about paths and features, not about counts.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.stats import STATISTIC_NAMES, KeyStatistics, compute_statistics, stack_rows
from gr00t_training.dataset.video import VideoCache
from gr00t_training.embodiment import ACTION_COLUMN, STATE_COLUMN, Embodiment, load_embodiment
from gr00t_training.errors import DatasetError

# Rows of this many episodes stay in memory: about 200 MB for 500 rows of 100 float32 each.
CACHED_EPISODES = 1000

_DEFAULT_COLUMNS = {"state": STATE_COLUMN, "action": ACTION_COLUMN}


@dataclass(frozen=True)
class Episode:
    """One line of `episodes.jsonl`."""

    index: int
    length: int  # rows
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class VectorSlice:
    """Where `modality.json` says the channels of a state or action key are."""

    column: str
    start: int
    end: int  # half open
    is_absolute: bool  # relative keys are zero outside their episode, absolute ones keep the outermost row
    rotation: str | None  # GR00T's rotation_type
    is_continuous: bool

    @property
    def dim(self) -> int:
        """Number of channels."""
        return self.end - self.start


@dataclass(frozen=True)
class Modality:
    """The contents of `modality.json`."""

    state: Mapping[str, VectorSlice]
    action: Mapping[str, VectorSlice]
    video: Mapping[str, str]  # camera -> feature
    annotation: Mapping[str, str]  # key -> column of task numbers


class LeRobotDataset:
    """A dataset open for reading; for one thread of one process."""

    def __init__(self, path: str | Path) -> None:
        """Open the dataset in the folder `path`.

        Raises:
            DatasetError: not a dataset, version 3.0, or damaged metadata; names the file.
        """
        self.path = Path(path)
        info = schema.read_json(self.path / schema.INFO_FILE)
        self._check_version(str(info.get("codebase_version", "")))
        try:
            self.fps: float = info["fps"]
            self.features: Mapping[str, Any] = info["features"]
            self._data_template: str = info["data_path"]
            self._video_template: str = info.get("video_path") or schema.VIDEO_PATH
            self._chunks_size: int = info["chunks_size"]
            self.modality = _parse_modality(schema.read_json(self.path / schema.MODALITY_FILE))
            self.episodes = [
                Episode(entry["episode_index"], entry["length"], tuple(entry.get("tasks", ())))
                for entry in schema.read_json_lines(self.path / schema.EPISODES_FILE)
            ]
            task_entries = schema.read_json_lines(self.path / schema.TASKS_FILE)
            self.tasks: Mapping[int, str] = {entry["task_index"]: entry["task"] for entry in task_entries}
        except (KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{self.path}: damaged metadata: {error!r}; restore the files in meta") from error
        self.embodiment: Embodiment | None = None
        if (self.path / schema.EMBODIMENT_FILE).exists():
            self.embodiment = load_embodiment(self.path / schema.EMBODIMENT_FILE)
        self._by_index = {episode.index: episode for episode in self.episodes}
        self._tables: OrderedDict[int, Mapping[str, np.ndarray]] = OrderedDict()
        self._statistics: dict[str, KeyStatistics] = {}
        self._videos = VideoCache()

    @property
    def num_frames(self) -> int:
        """Number of rows of all episodes."""
        return sum(episode.length for episode in self.episodes)

    def state(self, episode: int, key: str) -> np.ndarray:
        """Return a state key over an episode, `(N, D)` float64 in the dataset's units."""
        return self.vectors("state", episode, key)

    def action(self, episode: int, key: str) -> np.ndarray:
        """Return an action key over an episode, `(N, D)` float64 in the dataset's units."""
        return self.vectors("action", episode, key)

    def vectors(self, kind: str, episode: int, key: str) -> np.ndarray:
        """Return a key of `kind` ("state" or "action") over an episode, `(N, D)` float64.

        Raises:
            DatasetError: no such key or episode, or its rows cannot be read.
        """
        part = self.slice_of(kind, key)
        return self.column(episode, part.column)[:, part.start : part.end].astype(np.float64)

    def window(self, kind: str, episode: int, key: str, rows: Sequence[int]) -> np.ndarray:
        """Return `rows` of a key, `(T, D)` float64; rows outside the episode are padded.

        Absolute keys repeat the first or last row, relative ones are zero there.
        """
        values = self.vectors(kind, episode, key)
        asked = np.asarray(rows)
        inside = np.clip(asked, 0, len(values) - 1)
        picked = values[inside]
        if not self.slice_of(kind, key).is_absolute:
            picked[asked != inside] = 0.0
        return picked

    def images(self, episode: int, key: str, rows: Sequence[int]) -> np.ndarray:
        """Return the images of a camera at `rows`, `(T, H, W, 3)` uint8 RGB; rows outside the episode are clamped.

        Raises:
            DatasetError: no such camera or episode, or the video cannot be read.
        """
        length = self.episode(episode).length
        return self._videos.open(self.video_file(episode, key)).read(np.clip(rows, 0, length - 1).tolist())

    def task(self, episode: int, row: int, key: str | None = None) -> str:
        """Return the text of the annotation `key` at a row, clamped to the episode.

        Args:
            key: annotation of `modality.json`; None takes the embodiment's, else the first, else the task column.

        Raises:
            DatasetError: no such annotation, or its number has no text.
        """
        numbers = self.column(episode, self.annotation_column(key))
        number = int(numbers[min(max(row, 0), len(numbers) - 1)])
        if number not in self.tasks:
            raise DatasetError(f"{self.path}: episode {episode}: task {number} has no text in {schema.TASKS_FILE}")
        return self.tasks[number]

    def statistics(self, kind: str, key: str) -> KeyStatistics:
        """Return the statistics of a key of `kind` ("state" or "action").

        They come from `stats.json`; where it lacks them they are computed from all rows, and not written back.
        """
        part = self.slice_of(kind, key)
        if part.column not in self._statistics:
            self._statistics[part.column] = self._column_statistics(part.column)
        return self._statistics[part.column].part(part.start, part.end)

    def episode(self, index: int) -> Episode:
        """Return the episode of that index.

        Raises:
            DatasetError: no such episode.
        """
        if index not in self._by_index:
            raise DatasetError(f"{self.path}: no episode {index}; it has {len(self.episodes)}")
        return self._by_index[index]

    def slice_of(self, kind: str, key: str) -> VectorSlice:
        """Return where a key of `kind` ("state" or "action") is.

        Raises:
            DatasetError: `modality.json` has no such key.
        """
        declared: Mapping[str, VectorSlice] = getattr(self.modality, kind)
        if key not in declared:
            raise DatasetError(f"{self.path}: {kind}.{key}: not in {schema.MODALITY_FILE} ({', '.join(declared)})")
        return declared[key]

    def annotation_column(self, key: str | None = None) -> str:
        """Return the column of task numbers behind an annotation key; see `task`."""
        if key is None:
            key = self.embodiment.language if self.embodiment else next(iter(self.modality.annotation), None)
        if key is None:
            return schema.TASK_COLUMN
        if key not in self.modality.annotation:
            known = ", ".join(self.modality.annotation) or "none"
            raise DatasetError(f"{self.path}: annotation.{key}: not in {schema.MODALITY_FILE} ({known})")
        return self.modality.annotation[key]

    def column(self, episode: int, name: str) -> np.ndarray:
        """Return a column of an episode as stored: `(N,)`, or `(N, D)` for lists.

        Raises:
            DatasetError: no such column, fewer rows than the metadata says, or lists of different lengths.
        """
        rows = self._rows(episode)
        if name not in rows:
            raise DatasetError(f"{self.data_file(episode)}: no column '{name}' ({', '.join(rows)})")
        return rows[name]

    def has_column(self, episode: int, name: str) -> bool:
        """Whether an episode's rows have that column."""
        return name in self._rows(episode)

    def num_rows(self, episode: int) -> int:
        """Return the number of rows in an episode's file, which may be more than its length.

        Raises:
            DatasetError: the file cannot be read.
        """
        path = self.data_file(episode)
        try:
            return pq.ParquetFile(path).metadata.num_rows
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{path}: cannot be read ({error}); restore it from a copy") from error

    def data_file(self, episode: int) -> Path:
        """Return the path of an episode's rows."""
        return self.path / schema.data_path(episode, self._data_template, self._chunks_size)

    def video_file(self, episode: int, key: str) -> Path:
        """Return the path of a camera's video of an episode."""
        return self.path / schema.video_path(episode, self.video_feature(key), self._video_template, self._chunks_size)

    def video_feature(self, key: str) -> str:
        """Return the feature behind a camera.

        Raises:
            DatasetError: `modality.json` or `info.json` has no such camera.
        """
        if key not in self.modality.video:
            known = ", ".join(self.modality.video)
            raise DatasetError(f"{self.path}: video.{key}: not in {schema.MODALITY_FILE} ({known})")
        feature = self.modality.video[key]
        if feature not in self.features:
            raise DatasetError(f"{self.path}: video.{key}: '{feature}' is not a feature of {schema.INFO_FILE}")
        return feature

    def video_size(self, key: str) -> tuple[int, int]:
        """Return height and width of a camera as `info.json` declares them, pixels."""
        feature = self.features[self.video_feature(key)]
        names = feature.get("names") or ["height", "width"]
        return feature["shape"][names.index("height")], feature["shape"][names.index("width")]

    def close(self) -> None:
        """Close the video files."""
        self._videos.close()

    def _check_version(self, version: str) -> None:
        if version.startswith("v3"):
            raise DatasetError(
                f"{self.path}: is LeRobot {version}, which GR00T cannot read either; "
                f"convert it to v2.1 (expected {' or '.join(schema.READ_VERSIONS)})"
            )
        if version not in schema.READ_VERSIONS:
            raise DatasetError(f"{self.path}: version '{version}', expected {' or '.join(schema.READ_VERSIONS)}")

    def _rows(self, episode: int) -> Mapping[str, np.ndarray]:
        rows = self._tables.pop(episode, None)
        if rows is None:
            rows = self._read_rows(self.episode(episode))
        self._tables[episode] = rows
        if len(self._tables) > CACHED_EPISODES:
            self._tables.popitem(last=False)
        return rows

    def _read_rows(self, episode: Episode) -> Mapping[str, np.ndarray]:
        path = self.data_file(episode.index)
        try:
            table = pq.ParquetFile(path).read(columns=self._used_columns)
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{path}: cannot be read ({error}); restore it from a copy") from error
        if table.num_rows < episode.length:
            raise DatasetError(
                f"{path}: {table.num_rows} rows, {schema.EPISODES_FILE} says {episode.length}; restore it from a copy"
            )
        try:
            return {name: schema.column_rows(table.column(name))[: episode.length] for name in table.column_names}
        except DatasetError as error:
            raise DatasetError(f"{path}: {error}") from error

    @functools.cached_property
    def _used_columns(self) -> list[str]:
        slices = [*self.modality.state.values(), *self.modality.action.values()]
        columns = [part.column for part in slices] + list(self.modality.annotation.values())
        return sorted({*columns, schema.TIMESTAMP_COLUMN, *schema.INDEX_COLUMNS})

    def _column_statistics(self, column: str) -> KeyStatistics:
        path = self.path / schema.STATS_FILE
        stored = schema.read_json(path).get(column, {}) if path.exists() else {}
        if all(name in stored for name in STATISTIC_NAMES):
            return KeyStatistics.from_mapping(stored, f"{path}: {column}")
        return compute_statistics(stack_rows(self._all_rows(column)))

    def _all_rows(self, column: str) -> Iterable[np.ndarray]:
        return (self.column(episode.index, column) for episode in self.episodes)


def _parse_modality(entries: Mapping[str, Any]) -> Modality:
    def slices(kind: str) -> dict[str, VectorSlice]:
        return {
            key: VectorSlice(
                column=entry.get("original_key") or _DEFAULT_COLUMNS[kind],
                start=entry["start"],
                end=entry["end"],
                is_absolute=entry.get("absolute", True),
                rotation=entry.get("rotation_type"),
                is_continuous=np.issubdtype(np.dtype(entry.get("dtype") or "float64"), np.floating),
            )
            for key, entry in entries.get(kind, {}).items()
        }

    cameras, annotations = entries.get("video", {}), entries.get("annotation", {})
    return Modality(
        state=slices("state"),
        action=slices("action"),
        video={key: entry.get("original_key") or key for key, entry in cameras.items()},
        annotation={key: entry.get("original_key") or f"annotation.{key}" for key, entry in annotations.items()},
    )

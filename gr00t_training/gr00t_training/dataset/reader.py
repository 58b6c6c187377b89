# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Reading LeRobot datasets (v2.0, v2.1, v3.0) the way GR00T's loaders read v2.x.

`meta/modality.json` cuts the columns into keys; where there is none, as in sets of LeRobot's own, each column is one
key. A row is paired with the video frame of the same index, whatever its timestamp says (some of NVIDIA's own sets
count time from the end of a tick). Only what is asked for is opened: a camera without files or a column without use
does no harm. `info.json` is believed about paths and features, not about counts.
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
from gr00t_training.dataset.places import Episode, Span, read_catalogue
from gr00t_training.dataset.stats import STATISTIC_NAMES, KeyStatistics, compute_statistics, stack_rows
from gr00t_training.dataset.trace import Trace, parse_trace
from gr00t_training.dataset.video import VideoCache
from gr00t_training.embodiment import (
    ACTION_COLUMN,
    IMAGE_COLUMN_PREFIX,
    STATE_COLUMN,
    Embodiment,
    load_embodiment,
)
from gr00t_training.errors import DatasetError

# Rows of this many episodes stay in memory: about 200 MB for 500 rows of 100 float32 each.
CACHED_EPISODES = 1000

_DEFAULT_COLUMNS = {"state": STATE_COLUMN, "action": ACTION_COLUMN}


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
            DatasetError: not a dataset, an unknown version, or damaged metadata; names the file.
        """
        self.path = Path(path)
        info = schema.read_json(self.path / schema.INFO_FILE)
        try:
            self.version = _version_of(self.path, info)
            self.fps: float = info["fps"]
            self.features: Mapping[str, Any] = info["features"]
            self._catalogue = read_catalogue(self.path, info)
            self.has_modality = (self.path / schema.MODALITY_FILE).exists()
            if self.has_modality:
                self.modality = _parse_modality(schema.read_json(self.path / schema.MODALITY_FILE))
            else:
                self.modality = _derive_modality(self.features)
        except (KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{self.path}: damaged metadata: {error!r}; restore the files in meta") from error
        self.episodes: list[Episode] = self._catalogue.episodes
        self.tasks: Mapping[int, str] = self._catalogue.tasks
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
        span = self.video_span(episode, key)
        frames = span.first + np.clip(rows, 0, span.count - 1)
        return self._videos.open(span.path).read(frames.tolist())

    def task(self, episode: int, row: int, key: str | None = None) -> str:
        """Return the text of the annotation `key` at a row, clamped to the episode.

        "task" and "sub_task", with or without "annotation.", which N1.6 and N1.7 know beside annotations, are the text
        of the row's task number and that of the row's span among the episode's `sub_tasks`, else its task.

        Args:
            key: annotation of `modality.json`; None takes the embodiment's, else the first. A dataset without any has
                the task column.

        Raises:
            DatasetError: no such annotation, or its number has no text.
        """
        if key is None:
            key = self._default_annotation()
        entry = self.episode(episode)
        row = min(max(row, 0), entry.length - 1)
        if key is not None and self._annotation_name(key) is None and _is_episode_text(key):
            return self._episode_text(entry, row, is_sub_task=key.endswith("sub_task"))
        return self._numbered_text(episode, row, self.annotation_column(key))

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
            key = self._default_annotation()
        if key is None:
            return schema.TASK_COLUMN
        name = self._annotation_name(key)
        if name is not None:
            return self.modality.annotation[name]
        if not self.modality.annotation or _is_episode_text(key):
            return schema.TASK_COLUMN
        known = ", ".join(self.modality.annotation)
        raise DatasetError(f"{self.path}: annotation.{key}: not in {schema.MODALITY_FILE} ({known})")

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

    def has_language(self, key: str) -> bool:
        """Whether `task` gives a text for that annotation key."""
        return not self.modality.annotation or self._annotation_name(key) is not None or _is_episode_text(key)

    def trace(self, episode: int) -> Trace | None:
        """Return where every row of an episode came from; None where nothing was kept of it (other people's sets).

        Raises:
            DatasetError: no such episode, or its quality file is damaged.
        """
        length = self.episode(episode).length
        path = self.path / schema.quality_path(episode)
        if not path.exists():
            return None
        return parse_trace(schema.read_json(path), length, str(path))

    def num_rows(self, episode: int) -> int:
        """Return the number of rows that an episode's file has for it, which may be more than its length.

        In v3.0 these are the rows up to the next episode of the file.

        Raises:
            DatasetError: the file cannot be read.
        """
        span = self.row_span(episode)
        try:
            end = pq.ParquetFile(span.path).metadata.num_rows
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{span.path}: cannot be read ({error}); restore it from a copy") from error
        for other in self._catalogue.neighbours.get(span.path, ()):
            if self._catalogue.rows[other].first > span.first:
                end = min(end, self._catalogue.rows[other].first)
        return max(0, end - span.first)

    def row_span(self, episode: int) -> Span:
        """Return which rows of which file are an episode's.

        Raises:
            DatasetError: no such episode.
        """
        return self._catalogue.rows[self.episode(episode).index]

    def video_span(self, episode: int, key: str) -> Span:
        """Return which frames of which file are an episode's images of a camera.

        Raises:
            DatasetError: no such episode or camera.
        """
        spans, feature = self._catalogue.videos[self.episode(episode).index], self.video_feature(key)
        if feature not in spans:
            raise DatasetError(f"{self.path}: video.{key}: '{feature}' is no video feature of {schema.INFO_FILE}")
        return spans[feature]

    def data_file(self, episode: int) -> Path:
        """Return the path of an episode's rows; in v3.0 it has other episodes too (`row_span`)."""
        return self.row_span(episode).path

    def video_file(self, episode: int, key: str) -> Path:
        """Return the path of a camera's video of an episode; in v3.0 it has other episodes too (`video_span`)."""
        return self.video_span(episode, key).path

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

    def _default_annotation(self) -> str | None:
        return self.embodiment.language if self.embodiment else next(iter(self.modality.annotation), None)

    def _annotation_name(self, key: str) -> str | None:
        """Return what `modality.json` calls an annotation, None where it has none of that key."""
        for name in (key, key.removeprefix(schema.ANNOTATION_PREFIX)):
            if name in self.modality.annotation:
                return name
        return None

    def _numbered_text(self, episode: int, row: int, column: str) -> str:
        number = int(self.column(episode, column)[row])
        if number not in self.tasks:
            raise DatasetError(f"{self.path}: episode {episode}: task {number} has no text in its list of tasks")
        return self.tasks[number]

    def _episode_text(self, episode: Episode, row: int, *, is_sub_task: bool) -> str:
        if is_sub_task:
            for span in episode.sub_tasks:
                if span["start"] <= row < span["end"]:
                    return span["text"]
        if self.has_column(episode.index, schema.TASK_COLUMN):
            return self._numbered_text(episode.index, row, schema.TASK_COLUMN)
        if not episode.tasks:
            raise DatasetError(f"{self.path}: episode {episode.index} has no task; give it one")
        return episode.tasks[0]

    def _rows(self, episode: int) -> Mapping[str, np.ndarray]:
        rows = self._tables.pop(episode, None)
        if rows is None:
            rows = self._read_rows(self.episode(episode))
        self._tables[episode] = rows
        if len(self._tables) > CACHED_EPISODES:
            self._tables.popitem(last=False)
        return rows

    def _read_rows(self, episode: Episode) -> Mapping[str, np.ndarray]:
        span = self.row_span(episode.index)
        if span.path in self._catalogue.neighbours:
            return self._read_shared_rows(episode, span)
        return self._sliced(_read_file(span.path, self._used_columns), span)

    def _read_shared_rows(self, episode: Episode, span: Span) -> Mapping[str, np.ndarray]:
        """Read the row groups that an episode lies in, and keep the other episodes that are whole in them."""
        table, first = _read_groups(span, self._used_columns)
        end = first + table.num_rows
        for other in self._catalogue.neighbours[span.path]:
            part = self._catalogue.rows[other]
            is_inside = first <= part.first and part.first + part.count <= end
            if other != episode.index and other not in self._tables and is_inside:
                self._tables[other] = self._sliced(table, part, first)
        rows = self._sliced(table, span, first)
        found = rows.get("episode_index")
        if found is not None and (found != episode.index).any():
            raise DatasetError(
                f"{span.path}: rows {span.first} to {span.first + span.count - 1} should be of episode "
                f"{episode.index}, found {int(found[found != episode.index][0])}; restore the file from a copy"
            )
        return rows

    def _sliced(self, table: pa.Table, span: Span, first: int = 0) -> Mapping[str, np.ndarray]:
        """Return the rows of `span` out of a table that starts at row `first` of the file."""
        part = table.slice(span.first - first, span.count)
        if part.num_rows < span.count:
            raise DatasetError(
                f"{span.path}: {first + table.num_rows} rows, {self._catalogue.source} says {span.first + span.count}; "
                "restore it from a copy"
            )
        try:
            return {name: schema.column_rows(part.column(name)) for name in part.column_names}
        except DatasetError as error:
            raise DatasetError(f"{span.path}: {error}") from error

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


def _is_episode_text(key: str) -> bool:
    return key.removeprefix(schema.ANNOTATION_PREFIX) in schema.EPISODE_TEXTS


def _version_of(path: Path, info: Mapping[str, Any]) -> schema.Version:
    version = str(info.get("codebase_version", ""))
    if version not in schema.READ_VERSIONS:
        raise DatasetError(f"{path}: version '{version}', expected one of {', '.join(schema.READ_VERSIONS)}")
    return schema.Version(version)


def _read_file(path: Path, columns: Sequence[str]) -> pa.Table:
    try:
        return pq.ParquetFile(path).read(columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); restore it from a copy") from error


def _read_groups(span: Span, columns: Sequence[str]) -> tuple[pa.Table, int]:
    """Read the row groups of a file that `span` lies in; return them and the number of their first row."""
    try:
        file = pq.ParquetFile(span.path)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        wanted = [
            i for i, start in enumerate(starts[:-1]) if start < span.first + span.count and starts[i + 1] > span.first
        ]
        table = file.read_row_groups(wanted, columns=list(columns))
        return table, int(starts[wanted[0]]) if wanted else span.first
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{span.path}: cannot be read ({error}); restore it from a copy") from error


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


def _derive_modality(features: Mapping[str, Any]) -> Modality:
    """Make every column of float vectors a key, named by its last part, for sets without `modality.json`."""

    def whole(name: str) -> VectorSlice:
        return VectorSlice(name, 0, features[name]["shape"][0], is_absolute=True, rotation=None, is_continuous=True)

    vectors = [
        name
        for name, feature in features.items()
        if "float" in feature["dtype"] and len(feature["shape"]) == 1 and name != schema.TIMESTAMP_COLUMN
    ]
    cameras = [name for name, feature in features.items() if feature["dtype"] == "video"]
    return Modality(
        state={name.removeprefix("observation."): whole(name) for name in vectors if name.startswith("observation.")},
        action={name.removeprefix("action."): whole(name) for name in vectors if name.split(".")[0] == ACTION_COLUMN},
        video={name.removeprefix(IMAGE_COLUMN_PREFIX): name for name in cameras},
        annotation={},
    )

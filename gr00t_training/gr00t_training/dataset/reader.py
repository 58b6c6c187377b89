# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Reading LeRobot datasets (v2.0, v2.1, v3.0) the way GR00T's loaders read v2.x.

`meta/modality.json` cuts the columns into keys; where there is none, as in sets of LeRobot's own, each column is one
key. A row is paired with the video frame of the same index, whatever its timestamp says (some of NVIDIA's own sets
count time from the end of a tick). Files are opened only on request: a camera without files or an unused column
does no harm. `info.json` is believed about paths and features, not about counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gr00t_training.dataset import schema
from gr00t_training.dataset.media.video import Pictures, VideoCache, VideoReader
from gr00t_training.dataset.metadata.episode_list import Episode, EpisodeList, Span
from gr00t_training.dataset.metadata.features import IMAGE, IMAGES_IN_ROWS, image_size
from gr00t_training.dataset.metadata.lists import read_statistics, task_text
from gr00t_training.dataset.metadata.modality import VectorSlice, derived_modality, parse_modality
from gr00t_training.dataset.metadata.model import read_metadata
from gr00t_training.dataset.metadata.rows import RowReader
from gr00t_training.dataset.quality import EpisodeQuality, parse_quality
from gr00t_training.dataset.statistics.compute import STATISTIC_NAMES, KeyStatistics, compute_statistics, stack_rows
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import DatasetError
from gr00t_training.io.mirror import open_folder
from gr00t_training.types import Commander, KeyKind, KeyRef


@dataclass(frozen=True)
class RecordedEpisode:
    """One episode; its length is its number of rows."""

    dataset: EpisodeDataset
    index: int  # in the dataset's files; positions differ where episodes were deleted
    length: int  # rows
    tasks: tuple[str, ...]

    def __len__(self) -> int:
        return self.length

    def state(self, key: str) -> np.ndarray:
        """Return a state key, `(N, D)` float64 in the dataset's units; DatasetError for an unknown key."""
        return self.dataset.state(self.index, key)

    def action(self, key: str) -> np.ndarray:
        """Return an action key, `(N, D)` float64 in the dataset's units; DatasetError for an unknown key."""
        return self.dataset.action(self.index, key)

    def images(self, key: str, rows: Sequence[int] | None = None) -> np.ndarray:
        """Return the images of a camera at `rows` (None: all of them), `(T, H, W, 3)` uint8 RGB."""
        return self.dataset.images(self.index, key, range(self.length) if rows is None else rows)

    def task(self, row: int = 0) -> str:
        """Return the instruction at a row."""
        return self.dataset.task(self.index, row)


class EpisodeDataset:
    """A dataset open for reading, a sequence of episodes; for one thread of one process."""

    def __init__(self, path: str | Path) -> None:
        """Open the dataset in the folder `path`.

        Args:
            path: folder; or `s3://bucket/prefix`, whose rows and videos are fetched when they are first read.

        Raises:
            DatasetError: not a dataset, an unknown version, or damaged metadata; names the file.
        """
        self.path = open_folder(path)
        self.metadata = read_metadata(self.path)
        modality = self.metadata.modality
        self.version = schema.Version(self.metadata.version)
        self.fps: float = self.metadata.info["fps"]
        self.features: Mapping[str, Any] = self.metadata.features
        self.has_modality = modality is not None
        self.modality = derived_modality(self.features) if modality is None else parse_modality(modality)
        assert isinstance(self.metadata.episodes, EpisodeList)
        self.episodes = self.metadata.episodes
        self.tasks: Mapping[int, str] = self.metadata.tasks
        self.embodiment: Embodiment | None = self.metadata.embodiment
        self._last: Episode | None = None
        scalars = {*self.modality.annotation.values(), *self._source_columns()}
        self._rows = RowReader(self.metadata, self._used_columns(), scalars)
        self._statistics: dict[str, KeyStatistics] = {}
        self._videos = VideoCache()

    @property
    def num_frames(self) -> int:
        """Number of rows of all episodes."""
        return self.metadata.num_frames

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, position: int) -> RecordedEpisode:
        """Return the episode at a position, counted from the end if it is negative; IndexError ends an iteration."""
        episode = self.episodes[position]
        return RecordedEpisode(self, episode.index, episode.length, episode.tasks)

    def state(self, episode: int, key: str) -> np.ndarray:
        """Return a state key over an episode, `(N, D)` float64 in the dataset's units."""
        return self.vectors(KeyRef(KeyKind.STATE, key), episode)

    def action(self, episode: int, key: str) -> np.ndarray:
        """Return an action key over an episode, `(N, D)` float64 in the dataset's units."""
        return self.vectors(KeyRef(KeyKind.ACTION, key), episode)

    def vectors(self, ref: KeyRef, episode: int) -> np.ndarray:
        """Return a key of state or action over an episode, `(N, D)` float64.

        Raises:
            DatasetError: no such key or episode, or its rows cannot be read.
        """
        return self._channels(ref, episode).astype(np.float64)

    def window(self, ref: KeyRef, episode: int, rows: Sequence[int]) -> np.ndarray:
        """Return `rows` of a key of state or action, `(T, D)` float64; rows outside the episode are padded.

        Absolute keys repeat the first or last row, relative ones are zero there.
        """
        self._check_has_rows(episode)
        values = self._channels(ref, episode)
        asked = np.asarray(rows)
        inside = asked.clip(0, len(values) - 1)
        picked = values[inside].astype(np.float64)
        if not self.slice_of(ref).is_absolute:
            picked[asked != inside] = 0.0
        return picked

    def images(self, episode: int, key: str, rows: Sequence[int]) -> np.ndarray:
        """Return the images of a camera at `rows`, `(T, H, W, 3)` uint8 RGB; rows outside the episode are clamped.

        Raises:
            DatasetError: no such camera or episode, or the video cannot be read.
        """
        self._check_has_rows(episode)
        span = self.video_span(episode, key)
        frames = span.first + np.clip(rows, 0, span.count - 1)
        return self._videos.open(span.path).read(frames.tolist())

    def decode(self, episode: int, key: str, frames: Iterable[int]) -> Pictures:
        """Return frames of the file of a camera (`video_span`) decoded in order, but not converted to images.

        Raises:
            DatasetError: as `images`.
        """
        return self._videos.open(self.video_span(episode, key).path).decode(frames)

    def first_video(self, key: str) -> VideoReader | None:
        """Return the open video of the first episode of a camera; None: no episode has rows.

        Raises:
            DatasetError: as `images`.
        """
        for episode in self.episodes:
            if episode.length:
                return self._videos.open(self.video_span(episode.index, key).path)
        return None

    def task(self, episode: int, row: int, key: str | None = None) -> str:
        """Return the text of the annotation `key` at a row, clamped to the episode.

        N1.6 and N1.7 also know "task" and "sub_task", with or without "annotation.": the text of the row's task number,
        and that of the row's span among the episode's `sub_tasks`, else its task.

        Args:
            key: annotation of `modality.json`; None takes the embodiment's, else the first. A dataset without any has
                the task column.

        Raises:
            DatasetError: no such annotation, or its number has no text.
        """
        if key is None:
            key = self._default_annotation()
        self._check_has_rows(episode)
        entry = self.episode(episode)
        row = min(max(row, 0), entry.length - 1)
        if key is not None and self._annotation_name(key) is None and _is_episode_text(key):
            return self._episode_text(entry, row, is_sub_task=key.endswith("sub_task"))
        return self._numbered_text(episode, row, self.annotation_column(key))

    def statistics(self, ref: KeyRef) -> KeyStatistics:
        """Return the statistics of a key of state or action.

        They come from `stats.json`; missing ones are computed from all rows, and not written back.
        """
        part = self.slice_of(ref)
        if part.column not in self._statistics:
            self._statistics[part.column] = self._column_statistics(part.column)
        statistics = self._statistics[part.column]
        if statistics.dim < part.end:
            raise DatasetError(
                f"{self.path}: statistics of '{part.column}' have {statistics.dim} channels, {ref} is channels "
                f"{part.start} to {part.end}; compute them again with gr00t_dataset stats"
            )
        return statistics.part(part.start, part.end)

    def episode(self, index: int) -> Episode:
        """Return the episode of that index.

        Raises:
            DatasetError: no such episode.
        """
        if self._last is None or self._last.index != index:  # asked for many times in a row
            position = self.episodes.position(index)
            if position is None:
                raise DatasetError(f"{self.path}: no episode {index}; it has {len(self.episodes)}")
            self._last = self.episodes[position]
        return self._last

    def slice_of(self, ref: KeyRef) -> VectorSlice:
        """Return where a key of state or action is.

        Raises:
            DatasetError: `modality.json` has no such key.
        """
        declared = self.modality.vectors(ref.kind)
        if ref.key not in declared:
            raise DatasetError(f"{self.path}: {ref}: not in {schema.MODALITY_FILE} ({', '.join(declared)})")
        return declared[ref.key]

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
        rows = self._rows.read(self.episode(episode))
        if name not in rows:
            raise DatasetError(f"{self.data_file(episode)}: no column '{name}' ({', '.join(rows)})")
        return rows[name]

    def has_column(self, episode: int, name: str) -> bool:
        """Whether an episode's rows have that column."""
        return name in self._rows.read(self.episode(episode))

    def has_language(self, key: str) -> bool:
        """Whether `task` gives a text for that annotation key."""
        return not self.modality.annotation or self._annotation_name(key) is not None or _is_episode_text(key)

    def interventions(self, episode: int) -> np.ndarray | None:
        """Return in which rows of an episode a person had taken over, `(N,)` bool; None if the dataset does not say it.

        Raises:
            DatasetError: no such episode, or its rows cannot be read.
        """
        length = self.episode(episode).length
        for name in self._source_columns():
            values = self.column(episode, name).reshape(length, -1)[:, 0]
            return values == Commander.PERSON if name == schema.SOURCE_COLUMN else values.astype(bool)
        return None

    def quality(self, episode: int) -> EpisodeQuality | None:
        """Return the recording quality of an episode; None if there is no quality file (datasets of others).

        Raises:
            DatasetError: no such episode, or its quality file is damaged.
        """
        length = self.episode(episode).length
        path = schema.meta_file(self.path, schema.quality_path(episode))
        if not path.exists():
            return None
        return parse_quality(schema.read_object(path), length, str(path))

    def num_rows(self, episode: int) -> int:
        """Return the number of rows that an episode's file has for it, which may be more than its length.

        In v3.0 these are the rows up to the next episode of the file.

        Raises:
            DatasetError: the file cannot be read.
        """
        return self._rows.count(self.episode(episode))

    def row_span(self, episode: int) -> Span:
        """Return which rows of which file are an episode's.

        Raises:
            DatasetError: no such episode.
        """
        return self.episode(episode).rows

    def video_span(self, episode: int, key: str) -> Span:
        """Return which frames of which file are an episode's images of a camera.

        Raises:
            DatasetError: no such episode or camera.
        """
        spans, feature = self.episode(episode).videos, self.video_feature(key)
        if feature not in spans:
            raise DatasetError(f"{self.path}: video.{key}: '{feature}' is not a video feature of {schema.INFO_FILE}")
        return spans[feature]

    def data_file(self, episode: int) -> Path:
        """Return the path of an episode's rows; in v3.0 it has other episodes too (`row_span`)."""
        return self.row_span(episode).path

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
        if self.features[feature]["dtype"] == IMAGE:
            raise DatasetError(f"{self.path}: video.{key}: '{feature}': {IMAGES_IN_ROWS}")
        return feature

    def video_size(self, key: str) -> tuple[int, int]:
        """Return height and width of a camera as `info.json` declares them, pixels."""
        name = self.video_feature(key)
        return image_size(self.features[name], name)

    def close(self) -> None:
        """Close the video files."""
        self._videos.close()

    def _channels(self, ref: KeyRef, episode: int) -> np.ndarray:
        """Return a key over an episode as stored, `(N, D)`; see `vectors`."""
        part = self.slice_of(ref)
        values = self.column(episode, part.column)
        if not len(values):
            return np.zeros((0, part.dim))
        values = values.reshape(len(values), -1)  # a column of plain numbers is one channel
        if values.dtype.kind not in "fiub" or values.shape[1] < part.end:
            raise DatasetError(
                f"{self.data_file(episode)}: column '{part.column}' has {values.shape[1]} channels of {values.dtype}, "
                f"{ref} is channels {part.start} to {part.end} of numbers; correct {schema.MODALITY_FILE}"
            )
        return values[:, part.start : part.end]

    def _default_annotation(self) -> str | None:
        return self.embodiment.language if self.embodiment else next(iter(self.modality.annotation), None)

    def _annotation_name(self, key: str) -> str | None:
        """Return what `modality.json` calls an annotation, None if it has none of that key."""
        for name in (key, key.removeprefix(schema.ANNOTATION_PREFIX)):
            if name in self.modality.annotation:
                return name
        return None

    def _numbered_text(self, episode: int, row: int, column: str) -> str:
        """Return the text of a row of a column of task numbers; other writers store the text itself."""
        value = self.column(episode, column)[row]
        if isinstance(value, str):
            return task_text(value, f"{self.path}: episode {episode}: {column}")
        if np.ndim(value) or not np.isfinite(value) or value != int(value):
            raise DatasetError(f"{self.path}: episode {episode}: {column} is {value}, expected a task number or a text")
        number = int(value)
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

    def _check_has_rows(self, episode: int) -> None:
        if not self.episode(episode).length:
            raise DatasetError(f"{self.path}: episode {episode} has no rows; remove it with gr00t_dataset delete")

    def _used_columns(self) -> list[str]:
        slices = [*self.modality.state.values(), *self.modality.action.values()]
        columns = [part.column for part in slices] + list(self.modality.annotation.values())
        columns += self._source_columns()
        return sorted({*columns, schema.TIMESTAMP_COLUMN, *schema.INDEX_COLUMNS})

    def _source_columns(self) -> list[str]:
        """Return the columns that say who commanded, where they are declared as one flag or number a row."""
        declared = {name: self.features.get(name) for name in (schema.INTERVENTION_COLUMN, schema.SOURCE_COLUMN)}
        return [
            name
            for name, feature in declared.items()
            if feature and feature["dtype"].startswith(("bool", "int", "uint")) and math.prod(feature["shape"]) == 1
        ]

    def _column_statistics(self, column: str) -> KeyStatistics:
        stored = (read_statistics(self.path) or {}).get(column, {})
        if all(name in stored for name in STATISTIC_NAMES):
            return KeyStatistics.from_mapping(stored, f"{self.path / schema.STATS_FILE}: {column}")
        return compute_statistics(self._all_rows(column))

    def _all_rows(self, column: str) -> np.ndarray:
        """Return a column of numbers over all episodes, `(N, D)` float32."""
        parts = [self.column(episode.index, column) for episode in self.episodes if episode.length]
        subject = f"{self.path}: column '{column}'"
        if not parts:
            raise DatasetError(f"{subject}: no episode has rows; record some")
        if any(part.dtype.kind not in "fiub" for part in parts) or len({part.shape[1:] for part in parts}) > 1:
            found = ", ".join(sorted({f"{part.dtype} {list(part.shape[1:])}" for part in parts}))
            raise DatasetError(f"{subject}: holds {found}, expected numbers of one width; validate the dataset")
        rows = stack_rows(parts)
        if not np.isfinite(rows).all():
            raise DatasetError(f"{subject}: holds NaN or infinity; validate the dataset and correct its rows")
        return rows


def _is_episode_text(key: str) -> bool:
    return key.removeprefix(schema.ANNOTATION_PREFIX) in schema.EPISODE_TEXTS

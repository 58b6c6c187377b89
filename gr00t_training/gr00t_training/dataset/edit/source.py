# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a dataset of any version holds, episode by episode: which rows of which file, which frames of which video.

One description for v2.x (a file an episode) and v3.0 (many episodes in a file), so that operations need not know the
difference. Files that belong to one episode besides its rows and videos (reports, traces, depth) are found by their
name, `episode_000012`, wherever they lie; they travel with it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.episodes_table import read_table, row_statistics
from gr00t_training.dataset.places import Catalogue, Span, read_catalogue, table_files
from gr00t_training.dataset.trace import Marks
from gr00t_training.embodiment import Embodiment, load_embodiment
from gr00t_training.errors import DatasetError

_EPISODE_IN_NAME = re.compile(r"episode_(\d{6,})")
# Rows, videos, staging, caches of other tools: never copied as files of their own.
_NOT_BESIDE = ("data", "videos", "images", schema.STAGING, ".cache", ".git")
# Made anew of the episodes that are kept.
_REMADE = {
    schema.INFO_FILE,
    schema.EPISODES_FILE,
    schema.TASKS_FILE,
    schema.EPISODES_STATS_FILE,
    schema.STATS_FILE,
    schema.RELATIVE_STATS_FILE,
    schema.TASKS_TABLE,
}
# Columns of the episodes table of v3.0 that say where things are; the others belong to the episode.
_PLACES = ("data/", "videos/", "meta/", "stats/", "dataset_from_index", "dataset_to_index")


@dataclass(frozen=True)
class SourceEpisode:
    """One episode of a dataset and where its parts are."""

    index: int
    entry: Mapping[str, Any]  # its line of episodes.jsonl: tasks, length and whatever else stands there
    statistics: Mapping[str, Any]  # lerobot's, by feature; empty where there are none
    rows: Span
    videos: Mapping[str, Span]  # by feature
    beside: Mapping[str, Path] = field(default_factory=dict)  # other files of the episode by name in the dataset

    @property
    def length(self) -> int:
        """Number of rows."""
        return self.rows.count

    @property
    def quality(self) -> Mapping[str, Any]:
        """What is known about the recording; empty where there is nothing."""
        path = self.beside.get(schema.quality_path(self.index))
        return schema.read_json(path) if path else {}

    @property
    def marks(self) -> Marks:
        """What the operator said of the episode."""
        return Marks.of_report(self.quality)


class SourceDataset:
    """A dataset of version 2.0, 2.1 or 3.0 seen as episodes made of parts of files."""

    def __init__(self, path: str | Path) -> None:
        """Read the metadata of the dataset in the folder `path`.

        Raises:
            DatasetError: not a dataset, another version, or damaged metadata; names the file.
        """
        self.path = Path(path)
        self.info: dict[str, Any] = schema.read_json(self.path / schema.INFO_FILE)
        self.version = str(self.info.get("codebase_version", ""))
        self._table: tuple[Path, pa.Table] | None = None
        if self.version not in schema.READ_VERSIONS:
            raise DatasetError(f"{self.path}: version '{self.version}', expected {', '.join(schema.READ_VERSIONS)}")
        try:
            self.fps: float = self.info["fps"]
            self.features: dict[str, Any] = self.info["features"]
            self._beside, self.other_files = self._find_files()
            self.cameras = [name for name, feature in self.features.items() if feature["dtype"] == "video"]
            catalogue = read_catalogue(self.path, self.info)
            self.tasks = catalogue.tasks
            self.episodes = self._read_episodes(catalogue)
        except (KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{self.path}: damaged metadata: {error!r}; restore the files in meta") from error

    @property
    def is_v3(self) -> bool:
        """Whether files hold many episodes."""
        return self.version == schema.Version.V30.value

    @property
    def num_frames(self) -> int:
        """Number of rows of all episodes."""
        return sum(episode.length for episode in self.episodes)

    @functools.cached_property
    def modality(self) -> dict[str, Any]:
        """GR00T's `modality.json`; empty where there is none."""
        path = self.path / schema.MODALITY_FILE
        return schema.read_json(path) if path.exists() else {}

    @functools.cached_property
    def embodiment(self) -> Embodiment | None:
        """The embodiment that the dataset was recorded for; None where it does not tell.

        Raises:
            ConfigError: its file is damaged.
        """
        path = self.path / schema.EMBODIMENT_FILE
        return load_embodiment(path) if path.exists() else None

    @property
    def task_columns(self) -> list[str]:
        """Columns whose integers are numbers of tasks: `task_index`, and the annotations of `modality.json`."""
        annotations = self.modality.get("annotation", {})
        columns = [entry.get("original_key") or f"annotation.{key}" for key, entry in annotations.items()]
        return list(dict.fromkeys([schema.TASK_COLUMN, *columns]))

    @property
    def language_columns(self) -> list[str]:
        """Those of the task columns that say what the robot is told to do."""
        annotations = self.modality.get("annotation", {})
        key = self.embodiment.language if self.embodiment else next(iter(annotations), None)
        columns = [annotations[key].get("original_key") or f"annotation.{key}"] if key in annotations else []
        return list(dict.fromkeys([schema.TASK_COLUMN, *columns]))

    def episode(self, index: int) -> SourceEpisode:
        """Return the episode of that index; DatasetError when there is none."""
        for episode in self.episodes:
            if episode.index == index:
                return episode
        raise DatasetError(f"{self.path}: no episode {index}; it has {_list_of([e.index for e in self.episodes])}")

    def read_rows(self, episode: SourceEpisode, columns: list[str] | None = None) -> pa.Table:
        """Return the rows of an episode, or those of `columns` that the file has.

        Raises:
            DatasetError: the file is missing, damaged or shorter than the metadata says.
        """
        span = episode.rows
        if self._table is not None and self._table[0] == span.path:
            table = self._table[1]  # files of v3.0 hold many episodes
        else:
            table = self._read_file(span.path, None if self.is_v3 else columns, episode.index)
            self._table = (span.path, table) if self.is_v3 else None
        if columns is not None:
            table = table.select([name for name in columns if name in table.column_names])
        if table.num_rows < span.first + span.count:
            raise DatasetError(
                f"{span.path}: episode {episode.index} should be rows {span.first} to {span.first + span.count - 1}, "
                f"the file has {table.num_rows}; validate the dataset"
            )
        rows = table.slice(span.first, span.count)
        if self.is_v3 and "episode_index" in rows.column_names:
            found = rows["episode_index"][0].as_py() if span.count else episode.index
            if found != episode.index:
                raise DatasetError(
                    f"{span.path}: row {span.first} is of episode {found}, expected {episode.index}; restore the file "
                    "from a copy"
                )
        return rows

    def _read_file(self, path: Path, columns: list[str] | None, episode: int) -> pa.Table:
        try:
            file = pq.ParquetFile(path)
            names = file.schema_arrow.names
            return file.read(columns=None if columns is None else [name for name in columns if name in names])
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(
                f"{path}: episode {episode}: cannot be read ({error}); restore it, or leave the episode out"
            ) from error

    def _find_files(self) -> tuple[dict[int, dict[str, Path]], dict[str, Path]]:
        """Return the files beside rows and videos: those of an episode, by its index, and those of the dataset."""
        beside: dict[int, dict[str, Path]] = {}
        others: dict[str, Path] = {}
        for path in sorted(self.path.rglob("*")):
            name = path.relative_to(self.path).as_posix()
            if not path.is_file() or name.split("/")[0] in _NOT_BESIDE or name in _REMADE:
                continue
            if name.startswith("meta/episodes/") or name.endswith(schema.STAGED_SUFFIX):
                continue
            found = _EPISODE_IN_NAME.search(name)
            if found:
                beside.setdefault(int(found.group(1)), {})[name] = path
            else:
                others[name] = path
        return beside, others

    def _read_episodes(self, catalogue: Catalogue) -> list[SourceEpisode]:
        entries, statistics = self._v3_lists() if self.is_v3 else self._v2_lists()
        # some of NVIDIA's sets declare a camera that has no files; readers go by modality.json and never notice
        self.cameras = [
            name for name in self.cameras if any(videos[name].path.exists() for videos in catalogue.videos.values())
        ]
        return [
            SourceEpisode(
                index=episode.index,
                entry=entries[episode.index],
                statistics=statistics.get(episode.index, {}),
                rows=catalogue.rows[episode.index],
                videos={name: catalogue.videos[episode.index][name] for name in self.cameras},
                beside=self._beside.get(episode.index, {}),
            )
            for episode in catalogue.episodes
        ]

    def _v2_lists(self) -> tuple[dict[int, Any], dict[int, Any]]:
        """Return the entry and the statistics of every episode."""
        entries = {entry["episode_index"]: entry for entry in schema.read_json_lines(self.path / schema.EPISODES_FILE)}
        path = self.path / schema.EPISODES_STATS_FILE
        lines = schema.read_json_lines(path) if path.exists() else []
        return entries, {line["episode_index"]: line["stats"] for line in lines}

    def _v3_lists(self) -> tuple[dict[int, Any], dict[int, Any]]:
        entries: dict[int, Any] = {}
        statistics: dict[int, Any] = {}
        for path, _ in table_files(self.path, self.info["chunks_size"]):
            for row in read_table(path).to_pylist():
                index = row["episode_index"]
                if index not in entries:  # the first is right, see `places`
                    entries[index] = {
                        name: value for name, value in row.items() if not name.startswith(_PLACES) and value is not None
                    }
                    statistics[index] = row_statistics(row)
        return entries, statistics


def _list_of(numbers: list[int]) -> str:
    """Name a few episodes: `0 to 41` where they have no gap."""
    if numbers and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"episodes {numbers[0]} to {numbers[-1]}"
    return "episodes " + (", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "") or "none")

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What the metadata of a dataset says, for v2.0, v2.1 and v3.0 alike, read without believing it.

The checks hold it against the files. It is read here and not by `LeRobotDataset`, since one damaged part must not hide
the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.validation.findings import REPAIR, Finding, fault, guarded, warning
from gr00t_training.embodiment import Embodiment, load_embodiment
from gr00t_training.errors import DatasetError

EPISODES_FOLDER = f"{schema.META}/episodes"  # v3.0


@dataclass(frozen=True)
class VideoSpan:
    """Where the frames of one episode and camera are."""

    file: str  # relative to the dataset
    start_s: float  # time of the first frame in the file
    end_s: float | None  # end of the last frame; None: the end of the file (v2.x)


@dataclass(frozen=True)
class EpisodeEntry:
    """What the metadata says of one episode."""

    index: int
    length: int
    tasks: tuple[str, ...]
    data_file: str  # relative to the dataset
    first_row: int  # in that file
    first_index: int  # value of `index` in the first row
    videos: Mapping[str, VideoSpan]  # by feature

    @property
    def name(self) -> str:
        """Return what findings call it."""
        return f"episode {self.index}"


@dataclass
class Contents:
    """The metadata of a dataset; parts that cannot be read are empty, and a finding says so."""

    path: Path
    info: Mapping[str, Any]
    features: Mapping[str, Mapping[str, Any]]
    episodes: list[EpisodeEntry] = field(default_factory=list)
    tasks: dict[int, str] = field(default_factory=dict)
    modality: Mapping[str, Any] | None = None
    embodiment: Embodiment | None = None
    stats: Mapping[str, Mapping[str, Any]] | None = None  # stats.json
    episode_stats: dict[int, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def is_v3(self) -> bool:
        """Whether many episodes share a file."""
        return str(self.info["codebase_version"]).startswith("v3")

    @property
    def episodes_place(self) -> str:
        """What findings call the list of episodes."""
        return EPISODES_FOLDER if self.is_v3 else schema.EPISODES_FILE

    @property
    def tasks_place(self) -> str:
        """What findings call the list of tasks."""
        return schema.TASKS_TABLE if self.is_v3 else schema.TASKS_FILE

    @property
    def episode_stats_place(self) -> str:
        """What findings call the statistics by episode."""
        return EPISODES_FOLDER if self.is_v3 else schema.EPISODES_STATS_FILE

    @property
    def fps(self) -> float:
        """Rows per second."""
        return float(self.info["fps"])

    @property
    def num_frames(self) -> int:
        """Number of rows of all episodes."""
        return sum(episode.length for episode in self.episodes)

    @property
    def cameras(self) -> list[str]:
        """Video features that the dataset should have files of.

        GR00T opens those that `modality.json` names; its samples declare others.
        """
        declared = [name for name, feature in self.features.items() if feature["dtype"] == "video"]
        named = self.modality_cameras
        return [name for name in declared if named is None or name in named.values()]

    @property
    def modality_cameras(self) -> Mapping[str, str] | None:
        """Feature of each camera of `modality.json`; None when there is no such file."""
        if self.modality is None:
            return None
        return {key: entry.get("original_key") or key for key, entry in self.modality.get("video", {}).items()}

    def slices(self) -> Iterator[tuple[str, str, int, int]]:
        """Yield key ("state.arm"), column, start and end of each entry of `modality.json`."""
        for kind, column in (("state", schema.STATE_COLUMN), ("action", schema.ACTION_COLUMN)):
            for key, entry in (self.modality or {}).get(kind, {}).items():
                yield f"{kind}.{key}", entry.get("original_key") or column, entry["start"], entry["end"]

    def annotation_columns(self) -> dict[str, str]:
        """Return the column behind each annotation of `modality.json`."""
        entries = (self.modality or {}).get("annotation", {})
        return {key: entry.get("original_key") or f"annotation.{key}" for key, entry in entries.items()}


def read_contents(path: Path, findings: list[Finding], info: Mapping[str, Any] | None = None) -> Contents | None:
    """Read the metadata; what is wrong with it goes to `findings`.

    Args:
        path: folder of the dataset.
        findings: list that grows.
        info: `info.json`; None: read it.

    Returns:
        What the metadata says; None when nothing can be checked without `info.json`.
    """
    try:
        if info is None:
            info = _read_info(path)
        version = str(info["codebase_version"])
        if version not in ("v2.0", "v2.1") and not version.startswith("v3."):
            raise DatasetError(f"codebase_version is {version}, expected v2.0, v2.1 or v3.0")
        contents = Contents(path, info, info["features"])
        if not contents.fps > 0 or info["chunks_size"] < 1:
            raise DatasetError(f"fps is {info['fps']}, chunks_size {info['chunks_size']}, expected positive numbers")
        _ = contents.cameras, info["data_path"]
    except DatasetError as error:
        findings.append(fault(schema.INFO_FILE, str(error)))
        return None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        findings.append(
            fault(schema.INFO_FILE, f"not of the expected form: {error!r}", remedy="restore the file from a copy")
        )
        return None
    if (path / schema.MODALITY_FILE).exists():
        findings += guarded(schema.MODALITY_FILE, _read_modality(contents))
    elif not contents.is_v3:
        findings.append(fault(schema.MODALITY_FILE, "missing, GR00T cannot open the dataset", remedy="write it"))
    findings += guarded(schema.EMBODIMENT_FILE, _read_embodiment(contents))
    findings += guarded(schema.STATS_FILE, _read_stats(contents))
    findings += guarded(contents.tasks_place, _read_tasks(contents))
    findings += guarded(contents.episodes_place, _read_episodes(contents))
    return contents


def column_array(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column as `schema.column_rows` does; nested lists and texts as they come.

    Raises:
        DatasetError: empty rows, or lists of different lengths.
    """
    try:
        return schema.column_rows(column)
    except (pa.ArrowException, ValueError) as error:
        raise DatasetError(f"a column of {column.type} cannot be read ({error})") from error


def _read_info(path: Path) -> Mapping[str, Any]:
    return schema.read_json(path / schema.INFO_FILE)


def _read_modality(contents: Contents) -> Iterator[Finding]:
    contents.modality = schema.read_json(contents.path / schema.MODALITY_FILE)
    try:
        _ = contents.cameras, list(contents.slices()), contents.annotation_columns()
    except (KeyError, TypeError, AttributeError):
        contents.modality = None
        raise
    yield from ()


def _read_embodiment(contents: Contents) -> Iterator[Finding]:
    if (contents.path / schema.EMBODIMENT_FILE).exists():
        contents.embodiment = load_embodiment(contents.path / schema.EMBODIMENT_FILE)
    yield from ()


def _read_stats(contents: Contents) -> Iterator[Finding]:
    if (contents.path / schema.STATS_FILE).exists():
        contents.stats = schema.read_json(contents.path / schema.STATS_FILE)
    elif contents.info["codebase_version"] == "v2.1":
        yield warning(schema.STATS_FILE, "missing, every reader has to compute it", remedy=REPAIR)
    else:
        yield fault(schema.STATS_FILE, "missing, training with lerobot needs it", remedy=REPAIR)


def _read_tasks(contents: Contents) -> Iterator[Finding]:
    if contents.is_v3:
        table = _read_table(contents.path / schema.TASKS_TABLE)
        texts = next(name for name in table.column_names if name != schema.TASK_COLUMN)
        pairs = list(zip(table[schema.TASK_COLUMN].to_pylist(), table[texts].to_pylist(), strict=True))
    else:
        entries = schema.read_json_lines(contents.path / schema.TASKS_FILE)
        pairs = [(entry["task_index"], entry["task"]) for entry in entries]
    contents.tasks = dict(pairs)
    if len(contents.tasks) < len(pairs):
        yield fault(contents.tasks_place, "a task number stands twice", remedy="number the tasks again")
    if len(set(contents.tasks.values())) < len(contents.tasks):
        yield warning(contents.tasks_place, "a task text stands twice", remedy="join them with gr00t_dataset retask")
    for number, text in contents.tasks.items():
        if not str(text).strip():
            yield fault(contents.tasks_place, f"the text of task {number} is empty", remedy="run gr00t_dataset retask")


def _read_episodes(contents: Contents) -> Iterator[Finding]:
    if contents.is_v3:
        yield from _read_episodes_table(contents)
        return
    info, index_value = contents.info, 0
    video_template = info.get("video_path") or schema.VIDEO_PATH
    for entry in schema.read_json_lines(contents.path / schema.EPISODES_FILE):
        index, length = entry["episode_index"], entry["length"]
        videos = {
            name: VideoSpan(schema.video_path(index, name, video_template, info["chunks_size"]), 0.0, None)
            for name in contents.cameras
        }
        data_file = schema.data_path(index, info["data_path"], info["chunks_size"])
        tasks = tuple(entry.get("tasks", ()))
        contents.episodes.append(EpisodeEntry(index, length, tasks, data_file, 0, index_value, videos))
        index_value += length
    yield from _read_episode_stats(contents)


def _read_episode_stats(contents: Contents) -> Iterator[Finding]:
    if contents.info["codebase_version"] != "v2.1":
        return
    if not (contents.path / schema.EPISODES_STATS_FILE).exists():
        yield fault(schema.EPISODES_STATS_FILE, "missing, lerobot 0.3 needs it in v2.1", remedy=REPAIR)
        return
    for entry in schema.read_json_lines(contents.path / schema.EPISODES_STATS_FILE):
        contents.episode_stats[entry["episode_index"]] = entry["stats"]
    for episode in contents.episodes:
        if episode.index not in contents.episode_stats:
            yield fault(schema.EPISODES_STATS_FILE, f"no line for {episode.name}", remedy=REPAIR)


def _read_episodes_table(contents: Contents) -> Iterator[Finding]:
    files = sorted((contents.path / EPISODES_FOLDER).glob("*/*.parquet"))
    if not files:
        yield fault(EPISODES_FOLDER, "no file", "one row per episode", "restore it from a copy")
    first_of_file: dict[str, int] = {}
    for file in files:
        table = _read_table(file)
        rows = table.select([name for name in table.column_names if not name.startswith("stats/")]).to_pylist()
        for row in rows:
            numbers = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
            data_file = contents.info["data_path"].format(**numbers)
            start = row["dataset_from_index"]
            first_row = start - first_of_file.setdefault(data_file, start)
            videos = {name: _span(contents, row, name) for name in contents.cameras}
            entry = EpisodeEntry(
                row["episode_index"], row["length"], tuple(row["tasks"]), data_file, first_row, start, videos
            )
            contents.episodes.append(entry)
            if row["dataset_to_index"] - start != row["length"]:
                found = f"dataset_from_index {start}, dataset_to_index {row['dataset_to_index']}"
                yield fault(entry.name, found, f"a difference of {row['length']} rows", REPAIR)
        contents.episode_stats.update(_table_stats(table, [row["episode_index"] for row in rows]))
    if not any(contents.episode_stats.values()):
        yield warning(EPISODES_FOLDER, "has no statistics", remedy=REPAIR)


def _span(contents: Contents, row: Mapping[str, Any], feature: str) -> VideoSpan:
    place = f"videos/{feature}/"
    file = contents.info["video_path"].format(
        video_key=feature, chunk_index=row[place + "chunk_index"], file_index=row[place + "file_index"]
    )
    return VideoSpan(file, row[place + "from_timestamp"], row[place + "to_timestamp"])


def _table_stats(table: pa.Table, indices: list[int]) -> dict[int, dict[str, dict[str, Any]]]:
    """Return the `stats/{feature}/{name}` columns by episode."""
    found: dict[int, dict[str, dict[str, Any]]] = {index: {} for index in indices}
    for column in table.column_names:
        if column.startswith("stats/"):
            feature, name = column.removeprefix("stats/").rsplit("/", 1)
            for index, value in zip(indices, table[column].to_pylist(), strict=True):
                found[index].setdefault(feature, {})[name] = value
    return found


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.ParquetFile(path).read()
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); restore it from a copy") from error

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Write a dataset of kept episodes: new numbers, new statistics, the same rows and the same coded video.

Rows of one source and one version stay in the parquet types they have; where sources or versions meet, all get those
that every reader takes. Whether episodes share files (v3.0) is `layouts`' business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.edit.beside import copy_beside
from gr00t_training.dataset.edit.features import check_embodiment, common_features, features_of_version
from gr00t_training.dataset.edit.layouts import (
    EpisodeFiles,
    Layout,
    SharedFiles,
    copy_file,
)
from gr00t_training.dataset.edit.packets import count_packets, part_of
from gr00t_training.dataset.edit.rows import normalised, renumbered, restarted
from gr00t_training.dataset.edit.source import SourceDataset, SourceEpisode
from gr00t_training.dataset.edit.statistics import DatasetStatistics, FrameDescriber, describe_columns
from gr00t_training.dataset.episodes_table import EpisodePlace, VideoPlace, make_table, tasks_table
from gr00t_training.dataset.reader import LeRobotDataset
from gr00t_training.dataset.relative_stats import relative_action_statistics
from gr00t_training.embodiment import Embodiment, modality_layout, to_mapping
from gr00t_training.errors import DatasetError

# Of the frames that lerobot samples for its statistics of images every fourth is decoded: 25 of an episode tell as
# much as 100, and decoding is what takes time.
SAMPLE_STRIDE = 4


@dataclass(frozen=True)
class KeptEpisode:
    """An episode of a source, and what of it goes into the new dataset."""

    source: SourceDataset
    episode: SourceEpisode
    start: int = 0  # first row
    stop: int | None = None  # end of the rows; None: all
    task: str | None = None  # new instruction of all rows
    renamed: Mapping[str, str] = field(default_factory=dict)  # old text of a task -> new text

    @property
    def end(self) -> int:
        """End of the rows that are kept, as a number."""
        return self.episode.length if self.stop is None else self.stop

    @property
    def length(self) -> int:
        """Number of rows that are kept."""
        return self.end - self.start

    @property
    def is_cut(self) -> bool:
        """Whether rows are left out."""
        return self.length != self.episode.length

    @property
    def subject(self) -> str:
        """What errors call it."""
        return f"{self.source.path}: episode {self.episode.index}"

    def text(self, column: str, number: int) -> str:
        """Return the text of a task number in `column` as it becomes; DatasetError when it has none."""
        if self.task is not None and column in self.source.language_columns:
            return self.task
        if number not in self.source.tasks:
            raise DatasetError(
                f"{self.subject}: {column} holds task {number}, which has no text; add it to the list of tasks"
            )
        return self.renamed.get(self.source.tasks[number], self.source.tasks[number])


@dataclass
class EditReport:
    """What a new dataset holds, and what had to be done for it."""

    num_episodes: int = 0
    num_frames: int = 0
    encoded: list[str] = field(default_factory=list)  # videos that had to be encoded anew
    notes: list[str] = field(default_factory=list)  # what else is worth knowing


def all_of(source: SourceDataset) -> list[KeptEpisode]:
    """Return every episode of a dataset, to be kept as it is."""
    return [KeptEpisode(source, episode) for episode in source.episodes]


def write_dataset(
    folder: Path,
    kept: Sequence[KeptEpisode],
    *,
    version: str | None = None,
    embodiment: Embodiment | None = None,
    links: bool = False,
) -> EditReport:
    """Write the kept episodes, in order, as a dataset into the empty folder `folder`.

    Args:
        folder: where to.
        kept: episodes of datasets of the same rate, features and modality.
        version: "v2.0", "v2.1" or "v3.0"; None: that of the first source.
        embodiment: what the columns mean, for sources that do not tell; None: as the sources say.
        links: whether whole files may be links to the source's, which goes away.

    Raises:
        DatasetError: nothing is kept, the sources do not fit each other or the embodiment, or one is damaged.
        OSError: `folder` cannot be written.
    """
    if not kept:
        raise DatasetError("no episode is left; keep at least one")
    output = _Output(folder, kept, version or kept[0].source.version, links=links)
    if embodiment is not None:
        output.describe_as(embodiment)
    return output.write()


class _Output:
    """A dataset being written."""

    def __init__(self, folder: Path, kept: Sequence[KeptEpisode], version: str, *, links: bool) -> None:
        self._folder, self._kept, self._links = folder, kept, links
        self._version = schema.Version(version)
        self._sources = list(dict.fromkeys(item.source for item in kept))
        first = self._sources[0]
        self._is_v3 = self._version is schema.Version.V30
        self._as_stored = len(self._sources) == 1 and version == first.version
        self._fps = first.fps
        self._features = common_features(self._sources)
        if not self._as_stored:
            first_rows = first.read_rows(kept[0].episode)
            self._features = features_of_version(self._features, self._version.value, self._fps, first_rows)
        self._cameras = [name for name, feature in self._features.items() if feature["dtype"] == "video"]
        self._has_image_statistics = self._version is not schema.Version.V20 or _has_image_statistics(first)
        self._report = EditReport()
        self._statistics = DatasetStatistics()
        self._images: dict[tuple[int, str], Future[dict[str, Any]]] = {}  # by episode and camera
        self._decoders = FrameDescriber(len(self._cameras), quantiles=self._is_v3, stride=SAMPLE_STRIDE)
        self._made_files: dict[str, str] = {}  # beside those that every dataset has
        self._layout = self._make_layout(first)

    def describe_as(self, embodiment: Embodiment) -> None:
        """Have the dataset say that its columns are those of `embodiment`; DatasetError when they are not."""
        check_embodiment(self._features, self._fps, embodiment)
        for path in (schema.EMBODIMENT_FILE, schema.MODALITY_FILE):
            for source in self._sources:
                source.other_files.pop(path, None)
        self._made_files = {
            schema.EMBODIMENT_FILE: schema.json_text(to_mapping(embodiment)),
            schema.MODALITY_FILE: schema.json_text(modality_layout(embodiment)),
        }

    def write(self) -> EditReport:
        tasks = self._number_tasks()
        entries: list[dict[str, Any]] = []
        described: list[dict[str, Any]] = []
        places: list[EpisodePlace] = []
        try:
            for index, item in enumerate(self._kept):
                table = self._rows(item, index, tasks)
                entry = self._entry(item, index)
                places.append(
                    EpisodePlace(
                        index=index,
                        length=item.length,
                        tasks=tuple(entry["tasks"]),
                        data_file=self._layout.add_rows(index, table),
                        from_index=self._report.num_frames,
                        videos=self._add_videos(item, index),
                    )
                )
                described.append(self._describe(item, index, table))
                self._statistics.add_rows(table)
                uncut = copy_beside(
                    self._folder, item.episode, entry, (item.start, item.end), self._fps, links=self._links
                )
                self._report.notes += [f"{name} still has all rows" for name in uncut]
                entries.append(entry)
                self._report.num_frames += item.length
            self._finish_images(described)
        finally:
            self._decoders.close()
            self._layout.close()
        self._report.num_episodes = len(entries)
        self._report.encoded = self._layout.encoded
        self._write_metadata(entries, described, places, tasks)
        self._copy_other_files()
        if not self._is_v3 and not (self._folder / schema.MODALITY_FILE).exists():
            self._report.notes.append(f"{schema.MODALITY_FILE} is missing, which GR00T needs: name the embodiment")
        self._write_relative_statistics()
        return self._report

    def _make_layout(self, first: SourceDataset) -> Layout:
        if not self._is_v3:
            return EpisodeFiles(self._folder, self._fps, links=self._links)
        data_mb = first.info.get("data_files_size_in_mb", schema.DATA_FILES_MB)
        video_mb = first.info.get("video_files_size_in_mb", schema.VIDEO_FILES_MB)
        return SharedFiles(self._folder, self._fps, data_mb=data_mb, video_mb=video_mb)

    def _number_tasks(self) -> dict[str, int]:
        """Number the texts that are used, in the order of the sources' lists."""
        used: dict[SourceDataset, dict[str, int]] = {source: {} for source in self._sources}
        for item in self._kept:
            order = {text: number for number, text in sorted(item.source.tasks.items(), reverse=True)}
            texts = used[item.source]
            columns = item.source.read_rows(item.episode, item.source.task_columns)
            columns = columns.slice(item.start, item.length)
            for name in columns.column_names:
                for number in np.unique(schema.column_rows(columns[name])).tolist():
                    texts.setdefault(item.text(name, int(number)), int(number))
            for text in _entry_tasks(item):
                texts.setdefault(text, order.get(text, len(order)))
        ordered = [text for texts in used.values() for text in sorted(texts, key=lambda text: texts[text])]
        return {text: number for number, text in enumerate(dict.fromkeys(ordered))}

    def _rows(self, item: KeptEpisode, index: int, tasks: Mapping[str, int]) -> pa.Table:
        table = item.source.read_rows(item.episode).slice(item.start, item.length)
        if not self._as_stored:
            table = normalised(table, self._features, item.subject)
        if item.is_cut or not self._as_stored:
            table = restarted(table, self._fps, item.subject)

        def numbering(column: str) -> Callable[[int], int]:
            return lambda number: tasks[item.text(column, number)]

        numbers = {column: numbering(column) for column in item.source.task_columns}
        first_index = self._report.num_frames
        return renumbered(table, episode_index=index, first_index=first_index, task_numbers=numbers)

    def _entry(self, item: KeptEpisode, index: int) -> dict[str, Any]:
        entry = {**item.episode.entry, "episode_index": index, "tasks": _entry_tasks(item), "length": item.length}
        if item.is_cut and entry.get("sub_tasks"):
            entry["sub_tasks"] = [
                {**part, "start": max(part["start"] - item.start, 0), "end": min(part["end"], item.end) - item.start}
                for part in entry["sub_tasks"]
                if part["start"] < item.end and part["end"] > item.start
            ]
        return entry

    def _add_videos(self, item: KeptEpisode, index: int) -> dict[str, VideoPlace]:
        places: dict[str, VideoPlace] = {}
        for name in self._cameras:
            span = item.episode.videos[name]
            if not item.source.is_v3:
                found = count_packets(span.path)
                if found != span.count:
                    raise DatasetError(
                        f"{item.subject}: {span.path.name} of {name} has {found} frames, the episode {span.count} "
                        "rows; repair the dataset or leave the episode out"
                    )
            places[name] = self._layout.add_video(index, name, part_of(span, item.start, item.end))
        return places

    def _describe(self, item: KeptEpisode, index: int, table: pa.Table) -> dict[str, Any]:
        """Return lerobot's statistics of an episode, by feature; have its images looked at meanwhile."""
        entries: dict[str, Any] = describe_columns(table, quantiles=self._is_v3)
        for name, feature in self._features.items():
            if feature["dtype"] not in ("video", "image"):
                continue
            if name in item.episode.statistics and not item.is_cut:
                entries[name] = item.episode.statistics[name]
            elif feature["dtype"] == "video" and self._has_image_statistics:
                span = part_of(item.episode.videos[name], item.start, item.end)
                self._images[index, name] = self._decoders.submit(span)
        return entries

    def _finish_images(self, described: list[dict[str, Any]]) -> None:
        """Complete the statistics of all episodes, in the order of `info.json`; DatasetError: one does not decode."""
        for (index, name), entry in self._images.items():
            described[index][name] = entry.result()
        for index, entries in enumerate(described):
            described[index] = {name: entries[name] for name in self._features if name in entries}
            self._statistics.add_images(entries, self._cameras)

    def _write_metadata(
        self,
        entries: list[dict[str, Any]],
        described: list[dict[str, Any]],
        places: list[EpisodePlace],
        tasks: Mapping[str, int],
    ) -> None:
        texts = {schema.STATS_FILE: schema.json_text(self._statistics.to_mapping(is_v3=self._is_v3))}
        if self._is_v3:
            pq.write_table(tasks_table(list(tasks)), _made(self._folder / schema.TASKS_TABLE))
            path = self._folder / schema.shared_path(schema.EPISODES_TABLE_PATH, 0)
            pq.write_table(episodes_table(places, entries, described, self._fps), _made(path), compression="snappy")
        else:
            lines = [{"task_index": number, "task": text} for text, number in tasks.items()]
            texts[schema.TASKS_FILE] = schema.json_lines_text(lines)
            texts[schema.EPISODES_FILE] = schema.json_lines_text(entries)
        if self._version is schema.Version.V21:
            lines = [{"episode_index": index, "stats": stats} for index, stats in enumerate(described)]
            texts[schema.EPISODES_STATS_FILE] = schema.json_lines_text(lines)
        texts |= self._made_files
        texts[schema.INFO_FILE] = schema.json_text(self._info(len(entries), len(tasks)))
        for name, text in texts.items():
            _made(self._folder / name).write_text(text, encoding="utf-8")

    def _info(self, num_episodes: int, num_tasks: int) -> dict[str, Any]:
        source = self._sources[0].info
        info: dict[str, Any] = {
            "codebase_version": self._version.value,
            "robot_type": source.get("robot_type"),
            "total_episodes": num_episodes,
            "total_frames": self._report.num_frames,
            "total_tasks": num_tasks,
        }
        if self._is_v3:
            info |= {
                "chunks_size": schema.CHUNKS_SIZE,
                "data_files_size_in_mb": source.get("data_files_size_in_mb", schema.DATA_FILES_MB),
                "video_files_size_in_mb": source.get("video_files_size_in_mb", schema.VIDEO_FILES_MB),
            }
        else:
            info |= {
                "total_videos": num_episodes * len(self._cameras),
                "total_chunks": -(-num_episodes // schema.CHUNKS_SIZE),
                "chunks_size": schema.CHUNKS_SIZE,
            }
        paths = (schema.DATA_PATH, schema.VIDEO_PATH)
        if self._is_v3:
            paths = (schema.SHARED_DATA_PATH, schema.SHARED_VIDEO_PATH)
        info |= {
            "fps": int(self._fps) if self._fps == int(self._fps) else self._fps,
            "splits": {"train": f"0:{num_episodes}"},
            "data_path": paths[0],
            "video_path": paths[1] if self._cameras else None,
            "features": self._features,
        }
        if self._as_stored:  # what else stands there, as other tools wrote it
            info |= {name: value for name, value in source.items() if name not in info}
        return info

    def _copy_other_files(self) -> None:
        """Copy files of the dataset as a whole; of several sources, those that do not contradict each other."""
        found: dict[str, list[Path]] = {}
        for source in self._sources:
            for name, path in source.other_files.items():
                found.setdefault(name, []).append(path)
        for name, paths in found.items():
            if len({path.read_bytes() for path in paths}) > 1:
                self._report.notes.append(f"{name} differs between the datasets and is left out")
                continue
            copy_file(paths[0], _made(self._folder / name), links=self._links)

    def _write_relative_statistics(self) -> None:
        """Keep the statistics of relative actions true: trainers believe what stands there."""
        if not any((source.path / schema.RELATIVE_STATS_FILE).exists() for source in self._sources):
            return
        embodiment = self._folder / schema.EMBODIMENT_FILE
        if len(self._sources) == 1 and not any(item.is_cut for item in self._kept):
            source = self._sources[0]
            if [item.episode.index for item in self._kept] == [episode.index for episode in source.episodes]:
                path = source.path / schema.RELATIVE_STATS_FILE
                copy_file(path, self._folder / schema.RELATIVE_STATS_FILE, links=self._links)
                return
        reason = "trainers compute it of the new rows"
        if embodiment.exists():
            dataset = LeRobotDataset(self._folder)
            try:
                if dataset.embodiment is not None:
                    relative_action_statistics(dataset, dataset.embodiment)
                    return
            except DatasetError as error:  # no episode is as long as a chunk any more
                reason = str(error)
        self._report.notes.append(f"{schema.RELATIVE_STATS_FILE} is left out: {reason}")


def episodes_table(
    places: Sequence[EpisodePlace],
    entries: Sequence[Mapping[str, Any]],
    described: Sequence[Mapping[str, Mapping[str, Any]]],
    fps: float,
) -> pa.Table:
    """Return the episodes table of v3.0; what else the entries hold (marks) are further columns."""
    tables = []
    for place, entry, statistics in zip(places, entries, described, strict=True):
        table = make_table(place, statistics, fps)
        for name in entry:
            if name not in table.column_names:
                table = table.append_column(name, pa.array([entry[name]]))
        tables.append(table)
    return pa.concat_tables(tables, promote_options="permissive")


def _entry_tasks(item: KeptEpisode) -> list[str]:
    """Return the texts that the episode is listed with."""
    texts = list(item.episode.entry.get("tasks") or [])
    if item.task is not None:
        told = _told_texts(item)
        texts = [item.task if text in told else text for text in texts] or [item.task]
    return list(dict.fromkeys(item.renamed.get(text, text) for text in texts))


def _told_texts(item: KeptEpisode) -> set[str]:
    """Return the instructions of the episode as they were."""
    table = item.source.read_rows(item.episode, item.source.language_columns)
    numbers = {int(number) for name in table.column_names for number in schema.column_rows(table[name])}
    return {item.source.tasks[number] for number in numbers if number in item.source.tasks}


def _has_image_statistics(source: SourceDataset) -> bool:
    path = source.path / schema.STATS_FILE
    stored = schema.read_json(path) if path.exists() else {}
    return any(name in stored for name in source.cameras)


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path

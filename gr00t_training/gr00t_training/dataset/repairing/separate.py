# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Repairing v2.0 and v2.1: the files of the episodes are the truth, the metadata is made to follow from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.edit.packets import cut_file
from gr00t_training.dataset.edit.statistics import describe_frames
from gr00t_training.dataset.places import Span
from gr00t_training.dataset.repairing.changes import Changes
from gr00t_training.dataset.repairing.tables import (
    agree,
    agree_text,
    fits,
    numeric,
    read_object,
    task_numbers,
    whole_lines,
    with_column,
)
from gr00t_training.dataset.stats import compute_statistics, describe_rows, stack_rows
from gr00t_training.dataset.validate import Map
from gr00t_training.dataset.validation.metadata import CONTAINED_KINDS, TIME_TOLERANCE_S
from gr00t_training.dataset.validation.statistics import IMAGE_TOLERANCE
from gr00t_training.dataset.validation.videos import VideoFacts, scan_video
from gr00t_training.dataset.video import VideoCache
from gr00t_training.embodiment import ACTION_COLUMN, STATE_COLUMN, Embodiment, column_names, modality_layout
from gr00t_training.errors import DatasetError

_EPISODE_FILE = re.compile(r"episode_(\d+)\.parquet$")


@dataclass
class _Episode:
    """One episode as its files are."""

    index: int
    entry: dict[str, Any] | None  # its line of episodes.jsonl
    stats: dict[str, Any] | None  # its line of episodes_stats.jsonl, by feature
    table: pa.Table | None = None
    videos: dict[str, VideoFacts] = field(default_factory=dict)  # by feature; those that can be read
    is_cut: bool = False

    def is_whole(self, cameras: list[str]) -> bool:
        """Whether rows and all videos can be read and hold something."""
        return bool(self.table and self.table.num_rows and all(camera in self.videos for camera in cameras))

    @property
    def length(self) -> int:
        """Number of rows that have a frame of every camera."""
        assert self.table is not None
        return min([self.table.num_rows, *(len(facts.times_s) for facts in self.videos.values())])


class SeparateFiles:
    """A dataset of version 2.0 or 2.1 under repair."""

    def __init__(self, changes: Changes, info: dict[str, Any], embodiment: Embodiment | None, run: Map = map) -> None:
        """Prepare; `run` is a `map` that may use several processes."""
        self.scanned: dict[Path, VideoFacts] = {}  # videos that are as they were found
        self.relisted: list[int] = []  # episodes that were not listed
        self._run = run
        self._changes = changes
        self._root = changes.root
        self._info = info
        self._embodiment = embodiment
        self._modality = read_object(self._root / schema.MODALITY_FILE)
        self._cameras = self._find_cameras()
        self._fps = float(info["fps"])

    def repair(self) -> None:
        """Repair what can be.

        Raises:
            OSError: a file cannot be written.
        """
        episodes = self._find_episodes()
        kept = self._keep(episodes)
        self._set_aside_unknown({episode.index for episode in kept})
        kept = self._close_gaps(kept)
        tasks = self._find_tasks(kept)
        first_index, tables = 0, []
        for episode in kept:
            if episode.is_whole(self._cameras):
                self._repair_videos(episode)
                tables.append(self._repair_rows(episode, first_index, tasks))
                first_index += episode.length
            else:
                first_index += (episode.entry or {}).get("length", 0)
        self._write_metadata(kept, tables, tasks)

    def _find_cameras(self) -> list[str]:
        declared = [name for name, feature in self._info["features"].items() if feature["dtype"] == "video"]
        if self._embodiment is not None or self._modality is None:
            return declared
        named = {entry.get("original_key") or key for key, entry in self._modality.get("video", {}).items()}
        return [name for name in declared if name in named]

    def _data_file(self, index: int) -> str:
        return schema.data_path(index, self._info["data_path"], self._info["chunks_size"])

    def _video_file(self, index: int, camera: str) -> str:
        template = self._info.get("video_path") or schema.VIDEO_PATH
        return schema.video_path(index, camera, template, self._info["chunks_size"])

    def _find_episodes(self) -> list[_Episode]:
        entries = {entry["episode_index"]: entry for entry in whole_lines(self._root / schema.EPISODES_FILE)}
        stats = {
            entry["episode_index"]: entry.get("stats") for entry in whole_lines(self._root / schema.EPISODES_STATS_FILE)
        }
        indices = set(entries)
        for path in self._root.glob("data/*/*.parquet"):
            found = _EPISODE_FILE.search(path.name)
            if found and path == self._root / self._data_file(int(found[1])):
                indices.add(int(found[1]))
        episodes = []
        paths = [self._root / self._video_file(index, camera) for index in sorted(indices) for camera in self._cameras]
        self.scanned = dict(zip(paths, self._run(partial(scan_video, decode=True), paths), strict=True))
        for index in sorted(indices):
            episode = _Episode(index, entries.get(index), stats.get(index))
            try:
                episode.table = pq.ParquetFile(self._root / self._data_file(index)).read()
            except (OSError, pa.ArrowException):
                episode.table = None
            for camera in self._cameras:
                facts = self.scanned[self._root / self._video_file(index, camera)]
                if not facts.failure and len(facts.times_s):
                    episode.videos[camera] = facts
            episodes.append(episode)
        return episodes

    def _keep(self, episodes: list[_Episode]) -> list[_Episode]:
        """Return the episodes of the dataset: those that are listed, and those whose files are all there."""
        kept = []
        for episode in episodes:
            if episode.entry is not None:
                kept.append(episode)
            elif episode.is_whole(self._cameras):
                self._changes.note(f"episode {episode.index}: its files are whole, it is listed again")
                self._adopt_side_files(episode.index)
                self.relisted.append(episode.index)
                kept.append(episode)
        return kept

    def _adopt_side_files(self, index: int) -> None:
        """Move depth and report of an episode to their places where a killed recorder had not come to that."""
        folder = self._root / schema.STAGING / f"episode_{index:06d}"
        names = {"quality.json": schema.quality_path(index)}
        for key in self._embodiment.depth if self._embodiment else ():
            names[f"depth.{key}.mkv"] = schema.depth_path(index, key)
        for name, target in names.items():
            path = folder / (name + schema.STAGED_SUFFIX)
            if path.is_file() and not (self._root / target).exists():
                staged = path.relative_to(self._root).as_posix()
                self._changes.rename(staged, target, f"becomes {target}")

    def _set_aside_unknown(self, indices: set[int]) -> None:
        known = {self._data_file(index) for index in indices}
        known |= {self._video_file(index, camera) for index in indices for camera in self._cameras}
        for path in sorted(path for kind in CONTAINED_KINDS for path in self._root.rglob(kind)):
            name = path.relative_to(self._root).as_posix()
            if name not in known:
                self._changes.set_aside(name, "belongs to no episode")

    def _close_gaps(self, kept: list[_Episode]) -> list[_Episode]:
        """Number the episodes 0, 1, 2 where numbers are missing; not while one of them lacks files."""
        if any(not episode.is_whole(self._cameras) for episode in kept):
            return kept
        for place, episode in enumerate(kept):
            if episode.index != place:
                self._changes.note(f"episode {episode.index}: becomes episode {place}, since numbers are missing")
                names = {self._data_file(episode.index): self._data_file(place)}
                names |= {self._video_file(episode.index, c): self._video_file(place, c) for c in self._cameras}
                names |= {schema.quality_path(episode.index): schema.quality_path(place)}
                for key in self._embodiment.depth if self._embodiment else ():
                    names[schema.depth_path(episode.index, key)] = schema.depth_path(place, key)
                for name, target in names.items():
                    self.scanned.pop(self._root / name, None)
                    if (self._root / name).exists():
                        self._changes.rename(name, target, f"becomes {target}")
                episode.index = place
        return kept

    def _find_tasks(self, kept: list[_Episode]) -> dict[int, str]:
        """Return the texts of all task numbers that can be known."""
        tasks = {
            entry["task_index"]: entry["task"]
            for entry in whole_lines(self._root / schema.TASKS_FILE, "task_index")
            if str(entry.get("task", "")).strip()
        }
        for episode in kept:
            texts = self._told_tasks(episode)
            numbers = task_numbers(episode.table)
            unknown = [number for number in numbers if number not in tasks]
            free = [text for text in texts if text not in tasks.values()]
            # rows are numbered in the order in which the episode's texts first appear
            if len(unknown) == len(free):
                for number, text in zip(unknown, free, strict=True):
                    self._changes.note(f"episode {episode.index}: task {number} is '{text}'")
                    tasks[number] = text
            for text in texts:
                if text not in tasks.values():
                    tasks[max(tasks, default=-1) + 1] = text
        return tasks

    def _told_tasks(self, episode: _Episode) -> list[str]:
        """Return the texts that are known of an episode besides its rows."""
        quality = read_object(self._root / schema.quality_path(episode.index)) or {}
        for source in (episode.entry or {}, quality):
            texts = source.get("tasks")
            if isinstance(texts, list) and texts and all(isinstance(text, str) and text.strip() for text in texts):
                return list(texts)
        return []

    def _repair_videos(self, episode: _Episode) -> None:
        """Cut videos that are longer than the episode, and put frames at their times."""
        for camera, facts in episode.videos.items():
            grid = np.arange(len(facts.times_s)) / self._fps
            is_off = bool((np.abs(facts.times_s - grid) > TIME_TOLERANCE_S).any())
            if not is_off and len(facts.times_s) == episode.length:
                continue
            episode.is_cut |= len(facts.times_s) != episode.length
            name = self._video_file(episode.index, camera)
            why = f"cut to {episode.length} frames" if episode.is_cut else "frames put at their times"
            if self._changes.is_dry_run:
                self._changes.note(f"{name}: {why}")
                continue
            staged = self._changes.files.staged(name)
            try:
                cut_file(Span(self._root / name, 0, episode.length), staged, self._fps)
            except DatasetError as error:  # validate names it
                self._changes.note(f"{name}: not {why}: {error}")
                continue
            self._changes.replace(name, staged, why)
            episode.videos[camera] = self.scanned[self._root / name] = scan_video(self._root / name, decode=True)

    def _repair_rows(self, episode: _Episode, first_index: int, tasks: Mapping[int, str]) -> pa.Table:
        assert episode.table is not None
        length = episode.length
        table = episode.table.slice(0, length)
        episode.is_cut |= length != episode.table.num_rows
        reasons = [f"cut to {length} rows"] if length != episode.table.num_rows else []
        columns = {
            "frame_index": np.arange(length),
            "episode_index": np.full(length, episode.index),
            "index": np.arange(first_index, first_index + length),
            schema.TIMESTAMP_COLUMN: np.arange(length) / self._fps,
        }
        told = [number for number, text in tasks.items() if text in self._told_tasks(episode)]
        unknown = [number for number in task_numbers(table) if number not in tasks]
        if len(told) == 1 and (unknown or schema.TASK_COLUMN not in table.column_names):
            columns[schema.TASK_COLUMN] = np.full(length, told[0])
        for name, values in columns.items():
            fixed = with_column(table, name, values)
            if fixed is not None:
                table = fixed
                reasons.append(f"{name} corrected")
        if reasons:
            self._changes.write_table(self._data_file(episode.index), table, ", ".join(reasons))
        return table

    def _write_metadata(self, kept: list[_Episode], tables: list[pa.Table], tasks: Mapping[int, str]) -> None:
        whole = [episode for episode in kept if episode.is_whole(self._cameras)]
        by_index = {episode.index: table for episode, table in zip(whole, tables, strict=True)}
        texts: dict[str, str] = {}
        if self._embodiment is not None:
            texts[schema.MODALITY_FILE] = schema.json_text(modality_layout(self._embodiment))
        ordered = [{"task_index": number, "task": tasks[number]} for number in sorted(tasks)]
        texts[schema.TASKS_FILE] = schema.json_lines_text(ordered)
        if self._info["codebase_version"] == "v2.1":
            lines = [
                {"episode_index": episode.index, "stats": self._episode_stats(episode, by_index.get(episode.index))}
                for episode in kept
            ]
            if not agree(whole_lines(self._root / schema.EPISODES_STATS_FILE), lines):
                texts[schema.EPISODES_STATS_FILE] = schema.json_lines_text(lines)
        stored = read_object(self._root / schema.STATS_FILE)
        stats = self._stats(tables)
        if stats and not agree(stored, {**(stored or {}), **stats}):
            texts[schema.STATS_FILE] = schema.json_text({**(stored or {}), **stats})
        texts[schema.EPISODES_FILE] = schema.json_lines_text(
            [self._entry(episode, by_index.get(episode.index), tasks) for episode in kept]
        )
        self._complete_info(kept, by_index, tasks)
        texts[schema.INFO_FILE] = schema.json_text(self._info)
        for name, text in texts.items():
            if not agree_text(self._root / name, text):
                why = "corrected" if (self._root / name).exists() else "written anew"
                self._changes.write_text(name, text, why)

    def _entry(self, episode: _Episode, table: pa.Table | None, tasks: Mapping[int, str]) -> dict[str, Any]:
        entry = dict(episode.entry or {})
        if table is None:
            return entry
        texts = [tasks[number] for number in task_numbers(table) if number in tasks]
        listed = [text for text in self._told_tasks(episode) if text in tasks.values()]
        return {
            "episode_index": episode.index,
            "tasks": list(dict.fromkeys([*listed, *texts])),
            "length": episode.length,
            **{name: value for name, value in entry.items() if name not in ("episode_index", "tasks", "length")},
        }

    def _episode_stats(self, episode: _Episode, table: pa.Table | None) -> dict[str, Any]:
        stored = episode.stats or {}
        if table is None:
            return stored
        entries: dict[str, Any] = {}
        for name in table.column_names:
            values = numeric(table, name)
            if values is not None and np.isfinite(values).all():
                entries[name] = describe_rows(values)
            elif name in stored:
                entries[name] = stored[name]
        for camera in self._cameras:
            described, facts = stored.get(camera), episode.videos[camera]
            if episode.is_cut or not _is_right(described, facts):
                path = self._root / self._video_file(episode.index, camera)
                try:
                    with VideoCache() as videos:
                        described = describe_frames(Span(path, 0, episode.length), videos, quantiles=False)
                except DatasetError:  # does not decode: validate names it
                    described = described or {}
            entries[camera] = described
        return entries

    def _stats(self, tables: list[pa.Table]) -> dict[str, Any]:
        """Return what `stats.json` should say of the float columns; nothing unless all rows are known."""
        found = {}
        for name, feature in self._info["features"].items():
            if "float" not in feature["dtype"] or any(name not in table.column_names for table in tables):
                continue
            parts = [values for table in tables if (values := numeric(table, name)) is not None]
            if parts and len(parts) == len(tables) and len({part.shape[1:] for part in parts}) == 1:
                rows = stack_rows(parts)
                if np.isfinite(rows).all():
                    found[name] = compute_statistics(rows).to_mapping()
        return found

    def _complete_info(self, kept: list[_Episode], by_index: Mapping[int, pa.Table], tasks: Mapping[int, str]) -> None:
        num_frames = sum(
            by_index[episode.index].num_rows if episode.index in by_index else (episode.entry or {}).get("length", 0)
            for episode in kept
        )
        info, features = self._info, self._info["features"]
        info["total_episodes"], info["total_frames"], info["total_tasks"] = len(kept), num_frames, len(tasks)
        info["total_videos"] = len(kept) * len(self._cameras)
        info["total_chunks"] = -(-len(kept) // info["chunks_size"])
        splits = info.get("splits")
        if not isinstance(splits, dict) or any(not fits(text, len(kept)) for text in splits.values()):
            info["splits"] = {"train": f"0:{len(kept)}"}
        for name in schema.INDEX_COLUMNS:
            if name not in features and by_index and all(name in table.column_names for table in by_index.values()):
                features[name] = {"dtype": "int64", "shape": [1], "names": None}
        for camera in self._cameras:
            found = [episode.videos[camera] for episode in kept if camera in episode.videos]
            if found:
                _complete_camera(features[camera], found, info["fps"])
        if self._embodiment is not None:
            complete = schema.make_features(self._embodiment, "h264")
            for column, keys in ((STATE_COLUMN, self._embodiment.state), (ACTION_COLUMN, self._embodiment.action)):
                features.get(column, complete[column])["names"] = column_names(keys)


def _is_right(described: Any, facts: VideoFacts) -> bool:
    if not isinstance(described, dict) or any(
        np.shape(described.get(name, [])) != (3, 1, 1) for name in ("min", "max", "mean", "std")
    ):
        return False
    if not facts.is_decoded.all():
        return True  # there is nothing better
    return bool((np.abs(np.ravel(described["mean"]) - facts.mean_rgb.mean(axis=0)) <= IMAGE_TOLERANCE).all())


def _complete_camera(feature: dict[str, Any], videos: list[VideoFacts], fps: float) -> None:
    """Describe a camera so that every reader takes it, as far as its videos agree."""
    names = feature.get("names") or []
    is_known = ("info" if "channels" in names else "video_info") in feature and "height" in names and "width" in names
    if not is_known and all(list(facts.size) == list(feature["shape"][:2]) for facts in videos):
        feature["names"] = ["height", "width", "channels"]
        height, width = videos[0].size
        feature["info"] = {
            "video.height": height,
            "video.width": width,
            "video.codec": videos[0].codec,
            "video.pix_fmt": videos[0].pix_fmt,
            "video.is_depth_map": False,
            "video.fps": int(fps) if fps == int(fps) else fps,
            "video.channels": 3,
            "has_audio": False,
        }
    block = feature.get("info") or feature.get("video_info")
    if block is not None and len({facts.codec for facts in videos}) == 1:
        block["video.codec"] = videos[0].codec

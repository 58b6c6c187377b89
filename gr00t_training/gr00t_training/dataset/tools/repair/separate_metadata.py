# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Plan the metadata of v2.0 and v2.1: lists, totals and statistics are made to follow from rows and videos."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.files import metadata_files
from gr00t_training.dataset.metadata.info import Counts, refresh_counts
from gr00t_training.dataset.statistics.compute import compute_statistics, describe_rows, stack_rows
from gr00t_training.dataset.tools.repair.described import DescribedImages
from gr00t_training.dataset.tools.repair.separate_dataset import FoundEpisode, SeparateDataset
from gr00t_training.dataset.tools.repair.tables import (
    agree_text,
    complete_camera,
    numeric,
    read_object,
    task_numbers,
    whole_lines,
)
from gr00t_training.dataset.tools.validate.findings import ALL_ROWS, camera_of, length_of, statistics_of, tasks_of
from gr00t_training.dataset.tools.validate.statistics import difference
from gr00t_training.embodiment import ACTION_COLUMN, STATE_COLUMN, column_names, modality_layout


def find_tasks(dataset: SeparateDataset, kept: list[FoundEpisode]) -> dict[int, str]:
    """Return the texts of all task numbers that can be known."""
    tasks = {
        entry["task_index"]: entry["task"]
        for entry in whole_lines(dataset.plan.root / schema.TASKS_FILE, "task_index")
        if isinstance(entry.get("task"), str) and entry["task"].strip()
    }
    for episode in kept:
        texts = dataset.known_tasks(episode)
        numbers = task_numbers(episode.table)
        unknown = [number for number in numbers if number not in tasks]
        free = [text for text in texts if text not in tasks.values()]
        # rows are numbered in the order in which the episode's texts first appear
        if len(unknown) == len(free):
            for number, text in zip(unknown, free, strict=True):
                dataset.plan.notes.append(f"episode {episode.index}: task {number} is '{text}'")
                tasks[number] = text
        for text in texts:
            if text not in tasks.values():
                tasks[max(tasks, default=-1) + 1] = text
    return tasks


def plan_metadata(
    dataset: SeparateDataset,
    kept: list[FoundEpisode],
    targets: Mapping[int, int],
    tables: Mapping[int, pa.Table],
    tasks: Mapping[int, str],
) -> None:
    """Plan the metadata files that follow from the episodes that are kept.

    Args:
        dataset: dataset under repair; its `info` is completed.
        kept: episodes, in order.
        targets: number of each episode afterwards.
        tables: rows of each episode afterwards, as far as they can be read.
        tasks: text of each task number.
    """
    has_statistics = dataset.info["codebase_version"] == schema.Version.V21.value
    episode_statistics = _episode_stats(dataset, kept, targets, tables) if has_statistics else {}
    stored = read_object(dataset.plan.root / schema.STATS_FILE) or {}
    stats = _stats(dataset, list(tables.values()), stored) if len(tables) == len(kept) else {}
    statistics = {**stored, **stats} if stored != {**stored, **stats} else None
    entries = [_entry(dataset, episode, targets[episode.index], tables.get(episode.index), tasks) for episode in kept]
    _complete_info(dataset, kept, tables, tasks)
    files = metadata_files(dataset.info, tasks, entries, statistics, episode_statistics)
    if dataset.plan.embodiment is not None:
        files[schema.MODALITY_FILE] = schema.json_text(modality_layout(dataset.plan.embodiment))
    for name, text in files.items():
        if isinstance(text, str) and not agree_text(dataset.plan.root / name, text):
            dataset.plan.write_text(name, text)


def _entry(
    dataset: SeparateDataset, episode: FoundEpisode, number: int, table: pa.Table | None, tasks: Mapping[int, str]
) -> dict[str, Any]:
    entry = dict(episode.entry or {})
    if table is None:
        return entry
    if entry.get("length") != episode.length:
        dataset.plan.fixed |= {length_of(episode.index), ALL_ROWS}
    texts = [tasks[task] for task in task_numbers(table) if task in tasks]
    listed = [text for text in dataset.known_tasks(episode) if text in tasks.values()]
    known = list(dict.fromkeys([*listed, *texts]))
    if known != entry.get("tasks"):
        dataset.plan.fixed.add(tasks_of(episode.index))
    return {
        "episode_index": number,
        "tasks": known,
        "length": episode.length,
        **{name: value for name, value in entry.items() if name not in ("episode_index", "tasks", "length")},
    }


def _episode_stats(
    dataset: SeparateDataset, kept: list[FoundEpisode], targets: Mapping[int, int], tables: Mapping[int, pa.Table]
) -> dict[int, dict[str, Any]]:
    """Return the statistics of each episode by its new number."""
    images = DescribedImages(dataset.plan, dataset.plan.root)
    for episode in kept:
        for camera, facts in episode.videos.items():
            name = dataset.video_file(episode.index, camera)
            images.add(episode.index, camera, name, facts, (episode.stats or {}).get(camera), episode.length)
    images.find_exchanged()
    found = {}
    for episode in kept:
        entries = _row_stats(episode, tables.get(episode.index))
        stored = episode.stats if isinstance(episode.stats, dict) else {}
        for camera in dataset.cameras if episode.index in tables else ():
            if camera in episode.videos:
                entries[camera] = images.describe(episode.index, camera)
            elif camera in stored:
                entries[camera] = stored[camera]
        changed = [name for name, entry in entries.items() if entry != stored.get(name)]
        dataset.plan.fixed |= {statistics_of(episode.index, name) for name in changed}
        if entries:
            dataset.plan.fixed |= {statistics_of(episode.index)}
            found[targets[episode.index]] = entries
    return found


def _row_stats(episode: FoundEpisode, table: pa.Table | None) -> dict[str, Any]:
    stored = episode.stats if isinstance(episode.stats, dict) else {}
    if table is None:
        return dict(stored)
    entries: dict[str, Any] = {}
    for name in table.column_names:
        values = numeric(table, name)
        if values is None or not np.isfinite(values).all():
            entries |= {name: stored[name]} if name in stored else {}
            continue
        computed, old = describe_rows(values), stored.get(name)
        is_right = isinstance(old, dict) and difference(old, computed) is None
        entries[name] = old if is_right else computed
    return entries


def _stats(dataset: SeparateDataset, tables: list[pa.Table], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `stats.json` should say of the float columns."""
    found = {}
    for name, feature in dataset.info["features"].items():
        if "float" not in feature["dtype"] or any(name not in table.column_names for table in tables):
            continue
        parts = [values for table in tables if (values := numeric(table, name)) is not None]
        if parts and len(parts) == len(tables) and len({part.shape[1:] for part in parts}) == 1:
            rows = stack_rows(parts)
            if not np.isfinite(rows).all():
                continue
            computed, old = compute_statistics(rows).to_mapping(), stored.get(name)
            found[name] = old if isinstance(old, dict) and difference(old, computed) is None else computed
    return found


def _complete_info(
    dataset: SeparateDataset, kept: list[FoundEpisode], tables: Mapping[int, pa.Table], tasks: Mapping[int, str]
) -> None:
    info, features = dataset.info, dataset.info["features"]
    num_frames = sum(episode.length for episode in kept)
    refresh_counts(info, Counts(len(kept), num_frames, len(tasks), len(dataset.cameras), info["chunks_size"]))
    for name in schema.INDEX_COLUMNS:
        if name not in features and tables and all(name in table.column_names for table in tables.values()):
            features[name] = {"dtype": "int64", "shape": [1], "names": None}
    for camera in dataset.cameras:
        found = [episode.videos[camera] for episode in kept if camera in episode.videos]
        before = json.dumps(features[camera])
        if found:
            complete_camera(features[camera], found, info["fps"])
        if json.dumps(features[camera]) != before:
            dataset.plan.fixed.add(camera_of(camera))
    if dataset.plan.embodiment is not None:
        complete = schema.make_features(dataset.plan.embodiment, "h264")
        for column, keys in (
            (STATE_COLUMN, dataset.plan.embodiment.state),
            (ACTION_COLUMN, dataset.plan.embodiment.action),
        ):
            features.get(column, complete[column])["names"] = column_names(keys)

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Compute a dataset's statistics anew, in place: of rows, of images, of relative actions.

Only files of `meta` change, each by one rename; a reader finds the old numbers or the new ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.edit.exchange import locked_for_writing
from gr00t_training.dataset.edit.output import episodes_table
from gr00t_training.dataset.edit.source import SourceDataset, SourceEpisode
from gr00t_training.dataset.edit.statistics import DatasetStatistics, describe_columns, describe_frames
from gr00t_training.dataset.episodes_table import read_places
from gr00t_training.dataset.places import table_files
from gr00t_training.dataset.reader import LeRobotDataset
from gr00t_training.dataset.relative_stats import relative_action_statistics
from gr00t_training.dataset.video import VideoCache
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import DatasetError


def recompute_statistics(
    path: str | Path,
    embodiment: Embodiment | None = None,
    *,
    images: bool = True,
    progress: Callable[[int], None] = lambda num_done: None,
) -> list[str]:
    """Write `stats.json`, the statistics by episode and `relative_stats.json`; return the names of the files.

    Args:
        path: the dataset.
        embodiment: whose relative actions are meant; None: the dataset's own, if it tells.
        images: whether to decode images; else what is known of them stays.
        progress: called with the number of episodes that are done.

    Raises:
        DatasetError: damaged, being written, or too short for relative actions.
    """
    source = SourceDataset(path)
    with locked_for_writing(source.path), VideoCache(max(len(source.cameras), 1)) as videos:
        statistics = DatasetStatistics()
        described: dict[int, dict[str, Any]] = {}
        for number, episode in enumerate(source.episodes):
            table = source.read_rows(episode)
            described[episode.index] = _describe(source, episode, table, videos, images=images)
            statistics.add_rows(table)
            statistics.add_images(described[episode.index], source.cameras)
            progress(number + 1)
        totals = statistics.to_mapping(is_v3=source.is_v3)
        if source.version == schema.Version.V20.value and not images:
            stored = schema.read_json(source.path / schema.STATS_FILE) if _has_totals(source) else {}
            totals |= {name: stored[name] for name in source.cameras if name in stored}
        names = _write_v3(source, described) if source.is_v3 else _write_v2(source, described)
        _replace(source.path / schema.STATS_FILE, schema.json_text(totals))
        return [*names, schema.STATS_FILE, *_write_relative(source, embodiment)]


def _describe(
    source: SourceDataset, episode: SourceEpisode, table: pa.Table, videos: VideoCache, *, images: bool
) -> dict[str, Any]:
    entries: dict[str, Any] = describe_columns(table, quantiles=source.is_v3)
    for name in source.features:
        if name in source.cameras and (images or name not in episode.statistics):
            if images or source.version != schema.Version.V20.value:
                entries[name] = describe_frames(episode.videos[name], videos, quantiles=source.is_v3)
        elif name not in entries and name in episode.statistics:
            entries[name] = episode.statistics[name]
    return {name: entries[name] for name in source.features if name in entries}


def _has_totals(source: SourceDataset) -> bool:
    return (source.path / schema.STATS_FILE).exists()


def _write_v2(source: SourceDataset, described: dict[int, dict[str, Any]]) -> list[str]:
    if source.version == schema.Version.V20.value:
        return []
    lines = [{"episode_index": index, "stats": stats} for index, stats in described.items()]
    _replace(source.path / schema.EPISODES_STATS_FILE, schema.json_lines_text(lines))
    return [schema.EPISODES_STATS_FILE]


def _write_v3(source: SourceDataset, described: dict[int, dict[str, Any]]) -> list[str]:
    names = []
    chunks_size = source.info["chunks_size"]
    for path, number in table_files(source.path, chunks_size):
        places = read_places(path, number, source.cameras, source.fps, chunks_size)
        entries = [source.episode(place.index).entry for place in places]
        table = episodes_table(places, entries, [described[place.index] for place in places], source.fps)
        staged = path.with_name(path.name + schema.STAGED_SUFFIX)
        pq.write_table(table, staged, compression="snappy")
        os.replace(staged, path)
        names.append(path.relative_to(source.path).as_posix())
    return names


def _write_relative(source: SourceDataset, embodiment: Embodiment | None) -> list[str]:
    path = source.path / schema.RELATIVE_STATS_FILE
    dataset = LeRobotDataset(source.path)
    embodiment = embodiment or dataset.embodiment
    if embodiment is None:
        if path.exists():
            raise DatasetError(
                f"{path}: may be out of date, and no {schema.EMBODIMENT_FILE} says what is relative to what; "
                "name the embodiment, or delete the file"
            )
        return []
    path.unlink(missing_ok=True)  # what stands there would be believed
    found = relative_action_statistics(dataset, embodiment)
    return [schema.RELATIVE_STATS_FILE] if found else []


def _replace(path: Path, text: str) -> None:
    staged = path.with_name(path.name + schema.STAGED_SUFFIX)
    staged.write_text(text, encoding="utf-8")
    os.replace(staged, path)

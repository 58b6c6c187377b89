# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Recompute a dataset's statistics in place: of rows, of images, of relative actions.

Only files of `meta` change, each by one rename; a reader sees either the old numbers or the new ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.media.video import VideoCache
from gr00t_training.dataset.metadata.episodes_table import make_tables, read_places, table_files
from gr00t_training.dataset.metadata.lists import episode_statistics_text, read_statistics
from gr00t_training.dataset.metadata.model import Episode
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.statistics.relative import relative_action_statistics
from gr00t_training.dataset.tools.edit.exchange import locked_for_writing
from gr00t_training.dataset.tools.edit.source import SourceDataset
from gr00t_training.dataset.tools.edit.statistics import DatasetStatistics, describe_columns, describe_frames
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import replacing


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
        embodiment: that defines the relative actions; None: the dataset's own, if it has one.
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
            if not episode.length:
                described[episode.index] = {}  # nothing to describe; validate names it
                continue
            table = source.read_rows(episode)
            described[episode.index] = _describe(source, episode, table, videos, images=images)
            statistics.add_rows(table, f"{source.path}: episode {episode.index}")
            statistics.add_images(described[episode.index], source.cameras)
            progress(number + 1)
        totals = statistics.to_mapping(is_v3=source.is_v3)
        if source.version == schema.Version.V20.value and not images:
            stored = read_statistics(source.path) or {}
            totals |= {name: stored[name] for name in source.cameras if name in stored}
        names = _write_v3(source, described) if source.is_v3 else _write_v2(source, described)
        _replace(source.path / schema.STATS_FILE, schema.json_text(totals))
        return [*names, schema.STATS_FILE, *_write_relative(source, embodiment)]


def _describe(
    source: SourceDataset, episode: Episode, table: pa.Table, videos: VideoCache, *, images: bool
) -> dict[str, Any]:
    subject = f"{source.path}: episode {episode.index}"
    entries: dict[str, Any] = describe_columns(table, subject, quantiles=source.is_v3)
    stored = source.statistics_of(episode)
    for name in source.features:
        if name in source.cameras and (images or name not in stored):
            if images or source.version != schema.Version.V20.value:
                entries[name] = describe_frames(episode.videos[name], videos, quantiles=source.is_v3)
        elif name not in entries and name in stored:
            entries[name] = stored[name]
    return {name: entries[name] for name in source.features if name in entries}


def _write_v2(source: SourceDataset, described: dict[int, dict[str, Any]]) -> list[str]:
    if source.version == schema.Version.V20.value:
        return []
    _replace(source.path / schema.EPISODES_STATS_FILE, episode_statistics_text(described))
    return [schema.EPISODES_STATS_FILE]


def _write_v3(source: SourceDataset, described: dict[int, dict[str, Any]]) -> list[str]:
    names = []
    for path, number in table_files(source.path, source.info["chunks_size"]):
        places = read_places(path, number, source.cameras, source.info)
        entries = [source.episode(place.index).entry for place in places]
        table = make_tables(places, entries, described, source.fps)
        with replacing(path) as file:
            pq.write_table(table, file, compression="snappy")
        names.append(path.relative_to(source.path).as_posix())
    return names


def _write_relative(source: SourceDataset, embodiment: Embodiment | None) -> list[str]:
    path = schema.meta_file(source.path, schema.RELATIVE_STATS_FILE)
    dataset = EpisodeDataset(source.path)
    embodiment = embodiment or dataset.embodiment
    if embodiment is None:
        if path.exists():
            raise DatasetError(
                f"{path}: may be out of date, and no {schema.EMBODIMENT_FILE} says what is relative to what; "
                "name the embodiment, or delete the file"
            )
        return []
    path.unlink(missing_ok=True)  # an old file would be used without a check
    found = relative_action_statistics(dataset, embodiment)
    return [schema.RELATIVE_STATS_FILE] if found else []


def _replace(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())

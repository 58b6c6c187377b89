# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Recompute a dataset's statistics in place: of rows, of images, of relative actions.

Only files of `meta` change, each by one rename; a reader sees either the old numbers or the new ones. Of a dataset in
object storage, they are written to the local cache first, and then replace their objects.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gr00t_training.dataset import schema
from gr00t_training.dataset.media.video import VideoCache
from gr00t_training.dataset.metadata.episode_list import Episode
from gr00t_training.dataset.metadata.episodes_table import full_row, read_places, table_files
from gr00t_training.dataset.metadata.lists import episode_statistics_text, read_statistics
from gr00t_training.dataset.metadata.table_writer import EpisodesTableWriter
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.statistics.relative import relative_action_statistics
from gr00t_training.dataset.tools.edit.exchange import locked_for_writing
from gr00t_training.dataset.tools.edit.layouts import made
from gr00t_training.dataset.tools.edit.source import AHEAD, SourceDataset
from gr00t_training.dataset.tools.edit.statistics import (
    DatasetStatistics,
    column_numbers,
    describe_columns,
    describe_frames,
)
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import replacing
from gr00t_training.io.mirror import address_of, exists, fetched_ahead, mirror_of


def recompute_statistics(
    path: str | Path,
    embodiment: Embodiment | None = None,
    *,
    images: bool = True,
    progress: Callable[[int], None] = lambda num_done: None,
) -> list[str]:
    """Write `stats.json`, the statistics by episode and `relative_stats.json`; return the names of the files.

    Args:
        path: the dataset: folder, or `s3://bucket/prefix`.
        embodiment: that defines the relative actions; None: the dataset's own, if it has one.
        images: whether to decode images; else what is known of them stays.
        progress: called with the number of episodes that are done.

    Raises:
        DatasetError: damaged, being written, changed meanwhile, or too short for relative actions.
    """
    source = SourceDataset(path)
    mirror = mirror_of(source.path)
    if mirror is None:
        return _recompute(source, source.path, embodiment, images, progress)
    with mirror.changes() as folder:
        names = _recompute(source, folder, embodiment, images, progress)
    if schema.RELATIVE_STATS_FILE in mirror.objects and schema.RELATIVE_STATS_FILE not in names:
        mirror.remove(schema.RELATIVE_STATS_FILE)  # an old file would be used without a check
    return names


def _recompute(
    source: SourceDataset, folder: Path, embodiment: Embodiment | None, images: bool, progress: Callable[[int], None]
) -> list[str]:
    """Write the files into `folder`, the source's own or an empty one."""
    with contextlib.ExitStack() as stack:  # all files are replaced at its end
        stack.enter_context(locked_for_writing(source.path))
        again = _Again(source, folder, stack, images=images)
        num_done = 0
        for index in again.listed():
            if source.length_of(index):
                num_done += 1
                progress(num_done)
        totals = again.statistics.to_mapping(is_v3=source.is_v3)
        if source.version == schema.Version.V20.value and not images:
            stored = read_statistics(source.path) or {}
            totals |= {name: stored[name] for name in source.cameras if name in stored}
        again.open(schema.STATS_FILE).write(schema.json_text(totals).encode())
    return [*again.names, *_write_relative(source, folder, embodiment)]


class _Again:
    """Statistics by episode being written again, one episode in memory at a time."""

    def __init__(self, source: SourceDataset, folder: Path, stack: contextlib.ExitStack, *, images: bool) -> None:
        self.names: list[str] = []  # of the files that are written
        self.statistics = DatasetStatistics(folder)
        self._source, self._folder, self._stack, self._images = source, folder, stack, images
        self._videos = stack.enter_context(VideoCache(max(len(source.cameras), 1)))
        stack.callback(self.statistics.close)

    def open(self, name: str) -> BinaryIO:
        """Return a new file that gets its name at the end."""
        return self._stack.enter_context(replacing(self._target(name)))

    def _target(self, name: str) -> Path:
        self.names.append(name)
        return made(self._folder / name)

    def listed(self) -> Iterator[int]:
        """Describe the episodes in the order of their lists; yields the index of each that is done."""
        return self._in_table() if self._source.is_v3 else self._in_lines()

    def _in_lines(self) -> Iterator[int]:
        has_file = self._source.version == schema.Version.V21.value
        file = self.open(schema.EPISODES_STATS_FILE) if has_file else None
        for episode in fetched_ahead(self._source.episodes, lambda episode: self._files(episode.index), AHEAD):
            described = self._describe(episode)
            if file is not None:
                file.write(episode_statistics_text({episode.index: described}).encode())
            yield episode.index

    def _in_table(self) -> Iterator[int]:
        source, done = self._source, set[int]()
        for path, number in table_files(source.path, source.info["chunks_size"]):
            target = self._target(path.relative_to(source.path).as_posix())
            writer = self._stack.enter_context(_replacing_table(target))
            places = read_places(path, number, source.cameras, source.info)
            for place in fetched_ahead(places, lambda place: self._files(place.index), AHEAD):
                episode = source.episode(place.index)
                described = self._describe(episode, is_new=place.index not in done)
                writer.add(full_row(place, episode.entry, described, source.fps))
                done.add(place.index)
                yield place.index

    def _files(self, index: int) -> list[Path]:
        return self._source.files_to_fetch(index, videos=self._images)

    def _describe(self, episode: Episode, *, is_new: bool = True) -> dict[str, Any]:
        """Return the statistics of an episode, and add them to those of the dataset if it `is_new`."""
        source = self._source
        if not episode.length:
            return {}  # nothing to describe; validate names it
        subject = f"{source.path}: episode {episode.index}"
        columns = column_numbers(source.read_rows(episode), subject)
        described = _describe(source, episode, columns, self._videos, images=self._images)
        if is_new:
            self.statistics.add_rows(columns, subject)
            self.statistics.add_images(described, source.cameras)
        return described


@contextlib.contextmanager
def _replacing_table(path: Path) -> Iterator[EpisodesTableWriter]:
    """Yield a new file of the table that takes the name `path` when the block ends well."""
    staged = path.with_name(path.name + schema.STAGED_SUFFIX)
    writer = EpisodesTableWriter(staged)
    try:
        yield writer
        writer.close()
        os.replace(staged, path)
    except BaseException:
        writer.discard()
        staged.unlink(missing_ok=True)
        raise


def _describe(
    source: SourceDataset, episode: Episode, columns: Mapping[str, np.ndarray], videos: VideoCache, *, images: bool
) -> dict[str, Any]:
    entries: dict[str, Any] = describe_columns(columns, quantiles=source.is_v3)
    stored = source.statistics_of(episode)
    for name in source.features:
        if name in source.cameras and (images or name not in stored):
            if images or source.version != schema.Version.V20.value:
                entries[name] = describe_frames(episode.videos[name], videos, quantiles=source.is_v3)
        elif name not in entries and name in stored:
            entries[name] = stored[name]
    return {name: entries[name] for name in source.features if name in entries}


def _write_relative(source: SourceDataset, folder: Path, embodiment: Embodiment | None) -> list[str]:
    path = schema.meta_file(source.path, schema.RELATIVE_STATS_FILE)
    dataset = EpisodeDataset(source.path)
    embodiment = embodiment or dataset.embodiment
    if embodiment is None:
        if exists(path):
            raise DatasetError(
                f"{address_of(path)}: may be out of date, and no {schema.EMBODIMENT_FILE} says what is relative to "
                "what; name the embodiment, or delete the file"
            )
        return []
    if folder == source.path:
        path.unlink(missing_ok=True)  # an old file would be used without a check
    found = relative_action_statistics(dataset, embodiment, folder)
    return [schema.RELATIVE_STATS_FILE] if found else []

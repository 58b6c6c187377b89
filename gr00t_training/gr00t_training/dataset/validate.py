# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Holding a dataset against the rules of its readers, every row and every frame; v2.0, v2.1 and v3.0.

A fault stops some supported reader or makes it learn from wrong data; a warning is an oddity that GR00T lives with.
The checks do not stop at the first finding. Files are checked side by side in several processes when asked to; the
order of the findings does not depend on it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gr00t_training.dataset import schema
from gr00t_training.dataset.stats import stack_rows
from gr00t_training.dataset.validation.contents import Contents, EpisodeEntry, read_contents
from gr00t_training.dataset.validation.findings import Finding, guarded
from gr00t_training.dataset.validation.metadata import check_metadata
from gr00t_training.dataset.validation.rows import check_data_file
from gr00t_training.dataset.validation.statistics import (
    check_episode_statistics,
    check_image_statistics,
    check_statistics,
)
from gr00t_training.dataset.validation.videos import (
    VideoFacts,
    check_depth_file,
    check_episode_video,
    check_file,
    scan_video,
)

__all__ = ["Finding", "validate_dataset", "validate_scanned", "workers"]

Map = Callable[..., Iterator[Any]]
Columns = dict[int, dict[str, np.ndarray]]  # episode -> name -> values


def validate_dataset(path: str | Path, *, quick: bool = False, jobs: int = 1) -> Iterator[Finding]:
    """Check a whole dataset; yields findings as they are made.

    Args:
        path: folder of the dataset.
        quick: list the videos' frames without decoding them; frozen, black and damaged pictures are then not found.
        jobs: processes that check files.
    """
    yield from validate_scanned(path, {}, quick=quick, jobs=jobs)


def validate_scanned(
    path: str | Path, scanned: Mapping[Path, VideoFacts], *, quick: bool = False, jobs: int = 1
) -> Iterator[Finding]:
    """Check a dataset as `validate_dataset` does; `scanned` is what is known of videos, which are not read again."""
    findings: list[Finding] = []
    contents = read_contents(Path(path), findings)
    yield from findings
    if contents is None:
        return
    yield from check_metadata(contents)
    with workers(jobs) as run:
        columns: Columns = {}
        yield from _check_rows(contents, run, columns)
        yield from guarded(schema.STATS_FILE, check_statistics(contents, columns))
        yield from _check_videos(contents, run, columns, scanned, decode=not quick)
        yield from _check_depth(contents)


@contextmanager
def workers(jobs: int) -> Iterator[Map]:
    """Give a `map` that runs in this process or in several."""
    if jobs <= 1:
        yield map
        return
    # spawned: a fork of a process with threads (arrow has some) may hang
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool.map


def _check_rows(contents: Contents, run: Map, columns: Columns) -> Iterator[Finding]:
    """Check all rows and gather their numbers in `columns`."""
    by_file = _by_file((episode.data_file, episode) for episode in contents.episodes)
    # what a worker does not need would be copied to it with each file
    light = replace(contents, episodes=[], episode_stats={}, stats=None)
    for checked in run(partial(check_data_file, light), by_file.keys(), by_file.values()):
        yield from checked.findings
        columns.update(checked.columns)
    for episode in contents.episodes:
        rows = columns.get(episode.index, {})
        yield from guarded(episode.name, check_episode_statistics(contents, episode, rows))


def _check_videos(
    contents: Contents, run: Map, columns: Columns, scanned: Mapping[Path, VideoFacts], *, decode: bool
) -> Iterator[Finding]:
    motion = _motion(columns)
    for feature in contents.cameras:
        spans = ((episode.videos[feature].file, episode) for episode in contents.episodes)
        by_file = {name: part for name, part in _by_file(spans).items() if (contents.path / name).is_file()}
        paths = [contents.path / name for name in by_file]  # those that are missing were found with the files
        facts: VideoFacts
        for (name, episodes), facts in zip(
            by_file.items(), run(partial(scan_video, decode=decode), paths), strict=True
        ):
            yield from check_file(contents, name, feature, facts)
            if facts.failure:
                continue
            for episode in episodes:
                moved = motion.get(episode.index)
                yield from guarded(name, check_episode_video(contents, episode, feature, facts, moved))
                yield from guarded(name, check_image_statistics(contents, episode, feature, facts))


def _check_depth(contents: Contents) -> Iterator[Finding]:
    for key in contents.embodiment.depth if contents.embodiment else ():
        for episode in contents.episodes:
            name = schema.depth_path(episode.index, key)
            yield from guarded(name, check_depth_file(contents.path / name, name, episode))


def _by_file(pairs: Iterable[tuple[str, EpisodeEntry]]) -> dict[str, list[EpisodeEntry]]:
    found: dict[str, list[EpisodeEntry]] = {}
    for name, episode in pairs:
        found.setdefault(name, []).append(episode)
    return found


def _motion(columns: Columns) -> dict[int, np.ndarray]:
    """Return the state of each episode in units of each channel's range over the dataset, `(N, D)`."""
    states = {index: rows[schema.STATE_COLUMN] for index, rows in columns.items() if schema.STATE_COLUMN in rows}
    if not states or len({state.shape[1:] for state in states.values()}) > 1:
        return {}
    rows = stack_rows(states.values())
    rows = np.where(np.isfinite(rows), rows, np.nan)  # what is not finite was found with the rows
    extent = np.nanmax(rows, axis=0, initial=-np.inf) - np.nanmin(rows, axis=0, initial=np.inf)
    extent = np.where(extent > 0, extent, np.inf)
    parts = np.split(np.nan_to_num(rows / extent), np.cumsum([len(state) for state in states.values()])[:-1])
    return dict(zip(states, parts, strict=True))

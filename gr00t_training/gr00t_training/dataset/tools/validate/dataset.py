# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Check a dataset against the rules of its readers, every row and every frame; v2.0, v2.1 and v3.0.

A fault stops some supported reader or makes it learn from wrong data; a warning is an oddity that GR00T tolerates.
The checks do not stop at the first finding. Files can be checked in parallel by several processes; the order of
the findings does not depend on it.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.episode_list import Episode
from gr00t_training.dataset.metadata.model import DatasetMetadata, Problem, inspect_metadata
from gr00t_training.dataset.tools.repair.commit import is_interrupted
from gr00t_training.dataset.tools.repair.plan import Plan
from gr00t_training.dataset.tools.repair.planner import plan_repair
from gr00t_training.dataset.tools.validate.columns import CheckedColumns
from gr00t_training.dataset.tools.validate.findings import NO_REPAIR, REPAIR, Finding, fault, guarded, unreadable
from gr00t_training.dataset.tools.validate.metadata import check_metadata
from gr00t_training.dataset.tools.validate.reading import check_reading
from gr00t_training.dataset.tools.validate.rows import check_data_file
from gr00t_training.dataset.tools.validate.statistics import (
    check_episode_statistics,
    check_image_statistics,
    check_statistics,
)
from gr00t_training.dataset.tools.validate.videos import (
    VideoFacts,
    check_depth_file,
    check_episode_video,
    check_file,
    check_unused,
    scan_video,
)
from gr00t_training.errors import DatasetError
from gr00t_training.io.mirror import exists, mirror_of, open_folder
from gr00t_training.io.processes import starting_workers

logger = logging.getLogger(__name__)

__all__ = ["Finding", "SampleCheck", "validate_dataset", "validate_sample", "validate_scanned", "workers"]

MAX_JOBS = 256

Map = Callable[..., Iterator[Any]]
_AHEAD = 4  # files of each process that are checked before a result is taken


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
    """Check a dataset as `validate_dataset` does; `scanned` holds known facts of videos, which are not read again."""
    root = open_folder(path)
    if is_interrupted(root):
        yield fault(schema.REPAIR_STEPS, "a repair was interrupted, files of before and after it are mixed", "", REPAIR)
        return
    known = dict(scanned)
    with workers(jobs) as run:
        yield from _with_remedies(root, _check(root, run, known, decode=not quick), known, run)


@dataclass(frozen=True)
class SampleCheck:
    """What was found in a part of a dataset."""

    findings: tuple[Finding, ...]
    episodes: tuple[int, ...]  # that were checked
    num_episodes: int  # of the dataset
    is_decoded: bool  # whether the videos' frames were decoded, not only listed


def validate_sample(path: str | Path, *, max_frames: int, jobs: int = 1) -> SampleCheck:
    """Check the metadata, and rows and videos of episodes that are spread over the dataset.

    Args:
        path: folder of the dataset.
        max_frames: of all cameras that are checked about; at least one data file is.
        jobs: processes that check files.
    """
    root = open_folder(path)
    metadata, problems = inspect_metadata(root)
    if metadata is None:
        found = tuple(unreadable(problem.place, problem.error) for problem in problems)
        return SampleCheck(found, (), 0, False)
    part = _spread(metadata, max_frames)
    is_whole = len(part) == len(metadata.episodes)
    paths = {span.path for episode in part for span in episode.videos.values()}
    frames = sum(e.length for e in metadata.episodes for span in e.videos.values() if span.path in paths)
    is_decoded = frames <= 2 * max_frames  # one shared video may be larger than all that is to be checked
    chosen = None if is_whole else part
    with workers(jobs) as run:
        findings = tuple(_check_content(metadata, problems, run, {}, decode=is_decoded, chosen=chosen))
    return SampleCheck(findings, tuple(e.index for e in part), len(metadata.episodes), is_decoded)


def _spread(metadata: DatasetMetadata, max_frames: int) -> tuple[Episode, ...]:
    """Return the episodes of data files that are spread over the dataset, with about `max_frames` frames."""
    files = list(_by_file(str(episode.rows.path) for episode in metadata.episodes).values())
    chosen: set[int] = set()
    num_frames = 0
    for place in sorted(range(len(files)), key=_reversed_bits):
        episodes = _at(metadata, files[place])
        num_frames += sum(episode.length * max(len(episode.videos), 1) for episode in episodes)
        if chosen and num_frames > max_frames:
            break
        chosen.update(episode.index for episode in episodes)
    return tuple(episode for episode in metadata.episodes if episode.index in chosen)


def _reversed_bits(number: int) -> int:
    """Return a key by which each first part of the sorted numbers is spread over all of them."""
    return int(f"{number:032b}"[::-1], 2)


def _check(root: Path, run: Map, scanned: dict[Path, VideoFacts], *, decode: bool) -> Iterator[Finding]:
    """Yield the findings; facts about videos are added to `scanned`."""
    metadata, problems = inspect_metadata(root)
    if metadata is None:
        yield from (unreadable(problem.place, problem.error) for problem in problems)
        return
    yield from _check_content(metadata, problems, run, scanned, decode=decode)


def _check_content(
    metadata: DatasetMetadata,
    problems: Sequence[Problem],
    run: Map,
    scanned: dict[Path, VideoFacts],
    *,
    decode: bool,
    chosen: tuple[Episode, ...] | None = None,
) -> Iterator[Finding]:
    """Yield the findings about the metadata and about the `chosen` episodes; None: all."""
    yield from check_reading(metadata, problems)
    yield from check_metadata(metadata)
    part = metadata if chosen is None else replace(metadata, episodes=chosen)
    others = {schema.STATE_COLUMN, *(column for _, column, _, _ in metadata.slices())}
    with contextlib.closing(CheckedColumns(others)) as columns:
        yield from _check_rows(part, run, columns)
        if chosen is None:
            yield from guarded(schema.STATS_FILE, check_statistics(metadata, columns))
        yield from _check_videos(part, run, columns, scanned, decode=decode, is_part=chosen is not None)
    yield from _check_depth(part)


def _with_remedies(
    root: Path, findings: Iterator[Finding], scanned: Mapping[Path, VideoFacts], run: Map
) -> Iterator[Finding]:
    """Add to each finding whether the planned repair can fix it; findings keep their order."""
    if mirror_of(root) is not None:  # a repair needs a local copy
        yield from findings
        return
    waiting: list[Finding] = []
    for finding in findings:
        if waiting or finding.remedy == REPAIR or finding.is_fault:
            waiting.append(finding)
        else:
            yield finding
    if not waiting:
        return
    try:
        plan = plan_repair(root, scanned, run)
    except (DatasetError, OSError) as error:  # without a plan, nothing counts as fixable
        logger.debug("%s: no repair can be planned: %s", root, error)
        plan = Plan(root)
    for finding in waiting:
        is_fixed = not plan.fixed.isdisjoint(finding.targets or (finding.subject,))
        if finding.remedy == REPAIR and not is_fixed:
            yield replace(finding, remedy=finding.otherwise or NO_REPAIR)
        elif is_fixed and not finding.remedy:
            yield replace(finding, remedy=REPAIR)
        else:
            yield finding
    yield from plan.refusals


@contextmanager
def workers(jobs: int) -> Iterator[Map]:
    """Give a `map` that runs in this process or in several."""
    if jobs <= 1:
        yield map
        return
    # spawned: a fork of a process with threads (arrow has some) may hang
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, MAX_JOBS), mp_context=context, initializer=_start_worker)

    def run(function: Callable[..., Any], *arguments: Iterable[Any]) -> Iterator[Any]:
        # not all at once: what is to be done, and what is done, would be in memory for every file
        waiting: deque[Future[Any]] = deque()
        for each in zip(*arguments, strict=True):
            with starting_workers():
                waiting.append(pool.submit(function, *each))
            if len(waiting) > _AHEAD * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield run
        pool.shutdown()
    except BaseException as error:
        # a running job would continue to the end of its file
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise DatasetError("a process that checks files ended; run it again with --jobs 1") from error
        raise


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers


def _check_rows(metadata: DatasetMetadata, run: Map, columns: CheckedColumns) -> Iterator[Finding]:
    """Check all rows and gather their numbers in `columns`."""
    places = _by_file(metadata.name_of(episode.rows.path) for episode in metadata.episodes)
    # what a worker does not need would be copied to it with each file
    light = replace(metadata, episodes=(), episode_statistics={}, statistics=None)
    parts = (_at(metadata, positions) for positions in places.values())
    later: list[tuple[int, list[Finding]]] = []  # by episode, about its statistics
    for checked, positions in zip(
        run(partial(check_data_file, light), places.keys(), parts), places.values(), strict=True
    ):
        yield from checked.findings
        for position in positions:
            episode = metadata.episodes[position]
            rows = checked.columns.get(episode.index)
            if rows is not None:
                columns.add(episode.index, rows)
            found = list(guarded(episode.name, check_episode_statistics(metadata, episode, rows or {})))
            if found:
                later.append((position, found))
    for _, found in sorted(later, key=lambda item: item[0]):
        yield from found


def _check_videos(
    metadata: DatasetMetadata,
    run: Map,
    columns: CheckedColumns,
    scanned: dict[Path, VideoFacts],
    *,
    decode: bool,
    is_part: bool = False,
) -> Iterator[Finding]:
    for feature in metadata.cameras:
        names = (metadata.name_of(episode.videos[feature].path) for episode in metadata.episodes)
        by_file = {name: positions for name, positions in _by_file(names).items() if _is_there(metadata, name)}
        # those that are missing were found with the files
        paths = [metadata.path / name for name in by_file if metadata.path / name not in scanned]
        found = iter(run(partial(scan_video, decode=decode), paths))
        for name, positions in by_file.items():
            path, episodes = metadata.path / name, _at(metadata, positions)
            facts = scanned[path] if path in scanned else scanned.setdefault(path, next(found))
            yield from check_file(metadata, name, feature, facts)
            if facts.failure:
                continue
            for episode in episodes:
                moved = _motion(columns, episode.index)
                yield from guarded(name, check_episode_video(metadata, episode, feature, facts, moved))
                yield from guarded(name, check_image_statistics(metadata, episode, feature, facts))
            if metadata.is_v3 and not is_part:
                yield from check_unused(name, episodes, facts)


def _check_depth(metadata: DatasetMetadata) -> Iterator[Finding]:
    for key in metadata.embodiment.depth if metadata.embodiment else ():
        for episode in metadata.episodes:
            name = schema.depth_path(episode.index, key)
            yield from guarded(name, check_depth_file(metadata, name, episode))


def _is_there(metadata: DatasetMetadata, name: str) -> bool:
    try:
        return exists(metadata.file(name))
    except DatasetError:
        return False


def _by_file(names: Iterable[str]) -> dict[str, list[int]]:
    """Return the positions of the episodes of each file; episodes themselves would take most of the memory."""
    found: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        found.setdefault(name, []).append(position)
    return found


def _at(metadata: DatasetMetadata, positions: Sequence[int]) -> list[Episode]:
    return [metadata.episodes[position] for position in positions]


def _motion(columns: CheckedColumns, episode: int) -> np.ndarray | None:
    """Return the state of an episode in units of each channel's range over the dataset, `(N, D)`; None: not known."""
    states = columns.get(schema.STATE_COLUMN)
    if states is None or not states.is_uniform or states.low is None or states.high is None:
        return None
    rows = states.of(episode)
    if rows is None:
        return None
    with np.errstate(invalid="ignore"):  # a channel without a finite value, which was reported with the rows
        extent = states.high - states.low
    extent = np.where(extent > 0, extent, np.inf)
    return np.nan_to_num(np.where(np.isfinite(rows), rows, np.nan) / extent)

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What could not be read of the metadata, and lists that are missing, incomplete or not of one mind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.embodiments import FOREIGN, has_foreign_embodiment
from gr00t_training.dataset.metadata.lists import as_mapping
from gr00t_training.dataset.metadata.model import DatasetMetadata, Problem
from gr00t_training.dataset.tools.validate.findings import (
    REPAIR,
    STATS_AGAIN,
    TABLE_ROWS,
    TABLE_STATISTICS,
    Finding,
    fault,
    guarded,
    statistics_of,
    unreadable,
    warning,
)


def check_reading(metadata: DatasetMetadata, problems: Sequence[Problem]) -> Iterator[Finding]:
    """Yield what is wrong with each part of the metadata as a file, in the order in which they are read."""
    failed = {problem.place: problem.error for problem in problems}
    checks: dict[str, Callable[[DatasetMetadata], Iterator[Finding]]] = {
        schema.MODALITY_FILE: _check_modality_file,
        schema.EMBODIMENT_FILE: _check_embodiment_file,
        schema.STATS_FILE: _check_statistics_file,
        metadata.tasks_place: _check_tasks,
        metadata.episodes_place: _check_table if metadata.is_v3 else _check_episode_statistics,
    }
    for place, check in checks.items():
        if place in failed:
            yield unreadable(place, failed[place])
        else:
            yield from guarded(place, check(metadata))


def _check_modality_file(metadata: DatasetMetadata) -> Iterator[Finding]:
    if metadata.modality is None and not metadata.is_v3:
        yield fault(schema.MODALITY_FILE, "missing, GR00T cannot open the dataset", remedy="write it")


def _check_embodiment_file(metadata: DatasetMetadata) -> Iterator[Finding]:
    if has_foreign_embodiment(metadata.path):
        yield warning(schema.EMBODIMENT_FILE, FOREIGN)


def _check_statistics_file(metadata: DatasetMetadata) -> Iterator[Finding]:
    if metadata.statistics is not None:
        return
    is_needed = metadata.version != schema.Version.V21.value
    text = "missing, training with lerobot needs it" if is_needed else "missing, every reader has to compute it"
    yield Finding(is_needed, schema.STATS_FILE, text, "", REPAIR, (), STATS_AGAIN)


def _check_tasks(metadata: DatasetMetadata) -> Iterator[Finding]:
    place, tasks = metadata.tasks_place, metadata.tasks
    if len(tasks) < len(metadata.task_list):
        as_mapping(metadata.task_list, place)  # raises for different texts
        yield fault(place, "duplicate task number", remedy="number the tasks again")
    if len(set(tasks.values())) < len(tasks):
        yield warning(place, "duplicate task text", remedy="join them with gr00t_dataset retask")
    for number, text in tasks.items():
        if not text.strip():
            yield fault(place, f"the text of task {number} is empty", remedy="run gr00t_dataset retask")


def _check_episode_statistics(metadata: DatasetMetadata) -> Iterator[Finding]:
    place = schema.EPISODES_STATS_FILE
    if metadata.version != schema.Version.V21.value:
        return
    if not (metadata.path / place).exists():
        yield fault(place, "missing, lerobot 0.3 needs it in v2.1", remedy=REPAIR)
        return
    for episode in metadata.episodes:
        if episode.index not in metadata.episode_statistics:
            yield fault(place, f"no line for {episode.name}", "", REPAIR, (statistics_of(episode.index),), STATS_AGAIN)


def _check_table(metadata: DatasetMetadata) -> Iterator[Finding]:
    if not metadata.is_listed:
        yield fault(schema.EPISODES_FOLDER, "no file", "one row per episode", "restore it from a copy")
    for episode in metadata.episodes:
        if episode.to_index != episode.from_index + episode.length:
            found = f"dataset_from_index {episode.from_index}, dataset_to_index {episode.to_index}"
            yield fault(episode.name, found, f"a difference of {episode.length} rows", REPAIR, (TABLE_ROWS,))
    if not any(metadata.episode_statistics.values()):
        yield warning(schema.EPISODES_FOLDER, "has no statistics", "", REPAIR, (TABLE_STATISTICS,), STATS_AGAIN)

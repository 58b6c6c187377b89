# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Stored statistics against those of the rows, and channels that never change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.episode_list import Episode
from gr00t_training.dataset.metadata.features import channel_names
from gr00t_training.dataset.metadata.model import DatasetMetadata
from gr00t_training.dataset.statistics.compute import STATISTIC_NAMES, describe_rows
from gr00t_training.dataset.statistics.relative import relative_statistics
from gr00t_training.dataset.tools.validate.columns import CheckedColumn, CheckedColumns
from gr00t_training.dataset.tools.validate.findings import (
    ALL_ROWS,
    REPAIR,
    STATS_AGAIN,
    TABLE_ROWS,
    TABLE_STATISTICS,
    Finding,
    fault,
    length_of,
    statistics_of,
    warning,
)
from gr00t_training.dataset.tools.validate.videos import VideoFacts
from gr00t_training.types import KeyKind, KeyRef

# Stored statistics may come from sums in float32, and lerobot takes a standard deviation from two large sums.
TOLERANCE = 1e-3  # of the largest value
STD_TOLERANCE = 5e-3
# lerobot samples images and thins them; encoding shifts colors
IMAGE_TOLERANCE = 0.04  # of full scale

OTHER_VIDEO = f"check that it is the right video, else {STATS_AGAIN}"


def check_statistics(metadata: DatasetMetadata, columns: CheckedColumns) -> Iterator[Finding]:
    """Yield wrong statistics of the whole dataset and channels that never change."""
    for name in columns.floats():
        column = columns.get(name)
        if column is None or name not in metadata.features or not (column.is_uniform and column.is_finite):
            continue  # found with the rows
        if name != schema.TIMESTAMP_COLUMN and column.rows.count > 1:
            yield from _check_constant(metadata, name, column)
        if metadata.statistics is not None and columns.num_episodes == len(metadata.episodes):
            yield from _check_column(metadata, name, column)
    yield from _check_relative(metadata, columns)


def _check_constant(metadata: DatasetMetadata, name: str, column: CheckedColumn) -> Iterator[Finding]:
    still, width = np.flatnonzero(column.low == column.high), column.rows.width
    if not still.size:
        return
    if len(still) == width:
        yield warning(name, "no channel ever changes", remedy="was it recorded? check topics and joint names")
        return
    names = channel_names(metadata.features[name].get("names")) or [str(channel) for channel in range(width)]
    listed = ", ".join(str(names[channel]) for channel in still[:8]) + (", ..." if len(still) > 8 else "")
    text = f"{len(still)} of {width} channels never change: {listed}"
    yield warning(name, text, remedy="fine for parts that do not take part; else check the joint names")


def _check_column(metadata: DatasetMetadata, name: str, column: CheckedColumn) -> Iterator[Finding]:
    assert metadata.statistics is not None
    if name not in metadata.statistics:
        # GR00T wants every float feature, though it normalizes the modality's columns only
        wanted = name in {column for _, column, _, _ in metadata.slices()} or metadata.is_v3
        text = f"nothing about '{name}'"
        yield Finding(wanted, schema.STATS_FILE, text, "", REPAIR, (), STATS_AGAIN)
        return
    # NVIDIA's samples may carry the statistics of the whole set; ours are always of these rows
    is_fault = (metadata.embodiment is not None or metadata.is_v3) and not metadata.is_subset
    # lerobot's quantiles over several episodes are averages of theirs
    checked = ("min", "max", "mean", "std") if metadata.is_v3 else STATISTIC_NAMES
    computed = column.rows.statistics().to_mapping()
    yield from _compare(
        schema.STATS_FILE,
        name,
        metadata.statistics[name],
        {key: computed[key] for key in checked},
        is_fault,
        (schema.STATS_FILE, ALL_ROWS),
    )


def check_episode_statistics(
    metadata: DatasetMetadata, episode: Episode, rows: Mapping[str, np.ndarray]
) -> Iterator[Finding]:
    """Yield wrong statistics of one episode's rows, where the format keeps them by episode."""
    stored = metadata.episode_statistics.get(episode.index)
    if not stored:
        return
    place = metadata.episode_statistics_place
    shared = (TABLE_STATISTICS, TABLE_ROWS) if metadata.is_v3 else (length_of(episode.index),)
    for name, values in rows.items():
        targets = (statistics_of(episode.index, name), metadata.name_of(episode.rows.path), *shared)
        if name not in metadata.features or not len(values) or not np.isfinite(values).all():
            continue
        if name not in stored:
            yield fault(
                place, f"{episode.name}: nothing about '{name}'", remedy=REPAIR, targets=targets, otherwise=STATS_AGAIN
            )
            continue
        yield from _compare(place, f"{episode.name}, {name}", stored[name], describe_rows(values), True, targets)


def check_image_statistics(
    metadata: DatasetMetadata, episode: Episode, feature: str, facts: VideoFacts
) -> Iterator[Finding]:
    """Yield wrong statistics of one episode's images."""
    stored = metadata.episode_statistics.get(episode.index)
    if not stored or not episode.length:
        return
    place = metadata.episode_statistics_place
    subject = f"{episode.name}, {feature}"
    targets = (statistics_of(episode.index, feature),)
    if feature not in stored:
        yield fault(place, f"{subject}: no statistics", remedy=REPAIR, targets=targets, otherwise=OTHER_VIDEO)
        return
    for name in ("min", "max", "mean", "std"):
        shape = np.shape(stored[feature].get(name, []))
        if shape != (3, 1, 1):
            yield fault(place, f"{subject}: {name} has shape {shape}", "(3, 1, 1)", REPAIR, targets, OTHER_VIDEO)
            return
    first = episode.videos[feature].first
    part = slice(first, first + episode.length)
    if len(facts.mean_rgb) < first + episode.length or not facts.is_decoded[part].all():
        return  # found with the video
    found, expected = np.ravel(stored[feature]["mean"]), facts.mean_rgb[part].mean(axis=0)
    channel = int(np.argmax(np.abs(found - expected)))
    if not abs(found[channel] - expected[channel]) <= IMAGE_TOLERANCE:
        text = f"{subject}: mean of {('red', 'green', 'blue')[channel]} is {found[channel]:.3f}"
        yield fault(place, text, f"{expected[channel]:.3f} as in the video", REPAIR, targets, OTHER_VIDEO)


def _check_relative(metadata: DatasetMetadata, columns: CheckedColumns) -> Iterator[Finding]:
    """Check `relative_stats.json` where the embodiment says what it is about."""
    path, embodiment = metadata.file(schema.RELATIVE_STATS_FILE), metadata.embodiment
    if embodiment is None or not path.exists():
        return
    stored = schema.read_object(path)
    places = {key: (column, start, end) for key, column, start, end in metadata.slices()}
    for name, key in embodiment.action.items():
        if key.relative_to is None or name not in stored:
            continue
        state, action = places.get(KeyRef(KeyKind.STATE, key.relative_to)), places.get(KeyRef(KeyKind.ACTION, name))
        if state is None or action is None or not all(columns.is_everywhere(place[0]) for place in (state, action)):
            continue
        parts = [
            [rows[:, start:end] for column in (columns.get(name),) if column is not None for rows in column.parts()]
            for name, start, end in (state, action)
        ]
        computed = relative_statistics(*parts, embodiment.action_horizon, key.pose).to_mapping()
        yield from _compare(schema.RELATIVE_STATS_FILE, name, stored[name], computed, True)


def difference(stored: Mapping[str, Any], computed: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what is stored wrongly and what is right, as text; None if all is within the tolerance."""
    scale = np.maximum(np.abs(computed["min"]), np.abs(computed["max"]))
    for name, values in computed.items():
        expected = np.asarray(values, np.float64)
        try:
            found = np.asarray(stored.get(name, []), np.float64)
        except (TypeError, ValueError):
            return f"{name} is not a list of numbers", ""
        if found.shape != expected.shape:
            return f"{name} has shape {found.shape}", str(expected.shape)
        tolerance = 0 if name == "count" else TOLERANCE * scale + (STD_TOLERANCE if name == "std" else 1e-6)
        excess = np.where(np.isfinite(found), np.abs(found - expected) - tolerance, np.inf)
        if not excess.size:
            continue
        worst = np.unravel_index(int(np.argmax(excess)), excess.shape)
        if excess[worst] > 0:  # the others follow from the same rows
            return f"{name} is {found[worst]:.6g} in channel {int(worst[-1])}", f"{expected[worst]:.6g} as in the rows"
    return None


def _compare(
    place: str,
    subject: str,
    stored: Mapping[str, Any],
    computed: Mapping[str, Any],
    is_fault: bool,
    targets: tuple[str, ...] = (),
) -> Iterator[Finding]:
    wrong = difference(stored, computed)
    if wrong is not None:
        name, _, rest = wrong[0].partition(" ")
        yield Finding(is_fault, place, f"{name} of '{subject}' {rest}", wrong[1], REPAIR, targets, STATS_AGAIN)

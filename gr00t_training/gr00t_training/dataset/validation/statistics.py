# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Stored statistics against those of the rows, and channels that never change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gr00t_training.dataset import schema
from gr00t_training.dataset.relative_stats import relative_statistics
from gr00t_training.dataset.stats import STATISTIC_NAMES, compute_statistics, describe_rows, stack_rows
from gr00t_training.dataset.validation.contents import Contents, EpisodeEntry
from gr00t_training.dataset.validation.findings import REPAIR, Finding, fault, warning
from gr00t_training.dataset.validation.metadata import channel_names
from gr00t_training.dataset.validation.videos import VideoFacts

# Stored statistics may come from sums in float32, and lerobot takes a standard deviation from two large sums.
TOLERANCE = 1e-3  # of the largest value
STD_TOLERANCE = 5e-3
# lerobot samples images and thins them; encoding shifts colours
IMAGE_TOLERANCE = 0.04  # of full scale

Columns = Mapping[int, Mapping[str, np.ndarray]]  # episode -> name -> values


def check_statistics(contents: Contents, columns: Columns) -> Iterator[Finding]:
    """Yield wrong statistics of the whole dataset and channels that never change."""
    names = {name for rows in columns.values() for name in rows}
    for name in sorted(names & set(contents.features)):
        parts = [rows[name] for rows in columns.values() if name in rows and len(rows[name])]
        if not parts or parts[0].dtype.kind != "f" or len({part.shape[1:] for part in parts}) > 1:
            continue
        rows = stack_rows(parts)
        if not np.isfinite(rows).all():
            continue  # found with the rows
        if name != schema.TIMESTAMP_COLUMN and len(rows) > 1:
            yield from _check_constant(contents, name, rows)
        if contents.stats is not None and len(columns) == len(contents.episodes):
            yield from _check_column(contents, name, rows)
    yield from _check_relative(contents, columns)


def _check_constant(contents: Contents, name: str, rows: np.ndarray) -> Iterator[Finding]:
    still = np.flatnonzero(rows.min(axis=0) == rows.max(axis=0))
    if not still.size:
        return
    if len(still) == rows.shape[1]:
        yield warning(name, "no channel ever changes", remedy="was it recorded? check topics and joint names")
        return
    names = channel_names(contents.features[name]) or [str(channel) for channel in range(rows.shape[1])]
    listed = ", ".join(str(names[channel]) for channel in still[:8]) + (", ..." if len(still) > 8 else "")
    text = f"{len(still)} of {rows.shape[1]} channels never change: {listed}"
    yield warning(name, text, remedy="fine for parts that do not take part; else check the joint names")


def _check_column(contents: Contents, name: str, rows: np.ndarray) -> Iterator[Finding]:
    assert contents.stats is not None
    if name not in contents.stats:
        # GR00T wants every float feature, though it normalises the modality's columns only
        wanted = name in {column for _, column, _, _ in contents.slices()} or contents.is_v3
        yield Finding(wanted, schema.STATS_FILE, f"nothing about '{name}'", remedy=REPAIR)
        return
    # NVIDIA's samples may carry the statistics of the whole set; ours are always of these rows
    is_fault = contents.embodiment is not None or contents.is_v3
    # lerobot's quantiles over several episodes are averages of theirs
    checked = ("min", "max", "mean", "std") if contents.is_v3 else STATISTIC_NAMES
    computed = compute_statistics(rows).to_mapping()
    yield from _compare(
        schema.STATS_FILE, name, contents.stats[name], {key: computed[key] for key in checked}, is_fault
    )


def check_episode_statistics(
    contents: Contents, episode: EpisodeEntry, rows: Mapping[str, np.ndarray]
) -> Iterator[Finding]:
    """Yield wrong statistics of one episode's rows, where the format keeps them by episode."""
    stored = contents.episode_stats.get(episode.index)
    if not stored:
        return
    place = contents.episode_stats_place
    for name, values in rows.items():
        if name not in contents.features or not len(values) or not np.isfinite(values).all():
            continue
        if name not in stored:
            yield fault(place, f"{episode.name}: nothing about '{name}'", remedy=REPAIR)
            continue
        yield from _compare(place, f"{episode.name}, {name}", stored[name], describe_rows(values), True)


def check_image_statistics(
    contents: Contents, episode: EpisodeEntry, feature: str, facts: VideoFacts
) -> Iterator[Finding]:
    """Yield wrong statistics of one episode's images."""
    stored = contents.episode_stats.get(episode.index)
    if not stored:
        return
    place = contents.episode_stats_place
    subject = f"{episode.name}, {feature}"
    if feature not in stored:
        yield fault(place, f"{subject}: no statistics", remedy=REPAIR)
        return
    for name in ("min", "max", "mean", "std"):
        shape = np.shape(stored[feature].get(name, []))
        if shape != (3, 1, 1):
            yield fault(place, f"{subject}: {name} has shape {shape}", "(3, 1, 1)", REPAIR)
            return
    first = round(episode.videos[feature].start_s * contents.fps)
    part = slice(first, first + episode.length)
    if len(facts.mean_rgb) < first + episode.length or not facts.is_decoded[part].all():
        return  # found with the video
    found, expected = np.ravel(stored[feature]["mean"]), facts.mean_rgb[part].mean(axis=0)
    channel = int(np.argmax(np.abs(found - expected)))
    if not abs(found[channel] - expected[channel]) <= IMAGE_TOLERANCE:
        text = f"{subject}: mean of {('red', 'green', 'blue')[channel]} is {found[channel]:.3f}"
        yield fault(place, text, f"{expected[channel]:.3f} as in the video", REPAIR)


def _check_relative(contents: Contents, columns: Columns) -> Iterator[Finding]:
    """Check `relative_stats.json` where the embodiment says what it is about."""
    path, embodiment = contents.path / schema.RELATIVE_STATS_FILE, contents.embodiment
    if embodiment is None or not path.exists():
        return
    stored = schema.read_json(path)
    places = {key: (column, start, end) for key, column, start, end in contents.slices()}
    for name, key in embodiment.action.items():
        if key.relative_to is None or name not in stored:
            continue
        state, action = places.get(f"state.{key.relative_to}"), places.get(f"action.{name}")
        if state is None or action is None or any(not {state[0], action[0]} <= set(rows) for rows in columns.values()):
            continue
        parts = [[rows[column][:, start:end] for rows in columns.values()] for column, start, end in (state, action)]
        computed = relative_statistics(*parts, embodiment.action_horizon, key.pose).to_mapping()
        yield from _compare(schema.RELATIVE_STATS_FILE, name, stored[name], computed, True)


def _compare(
    place: str, subject: str, stored: Mapping[str, Any], computed: Mapping[str, Any], is_fault: bool
) -> Iterator[Finding]:
    scale = np.maximum(np.abs(computed["min"]), np.abs(computed["max"]))
    for name, values in computed.items():
        found, expected = np.asarray(stored.get(name, []), np.float64), np.asarray(values, np.float64)
        if found.shape != expected.shape:
            text = f"{name} of '{subject}' has shape {found.shape}"
            yield fault(place, text, str(expected.shape), REPAIR)
            continue
        tolerance = 0 if name == "count" else TOLERANCE * scale + (STD_TOLERANCE if name == "std" else 1e-6)
        excess = np.where(np.isfinite(found), np.abs(found - expected) - tolerance, np.inf)
        worst = np.unravel_index(int(np.argmax(excess)), excess.shape)
        if excess[worst] > 0:
            channel = int(worst[-1])
            text = f"{name} of '{subject}' is {found[worst]:.6g} in channel {channel}"
            yield Finding(is_fault, place, text, f"{expected[worst]:.6g} as in the rows", REPAIR)
            return  # the others follow from the same rows

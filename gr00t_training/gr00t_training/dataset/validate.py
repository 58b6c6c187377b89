# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Holding a dataset against the rules of its readers, every row and every frame.

A fault stops some supported reader or makes it learn from wrong data; a warning is an oddity that GR00T lives with.
The checks do not stop at the first finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gr00t_training.dataset import schema
from gr00t_training.dataset.reader import Episode, LeRobotDataset, VectorSlice
from gr00t_training.dataset.stats import STATISTIC_NAMES, KeyStatistics, compute_statistics, stack_rows
from gr00t_training.dataset.video import VideoReader
from gr00t_training.embodiment import ACTION_COLUMN, STATE_COLUMN, Embodiment, column_names, modality_layout
from gr00t_training.errors import ConfigError, DatasetError

# lerobot's own tolerance on times [s]; also what remains of a float32 time of 1000 s
TIME_TOLERANCE_S = 1e-4
# Stored statistics may come from sums in float32.
STATISTICS_TOLERANCE = 1e-3  # of the column's range


@dataclass(frozen=True)
class Finding:
    """Something that a reader may stumble over."""

    is_fault: bool  # else a warning
    subject: str  # file, column or key, within the dataset
    text: str

    def __str__(self) -> str:
        return f"{'fault' if self.is_fault else 'warning'}: {self.subject}: {self.text}"


def validate_dataset(path: str | Path) -> Iterator[Finding]:
    """Check a whole dataset; yields findings as they are made."""
    try:
        dataset = LeRobotDataset(path)
    except (DatasetError, ConfigError) as error:
        yield Finding(True, str(path), str(error))
        return
    yield from _guarded(schema.INFO_FILE, _check_info(dataset))
    yield from _guarded(schema.EPISODES_FILE, _check_lists(dataset))
    yield from _guarded(schema.INFO_FILE, _check_features(dataset))
    yield from _guarded(schema.INFO_FILE, _check_files(dataset))
    if dataset.embodiment is not None:
        yield from _guarded(schema.EMBODIMENT_FILE, _check_embodiment(dataset, dataset.embodiment))
    first_index = 0
    for episode in dataset.episodes:
        yield from _guarded(f"episode {episode.index}", _check_rows(dataset, episode, first_index))
        for key in dataset.modality.video:
            yield from _guarded(f"video.{key}", _check_video(dataset, episode, key))
        first_index += episode.length
    if dataset.episodes:
        yield from _guarded(schema.STATS_FILE, _check_whole_columns(dataset))
    dataset.close()


def _guarded(subject: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Turn a check that stumbles into a finding: what it reads may have any form."""
    try:
        yield from findings
    except DatasetError as error:
        yield Finding(True, subject, str(error))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        yield Finding(True, subject, f"not of the expected form: {error!r}")


def _check_info(dataset: LeRobotDataset) -> Iterator[Finding]:
    info = schema.read_json(dataset.path / schema.INFO_FILE)
    num_episodes = len(dataset.episodes)
    totals = {
        "total_episodes": (num_episodes, True),
        "total_frames": (dataset.num_frames, True),
        "total_tasks": (len(dataset.tasks), False),
        "total_videos": (num_episodes * len(dataset.modality.video), False),
        "total_chunks": (-(-num_episodes // info["chunks_size"]), False),
    }
    for name, (expected, is_fault) in totals.items():
        if info.get(name) != expected:
            yield Finding(is_fault, schema.INFO_FILE, f"{name} is {info.get(name)}, the dataset has {expected}")
    if dataset.fps != int(dataset.fps) or dataset.fps < 1:
        yield Finding(True, schema.INFO_FILE, f"fps is {dataset.fps}, expected a whole rate that rows are resampled to")
    if info["codebase_version"] == "v2.1" and not (dataset.path / schema.EPISODES_STATS_FILE).exists():
        yield Finding(True, schema.EPISODES_STATS_FILE, "missing, lerobot 0.3 needs it in v2.1")
    if not (dataset.path / schema.STATS_FILE).exists():
        yield Finding(False, schema.STATS_FILE, "missing, every reader has to compute it")


def _check_lists(dataset: LeRobotDataset) -> Iterator[Finding]:
    indices = [episode.index for episode in dataset.episodes]
    if indices != list(range(len(indices))):
        yield Finding(
            True, schema.EPISODES_FILE, f"episode indices are {indices}, expected 0 to {len(indices) - 1} in order"
        )
    if not indices:
        yield Finding(True, schema.EPISODES_FILE, "no episode")
    for episode in dataset.episodes:
        if episode.length < 1:
            yield Finding(True, schema.EPISODES_FILE, f"episode {episode.index} has length {episode.length}")
    for number, text in dataset.tasks.items():
        if not text.strip():
            yield Finding(True, schema.TASKS_FILE, f"the text of task {number} is empty")


def _check_features(dataset: LeRobotDataset) -> Iterator[Finding]:
    for name, feature in dataset.features.items():
        if feature["dtype"] != "video":
            continue
        if name not in dataset.modality.video.values():
            yield Finding(False, name, f"a camera of {schema.INFO_FILE} that {schema.MODALITY_FILE} does not name")
            continue
        names, shape = feature.get("names") or [], feature["shape"]
        block = "info" if "channels" in names else "video_info"
        if block not in feature:
            yield Finding(True, name, f"has no '{block}', which names {names} need (GR00T N1)")
        if "height" not in names or "width" not in names:
            yield Finding(True, name, f"names are {names}, expected height, width and channels")
        if any(side % 2 for side in shape[:2]):
            yield Finding(True, name, f"shape is {shape}, yuv420p video needs even sides")
    for kind in ("state", "action"):
        for key, part in getattr(dataset.modality, kind).items():
            yield from _check_slice(dataset, f"{kind}.{key}", part)


def _check_slice(dataset: LeRobotDataset, subject: str, part: VectorSlice) -> Iterator[Finding]:
    if part.column not in dataset.features:
        yield Finding(True, subject, f"column '{part.column}' is not a feature of {schema.INFO_FILE}")
        return
    feature = dataset.features[part.column]
    width = feature["shape"][0]
    if not 0 <= part.start < part.end <= width:
        yield Finding(
            True, subject, f"channels {part.start} to {part.end} are outside column '{part.column}' of {width}"
        )
    names = feature.get("names")
    if isinstance(names, list) and len(names) != width and not (len(names) == 1 and isinstance(names[0], list)):
        yield Finding(True, part.column, f"{len(names)} names for {width} channels")


def _check_files(dataset: LeRobotDataset) -> Iterator[Finding]:
    """Find files that lerobot would count as episodes."""
    known = {dataset.data_file(episode.index) for episode in dataset.episodes}
    for key, feature in dataset.modality.video.items():
        if feature in dataset.features:
            known |= {dataset.video_file(episode.index, key) for episode in dataset.episodes}
    for path in sorted([*dataset.path.rglob("*.parquet"), *dataset.path.rglob("*.mp4")]):
        if path not in known:
            yield Finding(
                True, path.relative_to(dataset.path).as_posix(), f"no episode of {schema.EPISODES_FILE} has it"
            )


def _check_embodiment(dataset: LeRobotDataset, embodiment: Embodiment) -> Iterator[Finding]:
    if schema.read_json(dataset.path / schema.MODALITY_FILE) != modality_layout(embodiment):
        yield Finding(True, schema.MODALITY_FILE, f"does not follow from {schema.EMBODIMENT_FILE}")
    if dataset.fps != embodiment.fps:
        yield Finding(True, schema.INFO_FILE, f"fps is {dataset.fps}, {schema.EMBODIMENT_FILE} says {embodiment.fps}")
    for column, keys in ((STATE_COLUMN, embodiment.state), (ACTION_COLUMN, embodiment.action)):
        found = dataset.features.get(column, {}).get("names")
        if found != column_names(keys):
            yield Finding(True, column, f"names are {found}, {schema.EMBODIMENT_FILE} says {column_names(keys)}")


def _check_rows(dataset: LeRobotDataset, episode: Episode, first_index: int) -> Iterator[Finding]:
    """Check one episode's parquet file.

    Raises:
        DatasetError: it cannot be read.
    """
    subject, length = f"episode {episode.index}", episode.length
    num_rows = dataset.num_rows(episode.index)
    if num_rows != length:
        yield Finding(True, subject, f"{num_rows} rows, {schema.EPISODES_FILE} says {length}")
    expected = {
        "frame_index": np.arange(length),
        "episode_index": np.full(length, episode.index),
        "index": np.arange(first_index, first_index + length),
    }
    for name, values in expected.items():
        if not dataset.has_column(episode.index, name):
            yield Finding(False, subject, f"no column '{name}', lerobot needs it")
        elif not np.array_equal(dataset.column(episode.index, name), values):
            row = int(np.flatnonzero(dataset.column(episode.index, name) != values)[0])
            found = dataset.column(episode.index, name)[row]
            yield Finding(True, subject, f"{name} is {found} in row {row}, expected {values[row]}")
    yield from _check_times(dataset.column(episode.index, schema.TIMESTAMP_COLUMN), dataset.fps, subject)
    yield from _check_vectors(dataset, episode)
    for key in dataset.modality.annotation:
        numbers = {int(number) for number in dataset.column(episode.index, dataset.annotation_column(key))}
        for number in sorted(numbers - set(dataset.tasks)):
            yield Finding(True, subject, f"annotation.{key}: task {number} has no text in {schema.TASKS_FILE}")


def _check_times(times: np.ndarray, fps: float, subject: str) -> Iterator[Finding]:
    steps = np.diff(times.astype(np.float64))
    wrong = np.flatnonzero(np.abs(steps - 1 / fps) > TIME_TOLERANCE_S)
    if wrong.size:
        row = int(wrong[0])
        yield Finding(True, subject, f"timestamp steps by {steps[row]:.6f} s after row {row}, expected {1 / fps:.6f} s")
    if times.size and abs(float(times[0])) > TIME_TOLERANCE_S:
        yield Finding(
            False, subject, f"timestamp starts at {float(times[0]):.6f} s, lerobot then shows the wrong frames"
        )


def _check_vectors(dataset: LeRobotDataset, episode: Episode) -> Iterator[Finding]:
    for kind in ("state", "action"):
        for key, part in getattr(dataset.modality, kind).items():
            values = dataset.column(episode.index, part.column)
            if values.ndim != 2 or values.shape[1] < part.end:
                yield Finding(
                    True, f"{kind}.{key}", f"episode {episode.index} has shape {values.shape}, {part.end} wanted"
                )
                continue
            bad = np.argwhere(~np.isfinite(values[:, part.start : part.end]))
            if bad.size:
                row, channel = bad[0]
                yield Finding(
                    True, f"{kind}.{key}", f"episode {episode.index}: channel {channel} of row {row} is not finite"
                )


def _check_video(dataset: LeRobotDataset, episode: Episode, key: str) -> Iterator[Finding]:
    """Decode one video from start to end."""
    subject = f"video.{key}"
    path = dataset.video_file(episode.index, key)
    reader = VideoReader(path)
    if reader.num_frames != episode.length:
        yield Finding(True, subject, f"{path.name} has {reader.num_frames} frames, the episode {episode.length} rows")
    if reader.size != dataset.video_size(key):
        yield Finding(True, subject, f"{path.name} is {reader.size}, {schema.INFO_FILE} says {dataset.video_size(key)}")
    feature = dataset.features[dataset.video_feature(key)]
    declared = (feature.get("info") or feature.get("video_info") or {}).get("video.codec")
    if reader.codec != declared:
        yield Finding(False, subject, f"{path.name} is {reader.codec}, {schema.INFO_FILE} says {declared}")
    times = reader.presentation_s
    wrong = np.flatnonzero(np.abs(times - np.arange(len(times)) / dataset.fps) > TIME_TOLERANCE_S)
    if wrong.size:
        frame = int(wrong[0])
        text = f"{path.name}: frame {frame} is shown at {times[frame]:.6f} s, expected {frame / dataset.fps:.6f} s"
        yield Finding(True, subject, text)
    try:
        for frame in range(reader.num_frames):
            reader.read([frame])
    finally:
        reader.close()


def _check_whole_columns(dataset: LeRobotDataset) -> Iterator[Finding]:
    path = dataset.path / schema.STATS_FILE
    stored: Mapping[str, Mapping[str, list]] = schema.read_json(path) if path.exists() else {}
    slices = {f"state.{key}": part for key, part in dataset.modality.state.items()}
    columns = {part.column for part in [*slices.values(), *dataset.modality.action.values()]}
    for column in sorted(columns):
        rows = stack_rows(dataset.column(episode.index, column) for episode in dataset.episodes)
        if not np.isfinite(rows).all():
            continue  # found with the rows
        computed = compute_statistics(rows)
        for key, part in slices.items():
            still = part.column == column and (computed.min == computed.max)[part.start : part.end].all()
            if still and len(rows) > 1:
                yield Finding(False, key, "no channel ever changes; was it recorded?")
        if column in stored:
            # NVIDIA's samples may carry the statistics of the whole set; ours are always of these rows
            yield from _check_statistics(column, stored[column], computed, dataset.embodiment is not None)


def _check_statistics(
    column: str, stored: Mapping[str, list], computed: KeyStatistics, is_fault: bool
) -> Iterator[Finding]:
    tolerance = STATISTICS_TOLERANCE * np.maximum(np.abs(computed.min), np.abs(computed.max)) + 1e-6
    for name in STATISTIC_NAMES:
        found, expected = np.ravel(stored.get(name, [])), getattr(computed, name)
        subject = f"{name} of '{column}'"
        if found.shape != expected.shape:
            yield Finding(True, schema.STATS_FILE, f"{subject} has {found.size} values, expected {expected.size}")
            continue
        channel = int(np.argmax(np.abs(found - expected) - tolerance))
        if abs(found[channel] - expected[channel]) > tolerance[channel]:
            text = f"{subject} is {found[channel]:.6g} in channel {channel}, the rows give {expected[channel]:.6g}"
            yield Finding(is_fault, schema.STATS_FILE, text)

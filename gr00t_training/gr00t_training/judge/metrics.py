# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Errors per joint, horizon step and task; baselines; smoothness of what would be commanded; times of the gripper."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gr00t_training.judge.queries import Demonstration, Query

EVENT_TOLERANCE_S = 1.0  # a predicted change of the gripper belongs to a recorded one this near


@dataclass(frozen=True)
class ErrorTable:
    """Errors of one way of acting on all queries; a channel's are in its unit."""

    mae: np.ndarray  # (C,)
    mse: np.ndarray  # (C,)
    relative: float  # MAE over moving channels, in standard deviations of the recorded actions
    horizon: np.ndarray  # (H,) the same for each step of a chunk; NaN where nothing was recorded
    tasks: Mapping[str, float]  # the same for each instruction


@dataclass(frozen=True)
class Smoothness:
    """Movement of the commands that the robot would get, in standard deviations of the recorded actions per row.

    Grippers are left out: they jump in demonstrations, too.
    """

    boundary: float  # mean step from a chunk to the next
    inside: float  # mean step inside a chunk
    jitter: float  # mean size of second differences inside chunks
    recorded_jitter: float  # the same of the recorded actions
    start: np.ndarray  # (E, C) first command minus position, robot units
    recorded_start: np.ndarray  # (E, C) the same of the recorded command


@dataclass(frozen=True)
class GripperTiming:
    """Changes of one gripper channel between its lower and its upper half."""

    name: str
    recorded: int
    missed: int
    extra: int
    errors_s: np.ndarray  # predicted minus recorded time of those found


def errors(recording: Demonstration, chunks: Sequence[np.ndarray]) -> ErrorTable:
    """Return the errors of chunks `(H, C)`, one per query."""
    horizon = recording.embodiment.action_horizon
    found = np.full((len(chunks), horizon, len(recording.channels)), np.nan)
    for place, (query, chunk) in enumerate(zip(recording.queries, chunks, strict=True)):
        count = min(len(query.truth), len(chunk))
        found[place, :count] = chunk[:count] - query.truth[:count]
    relative = (np.abs(found) / recording.scale)[..., recording.moves]
    tasks = np.array([query.task for query in recording.queries])
    with np.errstate(invalid="ignore"):
        counts = np.isfinite(relative).sum(axis=(0, 2))
        steps = np.where(counts > 0, np.nansum(relative, axis=(0, 2)) / np.maximum(counts, 1), np.nan)
    return ErrorTable(
        mae=np.nanmean(np.abs(found), axis=(0, 1)),
        mse=np.nanmean(np.square(found), axis=(0, 1)),
        relative=float(np.nanmean(relative)),
        horizon=steps,
        tasks={task: float(np.nanmean(relative[tasks == task])) for task in recording.tasks},
    )


def held(recording: Demonstration) -> list[np.ndarray]:
    """Return the chunks of the baseline that keeps the robot where it is."""
    horizon = recording.embodiment.action_horizon
    return [np.tile(query.hold, (horizon, 1)) for query in recording.queries]


def averaged(recording: Demonstration) -> list[np.ndarray]:
    """Return the chunks of the baseline that repeats the mean action."""
    horizon = recording.embodiment.action_horizon
    return [np.tile(recording.mean, (horizon, 1)) for _ in recording.queries]


def smoothness(recording: Demonstration, chunks: Sequence[np.ndarray]) -> Smoothness:
    """Measure the commands that result from carrying out the used rows of each chunk."""
    scale = recording.scale
    moves = recording.moves & ~np.array([channel.is_gripper for channel in recording.channels])
    boundaries, insides, jitters, recorded, starts, recorded_starts = [], [], [], [], [], []
    for episode in recording.episodes:
        own = _of_episode(recording, chunks, episode)
        used = [chunk[query.used] for query, chunk in own]
        parts = [(rows / scale)[:, moves] for rows in used if len(rows)]
        boundaries += [np.abs(after[0] - before[-1]) for before, after in itertools.pairwise(parts)]
        insides += [np.abs(np.diff(part, axis=0)) for part in parts]
        jitters += [np.diff(part, n=2, axis=0) for part in parts]
        recorded.append(np.diff((recording.actions[episode] / scale)[:, moves], n=2, axis=0))
        if not own:
            continue
        query, chunk = own[0]
        starts.append(chunk[0] - query.hold)
        recorded_starts.append(query.truth[0] - query.hold)
    return Smoothness(
        boundary=_mean_size(boundaries),
        inside=_mean_size(insides),
        jitter=_mean_size(jitters),
        recorded_jitter=_mean_size(recorded),
        start=np.array(starts),
        recorded_start=np.array(recorded_starts),
    )


def gripper_timing(recording: Demonstration, chunks: Sequence[np.ndarray]) -> list[GripperTiming]:
    """Compare when grippers open and close with the recording."""
    results = []
    for place, channel in enumerate(recording.channels):
        if not channel.is_gripper or not recording.moves[place]:
            continue
        values = np.concatenate([actions[:, place] for actions in recording.actions.values()])
        middle = (values.min() + values.max()) / 2
        total = missed = extra = 0
        times: list[float] = []
        for episode in recording.episodes:
            own = _of_episode(recording, chunks, episode)
            if not own:
                continue
            predicted = np.concatenate([chunk[query.used, place] for query, chunk in own])
            expected = _changes(np.concatenate([query.truth[query.used, place] for query, _ in own]), middle)
            found = _changes(predicted, middle)
            total += len(expected)
            for row, is_closing in expected:
                near = [entry for entry in found if entry[1] == is_closing]
                best = min(near, key=lambda entry: abs(entry[0] - row), default=None)
                if best is None or abs(best[0] - row) > EVENT_TOLERANCE_S * recording.embodiment.fps:
                    missed += 1
                else:
                    times.append((best[0] - row) / recording.embodiment.fps)
                    found.remove(best)
            extra += len(found)
        results.append(GripperTiming(str(channel), total, missed, extra, np.array(times)))
    return results


def _of_episode(recording: Demonstration, chunks: Sequence[np.ndarray], episode: int) -> list[tuple[Query, np.ndarray]]:
    return [pair for pair in zip(recording.queries, chunks, strict=True) if pair[0].episode == episode]


def _changes(values: np.ndarray, middle: float) -> list[tuple[int, bool]]:
    """Return the rows at which values cross the middle, and whether upward."""
    above = values > middle
    return [(int(row) + 1, bool(above[row + 1])) for row in np.flatnonzero(np.diff(above))]


def _mean_size(parts: Sequence[np.ndarray]) -> float:
    """Return the mean size of all numbers; zero if there are none, such as where every answer came too late."""
    joined = np.concatenate(parts) if parts else np.empty(0)
    return float(np.mean(np.abs(joined))) if joined.size else 0.0

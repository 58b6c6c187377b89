# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Compare the chunks of a policy node with what the demonstration did at those times.

A chunk belongs to the stamp of its observation, which lies between two rows of the demonstration: recorded actions are
interpolated there. The rows of a chunk that would be carried out are those between its arrival and that of the next
one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gr00t_recorder.bag.demonstrations import RecordedEpisode
from gr00t_training.embodiment import Embodiment, Interpolation, VectorKey
from gr00t_training.judge.queries import Answers, Demonstration, Query, held_actions, joined


@dataclass(frozen=True)
class ShadowChunk:
    """One answer of the node; times are stamps of the bag."""

    rows: np.ndarray  # (H, C) the keys of the model side by side
    start_ns: int  # of its observation
    arrival_ns: int
    step_ns: int


def compare(
    embodiment: Embodiment, episodes: Sequence[RecordedEpisode], chunks: Sequence[ShadowChunk]
) -> tuple[Demonstration, Answers] | None:
    """Return the demonstrations with the times at which the node was asked, and its answers.

    Args:
        embodiment: of the policy.
        episodes: of the bag.
        chunks: in order; those outside of an episode are left out.

    Returns:
        None if no chunk lies within an episode.
    """
    actions: dict[int, np.ndarray] = {}
    queries: list[Query] = []
    answers: list[ShadowChunk] = []
    for number, episode in enumerate(episodes):
        vectors = {key: np.array([frame.action[key] for frame in episode.frames]) for key in embodiment.action_keys}
        states = {
            key: np.array([frame.state[key] for frame in episode.frames])
            for key in embodiment.action_keys
            if key in episode.frames[0].state
        }
        ticks_ns = np.array([frame.tick_ns for frame in episode.frames])
        own = [chunk for chunk in chunks if ticks_ns[0] <= chunk.start_ns <= ticks_ns[-1]]
        if not own:
            continue
        actions[number] = joined(vectors, embodiment)
        holds = held_actions(embodiment, vectors, states)
        ends_ns = [*(chunk.arrival_ns for chunk in own[1:]), None]
        for chunk, end_ns in zip(own, ends_ns, strict=True):
            due_ns = chunk.start_ns + chunk.step_ns * np.arange(len(chunk.rows))
            due_ns = due_ns[due_ns <= ticks_ns[-1]]
            parts = {key: _at(due_ns, ticks_ns, vectors[key], embodiment.action[key]) for key in vectors}
            row = int(np.searchsorted(ticks_ns, chunk.start_ns, side="right")) - 1
            used = slice(_row(chunk, chunk.arrival_ns), len(due_ns) if end_ns is None else _row(chunk, end_ns))
            queries.append(
                Query(number, row, episode.task, joined(parts, embodiment), holds[row], _within(used, due_ns))
            )
        answers += own
    if not queries:
        return None
    seconds = float(np.median([chunk.arrival_ns - chunk.start_ns for chunk in answers])) / 1e9
    return Demonstration(embodiment, actions, queries), Answers([chunk.rows for chunk in answers], seconds)


def _row(chunk: ShadowChunk, time_ns: int) -> int:
    """Return the first row of a chunk that is due at a time or later."""
    return max(0, math.ceil((time_ns - chunk.start_ns) / chunk.step_ns))


def _within(used: slice, due_ns: np.ndarray) -> slice:
    stop = min(used.stop, len(due_ns))
    return slice(min(used.start, stop), stop)


def _at(times_ns: np.ndarray, ticks_ns: np.ndarray, rows: np.ndarray, key: VectorKey) -> np.ndarray:
    """Return recorded actions `(N, D)` at times: between two rows; the nearest or last one where two have no mean."""
    if key.interpolation is Interpolation.LINEAR and not key.rotation and not key.pose:
        start_ns = ticks_ns[0]  # small numbers: float64 has no nanoseconds of a date
        return np.stack([np.interp(times_ns - start_ns, ticks_ns - start_ns, column) for column in rows.T], axis=1)
    last = np.searchsorted(ticks_ns, times_ns, side="right") - 1
    if key.interpolation is Interpolation.STEP:
        return rows[last]
    following = np.minimum(last + 1, len(rows) - 1)
    is_nearer = ticks_ns[following] - times_ns < times_ns - ticks_ns[last]
    return rows[np.where(is_nearer, following, last)]

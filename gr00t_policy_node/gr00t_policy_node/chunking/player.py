# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Which action is due at a time.

A chunk answers the observation of its `start_ns`, so the row that is due follows from the clock alone: the time that
inference took is compensated by construction, and a chunk that comes late simply starts with a later row. What happens
where chunks overlap is the execution mode's choice; a remaining jump is limited by the motion guard.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np

from gr00t_policy_node.chunking.motion import Curve, KeyMotion, Track
from gr00t_training.embodiment import VectorKey
from gr00t_training.settings import setting
from gr00t_training.types import ActionChunk, Continuation

LARGEST = 1e9  # of an action, in any unit: far beyond any robot, and its square can be computed with


class ChunkError(ValueError):
    """A chunk that must not be executed."""


class ExecutionMode(str, Enum):
    """What is executed where chunks overlap."""

    RECEDING_HORIZON = "receding_horizon"  # the newest chunk
    TEMPORAL_ENSEMBLE = "temporal_ensemble"  # the mean of all chunks that cover the time
    REAL_TIME_CHUNKING = "real_time_chunking"  # the newest chunk, which was made to continue the one before


@dataclass(frozen=True)
class Execution:
    """How chunks become one motion."""

    mode: ExecutionMode = setting(ExecutionMode.RECEDING_HORIZON, "What is executed where chunks overlap.")
    curve: Curve = setting(Curve.LINEAR, "How joints go from one action to the next.")
    ensemble_decay: float = setting(
        0.1, "Weight of a chunk in the mean: e^-decay per step of age; negative: older chunks count more.", ge=-5, le=5
    )
    rtc_ramp_rate: float = setting(
        6.0, "Real-time chunking: how soon a chunk goes its own way behind the frozen steps.", ge=1e-3, le=100.0
    )
    rtc_guidance: float | None = setting(
        None, "Real-time chunking: greatest weight of a pull by gradient; absent: the ramp alone.", ge=0.0, le=100.0
    )


@dataclass(frozen=True)
class Planned:
    """A chunk that is being executed."""

    chunk: ActionChunk
    tracks: Mapping[str, Track]


Plan = tuple[Planned, ...]  # by start, oldest first


def newest_chunk(plan: Plan) -> ActionChunk | None:
    """Return the newest chunk of a plan."""
    return plan[-1].chunk if plan else None


class ChunkPlayer:
    """Adds chunks to a plan, and reads the action that is due from it; the plan is passed in and out."""

    def __init__(
        self, keys: Mapping[str, VectorKey], execution: Execution | None = None, endless: Collection[str] = ()
    ) -> None:
        """Prepare for chunks.

        Args:
            keys: action keys that every chunk must have, with their channels.
            execution: mode and curve.
            endless: channels that are angles of joints which turn without end.

        Raises:
            ValueError: an endless channel is not measured as an angle.
        """
        self._keys = dict(keys)
        self._execution = execution or Execution()
        self.motions = {key: KeyMotion(vector, self._execution.curve, endless) for key, vector in keys.items()}

    def accept(self, plan: Plan, chunk: ActionChunk, now_ns: int | None = None) -> Plan | None:
        """Return the plan with a chunk; None if it has one of the same or a newer observation.

        Args:
            plan: so far.
            chunk: to execute.
            now_ns: node clock, to refuse answers to observations in the future; None: they are not refused.

        Raises:
            ChunkError: a key is missing, has another shape, holds NaN, infinity, a value beyond `LARGEST` or a rotation
                without length, or the observation is more than a step in the future.
        """
        check_chunk(chunk, self._keys)
        if now_ns is not None and chunk.start_ns - now_ns > chunk.step_ns:
            ahead_ms = (chunk.start_ns - now_ns) / 1e6
            raise ChunkError(f"chunk answers an observation {ahead_ms:.0f} ms in the future; check the inputs' clocks")
        newest = newest_chunk(plan)
        if newest is not None and chunk.start_ns <= newest.start_ns:
            return None
        tracks = {key: self._track(key, chunk.actions[key]) for key in self._keys}
        return (*(each for each in plan if each.chunk.end_ns >= chunk.start_ns), Planned(chunk, tracks))

    def sample(self, plan: Plan, now_ns: int) -> tuple[Plan, dict[str, np.ndarray] | None]:
        """Return the plan without what is over, and key -> (D,) due at `now_ns`, None if no chunk covers that time.

        Angles of endless joints may be whole turns away from those in the chunk.
        """
        started = [each for each in plan if each.chunk.start_ns <= now_ns]
        if not started or now_ns > started[-1].chunk.end_ns:
            return plan, None
        if self._execution.mode is not ExecutionMode.TEMPORAL_ENSEMBLE:
            return plan[len(started) - 1 :], self._read(started[-1], now_ns)
        covering = [each for each in started if each.chunk.end_ns >= now_ns]
        newest = covering[-1].chunk
        ages = np.array([(newest.start_ns - each.chunk.start_ns) / newest.step_ns for each in covering])
        exponents = -self._execution.ensemble_decay * ages
        weights = np.exp(exponents - exponents.max())
        values = [self._read(each, now_ns) for each in covering]
        weights /= weights.sum()
        means = {key: motion.mean([value[key] for value in values], weights) for key, motion in self.motions.items()}
        return plan, means

    def continuation(self, plan: Plan, stamp_ns: int, latency_ns: int) -> Continuation | None:
        """Return what the answer to an observation must continue; None in other modes, or when nothing is left.

        Args:
            plan: so far.
            stamp_ns: of the observation.
            latency_ns: expected time from the observation to the chunk.
        """
        chunk = newest_chunk(plan)
        if self._execution.mode is not ExecutionMode.REAL_TIME_CHUNKING or chunk is None:
            return None
        if not chunk.start_ns <= stamp_ns <= chunk.end_ns:
            return None
        # those that are over, and the two between which the motion is when the new chunk arrives
        frozen_steps = max(latency_ns, 0) // chunk.step_ns + 2
        execution = self._execution
        return Continuation(chunk, frozen_steps, ramp_rate=execution.rtc_ramp_rate, guidance=execution.rtc_guidance)

    def _track(self, key: str, rows: np.ndarray) -> Track:
        try:
            return self.motions[key].track(rows)
        except ValueError as error:
            raise ChunkError(f"chunk key '{key}': {error}") from error

    def _read(self, planned: Planned, now_ns: int) -> dict[str, np.ndarray]:
        row, part = divmod(now_ns - planned.chunk.start_ns, planned.chunk.step_ns)
        fraction = part / planned.chunk.step_ns
        return {key: motion.at(planned.tracks[key], row, fraction) for key, motion in self.motions.items()}


def check_chunk(chunk: ActionChunk, keys: Mapping[str, VectorKey]) -> None:
    """Refuse a chunk that is not (H, D), finite and at most `LARGEST` for every key.

    Raises:
        ChunkError: names the key, what was found and what was expected.
    """
    if set(chunk.actions) != set(keys):
        raise ChunkError(f"chunk has keys [{', '.join(chunk.actions)}], expected [{', '.join(keys)}]")
    if chunk.step_ns <= 0:
        raise ChunkError(f"chunk has a step of {chunk.step_ns} ns, expected more than 0")
    horizon: int | None = None
    for key, vector in keys.items():
        rows = chunk.actions[key]
        if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "fiu":
            kind = rows.dtype if isinstance(rows, np.ndarray) else type(rows).__name__
            raise ChunkError(f"chunk key '{key}' holds {kind}, expected an array of numbers")
        if horizon is None and rows.ndim:
            horizon = rows.shape[0]
        if rows.shape != (horizon, vector.dim) or not horizon:
            raise ChunkError(f"chunk key '{key}' has shape {rows.shape}, expected ({horizon or 'H'}, {vector.dim})")
        if not np.isfinite(rows).all():
            raise ChunkError(
                f"chunk key '{key}' holds NaN or infinity in row {int(np.argwhere(~np.isfinite(rows))[0, 0])}"
            )
        if np.abs(rows).max() > LARGEST:
            raise ChunkError(f"chunk key '{key}' holds {rows.flat[np.abs(rows).argmax()]:g}, which no joint can reach")

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""How smooth the chunks are: inside themselves, and where one takes over from another.

Three numbers show where a shaking motion comes from:

    acceleration     mean length of the second difference between the rows of a chunk, per key [unit/s^2]
    boundary jump    length of the step from the old chunk into the new one, relative to the steps of both chunks; 1 is
                     a motion that continues unchanged
    velocity cosine  between the velocity of the old chunk and that of the new one; 1 continues in the same direction

Steps last one tick of the policy. Rotations count by their angle [rad]. Keys that move in steps are left out; of the
others the worst counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from gr00t_policy_node.chunking.motion import KeyMotion, Track
from gr00t_policy_node.timing import Quantiles, RecentValues
from gr00t_training.types import ActionChunk

MAX_WAITING = 1000  # chunks, when nothing reads the numbers
BOUNDARY_JUMP, VELOCITY_COSINE = "boundary jump", "velocity cosine"
_STANDING = 1e-9  # a shorter step has no direction


class JitterMonitor:
    """Distributions of the last minute. One thread may add while another one asks."""

    def __init__(self, motions: Mapping[str, KeyMotion]) -> None:
        """Watch the action keys `motions`, those that move in steps excepted."""
        self._motions = {key: motion for key, motion in motions.items() if not motion.is_step}
        self._accelerations = {key: RecentValues() for key in self._motions}
        self._jumps, self._cosines = RecentValues(), RecentValues()
        # the chunk is needed sooner than its numbers
        self._waiting: deque[tuple[ActionChunk | None, ActionChunk, int]] = deque(maxlen=MAX_WAITING)

    def add(self, before: ActionChunk | None, chunk: ActionChunk, switch_ns: int) -> None:
        """Take a chunk, and the one that it takes over from at `switch_ns`; measured when the numbers are read."""
        self._waiting.append((before, chunk, switch_ns))

    def describe(self) -> list[Quantiles]:
        """Return the distributions; zeros when nothing happened. Of the cosine, small values are the bad ones."""
        while self._waiting:
            self._measure(*self._waiting.popleft())
        return [
            self._jumps.describe(BOUNDARY_JUMP),
            self._cosines.describe(VELOCITY_COSINE, small_is_bad=True),
            *(values.describe(f"acceleration {key}") for key, values in self._accelerations.items()),
        ]

    def quantiles(self) -> dict[str, list[float]]:
        """Return name -> p50, p95, p99 of each distribution."""
        return {found.name: [found.p50, found.p95, found.p99] for found in self.describe()}

    def _measure(self, before: ActionChunk | None, chunk: ActionChunk, switch_ns: int) -> None:
        jumps, cosines = [], []
        for key, motion in self._motions.items():
            track = motion.track(chunk.actions[key])
            steps = motion.steps(track)
            if len(steps) > 1:
                second = np.linalg.norm(np.diff(steps, axis=0), axis=1) / (chunk.step_ns / 1e9) ** 2
                self._accelerations[key].add(float(second.mean()))
            if before is None:
                continue
            own = _Timed(motion, motion.track(before.actions[key]), before), _Timed(motion, track, chunk)
            boundary = _boundary(motion, *own, switch_ns)
            if boundary is not None:
                jumps.append(boundary[0])
                cosines.append(boundary[1])
        if jumps:
            self._jumps.add(max(jumps))
            self._cosines.add(min(cosines))


class _Timed:
    """A track on the clock."""

    def __init__(self, motion: KeyMotion, track: Track, chunk: ActionChunk) -> None:
        self._motion, self._track, self._chunk = motion, track, chunk

    def at(self, time_ns: int) -> np.ndarray | None:
        if not self._chunk.start_ns <= time_ns <= self._chunk.end_ns:
            return None
        row, part = divmod(time_ns - self._chunk.start_ns, self._chunk.step_ns)
        return self._motion.at(self._track, row, part / self._chunk.step_ns)

    @property
    def step_ns(self) -> int:
        return self._chunk.step_ns


def _boundary(motion: KeyMotion, old: _Timed, new: _Timed, switch_ns: int) -> tuple[float, float] | None:
    """Return jump and cosine; None if a chunk does not reach a step beyond the boundary, or both stand."""
    old_before, old_now = old.at(switch_ns - old.step_ns), old.at(switch_ns)
    new_now, new_after = new.at(switch_ns), new.at(switch_ns + new.step_ns)
    if old_before is None or old_now is None or new_now is None or new_after is None:
        return None
    old_step, new_step = motion.difference(old_now, old_before), motion.difference(new_after, new_now)
    old_length, new_length = float(np.linalg.norm(old_step)), float(np.linalg.norm(new_step))
    if old_length < _STANDING or new_length < _STANDING:
        return None
    jump = float(np.linalg.norm(motion.difference(new_now, old_before)))
    return jump / (0.5 * (old_length + new_length)), float(old_step @ new_step) / (old_length * new_length)

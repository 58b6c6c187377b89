# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""How large the steps are where one chunk takes over from another, compared with the steps beside them.

Steps last one row of a chunk and count by their length over all joints. Those that are asked for are read from the
chunks, those that are sent from the positions the controller received; between the two, limits smooth a motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

STANDING_RAD = 0.002  # a shorter step has no direction


@dataclass(frozen=True)
class ChunkTrack:
    """A chunk as it was published."""

    start_ns: int  # its first row is due
    step_ns: int
    rows: np.ndarray  # (H, D)
    taken_ns: int  # it took over; all chunks in this order


@dataclass(frozen=True)
class Steps:
    """Lengths summed over boundaries [rad]; sums of several runs add up."""

    boundary: float = 0.0
    beside: float = 0.0  # half of the step before and the step after
    count: int = 0  # boundaries
    reversals: int = 0  # of them, those at which the motion turns back

    @property
    def ratio(self) -> float | None:
        """Step at a boundary relative to the steps beside it, over all of them; None: nothing moved."""
        return self.boundary / self.beside if self.beside > 0 else None

    @property
    def reversal_share(self) -> float | None:
        """Share of the boundaries at which the motion turns back; None: there are none."""
        return self.reversals / self.count if self.count else None

    def __add__(self, other: Steps) -> Steps:
        return Steps(
            self.boundary + other.boundary,
            self.beside + other.beside,
            self.count + other.count,
            self.reversals + other.reversals,
        )


def asked_steps(chunks: Sequence[ChunkTrack]) -> Steps:
    """Return the steps of what consecutive chunks ask for; boundaries that a chunk does not reach are left out."""
    total = Steps()
    for old, new in pairwise(chunks):
        at, step = new.taken_ns, new.step_ns
        places = [(old, at - 2 * step), (old, at - step), (new, at), (new, at + step)]
        if all(each.start_ns <= time <= each.start_ns + (len(each.rows) - 1) * each.step_ns for each, time in places):
            total += _steps(np.array([_at(each, time) for each, time in places]))
    return total


def sent_steps(times_ns: np.ndarray, positions: np.ndarray, chunks: Sequence[ChunkTrack]) -> Steps:
    """Return the steps of what was sent.

    Args:
        times_ns: `(N,)` ascending.
        positions: `(N, D)` sent at these times, linear between them.
        chunks: the first one is no boundary.
    """
    total = Steps()
    for chunk in chunks[1:]:
        at = chunk.taken_ns + chunk.step_ns * np.arange(-1, 3)
        if len(times_ns) and times_ns[0] <= at[0] and at[-1] <= times_ns[-1]:
            columns = [np.interp(at, times_ns, column) for column in np.asarray(positions).T]
            total += _steps(np.array(columns).T)
    return total


def _steps(four: np.ndarray) -> Steps:
    """Return the middle one of the three steps between four positions `(4, D)`, and those beside it."""
    steps = np.diff(four, axis=0)
    before, boundary, after = np.linalg.norm(steps, axis=1).tolist()
    turns_back = min(before, boundary) > STANDING_RAD and float(steps[0] @ steps[1]) < 0.0
    return Steps(boundary, (before + after) / 2, 1, int(turns_back))


def _at(chunk: ChunkTrack, time_ns: int) -> np.ndarray:
    row, part = divmod(time_ns - chunk.start_ns, chunk.step_ns)
    if part == 0:
        return chunk.rows[row]
    share = part / chunk.step_ns
    return (1 - share) * chunk.rows[row] + share * chunk.rows[row + 1]

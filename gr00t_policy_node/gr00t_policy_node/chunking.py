# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Which action is due at a time.

A chunk answers the observation of its `start_ns`, so the row that is due follows from the clock alone: the time that
inference took is compensated by construction, and a chunk that comes late simply starts with a later row. The newest
observation wins whole (receding horizon); smoothing the seam between two chunks is the motion guard's business.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gr00t_training.embodiment import Interpolation, VectorKey
from gr00t_training.types import ActionChunk


class ChunkError(ValueError):
    """A chunk that must not be executed."""


class ChunkPlayer:
    """Holds the newest chunk and reads the action that is due from it."""

    def __init__(self, keys: Mapping[str, VectorKey]) -> None:
        """`keys` are the action keys that every chunk must have, with their channels."""
        self._keys = dict(keys)
        self._chunk: ActionChunk | None = None

    @property
    def chunk(self) -> ActionChunk | None:
        """The chunk that is being executed."""
        return self._chunk

    def accept(self, chunk: ActionChunk) -> bool:
        """Take a chunk; False when a chunk of a newer observation is held already.

        Raises:
            ChunkError: a key is missing, has another shape, or holds NaN or infinity; the held chunk stays.
        """
        check_chunk(chunk, self._keys)
        if self._chunk is not None and chunk.start_ns <= self._chunk.start_ns:
            return False
        self._chunk = chunk
        return True

    def clear(self) -> None:
        """Forget the chunk."""
        self._chunk = None

    def sample(self, now_ns: int) -> dict[str, np.ndarray] | None:
        """Return key -> (D,) due at `now_ns`, or None when no chunk covers that time."""
        chunk = self._chunk
        if chunk is None or not chunk.start_ns <= now_ns <= chunk.end_ns:
            return None
        row, part = divmod(now_ns - chunk.start_ns, chunk.step_ns)
        fraction = part / chunk.step_ns
        return {
            key: interpolate(chunk.actions[key], row, fraction, vector.interpolation)
            for key, vector in self._keys.items()
        }


def check_chunk(chunk: ActionChunk, keys: Mapping[str, VectorKey]) -> None:
    """Refuse a chunk that is not (H, D) and finite for every key.

    Raises:
        ChunkError: names the key, what was found and what was expected.
    """
    if set(chunk.actions) != set(keys):
        raise ChunkError(f"chunk has keys [{', '.join(chunk.actions)}], expected [{', '.join(keys)}]")
    for key, vector in keys.items():
        rows = chunk.actions[key]
        if rows.ndim != 2 or rows.shape[1] != vector.dim or rows.shape[0] != chunk.horizon or chunk.horizon < 1:
            raise ChunkError(f"chunk key '{key}' has shape {rows.shape}, expected ({chunk.horizon}, {vector.dim})")
        if not np.isfinite(rows).all():
            raise ChunkError(
                f"chunk key '{key}' holds NaN or infinity in row {int(np.argwhere(~np.isfinite(rows))[0, 0])}"
            )


def interpolate(rows: np.ndarray, row: int, fraction: float, kind: Interpolation) -> np.ndarray:
    """Return the value a `fraction` of a step after `row`; the last row has no next.

    Args:
        rows: (H, D).
        row: 0 .. H-1.
        fraction: 0 .. 1.
        kind: linear, step (the row itself), or slerp for (w, x, y, z) quaternions.
    """
    if kind is Interpolation.STEP or row + 1 >= len(rows):
        return rows[row].copy()
    if kind is Interpolation.SLERP:
        return slerp(rows[row], rows[row + 1], fraction)
    return (1.0 - fraction) * rows[row] + fraction * rows[row + 1]


def slerp(first: np.ndarray, second: np.ndarray, fraction: float) -> np.ndarray:
    """Interpolate two unit quaternions (4,) along the shorter great circle."""
    cosine = float(np.dot(first, second))
    if cosine < 0.0:  # q and -q are one rotation
        second, cosine = -second, -cosine
    if cosine > 0.9995:  # sin(angle) too small to divide by
        value = (1.0 - fraction) * first + fraction * second
    else:
        angle = np.arccos(min(cosine, 1.0))
        value = (np.sin((1.0 - fraction) * angle) * first + np.sin(fraction * angle) * second) / np.sin(angle)
    return value / np.linalg.norm(value)

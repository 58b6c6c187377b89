# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Values between two actions of a key, and the nearest of several equal actions.

A key's channels move in one of three ways: rotations along the great circle between them, step keys not at all, and the
others straight or along a monotone curve. Angles of continuous joints take the shorter way around.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from gr00t_recorder.topics.layout import Turn, declared_turns
from gr00t_recorder.topics.units import full_turn
from gr00t_training.embodiment import Interpolation, Rotation, VectorKey
from gr00t_training.rotations import convert, from_matrix, slerp, to_matrix

# Rotation forms with rows that a policy may give without unit length.
_LENGTHS = (Rotation.QUATERNION, Rotation.ROTATION_6D, Rotation.MATRIX)


class Curve(str, Enum):
    """How channels that are not rotations go from one action to the next."""

    LINEAR = "linear"
    CUBIC = "cubic"  # with a continuous velocity, and never beyond the two actions around it


@dataclass(frozen=True)
class Track:
    """Rows of one key, ready to be read between."""

    rows: np.ndarray  # (H, D) float64, endless joints without jumps
    turns: tuple[np.ndarray, ...]  # per rotation of the key: unit quaternions (H, 4), neighbors in one hemisphere


class KeyMotion:
    """The motion of one key."""

    def __init__(self, key: VectorKey, curve: Curve = Curve.LINEAR, endless: Collection[str] = ()) -> None:
        """Prepare for a key.

        Args:
            key: of the action.
            curve: between two actions; step keys and rotations have their own.
            endless: names of channels, of any key, that are angles of joints which turn without end.

        Raises:
            ValueError: an endless channel is not measured as an angle.
        """
        self._is_step = key.interpolation is Interpolation.STEP
        self._turns: tuple[Turn, ...] = declared_turns(key)
        self._places = [list(turn.channels) for turn in self._turns]
        self._curve = curve
        # of a quaternion or matrix this is empty: their channels are not angles
        turning = {channel for places in self._places for channel in places}
        self._round = [i for i, name in enumerate(key.names) if name in endless and i not in turning]
        self._period = full_turn(key.unit) if self._round else 2 * np.pi
        self._straight = [i for i in range(key.dim) if i not in turning]

    @property
    def is_step(self) -> bool:
        """Whether values between two actions are not allowed."""
        return self._is_step

    def track(self, rows: np.ndarray) -> Track:
        """Prepare rows (H, D); ValueError when a rotation has no length."""
        rows = rows.astype(np.float64)
        if self._is_step:
            return Track(rows, ())
        if self._round:
            rows[:, self._round] = np.unwrap(rows[:, self._round], axis=0, period=self._period)
        turns = []
        for turn, places in zip(self._turns, self._places, strict=True):
            turns.append(_unit_quaternions(rows[:, places], turn.form))
            if turn.form in _LENGTHS:
                rows[:, places] = convert(turns[-1], Rotation.QUATERNION, turn.form)
        return Track(rows, tuple(turns))

    def at(self, track: Track, row: int, fraction: float) -> np.ndarray:
        """Return the value (D,) a `fraction` (0..1) of a step after `row`; the last row has no next."""
        rows = track.rows
        if self._is_step or row + 1 >= len(rows) or fraction == 0.0:
            return rows[row].copy()
        value = _between(rows, row, fraction, self._curve)
        for turn, places, quaternions in zip(self._turns, self._places, track.turns, strict=True):
            between = slerp(quaternions[row], quaternions[row + 1], fraction)
            value[places] = convert(between, Rotation.QUATERNION, turn.form)
        return value

    def mean(self, values: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
        """Return the weighted mean (D,) of values, newest last; a step key takes the newest.

        Args:
            values: (D,) each.
            weights: (K,) that sum to one.
        """
        newest = values[-1]
        if self._is_step or len(values) == 1:
            return newest.copy()
        stack = np.stack([self.nearest(value, newest) for value in values])
        mean = weights @ stack
        for turn, places in zip(self._turns, self._places, strict=True):
            quaternions = convert(stack[:, places], turn.form, Rotation.QUATERNION)
            mean[places] = convert(mean_quaternion(quaternions, weights), Rotation.QUATERNION, turn.form)
        return self.nearest(mean, newest)

    def nearest(self, value: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Return the value (D,) that is the same position and closest to `reference` in its channels.

        An endless joint is turned by whole turns, a quaternion gets the other sign, angles the other way round.
        """
        if not (self._round or self._turns):
            return value
        value = value.copy()
        if self._round:
            value[self._round] = _nearest_angle(value[self._round], reference[self._round], self._period)
        for turn, places in zip(self._turns, self._places, strict=True):
            value[places] = _nearest_rotation(value[places], reference[places], turn.form)
        return value

    def steps(self, track: Track) -> np.ndarray:
        """Return the ways from row to row (H - 1, E): channels in the key's unit, rotations as vectors [rad]."""
        parts = [np.diff(track.rows[:, self._straight], axis=0)]
        for quaternions in track.turns:
            matrices = to_matrix(quaternions, Rotation.QUATERNION)
            parts.append(_turn_between(matrices[:-1], matrices[1:]))
        return np.concatenate(parts, axis=1)

    def difference(self, value: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Return the way from `reference` to `value` (D,): (E,) in the key's unit, rotations as vectors [rad]."""
        parts = [(self.nearest(value, reference) - reference)[self._straight]]
        for turn, places in zip(self._turns, self._places, strict=True):
            first, second = (to_matrix(x[places], turn.form) for x in (reference, value))
            parts.append(_turn_between(first, second))
        return np.concatenate(parts)


def unit_rotation(value: np.ndarray, form: Rotation) -> np.ndarray:
    """Return a rotation (E,) in the form that every other one of its kind has; ValueError when it has no length."""
    quaternions = _unit_quaternions(value[None], form)
    return convert(quaternions, Rotation.QUATERNION, form)[0] if form in _LENGTHS else value


def mean_quaternion(quaternions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the unit quaternion (4,) closest to `quaternions` (K, 4), where q and -q count as one (Markley 2007)."""
    unit = quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)
    return np.linalg.eigh((unit * weights[:, None]).T @ unit)[1][:, -1]


def _between(rows: np.ndarray, row: int, fraction: float, curve: Curve) -> np.ndarray:
    first, second = rows[row], rows[row + 1]
    if curve is Curve.LINEAR:
        return (1.0 - fraction) * first + fraction * second
    step = second - first
    before = step if row == 0 else first - rows[row - 1]
    after = step if row + 2 >= len(rows) else rows[row + 2] - second
    start, end = _slope(before, step), _slope(step, after)
    # cubic Hermite polynomial
    t, t2, t3 = fraction, fraction**2, fraction**3
    value = (2 * t3 - 3 * t2 + 1) * first + (t3 - 2 * t2 + t) * start + (3 * t2 - 2 * t3) * second + (t3 - t2) * end
    # monotone except for rounding, which must not exceed a range with position limits at its ends
    return np.clip(value, np.minimum(first, second), np.maximum(first, second))


def _slope(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return slopes that keep a cubic Hermite polynomial monotone (Fritsch and Butland 1984): the harmonic mean."""
    turns_back = np.sign(before) * np.sign(after) <= 0
    # 2 a b / (a + b), without a product that overflows
    small, large = np.minimum(np.abs(before), np.abs(after)), np.maximum(np.abs(before), np.abs(after))
    ratio = small / np.where(large > 0, large, 1.0)
    return np.where(turns_back, 0.0, np.sign(after) * 2 * small / (1 + ratio))


def _nearest_angle(value: np.ndarray, reference: np.ndarray, period: float) -> np.ndarray:
    half = period / 2
    way = np.remainder(value - reference + half, period) - half
    # a value that is near already is not touched, not even by rounding
    return np.where(np.abs(value - reference) <= half, value, reference + way)


def _nearest_rotation(value: np.ndarray, reference: np.ndarray, form: Rotation) -> np.ndarray:
    if form is Rotation.QUATERNION:
        return -value if np.dot(value, reference) < 0.0 else value
    if form is Rotation.AXIS_ANGLE:
        angle = float(np.linalg.norm(value))
        if angle == 0.0:
            return value
        axis = value / angle
        turns = round((float(np.dot(axis, reference)) - angle) / (2 * np.pi))  # the reference's angle about this axis
        return value if turns == 0 else axis * (angle + 2 * np.pi * turns)
    if form.value.startswith("euler"):
        return _nearest_angle(value, reference, 2 * np.pi)
    return value


def _unit_quaternions(rows: np.ndarray, form: Rotation) -> np.ndarray:
    """Return unit quaternions (H, 4) of rotations (H, E), each in the hemisphere of the one before."""
    quaternions = convert(rows, form, Rotation.QUATERNION)
    lengths = np.linalg.norm(quaternions, axis=1, keepdims=True)
    if not (lengths > 0.0).all():
        raise ValueError("a quaternion has no length or is not finite, expected a rotation")
    quaternions = quaternions / lengths
    flips = np.sum(quaternions[1:] * quaternions[:-1], axis=1) < 0.0
    signs = np.concatenate([[1.0], np.where(np.cumsum(flips) % 2, -1.0, 1.0)])
    return quaternions * signs[:, None]


def _turn_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the rotations (..., 3) that lead from matrices `first` (..., 3, 3) to `second`, axis times angle [rad]."""
    return from_matrix(np.swapaxes(first, -1, -2) @ second, Rotation.AXIS_ANGLE)

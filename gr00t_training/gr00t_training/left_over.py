# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What is left of a chunk when the next one is made, in the robot's units (real-time chunking).

A model can be told values within the range of its statistics only. Relative actions have a range of their own in every
row, so what is left, counted anew from the state that the robot has reached, may lie outside. The robot carries it out
all the same: the next chunk takes its frozen rows unchanged, and what could not be told fades over the rows behind.

Letters in shapes: O rows that are left, D channels of a key.
"""

from __future__ import annotations

import numpy as np

from gr00t_training.embodiment import Interpolation, Rotation, VectorKey
from gr00t_training.rotations import WIDTHS, from_matrix, identity_pose, to_absolute, to_matrix, to_relative


def rows_at(key: VectorKey, actions: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return actions `(H, D)` at fractional rows `(O,)`: between two of them, or the nearest one of a key of steps."""
    last = len(actions) - 1
    if key.interpolation is Interpolation.STEP:
        return actions[np.clip(np.round(rows).astype(int), 0, last)]
    low = np.clip(np.floor(rows).astype(int), 0, last)
    high = np.minimum(low + 1, last)
    return _moved(key, actions[low], actions[low], actions[high], np.clip(rows - low, 0, 1))


def corrected(key: VectorKey, new: np.ndarray, told: np.ndarray, left: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return a key's new rows `(H, D)` with what the model could not be told added to the first `O`.

    Args:
        key: of the action.
        new: rows of the model.
        told: what the model was told of `left`, `(O, D)`.
        left: rows of the earlier chunk, `(O, D)`.
        weights: share of the difference to add `(O,)`; where it is 1 the earlier row itself is taken.
    """
    overlap = len(left)
    is_frozen = weights == 1
    # a key of steps has no values between
    shares = is_frozen.astype(float) if key.interpolation is Interpolation.STEP else weights
    moved = _moved(key, new[:overlap], told, left, shares)
    return np.concatenate([np.where(is_frozen[:, None], left, moved), new[overlap:]])


def _moved(key: VectorKey, base: np.ndarray, first: np.ndarray, second: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return `base` `(O, D)` moved by shares `(O,)` of the way from `first` to `second`."""
    shares = shares[:, None]
    if key.pose is not None:
        still = identity_pose(key.pose)
        return to_absolute(still + shares * (to_relative(second, first, key.pose) - still), base, key.pose)
    form = _rotation(key)
    if form is None:
        return base + shares * (second - first)
    way = np.swapaxes(to_matrix(first, form), -1, -2) @ to_matrix(second, form)
    turn = to_matrix(shares * from_matrix(way, Rotation.AXIS_ANGLE), Rotation.AXIS_ANGLE)
    return from_matrix(to_matrix(base, form) @ turn, form)


def _rotation(key: VectorKey) -> Rotation | None:
    if key.rotation is None and key.interpolation is Interpolation.SLERP and key.dim == WIDTHS[Rotation.QUATERNION]:
        return Rotation.QUATERNION
    return key.rotation

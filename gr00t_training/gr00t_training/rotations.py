# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Rotations in the forms that datasets and models use, all through the 3x3 matrix; and values relative to others.

Conventions, stated here once:

    matrix       acts on column vectors; flat form is row by row
    quaternion   (w, x, y, z), real part first, normalized when read, w >= 0 when made. ROS messages are (x, y, z, w).
    axis angle   unit axis times angle in radians, angle in [0, pi] when made
    rotation 6D  the first two rows of the matrix (arXiv 1812.07035 uses columns); read with Gram-Schmidt on rows
    euler        letters r, p, y are the axes X, Y, Z; `abc` is the intrinsic product R_a(first) R_b(second) R_c(third);
                 the middle angle is in [-pi/2, pi/2] when made

    pose         position, then rotation as axis angle or 6D; or a flat 4x4 matrix, row by row

The last axis holds the rotation, any axes before it are kept, and so is the floating type.
"""

from __future__ import annotations

import numpy as np

from gr00t_training.embodiment import Pose, Rotation

WIDTHS = {
    Rotation.QUATERNION: 4,
    Rotation.ROTATION_6D: 6,
    Rotation.AXIS_ANGLE: 3,
    Rotation.MATRIX: 9,
    Rotation.EULER_RPY: 3,
    Rotation.EULER_RYP: 3,
    Rotation.EULER_PRY: 3,
    Rotation.EULER_PYR: 3,
    Rotation.EULER_YRP: 3,
    Rotation.EULER_YPR: 3,
}
_ROTATION_OF_POSE = {Pose.XYZ_ROTATION_6D: Rotation.ROTATION_6D, Pose.XYZ_AXIS_ANGLE: Rotation.AXIS_ANGLE}
_AXES = {"r": 0, "p": 1, "y": 2}
# below this angle sin(angle / 2) / angle is replaced by its limit; the error is angle**2 / 48, under 1e-14
_SMALL_ANGLE_RAD = 1e-6
_NEXT, _LAST = np.array([1, 2, 0]), np.array([2, 0, 1])  # axes in cyclic order


def convert(x: np.ndarray, source: Rotation, target: Rotation) -> np.ndarray:
    """Return the rotations `x` `(..., width of source)` in the form `target`.

    Raises:
        ValueError: the last axis does not have the width of `source`, or a rotation is degenerate (zero quaternion,
            parallel rows).
    """
    if x.shape[-1] != WIDTHS[source]:
        raise ValueError(f"a rotation as {source.value} has {WIDTHS[source]} channels, found {x.shape[-1]}")
    if source is target:
        return x
    return from_matrix(to_matrix(x, source), target)


def to_matrix(x: np.ndarray, form: Rotation) -> np.ndarray:
    """Return matrices `(..., 3, 3)` of rotations `(..., width of form)`."""
    if form is Rotation.MATRIX:
        return x.reshape(*x.shape[:-1], 3, 3)
    if form is Rotation.QUATERNION:
        return _matrix_of_quaternion(x)
    if form is Rotation.ROTATION_6D:
        return _matrix_of_rows(x)
    if form is Rotation.AXIS_ANGLE:
        return _matrix_of_quaternion(_quaternion_of_axis_angle(x))
    first, second, third = (_turn(axis, x[..., i]) for i, axis in enumerate(_euler_axes(form)))
    return first @ second @ third


def from_matrix(matrix: np.ndarray, form: Rotation) -> np.ndarray:
    """Return rotations `(..., width of form)` of matrices `(..., 3, 3)`."""
    if form is Rotation.MATRIX:
        return matrix.reshape(*matrix.shape[:-2], 9)
    if form is Rotation.QUATERNION:
        return _quaternion_of_matrix(matrix)
    if form is Rotation.ROTATION_6D:
        return matrix[..., :2, :].reshape(*matrix.shape[:-2], 6)
    if form is Rotation.AXIS_ANGLE:
        return _axis_angle_of_quaternion(_quaternion_of_matrix(matrix))
    return _euler_of_matrix(matrix, _euler_axes(form))


def identity(form: Rotation) -> np.ndarray:
    """Return no rotation, `(width of form,)` float64."""
    return from_matrix(np.eye(3), form)


def identity_pose(form: Pose) -> np.ndarray:
    """Return the origin without rotation, `(width of form,)` float64."""
    return _join_pose(np.eye(3), np.zeros(3), form)


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


def to_relative(x: np.ndarray, reference: np.ndarray, pose: Pose | None) -> np.ndarray:
    """Return `x` `(..., D)` as seen from `reference` `(D,)` or `(..., D)`, float64.

    Poses are expressed in the frame of the reference pose; anything else (`pose` None) is a difference.

    Raises:
        ValueError: a rotation is degenerate.
    """
    x, reference = x.astype(np.float64), reference.astype(np.float64)
    if pose is None:
        return x - reference
    rotation, position = _split_pose(x, pose)
    base, origin = _split_pose(reference, pose)
    back = np.swapaxes(base, -1, -2)
    return _join_pose(back @ rotation, _turned(back, position - origin), pose)


def to_absolute(x: np.ndarray, reference: np.ndarray, pose: Pose | None) -> np.ndarray:
    """Undo `to_relative`; rotations of `x` need not be orthonormal."""
    x, reference = x.astype(np.float64), reference.astype(np.float64)
    if pose is None:
        return x + reference
    rotation, position = _split_pose(x, pose)
    base, origin = _split_pose(reference, pose)
    return _join_pose(base @ rotation, _turned(base, position) + origin, pose)


def _split_pose(x: np.ndarray, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Return rotation matrices `(..., 3, 3)` and positions `(..., 3)`."""
    if pose is Pose.MATRIX:
        matrix = x.reshape(*x.shape[:-1], 4, 4)
        return _nearest_rotation(matrix[..., :3, :3]), matrix[..., :3, 3]
    return to_matrix(x[..., 3:], _ROTATION_OF_POSE[pose]), x[..., :3]


def _join_pose(rotation: np.ndarray, position: np.ndarray, pose: Pose) -> np.ndarray:
    """Return poses `(..., D)` of rotation matrices and positions."""
    if pose is Pose.MATRIX:
        matrix = np.zeros((*position.shape[:-1], 4, 4), position.dtype)
        matrix[..., :3, :3], matrix[..., :3, 3], matrix[..., 3, 3] = rotation, position, 1
        return matrix.reshape(*position.shape[:-1], 16)
    return np.concatenate([position, from_matrix(rotation, _ROTATION_OF_POSE[pose])], -1)


def _turned(rotation: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return (rotation @ vector[..., None])[..., 0]


def _nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """Return the orthonormal matrices closest to `(..., 3, 3)`."""
    if not np.all(np.linalg.det(matrix) > 0):
        raise ValueError("a matrix has no positive determinant or is not finite, expected a rotation")
    left, _, right = np.linalg.svd(matrix)
    return left @ right


def _matrix_of_quaternion(quaternion: np.ndarray) -> np.ndarray:
    w, x, y, z = np.moveaxis(_unit(quaternion, "quaternion"), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def _quaternion_of_matrix(matrix: np.ndarray) -> np.ndarray:
    """Take the form of four equivalent ones that divides by the largest component (Shepperd 1978)."""
    m = [[matrix[..., i, j] for j in range(3)] for i in range(3)]
    # 4 q q^T of the quaternion q, one row per candidate
    candidates = np.stack(
        [
            np.stack([1 + m[0][0] + m[1][1] + m[2][2], m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]], -1),
            np.stack([m[2][1] - m[1][2], 1 + m[0][0] - m[1][1] - m[2][2], m[1][0] + m[0][1], m[0][2] + m[2][0]], -1),
            np.stack([m[0][2] - m[2][0], m[1][0] + m[0][1], 1 - m[0][0] + m[1][1] - m[2][2], m[2][1] + m[1][2]], -1),
            np.stack([m[1][0] - m[0][1], m[0][2] + m[2][0], m[2][1] + m[1][2], 1 - m[0][0] - m[1][1] + m[2][2]], -1),
        ],
        -2,
    )  # (..., 4, 4)
    best = np.argmax(np.diagonal(candidates, axis1=-2, axis2=-1), -1)[..., None, None]
    quaternion = _unit(np.take_along_axis(candidates, best, -2)[..., 0, :], "matrix")
    return np.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def _quaternion_of_axis_angle(x: np.ndarray) -> np.ndarray:
    angle = np.linalg.norm(x, axis=-1, keepdims=True)
    is_small = angle < _SMALL_ANGLE_RAD
    ratio = np.where(is_small, 0.5, np.sin(angle / 2) / np.where(is_small, 1, angle))
    return np.concatenate([np.cos(angle / 2), x * ratio], -1).astype(x.dtype)


def _axis_angle_of_quaternion(quaternion: np.ndarray) -> np.ndarray:
    vector = quaternion[..., 1:]
    sine = np.linalg.norm(vector, axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, quaternion[..., :1])
    is_small = angle < _SMALL_ANGLE_RAD
    return (vector * np.where(is_small, 2, angle / np.where(is_small, 1, sine))).astype(quaternion.dtype)


def _matrix_of_rows(x: np.ndarray) -> np.ndarray:
    first = _unit(x[..., :3], "6D rotation")
    second = x[..., 3:]
    second = _unit(second - (first * second).sum(-1, keepdims=True) * first, "6D rotation")
    # np.cross takes five times as long for one row
    third = first[..., _NEXT] * second[..., _LAST] - first[..., _LAST] * second[..., _NEXT]
    return np.stack([first, second, third], -2)


def _turn(axis: int, angle: np.ndarray) -> np.ndarray:
    """Return the matrices `(..., 3, 3)` of turns about a coordinate axis."""
    matrix = np.zeros((*angle.shape, 3, 3), angle.dtype)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[..., axis, axis] = 1
    matrix[..., i, i] = matrix[..., j, j] = np.cos(angle)
    matrix[..., j, i] = np.sin(angle)
    matrix[..., i, j] = -np.sin(angle)
    return matrix


def _euler_of_matrix(matrix: np.ndarray, axes: tuple[int, int, int]) -> np.ndarray:
    i, j, k = axes
    sign = 1.0 if (j - i) % 3 == 1 else -1.0  # axes in cyclic order or not
    middle = np.arcsin(np.clip(sign * matrix[..., i, k], -1, 1))
    first = np.arctan2(-sign * matrix[..., j, k], matrix[..., k, k])
    third = np.arctan2(-sign * matrix[..., i, j], matrix[..., i, i])
    return np.stack([first, middle, third], -1).astype(matrix.dtype)


def _euler_axes(form: Rotation) -> tuple[int, int, int]:
    first, second, third = form.value.removeprefix("euler_angles_")
    return _AXES[first], _AXES[second], _AXES[third]


def _unit(x: np.ndarray, name: str) -> np.ndarray:
    norm = np.sqrt((x * x).sum(-1, keepdims=True))  # np.linalg.norm takes three times as long for one row
    if not (norm > 0).all():
        raise ValueError(f"a {name} has no length or is not finite, expected a rotation")
    return x / norm

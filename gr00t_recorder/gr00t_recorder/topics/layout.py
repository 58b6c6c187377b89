# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Turn the parts of a message into a key's vector, and blend two vectors of a key.

Rotations come out in the form that the key declares. q and -q are one rotation: a quaternion gets the sign that makes
its first component of some size positive, so that a policy sees the recorded sign, wherever it begins. The
usual w >= 0 would flicker where many tools point down (half a turn, w = 0). Actions follow the row before instead
(`FrameAssembler.follow`): a chunk of them must not jump.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gr00t_recorder.topics.bindings import VectorBinding
from gr00t_recorder.topics.fields import ROTATION, Part
from gr00t_recorder.topics.units import full_turn, unit_factor
from gr00t_training.embodiment import Interpolation, Pose, Rotation, VectorKey
from gr00t_training.errors import ObservationError
from gr00t_training.rotations import WIDTHS, convert, from_matrix, slerp, to_matrix

_POSITION_IN_MATRIX = (3, 7, 11)  # of a flat 4x4 pose
_ROTATION_IN_POSE = {Pose.XYZ_ROTATION_6D: Rotation.ROTATION_6D, Pose.XYZ_AXIS_ANGLE: Rotation.AXIS_ANGLE}
# Some component of a unit quaternion is 0.5 or more; half of that is far from the poses that tools are mounted in.
_SIGN_FROM = 0.25
_EULER = tuple(form for form in Rotation if form.value.startswith("euler"))
_ANGLES = (*_EULER, Rotation.AXIS_ANGLE)  # forms that have a unit


@dataclass(frozen=True)
class Turn:
    """A rotation among the channels of a key."""

    channels: tuple[int, ...]  # places in the key's vector, in the order of the form
    form: Rotation


class Layout:
    """How parts of one shape become a key's vector."""

    def __init__(self, shape: tuple[int | None, ...], key: VectorKey, binding: VectorBinding) -> None:
        """Plan the vector.

        Args:
            shape: widths of the parts in order, `fields.ROTATION` for a quaternion.
            key: the key of the embodiment.
            binding: where it comes from.

        Raises:
            ValueError: the shape or the unit does not fit the key.
        """
        self.shape = shape
        self._dim = key.dim
        self._pose = key.pose
        self._form = _rotation_form(key, binding)
        self._is_raw = ROTATION not in shape
        self._start = binding.start
        self._only_rotation = key.rotation is not None and not self._is_raw
        if self._is_raw:
            scaled = self._plan_numbers(key)
        elif key.pose is not None:
            scaled = self._plan_pose(key.pose)
        elif self._only_rotation:
            scaled = self._plan_rotation()
        else:
            scaled = self._plan_slice()
        factor, offset = scaling(key, binding)
        self._is_scaled = (factor, offset) != (1.0, 0.0)
        self._factor, self._offset = np.where(scaled, factor, 1.0), np.where(scaled, offset, 0.0)

    def vector(self, parts: Sequence[Part]) -> np.ndarray:
        """Return the key's vector, `(D,)` float64, embodiment units; what is not finite stays so.

        Raises:
            ObservationError: a rotation has no length.
        """
        if any(part.is_rotation and not np.isfinite(part.values).all() for part in parts):
            return np.full(self._dim, np.nan)
        try:
            if self._pose is not None and not self._is_raw:
                values = self._pose_vector(parts)
            else:
                chosen = [part for part in parts if part.is_rotation or not self._only_rotation]
                values = np.concatenate([self._channels(part) for part in chosen])
                start = 0 if self._only_rotation else self._start
                values = values[start : start + self._dim]
            return self.finished(values, tuple(range(self._dim)))
        except ValueError as error:
            raise ObservationError(f"{error}") from error

    def finished(self, values: np.ndarray, group: tuple[int, ...]) -> np.ndarray:
        """Return values of the channels in `group` in embodiment units; ValueError when a rotation has no length."""
        if self._is_scaled:
            places = list(group)
            values = values * self._factor[places] + self._offset[places]
        if self.turns and self._is_raw and len(group) == self._dim and np.isfinite(values).all():
            return canonical(values, self.turns)
        return values

    def _plan_numbers(self, key: VectorKey) -> np.ndarray:
        """The numbers are in the key's own form."""
        found = sum(width or 0 for width in self.shape)
        if found < self._start + self._dim:
            raise ValueError(f"has {found} values, expected at least {self._start + self._dim}")
        self.turns = declared_turns(key)
        self.wrapped: tuple[int, ...] = ()
        unscaled = [channel for turn in self.turns if key.pose or turn.form not in _ANGLES for channel in turn.channels]
        return ~np.isin(np.arange(self._dim), unscaled)

    def _plan_pose(self, pose: Pose) -> np.ndarray:
        if self.shape != (3, ROTATION):
            raise ValueError(f"has {shape_text(self.shape)}, the key is a pose: expected a position and a rotation")
        self.turns, self.wrapped = pose_turns(pose), ()
        places = _POSITION_IN_MATRIX if pose is Pose.MATRIX else (0, 1, 2)
        return np.isin(np.arange(self._dim), places)

    def _plan_rotation(self) -> np.ndarray:
        if self.shape.count(ROTATION) != 1:
            raise ValueError(f"has {shape_text(self.shape)}, the key is one rotation; name its field")
        if self._start:
            raise ValueError("'start' would cut the rotation; leave it out")
        if self._dim != WIDTHS[self._form]:
            raise ValueError(f"the key has {self._dim} channels, a rotation as {self._form.value} {WIDTHS[self._form]}")
        self.turns, self.wrapped = (Turn(tuple(range(self._dim)), self._form),), ()
        return np.zeros(self._dim, dtype=bool)

    def _plan_slice(self) -> np.ndarray:
        """Take channels from the start on; rotations must be taken whole, unless they are angles."""
        scaled, turns, wrapped, place = np.ones(self._dim, dtype=bool), [], [], -self._start
        for width in self.shape:
            count = WIDTHS[self._form] if width is None else width
            inside = [channel for channel in range(place, place + count) if 0 <= channel < self._dim]
            if width is None and inside:
                scaled[inside] = False
                if len(inside) == count:
                    turns.append(Turn(tuple(inside), self._form))
                elif self._form in _EULER:
                    wrapped += inside
                else:
                    raise ValueError(
                        f"has {shape_text(self.shape)}, the key's {self._dim} channels from {self._start} on cut its "
                        f"rotation as {self._form.value}; set 'rotation' or 'field'"
                    )
            place += count
        if place < self._dim:
            raise ValueError(
                f"has {shape_text(self.shape)}, {place + self._start} channels with the rotation as "
                f"{self._form.value}, expected at least {self._start + self._dim}"
            )
        self.turns, self.wrapped = tuple(turns), tuple(wrapped)
        return scaled

    def _channels(self, part: Part) -> np.ndarray:
        if not part.is_rotation:
            return part.values
        if self._form is Rotation.QUATERNION:
            return _unit_quaternion(part.values)
        return from_matrix(to_matrix(part.values, Rotation.QUATERNION), self._form)

    def _pose_vector(self, parts: Sequence[Part]) -> np.ndarray:
        position, rotation = parts
        if self._pose is not Pose.MATRIX:
            return np.concatenate([position.values, self._channels(rotation)])
        matrix = np.eye(4)
        matrix[:3, :3] = to_matrix(rotation.values, Rotation.QUATERNION)
        matrix[:3, 3] = position.values
        return matrix.reshape(16)


class Blend:
    """Interpolates between two vectors of a key, or of some of its channels.

    `is_step`: the key must not be interpolated.
    """

    def __init__(
        self, key: VectorKey, binding: VectorBinding, turns: tuple[Turn, ...], wrapped: tuple[int, ...] = ()
    ) -> None:
        """Prepare for a key; ValueError when 'wrap' is set for a unit that is not an angle."""
        self.is_step = key.interpolation is Interpolation.STEP
        self.turns = turns  # rotations among the channels, which must then come together
        self._period = full_turn(key.unit) if binding.wrap else 2 * np.pi  # euler angles are always in radians
        turning = {channel for turn in turns for channel in turn.channels}
        round_channels = set(range(key.dim)) - turning if binding.wrap else set(wrapped)
        self._is_round = np.array([channel in round_channels for channel in range(key.dim)])

    def __call__(self, first: np.ndarray, second: np.ndarray, weight: float, group: tuple[int, ...]) -> np.ndarray:
        """Return the value `weight` (0 to 1) of the way from `first` to `second`, `(len(group),)`.

        Args:
            first: values of the channels in `group`.
            second: the same, later.
            weight: 0 gives the first, 1 the second.
            group: places of the values in the key's vector; all of them where the key has a rotation.
        """
        value = first + weight * (second - first)
        is_round = self._is_round[list(group)]
        if is_round.any():
            value = np.where(is_round, _shorter_way(first, second, weight, self._period), value)
        for turn in self.turns:
            places = list(turn.channels)
            value[places] = _turned(first[places], second[places], weight, turn.form)
        return value


def declared_turns(key: VectorKey) -> tuple[Turn, ...]:
    """Return the rotations that a key declares."""
    if key.pose is not None:
        return pose_turns(key.pose)
    if key.rotation is not None:
        return (Turn(tuple(range(key.dim)), key.rotation),)
    if key.interpolation is Interpolation.SLERP and key.dim == WIDTHS[Rotation.QUATERNION]:
        return (Turn((0, 1, 2, 3), Rotation.QUATERNION),)
    return ()


def pose_turns(pose: Pose) -> tuple[Turn, ...]:
    """Return the rotation inside a pose."""
    if pose is Pose.MATRIX:
        return (Turn((0, 1, 2, 4, 5, 6, 8, 9, 10), Rotation.MATRIX),)
    return (Turn(tuple(range(3, pose.dim)), _ROTATION_IN_POSE[pose]),)


def canonical(values: np.ndarray, turns: tuple[Turn, ...]) -> np.ndarray:
    """Normalize the quaternions among `values` and choose their signs; ValueError for what is not a rotation.

    Other forms stay unchanged: angles of a controller are not computed again, which near a right angle would be noise.
    """
    for turn in turns:
        places = list(turn.channels)
        if turn.form is Rotation.QUATERNION:
            values[places] = _unit_quaternion(values[places])
        else:
            convert(values[places], turn.form, Rotation.QUATERNION)
    return values


def signed(quaternion: np.ndarray) -> np.ndarray:
    """Return q or -q (4,): its first component above a quarter is positive."""
    first = next(component for component in quaternion.tolist() if abs(component) > _SIGN_FROM)
    return quaternion if first > 0 else -quaternion


def followed(values: np.ndarray, previous: np.ndarray, turns: tuple[Turn, ...]) -> np.ndarray:
    """Return `values` (D,) with the signs of quaternions that are closest to those of the row before."""
    for turn in turns:
        places = list(turn.channels)
        if turn.form is Rotation.QUATERNION and values[places] @ previous[places] < 0:
            values = values.copy()
            values[places] = -values[places]
    return values


def scaling(key: VectorKey, binding: VectorBinding) -> tuple[float, float]:
    """Return factor and offset from message to embodiment; ValueError when the units do not go together."""
    target = "m" if key.pose is not None else key.unit
    factor = unit_factor(binding.unit, target) if binding.unit else 1.0
    return factor * binding.scale, binding.offset


def shape_text(shape: tuple[int | None, ...]) -> str:
    """Return a shape for people: `3 numbers and a rotation`."""
    return " and ".join("a rotation" if width is ROTATION else f"{width} numbers" for width in shape)


def _unit_quaternion(quaternion: np.ndarray) -> np.ndarray:
    length = math.sqrt(quaternion @ quaternion)
    if not length > 0:
        raise ValueError("a quaternion has no length, expected a rotation")
    return signed(quaternion / length)


def _rotation_form(key: VectorKey, binding: VectorBinding) -> Rotation:
    if key.pose is not None:
        return _ROTATION_IN_POSE.get(key.pose, Rotation.MATRIX)
    return key.rotation or binding.rotation or Rotation.QUATERNION


def _shorter_way(first: np.ndarray, second: np.ndarray, weight: float, period: float) -> np.ndarray:
    """Interpolate angles the short way round; the result is in the range that the two are in (-180..180 or 0..360)."""
    step = second - first
    is_jump = np.abs(step) > period / 2
    value = first + weight * (step - np.where(is_jump, np.round(step / period) * period, 0.0))
    low = np.where(np.minimum(first, second) < 0, -period / 2, 0.0)
    return np.where(is_jump, low + np.mod(value - low, period), value)


def _turned(first: np.ndarray, second: np.ndarray, weight: float, form: Rotation) -> np.ndarray:
    """Turn from one rotation to the other along the shortest way; exact ends are returned unchanged."""
    if weight in (0.0, 1.0) or np.array_equal(first, second):
        return second if weight == 1.0 else first
    a, b = (convert(x, form, Rotation.QUATERNION) for x in (first, second))
    return convert(signed(slerp(a, b, weight)), Rotation.QUATERNION, form)

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""State and action between the robot's units and the model's: rotation form, scaling, order, padding; and back.

Letters in shapes: T rows (time steps), D channels of a key, E channels of a key as the model sees it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gr00t_training.dataset.stats import KeyStatistics
from gr00t_training.embodiment import Normalization, Rotation, VectorKey
from gr00t_training.errors import ConfigError
from gr00t_training.rotations import WIDTHS, convert

# Modes that a prediction cannot be turned back from.
_ONE_WAY = (Normalization.SCALE, Normalization.SIN_COS)
_NEEDS_STATISTICS = (Normalization.MIN_MAX, Normalization.Q99, Normalization.MEAN_STD, Normalization.SCALE)


def normalize(x: np.ndarray, mode: Normalization, statistics: KeyStatistics | None = None) -> np.ndarray:
    """Scale `x` `(..., D)` for the model; the type of `x` is kept and statistics are rounded to it.

    A channel whose range in the statistics is empty becomes 0 (min_max, scale) or stays (mean_std, q99).

    Args:
        x: values in the robot's units.
        mode: formula.
        statistics: needed except for binary and sin_cos.

    Returns:
        `(..., D)`; sin_cos: sines, then cosines, `(..., 2 D)`.
    """
    if mode is Normalization.SIN_COS:
        return np.concatenate([np.sin(x), np.cos(x)], -1)
    if mode is Normalization.BINARY:
        return (x > 0.5).astype(x.dtype)
    if mode is Normalization.SCALE:
        low, high = _rounded(statistics, "min", "max", dtype=x.dtype)
        peak = np.maximum(np.abs(low), np.abs(high))
        return np.where(peak == 0, 0, x / np.where(peak == 0, 1, peak))
    if mode is Normalization.MEAN_STD:
        mean, std = _rounded(statistics, "mean", "std", dtype=x.dtype)
        return np.where(std == 0, x, (x - mean) / np.where(std == 0, 1, std))
    low, high = _bounds(statistics, mode, x.dtype)
    is_flat = low == high
    scaled = 2 * (x - low) / np.where(is_flat, 1, high - low) - 1
    if mode is Normalization.MIN_MAX:
        return np.where(is_flat, 0, scaled)
    return np.clip(np.where(is_flat, x, scaled), -1, 1)


def denormalize(y: np.ndarray, mode: Normalization, statistics: KeyStatistics | None = None) -> np.ndarray:
    """Undo `normalize` for a prediction `y` `(..., D)`.

    Raises:
        ValueError: the mode has no inverse.
    """
    if mode in _ONE_WAY:
        raise ValueError(f"normalization {mode.value} has no inverse")
    if mode is Normalization.BINARY:
        return (y > 0.5).astype(y.dtype)
    if mode is Normalization.MEAN_STD:
        mean, std = _rounded(statistics, "mean", "std", dtype=y.dtype)
        return y * std + mean
    low, high = _bounds(statistics, mode, y.dtype)
    return (y + 1) / 2 * (high - low) + low


@dataclass(frozen=True)
class KeyTransform:
    """One key: rotation form first, then scaling."""

    key: VectorKey
    statistics: KeyStatistics | None  # over the channels that `mode` sees

    @property
    def mode(self) -> Normalization | None:
        """How the values are scaled."""
        return self.key.normalization

    @property
    def dim(self) -> int:
        """Channels as the model sees them."""
        target = _target(self.key)
        dim = WIDTHS[target] if target else self.key.dim
        return 2 * dim if self.mode is Normalization.SIN_COS else dim

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Map `(T, D)` in the robot's units to `(T, E)`."""
        target = _target(self.key)
        if target and self.key.rotation:
            x = convert(x, self.key.rotation, target)
        return x if self.mode is None else normalize(x, self.mode, self.statistics)

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """Map a prediction `(..., E)` to `(..., D)` in the robot's units."""
        x = y if self.mode is None else denormalize(y, self.mode, self.statistics)
        target = _target(self.key)
        return convert(x, target, self.key.rotation) if target and self.key.rotation else x


class VectorTransform:
    """All keys of the state or of the action, joined in order and padded to the model's width."""

    def __init__(
        self,
        kind: str,
        keys: Mapping[str, VectorKey],
        order: Sequence[str],
        statistics: Mapping[str, KeyStatistics],
        width: int,
    ) -> None:
        """Prepare the keys.

        Args:
            kind: "state" or "action".
            keys: of the embodiment.
            order: keys that the model uses, in order of concatenation.
            statistics: per key; keys that need none may lack.
            width: channels of the model.

        Raises:
            ConfigError: a key cannot be scaled as the embodiment says, lacks statistics, or an action is too wide.
        """
        self.kind = kind
        self.width = width
        self.keys = {name: _key_transform(f"{kind}.{name}", keys[name], statistics.get(name)) for name in order}
        self.dim = sum(key.dim for key in self.keys.values())
        if kind == "action":
            for name, key in self.keys.items():
                if key.mode and key.mode in _ONE_WAY:
                    raise ConfigError(f"action.{name}: normalization {key.mode.value} cannot be undone; use min_max")
            if self.dim > width:
                raise ConfigError(f"action: {self.dim} channels, the model has room for {width}; use fewer keys")

    def forward(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Join the keys `{key: (T, D)}` to `(T, dim)`.

        Raises:
            ValueError: a rotation is degenerate; names the key.
        """
        parts = []
        for name, key in self.keys.items():
            try:
                parts.append(key.forward(values[name]))
            except ValueError as error:
                raise ValueError(f"{self.kind}.{name}: {error}") from error
        return np.concatenate(parts, -1)

    def pad(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cut or zero-pad `(T, dim)` to `(T, width)`; the second array `(T, width)` marks the real channels."""
        num = min(x.shape[-1], self.width)
        padded = np.zeros((len(x), self.width), x.dtype)
        mask = np.zeros((len(x), self.width), bool)
        padded[:, :num] = x[:, :num]
        mask[:, :num] = True
        return padded, mask

    def inverse(self, y: np.ndarray) -> dict[str, np.ndarray]:
        """Split a prediction `(..., width)` into keys and return them in the robot's units, `{key: (..., D)}`."""
        values, start = {}, 0
        for name, key in self.keys.items():
            values[name] = key.inverse(y[..., start : start + key.dim])
            start += key.dim
        return values


def _key_transform(subject: str, key: VectorKey, statistics: KeyStatistics | None) -> KeyTransform:
    target = _target(key)
    if key.target_rotation and not key.rotation:
        raise ConfigError(f"{subject}: target_rotation {key.target_rotation.value} needs 'rotation' too")
    if key.rotation and key.dim != WIDTHS[key.rotation]:
        raise ConfigError(
            f"{subject}: {key.dim} channels, a rotation as {key.rotation.value} has {WIDTHS[key.rotation]}"
        )
    if target:
        if key.normalization not in (None, Normalization.MIN_MAX) or (not key.is_absolute and key.normalization):
            raise ConfigError(
                f"{subject}: a converted rotation can only be left as it is or, if absolute, scaled by min_max"
            )
        return KeyTransform(key, _rotation_bounds(subject, target) if key.normalization else None)
    if key.normalization and key.normalization in _NEEDS_STATISTICS:
        if statistics is None:
            raise ConfigError(f"{subject}: normalization {key.normalization.value} needs statistics, there are none")
        if statistics.min.shape != (key.dim,):
            raise ConfigError(f"{subject}: statistics of {statistics.min.shape[0]} channels, the key has {key.dim}")
    return KeyTransform(key, statistics)


def _target(key: VectorKey) -> Rotation | None:
    """Return the form to convert to; None when nothing is converted."""
    return key.target_rotation if key.target_rotation is not key.rotation else None


def _rotation_bounds(subject: str, form: Rotation) -> KeyStatistics:
    """Return the fixed range of a rotation form, which replaces the dataset's."""
    if form is Rotation.MATRIX:
        raise ConfigError(f"{subject}: a rotation as matrix has no fixed range; use rotation_6d")
    bound = 1.0 if form in (Rotation.ROTATION_6D, Rotation.QUATERNION) else math.pi
    high, zero = np.full(WIDTHS[form], bound), np.zeros(WIDTHS[form])
    return KeyStatistics(min=-high, max=high, mean=zero, std=zero, q01=-high, q99=high)


def _bounds(statistics: KeyStatistics | None, mode: Normalization, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    names = ("min", "max") if mode is Normalization.MIN_MAX else ("q01", "q99")
    return _rounded(statistics, *names, dtype=dtype)


def _rounded(
    statistics: KeyStatistics | None, first: str, second: str, *, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    if statistics is None:
        raise ValueError(f"this normalization needs the statistics {first} and {second}")
    return getattr(statistics, first).astype(dtype), getattr(statistics, second).astype(dtype)

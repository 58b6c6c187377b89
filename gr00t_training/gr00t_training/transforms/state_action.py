# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""State and action between the robot's units and the model's: rotation form, scaling, order, padding; and back.

N1 and N1.5 on one side, N1.6 and N1.7 on the other treat values that leave their range differently, and the latter two
count some actions from the robot's state. `Rules` is all that differs; which ones hold is decided once per transform.

Letters in shapes: T rows (time steps), D channels of a key, E channels of a key as the model sees it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gr00t_training.dataset.stats import KeyStatistics
from gr00t_training.embodiment import Normalization, Rotation, VectorKey
from gr00t_training.errors import ConfigError
from gr00t_training.rotations import WIDTHS, convert, to_absolute, to_relative
from gr00t_training.transforms.processor import ProcessorOptions

Scaling = Callable[[np.ndarray, Normalization, KeyStatistics | None], np.ndarray]

# Modes that a prediction cannot be turned back from.
_ONE_WAY = (Normalization.SCALE, Normalization.SIN_COS)
_RANGED = (Normalization.MIN_MAX, Normalization.Q99)
_NEEDS_STATISTICS = (Normalization.MIN_MAX, Normalization.Q99, Normalization.MEAN_STD, Normalization.SCALE)


def normalize(x: np.ndarray, mode: Normalization, statistics: KeyStatistics | None = None) -> np.ndarray:
    """Scale `x` `(..., D)` as N1 and N1.5 do; the type of `x` is kept and statistics are rounded to it.

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


def normalize_n1_6(
    x: np.ndarray,
    mode: Normalization,
    statistics: KeyStatistics | None = None,
    *,
    clipped: tuple[Normalization, ...] = (),
) -> np.ndarray:
    """Scale `x` `(..., D)` as N1.6 and N1.7 do; the type of `x` is kept, statistics are not rounded to it.

    A channel whose range in the statistics is about empty becomes 0; otherwise as `normalize`.

    Args:
        x: values in the robot's units.
        mode: formula.
        statistics: as for `normalize`.
        clipped: modes whose result is cut to [-1, 1].

    Returns:
        `(..., D)`; sin_cos: sines, then cosines, `(..., 2 D)`.
    """
    if mode in _RANGED:
        span = _span(statistics, mode)
        # rounded between the two steps as in the release, so that float32 results are equal to the last bit
        ratio = ((x - span.low) / span.divisor).astype(x.dtype)
        y = np.where(span.is_flat, 0, 2 * ratio - 1)
    elif mode is Normalization.MEAN_STD:
        y = normalize(x.astype(np.float64), mode, statistics).astype(x.dtype)
    else:
        y = normalize(x, mode, statistics)
    return y.clip(-1, 1) if mode in clipped else y


def denormalize_n1_6(y: np.ndarray, mode: Normalization, statistics: KeyStatistics | None = None) -> np.ndarray:
    """Undo `normalize_n1_6` for a prediction `y` `(..., D)`, which min_max and q99 cut to [-1, 1] first.

    Raises:
        ValueError: the mode has no inverse.
    """
    if mode in _RANGED:
        span = _span(statistics, mode)
        return (y.clip(-1, 1) + 1) / 2 * span.width + span.low
    if mode is Normalization.MEAN_STD:
        mean, std = _rounded(statistics, "mean", "std", dtype=np.dtype(np.float64))
        return np.where(std == 0, y, y * std + mean)
    return denormalize(y, mode, statistics)


@dataclass(frozen=True)
class Rules:
    """What the families do differently with the values of a key."""

    normalize: Scaling = normalize
    denormalize: Scaling = denormalize
    dtype: type[np.floating] | None = None  # that values and predictions are rounded to first; None: as they come


N1_RULES = Rules()


@dataclass(frozen=True)
class KeyTransform:
    """One key: values relative to the state or in another rotation form first, then scaling."""

    key: VectorKey
    statistics: KeyStatistics | None  # over the channels that `mode` sees; of relative actions per step
    rules: Rules = N1_RULES

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

    def forward(self, x: np.ndarray, reference: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """Map `(T, D)` in the robot's units to `(T, E)`.

        Args:
            x: values.
            reference: `{state key: (D,)}`, newest row of what relative actions are counted from.

        Raises:
            ValueError: a rotation is degenerate, the reference is missing or of another width, or there are more rows
                than steps in the statistics.
        """
        x = x.astype(self.rules.dtype or x.dtype)
        target = _target(self.key)
        if self.key.relative_to is not None:
            x = to_relative(x, self._origin(reference), self.key.pose)
        elif target and self.key.rotation:
            x = convert(x, self.key.rotation, target)
        return x if self.mode is None else self.rules.normalize(x, self.mode, self._statistics_of(x))

    def inverse(self, y: np.ndarray, reference: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """Map a prediction `(..., E)` to `(..., D)` float64 in the robot's units; see `forward`."""
        y = y.astype(self.rules.dtype or y.dtype)
        x = y if self.mode is None else self.rules.denormalize(y, self.mode, self._statistics_of(y))
        x = x.astype(np.float64)
        target = _target(self.key)
        if self.key.relative_to is not None:
            return to_absolute(x, self._origin(reference), self.key.pose)
        return convert(x, target, self.key.rotation) if target and self.key.rotation else x

    def _origin(self, reference: Mapping[str, np.ndarray] | None) -> np.ndarray:
        name = self.key.relative_to or ""
        if reference is None or name not in reference:
            raise ValueError(f"relative to state.{name}, whose newest row is missing")
        if reference[name].shape != (self.key.dim,):
            raise ValueError(
                f"relative to state.{name}: found shape {reference[name].shape}, expected ({self.key.dim},)"
            )
        return reference[name]

    def _statistics_of(self, x: np.ndarray) -> KeyStatistics | None:
        """Return the statistics of as many steps as `x` has."""
        if self.statistics is None or self.statistics.min.ndim == 1:
            return self.statistics
        num_steps = len(self.statistics.min)
        if x.shape[-2] > num_steps:
            raise ValueError(f"{x.shape[-2]} steps, the statistics of relative actions are of {num_steps}")
        # the whole ones are not copied: `_span` knows statistics by identity
        return self.statistics if x.shape[-2] == num_steps else self.statistics.first_steps(x.shape[-2])


class VectorTransform:
    """All keys of the state or of the action, joined in order and padded to the model's width."""

    def __init__(
        self,
        kind: str,
        keys: Mapping[str, VectorKey],
        order: Sequence[str],
        statistics: Mapping[str, KeyStatistics],
        width: int,
        *,
        options: ProcessorOptions | None = None,
        relative_statistics: Mapping[str, KeyStatistics] | None = None,
        horizon: int | None = None,
        model_horizon: int | None = None,
    ) -> None:
        """Prepare the keys.

        Args:
            kind: "state" or "action".
            keys: of the embodiment.
            order: keys that the model uses, in order of concatenation.
            statistics: per key; keys that need none may lack.
            width: channels of the model.
            options: of an N1.6 or N1.7 checkpoint; None: the rules of N1 and N1.5.
            relative_statistics: per action key with `relative_to`, `(H, D)`, of `horizon` steps or more.
            horizon: rows of an action chunk; None: as many as there are.
            model_horizon: rows that an action chunk is padded to; None: `horizon`.

        Raises:
            ConfigError: a key cannot be scaled as the embodiment says, lacks statistics, or there are more channels or
                rows than the model has room for.
        """
        self.kind = kind
        self.width = width
        self.horizon = horizon
        self.model_horizon = horizon if model_horizon is None else model_horizon
        self.keys: dict[str, KeyTransform] = {}
        rules = _rules(kind, options)
        can_be_relative = kind == "action" and options is not None and options.use_relative_action
        for name in order:
            subject, key = f"{kind}.{name}", keys[name]
            if key.relative_to is None:
                self.keys[name] = _key_transform(subject, key, statistics.get(name), rules)
            elif can_be_relative:
                found = (relative_statistics or {}).get(name)
                self.keys[name] = _relative_transform(subject, key, found, rules, horizon)
            else:
                raise ConfigError(
                    f"{subject}: relative_to is '{key.relative_to}', but only actions are relative, of N1.6 and N1.7 "
                    "checkpoints with use_relative_action; remove relative_to"
                )
        self.dim = sum(key.dim for key in self.keys.values())
        if kind == "action":
            for name, key in self.keys.items():
                if key.mode and key.mode in _ONE_WAY:
                    raise ConfigError(f"action.{name}: normalization {key.mode.value} cannot be undone; use min_max")
        # N1 and N1.5 cut a state that is too wide
        if self.dim > width and (kind == "action" or options is not None):
            raise ConfigError(f"{kind}: {self.dim} channels, the model has room for {width}; use fewer keys")
        if horizon is not None and model_horizon is not None and horizon > model_horizon:
            raise ConfigError(
                f"{kind}: {horizon} steps, the model has room for {model_horizon}; set a shorter action_horizon"
            )

    @property
    def reference_keys(self) -> tuple[str, ...]:
        """State keys that some of the actions are counted from."""
        states = (key.key.relative_to for key in self.keys.values())
        return tuple(dict.fromkeys(state for state in states if state is not None))

    def forward(
        self, values: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray] | None = None
    ) -> np.ndarray:
        """Join the keys `{key: (T, D)}` to `(T, dim)`.

        Args:
            values: in the robot's units.
            reference: newest row `(D,)` of each of `reference_keys`, in the robot's units.

        Raises:
            ValueError: a rotation is degenerate, or a reference is missing; names the key.
        """
        parts = []
        for name, key in self.keys.items():
            try:
                parts.append(key.forward(values[name], reference))
            except ValueError as error:
                raise ValueError(f"{self.kind}.{name}: {error}") from error
        return np.concatenate(parts, -1)

    def pad(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cut or zero-pad `(T, dim)` to `(T, width)` and add rows of zeros up to `model_horizon` if there is one.

        Returns:
            The padded values, and a mask of the same shape that is true for real rows and channels.

        Raises:
            ValueError: more rows than the model has room for.
        """
        num_rows = len(x) if self.model_horizon is None else self.model_horizon
        if len(x) > num_rows:
            raise ValueError(f"{self.kind}: {len(x)} rows, the model has room for {num_rows}")
        num = min(x.shape[-1], self.width)
        padded = np.zeros((num_rows, self.width), x.dtype)
        mask = np.zeros((num_rows, self.width), bool)
        padded[: len(x), :num] = x[:, :num]
        mask[: len(x), :num] = True
        return padded, mask

    def inverse(self, y: np.ndarray, reference: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Split a prediction into keys and return them in the robot's units.

        Args:
            y: `(..., rows, width)`; rows beyond the horizon are dropped.
            reference: as for `forward`.

        Returns:
            `{key: (..., T, D)}` float64.

        Raises:
            ValueError: a rotation is degenerate, or a reference is missing; names the key.
        """
        if self.horizon is not None:
            y = y[..., : self.horizon, :]
        values, start = {}, 0
        for name, key in self.keys.items():
            try:
                values[name] = key.inverse(y[..., start : start + key.dim], reference)
            except ValueError as error:
                raise ValueError(f"{self.kind}.{name}: {error}") from error
            start += key.dim
        return values


def _rules(kind: str, options: ProcessorOptions | None) -> Rules:
    if options is None:
        return N1_RULES
    clipped = (*_RANGED, Normalization.MEAN_STD) if kind == "action" else _RANGED
    scale = functools.partial(normalize_n1_6, clipped=clipped if options.clip_outliers else ())
    return Rules(scale, denormalize_n1_6, np.float32)


def _relative_transform(
    subject: str, key: VectorKey, statistics: KeyStatistics | None, rules: Rules, horizon: int | None
) -> KeyTransform:
    if key.normalization not in (None, Normalization.MIN_MAX, Normalization.MEAN_STD) or key.target_rotation:
        raise ConfigError(
            f"{subject}: an action with relative_to can only be scaled by min_max or mean_std and keeps its rotation "
            "form; change normalization, remove target_rotation"
        )
    if key.normalization is None:
        return KeyTransform(key, None, rules)
    if statistics is None:
        raise ConfigError(f"{subject}: an action with relative_to needs statistics of relative actions, there are none")
    shape = statistics.min.shape
    if len(shape) != 2 or shape[0] < (horizon or 1) or shape[1] != key.dim:
        raise ConfigError(
            f"{subject}: statistics of relative actions of shape {shape}, expected {horizon or 1} steps or more of "
            f"{key.dim} channels; compute them for this action_horizon"
        )
    return KeyTransform(key, statistics, rules)


def _key_transform(subject: str, key: VectorKey, statistics: KeyStatistics | None, rules: Rules) -> KeyTransform:
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
        return KeyTransform(key, _rotation_bounds(subject, target) if key.normalization else None, rules)
    if key.normalization and key.normalization in _NEEDS_STATISTICS:
        if statistics is None:
            raise ConfigError(f"{subject}: normalization {key.normalization.value} needs statistics, there are none")
        if statistics.min.shape != (key.dim,):
            raise ConfigError(f"{subject}: statistics of shape {statistics.min.shape}, expected ({key.dim},)")
    return KeyTransform(key, statistics, rules)


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


@dataclass(frozen=True)
class _Span:
    """A range of values, as N1.6 and N1.7 use it."""

    low: np.ndarray
    width: np.ndarray
    is_flat: np.ndarray  # whether it is about empty
    divisor: np.ndarray  # width, 1 where flat


@functools.lru_cache(maxsize=1024)  # a policy asks for the same few at every call, and they cost more than the scaling
def _span(statistics: KeyStatistics | None, mode: Normalization) -> _Span:
    low, high = _bounds(statistics, mode, np.dtype(np.float64))
    is_flat = np.isclose(low, high)
    return _Span(low, high - low, is_flat, np.where(is_flat, 1, high - low))


def _bounds(statistics: KeyStatistics | None, mode: Normalization, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    names = ("min", "max") if mode is Normalization.MIN_MAX else ("q01", "q99")
    return _rounded(statistics, *names, dtype=dtype)


def _rounded(
    statistics: KeyStatistics | None, first: str, second: str, *, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    if statistics is None:
        raise ValueError(f"this normalization needs the statistics {first} and {second}")
    return getattr(statistics, first).astype(dtype), getattr(statistics, second).astype(dtype)

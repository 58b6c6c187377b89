# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""State and action between the robot's units and the model's: rotation form, scaling, order, padding; and back.

What differs between releases is in `gr00t_training.transforms.scaling.ValueRules`.

Letters in shapes: T rows (time steps), D channels of a key, E channels of a key as the model sees it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gr00t_training.dataset.statistics.compute import STATISTIC_NAMES, KeyStatistics
from gr00t_training.embodiment import MAX_CHANNELS, Normalization, Rotation, VectorKey
from gr00t_training.errors import ConfigError
from gr00t_training.rotations import WIDTHS, convert, to_absolute, to_relative
from gr00t_training.transforms.scaling import NEEDS_STATISTICS, ONE_WAY, PLAIN_VALUES, ValueRules
from gr00t_training.types import KeyKind, KeyRef


@dataclass(frozen=True)
class KeyTransform:
    """One key: values relative to the state or in another rotation form first, then scaling."""

    key: VectorKey
    statistics: KeyStatistics | None  # over the channels that `mode` sees; of relative actions per step
    rules: ValueRules = PLAIN_VALUES

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
            raise ValueError(f"relative to state.{name}, but its newest row is missing")
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
            raise ValueError(f"{x.shape[-2]} steps, the statistics of relative actions have {num_steps}")
        return self.statistics if x.shape[-2] == num_steps else _first_steps(self.statistics, x.shape[-2])

    def joined(self, other: KeyTransform) -> KeyTransform | None:
        """Return the transform of this key's channels followed by another key's; None: they are scaled differently.

        It has equal numbers in fewer calls, which cost more than the arithmetic of a robot's few channels.
        """
        if not (self._is_joinable and other._is_joinable):
            return None
        if self.mode is not other.mode or self.rules != other.rules or self.dim + other.dim > MAX_CHANNELS:
            return None
        statistics = None
        if self.mode in NEEDS_STATISTICS:
            parts = {name: [getattr(key.statistics, name) for key in (self, other)] for name in STATISTIC_NAMES}
            statistics = KeyStatistics(**{name: np.concatenate(pair) for name, pair in parts.items()})
        names = tuple(map(str, range(self.dim + other.dim)))
        return KeyTransform(VectorKey(names=names, normalization=self.mode), statistics, self.rules)

    @property
    def _is_joinable(self) -> bool:
        is_plain = self.key.relative_to is None and _target(self.key) is None
        return is_plain and self.mode is not Normalization.SIN_COS  # whose cosines follow all sines


@functools.lru_cache(maxsize=1024)  # `scaling` knows statistics by identity
def _first_steps(statistics: KeyStatistics, count: int) -> KeyStatistics:
    return statistics.first_steps(count)


@dataclass(frozen=True)
class _Group:
    """Consecutive keys that are scaled by one call."""

    names: tuple[str, ...]
    dims: tuple[int, ...]  # channels of each key
    transform: KeyTransform


class VectorTransform:
    """All keys of the state or of the action, joined in order and padded to the model's width."""

    def __init__(
        self,
        kind: KeyKind,
        keys: Mapping[str, VectorKey],
        order: Sequence[str],
        statistics: Mapping[str, KeyStatistics],
        width: int,
        *,
        rules: ValueRules = PLAIN_VALUES,
        relative_statistics: Mapping[str, KeyStatistics] | None = None,
        horizon: int | None = None,
        model_horizon: int | None = None,
    ) -> None:
        """Prepare the keys.

        Args:
            kind: of all keys, state or action.
            keys: of the embodiment.
            order: keys that the model uses, in order of concatenation.
            statistics: per key; may be missing for keys that need none.
            width: channels of the model.
            rules: of the model, for this kind of values.
            relative_statistics: per action key with `relative_to`, `(H, D)`, of `horizon` steps or more.
            horizon: rows of an action chunk; None: as many as there are.
            model_horizon: rows that an action chunk is padded to; None: `horizon`.

        Raises:
            ConfigError: a key cannot be scaled as the embodiment says, has no statistics, or there are more channels or
                rows than the model has room for.
        """
        self.kind = kind
        self.width = width
        self.horizon = horizon
        self.model_horizon = horizon if model_horizon is None else model_horizon
        self.keys: dict[str, KeyTransform] = {}
        for name in order:
            subject, key = str(KeyRef(kind, name)), keys[name]
            if key.relative_to is None:
                self.keys[name] = _key_transform(subject, key, statistics.get(name), rules)
            elif rules.allows_relative:
                found = (relative_statistics or {}).get(name)
                self.keys[name] = _relative_transform(subject, key, found, rules, horizon)
            else:
                raise ConfigError(
                    f"{subject}: relative_to is '{key.relative_to}', but only actions are relative, of N1.6 and N1.7 "
                    "checkpoints with use_relative_action; remove relative_to"
                )
        self._groups = _grouped(self.keys)
        states = (key.key.relative_to for key in self.keys.values())
        # state keys that some of the actions are counted from
        self.reference_keys = tuple(dict.fromkeys(state for state in states if state is not None))
        self.dim = sum(key.dim for key in self.keys.values())
        if kind is KeyKind.ACTION:
            for name, key in self.keys.items():
                if key.mode and key.mode in ONE_WAY:
                    raise ConfigError(f"action.{name}: normalization {key.mode.value} cannot be undone; use min_max")
        if self.dim > width and not rules.truncates:
            raise ConfigError(f"{kind}: {self.dim} channels, the model has room for {width}; use fewer keys")
        if horizon is not None and model_horizon is not None and horizon > model_horizon:
            raise ConfigError(
                f"{kind}: {horizon} steps, the model has room for {model_horizon}; set a shorter action_horizon"
            )

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
        for group in self._groups:
            found = [values[name] for name in group.names]
            # otherwise one by one: each keeps its type, and an error names its key
            if len(found) > 1 and _can_join(found, group.dims):
                parts.append(group.transform.forward(np.concatenate(found, -1), reference))
            else:
                parts += [self._forward(name, rows, reference) for name, rows in zip(group.names, found, strict=True)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, -1)

    def _forward(self, name: str, rows: np.ndarray, reference: Mapping[str, np.ndarray] | None) -> np.ndarray:
        try:
            return self.keys[name].forward(rows, reference)
        except ValueError as error:
            raise ValueError(f"{KeyRef(self.kind, name)}: {error}") from error

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
        values: dict[str, np.ndarray] = {}
        start = 0
        for group in self._groups:
            end = start + group.transform.dim
            try:
                rows = group.transform.inverse(y[..., start:end], reference)
            except ValueError as error:  # of a group of one: the others raise none
                raise ValueError(f"{KeyRef(self.kind, group.names[0])}: {error}") from error
            start = end
            if len(group.names) == 1:
                values[group.names[0]] = rows
                continue
            place = 0
            for name, dim in zip(group.names, group.dims, strict=True):
                values[name] = rows[..., place : place + dim]
                place += dim
        return values


def _grouped(keys: Mapping[str, KeyTransform]) -> list[_Group]:
    groups: list[_Group] = []
    for name, key in keys.items():
        joined = groups[-1].transform.joined(key) if groups else None
        if joined is None:
            groups.append(_Group((name,), (key.key.dim,), key))
        else:
            groups[-1] = _Group((*groups[-1].names, name), (*groups[-1].dims, key.key.dim), joined)
    return groups


def _can_join(found: Sequence[np.ndarray], dims: Sequence[int]) -> bool:
    first = found[0]
    return all(
        rows.dtype == first.dtype and rows.shape == (*first.shape[:-1], dim)
        for rows, dim in zip(found, dims, strict=True)
    )


def _relative_transform(
    subject: str, key: VectorKey, statistics: KeyStatistics | None, rules: ValueRules, horizon: int | None
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


def _key_transform(subject: str, key: VectorKey, statistics: KeyStatistics | None, rules: ValueRules) -> KeyTransform:
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
    if key.normalization and key.normalization in NEEDS_STATISTICS:
        if statistics is None:
            raise ConfigError(f"{subject}: normalization {key.normalization.value} needs statistics, there are none")
        if statistics.min.shape != (key.dim,):
            raise ConfigError(f"{subject}: statistics of shape {statistics.min.shape}, expected ({key.dim},)")
    return KeyTransform(key, statistics, rules)


def _target(key: VectorKey) -> Rotation | None:
    """Return the form to convert to; None if nothing is converted."""
    return key.target_rotation if key.target_rotation is not key.rotation else None


def _rotation_bounds(subject: str, form: Rotation) -> KeyStatistics:
    """Return the fixed range of a rotation form, which replaces the dataset's."""
    if form is Rotation.MATRIX:
        raise ConfigError(f"{subject}: a rotation as matrix has no fixed range; use rotation_6d")
    bound = 1.0 if form in (Rotation.ROTATION_6D, Rotation.QUATERNION) else math.pi
    high, zero = np.full(WIDTHS[form], bound), np.zeros(WIDTHS[form])
    return KeyStatistics(min=-high, max=high, mean=zero, std=zero, q01=-high, q99=high)

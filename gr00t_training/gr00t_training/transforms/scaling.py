# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Formulas that scale state and action for the model, and back.

Releases differ in what they do with values outside the range of the statistics, and with ranges that are empty.

Letters in shapes: D channels of a key.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gr00t_training.dataset.statistics.compute import KeyStatistics
from gr00t_training.embodiment import Normalization

Scaling = Callable[[np.ndarray, Normalization, KeyStatistics | None], np.ndarray]

ONE_WAY = (Normalization.SCALE, Normalization.SIN_COS)  # a prediction cannot be turned back
RANGED = (Normalization.MIN_MAX, Normalization.Q99)  # scaled by a range
NEEDS_STATISTICS = (*RANGED, Normalization.MEAN_STD, Normalization.SCALE)


def normalize(x: np.ndarray, mode: Normalization, statistics: KeyStatistics | None = None) -> np.ndarray:
    """Scale `x` `(..., D)`; the type of `x` is kept and statistics are rounded to it.

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
    span = _rounded_span(statistics, mode, x.dtype)
    scaled = 2 * (x - span.low) / span.divisor - 1
    if mode is Normalization.MIN_MAX:
        return np.where(span.is_flat, 0, scaled) if span.has_flat else scaled
    return np.clip(np.where(span.is_flat, x, scaled) if span.has_flat else scaled, -1, 1)


def denormalize(y: np.ndarray, mode: Normalization, statistics: KeyStatistics | None = None) -> np.ndarray:
    """Undo `normalize` for a prediction `y` `(..., D)`.

    Raises:
        ValueError: the mode has no inverse.
    """
    if mode in ONE_WAY:
        raise ValueError(f"normalization {mode.value} has no inverse")
    if mode is Normalization.BINARY:
        return (y > 0.5).astype(y.dtype)
    if mode is Normalization.MEAN_STD:
        mean, std = _rounded(statistics, "mean", "std", dtype=y.dtype)
        return y * std + mean
    span = _rounded_span(statistics, mode, y.dtype)
    return (y + 1) / 2 * span.width + span.low


def normalize_bounded(
    x: np.ndarray,
    mode: Normalization,
    statistics: KeyStatistics | None = None,
    *,
    clipped: tuple[Normalization, ...] = (),
) -> np.ndarray:
    """Scale `x` `(..., D)`; the type of `x` is kept, statistics are not rounded to it (N1.6, N1.7).

    A channel whose range in the statistics is about empty becomes 0; otherwise as `normalize`.

    Args:
        x: values in the robot's units.
        mode: formula.
        statistics: as for `normalize`.
        clipped: modes whose result is cut to [-1, 1].

    Returns:
        `(..., D)`; sin_cos: sines, then cosines, `(..., 2 D)`.
    """
    if mode in RANGED:
        span = _span(statistics, mode)
        # rounded between the two steps as in the release, so that float32 results are equal to the last bit
        ratio = ((x - span.low) / span.divisor).astype(x.dtype)
        y = np.where(span.is_flat, 0, 2 * ratio - 1) if span.has_flat else 2 * ratio - 1
    elif mode is Normalization.MEAN_STD:
        y = normalize(x.astype(np.float64), mode, statistics).astype(x.dtype)
    else:
        y = normalize(x, mode, statistics)
    return y.clip(-1, 1) if mode in clipped else y


def denormalize_bounded(y: np.ndarray, mode: Normalization, statistics: KeyStatistics | None = None) -> np.ndarray:
    """Undo `normalize_bounded` for a prediction `y` `(..., D)`, which min_max and q99 cut to [-1, 1] first.

    Raises:
        ValueError: the mode has no inverse.
    """
    if mode in RANGED:
        span = _span(statistics, mode)
        return (y.clip(-1, 1) + 1) / 2 * span.width + span.low
    if mode is Normalization.MEAN_STD:
        mean, std = _rounded(statistics, "mean", "std", dtype=np.dtype(np.float64))
        return np.where(std == 0, y, y * std + mean)
    return denormalize(y, mode, statistics)


@dataclass(frozen=True, kw_only=True)
class ValueRules:
    """How values of the state, or of the action, become the model's channels."""

    normalize: Scaling = normalize
    denormalize: Scaling = denormalize
    dtype: type[np.floating] | None = None  # that values and predictions are rounded to first; None: as they come
    allows_relative: bool = False  # keys may count from the state (`VectorKey.relative_to`)
    truncates: bool = False  # channels beyond the model's are dropped; False: refused


PLAIN_VALUES = ValueRules()


@dataclass(frozen=True)
class _Span:
    """A range of values per channel."""

    low: np.ndarray
    width: np.ndarray
    is_flat: np.ndarray  # whether it is empty
    divisor: np.ndarray  # width, 1 where flat
    has_flat: bool  # whether any is


# A policy asks for the same few at every call, and they cost more than the scaling.
@functools.lru_cache(maxsize=1024)
def _span(statistics: KeyStatistics | None, mode: Normalization) -> _Span:
    low, high = _bounds(statistics, mode, np.dtype(np.float64))
    return _made_span(low, high, np.isclose(low, high))


@functools.lru_cache(maxsize=1024)
def _rounded_span(statistics: KeyStatistics | None, mode: Normalization, dtype: np.dtype) -> _Span:
    low, high = _bounds(statistics, mode, dtype)
    return _made_span(low, high, low == high)


def _made_span(low: np.ndarray, high: np.ndarray, is_flat: np.ndarray) -> _Span:
    return _Span(low, high - low, is_flat, np.where(is_flat, 1, high - low), bool(is_flat.any()))


def _bounds(statistics: KeyStatistics | None, mode: Normalization, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    names = ("min", "max") if mode is Normalization.MIN_MAX else ("q01", "q99")
    return _rounded(statistics, *names, dtype=dtype)


def _rounded(
    statistics: KeyStatistics | None, first: str, second: str, *, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    if statistics is None:
        raise ValueError(f"this normalization needs the statistics {first} and {second}")
    return getattr(statistics, first).astype(dtype), getattr(statistics, second).astype(dtype)

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Running statistics of a dataset: adding an episode costs the same for every size of the dataset.

Mean and deviation are merged (Chan, Golub and LeVeque 1983). Quantiles are exact: the lowest and the highest values of
every channel are kept, more than the 1 % that q01 and q99 need. When a dataset outgrows them, all rows are read again
with longer tails; this happens when the size doubles, so it is cheap on average.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gr00t_training.dataset.statistics.compute import KeyStatistics

# Values kept per channel at each end: enough for 400,000 rows, 2.9 MB for 88 channels.
TAIL = 4096
_LOW, _HIGH = 0.01, 0.99


@dataclass(frozen=True, eq=False)
class RunningStatistics:
    """Statistics of one column over the rows so far; immutable."""

    tail: int
    count: int
    min: np.ndarray  # (D,) float64, as the next three
    max: np.ndarray
    mean: np.ndarray
    squares: np.ndarray  # sum of squared deviations from the mean
    lowest: np.ndarray  # (min(count, tail), D) float32, in no order
    highest: np.ndarray

    @classmethod
    def of_rows(cls, rows: np.ndarray, tail: int = TAIL) -> RunningStatistics:
        """Start with `rows`, `(N,)` or `(N, D)`, N > 0, rounded to float32 first."""
        values = np.asarray(rows, np.float32).reshape(len(rows), -1)
        wide = values.astype(np.float64)
        mean = wide.mean(axis=0)
        return cls(
            tail=tail,
            count=len(values),
            min=wide.min(axis=0),
            max=wide.max(axis=0),
            mean=mean,
            squares=((wide - mean) ** 2).sum(axis=0),
            lowest=_lowest(values, tail),
            highest=_highest(values, tail),
        )

    def joined(self, other: RunningStatistics) -> RunningStatistics:
        """Return the statistics of the rows of both."""
        count = self.count + other.count
        delta = other.mean - self.mean
        return RunningStatistics(
            tail=self.tail,
            count=count,
            min=np.minimum(self.min, other.min),
            max=np.maximum(self.max, other.max),
            mean=self.mean + delta * (other.count / count),
            squares=self.squares + other.squares + delta**2 * (self.count * other.count / count),
            lowest=_lowest(np.concatenate([self.lowest, other.lowest]), self.tail),
            highest=_highest(np.concatenate([self.highest, other.highest]), self.tail),
        )

    @property
    def is_exact(self) -> bool:
        """Whether the tails include the quantiles; else all rows must be read again, with `wanted_tail`."""
        kept = len(self.lowest)
        return kept == self.count or math.floor(_LOW * (self.count - 1)) + 2 <= kept

    def result(self) -> KeyStatistics:
        """Return the exact statistics; requires `is_exact`."""
        assert self.is_exact
        last = self.count - 1
        from_end = len(self.highest) - self.count  # index in the sorted rows -> index in the sorted tail
        return KeyStatistics(
            min=self.min,
            max=self.max,
            mean=self.mean,
            std=np.sqrt(self.squares / self.count),
            q01=_interpolated(self.lowest, _LOW * last, 0),
            q99=_interpolated(self.highest, _HIGH * last, from_end),
        )


def wanted_tail(num_rows: int) -> int:
    """Return a tail length with which a dataset of `num_rows` can double before it is too short."""
    return max(TAIL, math.ceil(2 * _LOW * num_rows) + 2)


def _lowest(values: np.ndarray, count: int) -> np.ndarray:
    return values if len(values) <= count else np.partition(values, count - 1, axis=0)[:count]


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    return values if len(values) <= count else np.partition(values, len(values) - count, axis=0)[-count:]


def _interpolated(values: np.ndarray, position: float, shift: int) -> np.ndarray:
    """Return the value at `position` of the sorted rows, between two of them in proportion, `(D,)` float64."""
    below = math.floor(position)
    share = position - below
    index = below + shift
    ranks = [index, min(index + 1, len(values) - 1)]
    ordered = np.partition(values, ranks, axis=0)
    low, high = (ordered[rank].astype(np.float64) for rank in ranks)
    # start from the nearer value, as numpy's quantile does: equal values stay equal
    return low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)

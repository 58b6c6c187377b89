# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What can be said about success after a number of trials."""

from __future__ import annotations

import math
from typing import NamedTuple

Z_95 = 1.959963984540054  # of a normal distribution, two-sided 95 %


class Interval(NamedTuple):
    """A confidence interval of a share."""

    low: float
    high: float


def wilson(successes: int, trials: int, z: float = Z_95) -> Interval:
    """Return Wilson's score interval of the probability of success; 0 to 1 without a trial.

    Args:
        successes: among the trials.
        trials: independent, each with the same probability.
        z: quantile of the normal distribution; the default gives 95 %.

    Raises:
        ValueError: more successes than trials, or fewer than none.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    if trials == 0:
        return Interval(0.0, 1.0)
    share, spread = successes / trials, z * z / trials
    center = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / trials / 4) / (1 + spread)
    low = 0.0 if successes == 0 else center - half
    return Interval(low, 1.0 if successes == trials else center + half)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: how likely so unequal a split is between equals.

    Args:
        only_first: pairs in which only the first of the two had success.
        only_second: pairs in which only the second had.
    """
    pairs = only_first + only_second
    tail = sum(math.comb(pairs, count) for count in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**pairs)

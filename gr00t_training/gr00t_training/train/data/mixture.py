# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Which source gives each sample of a run, so that the sources' shares follow their weights.

The rule has no random numbers: the draws of a source are spread evenly, and after any number of draws their count is
that of its share within half a draw per source. Sources are split off one after another, so that any draw is found
without those before it.
"""

from __future__ import annotations

import bisect
import itertools
import sys
from collections.abc import Sequence
from fractions import Fraction

import numpy as np


class Mixture:
    """The draws of a run from its sources; draw n is the n-th sample of the run."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float | None] = ()) -> None:
        """Prepare.

        Args:
            sizes: samples of each source.
            weights: of each source, in any unit; None or nothing: its size, so that all samples are as frequent.

        Raises:
            ValueError: a weight is not above zero, or not finite.
        """
        self.sizes = tuple(sizes)
        self.starts = tuple(itertools.accumulate(self.sizes, initial=0))[:-1]  # first sample of each source in the run
        given = [*weights, *[None] * (len(self.sizes) - len(weights))]
        self._weights = [
            Fraction(size) if weight is None else _exact(weight) for size, weight in zip(sizes, given, strict=True)
        ]
        tails = list(itertools.accumulate(reversed(self._weights)))[::-1]  # of each source and those after it
        shares = [weight / tail if tail else Fraction(0) for weight, tail in zip(self._weights, tails, strict=True)]
        self._splits = [(share.numerator, share.denominator) for share in shares]

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of each source in the samples of the run."""
        total = sum(self._weights)
        return tuple(float(weight / total) if total else 0.0 for weight in self._weights)

    def draw(self, number: int) -> tuple[int, int]:
        """Return the source of a draw, and the number of the draw among those of the source."""
        last = len(self._splits) - 1
        for source in range(last):
            before = self._first(source, number)
            if self._first(source, number + 1) > before:
                return source, before
            number -= before
        return last, number

    def counts(self, number: int) -> tuple[int, ...]:
        """Return how many of the first `number` draws are from each source."""
        found = []
        for source in range(len(self._splits) - 1):
            found.append(self._first(source, number))
            number -= found[-1]
        return (*found, number)

    def slots(self, source: int, epoch: int) -> np.ndarray:
        """Return which draws of the run are those of an epoch of a source, `(N,)` int64."""
        size = self.sizes[source]
        if len(self.sizes) == 1:
            return epoch * size + np.arange(size)
        number = bisect.bisect_left(range(sys.maxsize), epoch * size + 1, key=lambda n: self.counts(n)[source]) - 1
        found = []
        while len(found) < size:
            if self.draw(number)[0] == source:
                found.append(number)
            number += 1
        return np.array(found)

    def source_of(self, sample: int) -> int:
        """Return the source of a sample of the run, see `starts`."""
        return bisect.bisect_right(self.starts, sample) - 1

    def _first(self, source: int, number: int) -> int:
        """Return how many of the first `number` draws that earlier sources left are from a source, half rounded up."""
        numerator, denominator = self._splits[source]
        return (2 * number * numerator + denominator) // (2 * denominator)


def _exact(weight: float) -> Fraction:
    try:
        found = Fraction(str(weight))  # as written: 0.1 is a tenth
    except ValueError:
        found = Fraction(0)
    if found <= 0:
        raise ValueError(f"weight is {weight}, expected a number above 0")
    return found

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Times of batches as they were measured, and what follows from them: which size to compute, who will be late."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict, deque
from collections.abc import Hashable, Mapping, Sequence

NUM_TIMES = 9  # newest ones of a size; their median is the estimate
NUM_BUILDS = 2  # first runs of a shape: its programs are built then (`gr00t_training.policy.engine`)
MAX_SHAPES = 256  # counted ones
SMOOTHING = 0.1  # share of the newest value in a running mean


def batch_sizes(max_batch: int) -> tuple[int, ...]:
    """Return the sizes that batches are computed in: powers of two, and the largest one."""
    return (*(1 << i for i in range(max_batch.bit_length()) if 1 << i < max_batch), max_batch)


class Pace:
    """Times of batches by size; written by one thread, read by any."""

    def __init__(self, sizes: Sequence[int]) -> None:
        """Start without knowledge."""
        self.sizes = tuple(sizes)
        self._times_s: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=NUM_TIMES))
        self._estimates_s: dict[int, float] = {}
        self._runs: Counter[Hashable] = Counter()
        self.assembly_s = 0.0  # running mean: to choose a batch, copy its inputs and start it
        self.reply_s = 0.0  # running mean: from the end of a batch until an answer is sent

    def begin_with(self, times_s: Mapping[int, float]) -> None:
        """Take times that were measured before the first request."""
        for size, seconds in times_s.items():
            self._add(size, seconds)

    def add_batch(self, shape: Hashable, size: int, seconds: float) -> None:
        """Add the time of a batch; those in which programs were built do not count."""
        if len(self._runs) > MAX_SHAPES:
            self._runs.clear()
        self._runs[shape, size] += 1
        if self._runs[shape, size] > NUM_BUILDS:
            self._add(size, seconds)

    def add_assembly(self, seconds: float) -> None:
        """Add the time to start a batch."""
        self.assembly_s += SMOOTHING * (seconds - self.assembly_s)

    def add_reply(self, seconds: float) -> None:
        """Add the time from the end of a batch until an answer was sent."""
        self.reply_s += SMOOTHING * (seconds - self.reply_s)

    def seconds(self, size: int) -> float:
        """Return the expected time of a batch: at least that of the largest smaller one; 0 if nothing is known."""
        known = [s for s in tuple(self._estimates_s) if s <= size]
        return max((self._estimates_s[s] for s in known), default=0.0)

    def size_for(self, num_samples: int) -> int:
        """Return the smallest size with room for the samples."""
        return next((size for size in self.sizes if size >= num_samples), num_samples)

    def choose(self, num_samples: Sequence[int], seconds_left: Sequence[float]) -> list[int]:
        """Return which of the requests that wait to compute now: those in time with the most answers per second.

        Args:
            num_samples: of each request that could be computed with the others, in the order in which they are taken.
            seconds_left: until each is late.

        Returns:
            Their places in the order; the first alone if none is in time.
        """
        best, best_rate = [0], 0.0
        for size in self._candidates(sum(num_samples)):
            seconds, chosen, count = self.seconds(size), [], 0
            for i, (number, left_s) in enumerate(zip(num_samples, seconds_left, strict=True)):
                if seconds <= left_s and count + number <= size:
                    chosen.append(i)
                    count += number
            rate = count / max(seconds, 1e-9)
            if chosen and rate >= best_rate:
                best, best_rate = chosen, rate
        return best

    def wait_s(self, num_ahead: int, num_samples: int) -> float:
        """Return the expected time until samples behind `num_ahead` others are answered, once the device is free."""
        largest = self.sizes[-1]
        full, rest = divmod(num_ahead + num_samples, largest)
        return full * self.seconds(largest) + (self.seconds(self.size_for(rest)) if rest else 0.0) + self.reply_s

    def _candidates(self, num_samples: int) -> list[int]:
        room = self.size_for(num_samples)
        return [size for size in self.sizes if size <= room] or [room]

    def _add(self, size: int, seconds: float) -> None:
        self._times_s[size].append(seconds)
        self._estimates_s[size] = statistics.median(self._times_s[size])

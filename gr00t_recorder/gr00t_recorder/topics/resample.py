# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Keep the recent samples of one source in the order of their stamps, and choose the one that belongs to a tick.

The choice depends on stamps only (for `causal`: on receive times), never on the moment of asking: once a tick is
settled, a live stream and a bag give the same answer.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gr00t_recorder.topics.bindings import Align

MAX_SAMPLES = 20_000  # limit for a source with stamps that do not advance; 3 s at 1 kHz are 3000


@dataclass(slots=True)
class Arrival:
    """One message as it came in; shared by the samples of all keys taken from it."""

    stamp_ns: int
    receive_ns: int
    is_used: bool = False
    number: int | None = None  # that the publisher gave it; None: not known


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one source."""

    arrival: Arrival
    value: Any  # (D,) float64, or an image message not decoded yet

    @property
    def stamp_ns(self) -> int:
        """Time of the value."""
        return self.arrival.stamp_ns


class Choice(NamedTuple):
    """What belongs to a tick."""

    value: Any
    age_ns: int  # tick - stamp of the sample, the closer one when two were interpolated; negative: after the tick
    samples: tuple[Sample, ...]  # those that went into the value


def straight(first: np.ndarray, second: np.ndarray, weight: float) -> np.ndarray:
    """Return the value `weight` (0 to 1) of the way between two vectors."""
    return first + weight * (second - first)


class StreamBuffer:
    """Recent samples of one source, ordered by stamp."""

    def __init__(
        self,
        horizon_ns: int,
        *,
        max_gap_ns: int | None = None,
        max_ahead_ns: int | None = None,
        blend: Callable[[np.ndarray, np.ndarray, float], np.ndarray] | None = straight,
    ) -> None:
        """Prepare an empty buffer.

        Args:
            horizon_ns: samples are kept this long before the newest, and always one older than that.
            max_gap_ns: samples further apart are not interpolated; absent: all are.
            max_ahead_ns: most that the first sample of all may be after a tick that `nearest` gives it to; absent: any.
            blend: value between two (first, second, weight of the second), for `linear`; None: the first holds.
        """
        self._horizon_ns = horizon_ns
        self._max_gap_ns = max_gap_ns
        self._max_ahead_ns = max_ahead_ns
        self._blend = blend
        self._stamps: list[int] = []
        self._samples: list[Sample] = []
        self._holes: list[int] = []  # stamps of unusable messages, ordered

    def __len__(self) -> int:
        return len(self._stamps)

    @property
    def newest(self) -> Sample | None:
        """Sample with the latest stamp."""
        return self._samples[-1] if self._samples else None

    @property
    def newest_ns(self) -> int | None:
        """Latest stamp."""
        return self._stamps[-1] if self._stamps else None

    def insert(self, sample: Sample) -> bool:
        """Add a sample wherever its stamp puts it; False when there is one of that stamp already (the first stays)."""
        stamp_ns = sample.stamp_ns
        place = bisect_left(self._stamps, stamp_ns)
        if place < len(self._stamps) and self._stamps[place] == stamp_ns:
            return False
        self._stamps.insert(place, stamp_ns)
        self._samples.insert(place, sample)
        self._forget_old()
        return True

    def remove(self, sample: Sample) -> None:
        """Take out a sample that turned out to be unusable."""
        place = bisect_left(self._stamps, sample.stamp_ns)
        if place < len(self._samples) and self._samples[place] is sample:
            del self._stamps[place], self._samples[place]

    def mark_hole(self, stamp_ns: int) -> None:
        """Note an unusable message: `linear` is not drawn across its stamp."""
        if not self._stamps or stamp_ns >= self._stamps[0]:
            insort(self._holes, stamp_ns)
            del self._holes[: -MAX_SAMPLES or None]

    def clear(self) -> None:
        """Forget everything: the clock was set back."""
        self._stamps.clear()
        self._samples.clear()
        self._holes.clear()

    def first_at_or_after(self, stamp_ns: int) -> Sample | None:
        """Return the earliest sample stamped at or after `stamp_ns`."""
        place = bisect_left(self._stamps, stamp_ns)
        return self._samples[place] if place < len(self._samples) else None

    def last_at_or_before(self, stamp_ns: int) -> Sample | None:
        """Return the latest sample stamped at or before `stamp_ns`."""
        place = bisect_right(self._stamps, stamp_ns)
        return self._samples[place - 1] if place else None

    def is_settled(self, tick_ns: int, align: Align, clock_ns: int) -> bool:
        """Whether samples that arrive in order of their stamps can no longer change the choice for `tick_ns`.

        Args:
            tick_ns: time of the tick.
            align: how the sample is chosen.
            clock_ns: receive time of the newest message of any stream; decides for `causal`.
        """
        if align is Align.CAUSAL:
            return clock_ns > tick_ns
        is_passed = bool(self._stamps) and self._stamps[-1] >= tick_ns
        if align is Align.NEAREST:
            return is_passed
        # a hole at or after the tick: all later samples are beyond it
        return is_passed or (bool(self._stamps and self._holes) and self._holes[-1] >= tick_ns)

    def sample(self, tick_ns: int, align: Align) -> Choice | None:
        """Choose what belongs to `tick_ns`, None if there is no such sample (`bindings.Align` defines each way)."""
        if align is Align.CAUSAL:
            arrived = (sample for sample in reversed(self._samples) if sample.arrival.receive_ns <= tick_ns)
            return _single(next(arrived, None), tick_ns)
        before = self.last_at_or_before(tick_ns)
        if align is Align.HOLD:
            return _single(before, tick_ns)
        after = self.first_at_or_after(tick_ns)
        if before is None or after is None or before is after:
            # nearest and linear alike: only one side is known
            is_near = after is not None and (
                self._max_ahead_ns is None or after.stamp_ns - tick_ns <= self._max_ahead_ns
            )
            return _single(before or (after if align is Align.NEAREST and is_near else None), tick_ns)
        is_before_closer = tick_ns - before.stamp_ns <= after.stamp_ns - tick_ns
        closer = before if is_before_closer else after
        if align is Align.NEAREST:
            return _single(closer, tick_ns)
        if self._blend is None or self._is_broken(before.stamp_ns, after.stamp_ns):
            return _single(before, tick_ns)
        weight = (tick_ns - before.stamp_ns) / (after.stamp_ns - before.stamp_ns)
        value = self._blend(before.value, after.value, weight)
        return Choice(value, tick_ns - closer.stamp_ns, (before, after))

    def _is_broken(self, first_ns: int, second_ns: int) -> bool:
        """Whether two neighbors belong to different stretches: too far apart, or a hole between them."""
        if self._max_gap_ns is not None and second_ns - first_ns > self._max_gap_ns:
            return True
        place = bisect_right(self._holes, first_ns)
        return place < len(self._holes) and self._holes[place] < second_ns

    def _forget_old(self) -> None:
        cut = bisect_right(self._stamps, self._stamps[-1] - self._horizon_ns) - 1
        cut = max(cut, len(self._stamps) - MAX_SAMPLES)
        if cut > 0:
            del self._stamps[:cut], self._samples[:cut]
            del self._holes[: bisect_left(self._holes, self._stamps[0])]


def _single(sample: Sample | None, tick_ns: int) -> Choice | None:
    if sample is None:
        return None
    return Choice(sample.value, tick_ns - sample.stamp_ns, (sample,))

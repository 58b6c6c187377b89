# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""How long each stage takes and how old the inputs are, over the last minute.

Stages of one answer, in their order:

    receive <stream>      stamp of a message to the moment at which the node has received it
    ingest                from there to its place in the node's buffers, all streams: queue, deserialization, numbers
    age <stream>          stamp of the sample used to the moment of its use in an observation
    decode                gates, choice of the samples, images and vectors of the observation
    preprocess            prompt, normalization and layout of the model's inputs
    infer                 the model itself, with the transforms of images that run in parallel; of a server all of its
                          answer
    policy call           preprocess, infer and everything else between request and answer
    publish               answer to published chunk
    query                 decode, policy call and publish: what an answer takes
    observation to chunk  stamp of the observation to the published chunk

and of the control loop:

    tick lateness         a control tick after the time at which it was due
    tick jitter           difference between the time from tick to tick and the control period
    command               control tick to published command

A measurement costs less than a microsecond; quantiles are computed when they are read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

import numpy as np

WINDOW_S = 60.0
MAX_VALUES = 65_536  # a minute at 1 kHz; of what is faster the newest count


class Stage(str, Enum):
    """What is timed once per message, answer or control tick."""

    INGEST = "ingest"
    DECODE = "decode"
    PREPROCESS = "preprocess"
    INFER = "infer"
    POLICY_CALL = "policy call"
    PUBLISH = "publish"
    QUERY = "query"
    OBSERVATION_TO_CHUNK = "observation to chunk"
    TICK_LATENESS = "tick lateness"
    TICK_JITTER = "tick jitter"
    COMMAND = "command"


@dataclass(frozen=True)
class Quantiles:
    """Distribution of one quantity; zeros when nothing was measured."""

    name: str
    count: int = 0
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    worst: float = 0.0


def format_table(found: Iterable[Quantiles], scale: float = 1.0) -> str:
    """Return a table for people, a line for each quantity, its values times `scale`; without those never measured."""
    lines = [f"{'':24}{'count':>8}{'p50':>10}{'p95':>10}{'p99':>10}{'worst':>10}"]
    for each in found:
        values = "".join(f"{scale * value:>10.2f}" for value in (each.p50, each.p95, each.p99, each.worst))
        lines += [f"{each.name:24}{each.count:>8}{values}"] if each.count else []
    return "\n".join(lines)


class RecentValues:
    """What was measured during the last minute. Every method may be called from any thread."""

    def __init__(self, window_s: float = WINDOW_S, size: int = MAX_VALUES) -> None:
        """Keep at most `size` values for `window_s`."""
        self._window_s = window_s
        self._size = size
        self._times, self._values = np.empty(size), np.empty(size)  # memory is taken as it fills
        self._added = 0
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        """Take a measurement."""
        with self._lock:
            place = self._added % self._size
            self._times[place] = time.monotonic()
            self._values[place] = value
            self._added += 1

    def newest(self) -> float:
        """Return the last measurement; zero when there was none."""
        with self._lock:
            return float(self._values[(self._added - 1) % self._size]) if self._added else 0.0

    def quantiles(self, *shares: float) -> list[float]:
        """Return the value at each share (0..1); zeros when nothing was measured."""
        ordered = np.sort(self._recent())
        return [_at(ordered, share) for share in shares] if ordered.size else [0.0] * len(shares)

    def describe(self, name: str, *, small_is_bad: bool = False) -> Quantiles:
        """Return the distribution; where small is bad, p95 is the value that 95 % are above."""
        ordered = np.sort(self._recent())
        if not ordered.size:
            return Quantiles(name)
        shares = (0.5, 0.05, 0.01, 0.0) if small_is_bad else (0.5, 0.95, 0.99, 1.0)
        return Quantiles(name, ordered.size, *(_at(ordered, share) for share in shares))

    def _recent(self) -> np.ndarray:
        with self._lock:
            filled = min(self._added, self._size)
            return self._values[:filled][self._times[:filled] >= time.monotonic() - self._window_s]


def _at(ordered: np.ndarray, share: float) -> float:
    """Return the value at a share (0..1) of ascending values, between two of them if need be.

    As np.quantile does; but a whole sort is several times faster than its partition.
    """
    row, part = divmod(share * (len(ordered) - 1), 1.0)
    low, high = ordered[int(row)], ordered[min(int(row) + 1, len(ordered) - 1)]
    return float(low + part * (high - low))


class StageTimers:
    """The stages of one policy node."""

    def __init__(self, streams: Iterable[str]) -> None:
        """Prepare for the streams of a topic map."""
        names = tuple(streams)
        self._receives = {name: RecentValues() for name in names}
        self._ages = {name: RecentValues() for name in names}
        self._stages = {stage: RecentValues() for stage in Stage}

    def add(self, stage: Stage, duration_s: float) -> None:
        """Take the duration of a stage."""
        self._stages[stage].add(duration_s)

    def add_received(self, stream: str, age_s: float) -> None:
        """Take the age of a message that has just come in."""
        self._receives[stream].add(age_s)

    def add_used(self, stream: str, age_s: float) -> None:
        """Take the age of a sample that an observation uses now."""
        self._ages[stream].add(age_s)

    def newest(self, stage: Stage) -> float:
        """Return the last duration of a stage [s]; zero when there was none."""
        return self._stages[stage].newest()

    def quantiles(self, stage: Stage, *shares: float) -> list[float]:
        """Return the duration of a stage [s] at each share (0..1)."""
        return self._stages[stage].quantiles(*shares)

    def describe(self) -> list[Quantiles]:
        """Return the distributions [s], streams first, each in the order of the topic map."""
        return [
            *(values.describe(f"receive {name}") for name, values in self._receives.items()),
            *(values.describe(f"age {name}") for name, values in self._ages.items()),
            *(values.describe(stage.value) for stage, values in self._stages.items()),
        ]


@dataclass(frozen=True)
class Measurements:
    """What was measured during the last minute."""

    stages: tuple[Quantiles, ...] = ()  # [s]
    jitter: tuple[Quantiles, ...] = ()

    def stage(self, stage: Stage) -> Quantiles:
        """Return the distribution of one stage."""
        return next((found for found in self.stages if found.name == stage.value), Quantiles(stage.value))


class Summarizer:
    """Summarizes measurements repeatedly, in its own thread: it takes long enough to delay a control tick."""

    def __init__(self, measure: Callable[[], Measurements], period_s: float) -> None:
        """Start the thread, which calls `measure` every `period_s`."""
        self.newest = Measurements()
        self._measure = measure
        self._period_s = period_s
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="summary", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._is_closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_closed.wait(self._period_s):
            self.newest = self._measure()


class TickWatch:
    """How late a periodic timer fires.

    Such a timer is due on a fixed grid and skips missed ticks. The callback does not know the offset of the
    grid: it begins at the earliest tick, counted in periods.
    """

    def __init__(self, period_ns: int) -> None:
        """Watch a timer of this period."""
        self._period_ns = period_ns
        self._due_ns: int | None = None
        self._last_ns: int | None = None

    def tick(self, now_ns: int) -> tuple[float, float]:
        """Return how late this tick is and by how much the time since the last one differs from the period [s].

        Args:
            now_ns: clock of the timer; when it is set back, the grid restarts.
        """
        due_ns = now_ns if self._due_ns is None else min(self._due_ns, now_ns)
        last_ns = now_ns - self._period_ns if self._last_ns is None else self._last_ns
        late_ns = now_ns - due_ns
        self._due_ns = due_ns + (late_ns // self._period_ns + 1) * self._period_ns
        self._last_ns = now_ns
        return late_ns / 1e9, abs(now_ns - last_ns - self._period_ns) / 1e9

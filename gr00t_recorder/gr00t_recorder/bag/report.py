# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Results of converting one bag: its episodes, its streams, and what was wrong with them."""

from __future__ import annotations

from dataclasses import dataclass, field

from gr00t_recorder.episodes.run import EpisodeResult
from gr00t_recorder.topics.samples import CLOCK_RESET_NS


@dataclass
class StreamDelays:
    """Delays from stamp to log time of a stream's messages; they show clocks that differ."""

    least_ns: int | None = None
    most_ns: int | None = None
    num_steps: int = 0  # changes by more than a second between two messages
    newest_ns: int | None = None  # stamp
    _last_ns: int | None = None

    def add(self, stamp_ns: int, log_ns: int) -> None:
        """Add a message."""
        delay_ns = log_ns - stamp_ns
        self.least_ns = delay_ns if self.least_ns is None else min(self.least_ns, delay_ns)
        self.most_ns = delay_ns if self.most_ns is None else max(self.most_ns, delay_ns)
        if self._last_ns is not None and abs(delay_ns - self._last_ns) > CLOCK_RESET_NS:
            self.num_steps += 1
        self._last_ns = delay_ns
        self.newest_ns = stamp_ns


@dataclass
class StreamTotals:
    """Counts of a stream over all messages of a bag."""

    topic: str
    received: int
    dropped: int  # duplicate stamps
    invalid: int
    invalid_reason: str
    zero_stamps: int
    clock_resets: int
    clock_steps: int  # changes of the delay between stamp and log time by more than a second
    conflicts: int  # received while two publishers sent the same channels
    conflict_reason: str
    least_delay_s: float | None  # from stamp to log time; None: no stamps
    largest_delay_s: float | None

    def problems(self) -> list[str]:
        """Return what was wrong and how it was handled, one line each."""
        found = []
        if self.zero_stamps:
            found.append(f"{self.zero_stamps} messages without a stamp, log time used")
        if self.dropped:
            found.append(f"{self.dropped} messages with a stamp already received, left out")
        if self.invalid:
            found.append(f"{self.invalid} messages that cannot be used, left out ({self.invalid_reason})")
        if self.conflicts:
            found.append(f"{self.conflicts} messages from two publishers at once: {self.conflict_reason}")
        if self.clock_resets:
            found.append(f"its clock was set back {self.clock_resets} times; an episode ends there")
        elif self.clock_steps:
            found.append(f"its clock jumped {self.clock_steps} times relative to the recorder's")
        return found


@dataclass
class BagReport:
    """Result of converting one bag."""

    bag: str
    episodes: list[EpisodeResult] = field(default_factory=list)  # in order; discarded ones too
    complaints: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # assumptions made
    is_checked: bool = True  # whether checksums cover the messages
    streams: dict[str, StreamTotals] = field(default_factory=dict)
    error: str = ""  # why the bag was refused; nothing of it is in the dataset then

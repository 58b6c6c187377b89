# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Count what each subscribed topic delivers, and judge whether it can be used."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from gr00t_recorder.topics.bindings import StreamConfig
from gr00t_recorder.topics.codecs import age_text

RATE_WINDOW_NS = 2_000_000_000
MAX_COUNTED_IN_WINDOW = 20_000  # 10 kHz; a faster stream's rate is measured over less than the window


class StreamState(str, Enum):
    """How a stream is doing."""

    OK = "ok"
    WAITING = "waiting"  # nothing has arrived yet
    STALE = "stale"  # newest sample is older than max_age_s
    INVALID = "invalid"  # messages arrive but cannot be used


@dataclass(frozen=True)
class StreamReport:
    """Condition and counts of one stream."""

    name: str
    topic: str
    state: StreamState
    reason: str  # why it is not ok; empty otherwise
    rate_hz: float  # over the last two seconds
    age_s: float | None  # since the stamp of the newest usable sample; None: there is none
    max_age_s: float
    received: int
    used: int  # messages that went into a frame
    late: int  # messages that came after a frame of their time had been made
    dropped: int  # messages lost on the way, overflowing a queue, or repeating a stamp
    invalid: int  # messages that could not be used
    zero_stamps: int  # messages without a stamp, taken at their receive time
    clock_resets: int  # jumps back in time, after which the buffers start anew
    invalid_reason: str = ""  # of the newest message that could not be used


@dataclass
class StreamCounter:
    """Running counts of one stream; the owner holds the lock."""

    name: str
    config: StreamConfig
    has_samples: bool  # whether vectors or images are taken from it; texts never get stale
    received: int = 0
    used: int = 0
    late: int = 0
    dropped: int = 0
    invalid: int = 0
    zero_stamps: int = 0
    clock_resets: int = 0
    invalid_reason: str = ""
    is_newest_invalid: bool = False
    newest_stamp_ns: int | None = None  # of usable messages
    _receive_times: deque[int] = field(default_factory=lambda: deque(maxlen=MAX_COUNTED_IN_WINDOW))

    def count_received(self, receive_ns: int) -> None:
        """Count a message."""
        self.received += 1
        if self._receive_times and receive_ns < self._receive_times[-1]:
            self._receive_times.clear()  # the node's clock was set back
        self._receive_times.append(receive_ns)
        self._forget_old(receive_ns)

    def count_invalid(self, reason: str) -> None:
        """Count a message that cannot be used."""
        self.invalid += 1
        self.invalid_reason = reason
        self.is_newest_invalid = True

    def count_valid(self, stamp_ns: int) -> None:
        """Note a message that can be used."""
        self.is_newest_invalid = False
        if self.newest_stamp_ns is None or stamp_ns > self.newest_stamp_ns:
            self.newest_stamp_ns = stamp_ns

    def report(self, now_ns: int, *, unusable: str = "", foreign: str = "") -> StreamReport:
        """Judge the stream at `now_ns`.

        Args:
            now_ns: clock of the receive times.
            unusable: what the messages lack although each is valid.
            foreign: what the newest message carries when a key found nothing in it.
        """
        self._forget_old(now_ns)
        age_ns = None if self.newest_stamp_ns is None else now_ns - self.newest_stamp_ns
        state, reason = self._judge(age_ns, unusable, foreign)
        return StreamReport(
            name=self.name,
            topic=self.config.topic,
            state=state,
            reason=reason,
            rate_hz=self._rate_hz(),
            age_s=None if age_ns is None else age_ns / 1e9,
            max_age_s=self.config.max_age_s,
            received=self.received,
            used=self.used,
            late=self.late,
            dropped=self.dropped,
            invalid=self.invalid,
            zero_stamps=self.zero_stamps,
            clock_resets=self.clock_resets,
            invalid_reason=self.invalid_reason,
        )

    def _judge(self, age_ns: int | None, unusable: str, foreign: str) -> tuple[StreamState, str]:
        max_age_ns = self.config.max_age_s * 1e9
        is_stale = age_ns is None or abs(age_ns) > max_age_ns
        if self.invalid and self.is_newest_invalid and is_stale:
            return StreamState.INVALID, self.invalid_reason
        if self.received and unusable:
            return StreamState.INVALID, unusable
        if age_ns is None:
            return StreamState.WAITING, (self.received and foreign) or f"nothing received on {self.config.topic}"
        if not self.has_samples or not is_stale:
            return StreamState.OK, ""
        if age_ns < 0:
            ahead = f"newest stamp is {age_text(-age_ns)} ahead of this node's clock; check clock synchronisation"
            return StreamState.STALE, ahead
        old = f"newest sample is {age_text(age_ns)} old, allowed are {self.config.max_age_s:g} s"
        return StreamState.STALE, f"{old}; {foreign}" if foreign else old

    def _rate_hz(self) -> float:
        times = self._receive_times
        if len(times) < 2 or times[-1] == times[0]:
            return 0.0
        return (len(times) - 1) * 1e9 / (times[-1] - times[0])

    def _forget_old(self, now_ns: int) -> None:
        while self._receive_times and self._receive_times[0] < now_ns - RATE_WINDOW_NS:
            self._receive_times.popleft()

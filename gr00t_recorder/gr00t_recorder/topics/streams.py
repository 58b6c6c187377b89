# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Count what each subscribed topic delivers, and report whether it can be used."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from gr00t_recorder.topics.bindings import StreamConfig

OTHER_CLOCK_S = 1.0  # computers in one network differ by less, and messages take less
FOREIGN_CLOCK_NS = 60 * 10**9  # no delay and no missing synchronization comes to a minute
MIN_REPEATED = 3
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
    clock_resets: int  # jumps back in time, after which the buffers are cleared
    invalid_reason: str = ""  # of the newest message that could not be used
    repeated: int = 0  # messages with a stamp that came before; counted as dropped too
    delay_s: float | None = None  # from the newest stamp to its arrival; None: stamps are not used, or none came
    conflict: str = ""  # which publishers send the same channels now; empty: none
    conflicts: int = 0  # messages that came while two publishers sent the same channels
    conflict_reason: str = ""  # of the newest such conflict


def clock_faults(reports: Sequence[StreamReport]) -> list[str]:
    """Return which streams have stamps of another clock, or stamps that do not advance, and the remedy."""
    found = []
    known = [report for report in reports if report.delay_s is not None]
    for report in known:
        delay_s = report.delay_s or 0.0
        if report.repeated > max(MIN_REPEATED, report.received // 2):
            found.append(
                f"stamps on {report.topic} do not advance: {report.repeated} of {report.received} messages repeat one; "
                + _remedy(report.name)
            )
        elif abs(delay_s) > OTHER_CLOCK_S and any(
            abs(other.delay_s or 0.0) < abs(delay_s) - OTHER_CLOCK_S for other in known
        ):
            found.append(_other_clock(report.name, report.topic, delay_s))
    return found


def _other_clock(name: str, topic: str, delay_s: float) -> str:
    side = "before" if delay_s > 0 else "after"
    rounded = f"{abs(delay_s):.3g}".replace("e+0", "e").replace("e+", "e")
    return f"stamps on {topic} are {rounded} s {side} the time of their arrival, from another clock; {_remedy(name)}"


def _remedy(name: str) -> str:
    return f"set 'stamp: receive' for stream '{name}' in the topic map, or correct the clock of its driver"


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
    conflicts: int = 0
    conflict_reason: str = ""
    is_newest_invalid: bool = False
    newest_stamp_ns: int | None = None  # of usable messages
    repeated: int = 0
    delay_ns: int | None = None  # from the newest stamp to its arrival
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

    def count_conflict(self, reason: str) -> None:
        """Count a message that came while two publishers sent the same channels, if so."""
        if reason:
            self.conflicts += 1
            self.conflict_reason = reason

    def count_valid(self, stamp_ns: int) -> None:
        """Note a message that can be used."""
        self.is_newest_invalid = False
        if self.newest_stamp_ns is None or stamp_ns > self.newest_stamp_ns:
            self.newest_stamp_ns = stamp_ns

    def report(self, now_ns: int, *, unusable: str = "", unmatched: str = "", conflict: str = "") -> StreamReport:
        """Report the stream at `now_ns`.

        Args:
            now_ns: clock of the receive times.
            unusable: parts missing in the messages although each is valid.
            unmatched: what the newest message carries when a key found nothing in it.
            conflict: which publishers send the same channels.
        """
        self._forget_old(now_ns)
        age_ns = None if self.newest_stamp_ns is None else now_ns - self.newest_stamp_ns
        state, reason = self._state(age_ns, unusable, unmatched)
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
            repeated=self.repeated,
            delay_s=None if self.delay_ns is None else self.delay_ns / 1e9,
            conflict=conflict,
            conflicts=self.conflicts,
            conflict_reason=self.conflict_reason,
        )

    def _state(self, age_ns: int | None, unusable: str, unmatched: str) -> tuple[StreamState, str]:
        max_age_ns = self.config.max_age_s * 1e9
        is_stale = age_ns is None or abs(age_ns) > max_age_ns
        if self.invalid and self.is_newest_invalid and is_stale:
            return StreamState.INVALID, self.invalid_reason
        if self.received and unusable:
            return StreamState.INVALID, unusable
        if age_ns is None:
            return StreamState.WAITING, (self.received and unmatched) or f"nothing received on {self.config.topic}"
        if not self.has_samples or not is_stale:
            return StreamState.OK, ""
        if self._has_other_clock(age_ns):
            return StreamState.STALE, _other_clock(self.name, self.config.topic, (self.delay_ns or 0) / 1e9)
        if age_ns < 0:
            ahead = f"newest stamp is {age_text(-age_ns)} ahead of this node's clock; check clock synchronization"
            return StreamState.STALE, ahead
        old = f"newest sample is {age_text(age_ns)} old (limit {self.config.max_age_s:g} s)"
        return StreamState.STALE, f"{old}; {unmatched}" if unmatched else old

    def _has_other_clock(self, age_ns: int) -> bool:
        """Whether messages come, but with stamps so far from their arrival that only another clock explains it."""
        delay_ns = self.delay_ns or 0
        since_ns = abs(age_ns - delay_ns)  # since the newest stamp's arrival
        return abs(delay_ns) > FOREIGN_CLOCK_NS and since_ns <= self.config.max_age_s * 1e9

    def _rate_hz(self) -> float:
        times = self._receive_times
        if len(times) < 2 or times[-1] == times[0]:
            return 0.0
        return (len(times) - 1) * 1e9 / (times[-1] - times[0])

    def _forget_old(self, now_ns: int) -> None:
        while self._receive_times and self._receive_times[0] < now_ns - RATE_WINDOW_NS:
            self._receive_times.popleft()


def age_text(age_ns: int) -> str:
    """Return an age for messages to people: `0.12 s`."""
    return f"{math.copysign(abs(age_ns) / 1e9, age_ns):.2f} s"

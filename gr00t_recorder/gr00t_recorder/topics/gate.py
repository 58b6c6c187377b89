# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Check at every control tick whether the policy may be called, and give the reason if not.

Stricter than `StreamReport`, which checks topics for recordings: here each key counts, and each of its channels where
several publishers share a topic, and the newest message counts, although an earlier one could still be used. A channel
that a message leaves out may come from another publisher: that is not a fault before it is too old.
"""

from __future__ import annotations

from collections.abc import Sequence

from gr00t_recorder.topics.bindings import TopicMap
from gr00t_recorder.topics.inputs import KeyInput
from gr00t_recorder.topics.streams import StreamState, age_text

Span = tuple[int, int]  # earliest and latest of the stamps of a key's newest samples, channel by channel


class InputGate:
    """Checks the inputs of an observation; the caller holds the lock of their store."""

    def __init__(self, inputs: Sequence[KeyInput], topic_map: TopicMap) -> None:
        """Take the inputs in the order in which faults are reported, and the limits of the topic map."""
        self.inputs = inputs
        self._max_skew_s, self._max_ahead_s = topic_map.max_skew_s, topic_map.max_ahead_s
        self._max_skew_ns, self._max_ahead_ns = round(1e9 * self._max_skew_s), round(1e9 * self._max_ahead_s)

    def fault(self, now_ns: int) -> str:
        """Return why the policy must not be called at `now_ns` of the node's clock, empty if it may."""
        behind: tuple[int, KeyInput] | None = None
        ahead: tuple[int, KeyInput] | None = None
        for entry in self.inputs:
            span = entry.span_ns()
            if span is None or self._is_faulty(entry, span, now_ns):
                state, reason = self._problem(entry, span, now_ns)
                return f"stream '{entry.binding.stream}' ({entry.config.topic}) is {state.value}: {reason}"
            if behind is None or span[0] < behind[0]:
                behind = span[0], entry
            if ahead is None or span[1] > ahead[0]:
                ahead = span[1], entry
        if behind is None or ahead is None or not 0 < self._max_skew_ns < ahead[0] - behind[0]:
            return ""
        return (
            f"{_late_name(behind[1], behind[0])} is {age_text(ahead[0] - behind[0])} behind {ahead[1].name} (limit "
            f"{self._max_skew_s:g} s between two inputs); check clocks and delays of {behind[1].config.topic} and "
            f"{ahead[1].config.topic}, or 'max_skew_s' of the topic map"
        )

    def check(self, entry: KeyInput, now_ns: int) -> tuple[StreamState, str] | None:
        """Return what is wrong with one input, None if nothing is."""
        span = entry.span_ns()
        return self._problem(entry, span, now_ns) if span is None or self._is_faulty(entry, span, now_ns) else None

    def stale(self, entry: KeyInput, now_ns: int) -> tuple[StreamState, str] | None:
        """Return which channels of an input are too old although others are not, None if none is."""
        span = entry.span_ns()
        is_old = span is not None and now_ns - span[0] > entry.max_age_ns
        return self._problem(entry, span, now_ns) if is_old and not entry.fault else None

    def _is_faulty(self, entry: KeyInput, span: Span, now_ns: int) -> bool:
        return (
            bool(entry.fault)
            or entry.watch.is_conflict(now_ns)
            or now_ns - span[0] > entry.max_age_ns
            or span[1] - now_ns > self._max_ahead_ns
        )

    def _problem(self, entry: KeyInput, span: Span | None, now_ns: int) -> tuple[StreamState, str]:
        if entry.fault:
            return StreamState.INVALID, f"{entry.name}: {entry.fault}"
        if conflict := entry.conflict(now_ns):
            return StreamState.INVALID, conflict
        if span is None:
            missing = entry.missing_channels()
            if missing:
                return StreamState.INVALID, f"{entry.name}: {missing}"
            return StreamState.WAITING, f"nothing received on {entry.config.topic}"
        ahead_ns, age_ns = span[1] - now_ns, now_ns - span[0]
        if ahead_ns > self._max_ahead_ns:
            return StreamState.STALE, (
                f"{entry.name}: newest stamp is {age_text(ahead_ns)} ahead of this node's clock (limit "
                f"{self._max_ahead_s:g} s); check clock synchronization"
            )
        name = _late_name(entry, now_ns - entry.max_age_ns - 1)
        old = f"{name}: newest sample is {age_text(age_ns)} old (limit {entry.config.max_age_s:g} s)"
        return StreamState.STALE, f"{old}; {entry.unmatched}" if entry.unmatched else old


def _late_name(entry: KeyInput, stamp_ns: int) -> str:
    """Return the name of an input, with those of its channels that have not come since `stamp_ns` while others have."""
    late = entry.late_channels(stamp_ns)
    return f"{entry.name} ({', '.join(late)})" if late else entry.name

# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Report the condition of every stream, and why an episode cannot start or a policy cannot be called."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gr00t_recorder.topics.bindings import TopicMap
from gr00t_recorder.topics.gate import InputGate
from gr00t_recorder.topics.inputs import KeyInput
from gr00t_recorder.topics.samples import SampleStore
from gr00t_recorder.topics.streams import StreamReport, StreamState


class StreamHealth:
    """Health of the streams of a store. Every method may be called from any thread."""

    def __init__(self, store: SampleStore, observed: Sequence[KeyInput], topic_map: TopicMap) -> None:
        """Report on `store`; `observed` are the inputs of an observation."""
        self._store = store
        self._gate = InputGate(observed, topic_map)

    def reports(self, now_ns: int) -> list[StreamReport]:
        """Return condition and counts of every stream, in the order of the topic map."""
        with self._store.lock:
            return [
                counter.report(
                    now_ns,
                    unusable=next(filter(None, map(_missing_channels, self._store.by_stream[name])), ""),
                    unmatched=next((entry.unmatched for entry in self._store.by_stream[name] if entry.unmatched), ""),
                    conflict=self._store.conflict(name, now_ns),
                )
                for name, counter in self._store.counters.items()
            ]

    def unready(self, now_ns: int) -> list[str]:
        """Return why an episode cannot start: required states, actions, cameras and depth that are not fresh.

        Every channel is checked: where several publishers share a topic, all of them must be active.
        """
        required: dict[str, list[KeyInput]] = {}
        for entry in self._store.inputs.values():
            if entry.binding.required:
                required.setdefault(entry.binding.stream, []).append(entry)
        reasons = []
        for report in (report for report in self.reports(now_ns) if report.name in required):
            state, reason = report.state, report.reason
            if state is StreamState.OK:
                with self._store.lock:
                    late = filter(None, (self._gate.stale(entry, now_ns) for entry in required[report.name]))
                    state, reason = next(late, (state, ""))
            if reason:
                reasons.append(f"stream '{report.name}' ({report.topic}) is {state.value}: {reason}")
        return reasons

    def fault(self, now_ns: int) -> str:
        """Return why the policy must not be called at `now_ns`, empty if it may; fast enough for every control tick.

        Covers the state keys and cameras that are required or that the model uses (`gr00t_recorder.topics.gate`). A
        compressed image that is damaged inside is found when a frame needs it: ask again then.
        """
        with self._store.lock:
            return self._gate.fault(now_ns)

    def has_conflict(self, now_ns: int) -> bool:
        """Whether two publishers send the same channels of an input that `fault` covers."""
        with self._store.lock:
            return any(entry.watch.is_conflict(now_ns) for entry in self._gate.inputs)

    def observed_reports(self, now_ns: int) -> list[StreamReport]:
        """Return the reports of all streams, with the stricter rules of `fault`."""
        reports = {report.name: report for report in self.reports(now_ns)}
        with self._store.lock:
            for entry in self._gate.inputs:
                report, fault = reports[entry.binding.stream], self._gate.check(entry, now_ns)
                if fault and report.state is StreamState.OK:
                    reports[report.name] = dataclasses.replace(report, state=fault[0], reason=fault[1])
        return list(reports.values())


def _missing_channels(entry: KeyInput) -> str:
    missing = entry.missing_channels() if entry.binding.required else ""
    return f"{entry.name}: {missing}" if missing else ""

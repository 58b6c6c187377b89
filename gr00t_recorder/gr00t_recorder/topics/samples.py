# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Store the samples of all streams as their messages arrive, and count what cannot be used.

Messages may come in any order of their stamps; images are stored as they came. `gr00t_recorder.topics.picking` decides
which sample belongs to a tick, `gr00t_recorder.topics.health` whether a stream is healthy.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gr00t_recorder.topics.bindings import Stamp, TopicMap
from gr00t_recorder.topics.codecs import stamp_of
from gr00t_recorder.topics.inputs import KeyInput, VideoInput
from gr00t_recorder.topics.resample import Arrival, Choice, Sample, StreamBuffer
from gr00t_recorder.topics.streams import StreamCounter
from gr00t_training.errors import ObservationError
from gr00t_training.types import KeyKind, KeyRef

CLOCK_RESET_NS = 1_000_000_000  # 1 s: delays reorder by less, restarted simulators jump by more


@dataclass
class _Text:
    newest: str = ""
    num_changes: int = 0


class SampleStore:
    """Recent samples and counts of all streams of a topic map. Every method may be called from any thread."""

    def __init__(self, topic_map: TopicMap, inputs: Mapping[KeyRef, KeyInput]) -> None:
        """Prepare for the streams of `topic_map`."""
        self.inputs = inputs
        self.by_stream = {
            stream: [entry for entry in inputs.values() if entry.binding.stream == stream]
            for stream in topic_map.streams
        }
        self.counters = {
            name: StreamCounter(name, config, has_samples=bool(self.by_stream[name]))
            for name, config in topic_map.streams.items()
        }
        self.lock = threading.Lock()  # of inputs and counters: hold it to read several of them at once
        self.clock_ns = 0  # receive time of the newest message of any stream
        self._texts = {name: _Text() for name in topic_map.streams}
        self._clock_reset = ""  # the newest one
        self._picked_ns: int | None = None  # newest tick picked with actions

    def add(self, stream_name: str, message: Any, receive_ns: int, number: int | None = None) -> None:
        """Store a message of a stream; one that cannot be used is counted with its reason.

        Args:
            stream_name: name under `streams` of the topic map.
            message: deserialized message, from rclpy or a bag.
            receive_ns: arrival on the node's clock, or log time of the bag.
            number: sequence number given by its publisher; None: not known.
        """
        with self.lock:
            counter, inputs = self.counters[stream_name], self.by_stream[stream_name]
            counter.count_received(receive_ns)
            self.clock_ns = receive_ns
            if not inputs:
                self._add_text(counter, message, receive_ns)
                return
            inputs = [entry for entry in inputs if entry.matches(message)]
            if not inputs:
                return
            stamp_ns = _stamp(counter, message, receive_ns)
            if stamp_ns is None:
                return
            if counter.newest_stamp_ns is not None and stamp_ns < counter.newest_stamp_ns - CLOCK_RESET_NS:
                self._reset_clock(counter, inputs, stamp_ns)
            if self._picked_ns is not None and stamp_ns <= self._picked_ns:
                counter.late += 1
            _distribute(counter, inputs, message, Arrival(stamp_ns, receive_ns, number=number))
            counter.count_conflict(self.conflict(stream_name, receive_ns))

    def set_publishers(self, stream_name: str, nodes: Sequence[str]) -> None:
        """Set which nodes publish a stream, one name per publisher: a conflict names them."""
        with self.lock:
            for entry in self.by_stream[stream_name]:
                entry.watch.publishers = tuple(nodes)

    def count_dropped(self, stream_name: str, count: int = 1) -> None:
        """Count messages of a stream that were lost before they got here."""
        with self.lock:
            self.counters[stream_name].dropped += count

    def count_invalid(self, stream_name: str, reason: str, receive_ns: int) -> None:
        """Count a message that could not even be deserialized."""
        with self.lock:
            counter = self.counters[stream_name]
            counter.count_received(receive_ns)
            counter.count_invalid(reason)
            for entry in self.by_stream[stream_name]:
                entry.refuse(reason)

    def first_image(self, camera: str, stamp_ns: int) -> int | None:
        """Return the earliest stamp of a camera at or after `stamp_ns`."""
        with self.lock:
            sample = self._camera(camera).first_at_or_after(stamp_ns)
            return sample.stamp_ns if sample else None

    def last_image(self, camera: str, stamp_ns: int) -> int | None:
        """Return the latest stamp of a camera at or before `stamp_ns`."""
        with self.lock:
            sample = self._camera(camera).last_at_or_before(stamp_ns)
            return sample.stamp_ns if sample else None

    def expected_arrival(self, camera: str, stamp_ns: int) -> int | None:
        """Return the receive time at which a camera's image of `stamp_ns` is due, as its newest image suggests."""
        with self.lock:
            newest = self._camera(camera).newest
            return None if newest is None else newest.arrival.receive_ns + stamp_ns - newest.stamp_ns

    def text(self, stream_name: str) -> str:
        """Return the newest text of a stream, empty if none has come."""
        with self.lock:
            return self._texts[stream_name].newest

    def num_text_changes(self, stream_name: str) -> int:
        """Return how often a stream's text has changed; a repeated text does not count."""
        with self.lock:
            return self._texts[stream_name].num_changes

    def num_clock_resets(self) -> int:
        """Return how often any stream's clock was set back."""
        with self.lock:
            return sum(counter.clock_resets for counter in self.counters.values())

    def clock_reset(self) -> str:
        """Return which stream's clock was set back last, and what to do; empty if none was."""
        with self.lock:
            return self._clock_reset

    def reject_image(self, entry: VideoInput, sample: Sample, reason: str) -> None:
        """Remove an image that proved to be damaged when it was decoded."""
        with self.lock:
            entry.buffer.remove(sample)
            entry.refuse(reason, is_hidden=True)
            self.counters[entry.binding.stream].count_invalid(f"{entry.name}: {reason}")

    # For callers that hold the lock.

    def conflict(self, stream_name: str, now_ns: int) -> str:
        """Return which publishers of a stream send the same channels, empty if none do."""
        return next(filter(None, (entry.conflict(now_ns) for entry in self.by_stream[stream_name])), "")

    def count_used(self, choices: Mapping[KeyRef, Choice]) -> None:
        """Count the messages that went into a frame, each once."""
        for ref, choice in choices.items():
            for sample in choice.samples:
                if not sample.arrival.is_used:
                    sample.arrival.is_used = True
                    self.counters[self.inputs[ref].binding.stream].used += 1

    def close_tick(self, tick_ns: int) -> None:
        """Note that the row of a tick was made: messages up to it that come now are late."""
        self._picked_ns = tick_ns if self._picked_ns is None else max(tick_ns, self._picked_ns)

    def _camera(self, key: str) -> StreamBuffer:
        entry = self.inputs[KeyRef(KeyKind.VIDEO, key)]
        assert isinstance(entry, VideoInput)
        return entry.buffer

    def _add_text(self, counter: StreamCounter, message: Any, receive_ns: int) -> None:
        found, text = getattr(message, "data", None), self._texts[counter.name]
        if not isinstance(found, str):
            counter.count_invalid(f"{counter.config.type} has no text in 'data'; expected std_msgs/msg/String")
            return
        text.num_changes += found != text.newest
        text.newest = found
        counter.used += 1
        counter.count_valid(receive_ns)

    def _reset_clock(self, counter: StreamCounter, inputs: Iterable[KeyInput], stamp_ns: int) -> None:
        step_s = ((counter.newest_stamp_ns or stamp_ns) - stamp_ns) / 1e9
        self._clock_reset = (
            f"stamps on {counter.config.topic} went back by {step_s:.2f} s (a simulator restarted, a recording played "
            f"in a loop, or a clock set); end the episode before, or set 'stamp: receive' for stream '{counter.name}'"
        )
        counter.clock_resets += 1
        counter.newest_stamp_ns = None
        self._picked_ns = None
        for entry in inputs:
            entry.clear()


def _stamp(counter: StreamCounter, message: Any, receive_ns: int) -> int | None:
    """Return the time of a message [ns]; None if it has none, which is counted."""
    if counter.config.stamp is Stamp.RECEIVE:
        return receive_ns
    stamp_ns = stamp_of(message)
    if stamp_ns is None:
        counter.count_invalid(f"{counter.config.type} has no header; set 'stamp: receive' in the topic map")
    elif stamp_ns == 0:
        counter.zero_stamps += 1
        return receive_ns
    else:
        counter.delay_ns = receive_ns - stamp_ns
    return stamp_ns


def _distribute(counter: StreamCounter, inputs: Iterable[KeyInput], message: Any, arrival: Arrival) -> None:
    """Offer a message to every key of its stream."""
    results, reason = [], ""
    for entry in inputs:
        try:
            results.append(entry.add(message, arrival))
        except ObservationError as error:
            reason = reason or f"{entry.name}: {error}"
    if reason:
        counter.count_invalid(reason)
    elif any(results):
        counter.count_valid(arrival.stamp_ns)
    elif False in results:
        counter.dropped += 1  # a stamp seen before
        counter.repeated += 1
